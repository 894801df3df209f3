//! Objects in, desired state out, rule by rule.

use lb_common::abi::Protocol;

use super::{super::*, *};

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A Service `shop/NAME` on `172.30.0.1` with one port `http`, 80/TCP.
pub(super) fn service(name: &str) -> Service {
    Service {
        key: ObjectKey::new("shop", name),
        created: Some(100),
        cluster_ips: vec![ip("172.30.0.1")],
        passed_by: None,
        external_ips: vec![],
        ingress: vec![],
        ports: vec![port("http", 80)],
        internal_local: false,
        external_local: false,
        affinity: None,
        source_ranges: SourceRanges::default(),
        health_check_port: None,
    }
}

pub(super) fn port(name: &str, port: u16) -> Port {
    Port {
        name: name.into(),
        protocol: Protocol::Tcp,
        port,
        node_port: None,
    }
}

/// A slice `shop/NAME` of the Service `web`, port `http` = 8080.
pub(super) fn slice(name: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        key: ObjectKey::new("shop", name),
        service: "web".into(),
        ipv6: false,
        ports: vec![EndpointPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: endpoints.into(),
        triggered: None,
    }
}

pub(super) fn endpoint(address: &str, node: &str) -> Endpoint {
    Endpoint {
        address: ip(address),
        node: Some(node).filter(|node| !node.is_empty()).map(Into::into),
        ready: true,
        serving: true,
        terminating: false,
        for_zones: [].into(),
        for_nodes: [].into(),
    }
}

fn draining(address: &str, node: &str) -> Endpoint {
    Endpoint {
        ready: false,
        terminating: true,
        ..endpoint(address, node)
    }
}

pub(super) fn node(name: &str, zone: &str, ready: bool, address: &str) -> NodeObject {
    NodeObject {
        name: name.into(),
        zone: Some(zone.to_owned()).filter(|zone| !zone.is_empty()),
        ready,
        leaving: false,
        addresses: vec![ip(address)],
        pod_prefixes: vec![],
    }
}

/// The index of `node-a`, and what it marked as changed since.
struct Bench {
    index: Index,
}

impl Bench {
    fn new(services: Vec<Service>, slices: Vec<EndpointSlice>) -> Self {
        let mut index = Index::new(NodeIdentity::new("node-a"));
        services
            .into_iter()
            .for_each(|service| index.apply(Change::ServiceApplied(service)));
        slices
            .into_iter()
            .for_each(|slice| index.apply(Change::SliceApplied(slice)));
        index.take_changed();
        Self { index }
    }

    /// Applies a change; says which Services may differ.
    fn apply(&mut self, change: Change) -> Vec<String> {
        self.index.apply(change);
        self.index
            .take_changed()
            .services
            .into_iter()
            .map(|key| key.name)
            .collect()
    }

    /// The only port of a Service, if it is served.
    fn port(&self, name: &str) -> Option<ServicePort> {
        let mut ports = self.index.desired_service(&ObjectKey::new("shop", name));
        assert!(ports.len() < 2, "{ports:#?}");
        ports.pop()
    }

    /// Backends of `web` as `address:port` with `L` for Local, `C` for Cluster, `*` on this node.
    fn backends(&self) -> Vec<String> {
        let flag = |set, text| if set { text } else { "" };
        let backends = self.port("web").expect("it is served").backends;
        let describe = |b: &BackendEndpoint| {
            let flags = [
                flag(b.in_local, "L"),
                flag(b.in_cluster, "C"),
                flag(b.on_this_node, "*"),
            ]
            .concat();
            format!("{}:{} {flags}", b.address, b.port)
        };
        backends.iter().map(describe).collect()
    }
}

