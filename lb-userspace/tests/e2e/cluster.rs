//! A lab with one agent per node and a folder of manifests that they all watch.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use lb_common::abi::names;
use lb_lab::{Child, Family, Lab, Netfilter, PodNetwork, Proto, Shares, Topology, wait_for};

use lb_userspace::load::PinDirectory;

use crate::service::{self, Service, TARGET};

/// Where instances are pinned.
const BPFFS: &str = "/sys/fs/bpf";
/// Source ports between two changes.
const PORTS: u16 = 2800;
/// How long a change may take until all agents have it in their maps.
const SETTLED: Duration = Duration::from_secs(15);

/// A running cluster. Dropping it ends agents, programs and namespaces.
pub(crate) struct Cluster {
    /// The lab it runs in.
    pub(crate) lab: Lab,
    manifests: PathBuf,
    agents: Vec<Agent>,
    source: Vec<String>,
    extra: Vec<String>,
    changes: AtomicU16,
}

struct Agent {
    node: String,
    child: Option<Arc<Child>>,
}

/// Whether a test can run here; says why not.
pub(crate) fn possible(test: &str) -> bool {
    if lb_userspace::load::embedded().is_err() {
        lb_lab::skip(&format!(
            "{test}: built without the eBPF object (cargo xtask test builds it)"
        ));
        return false;
    }
    lb_lab::require_root(test)
}

impl Cluster {
    /// Three nodes with two pods each and a client outside, all pods serving, agents running.
    pub(crate) fn start(network: PodNetwork, netfilter: Netfilter) -> Self {
        Self::with(Topology::cluster(3, 2).network(network).netfilter(netfilter), &[])
    }

    /// A lab of this topology, with agents that get these arguments more.
    pub(crate) fn with(topology: Topology, arguments: &[&str]) -> Self {
        let lab = Self::lab(topology);
        let manifests = lab.folder().join("manifests");
        fs::create_dir_all(&manifests).expect("the lab's folder can be written");
        fs::write(manifests.join("nodes.yaml"), service::nodes(&lab))
            .expect("the lab's folder can be written");
        let source = ["dir", "--manifests", &manifests.to_string_lossy()].map(str::to_owned);
        Self::run(lab, &source, arguments)
    }

    /// A lab of this topology in which all pods serve, and no agent runs.
    pub(crate) fn lab(topology: Topology) -> Lab {
        let topology = Topology {
            tag: "lbe".into(),
            ..topology
        };
        let lab = Lab::build(&topology).expect("the lab can be built");
        lab.serve_in_pods(TARGET).expect("pods serve");
        lab
    }

    /// Starts agents in a lab that take their objects from `source`: what follows `--source`.
    pub(crate) fn run(lab: Lab, source: &[String], arguments: &[&str]) -> Self {
        let mut cluster = Self {
            agents: lab
                .topology()
                .nodes
                .iter()
                .map(|n| Agent {
                    node: n.name.clone(),
                    child: None,
                })
                .collect(),
            source: source.to_vec(),
            extra: arguments.iter().map(ToString::to_string).collect(),
            manifests: lab.folder().join("manifests"),
            changes: AtomicU16::new(0),
            lab,
        };
        for node in 0..cluster.agents.len() {
            cluster.start_agent(node);
        }
        for node in cluster.running().collect::<Vec<_>>() {
            cluster.settle(node, |_| true);
        }
        cluster
    }

