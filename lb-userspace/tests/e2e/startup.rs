//! What the agent cannot start with, it says in one sentence, and touches nothing.

use std::{fs, process::Command};

use lb_lab::{Lab, Topology};

use crate::cluster::{Cluster, agent_path, possible};

/// What is wrong, the program to start the agent by, its arguments, and words that it must say.
type Case<'a> = (&'a str, &'a [&'a str], Vec<&'a str>, &'a [&'a str]);

/// Runs the agent in the lab's only node; gives what it says on its way out.
fn refusal(lab: &Lab, wrapper: &[&str], arguments: &[&str]) -> String {
    let node = lab.at("node1").expect("it is there");
    let run = lab.folder().join("run");
    let output = Command::new("nsenter")
        .arg(format!("--net={}", node.netns().path().display()))
        .args(["timeout", "10"])
        .args(wrapper)
        .arg(agent_path())
        .args(["run", "--instance", &format!("{}refused", lab.prefix())])
        .arg("--run-dir")
        .arg(&run)
        .args(arguments)
        .env("RUST_BACKTRACE", "0")
        .env_remove("NODE_NAME")
        .output()
        .expect("nsenter is there");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && output.status.code() != Some(124),
        "{arguments:?}: {}: {said}",
        output.status
    );
    said
}

#[test]
fn it_says_in_one_sentence_why_it_cannot_start_as_root() {
    if !possible("it_says_in_one_sentence_why_it_cannot_start_as_root") {
        return;
    }
    let lab = Cluster::lab(Topology::new().node("node1", &["pod1-1"]));
    let manifests = lab.folder().join("manifests");
    fs::create_dir_all(&manifests).expect("the lab's folder can be written");
    let manifests = manifests.to_string_lossy();
    let devices = || {
        let node = lab.at("node1").expect("it is there");
        node.output(&["ip", "-br", "link"]).expect("ip runs")
    };
    let before = devices();
    let dir = ["--node-name", "node1", "--source", "dir", "--manifests"];
    let good = [&dir[..], &[&manifests]].concat();
    let unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let cases: [Case<'_>; 6] = [
        (
            "no node name",
            &[],
            vec!["--source", "kubernetes"],
            &["no node name", "--node-name", "NODE_NAME"],
        ),
        (
            "no manifests",
            &[],
            [&dir[..], &["/nowhere/at/all"]].concat(),
            &["/nowhere/at/all", "manifests"],
        ),
        (
            "no privileges",
            &unprivileged,
            good.clone(),
            &["CAP_BPF is missing", "run the agent as root"],
        ),
        (
            "no CAP_NET_ADMIN",
            &["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"],
            good.clone(),
            &["CAP_NET_ADMIN is missing", "run the agent as root"],
        ),
        (
            "ports the wrong way round",
            &[],
            [&good[..], &["--snat-ports", "65000-61000"]].concat(),
            &["--snat-ports", "65000-61000", "FIRST-LAST"],
        ),
        (
            "a kubeconfig that is not there",
            &[],
            vec!["--node-name", "node1", "--kubeconfig", "/nowhere/kubeconfig"],
            &["/nowhere/kubeconfig"],
        ),
    ];
    for (what, wrapper, arguments, words) in cases {
        let said = refusal(&lab, wrapper, &arguments);
        let sentence = said.lines().next().unwrap_or_default();
        assert!(
            words.iter().all(|word| sentence.contains(word)),
            "{what}: {words:?} should be in: {said}"
        );
        // Help on the command line's syntax may follow; nothing else.
        let rest = said.lines().skip(1).filter(|line| !line.trim().is_empty());
        assert!(
            rest.clone()
                .all(|line| line.contains("--help") || line.contains("Usage")),
            "{what}: {said}"
        );
    }
    assert_eq!(devices(), before);
}

#[test]
fn two_agents_of_one_name_do_not_get_in_each_others_way_as_root() {
    if !possible("two_agents_of_one_name_do_not_get_in_each_others_way_as_root") {
        return;
    }
    let cluster = Cluster::with(Topology::cluster(1, 1), &[]);
    let manifests = cluster.lab.folder().join("manifests");
    let (said, done) = cluster.agent(
        0,
        &[
            "run",
            "--node-name",
            "node1",
            "--source",
            "dir",
            "--manifests",
            &manifests.to_string_lossy(),
        ],
    );
    assert!(
        !done && said.contains("is running") && said.lines().count() == 1,
        "{said}"
    );
    let status = cluster.status(0);
    assert_eq!(status["alive"], true, "{status:#}");
}
