//! Whatever happens, and whatever fails: the maps end up as if the last state had been the only one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use lb_common::abi::{Family, FrontendKey, FrontendKind, Protocol, Set, V4, V6};
use lb_userspace::{
    maps::{Dump, FamilyDump},
    model::{BackendEndpoint, DesiredState, FrontendAddress, NodeFacts, ServicePort, ServicePortId},
};
use proptest::prelude::*;

use crate::support::{Bench, LINGER, node, settings};

const SERVICES: usize = 5;
const FRONTENDS: usize = 8;
const BACKENDS: u8 = 6;

/// A Service as the generator sees it: policies, source ranges, and where each possible backend is used.
type Draw = (
    bool,
    bool,
    Option<u32>,
    Option<BTreeSet<u8>>,
    Vec<(u8, bool, bool)>,
);

fn port(index: usize, ipv6: bool, draw: &Draw) -> ServicePort {
    let (internal_local, external_local, affinity, ranges, backends) = draw;
    let mut seen = BTreeSet::new();
    ServicePort {
        id: ServicePortId {
            namespace: "any".into(),
            name: format!("s{index}"),
            port_name: String::new(),
            protocol: if index.is_multiple_of(2) {
                Protocol::Tcp
            } else {
                Protocol::Udp
            },
            ipv6,
        },
        frontends: vec![],
        internal_local: *internal_local,
        external_local: *external_local,
        endpoints_exist: !backends.is_empty(),
        affinity: *affinity,
        source_ranges: ranges
            .as_ref()
            .map(|ranges| ranges.iter().map(|third| range(*third, ipv6)).collect()),
        backends: backends
            .iter()
            .filter(|(octet, ..)| seen.insert(*octet))
            .map(|(octet, in_local, in_cluster)| BackendEndpoint {
                address: address([10, 1, 1, *octet], ipv6),
                port: 8080,
                on_this_node: *octet < BACKENDS / 2,
                in_local: *in_local,
                in_cluster: *in_cluster,
            })
            .collect(),
        serving: [].into(),
    }
}

/// The first one has this node's own address in it.
fn range(third: u8, ipv6: bool) -> (IpAddr, u8) {
    match (third, ipv6) {
        (0, true) => ("2001:db8::".parse().expect("an address"), 32),
        _ => (address([192, 0, 2 + third, 0], ipv6), if ipv6 { 120 } else { 24 }),
    }
}

fn address(octets: [u8; 4], ipv6: bool) -> IpAddr {
    let v4 = Ipv4Addr::from(octets);
    if ipv6 {
        Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(v4.to_bits())).into()
    } else {
        v4.into()
    }
}

prop_compose! {
    /// Each frontend has at most one owner; services come and go, and hand frontends over.
    fn desired_state()(
        draws in prop::collection::vec(
            prop::option::weighted(0.8, (
                any::<bool>(),
                any::<bool>(),
                prop::option::of(1..100u32),
                prop::option::weighted(0.4, prop::collection::btree_set(0..4u8, 0..3)),
                prop::collection::vec((0..BACKENDS, any::<bool>(), any::<bool>()), 0..5),
            )),
            SERVICES,
        ),
        owners in prop::collection::vec(prop::option::of(0..SERVICES), FRONTENDS),
        other_nodes in prop::collection::btree_set(0..BACKENDS, 0..3),
        ipv6: bool,
    ) -> DesiredState {
        let mut services: Vec<_> = draws
            .iter()
            .enumerate()
            .filter_map(|(index, draw)| Some(port(index, ipv6, draw.as_ref()?)))
            .collect();
        for (slot, owner) in owners.iter().enumerate() {
            let octet = slot as u8 / 2;
            let frontend = FrontendAddress {
                // Two ports on each address; the last address is that of NodePorts.
                address: (octet < 3).then(|| address([10, 96, 0, octet + 1], ipv6)),
                port: 80 + slot as u16 % 2,
                kind: match octet {
                    0 | 1 => FrontendKind::ClusterIp,
                    2 => FrontendKind::LoadBalancer,
                    _ => FrontendKind::NodePort,
                },
            };
            let owner = owner.map(|owner| format!("s{owner}"));
            for service in services.iter_mut().filter(|service| Some(&service.id.name) == owner.as_ref()) {
                service.frontends.push(frontend);
            }
        }
        services.sort_by(|a, b| a.id.cmp(&b.id));
        let mut other_nodes: Vec<_> = other_nodes.iter().map(|octet| address([10, 1, 1, *octet], ipv6)).collect();
        other_nodes.sort_unstable();
        DesiredState { services, other_nodes, problems: vec![] }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Desired(DesiredState),
    /// The node with or without its pods' prefixes and addresses.
    Facts(bool, bool),
    Wait(u64),
    Round,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => desired_state().prop_map(Step::Desired),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(pods, own)| Step::Facts(pods, own)),
        1 => (1..100u64).prop_map(Step::Wait),
        4 => Just(Step::Round),
    ]
}

fn facts(pods: bool, own: bool) -> NodeFacts {
    let mut facts = node();
    if !pods {
        facts.pods.clear();
        facts.devices.remove(&4);
    }
    if !own {
        facts.own.clear();
        facts.node_ports.clear();
    }
    facts
}

/// What a frontend leads to: flags, affinity, source ranges, and the backends of both scopes.
type Meaning = (
    u16,
    u32,
    BTreeSet<(IpAddr, u8)>,
    BTreeSet<(IpAddr, u16)>,
    BTreeSet<(IpAddr, u16)>,
);