    /// Writes a Service's manifests and waits until all agents have taken them in.
    pub(crate) fn apply(&self, service: &Service) {
        let path = self.manifest(service);
        let text = service.manifests();
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return;
        }
        self.change(|| self.write(service));
    }

    /// Writes a Service's manifests and waits for nothing.
    pub(crate) fn write(&self, service: &Service) {
        self.write_file(&format!("{}.yaml", service.name()), &service.manifests());
    }

    /// Writes any file among the manifests.
    pub(crate) fn write_file(&self, name: &str, text: &str) {
        // A rename, as any careful writer does it: no reader sees half a file.
        let path = self.manifests.join(name);
        let new = path.with_extension("new");
        fs::write(&new, text).expect("the lab's folder can be written");
        fs::rename(&new, &path).expect("the lab's folder can be written");
    }

    /// Removes a Service's manifests.
    pub(crate) fn delete(&self, service: &Service) {
        self.change(|| fs::remove_file(self.manifest(service)).expect("it was applied"));
    }

    /// Does something to the manifests and waits until every agent has a later generation in its maps.
    fn change(&self, what: impl FnOnce()) {
        let generation = |node| self.status(node)["generation"].as_u64().unwrap_or_default();
        let before: Vec<_> = self.running().map(|node| (node, generation(node))).collect();
        what();
        for (node, before) in before {
            self.settle(node, |status| {
                status["generation"].as_u64().is_some_and(|now| now > before)
            });
        }
        self.fresh_ports();
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.agents.len()).filter(|node| self.agents[*node].child.is_some())
    }

    fn manifest(&self, service: &Service) -> PathBuf {
        self.manifests.join(format!("{}.yaml", service.name()))
    }

    /// Waits until a node's agent has everything it knows in its maps, and `also`.
    fn settle(&self, node: usize, also: impl Fn(&serde_json::Value) -> bool) {
        let what = format!(
            "the agent of {} serves what the manifests say",
            self.agents[node].node
        );
        let settled = wait_for(SETTLED, &what, || {
            let status = self.status(node);
            status["source"]["synced"] == true
                && status["devices"]
                    .as_object()
                    .is_some_and(|devices| !devices.is_empty())
                && status["generation"] == status["generation_live"]
                && also(&status)
        });
        if let Err(error) = settled {
            panic!(
                "{error}\nstatus: {:#}\nlog: {}",
                self.status(node),
                self.log(node)
            );
        }
    }

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
        let name = &self.agents[node].node;
        let run = self.lab.folder().join(format!("{name}-run"));
        [
            "--bpffs".into(),
            BPFFS.into(),
            "--instance".into(),
            format!("{}{name}", self.lab.prefix()),
            "--run-dir".into(),
            run.to_string_lossy().into_owned(),
        ]
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

    /// From now on the kernel gives connections source ports that it has given to none of this lab's before.
    /// A datagram from a port that was used a moment ago belongs to the flow of that moment, rightly.
    fn fresh_ports(&self) {
        let number = self.changes.fetch_add(1, Ordering::Relaxed) % (28_000 / PORTS);
        let first = 32_000 + number * PORTS;
        for place in self.lab.places() {
            let range = format!("{first} {}", first + PORTS - 1);
            place
                .netns()
                .run(|| Ok(fs::write("/proc/sys/net/ipv4/ip_local_port_range", range)?))
                .expect("the range of source ports can be set");
        }
    }

    /// Starts the agent of a node.
    pub(crate) fn start_agent(&mut self, node: usize) {
        let plan = &self.lab.topology().plan;
        let name = &self.agents[node].node;
        let mut argv = vec![
            agent_path().to_string_lossy().into_owned(),
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
        let child = self
            .lab
            .spawn(name, &argv, &[("RUST_BACKTRACE", "0")])
            .expect("the agent starts");
        self.agents[node].child = Some(child);
    }

    /// Waits until the agent of a node that was just started serves.
    pub(crate) fn wait_for_agent(&self, node: usize) {
        let pid = self.agents[node].child.as_ref().map(|child| child.pid());
        self.settle(node, |status| status["pid"].as_u64() == pid.map(u64::from));
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

    /// Connects until the answers are as wanted, then gives the last ones.
    pub(crate) fn eventually(
        &self,
        from: &str,
        proto: Proto,
        to: SocketAddr,
        n: u32,
        wanted: impl Fn(&Shares) -> bool,
    ) -> Shares {
        let mut last = None;
        let place = self.lab.at(from).expect("the place is there");
        let result = wait_for(Duration::from_secs(10), "answers as wanted", || {
            let shares = place.probe(proto, to, n).expect("the probe runs");
            let good = wanted(&shares);
            last = Some(shares);
            good
        });
        let last = last.expect("it was tried");
        assert!(
            result.is_ok(),
            "{from} to {proto:?} {to}: {last}\n{}",
            self.diagnosis()
        );
        last
    }

    /// Connects `n` times.
    pub(crate) fn probe(&self, from: &str, proto: Proto, to: SocketAddr, n: u32) -> Shares {
        self.lab
            .at(from)
            .expect("the place is there")
            .probe(proto, to, n)
            .expect("the probe runs")
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

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in 0..self.agents.len() {
            if let Some(child) = self.agents[node].child.take() {
                child.kill();
            }
            self.agent(node, &["detach"]);
        }
    }
}

/// The binary under test.
pub(crate) fn agent_path() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_lb-agent"))
}

/// `ip` and `port` of a family out of two addresses.
pub(crate) fn socket(addresses: lb_lab::Dual, family: Family, port: u16) -> SocketAddr {
    let ip: IpAddr = addresses.of(family);
    SocketAddr::new(ip, port)
}
