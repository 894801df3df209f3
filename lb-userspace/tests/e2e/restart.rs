//! The agent comes and goes; traffic does not notice.

use std::{
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use lb_lab::{Family, Netfilter, PodNetwork, Signal, Topology};

use crate::{
    cluster::{Cluster, hook, possible},
    load::{Connections, Datagrams, Hammers, assert_stayed},
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

/// A cluster whose API server refuses connections.
const NOBODY: &str = "apiVersion: v1
kind: Config
clusters: [{name: nobody, cluster: {server: 'http://127.0.0.1:9'}}]
users: [{name: nobody, user: {}}]
contexts: [{name: nobody, context: {cluster: nobody, user: nobody}}]
current-context: nobody
";

#[test]
fn what_was_served_goes_on_while_there_is_nobody_to_ask_as_root() {
    if !possible("what_was_served_goes_on_while_there_is_nobody_to_ask_as_root") {
        return;
    }
    let mut cluster = Cluster::start(PodNetwork::Routed, Netfilter::Iptables);
    let service = Service::new(&cluster.lab, "shop", 10).load_balancer(&cluster.lab, 10, NODE_PORT);
    cluster.apply(&service.with(&cluster.lab, &BOTH));
    cluster.end_agent(0, Signal::SIGKILL);
    let kubeconfig = cluster.lab.folder().join("nobody");
    fs::write(&kubeconfig, NOBODY).expect("the lab's folder can be written");
    cluster.set_source(&["kubernetes", "--kubeconfig", &kubeconfig.to_string_lossy()]);
    cluster.start_agent(0);
    // It says so every ten seconds; to verify programs and fill maps would not take as long.
    lb_lab::wait_for(Duration::from_secs(30), "it says what it waits for", || {
        cluster
            .log(0)
            .contains("still waiting for the first complete lists")
    })
    .unwrap_or_else(|error| panic!("{error}: {}", cluster.log(0)));
    let mut rows = Rows::new(&cluster);
    for (from, to) in ways(&cluster) {
        rows.both(from, to, "as before", Expect::From(&BOTH));
    }
    rows.check();
}

/// Restarts of one agent, if nothing else is to happen.
const RESTARTS: u32 = 20;

/// Kills the agent of node1 and starts it, again and again; nothing that is under way or comes anew may notice. What is
/// otherwise from the next start on is up to `change`, which sees the agent that still runs.
pub(crate) fn many_restarts(
    test: &str,
    hook: &str,
    restarts: u32,
    mut change: impl FnMut(&mut Cluster, u32),
) {
    if !possible(test) {
        return;
    }
    let mut cluster = Cluster::by(hook, Topology::cluster(2, 2).netfilter(Netfilter::Iptables), &[]);
    let service = Service::new(&cluster.lab, "shop", 10).load_balancer(&cluster.lab, 10, NODE_PORT);
    cluster.apply(&service.with(&cluster.lab, &BOTH));
    let ways = ways(&cluster);
    let mut held = Connections::open(&cluster, &ways, 4);
    let downloads: Vec<_> = ways
        .iter()
        .map(|(from, to)| {
            let place = cluster.lab.at(from).expect("it is there");
            (
                *from,
                *to,
                place.stream(*to, 500_000).expect("the download begins"),
            )
        })
        .collect();
    let datagrams = Datagrams::start(&cluster, &ways, 2, 50);
    let hammers = Hammers::start(&cluster, &ways);
    let start = Instant::now();
    for number in 0..restarts {
        hammers.wait_for(3);
        change(&mut cluster, number);
        cluster.end_agent(0, Signal::SIGKILL);
        cluster.start_agent(0);
        cluster.wait_for_agent(0);
    }
    let took = start.elapsed();
    hammers.wait_for(3);
    datagrams.wait_for(10, &cluster);
    held.assert_alive(&cluster, "after all restarts");
    let connections = hammers.assert_no_failure(&cluster);
    let sent = datagrams.assert_none_lost(&cluster);
    for (from, to, download) in downloads {
        let report = download.stop();
        assert!(
            report.error.is_none() && report.received > 0,
            "{from} to {to}: {report:?}"
        );
    }
    eprintln!("{test}: {restarts} restarts in {took:.1?}, {connections} new connections, {sent} datagrams");
}

#[test]
fn twenty_restarts_are_noticed_by_nobody_by_tc_as_root() {
    many_restarts(
        "twenty_restarts_are_noticed_by_nobody_by_tc_as_root",
        "tc",
        RESTARTS,
        |_, _| (),
    );
}

#[test]
fn twenty_restarts_are_noticed_by_nobody_by_xdp_as_root() {
    many_restarts(
        "twenty_restarts_are_noticed_by_nobody_by_xdp_as_root",
        "xdp-native",
        RESTARTS,
        |_, _| (),
    );
}

#[test]
fn an_agent_killed_anywhere_in_its_start_leaves_nothing_wrong_as_root() {
    let test = "an_agent_killed_anywhere_in_its_start_leaves_nothing_wrong_as_root";
    if !possible(test) {
        return;
    }
    let topology = Topology::cluster(2, 2).netfilter(Netfilter::Iptables);
    let mut cluster = Cluster::by("xdp-native", topology, &[]);
    let service = Service::new(&cluster.lab, "shop", 10).load_balancer(&cluster.lab, 10, NODE_PORT);
    cluster.apply(&service.with(&cluster.lab, &BOTH));
    let ways = ways(&cluster);
    let mut held = Connections::open(&cluster, &ways, 2);
    let hammers = Hammers::start(&cluster, &ways);
    cluster.end_agent(0, Signal::SIGKILL);
    // How far a start gets in a given time is the machine's business; somewhere among these is every step.
    for number in 0..KILLED_STARTS {
        cluster.set_hook(["xdp-native", "tc", "xdp-generic"][number as usize % 3]);
        // Half of the starts are killed anywhere in the move to other tables.
        cluster.set_argument(
            "--max-flows",
            ["262144", "262144", "20000", "40000"][number as usize % 4],
        );
        cluster.start_agent(0);
        let end = Instant::now() + Duration::from_millis(100) * number;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
        }
        cluster.end_agent(0, Signal::SIGKILL);
        hammers.wait_for(2);
    }
    cluster.set_hook("xdp-native");
    cluster.start_agent(0);
    cluster.wait_for_agent(0);
    cluster.eventually_status(0, "XDP is in the driver", |status| {
        status["xdp"]["eth0"]["mode"] == "native"
    });
    hammers.wait_for(5);
    held.assert_alive(&cluster, "after all starts");
    hammers.assert_no_failure(&cluster);
    let mut left = Vec::new();
    for folder in fs::read_dir(cluster.pins(0)).expect("pins are there").flatten() {
        let names = fs::read_dir(folder.path())
            .expect("pins are in folders")
            .flatten();
        left.extend(names.map(|name| name.file_name().to_string_lossy().into_owned()));
    }
    let strange: Vec<_> = left
        .iter()
        .filter(|name| name.starts_with("new-") || name.starts_with("old") || name.ends_with("-generic"))
        .collect();
    assert!(strange.is_empty(), "{left:?}");
    let on_eth0 = left.iter().filter(|name| name.starts_with("eth0-")).count();
    assert_eq!(on_eth0, 3, "TC both ways and XDP: {left:?}");
}

/// Starts that are cut short, each a little later than the one before.
const KILLED_STARTS: u32 = 18;
