//! The flow tables, as far as the agent itself removes from them. (Idle flows are removed by program `sweep`.)

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError},
};
use lb_common::abi::{Family, Flow, Tuple, V4, V6, names};

/// Removes both halves of every flow that `stale` says so of, in both families; gives how many of each. `stale` gets the
/// forward half: the client's tuple, and what it becomes. `pin` gives the path of a map's pin.
///
/// # Errors
/// If a table cannot be opened or read.
pub fn remove(
    pin: impl Fn(&str) -> PathBuf,
    mut stale: impl FnMut(&Forward) -> bool,
) -> Result<[Removed; 2], MapError> {
    Ok([
        remove_of::<V4>(pin(names::FLOWS[V4::INDEX]), &mut stale)?,
        remove_of::<V6>(pin(names::FLOWS[V6::INDEX]), &mut stale)?,
    ])
}

/// What a walk of one table has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removed {
    /// Flows that are gone.
    pub flows: usize,
    /// How long it took.
    pub took: Duration,
}

/// A flow as its client sees it, and where it leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forward {
    /// IANA number of the protocol.
    pub protocol: u8,
    /// What the client sends to.
    pub frontend: (std::net::IpAddr, u16),
    /// Who gets it.
    pub backend: (std::net::IpAddr, u16),
}

fn remove_of<F: Family>(pin: PathBuf, stale: &mut impl FnMut(&Forward) -> bool) -> Result<Removed, MapError>
where
    Tuple<F::Addr>: Pod,
    Flow<F::Addr>: Pod,
{
    let began = Instant::now();
    let data = MapData::from_pin(pin)?;
    let mut flows = Map::HashMap(data).try_into()?;
    Ok(Removed {
        flows: remove_from::<F>(&mut flows, stale),
        took: began.elapsed(),
    })
}

/// As [`remove`], from one table.
pub fn remove_from<F: Family>(
    flows: &mut HashMap<MapData, Tuple<F::Addr>, Flow<F::Addr>>,
    mut stale: impl FnMut(&Forward) -> bool,
) -> usize
where
    Tuple<F::Addr>: Pod,
    Flow<F::Addr>: Pod,
{
    // Entries come and go while this reads: one that is gone is none of ours, one that is new is not stale.
    let found: Vec<_> = flows
        .iter()
        .flatten()
        .filter(|(key, flow)| {
            // The second translation of a flow that goes back to its client is behind the routing decision.
            flow.flags & Flow::<F::Addr>::REVERSE == 0
                && key.phase == 0
                && stale(&Forward {
                    protocol: key.protocol,
                    frontend: (key.destination.into(), key.destination_port),
                    backend: (flow.to.destination.into(), flow.to.destination_port),
                })
        })
        .collect();
    for (key, flow) in &found {
        // Absent is as good as removed.
        let _ = flows.remove(key);
        let _ = flows.remove(&flow.to.reverse());
    }
    found.len()
}
