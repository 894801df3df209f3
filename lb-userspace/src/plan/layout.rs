//! What a Service port and the node's facts look like in the maps, places left out: pure functions.
//!
//! *Invariants*: the backends of a set are ordered `[local only | local and cluster | cluster only]`, each
//! part canonically; the table of the Cluster scope is built over the canonical order that all nodes
//! agree on and only then expressed in positions of this node's order, so any two nodes lead one hash to
//! the same backend.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use lb_common::abi::{
    Address, Backend, Device, DeviceKind, Family, Frontend, FrontendKey, Node, Set, Source, SourceClass, V4,
    V6, XDP_OUT,
};

use super::{lookup_table::LookupTable, settings::PlanSettings};
use crate::model::{DeviceFacts, NodeFacts, ServicePort, ServicePortId};

/// A Service port's policies and backends: all of its set but the places.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Arrangement<A> {
    pub(super) backends: Arc<[Backend<A>]>,
    pub(super) local: u16,
    pub(super) cluster_from: u16,
    pub(super) flags: u16,
    /// In ticks.
    pub(super) affinity_timeout: u32,
    pub(super) identity: [u32; 2],
    /// Source ranges of LoadBalancer addresses, sorted; `None`: there is no limit.
    pub(super) ranges: Option<Arc<[(A, u8)]>>,
}

/// More backends than a position can name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooManyBackends(pub(super) usize);

impl<A: Copy + Ord + AsRef<[u8]> + Into<IpAddr>> Arrangement<A> {
    /// Arranges the backends of a Service port, seen from a node with these `surroundings`.
    pub(super) fn new<F: Family<Addr = A>>(
        port: &ServicePort,
        surroundings: &Surroundings<F>,
        tick: Duration,
    ) -> Result<Self, TooManyBackends> {
        let hosts = &surroundings.hosts;
        let mut parts: [Vec<Backend<A>>; 3] = Default::default();
        for endpoint in port.backends.iter() {
            let Some(address) = F::from_ip(endpoint.address) else {
                continue;
            };
            let part = match (endpoint.in_local, endpoint.in_cluster) {
                (true, false) => 0,
                (true, true) => 1,
                (false, true) => 2,
                (false, false) => continue,
            };
            let mut flags = 0;
            if endpoint.on_this_node {
                flags |= Backend::<A>::LOCAL;
            }
            flags |= hosts.get(&address).copied().unwrap_or_default();
            parts[part].push(Backend {
                address,
                port: endpoint.port,
                flags,
            });
        }
        // Affinity searches in parts that are sorted; who connects looks at the backends of this node first.
        let elsewhere = |backend: &Backend<A>| backend.flags & Backend::<A>::LOCAL == 0;
        let [local_only, both, cluster_only] = parts.each_mut().map(|part| {
            part.sort_unstable();
            if port.affinity.is_none() {
                part.sort_by_key(elsewhere);
            }
            part.len()
        });
        let total = local_only + both + cluster_only;
        // One position is left to mark a free row.
        if total >= usize::from(u16::MAX) {
            return Err(TooManyBackends(total));
        }
        let flag = |set, flag| if set { flag } else { 0 };
        let ranges = port.source_ranges.as_deref();
        let with_node = ranges.is_some_and(|ranges| {
            let mut main = surroundings.main.iter().copied().map(Into::into);
            main.any(|address| ranges.iter().any(|range| is_inside(address, *range)))
        });
        Ok(Self {
            backends: parts.concat().into(),
            local: (local_only + both) as u16,
            cluster_from: local_only as u16,
            flags: flag(port.internal_local, Set::INTERNAL_LOCAL)
                | flag(port.external_local, Set::EXTERNAL_LOCAL)
                | flag(port.endpoints_exist, Set::ENDPOINTS_EXIST)
                | flag(port.affinity.is_some(), Set::AFFINITY)
                | flag(ranges.is_some(), Set::RANGES)
                | flag(with_node, Set::RANGES_WITH_NODE),
            affinity_timeout: port.affinity.map_or(0, |seconds| ticks(seconds, tick)),
            identity: identity(&port.id),
            ranges: ranges.map(|ranges| {
                let bare =
                    |(address, length): &(IpAddr, u8)| Some((F::from_ip(bare(*address, *length))?, *length));
                let ranges: BTreeSet<_> = ranges.iter().filter_map(bare).collect();
                ranges.into_iter().collect()
            }),
        })
    }

