//! Removes expired flows, once a second, by running the program that knows the lifetimes.
//!
//! The program gets a frame and writes into it, behind the link header, four words in the machine's order: entries
//! and removed entries of `flows4`, then of `flows6`.

use std::{fmt::Display, sync::Arc, time::Duration};

use tokio::{sync::watch, time::MissedTickBehavior};

/// How often expired flows are removed.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Length of the frame that the program is run on.
pub const FRAME: usize = 64;

/// Where the program writes.
const WORDS_AT: usize = lb_common::net::ETHERNET;

/// What the last runs have found.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Swept {
    /// Runs so far.
    pub runs: u64,
    /// Runs that the kernel refused.
    pub failures: u64,
    /// Entries removed by all runs, IPv4 and IPv6.
    pub removed: [u64; 2],
    /// Entries left in the flow tables, IPv4 and IPv6.
    pub entries: [u32; 2],
}

impl Swept {
    /// Takes one run's findings in.
    fn add(&mut self, frame: &[u8; FRAME]) {
        let word = |position: usize| {
            let at = WORDS_AT + 4 * position;
            u32::from_ne_bytes(frame[at..at + 4].try_into().expect("four bytes inside the frame"))
        };
        self.runs += 1;
        for family in 0..2 {
            let (visited, removed) = (word(2 * family), word(2 * family + 1));
            self.entries[family] = visited.saturating_sub(removed);
            self.removed[family] += u64::from(removed);
        }
    }
}

/// Sweeps every `interval` until nobody listens any more. `sweep` runs the program once, on the frame it is given.
pub fn run<E: Display + Send + 'static>(
    sweep: impl Fn(&mut [u8; FRAME]) -> Result<(), E> + Send + Sync + 'static,
    interval: Duration,
) -> watch::Receiver<Swept> {
    let (sender, receiver) = watch::channel(Swept::default());
    let sweep = Arc::new(sweep);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = sender.closed() => return,
            }
            let sweep = Arc::clone(&sweep);
            // A full table takes tens of milliseconds.
            let swept = tokio::task::spawn_blocking(move || {
                let mut frame = [0; FRAME];
                sweep(&mut frame).map(|()| frame)
            });
            match swept.await {
                Ok(Ok(frame)) => sender.send_modify(|swept| swept.add(&frame)),
                Ok(Err(error)) => {
                    sender.send_modify(|swept| swept.failures += 1);
                    tracing::warn!(%error, program = "sweep", "cannot remove expired flows");
                }
                Err(_) => return,
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_where_the_program_writes_them() {
        let frame = |words: [u32; 4]| {
            let mut frame = [0; FRAME];
            for (position, word) in words.into_iter().enumerate() {
                frame[14 + 4 * position..][..4].copy_from_slice(&word.to_ne_bytes());
            }
            frame
        };
        let mut swept = Swept::default();
        swept.add(&frame([10, 3, 5, 0]));
        assert_eq!(
            swept,
            Swept {
                runs: 1,
                failures: 0,
                removed: [3, 0],
                entries: [7, 5]
            }
        );
        swept.add(&frame([7, 7, 6, 1]));
        assert_eq!(
            swept,
            Swept {
                runs: 2,
                failures: 0,
                removed: [10, 1],
                entries: [0, 5]
            }
        );
    }
}
