//! ICMP errors about flows reach the sockets that they concern: a client's system call fails as it would without a
//! Service in between.

use lb_lab::{Family, Netfilter, Options, PodNetwork, Proto};
use std::time::Duration;

use crate::{
    cluster::{Cluster, possible},
    reach::Address,
    rows::{Expect, Rows},
    service::Service,
};

const NODE_PORT: u16 = 30_080;

/// Services with one backend each, seen from node1: elsewhere, here, and the pod that asks.
const SERVICES: [(&str, u16, &str); 3] = [
    ("remote", 10, "pod2-1"),
    ("near", 11, "pod1-2"),
    ("own", 12, "pod1-1"),
];

/// Client, Service, and by which of its addresses.
const WAYS: [(&str, usize, Address); 9] = [
    ("client", 0, Address::LoadBalancer),
    ("client", 1, Address::NodePort("node1")),
    ("pod1-1", 0, Address::ClusterIp),
    ("pod1-1", 1, Address::External),
    ("pod1-1", 2, Address::ClusterIp),
    ("node1", 0, Address::ClusterIp),
    ("node1", 0, Address::NodePort("node1")),
    ("node1", 0, Address::NodePort("node2")),
    ("node1", 1, Address::LoadBalancer),
];

fn start(network: PodNetwork, netfilter: Netfilter) -> Cluster {
    let topology = lb_lab::Topology::cluster(2, 2)
        .network(network)
        .netfilter(netfilter);
    let cluster = Cluster::with(topology, &[]);
    for (name, number, backend) in SERVICES {
        let service = Service::new(&cluster.lab, name, number)
            .load_balancer(&cluster.lab, number, NODE_PORT + number)
            .with(&cluster.lab, &[backend]);
        cluster.apply(&service);
    }
    cluster
}

#[test]
fn a_backend_without_a_process_refuses_datagrams_as_root() {
    for (network, netfilter) in [
        (PodNetwork::Routed, Netfilter::Nftables),
        (PodNetwork::Tunnel, Netfilter::Iptables),
        (PodNetwork::Bridge, Netfilter::Iptables),
    ] {
        if !possible("a_backend_without_a_process_refuses_datagrams_as_root") {
            return;
        }
        let cluster = start(network, netfilter);
        for (_, _, backend) in SERVICES {
            cluster.lab.stop_serving(backend);
        }
        let mut rows = Rows::new(&cluster);
        for family in Family::BOTH {
            for (from, service, address) in WAYS {
                let (name, number, _) = SERVICES[service];
                let to = address.socket(&cluster, family, number, NODE_PORT + number);
                // The pod's own stack says that nobody listens: ICMP for datagrams, RST for connections.
                rows.both(from, to, (name, address, network), Expect::Refused);
            }
        }
        rows.check();
    }
}

#[test]
fn connecting_to_a_backend_without_a_route_fails_at_once_as_root() {
    if !possible("connecting_to_a_backend_without_a_route_fails_at_once_as_root") {
        return;
    }
    let cluster = start(PodNetwork::Routed, Netfilter::Nftables);
    for (node, pod) in [("node1", "pod1-2"), ("node2", "pod2-1")] {
        let place = cluster.lab.at(node).expect("it is there");
        for family in Family::BOTH {
            let ip = cluster.lab.at(pod).expect("it is there").ip(family).to_string();
            let route = place.output(&["ip", "route", "replace", "unreachable", &ip]);
            route.expect("the route can be made");
        }
    }
    // Routers on the way say it: this node's stack, or the other node's.
    for family in Family::BOTH {
        for (from, service, address) in [
            ("client", 0, Address::LoadBalancer),
            ("client", 1, Address::NodePort("node1")),
            ("pod1-1", 0, Address::ClusterIp),
            ("pod1-1", 1, Address::ClusterIp),
            ("node1", 0, Address::ClusterIp),
        ] {
            let (name, number, _) = SERVICES[service];
            let to = address.socket(&cluster, family, number, NODE_PORT + number);
            let place = cluster.lab.at(from).expect("it is there");
            let shares = place
                .probe_with(Proto::Tcp, to, 4, &Options::within(Duration::from_secs(3)))
                .expect("the probe runs");
            let text = shares.to_string();
            assert!(
                text.contains("unreachable") || text.contains("No route to host"),
                "{from} to {name} {address:?} {to}: {shares}\n{}",
                cluster.diagnosis()
            );
        }
    }
}