    /// The table of the Local scope.
    pub(super) fn local_table(&self, seed: u32) -> LookupTable {
        LookupTable::new(seed, &self.backends, 0..self.local)
    }

    /// The table of the Cluster scope.
    pub(super) fn cluster_table(&self, seed: u32) -> LookupTable {
        LookupTable::new(
            seed,
            &self.backends,
            self.cluster_from..self.backends.len() as u16,
        )
    }
}

/// A number for the name of a Service port: FNV-1a. It is in records that outlive a process of the agent.
pub(super) fn identity(id: &ServicePortId) -> [u32; 2] {
    let protocol = [id.protocol as u8];
    let parts = [
        id.namespace.as_bytes(),
        id.name.as_bytes(),
        id.port_name.as_bytes(),
        &protocol,
    ];
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        // No name has this byte, so it tells the parts apart.
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    [(hash >> 32) as u32, hash as u32]
}

/// How many ticks an idle client may see pass: at least the seconds that it was promised, and less than two ticks more.
fn ticks(seconds: u32, tick: Duration) -> u32 {
    let nanos = Duration::from_secs(seconds.into()).as_nanos();
    u32::try_from(nanos.div_ceil(tick.as_nanos().max(1))).unwrap_or(u32::MAX / 2)
}

/// An address without the bits behind `length`.
fn bare(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX
                .checked_shl(32u32.saturating_sub(length.into()))
                .unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX
                .checked_shl(128u32.saturating_sub(length.into()))
                .unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

fn is_inside(address: IpAddr, (range, length): (IpAddr, u8)) -> bool {
    address.is_ipv4() == range.is_ipv4() && bare(address, length) == bare(range, length)
}

/// The frontends of a Service port, the address of a NodePort left out (all zero).
pub(super) fn frontends<F: Family>(
    port: &ServicePort,
    service: u32,
) -> impl Iterator<Item = (FrontendKey<F::Addr>, Frontend)> + '_ {
    port.frontends.iter().filter_map(move |frontend| {
        let address = match frontend.address {
            Some(address) => F::from_ip(address)?,
            None => F::Addr::default(),
        };
        let key = FrontendKey {
            address,
            port: frontend.port,
            protocol: port.id.protocol as u8,
            reserved: 0,
        };
        Some((
            key,
            Frontend {
                service,
                kind: frontend.kind as u8,
                reserved: [0; 3],
            },
        ))
    })
}

/// What the node's facts and the other nodes' addresses say about one family.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Surroundings<F: Family> {
    pub(super) own: BTreeSet<F::Addr>,
    pub(super) node_ports: BTreeSet<F::Addr>,
    pub(super) other_nodes: BTreeSet<F::Addr>,
    /// Prefixes of this node's pods, if they are to be known.
    pub(super) pods: BTreeSet<(F::Addr, u8)>,
    /// Addresses of this node that its uplinks have first.
    pub(super) main: BTreeSet<F::Addr>,
    /// Loopback addresses that NodePorts are served on.
    pub(super) localhost: BTreeSet<F::Addr>,
    /// The addresses of all nodes, and what a backend with such an address is.
    pub(super) hosts: BTreeMap<F::Addr, u16>,
}

impl<F: Family> Surroundings<F> {
    pub(super) fn new(facts: &NodeFacts, other_nodes: &[IpAddr], settings: &PlanSettings) -> Self {
        let family =
            |all: &[IpAddr]| -> BTreeSet<_> { all.iter().filter_map(|ip| F::from_ip(*ip)).collect() };
        let uplinks = facts
            .devices
            .values()
            .filter(|device| device.kind == DeviceKind::Uplink);
        let main: Vec<_> = uplinks
            .flat_map(|device| [device.snat4.map(IpAddr::V4), device.snat6.map(IpAddr::V6)])
            .flatten()
            .collect();
        let localhost: &[IpAddr] = match settings.localhost_nodeports {
            true => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
            false => &[],
        };
        let pods = facts.pods.iter().filter(|_| settings.pod_detection);
        Self {
            own: family(&facts.own),
            node_ports: family(&facts.node_ports),
            other_nodes: family(other_nodes),
            pods: pods
                .filter_map(|(ip, length)| Some((F::from_ip(*ip)?, *length)))
                .collect(),
            main: family(&main),
            localhost: family(localhost),
            hosts: Self::hosts(&family(&facts.own), &family(other_nodes)),
        }
    }

