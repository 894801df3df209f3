//! The demo's cluster: namespaces, a server process in every pod, an agent on every node, their manifests.
//!
//! *Invariant*: the agents never see half of a change: they follow a symbolic link to a folder of manifests, and
//! a change is a new folder that the link is switched to (as kubelet does with mounted ConfigMaps).

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lb_cases::books::Books;
use lb_lab::{Child, Family, Lab, Options, PodNetwork, Proto, Topology};
use serde::Deserialize as _;
use serde_norway::Value;

use super::TAG;
use super::agent::{self, Agent};
use super::books;
use super::change::Change;

/// What pods listen on, TCP and UDP.
pub(super) const POD_PORT: u16 = 8080;
/// How long a program may take to start.
const START: Duration = Duration::from_secs(20);
/// How long a change may take to be live on all nodes.
const CHANGE: Duration = Duration::from_secs(10);

/// It runs until it is dropped.
pub(super) struct Cluster {
    pub(super) lab: Lab,
    pub(super) agents: Vec<Agent>,
    /// Theirs, in the same order.
    pub(super) books: Vec<Books>,
    /// Has the kernel count runs, from before the agents start.
    #[allow(dead_code)] // held, not read
    counting: OwnedFd,
    servers: Vec<Arc<Child>>,
    documents: Vec<(String, Value)>,
    generation: u32,
}

/// Three nodes with two pods each, and two clients outside: `client` tries everything, `visitor` downloads.
pub(super) fn topology(network: super::PodNetwork, hook: super::Hook) -> Topology {
    let topology = Topology {
        tag: TAG.into(),
        ..Topology::cluster(3, 2)
    };
    let topology = if hook == super::Hook::Tc {
        topology
    } else {
        topology.xdp()
    };
    topology.client("visitor").network(match network {
        super::PodNetwork::Routed => PodNetwork::Routed,
        super::PodNetwork::Tunnel => PodNetwork::Tunnel,
        super::PodNetwork::Bridge => PodNetwork::Bridge,
    })
}

impl Cluster {
    /// Starts everything; returns when every agent serves the manifests.
    pub(super) fn start(
        topology: &Topology,
        program: &Path,
        hook: super::Hook,
        manifests: &Path,
        keep: bool,
    ) -> Result<Self> {
        let lab = Lab::build(topology)?;
        if keep {
            lab.keep();
        }
        let mut cluster = Self {
            lab,
            agents: Vec::new(),
            books: Vec::new(),
            counting: lb_cases::books::count_runs()?,
            servers: Vec::new(),
            documents: read_manifests(manifests)?,
            generation: 0,
        };
        cluster.write_manifests()?;
        for (_, pod) in topology.pods() {
            let addresses = Family::BOTH.map(|family| pod.addr.of(family).to_string());
            let own = std::env::current_exe().context("cannot find this program's own file")?;
            let own = own.to_string_lossy();
            let argv = [
                &*own,
                "demo",
                "--serve",
                &pod.name,
                "--at",
                &addresses[0],
                "--at",
                &addresses[1],
            ];
            cluster.servers.push(cluster.lab.spawn(&pod.name, &argv, &[])?);
        }
        let folder = cluster.manifests();
        for node in &topology.nodes {
            cluster
                .agents
                .push(Agent::start(&cluster.lab, program, node, &folder, hook)?);
        }
        for server in &cluster.servers {
            server.wait_for_output(super::SERVING, START)?;
        }
        for agent in &cluster.agents {
            agent.wait_until_live(0, START)?;
        }
        cluster.books = books::open(&cluster.agents)?;
        Ok(cluster)
    }

    /// What the agents watch.
    pub(super) fn manifests(&self) -> PathBuf {
        self.lab.folder().join("manifests")
    }

    /// Lets something happen; returns when every agent has followed.
    pub(super) fn change(&mut self, change: &Change) -> Result<()> {
        let before = self.agents.iter().map(Agent::live).collect::<Vec<_>>();
        let mut values: Vec<_> = self.documents.iter().map(|(_, value)| value.clone()).collect();
        change.apply(&mut values)?;
        for ((_, document), value) in self.documents.iter_mut().zip(values) {
            *document = value;
        }
        self.write_manifests()?;
        for (agent, before) in self.agents.iter().zip(before) {
            agent.wait_until_live(before.unwrap_or_default() + 1, CHANGE)?;
        }
        Ok(())
    }

