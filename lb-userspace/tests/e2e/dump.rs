//! What operators see with bpftool: every pinned map shows fields with names.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use lb_common::abi::{Hook, Outcome, names};
use lb_lab::{Family, Netfilter, Options, Proto, Topology};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, possible},
    reach::Address,
    service::Service,
};

const NODE_PORT: u16 = 30_080;

/// The entries of a pinned map, as `bpftool -j map dump` shows them.
pub(crate) fn entries(map: &Path) -> Vec<Value> {
    let output = Command::new("bpftool")
        .args(["-j", "map", "dump", "pinned"])
        .arg(map)
        .output()
        .expect("bpftool is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    match serde_json::from_str(&text) {
        Ok(Value::Array(entries)) => entries,
        other => panic!("{}: {other:?}: {text}", map.display()),
    }
}

/// The same, but for the largest of maps, of which one element is enough: a dump of it takes a minute.
fn first_entries(map: &Path) -> Vec<Value> {
    if !map.ends_with("maglev") {
        return entries(map);
    }
    vec![lookup(map, 0)]
}

/// The element of a pinned array, or what is under a number in a hash, as `bpftool -j map lookup` shows it.
pub(crate) fn lookup(map: &Path, index: u64) -> Value {
    let output = Command::new("bpftool")
        .args(["-j", "map", "lookup", "pinned"])
        .arg(map)
        .arg("key")
        .args((index as u32).to_ne_bytes().map(|byte| byte.to_string()))
        .output()
        .expect("bpftool is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let entry = serde_json::from_str(&text);
    entry.unwrap_or_else(|error| panic!("{}: {error}: {text}", map.display()))
}

/// The counters in a pinned map that are not zero, as `hook outcome: packets`.
pub(crate) fn counters(map: &Path) -> Vec<String> {
    if !map.exists() {
        return vec!["(no counters)".to_owned()];
    }
    let packets = |entry: &Value| -> u64 {
        let per_cpu = entry["formatted"]["values"].as_array().into_iter().flatten();
        per_cpu
            .filter_map(|value| value["value"]["packets"].as_u64())
            .sum()
    };
    let sums: Vec<u64> = entries(map).iter().map(packets).collect();
    let mut lines = Vec::new();
    for hook in Hook::ALL {
        for outcome in Outcome::ALL {
            let sum = sums
                .get(outcome.index(*hook) as usize)
                .copied()
                .unwrap_or_default();
            if sum > 0 {
                lines.push(format!("{} {}: {sum}", hook.name(), outcome.name()));
            }
        }
    }
    lines
}

/// What an entry lacks to be understood, if anything.
fn unnamed(entry: &Value) -> Option<String> {
    let formatted = &entry["formatted"];
    let named = |value: &Value| value.as_object().is_some_and(|fields| !fields.is_empty());
    // A key may be a plain number: an index, or an interface's. So may be a value: of a map that is named after it.
    let named = |value: &Value| named(value) || value.is_u64();
    let key = named(&formatted["key"]);
    let value = match &formatted["values"] {
        Value::Array(per_cpu) => !per_cpu.is_empty() && per_cpu.iter().all(|value| named(&value["value"])),
        _ => named(&formatted["value"]),
    };
    (!key || !value).then(|| entry.to_string())
}

#[test]
fn bpftool_shows_fields_with_names_in_every_map_as_root() {
    if !possible("bpftool_shows_fields_with_names_in_every_map_as_root") {
        return;
    }
    let cluster = Cluster::with(
        Topology::cluster(2, 1).netfilter(Netfilter::Iptables),
        &["--max-flows", "4096", "--service-counters"],
    );
    let service = Service::new(&cluster.lab, "shop", 10)
        .load_balancer(&cluster.lab, 10, NODE_PORT)
        .set("sessionAffinity", "ClientIP")
        .set(
            "loadBalancerSourceRanges",
            json!(["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]),
        )
        .with(&cluster.lab, &["pod1-1", "pod2-1"]);
    cluster.apply(&service);
    let in_fragments = Options {
        request_len: 3000,
        ..Options::default()
    };
    for family in Family::BOTH {
        let to = Address::LoadBalancer.socket(&cluster, family, 10, NODE_PORT);
        for (from, proto) in [("client", Proto::Tcp), ("pod1-1", Proto::Udp)] {
            let shares = cluster.probe(from, proto, to, 20);
            assert!(shares.all_answered(), "{shares}");
        }
        let client = cluster.lab.at("client").expect("it is there");
        let shares = client.probe_with(Proto::Udp, to, 4, &in_fragments);
        let shares = shares.expect("the probe runs");
        assert!(shares.all_answered(), "{shares}");
    }
    let counters_at = cluster.map(0, names::COUNTERS);
    let folder = counters_at.parent().expect("maps are in a folder");
    let mut maps: Vec<_> = fs::read_dir(folder)
        .expect("maps are pinned")
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    // What is forgotten after a while first.
    let lasting = |map: &PathBuf| {
        let name = map.file_name().map(|name| name.to_string_lossy().into_owned());
        !name.is_some_and(|name| name.starts_with("flows") || name.starts_with("fragments"))
    };
    maps.sort_by_key(lasting);
    assert!(maps.len() >= 19, "{maps:?}");
    let mut empty = Vec::new();
    // The sockets' entries: the kernel lists none. And what only somebody who watches fills (`trace`), or a move of flows.
    let is_listed = |map: &PathBuf| {
        let name = map.file_name().map(|name| name.to_string_lossy().into_owned());
        !name.is_some_and(|name| {
            name == names::PEERS || name.starts_with("trac") || name.starts_with("handover")
        })
    };
    maps.retain(is_listed);
    for map in &maps {
        let entries = first_entries(map);
        if entries.is_empty() {
            empty.push(map.file_name().expect("a map has a name").to_string_lossy());
        }
        if let Some(entry) = entries.iter().find_map(unnamed) {
            panic!("{}: {entry}", map.display());
        }
    }
    assert!(
        empty.is_empty(),
        "nothing in {empty:?}, so nothing is proved for them"
    );
    // (Which of the two nodes answers the client, and so what else is counted here, is left to its affinity.)
    let counted = counters(&counters_at).join("\n");
    assert!(
        (counted.contains("uplink-in forwarded-new") || counted.contains("uplink-xdp forwarded-new"))
            && counted.contains("pod-in forwarded-new"),
        "{counted}"
    );
}
