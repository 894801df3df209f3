//! One agent of the demo: how it is started, asked and stopped.
//!
//! It is the real program with its real command line; nothing here knows its code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lb_lab::{Child, Lab, NodeSpec, wait_for};
use serde::Deserialize;
use serde_json::Value;

use super::{Hook, cluster::output};

/// Where Services have their ClusterIPs.
pub(super) const SERVICE_CIDRS: [&str; 2] = ["172.30.0.0/16", "fd00:172:30::/112"];
const BPFFS: &str = "/sys/fs/bpf";
const GRACE: Duration = Duration::from_secs(10);

/// It runs until the lab ends.
pub(super) struct Agent {
    node: String,
    instance: String,
    program: PathBuf,
    run_dir: PathBuf,
    child: Arc<Child>,
}

impl Agent {
    /// Starts it on a node.
    pub(super) fn start(
        lab: &Lab,
        program: &Path,
        node: &NodeSpec,
        manifests: &Path,
        hook: Hook,
    ) -> Result<Self> {
        let node = node.name.clone();
        let instance = format!("{}{node}", lab.prefix());
        let run_dir = lab.folder().join("run");
        let words = [
            &*program.to_string_lossy(),
            "run",
            "--source",
            "dir",
            "--manifests",
            &manifests.to_string_lossy(),
            "--node-name",
            &node,
            "--bpffs",
            BPFFS,
            "--instance",
            &instance,
            "--run-dir",
            &run_dir.to_string_lossy(),
            "--service-cidr",
            SERVICE_CIDRS[0],
            "--service-cidr",
            SERVICE_CIDRS[1],
            "--hook",
            hook.flag(),
        ]
        .map(str::to_owned);
        let mut words = words.to_vec();
        // What other nodes and this machine do at their sockets is none of its business.
        match lab.cgroup(&node) {
            Ok(cgroup) => words.extend(["--cgroup".to_owned(), cgroup.to_string_lossy().into_owned()]),
            Err(_) => words.extend(["--connect-hooks", "off"].map(str::to_owned)),
        }
        let child = lab.spawn(&node, &words, &[])?;
        Ok(Self {
            node,
            instance,
            program: program.to_owned(),
            run_dir,
            child,
        })
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    pub(super) fn child(&self) -> &Arc<Child> {
        &self.child
    }

    /// Where it pins its maps and links.
    pub(super) fn pins(&self) -> PathBuf {
        Path::new(BPFFS).join(&self.instance)
    }
}

/// What is read of `lb-agent status -o json`.
#[derive(Debug, Deserialize)]
struct Status {
    source: Source,
    generation: u64,
    generation_live: u64,
    devices: BTreeMap<String, Value>,
    #[serde(default)]
    xdp: BTreeMap<String, Xdp>,
    problems: Vec<Value>,
    failures: Vec<Value>,
    failed_writes: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Xdp {
    mode: String,
}

#[derive(Debug, Deserialize)]
struct Counters {
    outcomes: Vec<Counter>,
}

/// Packets that had one outcome at one hook.
#[derive(Debug, Deserialize)]
pub(super) struct Counter {
    pub(super) hook: String,
    pub(super) outcome: String,
    pub(super) packets: u64,
}

#[derive(Debug, Deserialize)]
struct Source {
    synced: bool,
}

impl Agent {
    /// Where a map is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        // The folder of the map layout's version is the only one besides `links` and `filters`.
        let version = std::fs::read_dir(self.pins()).into_iter().flatten().flatten();
        let version = version
            .map(|entry| entry.path())
            .find(|path| path.join(name).exists());
        version.unwrap_or_else(|| self.pins().join("v1")).join(name)
    }

    /// The command that shows its status.
    pub(super) fn status_command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("status").args(self.place());
        command
    }

    /// The flags that tell this agent from others.
    fn place(&self) -> [String; 6] {
        let run_dir = self.run_dir.to_string_lossy().into_owned();
        [
            "--bpffs".into(),
            BPFFS.into(),
            "--instance".into(),
            self.instance.clone(),
            "--run-dir".into(),
            run_dir,
        ]
    }

    fn status(&self) -> Result<Status> {
        let mut command = self.status_command();
        command.args(["--output", "json"]);
        let text = output(&mut command)?;
        serde_json::from_str(&text).with_context(|| format!("the agent of {} says {text}", self.node))
    }

    /// The newest generation that is completely live; none while it starts, or while it writes.
    pub(super) fn live(&self) -> Option<u64> {
        let status = self.status().ok()?;
        let complete = status.source.synced && !status.devices.is_empty();
        (complete && status.generation == status.generation_live).then_some(status.generation_live)
    }

    /// What it cannot serve or could not write, by its own account.
    pub(super) fn complaints(&self) -> Result<Vec<String>> {
        let Status {
            problems,
            failures,
            failed_writes,
            ..
        } = self.status()?;
        let all = problems.iter().chain(&failures).chain(&failed_writes);
        Ok(all.map(Value::to_string).collect())
    }

    /// Where the XDP program runs on the node's uplink, by the agent's account; `none`: it does not.
    pub(super) fn xdp_mode(&self) -> Result<String> {
        let status = self.status()?;
        let mode = status.xdp.into_values().next().map(|xdp| xdp.mode);
        Ok(mode.unwrap_or_else(|| "none".to_owned()))
    }

    /// What became of the packets of its node.
    pub(super) fn counters(&self) -> Result<Vec<Counter>> {
        let counters: Counters = serde_json::from_value(self.counters_document()?)
            .with_context(|| format!("the counters of {} cannot be understood", self.node))?;
        Ok(counters.outcomes)
    }

    /// What `lb-agent counters -o json` says.
    pub(super) fn counters_document(&self) -> Result<Value> {
        let mut command = Command::new(&self.program);
        command
            .arg("counters")
            .args(self.place())
            .args(["--output", "json"]);
        serde_json::from_str(&output(&mut command)?)
            .with_context(|| format!("the counters of {} are no JSON", self.node))
    }

    /// What it explains of a folder of manifests.
    pub(super) fn explain(&self, manifests: &Path, question: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .arg("explain")
            .arg("--manifests")
            .arg(manifests)
            .args(question);
        for range in SERVICE_CIDRS {
            command.args(["--service-cidr", range]);
        }
        output(&mut command)
    }

    /// Waits until this generation or a newer one is live.
    pub(super) fn wait_until_live(&self, generation: u64, limit: Duration) -> Result<()> {
        let what = format!("the agent of {} to serve the manifests", self.node);
        let reached = || self.live().is_some_and(|live| live >= generation);
        wait_for(limit, &what, || reached() || !self.child.is_running())?;
        if !reached() {
            bail!(
                "the agent of {} ended; it printed:\n{}",
                self.node,
                self.child.tail(20)
            );
        }
        Ok(())
    }

    /// Asks it to end.
    pub(super) fn stop(&self) -> Result<()> {
        self.child
            .stop(GRACE)
            .with_context(|| format!("the agent of {} does not end", self.node))
    }

    /// Removes what it leaves in the kernel on purpose.
    pub(super) fn detach(&self, lab: &Lab) -> Result<()> {
        let program = self.program.to_string_lossy();
        let place = self.place();
        let words = ["detach"].into_iter().chain(place.iter().map(String::as_str));
        let argv: Vec<_> = std::iter::once(&*program).chain(words).collect();
        lab.at(&self.node)?.output(&argv)?;
        Ok(())
    }
}
