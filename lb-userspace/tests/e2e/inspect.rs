//! What `lb-agent services`, `backends`, `flows` and `affinity` say is what was applied and sent, also after the agent was
//! killed, and without names when its status is gone.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use lb_lab::{Family, Netfilter, Proto, Shares, Signal, Topology};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, agent_path, possible},
    reach::Address,
    service::{Service, TARGET},
    top,
};

const NODE_PORT: u16 = 30_080;
const BOTH: [&str; 2] = ["pod1-1", "pod2-1"];
/// Who connects: a pod of the node that is asked.
const CLIENT: &str = "pod1-2";
/// Connections, or datagrams, by each protocol and family.
const SENT: u32 = 12;
/// So many may share a source port with another.
const SAME: u32 = 3;
/// For so long at least everything that was sent is in the flow table.
const LASTING: Duration = Duration::from_secs(25);

/// What a command says as JSON.
fn listed(cluster: &Cluster, arguments: &[&str]) -> Value {
    let (text, done) = cluster.agent(0, &[arguments, &["-o", "json"]].concat());
    assert!(done, "{arguments:?}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

fn items(listing: &Value) -> &[Value] {
    listing["items"].as_array().map_or(&[], Vec::as_slice)
}

fn pod(cluster: &Cluster, name: &str, family: Family) -> String {
    let mut pods = cluster.lab.topology().pods();
    let (_, pod) = pods.find(|(_, pod)| pod.name == name).expect("it is there");
    pod.addr.of(family).to_string()
}

fn protocol(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "TCP",
        Proto::Udp => "UDP",
    }
}

/// Applies Services of every kind that is told apart.
fn apply(cluster: &Cluster) {
    let lab = &cluster.lab;
    let shop = Service::new(lab, "shop", 10).load_balancer(lab, 10, NODE_PORT);
    let shop = shop.set("loadBalancerSourceRanges", json!(["0.0.0.0/1", "::/1"]));
    cluster.apply(&shop.with(lab, &BOTH));
    let far = Service::new(lab, "far", 11).load_balancer(lab, 11, NODE_PORT + 1);
    let far = far.set("externalTrafficPolicy", "Local");
    cluster.apply(&far.with(lab, &["pod2-1"]));
    cluster.apply(&Service::new(lab, "empty", 12));
    let sticky = Service::new(lab, "sticky", 13).set("sessionAffinity", "ClientIP");
    cluster.apply(&sticky.with(lab, &BOTH));
    cluster.write_file(
        "bad-port.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad-port, namespace: shop}\n\
         spec: {clusterIP: 172.30.0.77, clusterIPs: [172.30.0.77], ports: [{port: 99999, protocol: TCP}]}\n",
    );
    cluster.eventually_status(0, "the bad object is named", |status| {
        status["problems"].to_string().contains("bad-port")
    });
}

/// What is served, to whom, and why not.
fn check_services(cluster: &Cluster) {
    let listing = listed(cluster, &["services"]);
    let problems = listing["problems"].to_string();
    assert!(problems.contains("bad-port"), "{problems}");
    // Two protocols in two families: four frontends each of what a load balancer has, and one of what it has not.
    let mut counts = BTreeMap::new();
    for item in items(&listing) {
        *counts
            .entry(item["service"]["name"].as_str().unwrap_or_default())
            .or_insert(0) += 1;
    }
    let expected = [("empty", 4), ("far", 16), ("shop", 16), ("sticky", 4)];
    assert_eq!(counts, BTreeMap::from(expected), "{listing:#}");
    for item in items(&listing) {
        let name = item["service"]["name"].as_str().unwrap_or_default();
        let internal = item["kind"] == "ClusterIP";
        let refused: Vec<_> = (item["refused"].as_array().into_iter().flatten())
            .map(|refused| (refused["clients"].as_str(), refused["reason"].as_str()))
            .collect();
        let expected = match name {
            "empty" => vec![(Some("all"), Some("rejected-no-endpoints"))],
            "far" if !internal => vec![(Some("outside"), Some("dropped-no-local-endpoints"))],
            _ => vec![],
        };
        assert_eq!(refused, expected, "{item:#}");
        let backends = match name {
            "empty" => (0, 0),
            "far" => (1, 0),
            _ => (2, 1),
        };
        let found = (item["backends"].as_u64(), item["backends_on_this_node"].as_u64());
        assert_eq!(found, (Some(backends.0), Some(backends.1)), "{item:#}");
        let policy = if name == "far" { "Local" } else { "Cluster" };
        assert_eq!(item["external_policy"], policy, "{item:#}");
        assert_eq!(item["internal_policy"], "Cluster", "{item:#}");
        let affinity = item["affinity_seconds"].as_u64();
        assert_eq!(affinity.is_some(), name == "sticky", "{item:#}");
        assert!(
            affinity.is_none_or(|seconds| (10_799..10_803).contains(&seconds)),
            "{item:#}"
        );
        let range = match (name, item["kind"].as_str(), item["family"].as_str()) {
            ("shop", Some("LoadBalancer"), Some("IPv4")) => json!(["0.0.0.0/1"]),
            ("shop", Some("LoadBalancer"), _) => json!(["::/1"]),
            _ => Value::Null,
        };
        assert_eq!(item["source_ranges"], range, "{item:#}");
    }
    let vip = Address::LoadBalancer
        .socket(cluster, Family::V6, 11, NODE_PORT)
        .ip()
        .to_string();
    let of_vip = listed(cluster, &["services", "-a", &vip]);
    assert_eq!(items(&of_vip).len(), 2, "{of_vip:#}");
    assert_eq!(of_vip["items"][0]["service"]["name"], "far", "{of_vip:#}");
}

/// Where backends are, and that shares add up.
fn check_backends(cluster: &Cluster) {
    let listing = listed(cluster, &["backends", "--service", "shop/shop"]);
    assert_eq!(items(&listing).len(), 8, "{listing:#}");
    for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        for proto in ["TCP", "UDP"] {
            let rows = items(&listing).iter();
            let rows: Vec<_> = rows
                .filter(|row| row["family"] == name && row["protocol"] == proto)
                .collect();
            let mut total = 0.0;
            for (who, here) in [("pod1-1", true), ("pod2-1", false)] {
                let address = pod(cluster, who, family);
                let row = rows
                    .iter()
                    .find(|row| row["address"] == *address)
                    .expect("it is listed");
                assert_eq!(
                    (row["on_this_node"].as_bool(), row["port"].as_u64()),
                    (Some(here), Some(TARGET.into()))
                );
                assert_eq!(row["share_local"], Value::Null, "policy Local uses none: {row:#}");
                let share = row["share"].as_f64().expect("a number");
                assert!((49.0..51.0).contains(&share), "{row:#}");
                total += share;
            }
            assert!((99.9..100.1).contains(&total), "{listing:#}");
        }
    }
}

