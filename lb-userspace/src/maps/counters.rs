//! What the programs count, read from the pinned map: works with and without an agent.

use std::path::Path;

use aya::maps::{Map, MapData, MapError, PerCpuArray};
use lb_common::abi::{Counter, Event, Hook, Kind, Outcome};
use thiserror::Error;

/// The counters cannot be read.
#[derive(Debug, Error)]
#[error(
    "cannot read the counters at {path}: {source}; are programs of this instance attached, and are you root?"
)]
pub struct CountersError {
    /// The pin.
    path: String,
    /// What the kernel said.
    source: MapError,
}

/// All counters, summed over the CPUs.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// What became of packets, hook by hook; outcomes that never occurred are left out.
    pub outcomes: Vec<(Hook, Outcome, Counter)>,
    /// What happened to the flow tables.
    pub events: Vec<(Event, u64)>,
}

/// What one hook has seen. Every packet has one outcome, so the parts add up to what was received; one that is seen again
/// (a fragment that was kept, the pieces of a packet that was too large) is received again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sum {
    /// The hook.
    pub hook: Hook,
    /// All of it.
    pub received: Counter,
    /// By what it meant for the packet.
    pub parts: [(Kind, Counter); 4],
}

impl Counters {
    /// What each hook has seen, in their order; those that have seen nothing are left out.
    #[must_use]
    pub fn sums(&self) -> Vec<Sum> {
        let add = |sum: Counter, more: &Counter| Counter {
            packets: sum.packets + more.packets,
            bytes: sum.bytes + more.bytes,
        };
        let kinds = [Kind::Forwarded, Kind::Passed, Kind::Rejected, Kind::Dropped];
        let sum = |hook: &Hook| {
            let of_hook: Vec<_> = (self.outcomes.iter()).filter(|(of, _, _)| of == hook).collect();
            let parts = kinds.map(|kind| {
                let of_kind = of_hook.iter().filter(|(_, outcome, _)| outcome.kind() == kind);
                let counters = of_kind.map(|(_, _, counter)| counter);
                (kind, counters.fold(Counter::default(), add))
            });
            (!of_hook.is_empty()).then(|| Sum {
                hook: *hook,
                received: parts
                    .iter()
                    .map(|(_, counter)| counter)
                    .fold(Counter::default(), add),
                parts,
            })
        };
        Hook::ALL.iter().filter_map(sum).collect()
    }

    /// Reads the map pinned at `path`. Not at one instant: packets in between are seen in part.
    ///
    /// # Errors
    /// If there is no such pin, or it cannot be read.
    pub fn read(path: &Path) -> Result<Self, CountersError> {
        let failed = |source| CountersError {
            path: path.display().to_string(),
            source,
        };
        let data = MapData::from_pin(path).map_err(failed)?;
        let map: PerCpuArray<_, Counter> = Map::PerCpuArray(data).try_into().map_err(failed)?;
        let sum = |index: u32| -> Result<Counter, CountersError> {
            let values = map.get(&index, 0).map_err(failed)?;
            Ok(values.iter().fold(Counter::default(), |sum, cpu| Counter {
                packets: sum.packets + cpu.packets,
                bytes: sum.bytes + cpu.bytes,
            }))
        };
        let mut counters = Self::default();
        for hook in Hook::ALL {
            for outcome in Outcome::ALL {
                let counter = sum(outcome.index(*hook))?;
                if counter != Counter::default() {
                    counters.outcomes.push((*hook, *outcome, counter));
                }
            }
        }
        for event in Event::ALL {
            counters.events.push((*event, sum(event.index())?.packets));
        }
        Ok(counters)
    }
}
