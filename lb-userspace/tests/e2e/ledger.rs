//! The books balance: what each hook received, as the kernel counts how often its programs ran, is what `lb-agent counters` says
//! was forwarded, passed, rejected and dropped there, to the packet. How they are read: `lb_cases::books`.
//!
//! `cargo xtask ledger` runs all pod networks by TC and by XDP; the tests run each network by the hook that tests run by.

mod traffic;

use std::{collections::BTreeMap, env, fs, os::fd::OwnedFd, path::Path};

use anyhow::ensure;
use lb_cases::books::{self, Balance, Books, Line};
use lb_lab::{Netfilter, PodNetwork, Topology};
use serde_json::json;

use crate::cluster::{Cluster, hook, possible};

/// Where `cargo xtask ledger` wants to find what was seen.
const REPORT: &str = "LB_LEDGER_REPORT";

#[test]
fn what_hooks_receive_adds_up_in_a_routed_network_as_root() {
    check(
        "what_hooks_receive_adds_up_in_a_routed_network_as_root",
        "routed",
        PodNetwork::Routed,
        Netfilter::Nftables,
    );
}

#[test]
fn what_hooks_receive_adds_up_in_tunnels_as_root() {
    check(
        "what_hooks_receive_adds_up_in_tunnels_as_root",
        "tunnel",
        PodNetwork::Tunnel,
        Netfilter::Iptables,
    );
}

#[test]
fn what_hooks_receive_adds_up_on_bridges_as_root() {
    check(
        "what_hooks_receive_adds_up_on_bridges_as_root",
        "bridge",
        PodNetwork::Bridge,
        Netfilter::Iptables,
    );
}

/// The books of a lab's agents.
pub(crate) struct Ledger {
    /// Those of each node.
    books: Vec<(String, Books)>,
    #[allow(dead_code)] // held, not read: runs are counted until it is dropped
    counting: OwnedFd,
}

impl Ledger {
    /// Starts a cluster whose runs are counted from the beginning, and opens its books.
    pub(crate) fn of(start: impl FnOnce() -> Cluster) -> (Cluster, Self) {
        let counting = books::count_runs().expect("root may");
        let cluster = start();
        let nodes = cluster.lab.topology().nodes.iter().enumerate();
        let books = nodes.map(|(node, spec)| {
            let books = Books::open(&cluster.pins(node)).expect("the agent serves");
            (spec.name.clone(), books)
        });
        let books = books.collect();
        (cluster, Self { books, counting })
    }

    /// The books of each node, in a moment without packets.
    pub(crate) fn balances(&self, cluster: &Cluster) -> Vec<(String, Balance)> {
        let read = |node| {
            let (text, done) = cluster.agent(node, &["counters", "-o", "json"]);
            ensure!(done, "{text}");
            Ok(serde_json::from_str(&text)?)
        };
        let balance = |(node, (name, books)): (usize, &(String, Books))| {
            let balance = books.balance(|| read(node));
            let balance =
                balance.unwrap_or_else(|error| panic!("{name}: {error:#}\n{}", cluster.diagnosis()));
            (name.clone(), balance)
        };
        self.books.iter().enumerate().map(balance).collect()
    }
}

/// A line for each hook of each node.
pub(crate) fn lines(of: &str, balances: &[(String, Balance)]) -> Vec<Line> {
    let lines = balances.iter().flat_map(|(node, balance)| {
        balance.lines().into_iter().map(move |line| Line {
            of: format!("{of}/{node}/{}", line.of),
            ..line
        })
    });
    lines.collect()
}

/// Writes lines into a file of the folder that is asked for by this variable, if it is.
pub(crate) fn write_down(variable: &str, name: &str, lines: &[Line]) {
    if let Ok(folder) = env::var(variable) {
        let checks: Vec<_> = lines
            .iter()
            .map(|one| json!({"id": one.of, "expected": one.expected, "seen": one.seen, "ok": one.ok}))
            .collect();
        let file = Path::new(&folder).join(format!("{name}.json"));
        fs::write(file, json!(checks).to_string()).expect("the report can be written");
    }
}

/// Writes down what `cargo xtask ledger` asks for, and gives what does not add up.
pub(crate) fn conclude(name: &str, lines: &[Line]) -> Vec<String> {
    write_down(REPORT, name, lines);
    let row = |line: &Line| format!("{}: expected {}; {}", line.of, line.expected, line.seen);
    lines.iter().for_each(|line| eprintln!("{}", row(line)));
    lines.iter().filter(|line| !line.ok).map(row).collect()
}

fn check(test: &str, name: &str, network: PodNetwork, netfilter: Netfilter) {
    if !possible(test) {
        return;
    }
    let hooks = match env::var("LB_LEDGER_HOOKS") {
        Ok(hooks) if !hooks.is_empty() => hooks,
        _ => hook(),
    };
    let mut all = Vec::new();
    for hook in hooks.split(',') {
        let topology = Topology::cluster(3, 2).network(network).netfilter(netfilter);
        let (cluster, ledger) = Ledger::of(|| Cluster::by(hook, topology, &[]));
        all.extend(balance(&cluster, &ledger, &format!("labs/{name}/{hook}")));
    }
    let failures = conclude(name, &all);
    assert!(
        failures.is_empty(),
        "{} of {} do not add up:\n{}",
        failures.len(),
        all.len(),
        failures.join("\n")
    );
}

/// The books of one lab after traffic of every kind, and whether that was so.
fn balance(cluster: &Cluster, ledger: &Ledger, lab: &str) -> Vec<Line> {
    traffic::serve(cluster);
    let sent = traffic::send(cluster);
    let balances = ledger.balances(cluster);
    let mut lines = lines(lab, &balances);
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, balance) in &balances {
        for (kind, packets) in balance.hooks.iter().flat_map(|hook| hook.counted) {
            *kinds.entry(kind).or_default() += packets;
        }
        for (outcome, packets) in &balance.outcomes {
            *outcomes.entry(outcome).or_default() += packets;
        }
    }
    lines.push(Line {
        of: lab.to_owned(),
        expected: format!(
            "answers, packets of every kind, and {}",
            traffic::WANTED.join(", ")
        ),
        seen: format!("{sent} answers; {kinds:?}; {outcomes:?}"),
        ok: sent > 0
            && kinds.values().all(|packets| *packets > 0)
            && traffic::WANTED
                .iter()
                .all(|wanted| outcomes.contains_key(*wanted)),
    });
    lines
}
