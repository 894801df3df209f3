//! Every kind of pod network with every kind of packet filter carries the traffic it should, and is gone after.

#![allow(clippy::unwrap_used)] // a test's helpers fail as the test does

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use lb_lab::{Cidr, Family, Lab, Netfilter, Options, Outcome, PodNetwork, Proto, Topology, require_root};

const PORT: u16 = 8080;

/// Everything within the cluster, and between clients and nodes, is reachable whatever the rules.
fn check(network: PodNetwork, netfilter: Netfilter, bridge_nf_call: bool) {
    // libtest names a test's thread after the test.
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    if !require_root(&test) {
        return;
    }
    let topology = Topology::cluster(3, 2)
        .network(network)
        .netfilter(netfilter)
        .client("other");
    let topology = Topology {
        tag: "lblabtest".into(),
        bridge_nf_call,
        ..topology
    };
    let start = Instant::now();
    let lab = Lab::build(&topology).unwrap();
    eprintln!("{network:?} {netfilter:?}: built in {:?}", start.elapsed());
    lab.serve_in_pods(PORT).unwrap();
    for name in topology.nodes.iter().map(|n| &n.name).chain([&"other".into()]) {
        for proto in Proto::BOTH {
            lab.serve(name, proto, PORT).unwrap();
        }
    }
    let reach = |from: &str, to: &str, family: Family| {
        for proto in Proto::BOTH {
            let dst = lab.at(to).unwrap().socket(family, PORT);
            let shares = lab
                .at(from)
                .unwrap()
                .probe_with(proto, dst, 2, &patient())
                .unwrap();
            assert!(
                shares.all_answered() && shares.answered[to] == 2,
                "{from} -> {to} {proto} {dst}: {shares}"
            );
            // Pods keep their address within the cluster, but on the way from a tunnel to another node.
            let masqueraded =
                network == PodNetwork::Tunnel && netfilter != Netfilter::None && to.starts_with("node");
            if from.starts_with("pod") && !masqueraded {
                let own = lab.at(from).unwrap().ip(family);
                assert_eq!(shares.all_sources(), [own].into(), "{from} -> {to} {proto} {dst}");
            }
        }
    };
    for family in Family::BOTH {
        for (_, from) in topology.pods() {
            topology
                .pods()
                .for_each(|(_, to)| reach(&from.name, &to.name, family));
            topology
                .nodes
                .iter()
                .for_each(|to| reach(&from.name, &to.name, family));
        }
        for from in &topology.nodes {
            topology
                .pods()
                .for_each(|(_, to)| reach(&from.name, &to.name, family));
            reach("client", &from.name, family);
        }
        reach("client", "other", family);
        outside(&lab, netfilter, family);
    }
    drop(lab);
}

/// What the rules say about traffic that enters or leaves the cluster.
fn outside(lab: &Lab, netfilter: Netfilter, family: Family) {
    let socket = |name: &str| lab.at(name).unwrap().socket(family, PORT);
    let probe = |from: &str, dst: SocketAddr| {
        lab.at(from)
            .unwrap()
            .probe_with(Proto::Tcp, dst, 2, &patient())
            .unwrap()
    };
    let cluster = lab.topology().plan.cluster.of(family);

    // A client that knows the way to the pods: FORWARD accepts what goes to a pod.
    lab.route("client", cluster, "node2").unwrap();
    let shares = probe("client", socket("pod2-1"));
    assert!(shares.all_answered(), "client -> pod, {family:?}: {shares}");
    lab.unroute("client", cluster).unwrap();
    assert_eq!(
        probe("client", socket("pod2-1")).answers(),
        0,
        "no route to pods without Lab::route"
    );

    // A stranger's traffic through a node: dropped where the policy is to drop.
    let other = Cidr::host(lab.at("other").unwrap().ip(family));
    lab.route("client", other, "node1").unwrap();
    let dst = socket("other");
    let options = Options::within(Duration::from_millis(300));
    let shares = lab
        .at("client")
        .unwrap()
        .probe_with(Proto::Tcp, dst, 2, &options)
        .unwrap();
    match netfilter {
        Netfilter::None => assert!(shares.all_answered(), "forwarded by node1, {family:?}: {shares}"),
        _ => assert!(
            shares.all_silent(),
            "not forwarded by node1, {family:?}: {shares}"
        ),
    }
    lab.unroute("client", other).unwrap();

    // A pod that leaves the cluster does so under its node's address where there is masquerading.
    lab.route("other", cluster, "node1").unwrap();
    let shares = probe("pod1-1", socket("other"));
    let seen = if netfilter == Netfilter::None {
        "pod1-1"
    } else {
        "node1"
    };
    assert_eq!(
        shares.all_sources(),
        [lab.at(seen).unwrap().ip(family)].into(),
        "{family:?}: {shares}"
    );
    lab.unroute("other", cluster).unwrap();

    // A pod that claims another node's pod's address: its datagram is dropped on the way in by a reverse path
    // filter. The honest one after it takes the same way, so nothing is still under way when it is answered.
    let (pod, claimed) = (
        lab.at("pod1-1").unwrap(),
        lab.topology().plan.pod_cidr(2).nth(99).of(family),
    );
    let server = lab.at("node1").unwrap().serve(Proto::Udp, PORT + 1).unwrap();
    let dst = lab.at("node1").unwrap().socket(family, PORT + 1);
    pod.add_address(claimed, "lo").unwrap();
    let options = Options {
        timeout: Duration::from_millis(20),
        ..Options::from(SocketAddr::new(claimed, 0))
    };
    assert_eq!(pod.connect(Proto::Udp, dst, &options).unwrap(), Outcome::Silent);
    assert!(pod.connect(Proto::Udp, dst, &patient()).unwrap().is_from("node1"));
    let heard = if netfilter == Netfilter::None { 2 } else { 1 };
    assert_eq!(server.requests(), heard, "reverse path filter, {family:?}");
    pod.remove_address(claimed, "lo").unwrap();
}

