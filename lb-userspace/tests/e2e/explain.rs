//! `lb-agent explain` says what packets do: on the live maps of the node that decides, and from the manifests alone. And its
//! first remedy, carried out, gives the client an answer.
//!
//! `cargo xtask explain-check` runs as many cells as it is told, in all three pod networks.

mod cell;
mod remedy;
mod told;

use std::{env, fs, path::Path};

use lb_common::{abi::names, testing::chance::Chance};
use lb_lab::{Family, Netfilter, PodNetwork, Proto, Topology};
use serde_json::{Value, json};

use self::cell::{Cell, NODE_PORT, SERVICES};
use crate::{
    cluster::{Cluster, possible},
    dump::{entries, lookup},
    reach::Address,
    service::Service,
};

/// Backends on node1 (two) and node2 (one); none on node3.
const BACKENDS: [&str; 3] = ["pod1-1", "pod1-2", "pod2-1"];
/// Of so many cells one is verified by the program itself.
const VERIFIED: usize = 20;
/// Cells of each network in the tests.
const SAMPLE: usize = 100;

#[test]
fn explain_says_what_packets_do_in_a_routed_network_as_root() {
    check(
        "explain_says_what_packets_do_in_a_routed_network_as_root",
        PodNetwork::Routed,
    );
}

#[test]
fn explain_says_what_packets_do_in_tunnels_as_root() {
    check(
        "explain_says_what_packets_do_in_tunnels_as_root",
        PodNetwork::Tunnel,
    );
}

#[test]
fn explain_says_what_packets_do_on_bridges_as_root() {
    check(
        "explain_says_what_packets_do_on_bridges_as_root",
        PodNetwork::Bridge,
    );
}

/// One result, as `cargo xtask explain-check` reads it.
struct Judged {
    id: String,
    expected: String,
    seen: String,
    ok: bool,
}

impl Judged {
    fn new(cell: &Cell, what: &str, expected: &str, seen: &str, ok: bool) -> Self {
        Self {
            id: format!("{cell}/{what}"),
            expected: expected.to_owned(),
            seen: seen.to_owned(),
            ok,
        }
    }
}

/// The Service of this number.
fn service(cluster: &Cluster, number: u16) -> Service {
    let lab = &cluster.lab;
    let service = Service::new(lab, SERVICES[usize::from(number - 10)], number);
    let balanced = |service: Service| service.load_balancer(lab, number, NODE_PORT + number);
    match number {
        10 => balanced(service)
            .set("externalTrafficPolicy", "Local")
            .with(lab, &BACKENDS),
        11 => balanced(service).with(lab, &BACKENDS),
        12 => service.set("internalTrafficPolicy", "Local").with(lab, &BACKENDS),
        _ => balanced(service),
    }
}

fn check(test: &str, network: PodNetwork) {
    if !possible(test) {
        return;
    }
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let sample = number("LB_EXPLAIN_SAMPLE").map_or(SAMPLE, |sample| sample as usize);
    let seed = number("LB_EXPLAIN_SEED").unwrap_or(1);
    let topology = Topology::cluster(3, 2)
        .network(network)
        .netfilter(Netfilter::Nftables);
    let cluster = Cluster::with(topology, &[]);
    for number in 10..14 {
        cluster.apply(&service(&cluster, number));
    }
    evidence_is_what_bpftool_shows(&cluster);
    the_backend_that_a_client_had_is_known(&cluster);
    verifying_leaves_nothing_behind(&cluster);
    a_pod_is_known_where_the_agent_has_its_objects_from(&cluster);

    let (mut judged, mut unanswered) = (Vec::new(), Vec::new());
    for (number, cell) in drawn(Cell::all(network), sample, seed).into_iter().enumerate() {
        cell.steer(&cluster);
        match tried(&cluster, (number, &cell), &mut unanswered) {
            Ok(one) => judged.push(one),
            Err(why) => judged.push(Judged::new(&cell, "verdict", "an answer", &why, false)),
        }
    }
    judged.extend(remedy::check(&cluster, &unanswered));
    if let Ok(folder) = env::var("LB_EXPLAIN_REPORT") {
        let checks: Vec<_> = judged
            .iter()
            .map(|one| json!({"id": one.id, "expected": one.expected, "seen": one.seen, "ok": one.ok}))
            .collect();
        let file = Path::new(&folder).join(format!("{network:?}.json"));
        fs::write(file, json!(checks).to_string()).expect("the report can be written");
    }
    let failures: Vec<_> = (judged.iter().filter(|one| !one.ok))
        .map(|one| format!("{}: expected {}, seen {}", one.id, one.expected, one.seen))
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {}, seed {seed}:\n{}",
        failures.len(),
        judged.len(),
        failures.join("\n")
    );
}