    /// Writes all documents to a new folder and switches to it.
    fn write_manifests(&mut self) -> Result<()> {
        self.generation += 1;
        let name = format!("manifests-{}", self.generation);
        let folder = self.lab.folder().join(&name);
        let write = || -> Result<()> {
            fs::create_dir(&folder)?;
            for (file, value) in self.documents.iter() {
                let path = folder.join(file);
                let mut text = fs::read_to_string(&path).unwrap_or_default();
                text.push_str("---\n");
                text.push_str(&serde_norway::to_string(value)?);
                fs::write(&path, text)?;
            }
            let link = self.lab.folder().join("manifests-next");
            symlink(&name, &link)?;
            fs::rename(&link, self.manifests())?;
            Ok(())
        };
        write().with_context(|| format!("cannot write manifests to {}", folder.display()))
    }

    /// Everything of ours that runs.
    pub(super) fn children(&self) -> impl Iterator<Item = &Arc<Child>> {
        self.servers.iter().chain(self.agents.iter().map(Agent::child))
    }
}

/// All documents of all manifests with the name of their file, in the files' order.
fn read_manifests(folder: &Path) -> Result<Vec<(String, Value)>> {
    let read = || -> Result<Vec<(String, Value)>> {
        let mut names: Vec<_> = fs::read_dir(folder)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(".yaml"))
            .collect();
        names.sort();
        let mut documents = Vec::new();
        for name in names {
            let text = fs::read_to_string(folder.join(&name))?;
            for document in serde_norway::Deserializer::from_str(&text) {
                let value = Value::deserialize(document).with_context(|| name.clone())?;
                documents.push((name.clone(), value));
            }
        }
        ensure!(!documents.is_empty(), "no manifests there");
        Ok(documents)
    };
    read().with_context(|| format!("cannot read the manifests in {}", folder.display()))
}

/// Detaches the agent of a node and looks for what should be gone, the answers of a Service included: an empty
/// list is right.
pub(super) fn left_after_detach(
    cluster: &Cluster,
    agent: &Agent,
    service: SocketAddr,
) -> Result<Vec<String>> {
    agent.stop()?;
    agent.detach(&cluster.lab)?;
    let mut left = Vec::new();
    let pins = agent.pins();
    if pins.exists() {
        left.push(format!("pins in {}", pins.display()));
    }
    let node = cluster.lab.at(agent.node())?;
    let links = node.output(&["ip", "-br", "link"])?;
    left.extend(
        links
            .lines()
            .filter(|line| line.starts_with("lb0"))
            .map(|_| "device lb0".to_owned()),
    );
    for (family, range) in [("-4", agent::SERVICE_CIDRS[0]), ("-6", agent::SERVICE_CIDRS[1])] {
        let routes = node.output(&["ip", family, "route", "show", range])?;
        left.extend(routes.lines().map(|route| format!("route {route}")));
    }
    // Whoever still answers shows that a program is still attached.
    let pod = cluster
        .lab
        .node(agent.node())?
        .pods
        .first()
        .context("a node of the demo has pods")?;
    let options = Options::within(Duration::from_millis(300));
    let outcome = cluster
        .lab
        .at(&pod.name)?
        .connect(Proto::Tcp, service, &options)?;
    left.extend(
        outcome
            .answer()
            .map(|answer| format!("{service} answered by {}", answer.name)),
    );
    Ok(left)
}

