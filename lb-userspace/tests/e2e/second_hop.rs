//! A second hop: load balancers and NAT gateways outside, whether they see a packet, and whether it comes back from them.

mod hop;

use std::{collections::BTreeSet, net::IpAddr};

use hop::{Hop, Source};
use lb_lab::{Family, Netfilter, PodNetwork, Proto, Topology};

use crate::{
    cluster::{Cluster, possible, socket},
    rows::{Expect, Rows},
    service::{PASS_THROUGH, PORT, Service},
};

const NODE_PORT: u16 = 30_080;
const CHECK: u16 = 31_000;
/// Of the Service, and of its load balancer's address.
const NUMBER: u16 = 30;

/// Backends on node1 (two) and node2 (one); none on node3.
const BACKENDS: [&str; 3] = ["pod1-1", "pod1-2", "pod2-1"];
/// Clients inside the cluster: where no backend is, and where some are.
const ELSEWHERE: [&str; 2] = ["pod3-1", "node3"];
const BESIDE: [&str; 2] = ["pod1-2", "node1"];

/// What a way does to its box.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sees {
    /// Packets come to it.
    Packets,
    /// None do.
    Nothing,
}

#[test]
fn a_balancer_that_masquerades_as_root() {
    check_balancer(
        "a_balancer_that_masquerades_as_root",
        PodNetwork::Tunnel,
        Netfilter::Nftables,
        Source::Masqueraded,
    );
}

#[test]
fn a_balancer_that_keeps_the_clients_address_as_root() {
    check_balancer(
        "a_balancer_that_keeps_the_clients_address_as_root",
        PodNetwork::Routed,
        Netfilter::None,
        Source::Kept,
    );
}

fn check_balancer(test: &str, network: PodNetwork, netfilter: Netfilter, source: Source) {
    if !possible(test) {
        return;
    }
    let topology = Topology::cluster(3, 2).network(network).netfilter(netfilter);
    let cluster = Cluster::with(topology.client("balancer"), &[]);
    let lab = &cluster.lab;
    let vip = lab.topology().plan.vips.nth(NUMBER);
    let balancer = Hop::new(&cluster, "balancer", vip, NODE_PORT, source);
    let shop = Service::new(lab, "shop", NUMBER)
        .load_balancer(lab, NUMBER, NODE_PORT)
        .set("externalTrafficPolicy", "Local")
        .set("healthCheckNodePort", CHECK)
        .with(lab, &BACKENDS);
    cluster.apply(&shop);
    balancer.balance(CHECK, &["node1", "node2"]);
    let all = Expect::From(&BACKENDS);

    // Clients outside have no other way. Those inside do not need it.
    way(&cluster, &balancer, &["client"], all, Sees::Packets);
    let inside = [ELSEWHERE, BESIDE].concat();
    way(&cluster, &balancer, &inside, all, Sees::Nothing);

    // Pass-through: out to the balancer and back, past the programs of the client's node.
    let passed = shop.clone().annotate(PASS_THROUGH, "true");
    cluster.apply(&passed);
    let before = forwarded(&cluster, 2);
    way(&cluster, &balancer, &ELSEWHERE, all, Sees::Packets);
    assert_eq!(forwarded(&cluster, 2), before, "node3 translates nothing");
    for from in ["client", "pod3-1", "node3"] {
        sources(&cluster, from, source);
    }

    // The balancer sends the client back to where it came from. With the address kept that is the address of the
    // node itself, or of a pod that is reached without the balancer: neither's answer finds the way. What it costs.
    balancer.forward(&["node1"]);
    let back = match source {
        Source::Masqueraded => Expect::From(&["pod1-1", "pod1-2"]),
        Source::Kept => Expect::Unserved,
    };
    way(&cluster, &balancer, &BESIDE, back, Sees::Packets);
    let node1 = Expect::From(&["pod1-1", "pod1-2"]);
    way(&cluster, &balancer, &ELSEWHERE, node1, Sees::Packets);
    balancer.balance(CHECK, &["node1", "node2"]);

    // As long as the policy is Local, and no longer.
    let only_local = shop.annotate(PASS_THROUGH, "onlyLocal");
    cluster.apply(&only_local.clone().set("externalTrafficPolicy", "Cluster"));
    way(&cluster, &balancer, &ELSEWHERE, all, Sees::Nothing);
    cluster.apply(&only_local);
    way(&cluster, &balancer, &ELSEWHERE, all, Sees::Packets);

    // The balancer follows the health of nodes.
    cluster.apply(&only_local.with(lab, &["pod2-1"]));
    balancer.balance(CHECK, &["node2"]);
    let moved = [&["client"][..], &ELSEWHERE, &BESIDE].concat();
    way(
        &cluster,
        &balancer,
        &moved,
        Expect::From(&["pod2-1"]),
        Sees::Packets,
    );
}

