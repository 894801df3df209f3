//! The books balance: what each hook received, as the kernel counts how often its programs ran, is what `lb-agent counters` says
//! was forwarded, passed, rejected and dropped there, to the packet.
//!
//! `cargo xtask ledger` runs all pod networks by TC and by XDP; the tests run each network by the hook that tests run by.

mod reading;
mod traffic;

use std::{collections::BTreeMap, env, fs, path::Path};

use lb_lab::{Netfilter, PodNetwork, Topology};
use serde_json::json;

use self::reading::{KINDS, Reading};
use crate::cluster::{Cluster, hook, possible};

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

/// One result, as `cargo xtask ledger` reads it.
struct Judged {
    id: String,
    expected: String,
    seen: String,
    ok: bool,
}

fn check(test: &str, name: &str, network: PodNetwork, netfilter: Netfilter) {
    if !possible(test) {
        return;
    }
    let hooks = match env::var("LB_LEDGER_HOOKS") {
        Ok(hooks) if !hooks.is_empty() => hooks,
        _ => hook(),
    };
    let mut judged = Vec::new();
    for hook in hooks.split(',') {
        let topology = Topology::cluster(3, 2).network(network).netfilter(netfilter);
        let cluster = Cluster::by(hook, topology, &[]);
        judged.extend(balance(&cluster, &format!("{name}/{hook}")));
    }
    if let Ok(folder) = env::var("LB_LEDGER_REPORT") {
        let checks: Vec<_> = judged
            .iter()
            .map(|one| json!({"id": one.id, "expected": one.expected, "seen": one.seen, "ok": one.ok}))
            .collect();
        let file = Path::new(&folder).join(format!("{name}.json"));
        fs::write(file, json!(checks).to_string()).expect("the report can be written");
    }
    let rows = |wanted: &dyn Fn(&Judged) -> bool| {
        let rows = judged.iter().filter(|one| wanted(one));
        rows.map(|one| format!("{}: expected {}; {}", one.id, one.expected, one.seen))
            .collect::<Vec<_>>()
    };
    eprintln!("{}", rows(&|_| true).join("\n"));
    let failures = rows(&|one| !one.ok);
    assert!(
        failures.is_empty(),
        "{} of {} do not add up:\n{}",
        failures.len(),
        judged.len(),
        failures.join("\n")
    );
}

/// The books of one lab, before and after traffic of every kind.
fn balance(cluster: &Cluster, lab: &str) -> Vec<Judged> {
    // Runs are counted only while somebody wants to know: programs that ran before have run 0 times.
    let _counting = reading::count_runs();
    traffic::serve(cluster);
    let nodes: Vec<_> = cluster
        .lab
        .topology()
        .nodes
        .iter()
        .map(|node| node.name.clone())
        .collect();
    let read = || -> Vec<_> {
        (0..nodes.len())
            .map(|node| Reading::settled(cluster, node))
            .collect()
    };
    let before = read();
    let sent = traffic::send(cluster);
    let after = read();

    let mut judged = Vec::new();
    let mut kinds = BTreeMap::from(KINDS.map(|kind| (kind, 0)));
    for (node, (before, after)) in nodes.iter().zip(before.iter().zip(&after)) {
        judged.push(Judged {
            id: format!("{lab}/{node}/programs"),
            expected: format!("the same {} programs before and after", before.programs.len()),
            seen: format!("{} programs", after.programs.len()),
            ok: before.programs == after.programs,
        });
        for (hook, ran) in &after.ran {
            let received = ran - before.ran.get(hook).unwrap_or(&0);
            let counted = KINDS.map(|kind| (kind, after.counted(hook, kind) - before.counted(hook, kind)));
            let total: u64 = counted.iter().map(|(_, packets)| packets).sum();
            for (kind, packets) in counted {
                *kinds.entry(kind).or_default() += packets;
            }
            let parts = counted.map(|(kind, packets)| format!("{kind} {packets}"));
            judged.push(Judged {
                id: format!("{lab}/{node}/{hook}"),
                expected: format!("received {received}, residual 0"),
                seen: format!(
                    "{} = {total}, residual {}",
                    parts.join(" + "),
                    i128::from(received) - i128::from(total)
                ),
                ok: received == total,
            });
        }
    }
    let outcomes = reading::outcomes(&before, &after);
    judged.push(Judged {
        id: format!("{lab}/traffic"),
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
    judged
}