/// Runs a program and returns what it printed; a failure quotes what it complained about.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            crate::child::line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::expected::{Address, Expected};

    const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/demo");

    /// Whether a Service has this address in some family, as its manifest says.
    fn serves(service: &Value, slices: &[Value], address: &Address, family: Family) -> bool {
        let at = address.of(family);
        let (ip, port) = (at.ip().to_string(), u64::from(at.port()));
        let has = |list: &Value, text: &str| {
            let list = list.as_sequence().into_iter().flatten();
            list.clone().any(|entry| entry == text || entry["ip"] == text)
        };
        let port_is = |field: &str| {
            let ports = service["spec"]["ports"].as_sequence().into_iter().flatten();
            ports.clone().any(|entry| {
                entry[field].as_u64() == Some(port) && entry["protocol"] == address.proto.to_string().as_str()
            })
        };
        match address.kind.as_str() {
            "ClusterIP" => has(&service["spec"]["clusterIPs"], &ip) && port_is("port"),
            "externalIP" => has(&service["spec"]["externalIPs"], &ip) && port_is("port"),
            "LoadBalancer" => has(&service["status"]["loadBalancer"]["ingress"], &ip) && port_is("port"),
            "NodePort" => port_is("nodePort"),
            "Headless" => slices.iter().any(|slice| {
                let endpoints = slice["endpoints"].as_sequence().into_iter().flatten();
                endpoints.clone().any(|endpoint| has(&endpoint["addresses"], &ip))
            }),
            kind => panic!("unknown kind of address {kind}"),
        }
    }

    #[test]
    fn every_address_that_is_tried_is_in_the_manifests() {
        let documents = read_manifests(&Path::new(DEMO).join("manifests")).unwrap();
        let (services, others): (Vec<_>, Vec<_>) = documents
            .into_iter()
            .map(|(_, value)| value)
            .partition(|value| value["kind"] == "Service");
        let text = fs::read_to_string(Path::new(DEMO).join("expected.yaml")).unwrap();
        let expected = Expected::parse(
            &text,
            &topology(crate::demo::PodNetwork::Routed, crate::demo::Hook::Tc),
        )
        .unwrap();
        for (name, address) in &expected.addresses {
            let service = name.split(' ').next().unwrap();
            let service = services.iter().find(|value| value["metadata"]["name"] == service);
            let service = service.unwrap_or_else(|| panic!("{name}: there is no such Service"));
            let slices: Vec<_> = others
                .iter()
                .filter(|slice| {
                    slice["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
                })
                .cloned()
                .collect();
            for family in Family::BOTH {
                assert!(serves(service, &slices, address, family), "{name} {family:?}");
            }
        }
    }

    #[test]
    fn the_nodes_and_pods_of_the_manifests_are_those_of_the_lab() {
        let topology = topology(crate::demo::PodNetwork::Routed, crate::demo::Hook::Tc);
        let documents = read_manifests(&Path::new(DEMO).join("manifests")).unwrap();
        let (mut nodes, mut endpoints) = (0, 0);
        for (file, value) in documents {
            if value["kind"] == "Node" {
                let node = topology
                    .nodes
                    .iter()
                    .find(|node| value["metadata"]["name"] == node.name.as_str());
                let node = node.expect("a node of the lab");
                for (position, cidr) in node.pod_cidr.both().iter().enumerate() {
                    assert_eq!(value["spec"]["podCIDRs"][position], cidr.to_string().as_str());
                }
                for (position, ip) in node.addr.both().iter().enumerate() {
                    assert_eq!(
                        value["status"]["addresses"][position]["address"],
                        ip.to_string().as_str()
                    );
                }
                nodes += 1;
            }
            let ipv6 = value["addressType"] == "IPv6";
            for endpoint in value["endpoints"].as_sequence().into_iter().flatten() {
                let pod = topology
                    .pods()
                    .find(|(_, pod)| endpoint["targetRef"]["name"] == pod.name.as_str());
                let (node, pod) = pod.expect("a pod of the lab");
                let family = if ipv6 { Family::V6 } else { Family::V4 };
                let ip = pod.addr.of(family).to_string();
                assert_eq!(endpoint["addresses"][0], ip.as_str(), "{file}: {}", pod.name);
                assert_eq!(endpoint["nodeName"], node.name.as_str(), "{file}: {}", pod.name);
                endpoints += 1;
            }
        }
        assert_eq!(nodes, topology.nodes.len());
        assert!(endpoints > 30, "{endpoints} endpoints were compared");
    }
}
