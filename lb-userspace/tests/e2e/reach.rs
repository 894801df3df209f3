//! Every address from every kind of client, in every kind of pod network, under the netfilter rules of real
//! clusters: IPv4 and IPv6, TCP and UDP.

use std::net::SocketAddr;

use lb_lab::{Family, Netfilter, PodNetwork, Topology};

use crate::{
    cluster::{Cluster, possible, socket},
    rows::{Expect, Rows},
    service::{PORT, Service},
};

const NODE_PORT: u16 = 30_080;

/// Backends on node1 (two) and node2 (one); none on node3.
const BACKENDS: [&str; 3] = ["pod1-1", "pod1-2", "pod2-1"];

#[test]
fn routed_network_as_root() {
    check(
        "routed_network_as_root",
        PodNetwork::Routed,
        Netfilter::None,
        false,
    );
}

#[test]
fn routed_network_with_iptables_as_root() {
    check(
        "routed_network_with_iptables_as_root",
        PodNetwork::Routed,
        Netfilter::Iptables,
        false,
    );
}

#[test]
fn routed_network_with_nftables_as_root() {
    check(
        "routed_network_with_nftables_as_root",
        PodNetwork::Routed,
        Netfilter::Nftables,
        false,
    );
}

#[test]
fn tunnel_network_with_iptables_as_root() {
    check(
        "tunnel_network_with_iptables_as_root",
        PodNetwork::Tunnel,
        Netfilter::Iptables,
        false,
    );
}

#[test]
fn tunnel_network_with_nftables_as_root() {
    check(
        "tunnel_network_with_nftables_as_root",
        PodNetwork::Tunnel,
        Netfilter::Nftables,
        false,
    );
}

#[test]
fn bridge_network_with_iptables_as_root() {
    check(
        "bridge_network_with_iptables_as_root",
        PodNetwork::Bridge,
        Netfilter::Iptables,
        false,
    );
}

#[test]
fn bridge_network_with_nftables_as_root() {
    check(
        "bridge_network_with_nftables_as_root",
        PodNetwork::Bridge,
        Netfilter::Nftables,
        false,
    );
}

#[test]
fn bridge_network_with_switched_frames_filtered_as_root() {
    check(
        "bridge_network_with_switched_frames_filtered_as_root",
        PodNetwork::Bridge,
        Netfilter::Iptables,
        true,
    );
}

/// Where a client connects to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Address {
    ClusterIp,
    LoadBalancer,
    External,
    NodePort(&'static str),
}

fn check(test: &str, network: PodNetwork, netfilter: Netfilter, bridge_nf_call: bool) {
    if !possible(test) {
        return;
    }
    let topology = Topology {
        bridge_nf_call,
        ..Topology::cluster(3, 2).network(network).netfilter(netfilter)
    };
    let cluster = Cluster::with(topology, &[]);
    if bridge_nf_call && !cluster.lab.has_bridge_netfilter() {
        lb_lab::skip(&format!("{test}: the kernel has no br_netfilter"));
        return;
    }
    let lab = &cluster.lab;
    let local = Service::new(lab, "local", 10)
        .load_balancer(lab, 10, NODE_PORT)
        .set("externalTrafficPolicy", "Local")
        .with(lab, &BACKENDS);
    let wide = Service::new(lab, "wide", 11)
        .load_balancer(lab, 11, NODE_PORT + 1)
        .with(lab, &BACKENDS);
    cluster.apply(&local);
    cluster.apply(&wide);

    let all = Expect::From(&BACKENDS);
    // Pods and processes of the cluster reach all backends by every address, also under policy Local.
    let mut rows = Rows::new(&cluster);
    for family in Family::BOTH {
        for (from, own) in [
            ("pod1-1", "node1"),
            ("pod2-2", "node2"),
            ("pod3-1", "node3"),
            ("node1", "node1"),
            ("node3", "node3"),
        ] {
            for (service, number, port) in [("local", 10, NODE_PORT), ("wide", 11, NODE_PORT + 1)] {
                for address in [
                    Address::ClusterIp,
                    Address::LoadBalancer,
                    Address::External,
                    Address::NodePort(own),
                    Address::NodePort("node2"),
                ] {
                    let to = address.socket(&cluster, family, number, port);
                    rows.both(from, to, (service, address), all);
                }
            }
        }
    }
    rows.check();
    // A client outside, through a node with backends and through one without.
    for (via, local) in [
        ("node1", Expect::From(&["pod1-1", "pod1-2"])),
        ("node3", Expect::Silent),
    ] {
        lab.steer("client", via).expect("the client can be steered");
        let mut rows = Rows::new(&cluster);
        for family in Family::BOTH {
            for address in [Address::LoadBalancer, Address::External, Address::NodePort(via)] {
                let to = address.socket(&cluster, family, 11, NODE_PORT + 1);
                rows.both("client", to, ("wide", address, via), all);
                let to = address.socket(&cluster, family, 10, NODE_PORT);
                rows.both("client", to, ("local", address, via), local);
            }
            let to = Address::ClusterIp.socket(&cluster, family, 11, NODE_PORT + 1);
            rows.both("client", to, ("wide ClusterIP", via), all);
        }
        rows.check();
    }
}

impl Address {
    /// The address of the Service of this number; `port` is its NodePort.
    pub(crate) fn socket(self, cluster: &Cluster, family: Family, number: u16, port: u16) -> SocketAddr {
        let plan = &cluster.lab.topology().plan;
        match self {
            Self::ClusterIp => socket(plan.services.nth(number), family, PORT),
            Self::LoadBalancer => socket(plan.vips.nth(number), family, PORT),
            Self::External => socket(plan.external.nth(number), family, PORT),
            Self::NodePort(node) => socket(cluster.lab.node(node).expect("it is there").addr, family, port),
        }
    }
}
