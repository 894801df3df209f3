//! Facts of hand-written nodes, one for each kind of pod network.
//!
//! A node is written as `ip` would list it: `2 eth0 other 1500`, `2 192.168.0.5/24`, `10.244.1.2/32 dev 5`.

use std::net::IpAddr;

use super::*;
use crate::node::{Address, LinkKind, Route, Tracked};

/// Links, addresses and routes from lines. A link has its index as last byte of its MAC address.
fn snapshot(links: &[&str], addresses: &[&str], routes: &[&str]) -> Snapshot {
    Snapshot {
        links: links.iter().map(|line| link(line)).collect(),
        addresses: addresses.iter().map(|line| address(line)).collect(),
        routes: routes.iter().map(|line| route(line)).collect(),
        tracked: Tracked::default(),
    }
}

/// `INDEX NAME KIND [MTU] [master INDEX]`
fn link(line: &str) -> Link {
    let words: Vec<&str> = line.split(' ').collect();
    let index = words[0].parse().unwrap();
    let kind = match words[2] {
        "loopback" => LinkKind::Loopback,
        "pair" => LinkKind::Pair,
        "bridge" => LinkKind::Bridge,
        "tunnel" => LinkKind::Tunnel,
        "tun" => LinkKind::Tun,
        "other" => LinkKind::Other,
        kind => panic!("{kind}"),
    };
    let mtu = words.get(3).and_then(|word| word.parse().ok()).unwrap_or(1500);
    let controller = words
        .iter()
        .position(|word| *word == "master")
        .map(|at| words[at + 1].parse().unwrap());
    let mac = if kind == LinkKind::Loopback {
        [0; 6]
    } else {
        mac(index)
    };
    Link {
        index,
        name: words[1].into(),
        kind,
        mac,
        mtu,
        controller,
    }
}

fn mac(index: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, index as u8]
}

/// `INDEX ADDRESS/LENGTH [link] [secondary] [tentative]`
fn address(line: &str) -> Address {
    let words: Vec<&str> = line.split(' ').collect();
    let (address, length) = words[1].split_once('/').unwrap();
    Address {
        device: words[0].parse().unwrap(),
        address: address.parse().unwrap(),
        prefix_length: length.parse().unwrap(),
        global: !words.contains(&"link"),
        usable: !words.contains(&"tentative"),
        preferred: !words.contains(&"secondary"),
    }
}

/// `DESTINATION|default|default6 [via] dev INDEX [metric NUMBER] [table]`
fn route(line: &str) -> Route {
    let words: Vec<&str> = line.split(' ').collect();
    let after = |word: &str| {
        words
            .iter()
            .position(|known| *known == word)
            .map(|at| words[at + 1].parse().unwrap())
    };
    let destination = match words[0] {
        "default" => "0.0.0.0/0",
        "default6" => "::/0",
        prefix => prefix,
    };
    Route {
        destination: destination.parse().unwrap(),
        device: after("dev").unwrap(),
        gateway: words.contains(&"via"),
        metric: after("metric").unwrap_or(0),
        main: !words.contains(&"table"),
    }
}