/// What was sent, by protocol and family, and who answered.
type Sent = Vec<(Proto, Family, Shares)>;

fn send(cluster: &Cluster, number: u16) -> Sent {
    let mut sent = Sent::new();
    for family in Family::BOTH {
        let to = Address::ClusterIp.socket(cluster, family, number, NODE_PORT);
        for proto in Proto::BOTH {
            let shares = cluster.probe(CLIENT, proto, to, SENT);
            assert!(shares.all_answered(), "{shares}");
            sent.push((proto, family, shares));
        }
    }
    sent
}

/// That the flows are those of the connections that were made.
fn check_flows(cluster: &Cluster, sent: &Sent, since: Instant) {
    // Two connections may have drawn one source port, and are one flow then. And one that is closed, or had one question and
    // its answer, is forgotten after 30 s: on a machine that is too busy to come here in time, fewer are left.
    let least = |sent: u32| {
        if since.elapsed() < LASTING { sent - SAME } else { 0 }
    };
    for (proto, family, shares) in sent {
        let client = pod(cluster, CLIENT, *family);
        let listing = listed(cluster, &["flows", "-s", "shop", "-n", "shop", "-a", &client]);
        let rows: Vec<_> = items(&listing)
            .iter()
            .filter(|row| row["protocol"] == protocol(*proto))
            .collect();
        let expected = least(SENT) as usize..=SENT as usize;
        assert!(
            expected.contains(&rows.len()),
            "{proto:?} {family:?}: {listing:#}"
        );
        let frontend = Address::ClusterIp
            .socket(cluster, *family, 10, NODE_PORT)
            .to_string();
        let mut answered: BTreeMap<String, u32> = BTreeMap::new();
        for row in rows {
            assert_eq!(row["frontend"], *frontend, "{row:#}");
            // The pod keeps its address.
            assert_eq!(row["client"], row["source"], "{row:#}");
            assert!(
                row["client"].as_str().is_some_and(|text| text.contains(&client)),
                "{row:#}"
            );
            assert!(row["age_seconds"].as_u64() < Some(60), "{row:#}");
            assert!(
                row["idle_seconds"].as_u64() <= row["age_seconds"].as_u64(),
                "{row:#}"
            );
            let states: &[&str] = match proto {
                Proto::Tcp => &["closed", "closing-by-client", "closing-by-backend", "established"],
                Proto::Udp => &["answered", "established"],
            };
            assert!(
                row["state"].as_str().is_some_and(|state| states.contains(&state)),
                "{row:#}"
            );
            for name in BOTH {
                let backend = std::net::SocketAddr::new(
                    pod(cluster, name, *family).parse().expect("an address"),
                    TARGET,
                );
                if row["backend"] == backend.to_string() {
                    *answered.entry(name.to_owned()).or_default() += 1;
                }
            }
        }
        for (backend, flows) in &answered {
            let answers = shares.answered.get(backend).copied().unwrap_or_default();
            assert!(*flows <= answers, "{proto:?} {family:?}: {answered:?}, {shares}");
        }
        let total: u32 = answered.values().sum();
        assert!(total >= least(SENT), "{proto:?} {family:?}: {answered:?}");
        let by_client = listed(
            cluster,
            &["flows", "--by", "client", "-s", "shop/shop", "-a", &client],
        );
        let flows = by_client["items"][0]["flows"].as_u64().unwrap_or_default();
        let expected = u64::from(least(2 * SENT))..=u64::from(2 * SENT);
        assert!(expected.contains(&flows), "{by_client:#}");
        assert!(
            flows == 0 || by_client["items"][0]["name"] == *client,
            "{by_client:#}"
        );
    }
    let short = listed(cluster, &["flows", "-s", "shop/shop", "--limit", "3"]);
    let all = items(&short).len() as u64 + short["omitted"].as_u64().unwrap_or_default();
    let expected = u64::from(least(4 * SENT))..=u64::from(4 * SENT);
    assert!(items(&short).len() <= 3 && expected.contains(&all), "{short:#}");
}

