//! Manifests as people write them, and what becomes of them.

use std::time::Duration;

use super::*;

fn read<K: Object>(manifest: &str) -> Converted {
    serde_norway::from_str::<K>(manifest)
        .expect("the manifest is of its kind")
        .convert(&Annotations::default())
}

fn service(manifest: &str) -> (Service, Vec<String>) {
    let converted = read::<core::Service>(manifest);
    match converted.change {
        Change::ServiceApplied(service) => (service, messages(converted.problems)),
        other => panic!("{other:?}, {:?}", converted.problems),
    }
}

fn slice(manifest: &str) -> (EndpointSlice, Vec<String>) {
    let converted = read::<discovery::EndpointSlice>(manifest);
    match converted.change {
        Change::SliceApplied(slice) => (slice, messages(converted.problems)),
        other => panic!("{other:?}, {:?}", converted.problems),
    }
}

fn messages(problems: Vec<Problem>) -> Vec<String> {
    problems
        .into_iter()
        .map(|problem| format!("{}: {}", problem.object, problem.message))
        .collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("the test is right")
}

/// A Service of which the test gives the labels and the rest of the spec.
fn manifest(labels: &str, spec: &str) -> String {
    format!(
        "{{metadata: {{name: web, namespace: shop, labels: {{{labels}}}}}, \
         spec: {{ports: [{{name: http, port: 80}}], {spec}}}}}"
    )
}

#[test]
fn a_load_balancer_service_is_converted_field_by_field() {
    let (service, problems) = service(
        "
metadata: {name: web, namespace: shop, creationTimestamp: '2026-01-02T03:04:05Z'}
spec:
  type: LoadBalancer
  clusterIP: 172.30.0.041
  clusterIPs: [172.30.0.041, 'fd00:172:30::29']
  ipFamilies: [IPv4, IPv6]
  externalTrafficPolicy: Local
  internalTrafficPolicy: Cluster
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 30}}
  externalIPs: [198.51.100.022]
  healthCheckNodePort: 31000
  loadBalancerSourceRanges: [' 203.0.113.077/025', '2001:db8:c11e:a::/64 ', '']
  ports:
  - {name: http, port: 80, targetPort: web, nodePort: 30001}
  - {name: dns, port: 53, protocol: UDP, nodePort: 30002}
  - {name: sig, port: 53, protocol: SCTP}
status:
  loadBalancer:
    ingress:
    - {ip: 192.0.2.004}
    - {ip: 192.0.2.5, ipMode: Proxy}
    - {ip: '2001:db8:1ba::a', ipMode: VIP}
    - {hostname: lb.example.com}
",
    );
    let port = |name: &str, protocol, port, node_port| Port {
        name: name.into(),
        protocol,
        port,
        node_port,
    };
    let ingress = |text, proxied| Ingress {
        address: ip(text),
        proxied,
    };
    assert_eq!(
        service,
        Service {
            key: ObjectKey::new("shop", "web"),
            created: Some(1_767_323_045),
            cluster_ips: vec![ip("172.30.0.41"), ip("fd00:172:30::29")],
            passed_by: None,
            external_ips: vec![ip("198.51.100.22")],
            ingress: vec![
                ingress("192.0.2.4", false),
                ingress("192.0.2.5", true),
                ingress("2001:db8:1ba::a", false)
            ],
            ports: vec![
                port("http", Protocol::Tcp, 80, Some(30001)),
                port("dns", Protocol::Udp, 53, Some(30002)),
                port("sig", Protocol::Sctp, 53, None),
            ],
            internal_local: false,
            external_local: true,
            affinity: Some(30),
            source_ranges: SourceRanges {
                ranges: vec![(ip("203.0.113.0"), 25), (ip("2001:db8:c11e:a::"), 64)],
                unreadable: false,
            },
            health_check_port: Some(31_000),
        }
    );
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn services_that_are_not_ours_are_deleted_without_a_word() {
    for (why, labels, spec) in [
        ("headless", "", "clusterIP: None"),
        (
            "headless, written twice",
            "",
            "clusterIP: None, clusterIPs: [None]",
        ),
        (
            "ExternalName with a left-over address",
            "",
            "type: ExternalName, clusterIP: 172.30.0.1",
        ),
        (
            "ExternalName",
            "",
            "type: ExternalName, externalName: example.com",
        ),
        (
            "another proxy's",
            "service.kubernetes.io/service-proxy-name: other",
            "clusterIP: 172.30.0.1",
        ),
        (
            "marked headless",
            "service.kubernetes.io/headless: ''",
            "clusterIP: 172.30.0.1",
        ),
    ] {
        let converted = read::<core::Service>(&manifest(labels, spec));
        let gone = Change::ServiceDeleted(ObjectKey::new("shop", "web"));
        assert_eq!(
            converted,
            Converted {
                change: gone,
                problems: Vec::new()
            },
            "{why}"
        );
    }
}