#[test]
fn a_service_with_every_kind_of_address_is_laid_out_by_family() {
    let node_port = Port {
        node_port: Some(30001),
        ..port("http", 80)
    };
    let ingress = |text, proxied| Ingress {
        address: ip(text),
        proxied,
    };
    let web = Service {
        cluster_ips: vec![ip("172.30.0.1"), ip("fd00:172:30::1")],
        passed_by: None,
        external_ips: vec![ip("198.51.100.1"), ip("192.0.2.1")],
        ingress: vec![
            ingress("192.0.2.1", false),
            ingress("192.0.2.2", true),
            ingress("2001:db8::1", false),
        ],
        ports: vec![node_port],
        external_local: true,
        affinity: Some(30),
        ..service("web")
    };
    let bench = Bench::new(
        vec![web],
        vec![slice("web-1", vec![endpoint("10.0.0.1", "node-a")])],
    );
    let frontend = |address: Option<&str>, port, kind| FrontendAddress {
        address: address.map(ip),
        port,
        kind,
    };
    let id = |ipv6| ServicePortId {
        namespace: "shop".into(),
        name: "web".into(),
        port_name: "http".into(),
        protocol: Protocol::Tcp,
        ipv6,
    };
    assert_eq!(
        bench.index.desired(),
        DesiredState {
            services: vec![
                ServicePort {
                    id: id(false),
                    frontends: vec![
                        frontend(None, 30001, FrontendKind::NodePort),
                        frontend(Some("172.30.0.1"), 80, FrontendKind::ClusterIp),
                        frontend(Some("192.0.2.1"), 80, FrontendKind::LoadBalancer),
                        frontend(Some("198.51.100.1"), 80, FrontendKind::ExternalIp),
                    ],
                    internal_local: false,
                    external_local: true,
                    endpoints_exist: true,
                    affinity: Some(30),
                    source_ranges: None,
                    backends: [BackendEndpoint {
                        address: ip("10.0.0.1"),
                        port: 8080,
                        on_this_node: true,
                        in_local: true,
                        in_cluster: true,
                    }]
                    .into(),
                    serving: [(ip("10.0.0.1"), 8080)].into(),
                },
                ServicePort {
                    id: id(true),
                    frontends: vec![
                        frontend(None, 30001, FrontendKind::NodePort),
                        frontend(Some("2001:db8::1"), 80, FrontendKind::LoadBalancer),
                        frontend(Some("fd00:172:30::1"), 80, FrontendKind::ClusterIp),
                    ],
                    internal_local: false,
                    external_local: true,
                    endpoints_exist: false,
                    affinity: Some(30),
                    source_ranges: None,
                    backends: [].into(),
                    serving: [].into(),
                },
            ],
            other_nodes: vec![],
            problems: vec![],
        }
    );
}

#[test]
fn a_family_without_a_cluster_ip_is_not_served_at_all() {
    let web = Service {
        passed_by: None,
        external_ips: vec![ip("2001:db8::1")],
        ports: vec![Port {
            node_port: Some(30001),
            ..port("http", 80)
        }],
        ..service("web")
    };
    let bench = Bench::new(vec![web], vec![]);
    assert_eq!(bench.port("web").map(|port| port.id.ipv6), Some(false));
}

#[test]
fn ports_match_by_name_and_protocol_never_by_number() {
    let other_name = EndpointPort {
        name: "other".into(),
        protocol: Protocol::Tcp,
        port: 80,
    };
    let other_protocol = EndpointPort {
        name: "http".into(),
        protocol: Protocol::Udp,
        port: 80,
    };
    let strangers = EndpointSlice {
        ports: vec![other_name, other_protocol],
        ..slice("web-2", vec![endpoint("10.0.0.2", "")])
    };
    let elsewhere = EndpointSlice {
        ports: vec![EndpointPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 9090,
        }],
        ..slice("web-3", vec![endpoint("10.0.0.3", "")])
    };
    let bench = Bench::new(
        vec![service("web")],
        vec![
            slice("web-1", vec![endpoint("10.0.0.1", "")]),
            strangers,
            elsewhere,
        ],
    );
    assert_eq!(bench.backends(), ["10.0.0.1:8080 C", "10.0.0.3:9090 C"]);
}

#[test]
fn an_endpoint_in_two_slices_is_one_and_outlives_either() {
    let both = vec![
        slice(
            "web-1",
            vec![endpoint("10.0.0.1", "node-a"), endpoint("10.0.0.2", "node-b")],
        ),
        slice("web-2", vec![endpoint("10.0.0.1", "node-a")]),
    ];
    for gone in ["web-1", "web-2"] {
        let mut bench = Bench::new(vec![service("web")], both.clone());
        assert_eq!(bench.backends(), ["10.0.0.1:8080 C*", "10.0.0.2:8080 C"]);
        assert_eq!(
            bench.apply(Change::SliceDeleted(ObjectKey::new("shop", gone))),
            ["web"]
        );
        assert_eq!(bench.backends()[0], "10.0.0.1:8080 C*", "without {gone}");
    }
}

#[test]
fn of_copies_that_disagree_the_local_one_wins_then_the_healthier() {
    for (description, copies, expected) in [
        (
            "local",
            [draining("10.0.0.1", "node-a"), endpoint("10.0.0.1", "node-b")],
            "10.0.0.1:8080 C*",
        ),
        (
            "healthier",
            [draining("10.0.0.1", ""), endpoint("10.0.0.1", "")],
            "10.0.0.1:8080 C",
        ),
    ] {
        let [one, two] = copies;
        for (first, second) in [(&one, &two), (&two, &one)] {
            let slices = vec![
                slice("web-1", vec![first.clone()]),
                slice("web-2", vec![second.clone()]),
            ];
            let bench = Bench::new(vec![service("web")], slices);
            assert_eq!(bench.backends(), [expected], "{description}");
        }
    }
}