/// That clients with affinity are listed with the backend that answered them.
fn check_affinity(cluster: &Cluster, sent: &Sent) {
    let listing = listed(cluster, &["affinity", "--service", "sticky"]);
    assert_eq!(items(&listing).len(), 4, "{listing:#}");
    for (proto, family, shares) in sent {
        let client = pod(cluster, CLIENT, *family);
        let mut rows = items(&listing).iter();
        let row = rows.find(|row| row["client"] == *client && row["protocol"] == protocol(*proto));
        let row = row.unwrap_or_else(|| panic!("{client} is missing: {listing:#}"));
        let names = shares.names();
        let name = names.first().expect("somebody answered");
        assert_eq!(names.len(), 1, "{shares}");
        let backend =
            std::net::SocketAddr::new(pod(cluster, name, *family).parse().expect("an address"), TARGET);
        assert_eq!(row["backend"], backend.to_string(), "{row:#}");
        assert_eq!(row["state"], "kept", "{row:#}");
    }
}

fn check(cluster: &Cluster, running: bool) {
    check_services(cluster);
    check_backends(cluster);
    let since = Instant::now();
    let sent = send(cluster, 10);
    check_flows(cluster, &sent, since);
    let sent = send(cluster, 13);
    check_affinity(cluster, &sent);
    for command in ["services", "backends", "flows", "affinity"] {
        let listing = listed(cluster, &[command]);
        assert_eq!(listing["agent_running"], running, "{command}");
        assert_eq!(
            (&listing["names_known"], &listing["node"]),
            (&json!(true), &json!("node1")),
            "{command}"
        );
    }
}

fn status_file(cluster: &Cluster) -> PathBuf {
    let [_, _, _, instance, _, folder] = cluster.instance(0);
    PathBuf::from(folder).join(instance).join("status.json")
}

