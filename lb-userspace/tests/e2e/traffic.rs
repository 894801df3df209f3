//! `--service-counters`: what is counted for each Service is what was sent to it and came back, by TC, XDP and at sockets.

use std::collections::BTreeMap;

use lb_lab::{Family, Netfilter, Proto, Shares, Signal, Topology};
use serde_json::Value;

use crate::{
    cluster::{Cluster, possible},
    reach::Address,
    service::{Service, TARGET},
    top,
};

const NODE_PORT: u16 = 30_080;
/// Connections, or datagrams, of each kind.
const SENT: u32 = 12;
/// Refused or dropped, of no frontend.
const NOBODYS: [&str; 3] = ["rejected-no-frontend", "dropped-no-service", "dropped-other"];

fn json(cluster: &Cluster, arguments: &[&str]) -> Value {
    let (text, done) = cluster.agent(0, &[arguments, &["-o", "json"]].concat());
    assert!(done, "{arguments:?}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The row of a Service in one family and protocol.
fn row(rows: &Value, service: &str, proto: &str, family: &str) -> Value {
    let found = list(&rows["items"])
        .find(|row| row["service"]["name"] == service && row["protocol"] == proto && row["family"] == family);
    found
        .unwrap_or_else(|| panic!("{service} {proto} {family}: {rows:#}"))
        .clone()
}

/// What the hooks counted for packets of frontends, and what was counted for Services: one and the same.
fn residual(cluster: &Cluster, rows: &Value) -> i64 {
    let hooks = json(cluster, &["counters"]);
    let of_packets = list(&hooks["outcomes"]).filter(|row| {
        let outcome = row["outcome"].as_str().unwrap_or_default();
        row["hook"] != "connect"
            && row["hook"] != "bind"
            && !outcome.starts_with("passed")
            && !NOBODYS.contains(&outcome)
    });
    let hooks: u64 = of_packets.map(|row| number(&row["packets"])).sum();
    let services = list(&rows["items"])
        .map(|row| number(&row["received"]["packets"]) + number(&row["answered"]["packets"]));
    hooks as i64 - services.sum::<u64>() as i64
}

/// Each row's parts are the row.
fn adds_up(rows: &Value) {
    for row in list(&rows["items"]) {
        for (whole, parts) in [("received", "outcomes"), ("answered", "answer_outcomes")] {
            for unit in ["packets", "bytes"] {
                let sum: u64 = list(&row[parts]).map(|part| number(&part[unit])).sum();
                assert_eq!(number(&row[whole][unit]), sum, "{row:#}");
                let sum: u64 = list(&row["backends"])
                    .map(|part| number(&part[whole][unit]))
                    .sum();
                assert_eq!(number(&row[whole][unit]), sum, "{row:#}");
            }
        }
    }
}

/// New flows, or connections, by the pod that got them.
fn by_backend(cluster: &Cluster, row: &Value, family: Family, what: &str) -> BTreeMap<String, u32> {
    let topology = cluster.lab.topology();
    let name = |at: &Value| {
        let mut pods = topology.pods();
        let socket = |ip| std::net::SocketAddr::new(ip, TARGET).to_string();
        pods.find(|(_, pod)| *at == socket(pod.addr.of(family)))
            .map(|(_, pod)| pod.name.clone())
            .unwrap_or_else(|| panic!("{at} is no backend"))
    };
    list(&row["backends"])
        .filter(|part| !part["backend"].is_null() && number(&part[what]) > 0)
        .map(|part| (name(&part["backend"]), number(&part[what]) as u32))
        .collect()
}

fn apply(cluster: &Cluster) {
    let lab = &cluster.lab;
    let shop = Service::new(lab, "shop", 10).load_balancer(lab, 10, NODE_PORT);
    cluster.apply(&shop.with(lab, &["pod1-1", "pod2-1"]));
    cluster.apply(&Service::new(lab, "empty", 11));
}

fn families() -> [(Family, &'static str); 2] {
    [(Family::V4, "IPv4"), (Family::V6, "IPv6")]
}

fn check(hook: &str, sockets: &str) {
    let topology = Topology::cluster(2, 2).netfilter(Netfilter::None);
    let mut cluster = Cluster::by(
        hook,
        topology,
        &["--service-counters", "--connect-hooks", sockets],
    );
    apply(&cluster);
    let at = |address: Address, family, service| address.socket(&cluster, family, service, NODE_PORT);
    let mut answered: BTreeMap<(&str, &str), Shares> = BTreeMap::new();
    for (family, name) in families() {
        let inside = cluster.probe("pod1-2", Proto::Tcp, at(Address::ClusterIp, family, 10), SENT);
        answered.insert((name, "inside"), inside);
        let outside = cluster.probe(
            "client",
            Proto::Tcp,
            at(Address::NodePort("node1"), family, 10),
            SENT,
        );
        answered.insert((name, "outside"), outside);
        let datagrams = cluster.probe("pod1-2", Proto::Udp, at(Address::ClusterIp, family, 10), SENT);
        answered.insert((name, "datagrams"), datagrams);
        let nobody = cluster.probe("pod1-2", Proto::Tcp, at(Address::ClusterIp, family, 11), SENT);
        assert_eq!(nobody.refused, SENT, "{nobody}");
    }
    let rows = json(&cluster, &["counters", "--services", "-n", "shop"]);
    adds_up(&rows);
    for shares in answered.values() {
        assert_eq!(shares.answered.values().sum::<u32>(), SENT, "{shares}");
    }
    for (family, name) in families() {
        let by_socket = sockets == "all";
        let tcp = row(&rows, "shop", "TCP", name);
        let (flows, connected) = (number(&tcp["flows"]), number(&tcp["connections_at_sockets"]));
        let expected = if by_socket { (SENT, SENT) } else { (2 * SENT, 0) };
        assert_eq!(
            (flows, connected),
            (expected.0.into(), expected.1.into()),
            "{tcp:#}"
        );
        let shares = |kind| answered[&(name, kind)].answered.clone();
        let mut translated = shares("outside");
        if by_socket {
            assert_eq!(
                by_backend(&cluster, &tcp, family, "connections_at_sockets"),
                shares("inside")
            );
        } else {
            for (pod, count) in shares("inside") {
                *translated.entry(pod).or_default() += count;
            }
        }
        assert_eq!(by_backend(&cluster, &tcp, family, "flows"), translated, "{tcp:#}");
        // A handshake, a question, an answer, and the end: in each direction several packets.
        assert!(number(&tcp["received"]["packets"]) >= 3 * flows, "{tcp:#}");
        assert!(number(&tcp["answered"]["bytes"]) > 0, "{tcp:#}");

        let udp = row(&rows, "shop", "UDP", name);
        assert_eq!(number(&udp["received"]["packets"]), u64::from(SENT), "{udp:#}");
        assert_eq!(number(&udp["answered"]["packets"]), u64::from(SENT), "{udp:#}");

        let empty = row(&rows, "empty", "TCP", name);
        if by_socket {
            assert_eq!(number(&empty["refused_at_sockets"]), u64::from(SENT), "{empty:#}");
        } else {
            assert_eq!(
                empty["outcomes"][0]["outcome"], "rejected-no-endpoints",
                "{empty:#}"
            );
            assert_eq!(
                number(&empty["received"]["packets"]),
                u64::from(SENT),
                "{empty:#}"
            );
        }
    }
    let hook_of_uplink = if hook == "tc" { "uplink-in" } else { "uplink-xdp" };
    assert!(
        cluster.counted(0, hook_of_uplink, "forwarded-new") > 0,
        "it is what was to be tried"
    );
    assert_eq!(
        residual(&cluster, &rows),
        0,
        "{rows:#}\n{:#}",
        json(&cluster, &["counters"])
    );
    metrics(&cluster, &rows);
    top::check(&cluster, true);

    // Counting goes on where it was.
    let flows = |cluster: &Cluster| {
        number(&row(&json(cluster, &["counters", "--services"]), "shop", "TCP", "IPv4")["flows"])
    };
    let before = flows(&cluster);
    cluster.end_agent(0, Signal::SIGKILL);
    assert_eq!(flows(&cluster), before, "also while the agent is away");
    let (text, done) = cluster.agent(0, &["top", "--once"]);
    assert!(
        done && text.contains("the agent is not running") && text.contains("shop/shop:tcp"),
        "{text}"
    );
    cluster.start_agent(0);
    cluster.wait_for_agent(0);
    cluster.fresh_ports();
    let to = Address::NodePort("node1").socket(&cluster, Family::V4, 10, NODE_PORT);
    cluster.probe("client", Proto::Tcp, to, SENT);
    assert_eq!(flows(&cluster), before + u64::from(SENT));
}

/// The metrics say the same.
fn metrics(cluster: &Cluster, rows: &Value) {
    let place = cluster.lab.at("node1").expect("it is there");
    let text = place
        .output(&["curl", "-sg", "--max-time", "5", "http://127.0.0.1:10249/metrics"])
        .expect("metrics are served");
    let lines = text
        .lines()
        .filter(|line| line.starts_with("lb_service_packets_total{") && line.contains("from=\"client\""));
    let sum: u64 = lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    let received: u64 = list(&rows["items"])
        .map(|row| number(&row["received"]["packets"]))
        .sum();
    assert_eq!(sum, received, "{text}");
}

#[test]
fn services_are_counted_by_what_was_sent_to_them_at_tc_as_root() {
    if possible("services_are_counted_by_what_was_sent_to_them_at_tc_as_root") {
        check("tc", "off");
    }
}

#[test]
fn services_are_counted_by_what_was_sent_to_them_at_xdp_and_sockets_as_root() {
    if possible("services_are_counted_by_what_was_sent_to_them_at_xdp_and_sockets_as_root") {
        check("xdp", "all");
    }
}
