//! Backends come and go while connections are held and made: none moves, none fails, and who is on its way
//! out gets no new ones.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use lb_lab::{Family, Netfilter, PodNetwork, Proto, Topology};

use crate::{
    cluster::{Cluster, possible},
    load::{Connections, Hammers, assert_stayed},
    reach::Address,
    rows::MANY,
    service::{Endpoint, Service},
};

const NODE_PORT: u16 = 30_080;
const LIMIT: Duration = Duration::from_secs(5);

fn ways(cluster: &Cluster) -> Vec<(&'static str, SocketAddr)> {
    let mut ways = Vec::new();
    for family in Family::BOTH {
        let at = |address: Address| address.socket(cluster, family, 10, NODE_PORT);
        ways.extend([
            ("client", at(Address::LoadBalancer)),
            ("client", at(Address::NodePort("node2"))),
            ("pod1-2", at(Address::ClusterIp)),
            ("node1", at(Address::ClusterIp)),
        ]);
    }
    ways
}

#[test]
fn scaling_moves_no_connection_and_fails_none_as_root() {
    let network = [
        (PodNetwork::Routed, Netfilter::Iptables),
        (PodNetwork::Tunnel, Netfilter::Nftables),
    ];
    for (network, netfilter) in network {
        if possible("scaling_moves_no_connection_and_fails_none_as_root") {
            scaling(network, netfilter);
        }
    }
}

fn scaling(network: PodNetwork, netfilter: Netfilter) {
    let cluster = Cluster::with(Topology::cluster(2, 2).network(network).netfilter(netfilter), &[]);
    let lab = &cluster.lab;
    let service = Service::new(lab, "shop", 10).load_balancer(lab, 10, NODE_PORT);
    let (few, all) = (["pod1-1", "pod2-1"], ["pod1-1", "pod1-2", "pod2-1", "pod2-2"]);
    cluster.apply(&service.clone().with(lab, &few));
    let ways = ways(&cluster);
    let mut held = Connections::open(&cluster, &ways, 6);
    let before = held.with("pod1-1");
    assert!(before > 0, "some connections are with the pod that is to go");
    let downloads: Vec<_> = ways
        .iter()
        .map(|(from, to)| {
            let place = lab.at(from).expect("the place is there");
            place.stream(*to, 2_000_000).expect("the download begins")
        })
        .collect();
    let datagrams: Vec<_> = ways
        .iter()
        .map(|(from, to)| {
            let place = lab.at(from).expect("the place is there");
            place.stream_datagrams(*to, 50).expect("datagrams can be sent")
        })
        .collect();
    let hammers = Hammers::start(&cluster, &ways);
    hammers.wait_for(10);

    // Up: new connections spread to all.
    cluster.apply(&service.clone().with(lab, &all));
    let names = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
    for (from, to) in &ways {
        cluster.eventually(from, Proto::Tcp, *to, MANY, |s| {
            s.all_answered() && s.names() == names(&all)
        });
    }
    held.assert_alive(&cluster, "after scaling up");

    // One is drained: it keeps what it has and gets nothing new.
    let mut endpoints: Vec<_> = all.iter().map(|name| Endpoint::of(lab, name)).collect();
    endpoints[0] = Endpoint::of(lab, "pod1-1").draining();
    cluster.apply(&service.clone().with_endpoints(endpoints));
    for (from, to) in &ways {
        for proto in Proto::BOTH {
            let shares = cluster.probe(from, proto, *to, MANY);
            assert!(
                shares.all_answered() && shares.names() == names(&all[1..]),
                "{from} to {to} while pod1-1 is drained: {shares}"
            );
        }
    }
    held.assert_alive(&cluster, "while a backend is drained");

    // Datagrams stay too, as long as their backend serves.
    for (stream, (from, to)) in datagrams.into_iter().zip(&ways) {
        assert_stayed(stream, &format!("datagrams from {from} to {to}"));
    }

    // It is gone from the Service; as long as the pod lives, so do its connections.
    cluster.apply(&service.clone().with(lab, &all[1..]));
    hammers.wait_for(10);
    hammers.assert_no_failure(&cluster);
    held.assert_alive(&cluster, "after the drained backend was removed");
    for download in downloads {
        download
            .wait_for_more(1_000_000, LIMIT)
            .expect("the download goes on");
        let report = download.stop();
        assert!(report.error.is_none() && report.by.len() == 1, "{report:?}");
    }
}

#[test]
fn endpoint_conditions_are_followed_as_root() {
    if !possible("endpoint_conditions_are_followed_as_root") {
        return;
    }
    let cluster = Cluster::with(Topology::cluster(2, 2).netfilter(Netfilter::Nftables), &[]);
    let lab = &cluster.lab;
    let service = Service::new(lab, "shop", 10).load_balancer(lab, 10, NODE_PORT);
    let ready = |name| Endpoint::of(lab, name);
    let ways = ways(&cluster);
    let mut held = None;
    for (what, endpoints, answering) in [
        (
            "all ready",
            vec![ready("pod1-1"), ready("pod2-1")],
            &["pod1-1", "pod2-1"][..],
        ),
        (
            "one drained",
            vec![ready("pod1-1").draining(), ready("pod2-1")],
            &["pod2-1"],
        ),
        (
            "one failing",
            vec![ready("pod1-1"), ready("pod2-1").failing()],
            &["pod1-1"],
        ),
        // Better one that is on its way out than none.
        (
            "only drained ones left",
            vec![ready("pod1-1").draining(), ready("pod2-1").failing()],
            &["pod1-1"],
        ),
        ("only failing ones left", vec![ready("pod2-1").failing()], &[]),
        ("none left", vec![], &[]),
        ("one back", vec![ready("pod2-1")], &["pod2-1"]),
    ] {
        cluster.apply(&service.clone().with_endpoints(endpoints));
        for (from, to) in &ways {
            for proto in Proto::BOTH {
                let shares = cluster.probe(from, proto, *to, MANY);
                let good = if answering.is_empty() {
                    shares.all_refused()
                } else {
                    shares.all_answered() && shares.names() == answering.iter().copied().collect()
                };
                assert!(
                    good,
                    "{what}: {from} to {to} {proto:?}: {shares}\n{}",
                    cluster.diagnosis()
                );
            }
        }
        // Whatever becomes of the Service's endpoints, the pods live, and so do connections to them.
        held.get_or_insert_with(|| Connections::open(&cluster, &ways, 4))
            .assert_alive(&cluster, what);
    }
}