#[test]
fn listings_are_what_was_applied_and_sent_also_when_the_agent_was_killed_as_root() {
    if !possible("listings_are_what_was_applied_and_sent_also_when_the_agent_was_killed_as_root") {
        return;
    }
    let mut cluster = Cluster::with(Topology::cluster(2, 2), &[]);
    apply(&cluster);
    check(&cluster, true);
    let (text, done) = cluster.agent(0, &["services", "-s", "web"]);
    assert!(
        !done && text.contains("no Service `web`") && text.contains("shop/sticky"),
        "{text}"
    );

    // One that cannot be served is told from one that is not there.
    let (text, done) = cluster.agent(0, &["services", "-s", "shop/bad-port"]);
    assert!(
        !done && text.contains("Service shop/bad-port: ") && text.contains("99999"),
        "{text}"
    );
    check_watch(&cluster);
    let (text, done) = cluster.agent(0, &["counters", "--services"]);
    assert!(
        !done && text.contains("start the agent with --service-counters"),
        "{text}"
    );
    top::check(&cluster, false);

    // The same once more, with flows of ports that no flow had before.
    cluster.end_agent(0, Signal::SIGKILL);
    let pause = Duration::from_secs(300);
    let flushed = lb_lab::wait_for(pause, "flows of before are over", || {
        // Nobody sweeps while the agent is away.
        flush(&cluster);
        items(&listed(&cluster, &["flows"])).is_empty()
    });
    flushed.expect("flows can be removed");
    cluster.fresh_ports();
    check(&cluster, false);

    // Without a status there are no names.
    fs::remove_file(status_file(&cluster)).expect("it is there");
    let listing = listed(&cluster, &["services"]);
    assert_eq!(
        (&listing["names_known"], &listing["node"]),
        (&json!(false), &Value::Null)
    );
    assert_eq!(items(&listing).len(), 40, "{listing:#}");
    assert!(
        items(&listing).iter().all(|item| item["service"].is_null()),
        "{listing:#}"
    );
    let (text, done) = cluster.agent(0, &["flows", "--limit", "1"]);
    assert!(
        done && text.contains("\n?  ") && text.contains("more (--limit 0 shows all)"),
        "{text}"
    );
    let (text, done) = cluster.agent(0, &["services", "-s", "shop"]);
    assert!(
        !done && text.contains("names of Services are not known"),
        "{text}"
    );
}

/// That a listing is printed again and again.
fn check_watch(cluster: &Cluster) {
    let mut argv = vec![agent_path().to_string_lossy().into_owned()];
    argv.extend(["backends", "-o", "yaml", "--watch", "--interval", "1"].map(str::to_owned));
    argv.extend(cluster.instance(0));
    let child = cluster.lab.spawn("node1", &argv, &[]).expect("it starts");
    let twice = lb_lab::wait_for(Duration::from_secs(20), "it is printed twice", || {
        let text = fs::read_to_string(child.log()).unwrap_or_default();
        text.contains("\n---\nnode: node1\n") && child.is_running()
    });
    child.kill();
    twice.expect("the interval is a second");
}

/// Removes all flows, as the agent would after a while.
fn flush(cluster: &Cluster) {
    let removed = lb_userspace::maps::flows::remove(|name| cluster.map(0, name), |_| true);
    removed.expect("the maps are pinned");
}

#[test]
fn check_finds_a_good_node_and_names_another_proxy_as_root() {
    if !possible("check_finds_a_good_node_and_names_another_proxy_as_root") {
        return;
    }
    let cluster = Cluster::with(Topology::cluster(2, 1).netfilter(Netfilter::None), &[]);
    let (text, done) = cluster.agent(0, &["check", "-o", "json"]);
    assert!(done, "{text}");
    let found: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(found["failures"], 0, "{found:#}");
    let findings = found["findings"].as_array().expect("a list");
    let levels = |check: &str| {
        let of_check = findings.iter().filter(|finding| finding["check"] == check);
        of_check
            .map(|finding| finding["level"].as_str().unwrap_or_default())
            .collect::<Vec<_>>()
    };
    let uplink = findings
        .iter()
        .find(|finding| finding["check"] == "uplink")
        .expect("it is looked at");
    let address = cluster.lab.topology().nodes[0].addr.of(Family::V6).to_string();
    let named = uplink["found"]
        .as_str()
        .is_some_and(|text| text.starts_with("eth0: ") && text.contains(&address));
    assert!(named, "{uplink:#}");
    for check in ["kernel", "features", "bpffs", "xdp", "agent", "proxy"] {
        assert_eq!(levels(check), ["ok"], "{check}: {found:#}");
    }
    // What is the agent's own is in nobody's way.
    assert_eq!(levels("programs"), [""; 0], "{found:#}");

    let node = cluster.lab.at("node1").expect("it is there");
    node.output(&["nft", "add", "table", "ip", "kube-proxy"])
        .expect("it can be made");
    let (text, done) = cluster.agent(0, &["check"]);
    assert!(!done && text.contains("one thing stands in the way"), "{text}");
}
