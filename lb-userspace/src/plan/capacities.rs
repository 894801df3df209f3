//! How much the maps hold: what is given at least, and more where the cluster that is found at the start needs it.
//!
//! Maps are made anew at each start and cannot grow afterwards, so there is room for the cluster to become twice as
//! large.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{
    abi::{FrontendKind, capacity, names},
    maglev,
};

use crate::model::ServicePort;

/// Elements that the maps hold (per family, where a map exists once per family).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacities {
    /// Map `devices`.
    pub devices: u32,
    /// Maps `addresses`.
    pub addresses: u32,
    /// Maps `sources`.
    pub sources: u32,
    /// Maps `frontends`.
    pub frontends: u32,
    /// Maps `services`.
    pub services: u32,
    /// Maps `sets`.
    pub sets: u32,
    /// Maps `backends`.
    pub backends: u32,
    /// Maps `ranges`.
    pub ranges: u32,
    /// Map `maglev`.
    pub maglev: u32,
    /// Maps `embryos`; a power of two.
    pub embryos: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            devices: capacity::DEVICES,
            addresses: capacity::ADDRESSES,
            sources: capacity::SOURCES,
            frontends: capacity::FRONTENDS,
            services: capacity::SERVICES,
            sets: capacity::SETS,
            backends: capacity::BACKENDS,
            ranges: capacity::RANGES,
            maglev: capacity::MAGLEV,
            embryos: capacity::EMBRYOS,
        }
    }
}

/// What Service ports take of the maps of one family.
#[derive(Clone, Copy, Default, Debug)]
struct Usage {
    addresses: u32,
    frontends: u32,
    services: u32,
    backends: u32,
    ranges: u32,
}

impl Capacities {
    /// The default ones, enlarged to powers of two where these Service ports would fill more than half of a map.
    #[must_use]
    pub fn holding<'a>(ports: impl IntoIterator<Item = &'a ServicePort>) -> Self {
        let mut families = [Usage::default(); 2];
        let mut rows = 0;
        for port in ports {
            families[usize::from(port.id.ipv6)].add(port);
            rows += table_elements(port);
        }
        let most = |of: fn(&Usage) -> u32| families.iter().map(of).max().unwrap_or(0);
        let least = Self::default();
        let sized = |least: u32, used: u32| {
            let wanted = used.saturating_mul(2);
            least.max(wanted.checked_next_power_of_two().unwrap_or(u32::MAX))
        };
        let services = sized(least.services, most(|usage| usage.services));
        Self {
            addresses: sized(least.addresses, most(|usage| usage.addresses)),
            frontends: sized(least.frontends, most(|usage| usage.frontends)),
            services,
            // Every Service port may have a second one while it changes.
            sets: least.sets.max(services.saturating_mul(2)),
            backends: sized(least.backends, most(|usage| usage.backends)),
            ranges: sized(least.ranges, most(|usage| usage.ranges)),
            maglev: sized(least.maglev, rows),
            ..least
        }
    }

    /// By the names of the maps, without those that hold flows.
    #[must_use]
    pub fn by_map(&self) -> BTreeMap<&'static str, u32> {
        let Self {
            devices,
            addresses,
            sources,
            frontends,
            services,
            sets,
            backends,
            ranges,
            maglev,
            embryos: _,
        } = *self;
        let families = [
            (names::ADDRESSES, addresses),
            (names::SOURCES, sources),
            (names::FRONTENDS, frontends),
            (names::SERVICES, services),
            (names::SETS, sets),
            (names::BACKENDS, backends),
            (names::RANGES, ranges),
        ];
        let both = families
            .into_iter()
            .flat_map(|(names, entries)| names.map(|name| (name, entries)));
        both.chain([(names::DEVICES, devices), (names::MAGLEV, maglev)])
            .collect()
    }
}

impl Usage {
    fn add(&mut self, port: &ServicePort) {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        // Each ClusterIP is marked among the frontends, too.
        let marks = port
            .frontends
            .iter()
            .filter(|frontend| frontend.kind == FrontendKind::ClusterIp);
        self.addresses += count(port.frontends.len());
        self.frontends += count(port.frontends.len() + marks.count());
        self.services += 1;
        self.backends += count(port.backends.len());
        self.ranges += count(
            port.source_ranges
                .as_ref()
                .map_or(0, |ranges: &Vec<(IpAddr, u8)>| ranges.len() + 1),
        );
    }
}

/// Elements of `maglev` that the tables of both scopes take, if no other Service shares them.
fn table_elements(port: &ServicePort) -> u32 {
    let of =
        |backends: usize| maglev::elements_for(maglev::size_for(u32::try_from(backends).unwrap_or(u32::MAX)));
    let local = port.backends.iter().filter(|backend| backend.in_local).count();
    let cluster = port.backends.iter().filter(|backend| backend.in_cluster).count();
    of(local) + of(cluster)
}

#[cfg(test)]
mod tests {
    use lb_common::abi::Protocol;

    use super::*;
    use crate::model::{BackendEndpoint, FrontendAddress, ServicePortId};

    fn port(ipv6: bool, backends: u8) -> ServicePort {
        let backend = |last| BackendEndpoint {
            address: [10, 0, 0, last].into(),
            port: 80,
            on_this_node: false,
            in_local: false,
            in_cluster: true,
        };
        ServicePort {
            id: ServicePortId {
                namespace: "a".into(),
                name: "b".into(),
                port_name: String::new(),
                protocol: Protocol::Tcp,
                ipv6,
            },
            frontends: vec![FrontendAddress {
                address: Some([10, 96, 0, 1].into()),
                port: 80,
                kind: FrontendKind::ClusterIp,
            }],
            internal_local: false,
            external_local: false,
            endpoints_exist: true,
            affinity: None,
            source_ranges: None,
            backends: (0..backends).map(backend).collect(),
            serving: [].into(),
        }
    }

    #[test]
    fn a_small_cluster_gets_the_defaults() {
        assert_eq!(
            Capacities::holding(&[port(false, 10), port(true, 1)]),
            Capacities::default()
        );
    }

    #[test]
    fn ten_thousand_dual_stack_services_of_ten_endpoints_can_double() {
        let ports = [port(false, 10), port(true, 10)];
        let all = (0..10_000).flat_map(|_| &ports);
        let capacities = Capacities::holding(all);
        let each = maglev::elements_for(maglev::size_for(10));
        assert!(capacities.maglev >= 2 * 20_000 * each, "{capacities:?}");
        assert!(capacities.maglev.is_power_of_two(), "{capacities:?}");
        assert_eq!(
            capacities.backends,
            capacity::BACKENDS,
            "of each family, half are taken"
        );
    }

    #[test]
    fn every_map_that_a_plan_writes_is_named() {
        let by_map = Capacities {
            maglev: 7,
            ..Capacities::default()
        }
        .by_map();
        assert_eq!(by_map[names::MAGLEV], 7);
        assert_eq!(by_map.len(), 7 * 2 + 2);
    }
}