    /// This node's own is here, whatever its slice says: the endpoints of `default/kubernetes` name no node.
    fn hosts(own: &BTreeSet<F::Addr>, others: &BTreeSet<F::Addr>) -> BTreeMap<F::Addr, u16> {
        let others = others.iter();
        let others = others.map(|address| (*address, Backend::<F::Addr>::HOST));
        let own = own.iter();
        let own = own.map(|address| (*address, Backend::<F::Addr>::HOST | Backend::<F::Addr>::LOCAL));
        others.chain(own).collect()
    }

    /// What an address is, apart from being a Service's.
    pub(super) fn flags(&self, address: &F::Addr) -> u32 {
        let flag = |set: &BTreeSet<F::Addr>, flag| if set.contains(address) { flag } else { 0 };
        flag(&self.own, Address::OWN)
            | flag(&self.node_ports, Address::NODE_PORTS)
            | flag(&self.other_nodes, Address::OTHER_NODE)
            | flag(&self.localhost, Address::LOCALHOST)
    }

    /// All addresses that are something.
    pub(super) fn addresses(&self) -> BTreeSet<F::Addr> {
        [&self.own, &self.node_ports, &self.other_nodes, &self.localhost]
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }

    /// Who a source address belongs to. An own address inside a pod prefix is the node's.
    pub(super) fn sources(&self) -> BTreeMap<(F::Addr, u8), Source> {
        let pods = self.pods.iter().map(|prefix| {
            (
                *prefix,
                Source {
                    class: SourceClass::Pod as u32,
                },
            )
        });
        let own = self.own.iter().map(|address| {
            (
                (*address, (F::ADDR_LEN * 8) as u8),
                Source {
                    class: SourceClass::Node as u32,
                },
            )
        });
        pods.chain(own).collect()
    }
}

/// The node-wide settings. `leaves_tracked`: connection tracking translates connections to our frontends.
pub(super) fn node(
    facts: &NodeFacts,
    settings: &PlanSettings,
    snat_ports: &RangeInclusive<u16>,
    leaves_tracked: bool,
) -> Node {
    let index_of = |kind| {
        facts
            .devices
            .iter()
            .find(|(_, d)| d.kind == kind)
            .map_or(0, |(index, _)| *index)
    };
    let flag = |set: bool, flag| if set { flag } else { 0 };
    Node {
        netns: settings.netns,
        lb0: index_of(DeviceKind::Host),
        loopback: index_of(DeviceKind::Loopback),
        snat_first: *snat_ports.start(),
        snat_last: *snat_ports.end(),
        seed: settings.seed,
        embryo_mask: settings.capacities.embryos.saturating_sub(1),
        flags: flag(settings.masquerade_all, Node::MASQUERADE_ALL)
            | flag(!settings.pod_detection, Node::PODS_UNKNOWN)
            | flag(settings.connect_pods, Node::CONNECT_PODS)
            | flag(leaves_tracked, Node::LEAVES_TRACKED),
        tick_shift: Node::tick_shift(settings.hertz),
        xdp_out: xdp_out(facts),
        reserved: 0,
    }
}

/// The devices that XDP may send packets out of. What is too many is left to TC.
fn xdp_out(facts: &NodeFacts) -> [u32; XDP_OUT] {
    let mut out = [0; XDP_OUT];
    let able = facts.devices.iter().filter(|(_, device)| device.takes_xdp);
    for (slot, (index, _)) in out.iter_mut().zip(able) {
        *slot = *index;
    }
    out
}

