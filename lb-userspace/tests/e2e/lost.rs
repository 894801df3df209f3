//! Connections whose flow a node does not have, or not whole: mended where that is possible, else reset at
//! once. Nothing of them leaves untranslated for good.

use std::{process::Command, time::Duration};

use lb_common::{
    abi::{Node, names},
    net,
};
use lb_lab::{Family, Netfilter, Signal, Topology, wait_for};

use crate::{
    cluster::{Cluster, possible},
    load::Connections,
    reach::Address,
    service::Service,
};

const NODE_PORT: u16 = 30_080;
/// Halves look after each other that often, and a little more.
const LOOKED_AFTER: Duration = Duration::from_secs(25);
/// Flag of an entry that translates replies.
const REVERSE: u64 = 1;

fn start() -> Cluster {
    let cluster = Cluster::with(Topology::cluster(2, 2).netfilter(Netfilter::Iptables), &[]);
    let service = Service::new(&cluster.lab, "shop", 10)
        .load_balancer(&cluster.lab, 10, NODE_PORT)
        .with(&cluster.lab, &["pod1-1", "pod2-1"]);
    cluster.apply(&service);
    cluster
}

fn open(cluster: &Cluster, clients: &[&'static str]) -> Connections {
    let ways: Vec<_> = Family::BOTH
        .iter()
        .flat_map(|family| {
            let to = Address::LoadBalancer.socket(cluster, *family, 10, NODE_PORT);
            clients.iter().map(move |from| (*from, to))
        })
        .collect();
    Connections::open(cluster, &ways, 4)
}

/// The kernel's clock.
fn jiffies() -> u64 {
    let timers = std::fs::read_to_string("/proc/timer_list").expect("root may read it");
    let line = timers.lines().find_map(|line| line.strip_prefix("jiffies: "));
    line.and_then(|number| number.parse().ok())
        .expect("the kernel says what time it is")
}

/// Removes the entries of node1 that translate in one direction, once the clock has moved on so far since they were
/// last used that the next packet looks after the other half.
fn lose(cluster: &Cluster, reverse: bool) -> usize {
    let mut lost = 0;
    for name in names::FLOWS {
        let map = cluster.map(0, name);
        let now =
            || jiffies() >> Node::tick_shift(lb_userspace::node::hertz().expect("the clock has a rate"));
        let entries = crate::dump::entries(&map);
        let value = |entry: &serde_json::Value, field: &str| entry["formatted"]["value"][field].as_u64();
        let seen = entries.iter().filter_map(|entry| value(entry, "seen")).max();
        let window = |tick: u64| tick / u64::from(net::TWIN_TICKS);
        wait_for(LOOKED_AFTER, "the clock of flows to move on", || {
            seen.is_none_or(|seen| window(now()) > window(seen))
        })
        .expect("a tick is about a second");
        for entry in entries
            .iter()
            .filter(|entry| value(entry, "flags").is_some_and(|flags| (flags & REVERSE != 0) == reverse))
        {
            let key = entry["key"].as_array().expect("bytes of the key");
            let removed = Command::new("bpftool")
                .args(["map", "delete", "pinned"])
                .arg(&map)
                .arg("key")
                .args(key.iter().filter_map(|byte| byte.as_str()))
                .status()
                .expect("bpftool is installed");
            assert!(removed.success());
            lost += 1;
        }
    }
    lost
}

#[test]
fn a_flow_that_lost_a_half_goes_on_as_root() {
    if !possible("a_flow_that_lost_a_half_goes_on_as_root") {
        return;
    }
    let cluster = start();
    let mut all = open(&cluster, &["client", "pod1-2", "node1"]);
    assert!(lose(&cluster, true) >= 24);
    all.assert_alive(&cluster, "after the halves for replies were lost");
    // What a client outside was given any node would give it again.
    let mut outside = open(&cluster, &["client"]);
    assert!(lose(&cluster, false) >= 8);
    outside.assert_alive(&cluster, "after the halves for requests were lost");
}

#[test]
fn a_connection_that_no_flow_is_left_of_is_reset_as_root() {
    if !possible("a_connection_that_no_flow_is_left_of_is_reset_as_root") {
        return;
    }
    let mut cluster = start();
    let mut inside = open(&cluster, &["pod1-2", "node1"]);
    cluster.end_agent(0, Signal::SIGTERM);
    assert!(cluster.agent(0, &["detach"]).1);
    cluster.start_agent(0);
    cluster.wait_for_agent(0);
    inside.assert_reset(&cluster, "after all flows were lost");
}
