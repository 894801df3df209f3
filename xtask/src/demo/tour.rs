//! What a person can do with a cluster that was left up.

use std::fmt::Write as _;

use anyhow::Result;

use super::cluster::Cluster;

/// The text that `--keep` ends with.
pub(super) fn text(cluster: &Cluster) -> Result<String> {
    let lab = &cluster.lab;
    let mut out = String::from("\nThe cluster stays up. Look around:\n");
    let mut add = |what: &str, command: String| {
        let _ = writeln!(out, "\n  # {what}\n  {command}");
    };
    let client = lab.how_to_enter("client")?;
    let pod = lab.how_to_enter("pod3-1")?;
    add(
        "the shop from outside, by the load balancer's address",
        format!("{client} curl -s http://192.0.2.30/"),
    );
    add(
        "the cart from a pod of node3",
        format!("{pod} curl -s http://172.30.0.10/"),
    );
    add(
        "the same over IPv6",
        format!("{pod} curl -s 'http://[fd00:172:30::10]/'"),
    );
    add("a shell on node1", lab.how_to_enter("node1")?);
    if let Some(agent) = cluster.agents.first() {
        let map = |name: &str| format!("bpftool map dump pinned {}", agent.map(name).display());
        add(
            "what the agent of node1 serves",
            crate::child::line(&agent.status_command()),
        );
        add("its frontends", map("frontends4"));
        add("its backends", map("backends4"));
        add("its flows", map("flows4"));
        add("its log", format!("less {}", agent.child().log().display()));
    }
    add(
        "the manifests that the agents follow: edit one and ask again",
        format!("ls {}/", cluster.manifests().display()),
    );
    add("remove it all", "cargo xtask demo --down".into());
    Ok(out)
}
