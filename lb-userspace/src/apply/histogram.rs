//! Durations, counted by how long they were.

use std::time::Duration;

/// Counts of durations up to given bounds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    bounds: &'static [Duration],
    /// One for each bound, and one for what is longer than all of them.
    counts: Vec<u64>,
    sum: Duration,
}

impl Histogram {
    /// Without a duration yet. The bounds rise.
    #[must_use]
    pub fn new(bounds: &'static [Duration]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: Duration::ZERO,
        }
    }

    /// Counts a duration. One that is as long as a bound is within it.
    pub fn observe(&mut self, duration: Duration) {
        let place = self.bounds.partition_point(|bound| *bound < duration);
        self.counts[place] += 1;
        self.sum += duration;
    }

    /// These durations and those of another with the same bounds.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let counts = self.counts.iter().zip(&other.counts);
        Self {
            bounds: self.bounds,
            counts: counts.map(|(one, two)| one + two).collect(),
            sum: self.sum + other.sum,
        }
    }

    /// For each bound: how many durations were within it.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let sums = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        self.bounds.iter().copied().zip(sums)
    }

    /// How many durations there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All durations together.
    #[must_use]
    pub const fn sum(&self) -> Duration {
        self.sum
    }
}

/// How long a round of writing takes: 1 ms to 16 s, each bound twice the one before. kube-proxy's bounds.
pub const ROUNDS: &[Duration] = &doubled::<15>(1);

/// How long a change of an endpoint takes until it is live: kube-proxy's bounds, which its service level
/// objective is measured by.
pub(super) const PROGRAMMING: &[Duration] = &programming();

const fn doubled<const N: usize>(first_ms: u64) -> [Duration; N] {
    let mut bounds = [Duration::ZERO; N];
    let mut position = 0;
    while position < N {
        bounds[position] = Duration::from_millis(first_ms << position);
        position += 1;
    }
    bounds
}

/// 0.25, 0.5; 1 to 59 by 1; 60 to 115 by 5; 120 to 300 by 30 seconds.
const fn programming() -> [Duration; 2 + 59 + 12 + 7] {
    let mut bounds = [Duration::ZERO; 2 + 59 + 12 + 7];
    bounds[0] = Duration::from_millis(250);
    bounds[1] = Duration::from_millis(500);
    let mut position = 2;
    let mut seconds = 1;
    while position < bounds.len() {
        bounds[position] = Duration::from_secs(seconds);
        position += 1;
        seconds += match seconds {
            ..60 => 1,
            60..120 => 5,
            _ => 30,
        };
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_within_every_bound_that_is_not_shorter() {
        let mut histogram = Histogram::new(&ROUNDS[..3]);
        for ms in [0, 1, 2, 3, 4, 5, 500] {
            histogram.observe(Duration::from_millis(ms));
        }
        let ms = |(bound, count): (Duration, u64)| (bound.as_millis(), count);
        let counts: Vec<_> = histogram.cumulative().map(ms).collect();
        assert_eq!(counts, [(1, 2), (2, 3), (4, 5)]);
        assert_eq!(
            (histogram.count(), histogram.sum()),
            (7, Duration::from_millis(515))
        );
        let twice = histogram.with(&histogram);
        assert_eq!((twice.count(), twice.sum()), (14, Duration::from_millis(1030)));
        assert_eq!(
            twice.cumulative().map(ms).collect::<Vec<_>>(),
            [(1, 4), (2, 6), (4, 10)]
        );
    }

    #[test]
    fn bounds_are_those_of_kube_proxy() {
        assert_eq!(ROUNDS.last(), Some(&Duration::from_millis(16_384)));
        assert!(PROGRAMMING.is_sorted());
        let seconds: Vec<_> = PROGRAMMING.iter().map(Duration::as_secs_f64).collect();
        assert_eq!(seconds[..4], [0.25, 0.5, 1.0, 2.0]);
        assert_eq!(seconds[58..64], [57.0, 58.0, 59.0, 60.0, 65.0, 70.0]);
        assert_eq!(
            seconds[70..],
            [
                105.0, 110.0, 115.0, 120.0, 150.0, 180.0, 210.0, 240.0, 270.0, 300.0
            ]
        );
    }
}
