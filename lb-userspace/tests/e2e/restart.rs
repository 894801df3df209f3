//! The agent comes and goes; traffic does not notice.

use std::net::SocketAddr;

use lb_lab::{Family, Netfilter, PodNetwork, Signal, Topology};

use crate::{
    cluster::{Cluster, hook, possible},
    load::{Connections, Hammers, assert_stayed},
    reach::Address,
    rows::{Expect, Rows},
    service::Service,
};

const NODE_PORT: u16 = 30_080;
const BOTH: [&str; 2] = ["pod1-1", "pod2-1"];

fn ways(cluster: &Cluster) -> Vec<(&'static str, SocketAddr)> {
    let mut ways = Vec::new();
    for family in Family::BOTH {
        let at = |address: Address| address.socket(cluster, family, 10, NODE_PORT);
        ways.extend([
            ("client", at(Address::LoadBalancer)),
            ("pod1-1", at(Address::ClusterIp)),
            ("node1", at(Address::ClusterIp)),
            ("node1", at(Address::NodePort("node1"))),
        ]);
    }
    ways
}

/// Ends and starts the agent of node1 under load, each time by this signal and with this hook, and changes a Service
/// while it is away.
fn restarts(mut cluster: Cluster, rounds: &[(Signal, &str)]) {
    let service = Service::new(&cluster.lab, "shop", 10).load_balancer(&cluster.lab, 10, NODE_PORT);
    cluster.apply(&service.clone().with(&cluster.lab, &BOTH));
    let ways = ways(&cluster);
    let mut held = Connections::open(&cluster, &ways, 4);
    let client = cluster.lab.at("client").expect("it is there").clone();
    let download = client.stream(ways[0].1, 2_000_000).expect("the download begins");
    let datagrams = client
        .stream_datagrams(ways[0].1, 100)
        .expect("datagrams can be sent");
    let hammers = Hammers::start(&cluster, &ways);
    for (number, (signal, hook)) in rounds.iter().enumerate() {
        hammers.wait_for(5);
        cluster.end_agent(0, *signal);
        held.assert_alive(&cluster, "while the agent is away");
        hammers.wait_for(10);
        let what_is_new: &[&str] = if number % 2 == 0 {
            &["pod1-1", "pod1-2", "pod2-1"]
        } else {
            &BOTH
        };
        // The agents that run take it in at once.
        cluster.apply(&service.clone().with(&cluster.lab, what_is_new));
        cluster.set_hook(hook);
        cluster.start_agent(0);
        cluster.wait_for_agent(0);
        let mut rows = Rows::new(&cluster);
        for (from, to) in &ways {
            rows.both(from, *to, "after the restart", Expect::From(what_is_new));
        }
        rows.check();
        held.assert_alive(&cluster, "after the restart");
    }
    hammers.wait_for(10);
    hammers.assert_no_failure(&cluster);
    let report = download.stop();
    assert!(report.error.is_none() && report.received > 0, "{report:?}");
    assert_stayed(datagrams, "datagrams over restarts");
}

#[test]
fn traffic_goes_on_while_the_agent_is_killed_and_restarted_as_root() {
    if possible("traffic_goes_on_while_the_agent_is_killed_and_restarted_as_root") {
        let topology = Topology::cluster(2, 2).netfilter(Netfilter::Iptables);
        let hook = &*hook();
        restarts(
            Cluster::by(hook, topology, &[]),
            &[(Signal::SIGKILL, hook), (Signal::SIGTERM, hook)],
        );
    }
}

#[test]
fn traffic_goes_on_while_the_hook_of_the_uplinks_changes_as_root() {
    if possible("traffic_goes_on_while_the_hook_of_the_uplinks_changes_as_root") {
        let topology = Topology::cluster(2, 2).netfilter(Netfilter::Nftables).xdp();
        let hooks = ["xdp-native", "xdp-generic", "xdp", "tc"];
        restarts(
            Cluster::by("tc", topology, &[]),
            &hooks.map(|hook| (Signal::SIGKILL, hook)),
        );
    }
}

#[test]
fn clsact_serves_as_well_and_survives_a_restart_as_root() {
    if possible("clsact_serves_as_well_and_survives_a_restart_as_root") {
        let topology = Topology::cluster(2, 2)
            .network(PodNetwork::Bridge)
            .netfilter(Netfilter::Nftables);
        let hook = &*hook();
        restarts(
            Cluster::by(hook, topology, &["--tc-attach", "clsact"]),
            &[(Signal::SIGKILL, hook), (Signal::SIGTERM, hook)],
        );
    }
}
