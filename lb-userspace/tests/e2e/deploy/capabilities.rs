//! The agent in its container serves with exactly the capabilities of the manifest; each one that is taken away takes
//! something with it, by the kernel's word and not only by the agent's.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use lb_lab::{Child, Family, Lab, Proto, Shares, Topology, wait_for};

use super::sandbox::Sandbox;
use crate::{
    cluster::{Cluster, SETTLED, possible},
    service::{self, PORT, Service},
};

const NODE_PORT: u16 = 30_080;

fn lab() -> (Lab, Service) {
    let lab = Cluster::lab(Topology::cluster(1, 2));
    let service = Service::new(&lab, "shop", 10)
        .node_port(NODE_PORT)
        .with(&lab, &["pod1-1", "pod1-2"]);
    let manifests = lab.folder().join("manifests");
    fs::create_dir_all(&manifests).expect("the lab's folder can be written");
    fs::write(manifests.join("nodes.yaml"), service::nodes(&lab)).expect("the lab's folder can be written");
    fs::write(manifests.join("shop.yaml"), service.manifests()).expect("the lab's folder can be written");
    (lab, service)
}

/// What the container gets in place of an API server. The seconds of the health check's address are the default.
fn source() -> Vec<String> {
    ["--source", "dir", "--manifests", "/manifests"]
        .map(str::to_owned)
        .into()
}

fn wait_until_served(lab: &Lab, sandbox: &Sandbox<'_>, agent: &Arc<Child>) -> serde_json::Value {
    let mut status = serde_json::Value::Null;
    let served = wait_for(SETTLED, "the agent serves", || {
        let (said, _) = sandbox.execute(&["status", "-o", "json"]);
        status = serde_json::from_str(&said).unwrap_or_default();
        status["services"].to_string().contains("shop")
            && status["generation"] == status["generation_live"]
            && !status["devices"]
                .as_object()
                .is_none_or(serde_json::Map::is_empty)
    });
    assert!(
        served.is_ok(),
        "{}: {status:#}\n{}",
        lab.folder().display(),
        agent.tail(20)
    );
    status
}

#[test]
fn it_serves_with_the_capabilities_of_the_manifest_as_root() {
    if !possible("it_serves_with_the_capabilities_of_the_manifest_as_root") {
        return;
    }
    let (lab, service) = lab();
    if let Err(error) = lab.cgroup("node1") {
        lb_lab::skip(&format!(
            "it_serves_with_the_capabilities_of_the_manifest_as_root: {error:#}"
        ));
        return;
    }
    let sandbox = Sandbox::new(&lab, "node1");
    let agent = sandbox.start(&sandbox.capabilities(), &source());
    let status = wait_until_served(&lab, &sandbox, &agent);

    let node = lab.node("node1").expect("it is there").addr;
    let plan = &lab.topology().plan;
    for family in [Family::V4, Family::V6] {
        let cluster_ip = SocketAddr::new(plan.services.nth(10).of(family), PORT);
        let node_port = SocketAddr::new(node.of(family), NODE_PORT);
        let ways = [
            ("pod1-1", cluster_ip),
            ("node1", cluster_ip),
            ("node1", node_port),
            ("client", node_port),
        ];
        for ((from, to), proto) in ways
            .into_iter()
            .flat_map(|way| Proto::BOTH.map(|proto| (way, proto)))
        {
            let mut last = Shares::default();
            let answered = wait_for(Duration::from_secs(20), "answers", || {
                last = lab
                    .at(from)
                    .and_then(|place| place.probe(proto, to, 8))
                    .expect("the probe runs");
                last.all_answered()
            });
            assert!(
                answered.is_ok(),
                "{from} to {proto:?} {to} ({}): {last}\n{}",
                service.name(),
                agent.tail(20)
            );
        }
    }
    // Nothing was left out for want of a right.
    let log = agent.tail(usize::MAX);
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    assert!(status.to_string().contains("connect4"), "at sockets: {status:#}");
    let (counters, counted) = sandbox.execute(&["counters"]);
    assert!(counted && counters.contains("forwarded"), "{counters}");
    // Probes of the kubelet.
    for path in ["livez", "healthz"] {
        let url = format!("http://{}:10256/{path}", node.v4);
        let answer = lab
            .at("node1")
            .and_then(|place| place.output(&["curl", "--silent", "--show-error", "--fail", "-m", "5", &url]));
        assert!(answer.is_ok(), "{url}: {answer:?}");
    }

    agent
        .stop(Duration::from_secs(10))
        .expect("it ends when it is told to");
    let (said, detached) = sandbox.execute(&["detach"]);
    assert!(detached, "{said}");
    let links = lab
        .at("node1")
        .and_then(|place| place.output(&["ip", "-br", "link"]));
    assert!(!links.expect("ip runs").contains("lb0"), "all is taken back");
}

#[test]
fn each_capability_that_is_missing_is_missed_as_root() {
    if !possible("each_capability_that_is_missing_is_missed_as_root") {
        return;
    }
    let (lab, _) = lab();
    if let Err(error) = lab.cgroup("node1") {
        lb_lab::skip(&format!(
            "each_capability_that_is_missing_is_missed_as_root: {error:#}"
        ));
        return;
    }
    let sandbox = Sandbox::new(&lab, "node1");
    let all = sandbox.capabilities();
    let object = lab.folder().join("lb-ebpf.o");
    let programs = lb_userspace::load::embedded().expect("it was asked for");
    fs::write(&object, programs).expect("the lab's folder can be written");
    let object = object.to_string_lossy();
    let pins = format!("/sys/fs/bpf/{}tried", lab.prefix());
    let load = ["bpftool", "prog", "loadall", &object, &pins];
    let make_lb0 = ["ip", "link", "add", "lbtry0", "type", "veth", "peer", "lbtry1"];

    let with = |capabilities: &[String], argv: &[&str]| -> Output {
        let place = lab.at("node1").expect("it is there");
        let list: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
        let output = Command::new("nsenter")
            .arg(format!("--net={}", place.netns().path().display()))
            .args([
                "setpriv",
                "--no-new-privs",
                "--inh-caps",
                "-all",
                "--bounding-set",
            ])
            .args([&format!("-all{list}"), "--"])
            .args(argv)
            .output();
        let _ = fs::remove_dir_all(&pins);
        output.expect("setpriv is there")
    };
    for argv in [&load[..], &make_lb0] {
        let output = with(&all, argv);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{all:?}: {argv:?}: {said}");
    }

    // What fails without: the programs cannot be loaded; lb0 and its routes cannot be made.
    let refused: [(&str, &[&str]); 4] = [
        ("bpf", &load),
        ("perfmon", &load),
        ("net_admin", &load),
        ("net_admin", &["ip", "link", "add", "lbtry2", "type", "veth"]),
    ];
    for name in &all {
        let others: Vec<_> = all.iter().filter(|other| *other != name).cloned().collect();
        let feature = refused.iter().filter(|(capability, _)| capability == name);
        assert!(feature.clone().count() > 0, "{name}: what is it for?");
        for (_, argv) in feature {
            let output = with(&others, argv);
            assert!(!output.status.success(), "without {name}: {argv:?} should fail");
        }
        let agent = sandbox.start(&others, &source());
        let status = agent.wait(SETTLED).expect("it ends by itself");
        let said = agent.tail(5);
        let wanted = format!("CAP_{} is missing", name.to_uppercase());
        assert!(
            !status.success() && said.contains(&wanted),
            "{wanted}: {status}: {said}"
        );
    }
}
