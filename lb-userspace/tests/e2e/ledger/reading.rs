//! Both books of a node at one moment: how often programs ran, by the kernel, and what they counted, by
//! `lb-agent counters`.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    time::Duration,
};

use aya::{maps::MapInfo, programs::loaded_programs, sys::Stats};
use lb_common::abi::{Hook, names};
use lb_lab::wait_for;
use serde_json::Value;

use crate::cluster::Cluster;

/// The members that `lb-agent counters -o json` gives a hook beside `received`.
pub(super) const KINDS: [&str; 4] = ["forwarded", "passed", "rejected", "dropped"];

/// The programs that see packets, and under which hook each counts them. (`sweep` sees none; those at sockets see calls.)
const PROGRAMS: [(&str, Hook); 8] = [
    ("uplink_xdp", Hook::UplinkXdp),
    ("uplink_in", Hook::UplinkIn),
    ("uplink_out", Hook::UplinkOut),
    ("pod_in", Hook::PodIn),
    ("bridge_port_in", Hook::PodIn),
    ("pod_out", Hook::PodOut),
    ("host_out", Hook::HostOut),
    ("loopback_out", Hook::LoopbackOut),
];

/// How long until a moment comes in which a node sees no packet.
const QUIET: Duration = Duration::from_secs(60);

/// Has the kernel count runs until the result is dropped.
pub(super) fn count_runs() -> OwnedFd {
    aya::sys::enable_stats(Stats::RunTime).expect("root may")
}

/// A node's books.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reading {
    /// The kernel's ids of the programs.
    pub(super) programs: BTreeSet<u32>,
    /// How often the programs of each hook ran.
    pub(super) ran: BTreeMap<&'static str, u64>,
    /// What `lb-agent counters` says.
    counters: Value,
}

impl Reading {
    /// The books when nothing comes in between the pages: each is read twice, in turns, and has not changed.
    pub(super) fn settled(cluster: &Cluster, node: usize) -> Self {
        let mut last = None;
        let quiet = wait_for(QUIET, "a moment without packets", || {
            let now = Self::now(cluster, node);
            last.replace(now) == last
        });
        quiet.expect("labs are quiet between packets");
        last.expect("it was read")
    }

    fn now(cluster: &Cluster, node: usize) -> Self {
        let counters = cluster.map(node, names::COUNTERS);
        let counters = MapInfo::from_pin(counters).expect("it is pinned").id();
        let mut programs = BTreeSet::new();
        let mut ran = BTreeMap::new();
        // A program that is gone by the time it is asked is none of a running agent's.
        for program in loaded_programs().filter_map(Result::ok) {
            let name = program.name_as_str().unwrap_or_default();
            let Some((_, hook)) = PROGRAMS.iter().find(|(known, _)| *known == name) else {
                continue;
            };
            // Programs of other nodes, and of other labs, have other maps.
            let maps = program.map_ids().ok().flatten().unwrap_or_default();
            if maps.contains(&counters) {
                programs.insert(program.id());
                *ran.entry(hook.name()).or_default() += program.run_count();
            }
        }
        let (text, done) = cluster.agent(node, &["counters", "-o", "json"]);
        assert!(done, "{text}");
        let counters = serde_json::from_str(&text).expect("it is JSON");
        Self {
            programs,
            ran,
            counters,
        }
    }

    /// Packets of a kind; a hook that has counted nothing is not listed.
    pub(super) fn counted(&self, hook: &str, kind: &str) -> u64 {
        let hooks = self.counters["hooks"].as_array().expect("a list");
        let hook = hooks.iter().find(|one| one["hook"] == hook);
        hook.map_or(0, |hook| hook[kind].as_u64().expect("a number"))
    }

    /// Packets by outcome, on all hooks.
    fn outcomes(&self) -> BTreeMap<&str, u64> {
        let mut sums = BTreeMap::new();
        for one in self.counters["outcomes"].as_array().expect("a list") {
            let name = one["outcome"].as_str().expect("a name");
            *sums.entry(name).or_default() += one["packets"].as_u64().expect("a number");
        }
        sums
    }
}

/// What became of packets between readings of all nodes.
pub(super) fn outcomes<'a>(before: &[Reading], after: &'a [Reading]) -> BTreeMap<&'a str, u64> {
    let mut sums = BTreeMap::new();
    for (before, after) in before.iter().zip(after) {
        let before = before.outcomes();
        for (name, packets) in after.outcomes() {
            *sums.entry(name).or_default() += packets - before.get(name).unwrap_or(&0);
        }
    }
    sums.retain(|_, packets| *packets > 0);
    sums
}