/// What is said of a cell, live and from manifests, against packets.
fn tried(
    cluster: &Cluster,
    (number, cell): (usize, &Cell),
    unanswered: &mut Vec<(Cell, told::Told)>,
) -> Result<Judged, String> {
    // With the program's own word for it, now and then: that takes a second each.
    let verify: &[&str] = if number % VERIFIED == 0 {
        &["--verify"]
    } else {
        &[]
    };
    let mut live = cell.ask(cluster, verify)?;
    if live.verified.is_some() == verify.is_empty() || live.verified == Some(false) {
        return Err(format!("{}, verified: {:?}", live.says(), live.verified));
    }
    let shares = cell.probe(cluster, cell.to(cluster), &live.verdict);
    let agrees = live.agrees(cluster, cell.family, &shares);
    let says = live.says();
    if !agrees {
        return Ok(Judged::new(cell, "verdict", &says, &shares.to_string(), false));
    }
    // The same from objects alone, but for what they do not tell: the addresses of tunnels and bridges.
    let folder = cluster.lab.folder().join("manifests");
    let mut offline = cell.ask(cluster, &["--manifests", &folder.to_string_lossy()])?;
    if offline.verdict != "forwarded" {
        unanswered.push((*cell, offline.clone()));
    }
    let client = cluster.lab.at(cell.client.from).expect("the client is there");
    let own = client.ip(cell.family);
    for told in [&mut offline, &mut live] {
        told.backends.retain(|backend, _| match cell.network {
            PodNetwork::Routed => true,
            PodNetwork::Tunnel => false,
            PodNetwork::Bridge => *backend != own,
        });
    }
    let same = offline.says() == live.says();
    let seen = format!("{shares}; from manifests {}", offline.says());
    Ok(Judged::new(cell, "verdict", &says, &seen, same))
}

/// `sample` of the cells, client by client.
fn drawn(cells: Vec<Cell>, sample: usize, seed: u64) -> Vec<Cell> {
    let mut chance = Chance::new(seed, 0);
    let mut keyed: Vec<_> = cells
        .into_iter()
        .enumerate()
        .map(|cell| (chance.number(), cell))
        .collect();
    keyed.sort_unstable_by_key(|(key, _)| *key);
    keyed.truncate(sample);
    keyed.sort_unstable_by_key(|(_, (place, _))| *place);
    keyed.into_iter().map(|(_, (_, cell))| cell).collect()
}

/// Each entry that is shown is in the map that is named, as bpftool shows it there.
fn evidence_is_what_bpftool_shows(cluster: &Cluster) {
    for family in Family::BOTH {
        let client = cluster
            .lab
            .at("pod1-1")
            .expect("it is there")
            .ip(family)
            .to_string();
        let to = Address::LoadBalancer.socket(cluster, family, 10, 0).to_string();
        let (text, _) = cluster.agent(0, &["explain", "--from", &client, "--to", &to, "-o", "json"]);
        let answers: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let all = answers[0]["evidence"].as_array().cloned().unwrap_or_default();
        assert!(all.len() > 7, "{all:?}");
        for evidence in all.iter().filter(|evidence| !evidence["value"].is_null()) {
            let map = evidence["map"].as_str().expect("a map has a name");
            let (key, value) = (&evidence["key"], &evidence["value"]);
            let is_it = |entry: &Value| {
                let shown = &entry["formatted"];
                // A look-up by longest prefix shows what was asked for, a dump what was found.
                (shown["key"] == *key || map.starts_with("sources")) && shown["value"] == *value
            };
            let path = cluster.map(0, map);
            let found = match key.as_u64() {
                Some(index) => vec![lookup(&path, index)],
                None => entries(&path),
            };
            assert!(found.iter().any(is_it), "{map} has no {evidence}, but {found:?}");
        }
    }
}

