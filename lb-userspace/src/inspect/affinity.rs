//! One line for each client that stays with a backend.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::abi::{Affinity, Family, Set};
use serde::Serialize;

use super::{
    clock::{Clock, duration},
    filter::Filter,
    names::{Names, ServiceName},
    ports::{Port, family, ports, protocol},
    table::{Row, or_dash},
};
use crate::maps::{AffinityEntry, Lookup, MapError, Walk};

/// A client's backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct AffinityRow {
    /// The Service; null if names are not known, or if it is gone.
    pub service: Option<ServiceName>,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// `TCP`, `UDP` or `SCTP`; null if the Service is gone.
    pub protocol: Option<String>,
    /// The client.
    pub client: IpAddr,
    /// The backend that it had last.
    pub backend: SocketAddr,
    /// `kept`: the next flow goes there, if the policy lets it; `over`: the client was idle for too long; `backend-gone`:
    /// the Service does not have that backend any more; `service-gone`: no Service that is served has this record, or it
    /// has no affinity any more.
    pub state: &'static str,
    /// Seconds since the client's last new flow.
    pub idle_seconds: u64,
    /// Seconds for which it is kept from then on.
    pub timeout_seconds: u64,
}

/// The records of one family that `filter` wants, those of the most recent flows first.
///
/// # Errors
/// If a map cannot be read.
pub fn affinities<F: Family>(
    maps: &dyn Walk<F>,
    records: &[AffinityEntry<F>],
    names: &Names,
    filter: &Filter,
    clock: &Clock,
) -> Result<Vec<AffinityRow>, MapError> {
    // All frontends of a Service port have the same identity.
    let ports: BTreeMap<[u32; 2], Port<F>> = (ports(maps, names)?.into_iter())
        .filter_map(|port| Some((port.set?.1.identity, port)))
        .collect();
    let mut rows = Vec::new();
    for (key, record) in records {
        let port = ports.get(&key.service);
        let service = port.and_then(|port| port.name.clone());
        let (client, at): (IpAddr, IpAddr) = (key.client.into(), record.backend.into());
        if !filter.admits(service.as_ref(), &[client, at]) {
            continue;
        }
        let set = port.and_then(|port| port.set).map(|(_, set)| set);
        let set = set.filter(|set| set.has(Set::AFFINITY));
        let state = match set {
            None => "service-gone",
            Some(_) if record.is_over(clock.tick) => "over",
            Some(set) if has_backend(maps, &set, record)? => "kept",
            Some(_) => "backend-gone",
        };
        rows.push(AffinityRow {
            service,
            family: family::<F>(),
            protocol: port.map(|port| protocol(port.key.protocol)),
            client,
            backend: SocketAddr::new(at, record.port),
            state,
            idle_seconds: clock.since(record.seen),
            timeout_seconds: clock.seconds(record.timeout),
        });
    }
    let order = |row: &AffinityRow| (row.idle_seconds, row.client, row.service.clone());
    rows.sort_by_cached_key(order);
    Ok(rows)
}

fn has_backend<F: Family>(
    maps: &dyn Lookup<F>,
    set: &Set,
    record: &Affinity<F::Addr>,
) -> Result<bool, MapError> {
    for index in set.backends..set.backends + u32::from(set.total) {
        let is_it = |backend: lb_common::abi::Backend<F::Addr>| {
            backend.address == record.backend && backend.port == record.port
        };
        if maps.backend(index)?.is_some_and(is_it) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Row for AffinityRow {
    fn headings(_: bool) -> Vec<&'static str> {
        vec![
            "SERVICE", "PROTO", "CLIENT", "BACKEND", "STATE", "IDLE", "TIMEOUT",
        ]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        vec![
            self.service
                .as_ref()
                .map_or_else(|| "?".to_owned(), ToString::to_string),
            or_dash(self.protocol.as_ref()),
            self.client.to_string(),
            self.backend.to_string(),
            self.state.to_owned(),
            duration(self.idle_seconds),
            duration(self.timeout_seconds),
        ]
    }
}
