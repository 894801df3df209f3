//! `docs/inspect.md`: what its commands print is what `lb-agent` says, and it names every map.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use lb_lab::{Family, Netfilter, Proto, Topology};
use serde_json::Value;

use crate::{
    cluster::{Cluster, possible},
    reach::Address,
    service::Service,
};

const NODE_PORT: u16 = 30_080;
const PAGE: &str = include_str!("../../../docs/inspect.md");

/// The commands of the page: what all of them need, and those below each number.
struct Page {
    common: String,
    answers: Vec<String>,
}

impl Page {
    fn read() -> Self {
        let block = |text: &str| -> String {
            let code = text
                .split("```sh\n")
                .nth(1)
                .and_then(|rest| rest.split("```").next());
            code.expect("each part has a block of commands").to_owned()
        };
        let mut parts = PAGE.split("\n## ");
        let common = block(parts.next().unwrap_or_default());
        let common = common
            .lines()
            .filter(|line| !line.starts_with("M="))
            .collect::<Vec<_>>()
            .join("\n");
        Self {
            common,
            answers: parts.map(block).collect(),
        }
    }

    /// What the commands below a number print, with these variables.
    fn answer(&self, number: usize, maps: &Path, variables: &[(&str, String)]) -> BTreeSet<String> {
        let script = format!("set -euo pipefail\n{}\n{}", self.common, self.answers[number - 1]);
        let output = Command::new("bash")
            .args(["-c", &script])
            .env("M", maps)
            .envs(variables.iter().map(|(name, value)| (*name, value)))
            .output()
            .expect("bash is there");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{number}: {text}{error}");
        text.lines().map(str::to_owned).collect()
    }
}

fn listed(cluster: &Cluster, command: &str) -> Vec<Value> {
    let (text, done) = cluster.agent(0, &[command, "-o", "json"]);
    assert!(done, "{command}: {text}");
    let listing: Value = serde_json::from_str(&text).expect("it is JSON");
    let rows = if command == "counters" {
        &listing["outcomes"]
    } else {
        &listing["items"]
    };
    let rows = rows.as_array().cloned().unwrap_or_default();
    rows.into_iter()
        .filter(|row| row["family"].as_str().is_none_or(|family| family == "IPv4"))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn number(protocol: &Value) -> u8 {
    match protocol.as_str() {
        Some("TCP") => 6,
        Some("UDP") => 17,
        _ => 132,
    }
}

#[test]
fn bpftool_answers_as_lb_agent_does_as_root() {
    if !possible("bpftool_answers_as_lb_agent_does_as_root") {
        return;
    }
    let cluster = Cluster::with(
        Topology::cluster(2, 1).netfilter(Netfilter::Iptables),
        &["--max-flows", "4096"],
    );
    let service = Service::new(&cluster.lab, "shop", 10)
        .load_balancer(&cluster.lab, 10, NODE_PORT)
        .set("sessionAffinity", "ClientIP")
        .with(&cluster.lab, &["pod1-1", "pod2-1"]);
    cluster.apply(&service);
    let to = Address::LoadBalancer.socket(&cluster, Family::V4, 10, NODE_PORT);
    let shares = cluster.probe("client", Proto::Tcp, to, 12);
    assert!(shares.all_answered(), "{shares}");

    let page = Page::read();
    assert_eq!(page.answers.len(), 10);
    let ip = |place: &str| {
        cluster
            .lab
            .at(place)
            .expect("it is there")
            .ip(Family::V4)
            .to_string()
    };
    let maps = cluster.map(0, "frontends4");
    let maps = maps.parent().expect("maps are in a folder");
    let frontends = listed(&cluster, "services");
    let here = frontends
        .iter()
        .find(|row| text(&row["address"]) == to.ip().to_string() && row["protocol"] == "TCP")
        .expect("it is served");
    let mut variables = vec![
        ("ADDRESS", to.ip().to_string()),
        ("PORT", to.port().to_string()),
        ("SET", text(&here["set"])),
        ("CLIENT", ip("client")),
        ("POD", ip("pod1-1")),
    ];

    let expected = frontends.iter().map(|row| {
        let address = row["address"].as_str().unwrap_or("0.0.0.0");
        format!(
            "{address}:{}/{} service {}",
            row["port"],
            number(&row["protocol"]),
            row["service_index"]
        )
    });
    assert_eq!(page.answer(1, maps, &variables), expected.collect());
    // A frontend has it, and it is a LoadBalancer's.
    assert_eq!(page.answer(2, maps, &variables), ["33".to_owned()].into());
    assert_eq!(page.answer(3, maps, &variables), [text(&here["set"])].into());
    // There are endpoints, and affinity.
    assert_eq!(page.answer(4, maps, &variables), ["12".to_owned()].into());
    let backends = listed(&cluster, "backends");
    let expected = backends.iter().filter(|row| row["set"] == here["set"]);
    let expected: BTreeSet<_> = expected
        .map(|row| format!("{}:{}", text(&row["address"]), row["port"]))
        .collect();
    assert_eq!(expected.len(), 2, "{backends:?}");
    assert_eq!(page.answer(5, maps, &variables), expected);
    let flows = listed(&cluster, "flows");
    let expected = flows
        .iter()
        .map(|row| format!("{} -> {}", text(&row["frontend"]), text(&row["backend"])));
    let expected: BTreeSet<_> = expected.collect();
    assert!(!expected.is_empty());
    assert_eq!(page.answer(6, maps, &variables), expected);
    assert_eq!(
        page.answer(7, maps, &variables),
        [(2 * flows.len()).to_string(), "4096".to_owned()].into()
    );
    let counters = listed(&cluster, "counters");
    let new = counters
        .iter()
        .find(|row| row["outcome"] == "forwarded-new")
        .expect("flows were opened");
    variables.push(("COUNTER", text(&new["number"])));
    assert_eq!(page.answer(8, maps, &variables), [text(&new["packets"])].into());
    let clients = listed(&cluster, "affinity");
    let expected: BTreeSet<_> = clients.iter().map(|row| text(&row["backend"])).collect();
    assert_eq!(expected.len(), 1, "{clients:?}");
    assert_eq!(page.answer(9, maps, &variables), expected);
    assert_eq!(page.answer(10, maps, &variables), ["1".to_owned()].into());

    for map in fs::read_dir(maps).expect("maps are pinned") {
        let name = map
            .expect("the folder can be read")
            .file_name()
            .to_string_lossy()
            .into_owned();
        let plain = name.trim_end_matches(['4', '6']);
        let named = [format!("`{name}`"), format!("`{plain}4/6`")];
        let is_traces = name.starts_with("trace");
        assert!(
            is_traces || named.iter().any(|name| PAGE.contains(name)),
            "{name} is not in docs/inspect.md"
        );
    }
}