#[test]
fn a_slice_may_change_its_service() {
    let mut bench = Bench::new(
        vec![
            service("web"),
            Service {
                cluster_ips: vec![ip("172.30.0.2")],
                ..service("api")
            },
        ],
        vec![slice("s", vec![endpoint("10.0.0.1", "")])],
    );
    let moved = EndpointSlice {
        service: "api".into(),
        ..slice("s", vec![endpoint("10.0.0.1", "")])
    };
    assert_eq!(bench.apply(Change::SliceApplied(moved)), ["api", "web"]);
    assert_eq!(bench.backends(), [""; 0]);
    assert_eq!(bench.port("api").map(|port| port.backends.len()), Some(1));
}

#[test]
fn policies_decide_which_scopes_are_filled() {
    let endpoints = vec![
        endpoint("10.0.0.1", "node-a"),
        endpoint("10.0.0.2", "node-b"),
        draining("10.0.0.3", "node-a"),
    ];
    let here_both = ["10.0.0.1:8080 LC*", "10.0.0.2:8080 C"];
    for (description, internal_local, external_local, exposed, external, expected) in [
        (
            "Cluster",
            false,
            false,
            true,
            false,
            &["10.0.0.1:8080 C*", "10.0.0.2:8080 C"][..],
        ),
        ("external Local", false, true, true, true, &here_both),
        (
            "external Local that nothing is exposed to",
            false,
            true,
            false,
            false,
            &["10.0.0.1:8080 C*", "10.0.0.2:8080 C"],
        ),
        ("internal Local", true, false, false, false, &["10.0.0.1:8080 L*"]),
        ("internal Local, exposed", true, false, true, false, &here_both),
        ("both Local", true, true, true, true, &here_both),
    ] {
        let external_ips = if exposed { vec![ip("198.51.100.1")] } else { vec![] };
        let web = Service {
            internal_local,
            external_local,
            external_ips,
            ..service("web")
        };
        let bench = Bench::new(vec![web], vec![slice("web-1", endpoints.clone())]);
        assert_eq!(bench.backends(), expected, "{description}");
        let port = bench.port("web").expect("it is served");
        assert_eq!(
            (port.internal_local, port.external_local),
            (internal_local, external),
            "{description}"
        );
        assert_eq!(port.serving.len(), 3, "{description}: all can keep their flows");
    }
}

#[test]
fn an_address_that_only_a_proxy_may_serve_does_not_expose_a_port() {
    let ingress = vec![Ingress {
        address: ip("192.0.2.1"),
        proxied: true,
    }];
    let web = Service {
        ingress,
        external_local: true,
        ..service("web")
    };
    let port = Bench::new(vec![web], vec![]).port("web").expect("it is served");
    assert_eq!((port.frontends.len(), port.external_local), (1, false));
}

#[test]
fn the_own_zone_and_the_health_of_other_nodes_take_effect_at_run_time() {
    let hinted = |address, zone: &str| Endpoint {
        for_zones: [zone.into()].into(),
        ..endpoint(address, "node-b")
    };
    let mut bench = Bench::new(
        vec![service("web")],
        vec![slice("s", vec![hinted("10.0.0.1", "a"), hinted("10.0.0.2", "b")])],
    );
    assert_eq!(bench.backends().len(), 2, "no zone: no hints");
    assert_eq!(
        bench.apply(Change::NodeApplied(node("node-a", "a", true, "192.168.0.2"))),
        ["web"]
    );
    assert_eq!(bench.backends(), ["10.0.0.1:8080 C"]);
    assert_eq!(
        bench.apply(Change::NodeApplied(node("node-a", "a", false, "192.168.0.2"))),
        [""; 0]
    );

    bench.apply(Change::SliceApplied(slice(
        "s",
        vec![draining("10.0.0.1", "node-b"), draining("10.0.0.2", "node-a")],
    )));
    assert_eq!(bench.backends().len(), 2);
    assert_eq!(
        bench.apply(Change::NodeApplied(node("node-b", "", false, "192.168.0.3"))),
        ["web"]
    );
    assert_eq!(
        bench.backends(),
        ["10.0.0.2:8080 C*"],
        "this node's own health is not the cluster's to judge"
    );
    assert_eq!(bench.apply(Change::NodeDeleted("node-b".into())), ["web"]);
    assert_eq!(bench.backends().len(), 2, "nothing is known of it");
}