fn prefixes(list: &[&str]) -> Vec<Prefix> {
    list.iter().map(|prefix| prefix.parse().unwrap()).collect()
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

fn hints(node_addresses: &[&str], pod_cidrs: &[&str]) -> Hints {
    Hints {
        node_addresses: ips(node_addresses),
        pod_cidrs: prefixes(pod_cidrs),
        pod_devices: Hints::patterns(Hints::POD_DEVICES),
        ..Hints::default()
    }
}

/// Facts as lines: what one device is per line, then addresses and prefixes.
fn lines(facts: &NodeFacts) -> Vec<String> {
    let mut lines: Vec<String> = facts
        .devices
        .iter()
        .map(|(index, device)| {
            let mut line = format!("{index} {} {:?}", device.name, device.kind);
            line.extend(device.snat4.map(|address| format!(" {address}")));
            line.extend(device.snat6.map(|address| format!(" {address}")));
            if device.bridge_mac != [0; 6] {
                line += &format!(" bridge {}", device.bridge_mac[5]);
            }
            line
        })
        .collect();
    lines.push(format!("own {}", join(facts.own.iter())));
    lines.push(format!("node ports {}", join(facts.node_ports.iter())));
    lines.push(format!(
        "pods {}",
        join(
            facts
                .pods
                .iter()
                .map(|(address, length)| format!("{address}/{length}"))
        )
    ));
    lines
}

fn join(items: impl Iterator<Item = impl ToString>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(what: &str, snapshot: &Snapshot, hints: &Hints, expected: &[&str]) {
    assert_eq!(lines(&reduce(snapshot, hints)), expected, "{what}");
}

const LO: &str = "1 lo loopback 65536";
const ETH0: &str = "2 eth0 other";

#[test]
fn routed_pods_are_found_by_their_routes() {
    let node = snapshot(
        &[
            LO,
            ETH0,
            "3 lb0 pair",
            "4 lb0p pair",
            "5 p1 pair",
            "6 p2 pair",
            "7 unrelated pair",
        ],
        &["1 127.0.0.1/8", "2 192.168.0.5/24", "2 fe80::1/64 link"],
        &[
            "default via dev 2",
            "192.168.0.0/24 dev 2",
            "10.244.1.2/32 dev 5",
            "10.244.1.3/32 dev 6",
            "10.244.2.0/24 via dev 2",
            "10.96.0.0/12 dev 3",
        ],
    );
    let expected = [
        "1 lo Loopback",
        "2 eth0 Uplink 192.168.0.5",
        "3 lb0 Host",
        "5 p1 Pod 192.168.0.5",
        "6 p2 Pod 192.168.0.5",
        "own 192.168.0.5",
        "node ports 192.168.0.5",
        "pods 10.244.1.0/24",
    ];
    check(
        "Node object known",
        &node,
        &hints(&["192.168.0.5"], &["10.244.1.0/24"]),
        &expected,
    );
    check(
        "address unknown",
        &node,
        &hints(&[], &["10.244.1.0/24"]),
        &expected,
    );
}

#[test]
fn pods_without_a_range_are_found_by_name_and_route() {
    let node = snapshot(
        &[LO, ETH0, "5 veth1 pair", "6 uplinkish pair"],
        &["2 192.168.0.5/24"],
        &["default via dev 2", "10.244.1.2/32 dev 5", "10.9.9.9/32 dev 6"],
    );
    let expected = [
        "1 lo Loopback",
        "2 eth0 Uplink 192.168.0.5",
        "5 veth1 Pod 192.168.0.5",
        "own 192.168.0.5",
        "node ports 192.168.0.5",
        "pods 10.244.1.2/32",
    ];
    check("no podCIDRs", &node, &hints(&["192.168.0.5"], &[]), &expected);
}

#[test]
fn node_without_a_default_route_has_its_addressed_devices_as_uplinks() {
    let node = snapshot(
        &[LO, "2 up pair", "5 veth1 pair"],
        &["2 10.0.0.1/24", "5 10.244.1.1/32"],
        &["10.0.0.0/24 dev 2", "10.244.1.2/32 dev 5"],
    );
    let expected = [
        "1 lo Loopback",
        "2 up Uplink 10.0.0.1",
        "5 veth1 Pod 10.244.1.1",
        "own 10.0.0.1 10.244.1.1",
        "node ports 10.0.0.1",
        "pods 10.244.1.0/24",
    ];
    check(
        "ptp-like, alone",
        &node,
        &hints(&[], &["10.244.1.0/24"]),
        &expected,
    );
}

#[test]
fn tunnel_of_a_flannel_like_network_is_found_beside_its_bridge() {
    let node = snapshot(
        &[
            LO,
            ETH0,
            "3 flannel.1 tunnel 1450",
            "4 cni0 bridge 1450",
            "5 veth1 pair 1450 master 4",
            "6 veth2 pair 1450 master 4",
            "7 docker0 bridge",
            "8 veth9 pair master 7",
        ],
        &[
            "2 192.168.0.5/24",
            "3 10.244.1.0/32",
            "4 10.244.1.1/24",
            "7 172.17.0.1/16",
        ],
        &[
            "default via dev 2",
            "10.244.1.0/24 dev 4",
            "10.244.2.0/24 via dev 3",
            "172.17.0.0/16 dev 7",
        ],
    );
    let expected = [
        "1 lo Loopback",
        "2 eth0 Uplink 192.168.0.5",
        "3 flannel.1 Tunnel 10.244.1.0",
        "4 cni0 Bridge 10.244.1.1",
        "5 veth1 BridgePort 10.244.1.1 bridge 4",
        "6 veth2 BridgePort 10.244.1.1 bridge 4",
        "own 10.244.1.0 10.244.1.1 172.17.0.1 192.168.0.5",
        "node ports 192.168.0.5",
        "pods 10.244.1.0/24",
    ];
    check(
        "flannel",
        &node,
        &hints(&["192.168.0.5"], &["10.244.1.0/24"]),
        &expected,
    );
}

#[test]
fn bridge_is_found_by_its_route_even_without_an_address_in_the_range() {
    let node = snapshot(
        &[
            LO,
            ETH0,
            "4 br bridge",
            "5 a pair master 4",
            "6 eth1 other master 4",
        ],
        &["2 192.168.0.5/24", "4 169.254.1.1/32"],
        &["default via dev 2", "10.244.1.0/24 dev 4"],
    );
    let expected = [
        "1 lo Loopback",
        "2 eth0 Uplink 192.168.0.5",
        "4 br Bridge 192.168.0.5",
        "5 a BridgePort 192.168.0.5 bridge 4",
        "own 192.168.0.5",
        "node ports 192.168.0.5",
        "pods 10.244.1.0/24",
    ];
    check(
        "bridge with a link-local address",
        &node,
        &hints(&["192.168.0.5"], &["10.244.1.0/24"]),
        &expected,
    );
}

#[test]
fn bridge_without_a_range_is_found_by_its_ports() {
    let node = snapshot(
        &[LO, ETH0, "4 cni0 bridge", "5 veth1 pair master 4"],
        &["2 192.168.0.5/24", "4 10.244.1.1/24"],
        &["default via dev 2", "10.244.1.0/24 dev 4"],
    );
    let expected = [
        "1 lo Loopback",
        "2 eth0 Uplink 192.168.0.5",
        "4 cni0 Bridge 10.244.1.1",
        "5 veth1 BridgePort 10.244.1.1 bridge 4",
        "own 10.244.1.1 192.168.0.5",
        "node ports 192.168.0.5",
        "pods 10.244.1.0/24",
    ];
    check("no podCIDRs", &node, &hints(&["192.168.0.5"], &[]), &expected);
}

#[test]
fn calico_like_pods_outside_the_nodes_range_are_found() {
    let node = snapshot(
        &[
            LO,
            ETH0,
            "3 vxlan.calico tunnel 1450",
            "5 cali12 pair",
            "6 cali34 pair",
        ],
        &[
            "2 192.168.0.5/24",
            "3 10.5.7.0/32",
            "5 169.254.1.1/32 link",
            "5 fe80::ecee:eeff:feee:eeee/64 link",
        ],
        &[
            "default via dev 2",
            "10.5.7.1/32 dev 5",
            "10.5.7.2/32 dev 6",
            "10.5.9.0/26 via dev 3",
            "fe80::/64 dev 5",
        ],
    );
    let expected = [
        "1 lo Loopback",
        "2 eth0 Uplink 192.168.0.5",
        "3 vxlan.calico Tunnel 10.5.7.0",
        "5 cali12 Pod 192.168.0.5",
        "6 cali34 Pod 192.168.0.5",
        "own 10.5.7.0 192.168.0.5",
        "node ports 192.168.0.5",
        "pods 10.5.7.1/32 10.5.7.2/32 10.244.1.0/24",
    ];
    check(
        "podCIDRs not used",
        &node,
        &hints(&["192.168.0.5"], &["10.244.1.0/24"]),
        &expected,
    );
}

#[test]
fn cloud_pods_are_found_on_their_network_cards() {
    let node = snapshot(
        &[LO, ETH0, "3 eth1 other", "5 eni1a2b pair", "6 eni3c4d pair"],
        &["2 172.31.0.10/20", "3 172.31.0.77/20"],
        &[
            "default via dev 2 metric 512",
            "default via dev 3 table",
            "172.31.0.0/20 dev 2",
            "172.31.4.4/32 dev 5",
            "172.31.4.5/32 dev 6",
        ],
    );
    let expected = [
        "1 lo Loopback",
        "2 eth0 Uplink 172.31.0.10",
        "3 eth1 Uplink 172.31.0.77",
        "5 eni1a2b Pod 172.31.0.10",
        "6 eni3c4d Pod 172.31.0.10",
        "own 172.31.0.10 172.31.0.77",
        "node ports 172.31.0.10",
        "pods 172.31.4.4/32 172.31.4.5/32",
    ];
    check("Node object", &node, &hints(&["172.31.0.10"], &[]), &expected);
    check(
        "main table's default route decides",
        &node,
        &hints(&[], &[]),
        &expected,
    );
}

#[test]
fn both_families_have_primary_addresses() {
    let node = snapshot(
        &[LO, ETH0, "5 veth1 pair"],
        &[
            "1 ::1/128",
            "2 192.168.0.5/24",
            "2 192.168.0.6/24 secondary",
            "2 2001:db8::99/64 secondary",
            "2 2001:db8::5/64",
            "2 2001:db8::6/64 tentative",
            "2 fe80::5/64 link",
        ],
        &[
            "default via dev 2",
            "default6 via dev 2",
            "10.244.1.2/32 dev 5",
            "fd00:10:244:1::2/128 dev 5",
        ],
    );
    let device = [
        "1 lo Loopback",
        "2 eth0 Uplink 192.168.0.5 2001:db8::5",
        "5 veth1 Pod 192.168.0.5 2001:db8::5",
    ];
    let own = "own 192.168.0.5 192.168.0.6 2001:db8::5 2001:db8::99";
    let pods = "pods 10.244.1.0/24 fd00:10:244:1::/64";
    let both = ["10.244.1.0/24", "fd00:10:244:1::/64"];
    let expected = |node_ports| [&device[..], &[own, node_ports, pods]].concat();
    check(
        "kernel's choice",
        &node,
        &hints(&[], &both),
        &expected("node ports 192.168.0.5 2001:db8::5"),
    );
    let mut chosen = hints(&[], &both);
    for (what, ranges, node_ports) in [
        (
            "operator's choice of one family: all of the other",
            &["192.168.0.0/24"][..],
            "node ports 192.168.0.5 192.168.0.6 2001:db8::5 2001:db8::99",
        ),
        (
            "operator's choice of both families",
            &["192.168.0.6/32", "2001:db8::5/128"],
            "node ports 192.168.0.6 2001:db8::5",
        ),
        (
            "operator's choice that no address fits",
            &["10.9.0.0/16", "fd00:9::/64", "127.0.0.0/8"],
            "node ports ",
        ),
    ] {
        chosen.nodeport_addresses = prefixes(ranges);
        check(what, &node, &chosen, &expected(node_ports));
    }
    let other = [
        "1 lo Loopback",
        "2 eth0 Uplink 192.168.0.6 2001:db8::5",
        "5 veth1 Pod 192.168.0.6 2001:db8::5",
        own,
        "node ports 192.168.0.6 2001:db8::5",
        pods,
    ];
    check(
        "Node object's choice",
        &node,
        &hints(&["192.168.0.6", "203.0.113.1"], &both),
        &other,
    );
}

#[test]
fn node_address_on_loopback_is_the_source_on_unnumbered_uplinks() {
    let node = snapshot(
        &[LO, ETH0, "3 eth1 other"],
        &["1 192.0.2.1/32", "2 fe80::1/64 link"],
        &["default via dev 2", "default via dev 3"],
    );
    let expected = [
        "1 lo Loopback",
        "2 eth0 Uplink 192.0.2.1",
        "3 eth1 Uplink 192.0.2.1",
        "own 192.0.2.1",
        "node ports 192.0.2.1",
        "pods ",
    ];
    check(
        "routing to the host",
        &node,
        &hints(&["192.0.2.1"], &[]),
        &expected,
    );
}

#[test]
fn leftover_of_ipvs_makes_no_service_address_ours() {
    let node = snapshot(
        &[LO, ETH0, "9 kube-ipvs0 other"],
        &["2 192.168.0.5/24", "9 10.96.0.1/32"],
        &["default via dev 2"],
    );
    let expected = [
        "1 lo Loopback",
        "2 eth0 Uplink 192.168.0.5",
        "own 192.168.0.5",
        "node ports 192.168.0.5",
        "pods ",
    ];
    check("kube-ipvs0", &node, &hints(&["192.168.0.5"], &[]), &expected);
}

#[test]
fn operator_decides_over_everything_but_the_loopback() {
    let node = snapshot(
        &[LO, ETH0, "3 eth1 other", "5 veth1 pair", "6 veth2 pair"],
        &["2 192.168.0.5/24", "3 10.1.0.5/24"],
        &["default via dev 2", "10.244.1.2/32 dev 5", "10.244.1.3/32 dev 6"],
    );
    let mut told = hints(&["192.168.0.5"], &["10.244.1.0/24"]);
    told.devices = ["eth1", "veth2=ignore", "lo=ignore"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let expected = [
        "1 lo Loopback",
        "3 eth1 Uplink 10.1.0.5",
        "5 veth1 Pod 192.168.0.5",
        "own 10.1.0.5 192.168.0.5",
        "node ports 192.168.0.5",
        "pods 10.244.1.0/24",
    ];
    check("--device", &node, &told, &expected);
}

#[test]
fn a_second_network_that_other_nodes_pods_are_behind_is_an_uplink() {
    let node = snapshot(
        &[LO, ETH0, "3 eth1 other"],
        &["2 192.168.0.5/24", "3 10.1.0.5/24"],
        &["default via dev 2", "10.244.2.0/24 via dev 3"],
    );
    let mut hints = hints(&["192.168.0.5"], &["10.244.1.0/24"]);
    hints.other_pod_cidrs = prefixes(&["10.244.2.0/24"]);
    let expected = [
        "1 lo Loopback",
        "2 eth0 Uplink 192.168.0.5",
        "3 eth1 Uplink 10.1.0.5",
        "own 10.1.0.5 192.168.0.5",
        "node ports 192.168.0.5",
        "pods 10.244.1.0/24",
    ];
    check("second network", &node, &hints, &expected);
}

#[test]
fn pod_comes_and_goes_with_its_device() {
    let hints = hints(&["192.168.0.5"], &["10.244.1.0/24"]);
    let mut node = snapshot(&[LO, ETH0], &["2 192.168.0.5/24"], &["default via dev 2"]);
    let without = reduce(&node, &hints);
    node.links.push(link("5 p1 pair"));
    assert_eq!(
        reduce(&node, &hints),
        without,
        "a device without a route is nobody's yet"
    );
    node.routes.push(route("10.244.1.2/32 dev 5"));
    let with = reduce(&node, &hints);
    assert_eq!(
        with.devices.get(&5).map(|device| device.kind),
        Some(DeviceKind::Pod)
    );
    node.links.pop();
    assert_eq!(
        reduce(&node, &hints),
        without,
        "a route whose device is gone counts for nothing"
    );
}

#[test]
fn nothing_at_all_gives_no_facts() {
    assert_eq!(
        reduce(&Snapshot::default(), &Hints::default()),
        NodeFacts::default()
    );
}
