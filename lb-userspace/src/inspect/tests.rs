//! A node with a few Services and flows, as its agent would fill the maps, and what is said of it.

mod page;
mod traffic;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::abi::{
    Action, Affinity, AffinityKey, DeviceKind, Family, Flow, FrontendKind, Phase, Protocol, State, Tuple, V4,
    V6,
};

use super::*;
use crate::{
    apply::write,
    explain::Served,
    maps::{Dump, FamilyDump, FlowEntry, InMemory, fake::Fake},
    model::{
        BackendEndpoint, DesiredState, DeviceFacts, FrontendAddress, NodeFacts, ObjectKey, ServicePort,
        ServicePortId,
    },
    plan::{PlanSettings, Planner},
};

const CLOCK: Clock = Clock {
    tick: 5000,
    shift: 10,
    hertz: 1024,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn place(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// What is on the node.
struct World {
    dump: Dump,
    names: Names,
}

impl World {
    fn new() -> Self {
        let services = services_of_the_shop();
        let served = services.iter().map(|port| Served {
            key: ObjectKey::new(&port.id.namespace, &port.id.name),
            port_name: port.id.port_name.clone(),
            protocol: port.id.protocol,
            frontends: port.frontends.clone(),
        });
        let names = Names::new(served.collect::<Vec<_>>());
        let mut planner = Planner::new(PlanSettings {
            hertz: CLOCK.hertz,
            ..PlanSettings::default()
        });
        planner.node_facts(&node(), Duration::ZERO);
        let desired = DesiredState {
            services,
            ..DesiredState::default()
        };
        planner.desired(&desired, Duration::ZERO);
        let (fake, mut store) = Fake::plain();
        while !planner.is_settled() {
            planner.execute(Duration::ZERO, |op| write(&mut store, op));
        }
        let dump = fake.world().contents.clone();
        Self { dump, names }
    }

    fn of<'a, F: Family>(&'a self, family: &'a FamilyDump<F>) -> InMemory<'a, F> {
        InMemory {
            dump: &self.dump,
            family,
        }
    }

    fn services(&self, filter: &Filter) -> Vec<FrontendRow> {
        let mut rows = services(&self.of(&self.dump.v4), &self.names, filter, &CLOCK).unwrap();
        rows.extend(services(&self.of(&self.dump.v6), &self.names, filter, &CLOCK).unwrap());
        rows
    }

    fn backends(&self, filter: &Filter) -> Vec<BackendRow> {
        let mut rows = backends(&self.of(&self.dump.v4), &self.names, filter).unwrap();
        rows.extend(backends(&self.of(&self.dump.v6), &self.names, filter).unwrap());
        rows
    }

    fn flows(&self, filter: &Filter) -> Vec<FlowRow> {
        let device = |index: u32| format!("eth{}", index - 2);
        let (maps4, maps6) = (self.of(&self.dump.v4), self.of(&self.dump.v6));
        let mut rows = flows(&maps4, &flows4(), &self.names, filter, &CLOCK, &device).unwrap();
        rows.extend(flows(&maps6, &flows6(), &self.names, filter, &CLOCK, &device).unwrap());
        rows
    }

    fn traffic(&self, filter: &Filter) -> Vec<TrafficRow> {
        super::traffic(&traffic::counted(), &self.names, filter)
    }

    fn affinities(&self) -> Vec<AffinityRow> {
        let identity = self.dump.v4.live_sets().find_map(|(_, _, set)| {
            let set = set?;
            set.has(lb_common::abi::Set::AFFINITY).then_some(set.identity)
        });
        let record = |client: [u8; 4], service, backend: [u8; 4], seen| {
            (
                AffinityKey::<<V4 as Family>::Addr> {
                    service,
                    client: std::net::Ipv4Addr::from(client).into(),
                },
                Affinity {
                    backend: std::net::Ipv4Addr::from(backend).into(),
                    port: 8080,
                    reserved: 0,
                    seen,
                    timeout: 600,
                },
            )
        };
        let identity = identity.unwrap();
        let records = [
            record([203, 0, 113, 7], identity, [10, 1, 2, 11], 4990),
            record([203, 0, 113, 8], identity, [10, 1, 2, 99], 4900),
            record([203, 0, 113, 9], identity, [10, 1, 2, 11], 4000),
            record([203, 0, 113, 9], [1, 2], [10, 1, 2, 11], 4980),
        ];
        affinities(
            &self.of(&self.dump.v4),
            &records,
            &self.names,
            &Filter::default(),
            &CLOCK,
        )
        .unwrap()
    }
}

fn node() -> NodeFacts {
    let device = |name: &str, kind| DeviceFacts {
        name: name.into(),
        kind,
        mac: [2, 0, 0, 0, 0, 1],
        bridge_mac: [0; 6],
        mtu: 1500,
        snat4: Some([192, 168, 0, 1].into()),
        snat6: Some("fd00::1".parse().unwrap()),
        takes_xdp: false,
    };
    let own = vec![ip("192.168.0.1"), ip("fd00::1")];
    NodeFacts {
        devices: BTreeMap::from([
            (1, device("lo", DeviceKind::Loopback)),
            (2, device("eth0", DeviceKind::Uplink)),
        ]),
        node_ports: own.clone(),
        own,
        pods: vec![(ip("10.1.1.0"), 24), (ip("fd00:1:1::"), 64)],
        translated: Vec::new(),
        masqueraded: Vec::new(),
    }
}

/// A Service port; backends below 100 are on this node.
fn port(name: &str, ipv6: bool, frontends: &[(FrontendKind, &str, u16)], backends: &[u8]) -> ServicePort {
    let address = |octet: u8| {
        let node = if octet < 100 { 1 } else { 2 };
        if ipv6 {
            ip(&format!("fd00:1:{node}::{octet}"))
        } else {
            ip(&format!("10.1.{node}.{octet}"))
        }
    };
    ServicePort {
        id: ServicePortId {
            namespace: "shop".into(),
            name: name.into(),
            port_name: "http".into(),
            protocol: Protocol::Tcp,
            ipv6,
        },
        frontends: (frontends.iter())
            .map(|(kind, address, port)| FrontendAddress {
                address: (!address.is_empty()).then(|| ip(address)),
                port: *port,
                kind: *kind,
            })
            .collect(),
        internal_local: false,
        external_local: false,
        endpoints_exist: !backends.is_empty(),
        affinity: None,
        source_ranges: None,
        backends: (backends.iter())
            .map(|octet| BackendEndpoint {
                address: address(*octet),
                port: 8080,
                on_this_node: *octet < 100,
                in_local: *octet < 100,
                in_cluster: true,
            })
            .collect(),
        serving: [].into(),
    }
}

fn services_of_the_shop() -> Vec<ServicePort> {
    use FrontendKind::{ClusterIp, LoadBalancer, NodePort};
    let mut cart = port("cart", false, &[(ClusterIp, "10.96.0.12", 80)], &[]);
    cart.id.port_name = String::new();
    let mut local = port(
        "local",
        false,
        &[(ClusterIp, "10.96.0.11", 80), (LoadBalancer, "192.0.2.31", 80)],
        &[111],
    );
    local.external_local = true;
    let at4 = [
        (ClusterIp, "10.96.0.10", 80),
        (NodePort, "", 30_080),
        (LoadBalancer, "192.0.2.30", 80),
    ];
    let mut web = port("web", false, &at4, &[11, 111, 112]);
    web.external_local = true;
    web.source_ranges = Some(vec![(ip("203.0.113.0"), 24)]);
    let sticky = ServicePort {
        affinity: Some(600),
        ..port("sticky", false, &[(ClusterIp, "10.96.0.13", 80)], &[])
    };
    // Endpoints of policy Cluster alone, one of them the affinity's.
    let sticky = ServicePort {
        endpoints_exist: true,
        backends: [BackendEndpoint {
            address: ip("10.1.2.11"),
            port: 8080,
            on_this_node: false,
            in_local: false,
            in_cluster: true,
        }]
        .into(),
        ..sticky
    };
    let web6 = port("web", true, &[(ClusterIp, "fd00:96::10", 80)], &[11, 111]);
    let mut all = vec![cart, local, sticky, web, web6];
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// Both halves of a translation.
fn halves<F: Family>(
    [client, frontend, source, backend]: [&str; 4],
    [key_phase, to_phase]: [Phase; 2],
    (state, created, seen): (State, u32, u32),
    device: u32,
) -> [FlowEntry<F>; 2] {
    let tuple = |from: SocketAddr, to: SocketAddr, phase| Tuple {
        source: F::from_ip(from.ip()).unwrap(),
        destination: F::from_ip(to.ip()).unwrap(),
        source_port: from.port(),
        destination_port: to.port(),
        protocol: Protocol::Tcp as u8,
        phase: phase as u8,
        reserved: 0,
    };
    let key = tuple(place(client), place(frontend), key_phase);
    let to = tuple(place(source), place(backend), to_phase);
    let action = if device == 0 {
        Action::Stack
    } else {
        Action::Neighbour
    };
    let flow = Flow {
        to,
        seen,
        created,
        device,
        twin_device: 0,
        state: state as u8,
        action: action as u8,
        flags: 0,
    };
    let twin = Flow {
        to: key.reverse(),
        flags: Flow::<F::Addr>::REVERSE,
        ..flow
    };
    [(key, flow), (to.reverse(), twin)]
}

fn flows4() -> Vec<FlowEntry<V4>> {
    use Phase::{After, Before};
    let outside = halves::<V4>(
        [
            "203.0.113.7:40000",
            "192.0.2.30:80",
            "203.0.113.7:40000",
            "10.1.1.11:8080",
        ],
        [Before, After],
        (State::Established, 4000, 4999),
        0,
    );
    let by_node = halves::<V4>(
        [
            "203.0.113.9:40001",
            "192.168.0.1:30080",
            "192.168.0.1:61007",
            "10.1.2.111:8080",
        ],
        [Before, Before],
        (State::New, 4995, 4995),
        2,
    );
    // A pod to itself: two translations in a row.
    let first = halves::<V4>(
        [
            "10.1.1.11:40002",
            "10.96.0.10:80",
            "10.1.1.11:40002",
            "10.1.1.11:8080",
        ],
        [Before, After],
        (State::Closed, 4900, 4980),
        0,
    );
    let second = halves::<V4>(
        [
            "10.1.1.11:40002",
            "10.1.1.11:8080",
            "192.168.0.1:61008",
            "10.1.1.11:8080",
        ],
        [After, Before],
        (State::Closed, 4900, 4980),
        0,
    );
    // As it may be read while the table changes: one half twice.
    let again = outside;
    [outside, by_node, first, second, again].concat()
}

fn flows6() -> Vec<FlowEntry<V6>> {
    halves::<V6>(
        [
            "[fd00:1:1::11]:40000",
            "[fd00:96::10]:80",
            "[fd00:1:1::11]:40000",
            "[fd00:1:2::111]:8080",
        ],
        [Phase::Before, Phase::After],
        (State::Established, 100, 4400),
        0,
    )
    .to_vec()
}

#[test]
fn a_frontend_says_who_is_not_served_and_why() {
    let rows = World::new().services(&Filter::default());
    let refused = |address: Option<&str>| {
        let row = rows.iter().find(|row| row.address == address.map(ip)).unwrap();
        let reasons = row
            .refused
            .iter()
            .map(|refused| (refused.clients, refused.reason));
        reasons.collect::<Vec<_>>()
    };
    for (address, expected) in [
        (Some("10.96.0.10"), vec![]),
        (Some("192.0.2.30"), vec![]),
        (None, vec![]),
        (Some("10.96.0.11"), vec![]),
        (
            Some("192.0.2.31"),
            vec![("outside", "dropped-no-local-endpoints")],
        ),
        (Some("10.96.0.12"), vec![("all", "rejected-no-endpoints")]),
    ] {
        assert_eq!(refused(address), expected, "{address:?}");
    }
}

#[test]
fn a_frontend_has_its_policies_ranges_and_table() {
    let rows = World::new().services(&Filter::default());
    let row = rows
        .iter()
        .find(|row| row.address == Some(ip("192.0.2.30")))
        .unwrap();
    assert_eq!(row.kind, "LoadBalancer");
    assert_eq!((row.internal_policy, row.external_policy), ("Cluster", "Local"));
    assert_eq!((row.backends, row.backends_on_this_node), (3, 1));
    assert_eq!((row.rows, row.rows_local), (307, 1));
    assert_eq!(row.source_ranges, Some(vec!["203.0.113.0/24".to_owned()]));
    let node_port = rows.iter().find(|row| row.address.is_none()).unwrap();
    assert_eq!(
        node_port.source_ranges, None,
        "ranges are for LoadBalancer addresses"
    );
    let sticky = rows.iter().find(|row| row.affinity_seconds.is_some()).unwrap();
    assert_eq!(sticky.service.as_ref().unwrap().name, "sticky");
}

#[test]
fn shares_of_backends_are_those_of_the_table() {
    let rows = World::new().backends(&Filter {
        service: Some("shop/web".into()),
        ..Filter::default()
    });
    let v4: Vec<_> = rows.iter().filter(|row| row.family == "IPv4").collect();
    assert_eq!(v4.len(), 3);
    assert_eq!(v4.iter().filter_map(|row| row.rows).sum::<u32>(), 307);
    let total: f64 = v4.iter().filter_map(|row| row.share).sum();
    assert!((total - 100.0).abs() < 0.1, "{total}");
    for row in v4 {
        let here = row.address == ip("10.1.1.11");
        assert_eq!(row.on_this_node, here, "{row:?}");
        assert_eq!(row.share_local, here.then_some(100.0), "{row:?}");
        assert!(
            row.share.is_some_and(|share| (30.0..37.0).contains(&share)),
            "{row:?}"
        );
    }
}

#[test]
fn a_flow_is_one_line_with_both_of_its_tuples() {
    let rows = World::new().flows(&Filter::default());
    let shown: Vec<_> = rows
        .iter()
        .map(|row| {
            let name = row.service.as_ref().map(ToString::to_string).unwrap_or_default();
            format!(
                "{name} {} > {} = {} > {} {} {} {}",
                row.client,
                row.frontend,
                row.source,
                row.backend,
                row.state,
                row.age_seconds,
                row.idle_seconds
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "shop/web:http 203.0.113.7:40000 > 192.0.2.30:80 = 203.0.113.7:40000 > 10.1.1.11:8080 established 1000 1",
            "shop/web:http 203.0.113.9:40001 > 192.168.0.1:30080 = 192.168.0.1:61007 > 10.1.2.111:8080 new 5 5",
            "shop/web:http 10.1.1.11:40002 > 10.96.0.10:80 = 192.168.0.1:61008 > 10.1.1.11:8080 closed 100 20",
            "shop/web:http [fd00:1:1::11]:40000 > [fd00:96::10]:80 = [fd00:1:1::11]:40000 > [fd00:1:2::111]:8080 \
             established 4900 600",
        ]
    );
    assert_eq!(rows[1].device.as_deref(), Some("eth0"));
    assert_eq!((rows[1].action, rows[1].expires_seconds), ("redirect", 25));
}

#[test]
fn flows_are_counted_by_what_they_have_in_common() {
    let rows = World::new().flows(&Filter::default());
    let counted = |by| {
        let rows = summary(&rows, by);
        rows.into_iter()
            .map(|row| format!("{} {}", row.name, row.flows))
            .collect::<Vec<_>>()
    };
    assert_eq!(counted(SummaryBy::Service), ["shop/web:http 4"]);
    assert_eq!(
        counted(SummaryBy::Backend),
        [
            "10.1.1.11:8080/TCP 2",
            "10.1.2.111:8080/TCP 1",
            "[fd00:1:2::111]:8080/TCP 1"
        ]
    );
    assert_eq!(counted(SummaryBy::Client).len(), 4);
}

#[test]
fn a_client_is_kept_only_where_its_backend_and_its_service_are_left() {
    let states: Vec<_> = (World::new().affinities().into_iter())
        .map(|row| {
            (
                row.idle_seconds,
                row.state,
                row.service.map(|service| service.name),
            )
        })
        .collect();
    assert_eq!(
        states,
        [
            (10, "kept", Some("sticky".to_owned())),
            (20, "service-gone", None),
            (100, "backend-gone", Some("sticky".to_owned())),
            (1000, "over", Some("sticky".to_owned())),
        ]
    );
}

#[test]
fn filters_take_names_and_addresses_and_say_what_there_is() {
    let world = World::new();
    let count = |filter: &Filter| {
        filter.check(&world.names).map(|()| {
            let (services, backends) = (world.services(filter).len(), world.backends(filter).len());
            (services, backends, world.flows(filter).len())
        })
    };
    let named = |namespace: Option<&str>, service: Option<&str>| Filter {
        namespace: namespace.map(str::to_owned),
        service: service.map(str::to_owned),
        address: None,
    };
    let about = |address: &str| Filter {
        address: Some(ip(address)),
        ..Filter::default()
    };
    for (filter, expected) in [
        (named(Some("shop"), None), (8, 7, 4)),
        (named(None, Some("web")), (4, 5, 4)),
        (named(None, Some("shop/cart")), (1, 0, 0)),
        (about("10.96.0.11"), (1, 0, 0)),
        // A Service's line is wanted for its backends too.
        (about("10.1.2.112"), (3, 1, 0)),
        (about("203.0.113.9"), (0, 0, 1)),
    ] {
        assert_eq!(count(&filter), Ok(expected), "{filter:?}");
    }
    for (filter, words) in [
        (
            named(Some("shpo"), None),
            "no Service of namespace `shpo` is served on this node; there are Services in: shop",
        ),
        (
            named(None, Some("wbe")),
            "no Service `wbe` is served on this node; there are: shop/cart, shop/local, shop/sticky, shop/web",
        ),
    ] {
        assert_eq!(count(&filter).unwrap_err().to_string(), words);
    }
    let unnamed = named(None, Some("web")).check(&Names::default());
    assert_eq!(unnamed, Err(UnknownName::NoNames));
}

#[test]
fn without_names_there_are_addresses() {
    let mut world = World::new();
    world.names = Names::default();
    let rows = world.services(&Filter::default());
    assert_eq!(rows.len(), 8);
    assert!(rows.iter().all(|row| row.service.is_none()));
    assert!(
        table(&rows, false).contains("?         ClusterIP      10.96.0.10:80/TCP"),
        "{}",
        table(&rows, false)
    );
}
