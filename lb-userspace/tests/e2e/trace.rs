//! `lb-agent trace` shows what packets meet, and changes nothing for them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lb_lab::{Child, Family, Netfilter, Proto, Signal, Topology, wait_for};
use serde_json::Value;

use crate::{
    cluster::{Cluster, agent_path, possible},
    dump::entries,
    reach::Address,
    service::Service,
};

const NODE_PORT: u16 = 30_080;
/// To load second instances of all programs takes seconds on a busy machine.
const LOADED: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

/// A trace on the first node.
struct Trace {
    child: Arc<Child>,
}

impl Trace {
    fn start(cluster: &Cluster, arguments: &[&str]) -> Self {
        Self::start_as(cluster, "json", arguments)
    }

    fn start_as(cluster: &Cluster, output: &str, arguments: &[&str]) -> Self {
        let mut argv = vec![agent_path().to_string_lossy().into_owned(), "trace".into()];
        argv.extend(
            ["-o", output]
                .into_iter()
                .chain(arguments.iter().copied())
                .map(str::to_owned),
        );
        argv.extend(cluster.instance(0));
        let child = cluster.lab.spawn("node1", &argv, &[]).expect("lb-agent starts");
        child
            .wait_for_output("note: watching", LOADED)
            .expect("it watches");
        Self { child }
    }