#[test]
fn other_nodes_are_all_addresses_of_all_nodes_but_this_one() {
    let mut bench = Bench::new(vec![], vec![]);
    for (name, address) in [
        ("node-c", "192.168.0.4"),
        ("node-a", "192.168.0.2"),
        ("node-b", "192.168.0.3"),
    ] {
        bench
            .index
            .apply(Change::NodeApplied(node(name, "", true, address)));
        assert!(bench.index.take_changed().nodes);
    }
    // Misconfigured: it claims an address of ours.
    bench
        .index
        .apply(Change::NodeApplied(node("node-d", "", true, "192.168.0.2")));
    assert_eq!(bench.index.other_nodes(), [ip("192.168.0.3"), ip("192.168.0.4")]);
    assert_eq!(
        bench.index.this_node().map(|node| node.name.as_str()),
        Some("node-a")
    );
}

#[test]
fn the_older_service_keeps_an_address_and_hands_it_over_when_it_goes() {
    let shared = |name: &str, created, cluster_ip: &str| Service {
        created,
        cluster_ips: vec![ip(cluster_ip)],
        passed_by: None,
        external_ips: vec![ip("198.51.100.1")],
        ..service(name)
    };
    let old = shared("old", Some(1), "172.30.0.1");
    let newcomers = [
        shared("a-newer", Some(2), "172.30.0.2"),
        shared("b-as-new", Some(2), "172.30.0.3"),
        shared("a-of-unknown-age", None, "172.30.0.4"),
    ];
    for newcomer in newcomers {
        let name = newcomer.key.name.clone();
        let mut bench = Bench::new(vec![newcomer], vec![]);
        let frontends = |bench: &Bench, name: &str| bench.port(name).map_or(0, |port| port.frontends.len());
        assert_eq!(frontends(&bench, &name), 2);

        let mut expected = vec!["old".to_owned(), name.clone()];
        expected.sort();
        assert_eq!(
            bench.apply(Change::ServiceApplied(old.clone())),
            expected,
            "both differ now"
        );
        assert_eq!((frontends(&bench, "old"), frontends(&bench, &name)), (2, 1));
        let problems = bench.index.problems();
        assert_eq!(
            (problems.len(), problems[0].object.as_str()),
            (1, &*format!("Service shop/{name}"))
        );
        for word in [
            "198.51.100.1 port 80/TCP",
            "Service shop/old",
            "change the address or the port",
        ] {
            assert!(problems[0].message.contains(word), "{problems:?}");
        }

        assert_eq!(bench.apply(Change::ServiceDeleted(old.key.clone())), expected);
        assert_eq!((frontends(&bench, "old"), frontends(&bench, &name)), (0, 2));
        assert_eq!(bench.index.problems(), []);
    }
}

#[test]
fn the_same_address_with_another_port_or_protocol_is_no_conflict() {
    let udp = Port {
        protocol: Protocol::Udp,
        ..port("udp", 80)
    };
    let bench = Bench::new(
        vec![
            service("web"),
            Service {
                ports: vec![port("alt", 81)],
                ..service("alt")
            },
            Service {
                ports: vec![udp],
                ..service("udp")
            },
        ],
        vec![],
    );
    assert_eq!(
        (bench.index.desired().services.len(), bench.index.problems()),
        (3, vec![])
    );
}

#[test]
fn a_service_that_owns_none_of_its_addresses_is_not_served() {
    let bench = Bench::new(vec![service("a"), service("b")], vec![]);
    assert!(bench.port("a").is_some() && bench.port("b").is_none());
}

#[test]
fn one_changed_endpoint_among_many_services_concerns_one() {
    let many = (0..200u8).map(|n| Service {
        cluster_ips: vec![ip(&format!("172.30.1.{n}"))],
        ..service(&format!("s{n}"))
    });
    let mut bench = Bench::new(many.chain([service("web")]).collect(), vec![slice("s", vec![])]);
    let changed = slice("s", vec![endpoint("10.0.0.1", "")]);
    assert_eq!(bench.apply(Change::SliceApplied(changed.clone())), ["web"]);
    assert_eq!(
        bench.apply(Change::SliceApplied(changed)),
        [""; 0],
        "a repetition concerns nobody"
    );
    assert!(bench.index.take_changed().is_empty());
}

#[test]
fn reported_problems_are_replaced_subject_by_subject() {
    let mut bench = Bench::new(vec![], vec![]);
    let mut report = |subject: &str, messages: &[&str]| {
        let problem = |m: &&str| Problem {
            object: subject.into(),
            message: (*m).into(),
        };
        let problems = messages.iter().map(problem).collect();
        bench.index.apply(Change::Reported {
            subject: subject.into(),
            problems,
        });
        (bench.index.take_changed().problems, bench.index.problems().len())
    };
    assert_eq!(report("x", &["one", "two"]), (true, 2));
    assert_eq!(report("y", &["one"]), (true, 3));
    assert_eq!(report("x", &["one"]), (true, 2));
    assert_eq!(report("x", &["one"]), (false, 2));
    assert_eq!(report("x", &[]), (true, 1));
    assert_eq!(report("z", &[]), (false, 1));
}
