//! A lab with two nodes and their agents: a client's pod, a backend here and one on the other node, a Service for each.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_lab::{Child, Family, Lab, NodeSpec, Place, Topology, wait_for};
use serde_json::{Value, json};

use super::{Backend, socket};

/// At the start of every name that these labs give on this machine.
pub(super) const TAG: &str = "lbbench";
const CLIENT: &str = "pod1-1";
/// The client's node.
const NODE: &str = "node1";
/// The port of the Services.
const PORT: u16 = 80;
/// The port of the backends.
const TARGET: u16 = 8080;
/// How long agents may take to serve everything.
const LIMIT: Duration = Duration::from_secs(60);

/// What runs on the nodes of a lab.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Agents {
    /// No agent.
    None,
    /// Agents with programs at the sockets of nodes and pods.
    Hooks,
    /// Agents without.
    Tc,
}

impl Agents {
    pub(super) const ALL: [Self; 3] = [Self::None, Self::Hooks, Self::Tc];

    fn connect_hooks(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Hooks => Some("all"),
            Self::Tc => Some("off"),
        }
    }

    /// Where the client's connections to Services are counted.
    pub(super) fn hook(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Hooks => Some("connect"),
            Self::Tc => Some("pod-in"),
        }
    }
}

impl fmt::Display for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "without agents",
            Self::Hooks => "with agents and programs at sockets",
            Self::Tc => "with agents and TC alone",
        })
    }
}

impl Backend {
    fn pod(self) -> &'static str {
        match self {
            Self::Here => "pod1-2",
            Self::Elsewhere => "pod2-1",
        }
    }

    fn service(self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Elsewhere => "elsewhere",
        }
    }

    /// Distinguishes the Services' addresses.
    fn number(self) -> u16 {
        match self {
            Self::Here => 10,
            Self::Elsewhere => 11,
        }
    }
}

/// A running lab. Dropping it ends agents, programs and namespaces.
pub(super) struct Site {
    lab: Lab,
    agents: Agents,
    program: String,
    children: Vec<Arc<Child>>,
}

/// Where the client connects to, and the other end.
pub(super) struct Target {
    pub(super) backend: SocketAddr,
    pub(super) service: SocketAddr,
    pub(super) listener: TcpListener,
}

/// All of them.
pub(super) struct Targets(Vec<(Family, Backend, Target)>);

impl Targets {
    pub(super) fn of(&self, family: Family, backend: Backend) -> &Target {
        let mut all = self.0.iter();
        let found = all.find(|(f, b, _)| (*f, *b) == (family, backend));
        &found.expect("there is one for each").2
    }
}

impl Site {
    /// Builds the lab and waits until its agents serve.
    pub(super) fn start(agents: Agents, program: &Path) -> Result<Self> {
        // No packet filter: it would cost every connection the same, and make the differences look smaller.
        let topology = Topology {
            tag: TAG.into(),
            ..Topology::cluster(2, 2)
        };
        let mut site = Self {
            lab: Lab::build(&topology)?,
            agents,
            program: program.to_string_lossy().into_owned(),
            children: Vec::new(),
        };
        let Some(hooks) = agents.connect_hooks() else {
            return Ok(site);
        };
        let manifests = site.lab.folder().join("manifests");
        fs::create_dir_all(&manifests)?;
        fs::write(manifests.join("cluster.json"), objects(&topology)?.to_string())?;
        for node in &topology.nodes {
            let mut argv: Vec<String> = vec![site.program.clone()];
            argv.extend(["run", "--source", "dir", "--manifests"].map(String::from));
            argv.push(manifests.to_string_lossy().into_owned());
            for range in topology.plan.services.both() {
                argv.extend(["--service-cidr".into(), range.to_string()]);
            }
            argv.extend(["--node-name".into(), node.name.clone()]);
            argv.extend(["--hook", "tc", "--connect-hooks", hooks].map(String::from));
            argv.extend([
                "--cgroup".into(),
                site.lab.cgroup(&node.name)?.to_string_lossy().into_owned(),
            ]);
            argv.extend(site.instance(&node.name));
            site.children.push(site.lab.spawn(&node.name, &argv, &[])?);
        }
        for (node, child) in topology.nodes.iter().zip(&site.children) {
            site.settle(node, child)?;
        }
        Ok(site)
    }

    pub(super) fn agents(&self) -> Agents {
        self.agents
    }

    /// Where the client is.
    pub(super) fn client(&self) -> Result<&Place> {
        self.lab.at(CLIENT)
    }

