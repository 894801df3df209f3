//! What is limited: externalIPs to their ranges, clients of load balancers to theirs.

use super::{
    super::*,
    tests::{ip, service},
    *,
};

#[test]
fn external_ips_are_served_inside_their_ranges_and_the_others_are_named() {
    let identity = NodeIdentity {
        external_ip_ranges: vec![(ip("198.51.100.0"), 24), (ip("2001:db8:e1b::"), 64)],
        ..NodeIdentity::new("node-a")
    };
    let mut index = Index::new(identity);
    let mut web = service("web");
    web.external_ips = vec![ip("198.51.100.7"), ip("203.0.113.7"), ip("2001:db8:e1b::7")];
    index.apply(Change::ServiceApplied(web.clone()));
    assert!(index.take_changed().problems);
    let served = |index: &Index| -> Vec<_> {
        let ports = index.desired_service(&ObjectKey::new("shop", "web"));
        let frontends = ports.into_iter().flat_map(|port| port.frontends);
        frontends.filter_map(|frontend| frontend.address).collect()
    };
    assert_eq!(served(&index), [ip("172.30.0.1"), ip("198.51.100.7")]);
    let problems = index.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].object == "Service shop/web"
            && problems[0].message.contains("203.0.113.7")
            && problems[0].message.contains("--external-ip-ranges"),
        "{problems:?}"
    );

    // The problem goes with its cause.
    web.external_ips.remove(1);
    index.apply(Change::ServiceApplied(web));
    assert!(index.take_changed().problems);
    assert_eq!(index.problems(), []);
    assert_eq!(served(&index), [ip("172.30.0.1"), ip("198.51.100.7")]);
}

#[test]
fn a_port_carries_the_source_ranges_of_its_family() {
    let mut index = Index::new(NodeIdentity::new("node-a"));
    let mut web = service("web");
    web.cluster_ips.push(ip("fd00:172:30::1"));
    web.source_ranges.ranges = vec![(ip("203.0.113.128"), 25), (ip("203.0.113.0"), 25)];
    index.apply(Change::ServiceApplied(web));
    let ports = index.desired_service(&ObjectKey::new("shop", "web"));
    let ranges: Vec<_> = ports
        .iter()
        .map(|port| (port.id.ipv6, port.source_ranges.clone()))
        .collect();
    let both = vec![(ip("203.0.113.0"), 25), (ip("203.0.113.128"), 25)];
    assert_eq!(ranges, [(false, Some(both)), (true, None)]);
}
