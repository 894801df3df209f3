//! From kube-proxy to the agent and back, as docs/migrate-from-kube-proxy.md says, with real traffic all the time.

mod kube_proxy;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_lab::{Family, Held, Lab, Netfilter, Options, Proto, Signal, Topology};

use crate::{
    cluster::{Cluster, hook, possible},
    load::{Datagrams, Hammer, Hammers},
    service::{self, PORT, Service, TARGET},
};
use kube_proxy::{Mode, Rules};

const NODE_PORT: u16 = 30_080;
/// Connections that stay open, of each client to each address.
const HELD: usize = 4;
/// While both are there, one in so many connections of this node's own processes may get lost, see the page.
const COLLISIONS: u32 = 20;
/// How long an echo may take.
const ECHO: Duration = Duration::from_secs(5);
const BACKENDS: [&str; 2] = ["pod1-1", "pod2-1"];

#[test]
fn from_kube_proxy_by_iptables_and_back_as_root() {
    if possible("from_kube_proxy_by_iptables_and_back_as_root") {
        there_and_back(Mode::Iptables, Netfilter::Iptables);
    }
}

#[test]
fn from_kube_proxy_by_nftables_and_back_as_root() {
    if possible("from_kube_proxy_by_nftables_and_back_as_root") {
        there_and_back(Mode::Nftables, Netfilter::Nftables);
    }
}

/// What kube-proxy would write for the Service.
fn rules(lab: &Lab) -> Vec<Rules> {
    let topology = lab.topology();
    let pod = |name: &str| {
        topology
            .pods()
            .find(|(_, pod)| pod.name == name)
            .expect("it is there")
            .1
            .addr
    };
    let of = |family: Family| Rules {
        family,
        cluster_ip: topology.plan.services.nth(10).of(family),
        load_balancer: topology.plan.vips.nth(10).of(family),
        node_port: NODE_PORT,
        port: PORT,
        endpoints: BACKENDS.iter().map(|name| pod(name).of(family)).collect(),
        target: TARGET,
        pods: topology.plan.cluster.of(family).to_string(),
    };
    Family::BOTH.map(of).to_vec()
}

/// On every node: do something with the rules.
fn on_nodes(lab: &Lab, what: impl Fn(&Rules, &lb_lab::Netns)) {
    for node in &lab.topology().nodes {
        let place = lab.at(&node.name).expect("it is there");
        rules(lab).iter().for_each(|rules| what(rules, place.netns()));
    }
}

/// Has connection tracking forget closed connections after a second, rather than two minutes.
fn forget_soon(netns: &lb_lab::Netns) {
    for state in ["fin_wait", "close_wait", "last_ack", "time_wait", "close"] {
        let setting = format!("net.netfilter.nf_conntrack_tcp_timeout_{state}=1");
        netns.output(&["sysctl", "-qw", &setting]).expect("sysctl runs");
    }
}

/// Entries of node1's connection tracking whose destination is one of the Service's own addresses.
fn all_tracked(lab: &Lab, ways: &[Way]) -> usize {
    let node = lab.at("node1").expect("it is there");
    let addresses: BTreeSet<_> = ways
        .iter()
        .map(|(_, to)| to)
        .filter(|to| to.port() == PORT)
        .map(SocketAddr::ip)
        .collect();
    let of = |ip: &IpAddr| {
        let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
        let list = node.output(&["conntrack", "-L", "-f", family, "-d", &ip.to_string()]);
        let list = list.expect("conntrack runs");
        list.lines().filter(|line| line.contains("src=")).count()
    };
    addresses.iter().map(of).sum()
}

