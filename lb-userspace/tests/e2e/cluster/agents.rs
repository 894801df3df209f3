//! The agents of a cluster: started and ended, asked for their status, their maps found.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use lb_common::abi::names;
use lb_lab::wait_for;
use lb_userspace::{config::Instance, load::PinDirectory};

use super::{Cluster, SETTLED};

/// Where instances are pinned.
const BPFFS: &str = "/sys/fs/bpf";

/// The binary under test.
pub(crate) fn agent_path() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lb-agent"))
}

impl Cluster {
    /// Waits until the status of a node is as wanted; gives it.
    pub(crate) fn eventually_status(
        &self,
        node: usize,
        what: &str,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let mut last = serde_json::Value::Null;
        let result = wait_for(SETTLED, what, || {
            last = self.status(node);
            wanted(&last)
        });
        assert!(result.is_ok(), "{what}: {last:#}\n{}", self.log(node));
        last
    }

    /// What `lb-agent status -o json` says on a node.
    pub(crate) fn status(&self, node: usize) -> serde_json::Value {
        let output = self.agent(node, &["status", "-o", "json"]);
        serde_json::from_str(&output.0).unwrap_or_default()
    }

    /// Runs `lb-agent` on a node with the arguments that name its instance: what it prints, and whether it succeeds.
    pub(crate) fn agent(&self, node: usize, arguments: &[&str]) -> (String, bool) {
        let mut argv: Vec<_> = vec![agent_path().to_string_lossy().into_owned()];
        argv.extend(arguments.iter().map(ToString::to_string));
        argv.extend(self.instance(node));
        let place = self.lab.at(&self.agents[node].node).expect("the node is there");
        let net = place.netns().path();
        let output = std::process::Command::new("nsenter")
            .arg(format!("--net={}", net.display()))
            .args(&argv)
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("nsenter is there");
        let text = if output.status.success() {
            output.stdout
        } else {
            output.stderr
        };
        (
            String::from_utf8_lossy(&text).into_owned(),
            output.status.success(),
        )
    }

    /// The arguments that name a node's instance.
    pub(crate) fn instance(&self, node: usize) -> [String; 6] {
        let Instance { name, bpffs, run_dir } = self.instance_on(&self.agents[node].node);
        [
            "--bpffs".into(),
            bpffs.to_string_lossy().into_owned(),
            "--instance".into(),
            name,
            "--run-dir".into(),
            run_dir.to_string_lossy().into_owned(),
        ]
    }

    /// The instance of a node by its name.
    pub(crate) fn instance_on(&self, node: &str) -> Instance {
        Instance {
            name: format!("{}{node}", self.lab.prefix()),
            bpffs: BPFFS.into(),
            run_dir: self.lab.folder().join(format!("{node}-run")),
        }
    }

    /// Where a node's maps and links are pinned.
    pub(crate) fn pins(&self, node: usize) -> PathBuf {
        Path::new(BPFFS).join(format!("{}{}", self.lab.prefix(), self.agents[node].node))
    }

    /// Where a map of a node is pinned.
    pub(crate) fn map(&self, node: usize, name: &str) -> PathBuf {
        let instance = format!("{}{}", self.lab.prefix(), self.agents[node].node);
        PinDirectory::new(Path::new(BPFFS), &instance)
            .expect("the lab's names are usable")
            .map(name)
    }

    /// Starts the agent of a node.
    pub(crate) fn start_agent(&mut self, node: usize) {
        let plan = &self.lab.topology().plan;
        let name = &self.agents[node].node;
        let mut argv = vec![
            self.binary.to_string_lossy().into_owned(),
            "run".into(),
            "--node-name".into(),
            name.clone(),
            "--source".into(),
        ];
        argv.extend(self.source.iter().cloned());
        argv.extend(
            plan.services
                .both()
                .iter()
                .flat_map(|cidr| ["--service-cidr".into(), cidr.to_string()]),
        );
        argv.extend(self.instance(node));
        argv.extend(self.extra.iter().cloned());
        if !self.extra.iter().any(|word| word == "--hook") {
            argv.extend(["--hook".into(), super::hook()]);
        }
        let cgroup = self.lab.cgroup(name);
        // TC is right by itself, and most tests are about it.
        if !self.extra.iter().any(|word| word == "--connect-hooks") {
            argv.extend(["--connect-hooks".into(), "off".into()]);
        } else if let Err(error) = &cgroup {
            panic!("programs at sockets would see all of this machine: {error:#}");
        }
        if let Ok(cgroup) = cgroup {
            argv.extend(["--cgroup".into(), cgroup.to_string_lossy().into_owned()]);
        }
        let child = self
            .lab
            .spawn(name, &argv, &[("RUST_BACKTRACE", "0")])
            .expect("the agent starts");
        self.agents[node].child = Some(child);
    }

