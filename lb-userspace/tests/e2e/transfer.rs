//! Much data on every way a connection can take, byte by byte the same at its end, with senders that leave
//! checksums and segmentation to the device and with such that do not; and many connections at a time.

use std::{net::SocketAddr, time::Duration};

use lb_lab::{Family, Netfilter, Offload, PodNetwork, Proto, Topology};

use crate::{
    cluster::{Cluster, possible},
    reach::Address,
    service::Service,
};

const BYTES: u64 = 50_000_000;
const LIMIT: Duration = Duration::from_secs(30);
const NODE_PORT: u16 = 30_080;

/// Services with one backend each, seen from node1: elsewhere, here, and the pod that asks.
const SERVICES: [(&str, u16, &str); 3] = [
    ("remote", 10, "pod2-1"),
    ("near", 11, "pod1-2"),
    ("own", 12, "pod1-1"),
];

/// Client, Service, and by which of its addresses.
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

fn start(topology: Topology) -> Cluster {
    let cluster = Cluster::with(topology, &[]);
    for (name, number, backend) in SERVICES {
        let service = Service::new(&cluster.lab, name, number)
            .load_balancer(&cluster.lab, number, NODE_PORT + number)
            .with(&cluster.lab, &[backend]);
        cluster.apply(&service);
    }
    cluster
}

/// IPv4 downloads and IPv6 uploads, or the other way round.
fn check(topology: Topology, downloads: Family) {
    let cluster = start(topology);
    let mut failures = Vec::new();
    for family in Family::BOTH {
        for (from, service, address) in WAYS {
            let (_, number, backend) = SERVICES[service];
            let to: SocketAddr = address.socket(&cluster, family, number, NODE_PORT + number);
            let place = cluster.lab.at(from).expect("the place is there");
            let transfer = if family == downloads {
                place.download(to, BYTES, LIMIT)
            } else {
                place.upload(to, BYTES, LIMIT)
            };
            match transfer {
                Ok(transfer) if transfer.by.name == backend => {}
                Ok(transfer) => failures.push(format!("{from} to {to}: answered by {}", transfer.by.name)),
                Err(error) => failures.push(format!("{from} to {backend} by {address:?}: {error:#}")),
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{}\n{}",
        failures.join("\n"),
        cluster.diagnosis()
    );
}

fn topology(network: PodNetwork, netfilter: Netfilter) -> Topology {
    Topology::cluster(2, 2).network(network).netfilter(netfilter)
}

#[test]
fn large_transfers_come_through_a_routed_network_as_root() {
    if possible("large_transfers_come_through_a_routed_network_as_root") {
        check(topology(PodNetwork::Routed, Netfilter::Iptables), Family::V4);
    }
}

#[test]
fn large_transfers_come_through_a_tunnel_as_root() {
    if possible("large_transfers_come_through_a_tunnel_as_root") {
        check(topology(PodNetwork::Tunnel, Netfilter::Nftables), Family::V6);
    }
}

#[test]
fn large_transfers_come_through_a_bridge_as_root() {
    if possible("large_transfers_come_through_a_bridge_as_root") {
        check(topology(PodNetwork::Bridge, Netfilter::Iptables), Family::V4);
    }
}

#[test]
fn large_transfers_come_through_without_offloads_as_root() {
    if possible("large_transfers_come_through_without_offloads_as_root") {
        let topology = Topology {
            offload: Offload {
                clients_tx: false,
                pods_tx: false,
                fabric_tx: false,
                gro: false,
            },
            ..topology(PodNetwork::Routed, Netfilter::Nftables)
        };
        check(topology, Family::V6);
    }
}

#[test]
fn large_transfers_come_through_with_segments_joined_on_receipt_as_root() {
    if possible("large_transfers_come_through_with_segments_joined_on_receipt_as_root") {
        let topology = Topology {
            offload: Offload {
                gro: true,
                ..Offload::default()
            },
            ..topology(PodNetwork::Tunnel, Netfilter::Iptables)
        };
        check(topology, Family::V4);
    }
}

#[test]
fn many_connections_at_a_time_are_all_answered_as_root() {
    if !possible("many_connections_at_a_time_are_all_answered_as_root") {
        return;
    }
    let cluster = start(topology(PodNetwork::Routed, Netfilter::Iptables));
    let all = ["pod1-1", "pod1-2", "pod2-1"];
    let wide = Service::new(&cluster.lab, "wide", 13)
        .load_balancer(&cluster.lab, 13, NODE_PORT)
        .with(&cluster.lab, &all);
    cluster.apply(&wide);
    std::thread::scope(|scope| {
        for family in Family::BOTH {
            for (from, address) in [
                ("client", Address::LoadBalancer),
                ("pod1-1", Address::ClusterIp),
                ("node1", Address::ClusterIp),
            ] {
                let (cluster, wide) = (&cluster, address.socket(&cluster, family, 13, NODE_PORT));
                scope.spawn(move || {
                    for proto in Proto::BOTH {
                        let shares = cluster.probe(from, proto, wide, 300);
                        let even = all.iter().all(|name| (0.2..0.5).contains(&shares.share(name)));
                        assert!(
                            shares.all_answered() && even,
                            "{from} to {wide} {proto:?}: {shares}\n{}",
                            cluster.diagnosis()
                        );
                    }
                });
            }
        }
    });
}

#[test]
fn source_ports_are_found_while_half_of_them_are_taken_as_root() {
    if !possible("source_ports_are_found_while_half_of_them_are_taken_as_root") {
        return;
    }
    let cluster = Cluster::with(
        topology(PodNetwork::Routed, Netfilter::None),
        &["--snat-ports", "61000-61499"],
    );
    let service = Service::new(&cluster.lab, "remote", 10)
        .load_balancer(&cluster.lab, 10, NODE_PORT)
        .with(&cluster.lab, &["pod2-1"]);
    cluster.apply(&service);
    for family in Family::BOTH {
        // Flows of datagrams keep their ports for minutes.
        let to = Address::LoadBalancer.socket(&cluster, family, 10, NODE_PORT);
        let shares = cluster.probe("client", Proto::Udp, to, 250);
        assert!(shares.all_answered(), "{shares}\n{}", cluster.diagnosis());
    }
}