/// A device.
pub(super) fn device(facts: &DeviceFacts) -> Device {
    Device {
        kind: facts.kind as u8,
        reserved: 0,
        mac: facts.mac,
        bridge_mac: facts.bridge_mac,
        reserved2: 0,
        mtu: facts.mtu,
        snat4: facts
            .snat4
            .and_then(|ip| V4::from_ip(ip.into()))
            .unwrap_or_default(),
        snat6: facts
            .snat6
            .and_then(|ip| V6::from_ip(ip.into()))
            .unwrap_or_default(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use lb_common::abi::{Addr4, Protocol};

    use super::*;
    use crate::model::{BackendEndpoint, ServicePortId};

    /// `(last octet, on this node, in Local, in Cluster)`
    fn port(backends: &[(u8, bool, bool, bool)]) -> ServicePort {
        ServicePort {
            id: ServicePortId {
                namespace: "shop".into(),
                name: "web".into(),
                port_name: String::new(),
                protocol: Protocol::Tcp,
                ipv6: false,
            },
            frontends: vec![],
            internal_local: false,
            external_local: true,
            endpoints_exist: true,
            affinity: None,
            source_ranges: None,
            backends: backends
                .iter()
                .map(|(octet, on_this_node, in_local, in_cluster)| BackendEndpoint {
                    address: [10, 1, 0, *octet].into(),
                    port: 80,
                    on_this_node: *on_this_node,
                    in_local: *in_local,
                    in_cluster: *in_cluster,
                })
                .collect(),
            serving: [].into(),
        }
    }

    pub(in crate::plan) fn arrange(backends: &[(u8, bool, bool, bool)]) -> Arrangement<Addr4> {
        let own = NodeFacts {
            own: vec![[10, 1, 0, 8].into()],
            ..NodeFacts::default()
        };
        let surroundings = Surroundings::<V4>::new(&own, &[[10, 1, 0, 9].into()], &PlanSettings::default());
        Arrangement::new(&port(backends), &surroundings, Duration::from_secs(1)).unwrap()
    }

    #[test]
    fn scopes_are_the_two_ends_of_one_list() {
        let set = arrange(&[
            (1, false, false, true),
            (2, true, true, true),
            (3, true, true, false),
            (4, true, false, false),
            (8, false, false, true),
            (9, false, false, true),
        ]);
        let octets: Vec<_> = set
            .backends
            .iter()
            .map(|b| (b.address.bytes[3], b.flags))
            .collect();
        // An own address is here, also if the slice does not say so; and what is here comes first in its part.
        assert_eq!(octets, [(3, 1), (2, 1), (8, 3), (1, 0), (9, 2)]);
        assert_eq!((set.local, set.cluster_from), (2, 1));
        assert_eq!(set.flags, Set::EXTERNAL_LOCAL | Set::ENDPOINTS_EXIST);
    }

    #[test]
    fn an_empty_scope_has_no_rows_and_a_single_backend_has_one() {
        let set = arrange(&[(1, false, false, true)]);
        assert_eq!(set.local_table(1).rows().len(), 0);
        assert_eq!(set.cluster_table(1).rows(), [0]);
        let set = arrange(&[(1, true, true, false), (2, false, false, true)]);
        assert_eq!(
            (set.local_table(1).rows(), set.cluster_table(1).rows()),
            (vec![0], vec![1])
        );
    }

    #[test]
    fn any_two_nodes_lead_one_hash_to_the_same_backend() {
        let here = arrange(&[
            (1, true, true, true),
            (2, false, false, true),
            (3, true, true, true),
            (4, false, false, true),
        ]);
        let there = arrange(&[
            (1, false, false, true),
            (2, true, true, true),
            (3, false, false, true),
            (4, true, true, true),
        ]);
        assert_ne!(
            here.cluster_table(7).rows(),
            there.cluster_table(7).rows(),
            "the positions differ"
        );
        let chosen = |set: &Arrangement<Addr4>| -> Vec<_> {
            set.cluster_table(7)
                .rows()
                .iter()
                .map(|row| set.backends[usize::from(*row)].address)
                .collect()
        };
        assert_eq!(chosen(&here), chosen(&there));
    }

    #[test]
    fn an_own_address_inside_a_pod_prefix_is_the_nodes() {
        let facts = NodeFacts {
            own: vec![[10, 1, 0, 1].into()],
            pods: vec![([10, 1, 0, 0].into(), 24), ([10, 1, 0, 1].into(), 32)],
            ..Default::default()
        };
        let sources = Surroundings::<V4>::new(&facts, &[], &PlanSettings::default()).sources();
        let classes: Vec<_> = sources
            .iter()
            .map(|((_, length), source)| (*length, source.class))
            .collect();
        assert_eq!(
            classes,
            [(24, SourceClass::Pod as u32), (32, SourceClass::Node as u32)]
        );
    }
}