    /// From now on, agents are started with another source: what follows `--source`.
    pub(crate) fn set_source(&mut self, source: &[&str]) {
        self.source = source.iter().map(ToString::to_string).collect();
    }

    /// From now on, agents are of another build.
    pub(crate) fn set_binary(&mut self, binary: &Path) {
        self.binary = binary.to_owned();
    }

    /// From now on, agents are started with another hook of the uplinks.
    pub(crate) fn set_hook(&mut self, hook: &str) {
        self.set_argument("--hook", hook);
    }

    /// From now on, agents are started with other programs at sockets.
    pub(crate) fn set_connect_hooks(&mut self, whose: &str) {
        self.set_argument("--connect-hooks", whose);
    }

    /// From now on, agents are started with this argument, or with another value of it.
    pub(crate) fn set_argument(&mut self, name: &str, value: &str) {
        let at = self.extra.iter().position(|word| word == name);
        match at.and_then(|at| self.extra.get_mut(at + 1)) {
            Some(old) => *old = value.into(),
            None => self.extra.extend([name.into(), value.into()]),
        }
    }

    /// Packets that a node's programs counted at a hook under outcomes that begin like this.
    pub(crate) fn counted(&self, node: usize, hook: &str, outcome: &str) -> u64 {
        let (text, _) = self.agent(node, &["counters", "-o", "json"]);
        let counters: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let rows = counters["outcomes"].as_array().into_iter().flatten();
        rows.filter(|row| {
            row["hook"] == hook && row["outcome"].as_str().is_some_and(|o| o.starts_with(outcome))
        })
        .filter_map(|row| row["packets"].as_u64())
        .sum()
    }

    /// Waits until the agent of a node that was just started serves.
    pub(crate) fn wait_for_agent(&self, node: usize) {
        let pid = self.agents[node].child.as_ref().map(|child| child.pid());
        self.settle(node, |status| status["pid"].as_u64() == pid.map(u64::from));
    }

    /// Whether the agent of a node that was just started serves what it was told so far; more may be on its way.
    pub(crate) fn is_up(&self, node: usize) -> bool {
        let pid = self.agents[node]
            .child
            .as_ref()
            .map(|child| u64::from(child.pid()));
        let status = self.status(node);
        let devices = status["devices"].as_object();
        status["pid"].as_u64() == pid
            && status["source"]["synced"] == true
            && devices.is_some_and(|devices| !devices.is_empty())
            && status["generation_live"].as_u64().is_some_and(|live| live > 0)
    }

    /// Waits until the agent of a node ends by itself; gives its last words if it did so in time.
    pub(crate) fn ends(&mut self, node: usize, limit: Duration) -> Option<String> {
        let child = self.agents[node].child.as_ref().expect("it runs");
        child.wait(limit).ok()?;
        let words = child.tail(3);
        self.agents[node].child = None;
        Some(words)
    }

    /// Ends the agent of a node by a signal; its programs stay.
    pub(crate) fn end_agent(&mut self, node: usize, signal: lb_lab::Signal) {
        let child = self.agents[node].child.take().expect("it runs");
        child.signal(signal);
        child.wait(Duration::from_secs(5)).expect("it ends");
    }

    /// The end of an agent's log.
    pub(crate) fn log(&self, node: usize) -> String {
        self.agents[node]
            .child
            .as_ref()
            .map(|child| child.tail(40))
            .unwrap_or_default()
    }

    /// What every agent says, counts and logs, for a failed test.
    pub(crate) fn diagnosis(&self) -> String {
        (0..self.agents.len())
            .map(|node| {
                let status = self.agent(node, &["status"]).0;
                let counters = crate::dump::counters(&self.map(node, names::COUNTERS)).join("\n  ");
                format!(
                    "--- {}\n{status}counters:\n  {counters}\nlog:\n{}\n",
                    self.agents[node].node,
                    self.log(node)
                )
            })
            .collect()
    }
}
