//! Frontends joined with the sets that serve them now, and with their names.

use std::net::{IpAddr, SocketAddr};

use lb_common::abi::{Family, FrontendKey, FrontendKind, Protocol, ROWS_PER_ELEMENT, Set};

use super::names::{Names, ServiceName};
use crate::maps::{Lookup, MapError, Walk};

/// A frontend.
pub(super) struct Port<F: Family> {
    pub(super) key: FrontendKey<F::Addr>,
    pub(super) kind: FrontendKind,
    /// Index of the service.
    pub(super) service: u32,
    /// Index of the set, and the set. `None`: it was changed while it was read.
    pub(super) set: Option<(u32, Set)>,
    pub(super) name: Option<ServiceName>,
}

/// All frontends.
pub(super) fn ports<F: Family>(maps: &dyn Walk<F>, names: &Names) -> Result<Vec<Port<F>>, MapError> {
    let mut ports = Vec::new();
    for (key, frontend) in maps.frontends()? {
        if key.is_mark() {
            continue;
        }
        let index = maps.service(frontend.service)?.and_then(|service| service.set());
        let set = match index {
            // A set of another service is one that was given away meanwhile.
            Some(index) => (maps.set(index)?)
                .filter(|set| set.service == frontend.service)
                .map(|set| (index, set)),
            None => None,
        };
        ports.push(Port {
            kind: FrontendKind::from_number(frontend.kind),
            service: frontend.service,
            set,
            name: names.at(address(&key), key.port, key.protocol),
            key,
        });
    }
    Ok(ports)
}

/// The address of a frontend; `None`: it is a NodePort.
pub(super) fn address<A: Copy + Default + PartialEq + Into<IpAddr>>(key: &FrontendKey<A>) -> Option<IpAddr> {
    (key.address != A::default()).then(|| key.address.into())
}

/// Where a frontend is, a NodePort with the address that stands for all.
pub(super) fn place(ip: IpAddr, port: u16, protocol: &str) -> String {
    format!("{}/{protocol}", SocketAddr::new(ip, port))
}

/// The family's name.
pub(super) fn family<F: Family>() -> &'static str {
    if F::INDEX == 0 { "IPv4" } else { "IPv6" }
}

/// A protocol's name, or its number.
pub(super) fn protocol(number: u8) -> String {
    Protocol::from_number(number).map_or_else(|| number.to_string(), |protocol| protocol.to_string())
}

/// How many rows of a table each of the set's backends has.
pub(super) fn row_counts<F: Family>(
    maps: &dyn Lookup<F>,
    table: u32,
    rows: u32,
    total: u16,
) -> Result<Vec<u32>, MapError> {
    let mut counts = vec![0; usize::from(total)];
    let mut left = rows as usize;
    let mut element = table;
    while left > 0 {
        let Some(of_element) = maps.rows(element)? else {
            break;
        };
        let here = left.min(ROWS_PER_ELEMENT);
        for backend in &of_element.rows[..here] {
            if let Some(count) = counts.get_mut(usize::from(*backend)) {
                *count += 1;
            }
        }
        left -= here;
        element += 1;
    }
    Ok(counts)
}
