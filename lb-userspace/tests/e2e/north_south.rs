//! Clients outside, by each hook that uplinks can be served at: the same answers, by XDP in the driver and in the
//! stack as by TC; and the counters say which of them did it.

use std::{net::SocketAddr, time::Duration};

use lb_lab::{Family, Netfilter, PodNetwork, Topology};

use crate::{
    cluster::{Cluster, possible},
    reach::Address,
    rows::{Expect, Rows},
    service::Service,
};

const NODE_PORT: u16 = 30_080;
const BYTES: u64 = 20_000_000;
const LIMIT: Duration = Duration::from_secs(30);

/// Backends on node1 (two) and node2 (one); none on node3.
const BACKENDS: [&str; 3] = ["pod1-1", "pod1-2", "pod2-1"];

#[test]
fn clients_outside_are_served_by_xdp_in_the_driver_as_root() {
    check(
        "clients_outside_are_served_by_xdp_in_the_driver_as_root",
        "xdp-native",
        Topology::cluster(3, 2).netfilter(Netfilter::Iptables),
    );
}

#[test]
fn clients_outside_are_served_by_xdp_in_the_stack_as_root() {
    check(
        "clients_outside_are_served_by_xdp_in_the_stack_as_root",
        "xdp-generic",
        Topology::cluster(3, 2).netfilter(Netfilter::Nftables),
    );
}

#[test]
fn clients_outside_are_served_by_xdp_where_pods_are_on_bridges_as_root() {
    check(
        "clients_outside_are_served_by_xdp_where_pods_are_on_bridges_as_root",
        "xdp",
        Topology::cluster(3, 2)
            .network(PodNetwork::Bridge)
            .netfilter(Netfilter::Nftables),
    );
}

#[test]
fn clients_outside_are_served_by_xdp_and_tunnels_by_tc_as_root() {
    check(
        "clients_outside_are_served_by_xdp_and_tunnels_by_tc_as_root",
        "xdp",
        Topology::cluster(3, 2)
            .network(PodNetwork::Tunnel)
            .netfilter(Netfilter::Iptables),
    );
}

fn check(test: &str, hook: &str, topology: Topology) {
    if !possible(test) {
        return;
    }
    let cluster = Cluster::by(hook, topology, &[]);
    let lab = &cluster.lab;
    let mode = if hook == "xdp-generic" {
        "generic"
    } else {
        "native"
    };
    for node in 0..3 {
        let status = cluster.status(node);
        assert_eq!(
            (&status["hook"], &status["xdp"]["eth0"]["mode"]),
            (&hook.into(), &mode.into()),
            "{status:#}"
        );
    }
    let service = |name, number: u16| {
        Service::new(lab, name, number).load_balancer(lab, number, NODE_PORT + number - 10)
    };
    cluster.apply(&service("wide", 10).with(lab, &BACKENDS));
    cluster.apply(
        &service("local", 11)
            .set("externalTrafficPolicy", "Local")
            .with(lab, &BACKENDS),
    );
    cluster.apply(&service("empty", 12));
    cluster.apply(&service("near", 13).with(lab, &["pod1-1"]));
    cluster.apply(&service("far", 14).with(lab, &["pod2-1"]));
    let at = |family, number: u16, address: Address| -> SocketAddr {
        address.socket(&cluster, family, number, NODE_PORT + number - 10)
    };
    for (via, local) in [
        ("node1", Expect::From(&["pod1-1", "pod1-2"])),
        ("node3", Expect::Silent),
    ] {
        lab.steer("client", via).expect("the client can be steered");
        let mut rows = Rows::new(&cluster);
        for family in Family::BOTH {
            for address in [Address::LoadBalancer, Address::External, Address::NodePort(via)] {
                rows.both(
                    "client",
                    at(family, 10, address),
                    ("wide", address, via),
                    Expect::From(&BACKENDS),
                );
                rows.both("client", at(family, 11, address), ("local", address, via), local);
                rows.both(
                    "client",
                    at(family, 12, address),
                    ("empty", address, via),
                    Expect::Refused,
                );
            }
        }
        rows.check();
    }
    // Inside, too, everything is as it was.
    let mut rows = Rows::new(&cluster);
    for family in Family::BOTH {
        for from in ["pod1-1", "pod3-1", "node1", "node3"] {
            for address in [
                Address::ClusterIp,
                Address::LoadBalancer,
                Address::NodePort("node2"),
            ] {
                rows.both(
                    from,
                    at(family, 11, address),
                    ("local", address),
                    Expect::From(&BACKENDS),
                );
            }
        }
    }
    rows.check();
    lab.steer("client", "node1").expect("the client can be steered");
    let forwarded = |hook| cluster.counted(0, hook, "forwarded");
    let client = lab.at("client").expect("it is there");
    for family in Family::BOTH {
        for number in [13, 14] {
            let (xdp, tc) = (forwarded("uplink-xdp"), forwarded("uplink-in"));
            let to = at(family, number, Address::LoadBalancer);
            for transfer in [client.download(to, BYTES, LIMIT), client.upload(to, BYTES, LIMIT)] {
                transfer.unwrap_or_else(|e| panic!("{to}: {e:#}\n{}", cluster.diagnosis()));
            }
            let (xdp, tc) = (forwarded("uplink-xdp") - xdp, forwarded("uplink-in") - tc);
            // An upload of so much has at least a packet for each segment.
            let by_xdp = number == 13;
            assert!(
                !by_xdp || xdp > BYTES / 1500 && tc == 0,
                "{to}: {xdp} packets by XDP, {tc} by TC\n{}",
                cluster.diagnosis()
            );
        }
    }
}
