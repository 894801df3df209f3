//! When to write: soon after a single change, together after a burst, later and later after failures.

use std::time::{Duration, Instant};

/// What comes in this soon after a change is written with it.
const GATHER: Duration = Duration::from_millis(2);

/// Time between the end of a round and the next one, when changes keep coming.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(25);

/// Wait after the first failure; doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(20);

/// Longest wait after a failure.
const LAST_RETRY: Duration = Duration::from_secs(5);

/// The times of rounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    next_round: Instant,
    retry: Option<Instant>,
    wait: Duration,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next_round: now,
            retry: None,
            wait: FIRST_RETRY,
        }
    }

    /// Until when changes are gathered, the first one having come in `now`.
    pub(super) fn gather_until(&self, now: Instant) -> Instant {
        self.next_round.max(now + GATHER)
    }

    /// When to try again.
    pub(super) fn retry(&self) -> Option<Instant> {
        self.retry
    }

    /// A round has written everything.
    pub(super) fn succeeded(&mut self, now: Instant) {
        *self = Self {
            next_round: now + BETWEEN_ROUNDS,
            retry: None,
            wait: FIRST_RETRY,
        };
    }

    /// A round has left something; returns the wait until the next attempt.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let wait = self.wait;
        *self = Self {
            next_round: now + BETWEEN_ROUNDS,
            retry: Some(now + wait),
            wait: (wait * 2).min(LAST_RETRY),
        };
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_change_waits_for_milliseconds_and_a_burst_for_its_end() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.gather_until(start), start + GATHER);
        pace.succeeded(start);
        assert_eq!(pace.gather_until(start), start + BETWEEN_ROUNDS);
        let later = start + Duration::from_secs(1);
        assert_eq!(pace.gather_until(later), later + GATHER);
    }

    #[test]
    fn waits_grow_to_a_limit_and_end_with_success() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let waits: Vec<_> = (0..10).map(|_| pace.failed(start)).collect();
        assert!(
            waits.is_sorted() && waits[1] == waits[0] * 2 && waits[9] == LAST_RETRY,
            "{waits:?}"
        );
        assert_eq!(pace.retry(), Some(start + LAST_RETRY));
        pace.succeeded(start);
        assert_eq!(pace.retry(), None);
        assert_eq!(pace.failed(start), FIRST_RETRY);
    }
}