#[test]
fn a_service_that_was_never_given_an_address_is_not_served_and_says_what_to_do() {
    for spec in [
        "type: ClusterIP",
        "type: NodePort",
        "clusterIP: ''",
        "clusterIPs: []",
    ] {
        let converted = read::<core::Service>(&manifest("", spec));
        assert_eq!(
            converted.change,
            Change::ServiceDeleted(ObjectKey::new("shop", "web")),
            "{spec}"
        );
        let said = messages(converted.problems);
        assert!(
            said[0].starts_with("Service shop/web: ") && said[0].contains("set spec.clusterIP"),
            "{said:?}"
        );
    }
}

#[test]
fn what_is_wrong_in_a_service_is_named_and_the_rest_is_served() {
    for (spec, left, said) in [
        ("clusterIPs: [172.30.0.1, junk]", 1, "\"junk\" is not an address"),
        (
            "clusterIPs: [172.30.0.1, 172.30.0.2]",
            1,
            "two addresses of one family",
        ),
        (
            "clusterIP: 172.30.0.1, externalIPs: [0.0.0.0]",
            1,
            "0.0.0.0 is loopback, link-local or otherwise",
        ),
        (
            "clusterIP: 172.30.0.1, ports: [{port: 80}, {name: b, port: 99999}]",
            1,
            "99999 is no port number",
        ),
        (
            "clusterIP: 172.30.0.1, ports: [{port: 80, protocol: DCCP}]",
            0,
            "\"DCCP\" is not TCP, UDP or SCTP",
        ),
        (
            "clusterIP: 172.30.0.1, ports: [{port: 80}, {port: 81}]",
            1,
            "another port has its name",
        ),
        (
            "clusterIP: 172.30.0.1, ports: [{name: a, port: 80}, {name: b, port: 80}]",
            1,
            "another port has its name",
        ),
        (
            "clusterIP: 172.30.0.1, type: NodePort, ports: [{name: a, port: 1, nodePort: 30001}, \
             {name: b, port: 2, nodePort: 30001}]",
            1,
            "another port has its name",
        ),
    ] {
        let manifest = match spec.contains("ports:") {
            true => format!("{{metadata: {{name: web, namespace: shop}}, spec: {{{spec}}}}}"),
            false => manifest("", spec),
        };
        let (service, problems) = service(&manifest);
        assert_eq!(service.cluster_ips, [ip("172.30.0.1")], "{spec}");
        assert_eq!(service.ports.len(), left, "{spec}");
        assert!(
            problems.len() == 1 && problems[0].contains(said),
            "{spec}: {problems:?}"
        );
    }
}

#[test]
fn defaults_are_those_of_the_api() {
    let (plain, _) = service(&manifest("", "clusterIP: 172.30.0.1"));
    assert_eq!(plain.affinity, None);
    assert!(!plain.internal_local && !plain.external_local);
    assert_eq!(plain.ports[0].protocol, Protocol::Tcp);
    let (sticky, _) = service(&manifest("", "clusterIP: 172.30.0.1, sessionAffinity: ClientIP"));
    assert_eq!(sticky.affinity, Some(10_800));
}

#[test]
fn node_ports_and_status_addresses_count_only_for_the_types_that_have_them() {
    for (kind, node_port, ingress) in [
        ("ClusterIP", None, 0),
        ("NodePort", Some(30001), 0),
        ("LoadBalancer", Some(30001), 1),
    ] {
        let (service, problems) = service(&format!(
            "{{metadata: {{name: web, namespace: shop}}, spec: {{type: {kind}, clusterIP: 172.30.0.1, \
             ports: [{{port: 80, nodePort: 30001}}]}}, status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.1}}]}}}}}}"
        ));
        assert_eq!(
            (service.ports[0].node_port, service.ingress.len()),
            (node_port, ingress),
            "{kind}"
        );
        assert_eq!(problems, Vec::<String>::new());
    }
}