/// A client and whom it asks.
type Way = (&'static str, SocketAddr);

fn ways(lab: &Lab) -> Vec<Way> {
    let plan = &lab.topology().plan;
    let mut ways = Vec::new();
    for family in Family::BOTH {
        let cluster_ip = SocketAddr::new(plan.services.nth(10).of(family), PORT);
        let node1 = SocketAddr::new(lab.node("node1").expect("it is there").addr.of(family), NODE_PORT);
        ways.extend([
            ("client", SocketAddr::new(plan.vips.nth(10).of(family), PORT)),
            ("client", node1),
            ("pod1-2", cluster_ip),
            ("node1", cluster_ip),
        ]);
    }
    ways
}

fn there_and_back(mode: Mode, netfilter: Netfilter) {
    let lab = Cluster::lab(Topology::cluster(2, 2).netfilter(netfilter));
    on_nodes(&lab, |rules, netns| {
        rules.put(mode, netns);
        forget_soon(netns);
    });
    let ways = ways(&lab);
    all_answered(&lab, &ways, "by kube-proxy alone");
    let mut before = held(&lab, &ways);

    // Both: the agent starts while connections are open, and others come and go.
    let passing: Vec<_> = Proto::BOTH
        .into_iter()
        .flat_map(|proto| without_node(&ways).into_iter().map(move |way| (proto, way)))
        .map(|(proto, (from, to))| {
            (
                format!("{from} to {proto} {to}"),
                Hammer::start(&lab, from, proto, to),
            )
        })
        .collect();
    let mut cluster = with_agents(lab);
    for (way, hammer) in passing {
        hammer.wait_for(5);
        let shares = hammer.stop();
        assert!(
            shares.all_answered(),
            "{way} when the agent starts: {shares}\n{}",
            cluster.diagnosis()
        );
    }
    let lab = &cluster.lab;
    // This node's own processes are translated by rules of the OUTPUT hook, before any device of ours. The packets of others
    // pass, and connection tracking goes on with them.
    for (what, held) in &mut before {
        assert_eq!(
            fate(held),
            Fate::Alive,
            "{what} when the agent starts\n{}",
            cluster.diagnosis()
        );
    }
    assert!(
        cluster.status(0)["leaves_tracked"] == true,
        "{}",
        cluster.diagnosis()
    );
    let at_uplink = if hook() == "tc" { "uplink-in" } else { "uplink-xdp" };
    for hook in [at_uplink, "pod-in"] {
        assert!(
            cluster.counted(0, hook, "passed-tracked") > 0,
            "{hook}: {}",
            cluster.diagnosis()
        );
    }
    let tracked_before = all_tracked(lab, &ways);
    all_answered(lab, &without_node(&ways), "by both");
    let tracked_now = all_tracked(lab, &ways);
    assert!(
        tracked_now <= tracked_before,
        "netfilter has seen Services' addresses: {tracked_now} entries, {tracked_before} before"
    );
    assert!(
        cluster.counted(0, at_uplink, "forwarded-new") > 0,
        "{}",
        cluster.diagnosis()
    );
    assert!(
        cluster.counted(0, "pod-in", "forwarded-new") > 0,
        "{}",
        cluster.diagnosis()
    );
    all_answered(lab, &ways, "by both, this node's processes too");
    assert_eq!(
        cluster.counted(0, "host-out", "forwarded"),
        0,
        "rules of the OUTPUT hook come first for this node's own processes"
    );
    let (said, good) = cluster.agent(0, &["check"]);
    assert!(!good, "{said}");

    // kube-proxy's rules go, while connections are opened all the time.
    let mut ours = held(lab, &without_node(&ways));
    let hammers = Hammers::start(&cluster, &without_node(&ways));
    let of_node: Vec<_> = ways
        .iter()
        .filter(|(from, _)| *from == "node1")
        .map(|(from, to)| Hammer::start(&cluster.lab, from, Proto::Tcp, *to))
        .collect();
    let datagrams = Datagrams::start(&cluster, &without_node(&ways), 1, 50);
    hammers.wait_for(10);
    on_nodes(lab, |rules, netns| rules.clean_up(mode, netns));
    hammers.wait_for(20);
    assert_alive(&mut ours, "without kube-proxy's rules");
    // Connection tracking still knows them.
    assert_alive(&mut before, "without kube-proxy's rules");
    drop(before);
    cluster.eventually_status(0, "the connections by kube-proxy have ended", |status| {
        status["leaves_tracked"] == false
    });
    all_answered(lab, &ways, "by the agent alone");
    assert!(
        cluster.counted(0, "host-out", "forwarded-new") > 0,
        "{}",
        cluster.diagnosis()
    );

    // Back: first the rules, then no agent.
    on_nodes(lab, |rules, netns| rules.put(mode, netns));
    hammers.wait_for(10);
    assert_alive(&mut ours, "with kube-proxy's rules again");
    hammers.assert_no_failure(&cluster);
    for hammer in of_node {
        let shares = hammer.stop();
        eprintln!("this node's own processes meanwhile: {shares}");
        let missing = shares.attempts - shares.answers();
        assert!(
            missing * COLLISIONS <= shares.attempts,
            "{shares}\n{}",
            cluster.diagnosis()
        );
    }
    datagrams.assert_none_lost(&cluster);
    for node in 0..2 {
        cluster.end_agent(node, Signal::SIGTERM);
        let (said, good) = cluster.agent(node, &["detach"]);
        assert!(good, "{said}");
    }
    all_answered(&cluster.lab, &ways, "by kube-proxy again");
    let mut fates = Fates::default();
    for (_, held) in &mut ours {
        *fates.entry(fate(held)).or_default() += 1;
    }
    eprintln!("connections of clients outside and pods by the agent when it has gone: {fates:?}");
}

/// What has become of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fate {
    Alive,
    /// Its client was told at once.
    Reset,
    Silent,
}

