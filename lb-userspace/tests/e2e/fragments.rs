//! Datagrams larger than a packet, in both directions, on every way a flow can take.

use std::time::Duration;

use lb_lab::{Family, Netfilter, Options, PodNetwork, Proto, Topology, wait_for};

use crate::{
    cluster::{Cluster, possible},
    reach::Address,
    service::Service,
};

const NODE_PORT: u16 = 30_080;

const SERVICES: [(&str, u16, &str); 3] = [
    ("remote", 10, "pod2-1"),
    ("near", 11, "pod1-2"),
    ("own", 12, "pod1-1"),
];

const WAYS: [(&str, usize, Address); 8] = [
    ("client", 0, Address::LoadBalancer),
    ("client", 1, Address::NodePort("node1")),
    ("pod1-1", 0, Address::ClusterIp),
    ("pod1-1", 1, Address::External),
    ("pod1-1", 2, Address::ClusterIp),
    ("node1", 0, Address::ClusterIp),
    ("node1", 0, Address::NodePort("node1")),
    ("node1", 1, Address::LoadBalancer),
];

/// Bytes of request and reply.
const SIZES: [(usize, usize); 3] = [(2_000, 0), (0, 2_000), (60_000, 60_000)];

#[test]
fn large_datagrams_come_through_a_routed_network_as_root() {
    check(
        "large_datagrams_come_through_a_routed_network_as_root",
        PodNetwork::Routed,
        Netfilter::None,
    );
}

#[test]
fn large_datagrams_come_through_a_tunnel_as_root() {
    check(
        "large_datagrams_come_through_a_tunnel_as_root",
        PodNetwork::Tunnel,
        Netfilter::Nftables,
    );
}

#[test]
fn large_datagrams_come_through_a_bridge_as_root() {
    check(
        "large_datagrams_come_through_a_bridge_as_root",
        PodNetwork::Bridge,
        Netfilter::Iptables,
    );
}

fn check(test: &str, network: PodNetwork, netfilter: Netfilter) {
    if !possible(test) {
        return;
    }
    let cluster = Cluster::with(Topology::cluster(2, 2).network(network).netfilter(netfilter), &[]);
    for (name, number, backend) in SERVICES {
        let service = Service::new(&cluster.lab, name, number)
            .load_balancer(&cluster.lab, number, NODE_PORT + number)
            .with(&cluster.lab, &[backend]);
        cluster.apply(&service);
    }
    let mut failures = Vec::new();
    for family in Family::BOTH {
        for (from, service, address) in WAYS {
            let (_, number, backend) = SERVICES[service];
            let to = address.socket(&cluster, family, number, NODE_PORT + number);
            let place = cluster.lab.at(from).expect("the place is there");
            for (request_len, reply_len) in SIZES {
                // The kernel learns no path MTU for IPv6 addresses of its own, and so keeps to that of `lo`.
                let own = matches!(address, Address::NodePort(node) if node == from);
                if own && family == Family::V6 && request_len > 0 {
                    continue;
                }
                let options = Options {
                    request_len,
                    reply_len,
                    ..Options::within(Duration::from_millis(500))
                };
                // Senders learn the size of a path by what gets lost.
                let mut last = None;
                let answered = wait_for(Duration::from_secs(4), "an answer", || {
                    let shares = place
                        .probe_with(Proto::Udp, to, 1, &options)
                        .expect("the probe runs");
                    let good = shares.all_answered() && shares.names().contains(backend);
                    last = Some(shares);
                    good
                });
                if answered.is_err() {
                    let last = last.expect("it was tried");
                    failures.push(format!(
                        "{from} to {to} {address:?}, {request_len} and {reply_len} bytes: {last}"
                    ));
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} fail:\n{}\n{}",
        failures.len(),
        failures.join("\n"),
        cluster.diagnosis()
    );
}