    /// Listens in the backends.
    pub(super) fn targets(&self) -> Result<Targets> {
        let mut all = Vec::new();
        for family in Family::BOTH {
            for which in Backend::ALL {
                let place = self.lab.at(which.pod())?;
                let backend = place.socket(family, TARGET);
                let listener = place.netns().run(|| Ok(TcpListener::bind(backend)?))?;
                listener.set_nonblocking(true)?;
                let cluster = self.lab.topology().plan.services.nth(which.number());
                let target = Target {
                    backend,
                    service: socket(cluster, family, PORT),
                    listener,
                };
                all.push((family, which, target));
            }
        }
        Ok(Targets(all))
    }

    /// New connections that the programs of the client's node have given a backend, by hook.
    pub(super) fn counted(&self) -> Result<BTreeMap<String, u64>> {
        let mut counted = BTreeMap::new();
        if self.agents == Agents::None {
            return Ok(counted);
        }
        let text = self.ask(NODE, &["counters", "-o", "json"])?;
        let counters: Value = serde_json::from_str(&text)?;
        let rows = counters["outcomes"].as_array().context("no counters")?;
        for row in rows.iter().filter(|row| row["outcome"] == "forwarded-new") {
            let hook = row["hook"].as_str().context("a counter without a hook")?;
            *counted.entry(hook.to_owned()).or_default() += row["packets"].as_u64().unwrap_or_default();
        }
        Ok(counted)
    }

    /// Waits until a node's agent has everything in its maps.
    fn settle(&self, node: &NodeSpec, child: &Child) -> Result<()> {
        let mut status = Value::Null;
        let settled = wait_for(LIMIT, &format!("the agent of {} to serve", node.name), || {
            status = self
                .ask(&node.name, &["status", "-o", "json"])
                .ok()
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default();
            let live = status["services_live"].as_u64().unwrap_or_default() > 0
                && status["devices"].as_object().is_some_and(|all| !all.is_empty())
                && status["generation"] == status["generation_live"];
            live || !child.is_running()
        });
        settled.with_context(|| format!("{status:#}\n{}", child.tail(8)))?;
        ensure!(
            child.is_running(),
            "the agent has ended; its log ends:\n{}",
            child.tail(8)
        );
        Ok(())
    }

    /// What `lb-agent` says about a node's instance.
    fn ask(&self, node: &str, command: &[&str]) -> Result<String> {
        let instance = self.instance(node);
        let mut argv = vec![self.program.as_str()];
        argv.extend(command);
        argv.extend(instance.iter().map(String::as_str));
        self.lab.at(node)?.output(&argv)
    }

    /// The arguments that name a node's instance.
    fn instance(&self, node: &str) -> [String; 4] {
        let run = self.lab.folder().join(format!("{node}-run"));
        [
            "--instance".into(),
            format!("{}{node}", self.lab.prefix()),
            "--run-dir".into(),
            run.to_string_lossy().into_owned(),
        ]
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.children.iter().for_each(|child| child.kill());
        if self.agents == Agents::None {
            return;
        }
        for node in &self.lab.topology().nodes {
            if let Err(error) = self.ask(&node.name, &["detach"]) {
                eprintln!("lb-bench: {error:#}");
            }
        }
    }
}

/// Nodes, Services and endpoints.
fn objects(topology: &Topology) -> Result<Value> {
    let mut items: Vec<Value> = topology.nodes.iter().map(node).collect();
    for which in Backend::ALL {
        let mut pods = topology.pods();
        let (node, pod) = pods
            .find(|(_, pod)| pod.name == which.pod())
            .context("no such pod")?;
        let ips = topology
            .plan
            .services
            .nth(which.number())
            .both()
            .map(|ip| ip.to_string());
        items.push(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": which.service(), "namespace": "bench"},
            "spec": {
                "type": "ClusterIP", "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": ["IPv4", "IPv6"],
                "ports": [{"protocol": "TCP", "port": PORT, "targetPort": TARGET}],
            },
        }));
        for (family, ip) in ["IPv4", "IPv6"].iter().zip(pod.addr.both()) {
            items.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{}-{}", which.service(), family.to_lowercase()), "namespace": "bench",
                    "labels": {"kubernetes.io/service-name": which.service()},
                },
                "addressType": family,
                "ports": [{"protocol": "TCP", "port": TARGET}],
                "endpoints": [{
                    "addresses": [ip.to_string()], "nodeName": node.name, "conditions": {"ready": true},
                }],
            }));
        }
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

fn node(node: &NodeSpec) -> Value {
    let ranges = node.pod_cidr.both().map(|range| range.to_string());
    let addresses = node
        .addr
        .both()
        .map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}));
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node.name},
        "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
        "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}