type Fates = BTreeMap<Fate, usize>;

fn fate(held: &mut Held) -> Fate {
    match held.echo(ECHO) {
        Ok(_) => Fate::Alive,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            ) =>
        {
            Fate::Reset
        }
        Err(_) => Fate::Silent,
    }
}

fn held(lab: &Lab, ways: &[Way]) -> Vec<(String, Held)> {
    let mut all = Vec::new();
    for (from, to) in ways {
        for _ in 0..HELD {
            let held = lab.at(from).expect("it is there").hold(*to, &Options::default());
            let held = held.unwrap_or_else(|error| panic!("{from} to {to}: {error:#}"));
            all.push((format!("{from} to {to} at {}", held.by().name), held));
        }
    }
    all
}

#[track_caller]
fn assert_alive(held: &mut [(String, Held)], when: &str) {
    for (what, held) in held {
        assert_eq!(fate(held), Fate::Alive, "{what} {when}");
    }
}

#[track_caller]
fn all_answered(lab: &Lab, ways: &[Way], when: &str) {
    for proto in Proto::BOTH {
        for (from, to) in ways {
            let place = lab.at(from).expect("it is there");
            // See COLLISIONS.
            let tries = if *from == "node1" { 5 } else { 1 };
            let mut last = None;
            let good = (0..tries).any(|_| {
                let shares = place.probe(proto, *to, 20).expect("it runs");
                let good = shares.all_answered();
                last = Some(shares);
                good
            });
            assert!(good, "{when}: {from} {proto:?} {to}: {last:?}");
        }
    }
}

/// Clients other than the node itself.
fn without_node(ways: &[Way]) -> Vec<Way> {
    ways.iter()
        .filter(|(from, _)| *from != "node1")
        .copied()
        .collect()
}

/// Starts agents that serve the Service which kube-proxy's rules are about.
fn with_agents(lab: Lab) -> Cluster {
    let manifests = lab.folder().join("manifests");
    fs::create_dir_all(&manifests).expect("the lab's folder can be written");
    fs::write(manifests.join("nodes.yaml"), service::nodes(&lab)).expect("the lab's folder can be written");
    let shop = Service::new(&lab, "shop", 10)
        .load_balancer(&lab, 10, NODE_PORT)
        .with(&lab, &BACKENDS);
    fs::write(manifests.join("shop.yaml"), shop.manifests()).expect("the lab's folder can be written");
    let source = ["dir", "--manifests", &manifests.to_string_lossy()].map(str::to_owned);
    Cluster::run(lab, &source, &["--hook", &hook()])
}
