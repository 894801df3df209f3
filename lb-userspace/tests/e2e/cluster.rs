//! A lab with one agent per node and a folder of manifests that they all watch.

mod agents;

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

use lb_lab::{Child, Family, Lab, Netfilter, PodNetwork, Proto, Shares, Topology, wait_for};

use crate::service::{self, Service, TARGET};

pub(crate) use agents::agent_path;

/// Source ports between two changes.
const PORTS: u16 = 2800;
/// How long a change may take until all agents have it in their maps. (To start, an agent has the kernel verify its
/// programs: a second of work, on a machine that may be busy.)
pub(crate) const SETTLED: Duration = Duration::from_secs(60);

/// A running cluster. Dropping it ends agents, programs and namespaces.
pub(crate) struct Cluster {
    /// The lab it runs in.
    pub(crate) lab: Lab,
    manifests: PathBuf,
    agents: Vec<Agent>,
    binary: PathBuf,
    source: Vec<String>,
    extra: Vec<String>,
    changes: AtomicU16,
}

struct Agent {
    node: String,
    child: Option<Arc<Child>>,
}

/// The hook of the uplinks in all tests that do not choose one: all of them can be run by XDP.
const HOOK_VARIABLE: &str = "LB_E2E_HOOK";

/// The hook that tests run by, unless they choose one themselves.
pub(crate) fn hook() -> String {
    std::env::var(HOOK_VARIABLE).unwrap_or_else(|_| "tc".into())
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
        let topology = if hook() == "tc" { topology } else { topology.xdp() };
        let lab = Lab::build(&topology).expect("the lab can be built");
        lab.serve_in_pods(TARGET).expect("pods serve");
        lab
    }

    /// A lab of this topology, with agents that translate at this hook of the uplinks and get these arguments more.
    pub(crate) fn by(hook: &str, topology: Topology, arguments: &[&str]) -> Self {
        let topology = if hook == "tc" { topology } else { topology.xdp() };
        Self::with(topology, &[&["--hook", hook], arguments].concat())
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
            binary: agent_path().to_owned(),
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
        self.wait_for_routes(service);
    }

    /// Waits until every running agent has routed a Service's outer addresses into `lb0` (or, if they are none of its
    /// business, no longer does), beside the maps: only this node's own processes depend on it.
    fn wait_for_routes(&self, service: &Service) {
        for agent in self.agents.iter().filter(|agent| agent.child.is_some()) {
            let place = self.lab.at(&agent.node).expect("it is there");
            for ip in service.ingress() {
                let wanted = !service.passes_through();
                let what = format!("{ip} is routed into lb0 on {}: {wanted}", agent.node);
                let routed = wait_for(SETTLED, &what, || {
                    let route = place.output(&["ip", "route", "get", &ip.to_string()]);
                    route.is_ok_and(|route| route.contains("dev lb0") == wanted)
                });
                assert!(routed.is_ok(), "{what}: never\n{}", self.diagnosis());
            }
        }
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

    /// The folder of manifests.
    pub(crate) fn manifests(&self) -> &Path {
        &self.manifests
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

    /// From now on the kernel gives connections source ports that it has given to none of this lab's before.
    /// A datagram from a port that was used a moment ago belongs to the flow of that moment, rightly.
    pub(crate) fn fresh_ports(&self) {
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

    /// Connects until the answers are as wanted, then gives the last ones.
    pub(crate) fn eventually(
        &self,
        from: &str,
        proto: Proto,
        to: SocketAddr,
        n: u32,
        wanted: impl Fn(&Shares) -> bool,
    ) -> Shares {
        self.eventually_within(Duration::from_secs(30), from, proto, to, n, wanted)
    }

    /// The same, with another limit.
    pub(crate) fn eventually_within(
        &self,
        limit: Duration,
        from: &str,
        proto: Proto,
        to: SocketAddr,
        n: u32,
        wanted: impl Fn(&Shares) -> bool,
    ) -> Shares {
        let mut last = None;
        let place = self.lab.at(from).expect("the place is there");
        let result = wait_for(limit, "answers as wanted", || {
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

/// `ip` and `port` of a family out of two addresses.
pub(crate) fn socket(addresses: lb_lab::Dual, family: Family, port: u16) -> SocketAddr {
    let ip: IpAddr = addresses.of(family);
    SocketAddr::new(ip, port)
}
