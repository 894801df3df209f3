//! Removes expired flows, once a second, by running the program that knows the lifetimes.
//!
//! The program gets a frame of 64 bytes, returns how many entries it has deleted, and writes into the frame how
//! many it has left: entries of `flows4` at byte 16, of `flows6` at byte 20, each a `u32` in the host's order.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::MissedTickBehavior};

use crate::load::Sweeper;

/// How often expired flows are removed.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Where the program writes how many entries are left, per family.
const ENTRIES_AT: [usize; 2] = [16, 20];

/// What the last runs have found.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Swept {
    /// Runs so far.
    pub runs: u64,
    /// Runs that the kernel refused.
    pub failures: u64,
    /// Entries deleted by all runs.
    pub deleted: u64,
    /// Entries left in the flow tables, IPv4 and IPv6; `None` if the program does not say.
    pub entries: [Option<u32>; 2],
}

impl Swept {
    /// Takes one run's findings in.
    fn add(&mut self, deleted: u32, frame: &[u8; 64]) {
        self.runs += 1;
        self.deleted += u64::from(deleted);
        self.entries = ENTRIES_AT.map(|at| {
            let bytes = frame[at..at + 4].try_into().expect("four bytes inside the frame");
            Some(u32::from_ne_bytes(bytes)).filter(|entries| *entries != u32::MAX)
        });
    }
}

/// Sweeps every `interval` until nobody listens any more.
pub fn run(sweeper: Sweeper, interval: Duration) -> watch::Receiver<Swept> {
    let (sender, receiver) = watch::channel(Swept::default());
    let sweeper = Arc::new(sweeper);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = sender.closed() => return,
            }
            let program = Arc::clone(&sweeper);
            // A full table takes tens of milliseconds.
            let swept = tokio::task::spawn_blocking(move || {
                let mut frame = empty_frame();
                (program.run(&mut frame), frame)
            });
            match swept.await {
                Ok((Ok(deleted), frame)) => sender.send_modify(|swept| swept.add(deleted, &frame)),
                Ok((Err(error), _)) => {
                    sender.send_modify(|swept| swept.failures += 1);
                    tracing::warn!(%error, program = "sweep", "cannot remove expired flows");
                }
                Err(_) => return,
            }
        }
    });
    receiver
}

/// All bits set where the program writes: what it leaves alone is told from a count.
const fn empty_frame() -> [u8; 64] {
    let mut frame = [0; 64];
    let mut at = ENTRIES_AT[0];
    while at < ENTRIES_AT[1] + 4 {
        frame[at] = 0xff;
        at += 1;
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_where_the_program_writes_them() {
        let mut swept = Swept::default();
        let mut frame = empty_frame();
        swept.add(3, &frame);
        assert_eq!(
            swept,
            Swept {
                runs: 1,
                deleted: 3,
                ..Swept::default()
            }
        );
        frame[16..20].copy_from_slice(&7_u32.to_ne_bytes());
        frame[20..24].copy_from_slice(&0_u32.to_ne_bytes());
        swept.add(4, &frame);
        assert_eq!(
            swept,
            Swept {
                runs: 2,
                failures: 0,
                deleted: 7,
                entries: [Some(7), Some(0)]
            }
        );
    }
}
