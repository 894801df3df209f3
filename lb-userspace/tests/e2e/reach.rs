//! Every address from every kind of client, in every kind of pod network, under the netfilter rules of real
//! clusters: IPv4 and IPv6, TCP and UDP.

use std::{collections::BTreeSet, net::SocketAddr};

use lb_lab::{Family, Netfilter, PodNetwork, Proto, Shares, Topology};

use crate::{
    cluster::{Cluster, possible, socket},
    service::{PORT, Service},
};

const NODE_PORT: u16 = 30_080;
/// Connections of a probe: with three backends each misses one with a probability of (2/3)^40.
const CONNECTIONS: u32 = 40;

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

/// What a probe must show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    /// All of them answer, and nobody else.
    From(&'static [&'static str]),
    /// Nothing is heard.
    Silence,
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
    let mut failures = Vec::new();
    let mut rows = 0;
    for family in Family::BOTH {
        for proto in Proto::BOTH {
            let mut row = |from: &str, to: SocketAddr, what: &str, expect: Expect| {
                rows += 1;
                let shares = cluster.probe(from, proto, to, CONNECTIONS);
                if let Err(why) = judge(&shares, expect) {
                    failures.push(format!("{from} to {what} {to} {proto:?}: {why}; {shares}"));
                }
            };
            // Pods and processes of the cluster reach all backends by every address, also under policy Local.
            for from in ["pod1-1", "pod2-2", "pod3-1", "node1", "node3"] {
                for (service, number, port) in [("local", 10, NODE_PORT), ("wide", 11, NODE_PORT + 1)] {
                    let own = if from.ends_with('1') && from.starts_with("node1") || from.starts_with("pod1")
                    {
                        "node1"
                    } else if from.starts_with("pod2") {
                        "node2"
                    } else {
                        "node3"
                    };
                    for address in [
                        Address::ClusterIp,
                        Address::LoadBalancer,
                        Address::External,
                        Address::NodePort(own),
                        Address::NodePort("node2"),
                    ] {
                        let to = address.socket(&cluster, family, number, port);
                        row(from, to, &format!("{service} {address:?}"), all);
                    }
                }
            }
            // A client outside, through a node with backends and through one without.
            for via in ["node1", "node3"] {
                lab.steer("client", via).expect("the client can be steered");
                let here: &'static [&'static str] = &["pod1-1", "pod1-2"];
                let policy = if via == "node1" {
                    Expect::From(here)
                } else {
                    Expect::Silence
                };
                for address in [Address::LoadBalancer, Address::External, Address::NodePort(via)] {
                    let to = address.socket(&cluster, family, 11, NODE_PORT + 1);
                    row("client", to, &format!("wide {address:?} via {via}"), all);
                    let to = address.socket(&cluster, family, 10, NODE_PORT);
                    row("client", to, &format!("local {address:?} via {via}"), policy);
                }
            }
            let to = Address::ClusterIp.socket(&cluster, family, 11, NODE_PORT + 1);
            row("client", to, "wide ClusterIP", all);
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {rows} rows failed:\n{}\n{}",
        failures.len(),
        failures.join("\n"),
        cluster.diagnosis()
    );
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

fn judge(shares: &Shares, expect: Expect) -> Result<(), String> {
    match expect {
        Expect::From(names) => {
            let wanted: BTreeSet<&str> = names.iter().copied().collect();
            if !shares.all_answered() {
                Err("not every connection was answered".to_owned())
            } else if shares.names() != wanted {
                Err(format!("answered by {:?}, not {wanted:?}", shares.names()))
            } else {
                Ok(())
            }
        }
        Expect::Silence if shares.all_silent() => Ok(()),
        Expect::Silence => Err("should be silent".to_owned()),
    }
}
