//! Cells over kind of Service, policy, client, family and protocol, with answers by hand.

use std::collections::BTreeSet;

use serde_json::Value;

use super::asked::{ask, manifests, text};

/// What is expected.
enum Expect {
    /// The pods that may answer, and which of them see another address than the client's: which one.
    Pods(&'static [&'static str], Sees),
    /// The verdict and the reason; words of the rule; the first remedy, or why there is none.
    No(&'static str, &'static str, &'static str, &'static str),
}

/// Whose address the backends see.
enum Sees {
    /// The client's own.
    Own,
    /// These see this node's, the others the client's own.
    Node(&'static [&'static str], &'static str),
}

use Expect::{No, Pods};
use Sees::{Node, Own};

const ALL: &[&str] = &["web-1", "web-2", "web-3"];
const NODE1: &[&str] = &["web-1", "web-2"];
const OUT: &str = "203.0.113.7";

/// One question: from, to (the last part of the address: see [`address`]), by way of, what is expected.
type Row = (&'static str, &'static str, Option<&'static str>, Expect);

/// Each row is asked in both families.
fn rows() -> Vec<Row> {
    let no_local = ("dropped", "dropped-no-local-endpoints");
    let lost = |words, remedy| No(no_local.0, no_local.1, words, remedy);
    vec![
        // ClusterIP, policy Cluster.
        ("pod/shop/tool1", "cluster 10 80", None, Pods(ALL, Own)),
        ("pod/shop/tool3", "cluster 10 53/udp", None, Pods(ALL, Own)),
        ("node/node3", "cluster 10 80", None, Pods(ALL, Own)),
        ("pod/shop/agent3", "cluster 10 53/udp", None, Pods(ALL, Own)),
        // A pod that reaches itself must not see its own address.
        (
            "pod/shop/web-1",
            "cluster 10 80",
            None,
            Pods(ALL, Node(&["web-1"], "node1")),
        ),
        // From outside, as the network routes it: those elsewhere see the node.
        (
            OUT,
            "cluster 10 80",
            Some("node1"),
            Pods(ALL, Node(&["web-3"], "node1")),
        ),
        // ClusterIP, internal policy Local.
        ("pod/shop/tool1", "cluster 12 80", None, Pods(NODE1, Own)),
        ("node/node2", "cluster 12 53/udp", None, Pods(&["web-3"], Own)),
        (
            "pod/shop/tool3",
            "cluster 12 80",
            None,
            lost("internalTrafficPolicy: Local", "internalTrafficPolicy"),
        ),
        (
            "pod/shop/agent3",
            "cluster 12 53/udp",
            None,
            lost("internalTrafficPolicy: Local", "internalTrafficPolicy"),
        ),
        // A ClusterIP's port that it does not have.
        (
            "pod/shop/tool3",
            "cluster 10 81",
            None,
            No(
                "rejected",
                "rejected-no-frontend",
                "no Service port",
                "use a port",
            ),
        ),
        (
            "node/node3",
            "cluster 10 81/udp",
            None,
            No(
                "rejected",
                "rejected-no-frontend",
                "no Service port",
                "use a port",
            ),
        ),
        // The load balancer's address, policy Cluster.
        (
            OUT,
            "balancer 10 80",
            Some("node3"),
            Pods(ALL, Node(ALL, "node3")),
        ),
        (
            OUT,
            "balancer 10 53/udp",
            Some("node2"),
            Pods(ALL, Node(NODE1, "node2")),
        ),
        ("pod/shop/tool3", "balancer 10 80", None, Pods(ALL, Own)),
        // The same, policy Local: clients outside by a node with and without endpoints, clients inside everywhere.
        (OUT, "balancer 11 80", Some("node1"), Pods(NODE1, Own)),
        (
            OUT,
            "balancer 11 80",
            Some("node3"),
            lost("externalTrafficPolicy: Local", "externalTrafficPolicy"),
        ),
        (
            OUT,
            "balancer 11 53/udp",
            Some("node3"),
            lost("externalTrafficPolicy: Local", "externalTrafficPolicy"),
        ),
        ("pod/shop/tool3", "balancer 11 80", None, Pods(ALL, Own)),
        ("node/node3", "balancer 11 53/udp", None, Pods(ALL, Own)),
        ("pod/shop/tool3", "external 11 80", None, Pods(ALL, Own)),
        (
            OUT,
            "external 11 80",
            Some("node3"),
            lost("externalTrafficPolicy: Local", "externalTrafficPolicy"),
        ),
        // A pod whose own node runs no agent is a client like those outside.
        (
            "pod/shop/tool3",
            "balancer 11 80",
            Some("node2"),
            Pods(&["web-3"], Own),
        ),
        // NodePorts, policy Local: of the own node, of another one with and without endpoints; from outside.
        ("pod/shop/tool1", "node1 30110", None, Pods(ALL, Own)),
        ("pod/shop/tool1", "node3 30110", None, Pods(ALL, Own)),
        ("pod/shop/tool3", "node3 30111/udp", None, Pods(ALL, Own)),
        ("node/node3", "node1 30110", None, Pods(ALL, Own)),
        (OUT, "node2 30110", None, Pods(&["web-3"], Own)),
        (
            OUT,
            "node3 30110",
            None,
            lost("externalTrafficPolicy: Local", "externalTrafficPolicy"),
        ),
        (
            OUT,
            "node3 30111/udp",
            None,
            lost("externalTrafficPolicy: Local", "externalTrafficPolicy"),
        ),
        (
            OUT,
            "node3 30999",
            None,
            No(
                "passed",
                "passed-no-frontend",
                "as if the agent were not there",
                "no Service has",
            ),
        ),
        // No endpoint anywhere: refused, whatever the policy.
        (
            "pod/shop/tool3",
            "cluster 13 80",
            None,
            No(
                "rejected",
                "rejected-no-endpoints",
                "no endpoint",
                "no policy helps",
            ),
        ),
        (
            "node/node1",
            "cluster 13 53/udp",
            None,
            No(
                "rejected",
                "rejected-no-endpoints",
                "no endpoint",
                "no policy helps",
            ),
        ),
        (
            OUT,
            "balancer 13 80",
            Some("node1"),
            No(
                "rejected",
                "rejected-no-endpoints",
                "no endpoint",
                "no policy helps",
            ),
        ),
        // Source ranges: for the load balancer's address only, for everybody.
        (
            OUT,
            "balancer 14 80",
            Some("node1"),
            Pods(ALL, Node(&["web-3"], "node1")),
        ),
        (
            "198.51.100.77",
            "balancer 14 80",
            Some("node1"),
            No(
                "dropped",
                "dropped-source-range",
                "loadBalancerSourceRanges",
                "operator's choice",
            ),
        ),
        (
            "pod/shop/tool3",
            "balancer 14 80",
            None,
            No(
                "dropped",
                "dropped-source-range",
                "loadBalancerSourceRanges",
                "DNS name",
            ),
        ),
        (
            "198.51.100.77",
            "node1 30140",
            None,
            Pods(ALL, Node(&["web-3"], "node1")),
        ),
        // hostNetwork backends.
        (
            "pod/shop/tool1",
            "balancer 15 80",
            None,
            Pods(&["host-1", "host-2"], Own),
        ),
        (OUT, "node1 30150", None, Pods(&["host-1"], Own)),
        (
            OUT,
            "node3 30150",
            None,
            lost("externalTrafficPolicy: Local", "externalTrafficPolicy"),
        ),
        // Pass-through.
        (
            "pod/shop/tool1",
            "balancer 16 80",
            None,
            No("passed", "passed-not-ours", "ipMode: Proxy", "DNS name"),
        ),
        (OUT, "node1 30160", None, Pods(ALL, Node(&["web-3"], "node1"))),
        // A packet that claims to come from a pod of the very node.
        (
            "10.180.9.9",
            "cluster 99 80",
            Some("node1"),
            No(
                "passed",
                "passed-not-ours",
                "no Service's address",
                "no Service has",
            ),
        ),
    ]
}

/// The destination of a row in one family: `cluster N PORT`, `balancer N PORT`, `external N PORT`, `nodeN PORT`.
fn destination(to: &str, ipv6: bool) -> String {
    let words: Vec<_> = to.split(' ').collect();
    let (address, port) = match words[..] {
        ["cluster", n, port] if ipv6 => (format!("fd00:172:30::{n}"), port),
        ["cluster", n, port] => (format!("172.30.0.{n}"), port),
        ["balancer", n, port] if ipv6 => (format!("2001:db8:1ba::{n}"), port),
        ["balancer", n, port] => (format!("192.0.2.{n}"), port),
        ["external", n, port] if ipv6 => (format!("2001:db8:e1b::{n}"), port),
        ["external", n, port] => (format!("198.51.100.{n}"), port),
        [node, port] => (node_address(node, ipv6), port),
        _ => panic!("the table has {to:?}"),
    };
    if ipv6 {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

fn node_address(node: &str, ipv6: bool) -> String {
    let number = node.trim_start_matches("node");
    if ipv6 {
        format!("2001:db8:0:1::{number}")
    } else {
        format!("192.168.0.{number}")
    }
}

fn client(from: &str, ipv6: bool) -> String {
    match (from, ipv6) {
        ("203.0.113.7", true) => "2001:db8:5ca1::7".to_owned(),
        ("198.51.100.77", true) => "2001:db8:bad::77".to_owned(),
        ("10.180.9.9", true) => "fd00:10:180:9::9".to_owned(),
        _ => from.to_owned(),
    }
}

#[test]
fn explain_answers_every_cell_as_it_was_written_down() {
    let mut failures = Vec::new();
    let rows = rows();
    for (from, to, via, expect) in &rows {
        for ipv6 in [false, true] {
            let (from, to) = (client(from, ipv6), destination(to, ipv6));
            let answers = ask(&manifests(), &from, &to, *via);
            let [answer] = answers.as_slice() else {
                panic!("{from} to {to}: {} answers", answers.len());
            };
            if let Err(wrong) = check(answer, expect, ipv6) {
                failures.push(format!("{from} to {to}: {wrong}\n{answer:#}"));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        2 * rows.len(),
        failures.join("\n")
    );
}

fn check(answer: &Value, expect: &Expect, ipv6: bool) -> Result<(), String> {
    let verdict = text(answer, "verdict");
    match expect {
        Pods(pods, sees) => {
            if verdict != "forwarded" {
                return Err(format!("{verdict}, but {pods:?} were expected"));
            }
            let backends = answer["backends"].as_array().cloned().unwrap_or_default();
            let name = |backend: &Value| text(backend, "name").trim_start_matches("pod shop/").to_owned();
            let named: BTreeSet<_> = backends.iter().map(name).collect();
            // A hostNetwork pod is known by its node's name.
            let expected: BTreeSet<_> = pods.iter().map(|pod| pod.replace("host-", "node node")).collect();
            if named != expected {
                return Err(format!("{named:?}, not {expected:?}"));
            }
            let rows: u64 = backends
                .iter()
                .filter_map(|backend| backend["rows"].as_u64())
                .sum();
            if backends
                .iter()
                .any(|backend| backend["of"].as_u64() != Some(rows))
            {
                return Err("shares do not add up".to_owned());
            }
            for backend in &backends {
                let expected = match sees {
                    Node(changed, node) if changed.contains(&name(backend).as_str()) => {
                        node_address(node, ipv6)
                    }
                    _ => text(answer, "source").to_owned(),
                };
                if text(backend, "source") != expected {
                    return Err(format!("{backend} should see {expected}"));
                }
            }
            Ok(())
        }
        No(kind, reason, rule, remedy) => {
            if (verdict, text(answer, "reason")) != (kind, reason) {
                return Err(format!("not {kind}, {reason}"));
            }
            if !text(answer, "rule").contains(rule) {
                return Err(format!("the rule does not say {rule:?}"));
            }
            let remedies = &answer["remedies"];
            let first = match remedies["found"].as_array().and_then(|found| found.first()) {
                Some(first) => text(first, "what"),
                None => text(remedies, "none"),
            };
            if first.contains(remedy) {
                Ok(())
            } else {
                Err(format!("the first remedy does not say {remedy:?}"))
            }
        }
    }
}

#[test]
fn explain_shows_entries_as_they_are_in_the_maps() {
    let answers = ask(&manifests(), "pod/shop/tool3", "172.30.0.12:80", None);
    let evidence: Vec<_> = (answers[0]["evidence"].as_array().into_iter().flatten())
        .map(|evidence| {
            (
                text(evidence, "map"),
                evidence["key"].clone(),
                evidence["value"].clone(),
            )
        })
        .collect();
    let maps: Vec<_> = evidence.iter().map(|(map, _, _)| *map).collect();
    assert_eq!(
        maps,
        ["addresses4", "sources4", "frontends4", "services4", "sets4"]
    );
    let bytes = |bytes: [u8; 4]| serde_json::json!({ "bytes": bytes });
    assert_eq!(evidence[0].1, bytes([172, 30, 0, 12]));
    // VIP and CLUSTER_IP; INTERNAL_LOCAL and ENDPOINTS_EXIST.
    assert_eq!(evidence[0].2, serde_json::json!({ "flags": 17 }));
    assert_eq!(
        evidence[1].1,
        serde_json::json!({ "prefix_len": 32, "data": bytes([10, 180, 3, 9]) })
    );
    assert_eq!(
        (&evidence[4].2["flags"], &evidence[4].2["local_rows"]),
        (&5.into(), &0.into())
    );
}

#[test]
fn explain_asks_every_node_about_a_client_outside() {
    let answers = ask(&manifests(), OUT, "192.0.2.11:80", None);
    let verdicts: Vec<_> = answers
        .iter()
        .map(|answer| (text(answer, "node"), text(answer, "verdict")))
        .collect();
    assert_eq!(
        verdicts,
        [
            ("node1", "forwarded"),
            ("node2", "forwarded"),
            ("node3", "dropped")
        ]
    );
}

#[test]
fn explain_takes_a_service_for_all_its_ports_and_families() {
    let answers = ask(&manifests(), "pod/shop/tool1", "service/shop/wide", None);
    let places: Vec<_> = answers
        .iter()
        .map(|answer| format!("{}/{}", text(answer, "to"), text(answer, "protocol")))
        .collect();
    let expected = [
        "172.30.0.10:80/TCP",
        "172.30.0.10:53/UDP",
        "[fd00:172:30::10]:80/TCP",
        "[fd00:172:30::10]:53/UDP",
    ];
    assert_eq!(places, expected);
    let answers = ask(&manifests(), "pod/shop/tool1", "service/shop/wide:dns", None);
    assert_eq!(answers.len(), 2);
}

#[test]
fn explain_says_that_a_client_stays_with_its_backend() {
    for (to, sticky) in [("172.30.0.17:80", true), ("172.30.0.10:80", false)] {
        let answers = ask(&manifests(), "pod/shop/tool1", to, None);
        let notes = answers[0]["notes"].to_string();
        assert_eq!(
            notes.contains("sessionAffinity: ClientIP"),
            sticky,
            "{to}: {notes}"
        );
        assert_eq!(answers[0]["backends"].as_array().map(Vec::len), Some(3), "{to}");
    }
}