#[test]
fn source_ranges_count_for_load_balancers_and_what_cannot_be_read_of_them_lets_nobody_in() {
    let everybody: Option<&[&str]> = None;
    for (kind, ranges, v4, v6, said) in [
        ("LoadBalancer", "[]", everybody, everybody, 0),
        ("LoadBalancer", "['', ' ']", None, None, 0),
        (
            "LoadBalancer",
            "[10.0.0.0/8, ' 192.0.2.7/24 ', 010.0.0.0/08]",
            Some(&["10.0.0.0/8", "192.0.2.0/24"][..]),
            None,
            0,
        ),
        ("LoadBalancer", "['fd00::/8']", None, Some(&["fd00::/8"]), 0),
        (
            "LoadBalancer",
            "[10.0.0.0/8, junk]",
            Some(&["10.0.0.0/8"]),
            Some(&[]),
            1,
        ),
        ("LoadBalancer", "[10.0.0.0]", Some(&[]), Some(&[]), 1),
        ("NodePort", "[10.0.0.0/8]", None, None, 0),
        ("ClusterIP", "[junk]", None, None, 0),
    ] {
        let spec = format!("type: {kind}, clusterIP: 172.30.0.1, loadBalancerSourceRanges: {ranges}");
        let (service, problems) = service(&manifest("", &spec));
        for (ipv6, expected) in [(false, v4), (true, v6)] {
            let found = service.source_ranges.of_family(ipv6);
            let texts = found.map(|ranges| {
                let text = |(address, bits): &(IpAddr, u8)| format!("{address}/{bits}");
                ranges.iter().map(text).collect::<Vec<_>>()
            });
            let expected = expected.map(|expected| expected.iter().map(ToString::to_string).collect());
            assert_eq!(texts, expected, "{kind} {ranges} ipv6 {ipv6}");
        }
        assert_eq!(problems.len(), said, "{kind} {ranges}: {problems:?}");
    }
}

#[test]
fn a_health_check_port_is_that_of_a_load_balancer_with_policy_local() {
    for (kind, policy, port, expected, said) in [
        ("LoadBalancer", "Local", 31_000, Some(31_000), 0),
        ("LoadBalancer", "Cluster", 31_000, None, 0),
        ("LoadBalancer", "Local", 0, None, 0),
        ("LoadBalancer", "Local", 99_999, None, 1),
        ("NodePort", "Local", 31_000, None, 0),
        ("ClusterIP", "Local", 31_000, None, 0),
    ] {
        let spec = format!(
            "type: {kind}, clusterIP: 172.30.0.1, externalTrafficPolicy: {policy}, healthCheckNodePort: {port}"
        );
        let (service, problems) = service(&manifest("", &spec));
        assert_eq!(
            (service.health_check_port, problems.len()),
            (expected, said),
            "{spec}"
        );
    }
}

#[test]
fn a_slice_is_converted_field_by_field_with_the_defaults_of_its_conditions() {
    let (slice, problems) = slice(
        "
metadata:
  name: web-1
  namespace: shop
  labels: {kubernetes.io/service-name: web}
  annotations: {endpoints.kubernetes.io/last-change-trigger-time: '2026-01-02T03:04:05.5Z'}
addressType: IPv4
ports:
- {name: http, port: 8080}
- {name: dns, port: 53, protocol: UDP}
endpoints:
- addresses: [10.180.00.001, 10.180.0.99]
- addresses: [10.180.0.2]
  nodeName: node-a
  conditions: {ready: false, terminating: true}
  hints: {forZones: [{name: zone-a}, {name: zone-b}], forNodes: [{name: node-a}]}
- addresses: [10.180.0.3]
  conditions: {ready: true, serving: false}
",
    );
    let endpoint = |address: &str, ready, serving, terminating| Endpoint {
        address: ip(address),
        node: None,
        ready,
        serving,
        terminating,
        for_zones: [].into(),
        for_nodes: [].into(),
    };
    let port = |name: &str, protocol, port| EndpointPort {
        name: name.into(),
        protocol,
        port,
    };
    assert_eq!(
        slice,
        EndpointSlice {
            key: ObjectKey::new("shop", "web-1"),
            service: "web".into(),
            ipv6: false,
            ports: vec![port("http", Protocol::Tcp, 8080), port("dns", Protocol::Udp, 53)],
            endpoints: [
                endpoint("10.180.0.1", true, true, false),
                Endpoint {
                    node: Some("node-a".into()),
                    for_zones: ["zone-a".into(), "zone-b".into()].into(),
                    for_nodes: ["node-a".into()].into(),
                    ..endpoint("10.180.0.2", false, true, true)
                },
                endpoint("10.180.0.3", true, false, false),
            ]
            .into(),
            triggered: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_500)),
        }
    );
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn slices_that_feed_nobody_are_deleted_without_a_word() {
    for (why, labels, kind) in [
        ("no Service", "", "IPv4"),
        ("names", "kubernetes.io/service-name: web", "FQDN"),
        (
            "headless",
            "kubernetes.io/service-name: web, service.kubernetes.io/headless: ''",
            "IPv4",
        ),
        (
            "other",
            "kubernetes.io/service-name: web, service.kubernetes.io/service-proxy-name: x",
            "IPv4",
        ),
    ] {
        let converted = read::<discovery::EndpointSlice>(&format!(
            "{{metadata: {{name: s, namespace: shop, labels: {{{labels}}}}}, addressType: {kind}, endpoints: []}}"
        ));
        let gone = Change::SliceDeleted(ObjectKey::new("shop", "s"));
        assert_eq!(
            converted,
            Converted {
                change: gone,
                problems: Vec::new()
            },
            "{why}"
        );
    }
}