/// A public address, shared by nodes, that a NAT gateway translates to the NodePort of one of them.
#[test]
fn a_nat_gateway_is_not_needed_inside_as_root() {
    if !possible("a_nat_gateway_is_not_needed_inside_as_root") {
        return;
    }
    let cluster = Cluster::with(Topology::cluster(3, 2).client("gateway"), &[]);
    let lab = &cluster.lab;
    let public = lab.topology().plan.vips.nth(NUMBER);
    let gateway = Hop::new(&cluster, "gateway", public, NODE_PORT, Source::Kept);
    gateway.forward(&["node3"]);
    let wide = Service::new(lab, "shop", NUMBER)
        .load_balancer(lab, NUMBER, NODE_PORT)
        .with(lab, &BACKENDS);
    let local = wide.clone().set("externalTrafficPolicy", "Local");
    let all = Expect::From(&BACKENDS);
    let inside = [ELSEWHERE, BESIDE].concat();
    // Under policy Local the gateway's node has nobody for clients outside: the operator's choice. Inside, all are served.
    for (service, outside) in [(&wide, all), (&local, Expect::Silent)] {
        cluster.apply(service);
        way(&cluster, &gateway, &["client"], outside, Sees::Packets);
        way(&cluster, &gateway, &inside, all, Sees::Nothing);
    }
    // Asked for, it is gone to; it cannot send a client back to the client's own node.
    cluster.apply(&wide.annotate(PASS_THROUGH, "true"));
    way(&cluster, &gateway, &["client"], all, Sees::Packets);
    way(&cluster, &gateway, &BESIDE, all, Sees::Packets);
}

/// What comes of connections to the address of a box, over every family and protocol, and whether it sees them.
#[track_caller]
fn way(cluster: &Cluster, hop: &Hop<'_>, clients: &[&str], expect: Expect<'_>, sees: Sees) {
    for family in Family::BOTH {
        let to = socket(cluster.lab.topology().plan.vips.nth(NUMBER), family, PORT);
        for from in clients {
            let before = hop.seen(family);
            let mut rows = Rows::new(cluster);
            rows.both(from, to, ("address of the box", sees), expect);
            rows.check();
            let seen = hop.seen(family) - before;
            assert_eq!(
                seen > 0,
                sees == Sees::Packets,
                "{seen} packets of {from} to {to} came to the box\n{}",
                cluster.diagnosis()
            );
        }
    }
}

/// Whom the backends see when `from` comes by the balancer.
#[track_caller]
fn sources(cluster: &Cluster, from: &str, source: Source) {
    let seen_as = match source {
        Source::Kept => from,
        Source::Masqueraded => "balancer",
    };
    let place = cluster.lab.at(seen_as).expect("it is there");
    for family in Family::BOTH {
        let to = socket(cluster.lab.topology().plan.vips.nth(NUMBER), family, PORT);
        let shares = cluster.probe(from, Proto::Tcp, to, 10);
        let wanted: BTreeSet<IpAddr> = [place.ip(family)].into();
        assert_eq!(shares.all_sources(), wanted, "{from} to {to}: {shares}");
    }
}

/// Packets that the programs of a node have translated.
fn forwarded(cluster: &Cluster, node: usize) -> u64 {
    let hooks = [
        "uplink-in",
        "uplink-xdp",
        "uplink-out",
        "pod-in",
        "pod-out",
        "host-out",
    ];
    hooks
        .iter()
        .map(|hook| cluster.counted(node, hook, "forwarded"))
        .sum()
}