/// Other tests keep this machine busy: a slow answer is no failure.
fn patient() -> Options {
    Options::within(Duration::from_secs(5))
}

#[test]
fn root_routed_network_without_rules() {
    check(PodNetwork::Routed, Netfilter::None, false);
}

#[test]
fn root_routed_network_with_iptables() {
    check(PodNetwork::Routed, Netfilter::Iptables, false);
}

#[test]
fn root_routed_network_with_nftables() {
    check(PodNetwork::Routed, Netfilter::Nftables, false);
}

#[test]
fn root_tunnel_network_without_rules() {
    check(PodNetwork::Tunnel, Netfilter::None, false);
}

#[test]
fn root_tunnel_network_with_iptables() {
    check(PodNetwork::Tunnel, Netfilter::Iptables, false);
}

#[test]
fn root_tunnel_network_with_nftables() {
    check(PodNetwork::Tunnel, Netfilter::Nftables, false);
}

#[test]
fn root_bridge_network_without_rules() {
    check(PodNetwork::Bridge, Netfilter::None, false);
}

#[test]
fn root_bridge_network_with_iptables() {
    check(PodNetwork::Bridge, Netfilter::Iptables, false);
}

#[test]
fn root_bridge_network_with_iptables_on_switched_frames() {
    check(PodNetwork::Bridge, Netfilter::Iptables, true);
}

#[test]
fn root_bridge_network_with_nftables() {
    check(PodNetwork::Bridge, Netfilter::Nftables, false);
}

#[test]
fn root_bridge_network_with_nftables_on_switched_frames() {
    check(PodNetwork::Bridge, Netfilter::Nftables, true);
}

#[test]
fn root_nothing_remains_of_a_lab() {
    if !require_root("root_nothing_remains_of_a_lab") {
        return;
    }
    let topology = Topology {
        tag: "lblabgone".into(),
        ..Topology::cluster(1, 1)
    };
    let lab = Lab::build(&topology).unwrap();
    lab.serve_in_pods(PORT).unwrap();
    let (prefix, folder) = (lab.prefix().to_owned(), lab.folder());
    let child = lab.spawn("node1", &["sleep", "600"], &[]).unwrap();
    let (pins, cgroup) = (lab.pin_dir("node1").unwrap(), lab.cgroup("node1").unwrap());
    let namespace = lab.at("node1").unwrap().netns().path();
    let process = Path::new("/proc").join(child.pid().to_string());
    let all = [folder, pins, cgroup, namespace, process];
    for path in &all {
        assert!(path.exists(), "{} should be there", path.display());
    }
    assert_eq!(
        Lab::destroy_leftovers("lblabgone"),
        0,
        "the lab of a living process is not left over"
    );
    drop(lab);
    for path in &all {
        assert!(!path.exists(), "{} is still there", path.display());
    }
    for folder in ["/run/netns", "/sys/fs/bpf"] {
        let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name());
        let left: Vec<_> = names
            .filter(|n| n.to_string_lossy().starts_with(&prefix))
            .collect();
        assert!(left.is_empty(), "left in {folder}: {left:?}");
    }
}

#[test]
fn root_a_panic_removes_the_lab_too() {
    if !require_root("root_a_panic_removes_the_lab_too") {
        return;
    }
    let (send, receive) = std::sync::mpsc::channel();
    let result = std::thread::spawn(move || {
        let lab = Lab::build(&Topology {
            tag: "lblabpanic".into(),
            ..Topology::cluster(1, 1)
        })
        .unwrap();
        send.send((lab.at("node1").unwrap().netns().path(), lab.folder()))
            .unwrap();
        panic!("on purpose");
    })
    .join();
    let (namespace, folder) = receive.recv().unwrap();
    assert!(
        result.is_err() && !namespace.exists(),
        "{} is still there",
        namespace.display()
    );
    assert!(
        folder.exists(),
        "logs are kept for whoever looks into the failure"
    );
    std::fs::remove_dir_all(folder).unwrap();
}
