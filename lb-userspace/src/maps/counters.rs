//! What the programs count, read from the pinned map: works with and without an agent.

use std::path::Path;

use aya::maps::{Map, MapData, MapError, PerCpuArray};
use lb_common::abi::{Counter, Event, Hook, Outcome};
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

impl Counters {
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