    fn packets(&self) -> Vec<Value> {
        let text = self.child.tail(usize::MAX);
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits until there are so many packets at a hook with this outcome, and gives those.
    fn wait_for(&self, n: usize, hook: &str, outcome: &str) -> Vec<Value> {
        self.wait_for_any(n, &[hook], outcome)
    }

    /// As above, at any of these hooks.
    fn wait_for_any(&self, n: usize, hooks: &[&str], outcome: &str) -> Vec<Value> {
        let found = || -> Vec<Value> {
            let packets = self.packets().into_iter();
            packets
                .filter(|packet| {
                    hooks.iter().any(|hook| packet["hook"] == *hook) && outcome_of(packet) == outcome
                })
                .collect()
        };
        let waited = wait_for(SOON, &format!("{n} times {hooks:?} {outcome}"), || {
            found().len() >= n
        });
        if let Err(error) = waited {
            let seen: Vec<_> = self
                .packets()
                .iter()
                .map(|packet| format!("{} {}", packet["hook"], outcome_of(packet)))
                .collect();
            panic!("{error:#}\n{seen:?}");
        }
        found()
    }

    fn end(self) {
        self.child.signal(Signal::SIGTERM);
        let status = self.child.wait(SOON).expect("it ends");
        assert!(status.success(), "{}", self.child.tail(20));
    }
}

/// The step of a packet that has this name.
fn step<'a>(packet: &'a Value, name: &'static str) -> &'a Value {
    all(packet, name).next().unwrap_or(&Value::Null)
}

fn all<'a>(packet: &'a Value, name: &'static str) -> impl Iterator<Item = &'a Value> {
    let steps = packet["steps"].as_array().into_iter().flatten();
    steps.filter(move |step| step["step"] == name)
}

fn steps(packet: &Value) -> Vec<&str> {
    let steps = packet["steps"].as_array().into_iter().flatten();
    steps.filter_map(|step| step["step"].as_str()).collect()
}

/// How many translations a packet has made: each has two entries, of which either can be made of the other.
fn translations(packet: &Value) -> usize {
    let ends = |tuple: &Value| {
        let end = |side: &str, port: &str| (tuple[side].clone(), tuple[port].clone());
        [
            end("source", "source_port"),
            end("destination", "destination_port"),
        ]
    };
    let reversed = |tuple: &Value| {
        let [from, to] = ends(tuple);
        [to, from]
    };
    let made: Vec<_> = all(packet, "create").collect();
    for pair in made.chunks(2) {
        let [onward, answers] = pair else {
            panic!("{packet:#}")
        };
        assert_eq!(
            ends(&answers["key"]),
            reversed(&onward["value"]["to"]),
            "{packet:#}"
        );
        assert_eq!(
            ends(&answers["value"]["to"]),
            reversed(&onward["key"]),
            "{packet:#}"
        );
    }
    made.len() / 2
}

fn outcome_of(packet: &Value) -> &str {
    step(packet, "outcome")["value"].as_str().unwrap_or_default()
}

fn shop(cluster: &Cluster) -> Service {
    Service::new(&cluster.lab, "shop", 10)
        .load_balancer(&cluster.lab, 10, NODE_PORT)
        .with(&cluster.lab, &["pod1-1", "pod2-1"])
}

fn shows_every_step(hook: &str) {
    let topology = Topology::cluster(2, 2).netfilter(Netfilter::Iptables);
    let cluster = Cluster::by(hook, topology, &["--connect-hooks", "all"]);
    cluster.apply(&shop(&cluster));
    let other = Service::new(&cluster.lab, "other", 11)
        .load_balancer(&cluster.lab, 11, NODE_PORT + 1)
        .with(&cluster.lab, &["pod1-2"]);
    cluster.apply(&other);
    let trace = Trace::start(&cluster, &["--to", "service/shop/shop"]);
    // What XDP cannot send (to a neighbour that is not known yet) it leaves to TC.
    let entries = ["uplink-in", "uplink-xdp"];
    let by_xdp = hook != "tc";
    let counted = |outcome| -> u64 {
        entries
            .iter()
            .map(|entry| cluster.counted(0, entry, outcome))
            .sum()
    };
    let before = counted("forwarded-new");
    for family in Family::BOTH {
        let to = Address::LoadBalancer.socket(&cluster, family, 10, NODE_PORT);
        assert!(cluster.probe("client", Proto::Tcp, to, 10).all_answered());
        assert!(cluster.probe("pod1-2", Proto::Udp, to, 10).all_answered());
        assert!(cluster.probe("pod1-2", Proto::Tcp, to, 10).all_answered());
        // A backend that may come to itself: its address changes a second time, behind the routing decision.
        assert!(cluster.probe("pod1-1", Proto::Udp, to, 10).all_answered());
        // Nothing of this is to be seen.
        let to = Address::LoadBalancer.socket(&cluster, family, 11, NODE_PORT + 1);
        assert!(cluster.probe("client", Proto::Tcp, to, 10).all_answered());
    }

    // (Two connections may draw one source port, and are one flow then.)
    let new = trace.wait_for_any(18, &entries, "forwarded-new");
    assert!(new.len() <= 20, "{}", trace.child.tail(40));
    let counted = counted("forwarded-new") - before;
    assert!(
        (36..=40).contains(&counted),
        "those of the other Service are not shown: {counted}"
    );
    for packet in &new {
        let names = steps(packet);
        let opening = [
            "enter", "flow", "address", "source", "frontend", "set", "row", "backend", "create", "create",
        ];
        assert!(names.starts_with(&opening), "{packet:#}");
        assert!(names.ends_with(&["outcome", "verdict"]), "{packet:#}");
        assert_eq!(step(packet, "flow")["value"], Value::Null, "{packet:#}");
        assert!(
            step(packet, "enter")["value"]["tcp_flags"]
                .as_str()
                .is_some_and(|flags| flags.starts_with("SYN"))
        );
        // It is told twice where the packet goes: once by what was read, once by what was written.
        let backend = &step(packet, "backend")["value"];
        let rewrite = &step(packet, "rewrite")["value"];
        assert_eq!(backend["address"], rewrite["destination"], "{packet:#}");
        assert_eq!(backend["port"], rewrite["destination_port"], "{packet:#}");
        assert_eq!(
            step(packet, "create")["value"]["to"]["destination"],
            rewrite["destination"]
        );
        assert_eq!(translations(packet), 1, "{packet:#}");
        assert!(names.contains(&"checksum"), "{packet:#}");
    }
    let backends: BTreeMap<_, _> = new
        .iter()
        .map(|packet| (step(packet, "backend")["means"].to_string(), ()))
        .collect();
    assert_eq!(backends.len(), 4, "two of each family: {backends:?}");

    let entry = entries[usize::from(by_xdp)];
    assert!(
        new.iter().any(|packet| packet["hook"] == entry),
        "none came by {entry}"
    );
    for packet in trace.wait_for(20, entry, "forwarded-flow") {
        assert_ne!(step(&packet, "flow")["value"], Value::Null, "{packet:#}");
        assert_eq!(step(&packet, "frontend"), &Value::Null, "{packet:#}");
    }
    // Answers are seen too, where they are undone.
    trace.wait_for(1, "uplink-out", "forwarded-flow");
    let of_pods = trace.wait_for(38, "pod-in", "forwarded-new");
    let twice = of_pods.iter().filter(|packet| translations(packet) == 2);
    assert!(
        twice.count() > 0,
        "no pod came to itself: {}",
        trace.child.tail(40)
    );
    trace.wait_for(18, "pod-out", "forwarded-flow");
    for connection in trace.wait_for(20, "connect", "forwarded-new") {
        assert_eq!(connection["device"], Value::Null, "{connection:#}");
        assert!(
            step(&connection, "enter")["value"]["process"].as_u64() > Some(1),
            "{connection:#}"
        );
        assert_eq!(
            step(&connection, "frontend")["value"]["kind"],
            2,
            "a LoadBalancer: {connection:#}"
        );
    }
    let other = [NODE_PORT + 1, 0].map(|port| {
        Address::LoadBalancer
            .socket(&cluster, Family::V4, 11, port)
            .ip()
            .to_string()
    });
    assert!(
        !trace.child.tail(usize::MAX).contains(&other[0]),
        "the other Service was not asked for"
    );
    trace.end();
}

#[test]
fn a_trace_shows_every_step_by_tc_as_root() {
    if possible("a_trace_shows_every_step_by_tc_as_root") {
        shows_every_step("tc");
    }
}

#[test]
fn a_trace_shows_every_step_by_xdp_as_root() {
    if possible("a_trace_shows_every_step_by_xdp_as_root") {
        shows_every_step("xdp-native");
    }
}

#[test]
fn a_trace_is_read_by_people_and_ends_after_so_many_packets_as_root() {
    if !possible("a_trace_is_read_by_people_and_ends_after_so_many_packets_as_root") {
        return;
    }
    let cluster = Cluster::with(Topology::cluster(2, 1).netfilter(Netfilter::Iptables), &[]);
    cluster.apply(&shop(&cluster));
    let to = Address::LoadBalancer.socket(&cluster, Family::V4, 10, NODE_PORT);
    let argument = to.to_string();
    let trace = Trace::start_as(&cluster, "text", &["--to", &argument, "--count", "3"]);
    assert!(cluster.probe("client", Proto::Tcp, to, 2).all_answered());
    let status = trace.child.wait(SOON).expect("it has seen enough");
    assert!(status.success(), "{}", trace.child.tail(20));
    let text = trace.child.tail(usize::MAX);
    let packets: Vec<_> = text
        .split("\n\n")
        .filter(|block| block.contains("  (CPU "))
        .collect();
    assert_eq!(packets.len(), 3, "{text}");
    let first = packets[0];
    for expected in [
        "uplink-in on eth0  (CPU ".to_owned(),
        format!("-> {to} TCP: 74 bytes, SYN"),
        format!("  frontend   {to}/TCP: service "),
        "  outcome    forwarded-new: Forwarded: the first packet of a new flow.".to_owned(),
    ] {
        assert!(first.contains(&expected), "{expected}\n{text}");
    }
}

#[test]
fn a_client_is_followed_to_its_other_address_as_root() {
    if !possible("a_client_is_followed_to_its_other_address_as_root") {
        return;
    }
    let cluster = Cluster::with(Topology::cluster(2, 1).netfilter(Netfilter::Nftables), &[]);
    let far = Service::new(&cluster.lab, "far", 10)
        .load_balancer(&cluster.lab, 10, NODE_PORT)
        .with(&cluster.lab, &["pod2-1"]);
    cluster.apply(&far);
    for family in Family::BOTH {
        let client = cluster
            .lab
            .at("client")
            .expect("it is there")
            .ip(family)
            .to_string();
        let to = Address::LoadBalancer.socket(&cluster, family, 10, NODE_PORT);
        let trace = Trace::start(&cluster, &["--from", &client, "--to", &to.to_string()]);
        // Long enough to be followed: many packets in one connection.
        let client = cluster.lab.at("client").expect("it is there");
        let stream = client.stream(to, 200_000).expect("the stream runs");
        stream.wait_for_more(200_000, SOON).expect("it goes on");
        let answers = trace.wait_for(5, "uplink-in", "forwarded-flow");
        let undone = answers.iter().any(|packet| {
            step(packet, "rewrite")["means"].as_str().is_some_and(|text| {
                text.starts_with(&to.ip().to_string()) || text.starts_with(&format!("[{}]", to.ip()))
            })
        });
        assert!(
            undone,
            "no answer of {family:?} is shown: {}",
            trace.child.tail(20)
        );
        trace.end();
    }
}

#[test]
fn nothing_is_left_of_a_trace_that_is_killed_as_root() {
    if !possible("nothing_is_left_of_a_trace_that_is_killed_as_root") {
        return;
    }
    let mut cluster = Cluster::with(Topology::cluster(2, 1).netfilter(Netfilter::Iptables), &[]);
    cluster.apply(&shop(&cluster));
    let to = Address::LoadBalancer.socket(&cluster, Family::V4, 10, NODE_PORT);
    let trace = Trace::start(&cluster, &["--to", &to.to_string()]);
    let answered = |cluster: &Cluster| {
        let shares = cluster.probe("client", Proto::Tcp, to, 50);
        assert!(shares.all_answered(), "{shares}\n{}", cluster.diagnosis());
    };
    answered(&cluster);
    let argument = to.to_string();
    let (text, success) = cluster.agent(0, &["trace", "--to", &argument, "--seconds", "1"]);
    assert!(!success && text.contains("somebody watches already"), "{text}");
    trace.child.kill();
    answered(&cluster);
    // The lease of who was killed ends by itself, also for the programs.
    let noted = |cluster: &Cluster| -> u64 {
        let all = entries(&cluster.map(0, "tracing")).into_iter();
        let per_cpu = all.flat_map(|entry| {
            entry["formatted"]["values"]
                .as_array()
                .cloned()
                .unwrap_or_default()
        });
        per_cpu
            .filter_map(|value| value["value"]["packets"].as_u64())
            .sum()
    };
    wait_for(SOON, "programs to write nothing any more", || {
        let before = noted(&cluster);
        answered(&cluster);
        before > 0 && noted(&cluster) == before
    })
    .expect("they look at the time");
    let again = || {
        cluster
            .agent(0, &["trace", "--to", &argument, "--seconds", "1"])
            .1
    };
    wait_for(SOON, "another to watch", again).expect("the first is gone");
    answered(&cluster);

    // An agent that is started anew has maps of its own.
    let trace = Trace::start(&cluster, &["--to", &to.to_string()]);
    cluster.end_agent(0, Signal::SIGKILL);
    cluster.start_agent(0);
    cluster.wait_for_agent(0);
    trace
        .child
        .wait_for_output("was started anew", SOON)
        .expect("it is noticed");
    let seen = trace.packets().len();
    wait_for(LOADED, "packets of the new one", || {
        answered(&cluster);
        trace.packets().len() > seen
    })
    .expect("it watches the new one");
    trace.end();

    for (arguments, expected) in [
        (
            &["trace", "--to", "service/default/nothing"][..],
            "Service default/nothing is not served on node node1",
        ),
        (
            &["trace", "--from", "pod/shop/nobody"][..],
            "Pod shop/nobody is not among the manifests",
        ),
        (&["trace"][..], "--from"),
    ] {
        let (text, success) = cluster.agent(0, arguments);
        assert!(!success && text.contains(expected), "{arguments:?}: {text}");
    }
    let (text, success) = cluster.agent(0, &["trace", "--from", "node/node2", "--seconds", "1"]);
    assert!(success, "names of the manifests are known: {text}");
}