/// A client's record in the map of `sessionAffinity` is read as the programs read it.
fn the_backend_that_a_client_had_is_known(cluster: &Cluster) {
    let sticky = Service::new(&cluster.lab, "sticky", 20).set("sessionAffinity", "ClientIP");
    cluster.apply(&sticky.with(&cluster.lab, &BACKENDS));
    for family in Family::BOTH {
        let to = Address::ClusterIp.socket(cluster, family, 20, 0);
        let shares = cluster.probe("pod3-1", Proto::Tcp, to, 3);
        let names = shares.names();
        assert!(shares.all_answered() && names.len() == 1, "{shares}");
        let name = names.first().expect("one has answered");
        let had = cluster.lab.at(name).expect("it is there").ip(family);
        let client = cluster
            .lab
            .at("pod3-1")
            .expect("it is there")
            .ip(family)
            .to_string();
        let (text, _) = cluster.agent(
            2,
            &[
                "explain",
                "--from",
                &client,
                "--to",
                &to.to_string(),
                "-o",
                "json",
            ],
        );
        let answers: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let notes = answers[0]["notes"].to_string();
        assert!(notes.contains(&had.to_string()), "{had} is not in {notes}");
    }
}

/// The agent's own directory tells who a pod is; the answer is that of its address.
fn a_pod_is_known_where_the_agent_has_its_objects_from(cluster: &Cluster) {
    let place = cluster.lab.at("pod3-1").expect("it is there");
    let [ipv4, ipv6] = Family::BOTH.map(|family| place.ip(family));
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asks", "namespace": "shop"},
        "spec": {"nodeName": "node3"}, "status": {"podIPs": [{"ip": ipv4}, {"ip": ipv6}]},
    });
    cluster.write_file("pods.yaml", &pod.to_string());
    let ask = |node, from: &str, to: &str| {
        cluster.agent(node, &["explain", "--from", from, "--to", to, "-o", "json"])
    };
    for (family, address) in Family::BOTH.into_iter().zip([ipv4, ipv6]) {
        let to = Address::LoadBalancer.socket(cluster, family, 10, 0).to_string();
        let [named, plain] = ["pod/shop/asks", &address.to_string()].map(|from| ask(2, from, &to));
        assert_eq!(told::Told::of(&named), told::Told::of(&plain));
        let (elsewhere, success) = ask(0, "pod/shop/asks", &to);
        assert!(!success && elsewhere.contains("ask on node node3"), "{elsewhere}");
    }
    let (unknown, success) = ask(2, "pod/shop/none", "10.0.0.1:80");
    assert!(
        !success && unknown.contains("Pod shop/none is not among the manifests"),
        "{unknown}"
    );
}

/// The program that sees the packet remembers neither a flow nor a client.
fn verifying_leaves_nothing_behind(cluster: &Cluster) {
    for (place, family) in Family::BOTH.into_iter().enumerate() {
        let to = Address::ClusterIp.socket(cluster, family, 20, 0).to_string();
        let client = cluster
            .lab
            .at("pod3-2")
            .expect("it is there")
            .ip(family)
            .to_string();
        let known = || {
            let maps = [names::FLOWS[place], names::AFFINITY[place], names::COUNTERS];
            maps.map(|map| {
                let mut entries: Vec<_> = (entries(&cluster.map(2, map)).iter())
                    .map(|entry| entry["formatted"]["key"].to_string())
                    .collect();
                entries.sort();
                entries
            })
        };
        let before = known();
        let question = [
            "explain", "--from", &client, "--to", &to, "--verify", "-o", "json",
        ];
        let (text, success) = cluster.agent(2, &question);
        let answers: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(success, "{text}");
        assert_eq!(
            answers[0]["verified"]["program"].as_str(),
            Some(if cluster.lab.topology().network == PodNetwork::Bridge {
                "bridge_port_in"
            } else {
                "pod_in"
            }),
            "{text}"
        );
        assert_eq!(known(), before);
    }
}
