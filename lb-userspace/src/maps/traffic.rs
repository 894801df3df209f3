//! What the programs count for each Service, read from the pinned maps: works with and without an agent.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use aya::{
    Pod,
    maps::{Map, MapData, MapError as AyaError, PerCpuHashMap},
};
use lb_common::abi::{Counter, Family, Leg, Outcome, TrafficKey, V4, V6, names};

use super::{MapError, bpf::failed};

/// Packets, or connections, that have something in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// What clients send to.
    pub frontend: SocketAddr,
    /// Who answers; `None`: nobody was chosen.
    pub backend: Option<SocketAddr>,
    /// IANA number of the protocol.
    pub protocol: u8,
    /// Which part of an exchange it is.
    pub leg: Leg,
    /// What became of it.
    pub outcome: Outcome,
    /// How many, summed over the CPUs.
    pub counter: Counter,
}

/// All of it, in both families; `None`: Services are not counted. `pin` gives the path of a map's pin. Not at one instant:
/// packets in between are seen in part.
///
/// # Errors
/// If a map is not there or cannot be read.
pub fn read(pin: impl Fn(&str) -> PathBuf) -> Result<Option<Vec<Traffic>>, MapError> {
    let (Some(mut all), Some(six)) = (read_of::<V4>(&pin)?, read_of::<V6>(&pin)?) else {
        return Ok(None);
    };
    all.extend(six);
    Ok(Some(all))
}

fn read_of<F: Family>(pin: &impl Fn(&str) -> PathBuf) -> Result<Option<Vec<Traffic>>, MapError>
where
    TrafficKey<F::Addr>: Pod,
{
    let name = names::TRAFFIC[F::INDEX];
    let failed = |error| failed(name, "read", error);
    let data = MapData::from_pin(pin(name)).map_err(failed)?;
    // There is no room where nothing is counted.
    if data.info().map_err(failed)?.max_entries() <= 1 {
        return Ok(None);
    }
    let map = Map::from_map_data(data).map_err(failed)?;
    let map: PerCpuHashMap<_, TrafficKey<F::Addr>, Counter> = map.try_into().map_err(failed)?;
    let mut all = Vec::new();
    for key in map.keys() {
        let key = key.map_err(failed)?;
        match map.get(&key, 0) {
            Ok(values) => all.extend(traffic::<F>(&key, sum(values.iter()))),
            Err(AyaError::KeyNotFound) => {} // it has made way for another
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(Some(all))
}

/// An entry; `None`: it is none that this version makes.
fn traffic<F: Family>(key: &TrafficKey<F::Addr>, counter: Counter) -> Option<Traffic> {
    let place = |address: F::Addr, port| SocketAddr::new(Into::<IpAddr>::into(address), port);
    Some(Traffic {
        frontend: place(key.frontend, key.frontend_port),
        backend: (key.backend_port != 0).then(|| place(key.backend, key.backend_port)),
        protocol: key.protocol,
        leg: Leg::from_number(key.leg)?,
        outcome: Outcome::from_number(key.outcome.into())?,
        counter,
    })
}

fn sum<'a>(of_cpus: impl Iterator<Item = &'a Counter>) -> Counter {
    of_cpus.fold(Counter::default(), |sum, cpu| Counter {
        packets: sum.packets + cpu.packets,
        bytes: sum.bytes + cpu.bytes,
    })
}