#[test]
fn what_is_wrong_in_a_slice_is_named_and_the_rest_is_used() {
    let (slice, problems) = slice(
        "
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http}, {port: 80}, {name: http, port: 0}, {name: http, port: 80}]
endpoints:
- addresses: []
- addresses: [nonsense]
- addresses: [10.0.0.1]
- addresses: ['::1']
- addresses: ['fd00::1']
",
    );
    assert_eq!(slice.ports.len(), 1);
    assert_eq!(slice.endpoints.len(), 1);
    let expected = [
        "without name or number",
        "without name or number",
        "0 is no port number",
        "without address",
        "\"nonsense\" is not an address",
        "not of the slice's addressType",
        "::1 is loopback",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(
            problem.starts_with("EndpointSlice shop/web-1: ") && problem.contains(expected),
            "{problem}"
        );
    }
}

#[test]
fn a_node_is_reduced_to_zone_health_addresses_and_pods() {
    let converted = read::<core::Node>(
        "
metadata: {name: node-b, labels: {topology.kubernetes.io/zone: zone-b}}
spec: {podCIDR: 10.180.1.0/24, podCIDRs: [10.180.1.0/24, 'fd00:10:180:1::/64']}
status:
  addresses:
  - {type: InternalIP, address: 192.168.0.3}
  - {type: InternalIP, address: '2001:db8:0:1::3'}
  - {type: ExternalIP, address: 203.0.113.7}
  - {type: Hostname, address: node-b}
  conditions: [{type: MemoryPressure, status: 'False'}, {type: Ready, status: 'True'}]
",
    );
    let node = NodeObject {
        name: "node-b".into(),
        zone: Some("zone-b".into()),
        ready: true,
        leaving: false,
        addresses: vec![ip("192.168.0.3"), ip("2001:db8:0:1::3")],
        pod_prefixes: vec![(ip("10.180.1.0"), 24), (ip("fd00:10:180:1::"), 64)],
    };
    assert_eq!(
        converted,
        Converted {
            change: Change::NodeApplied(node),
            problems: Vec::new()
        }
    );
}

#[test]
fn a_node_is_ready_unless_its_condition_says_otherwise() {
    for (conditions, expected) in [
        ("[]", true),
        ("[{type: DiskPressure, status: 'True'}]", true),
        ("[{type: Ready, status: 'True'}]", true),
        ("[{type: Ready, status: 'False'}]", false),
        ("[{type: Ready, status: Unknown}]", false),
    ] {
        let text = format!("{{metadata: {{name: n}}, status: {{conditions: {conditions}}}}}");
        match read::<core::Node>(&text).change {
            Change::NodeApplied(node) => assert_eq!(node.ready, expected, "{conditions}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_empty_zone_label_is_no_zone() {
    let text = "{metadata: {name: n, labels: {topology.kubernetes.io/zone: ''}}}";
    match read::<core::Node>(text).change {
        Change::NodeApplied(node) => assert_eq!(node.zone, None),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_is_leaving_if_it_is_being_deleted_or_the_autoscaler_has_marked_it() {
    for (what, node, expected) in [
        ("plain", "{metadata: {name: n}}", false),
        (
            "another taint",
            "{metadata: {name: n}, spec: {taints: [{key: node.kubernetes.io/unschedulable, effect: NoSchedule}]}}",
            false,
        ),
        (
            "marked",
            "{metadata: {name: n}, spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}}",
            true,
        ),
        (
            "being deleted",
            "{metadata: {name: n, deletionTimestamp: '2026-01-02T03:04:05Z'}}",
            true,
        ),
    ] {
        match read::<core::Node>(node).change {
            Change::NodeApplied(node) => assert_eq!(node.leaving, expected, "{what}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_trigger_time_that_cannot_be_read_is_none_and_no_problem() {
    for (text, expected) in [
        ("'2026-01-02T03:04:05Z'", true),
        ("'2026-01-02T03:04:05.123456789+01:00'", true),
        ("yesterday", false),
        ("''", false),
    ] {
        let (slice, problems) = slice(&format!(
            "{{metadata: {{name: s, labels: {{kubernetes.io/service-name: web}}, \
             annotations: {{endpoints.kubernetes.io/last-change-trigger-time: {text}}}}}, \
             addressType: IPv4, endpoints: []}}"
        ));
        assert_eq!(slice.triggered.is_some(), expected, "{text}");
        assert_eq!(problems, Vec::<String>::new());
    }
}