/// What the desired state says, without any knowledge of the layout.
fn meant(state: &DesiredState) -> BTreeMap<(IpAddr, u16, u8), Meaning> {
    let mut meant = BTreeMap::new();
    for port in &state.services {
        let flag = |set, flag| if set { flag } else { 0 };
        let flags = flag(port.internal_local, Set::INTERNAL_LOCAL)
            | flag(port.external_local, Set::EXTERNAL_LOCAL)
            | flag(port.endpoints_exist, Set::ENDPOINTS_EXIST)
            | flag(port.affinity.is_some(), Set::AFFINITY)
            | flag(port.source_ranges.is_some(), Set::RANGES)
            | flag(
                port.source_ranges
                    .iter()
                    .flatten()
                    .any(|own| *own == range(0, port.id.ipv6)),
                Set::RANGES_WITH_NODE,
            );
        let scope = |wanted: fn(&BackendEndpoint) -> bool| -> BTreeSet<_> {
            port.backends
                .iter()
                .filter(|b| wanted(b))
                .map(|b| (b.address, b.port))
                .collect()
        };
        let meaning = (
            flags,
            // A tick is 256 of 250 interrupts a second.
            port.affinity.map_or(0, |seconds| (seconds * 250).div_ceil(256)),
            port.source_ranges.iter().flatten().copied().collect(),
            scope(|backend| backend.in_local),
            scope(|backend| backend.in_cluster),
        );
        for frontend in &port.frontends {
            let none = if port.id.ipv6 {
                IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            } else {
                Ipv4Addr::UNSPECIFIED.into()
            };
            let key = (
                frontend.address.unwrap_or(none),
                frontend.port,
                port.id.protocol as u8,
            );
            meant.insert(key, meaning.clone());
        }
    }
    meant
}

/// What a program finds: every frontend followed to the rows of its tables.
fn found<F: Family>(family: &FamilyDump<F>, dump: &Dump, found: &mut BTreeMap<(IpAddr, u16, u8), Meaning>) {
    for (
        FrontendKey {
            address,
            port,
            protocol,
            ..
        },
        frontend,
    ) in family.frontends.iter().filter(|(key, _)| !key.is_mark())
    {
        let set = family.services[&frontend.service]
            .set()
            .expect("a frontend's service names a set");
        let set = family.sets[&set];
        let scope = |table, rows| -> BTreeSet<(IpAddr, u16)> {
            dump.rows(table, rows)
                .map(|row| family.backends[&(set.backends + u32::from(row.expect("a row is written")))])
                .map(|backend| (backend.address.into(), backend.port))
                .collect()
        };
        let meaning = (
            set.flags,
            set.affinity_timeout,
            family
                .ranges
                .keys()
                .filter(|(key, _)| set.has(Set::RANGES) && key.table == set.ranges)
                .map(|(key, length)| (key.address.into(), length - 32))
                .collect(),
            scope(set.local_table, set.local_rows),
            scope(set.cluster_table, set.cluster_rows),
        );
        found.insert(((*address).into(), *port, *protocol), meaning);
    }
}

/// Addresses that are marked as ClusterIPs.
fn marks<F: Family>(family: &FamilyDump<F>, marked: &mut BTreeSet<IpAddr>) {
    let marks = family.frontends.keys().filter(|key| key.is_mark());
    marked.extend(marks.map(|key| key.address.into()));
}

fn check(steps: Vec<Step>, one_in: u64, seed: u64) {
    let mut bench = Bench::new(settings());
    bench.fake.fail(one_in, seed);
    let (mut state, mut node) = (DesiredState::default(), facts(true, true));
    bench.facts(&node);
    for step in steps {
        match step {
            Step::Desired(new) => {
                bench.desired(&new);
                state = new;
            }
            Step::Facts(pods, own) => {
                node = facts(pods, own);
                bench.facts(&node);
            }
            Step::Wait(seconds) => bench.now += Duration::from_secs(seconds),
            Step::Round => {
                bench.round();
            }
        }
    }
    bench.settle();
    bench.now += LINGER;
    bench.settle();
    bench.assert_no_violations();

    let mut fresh = Bench::new(settings());
    fresh.facts(&node);
    fresh.desired(&state);
    assert_eq!(fresh.round(), 0, "a fresh layout is written in one round");
    assert!(fresh.planner.is_settled());
    fresh.assert_no_violations();
    assert_eq!(bench.text(), fresh.text());

    let contents = fresh.contents();
    let mut led_to = BTreeMap::new();
    found::<V4>(&contents.v4, &contents, &mut led_to);
    found::<V6>(&contents.v6, &contents, &mut led_to);
    assert_eq!(led_to, meant(&state));
    let mut marked = BTreeSet::new();
    marks::<V4>(&contents.v4, &mut marked);
    marks::<V6>(&contents.v6, &mut marked);
    let frontends = state.services.iter().flat_map(|port| &port.frontends);
    let cluster_ips = frontends.filter(|frontend| frontend.kind == FrontendKind::ClusterIp);
    assert_eq!(
        marked,
        cluster_ips.filter_map(|frontend| frontend.address).collect()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_way_to_a_state_leaves_no_trace(steps in prop::collection::vec(step(), 1..12)) {
        check(steps, 0, 0);
    }

    #[test]
    fn failures_leave_no_trace(
        steps in prop::collection::vec(step(), 1..12),
        one_in in 3..12u64,
        seed: u64,
    ) {
        check(steps, one_in, seed);
    }
}
