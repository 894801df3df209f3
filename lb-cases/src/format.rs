//! `lbcase/v1` as values: one file is one scenario, see `tests/cases/README.md`.
//!
//! *Invariant*: a key that is not known here is an error, but for manifests, which are the API's own: a runner
//! that ignores what it does not know proves nothing.

mod check;
mod parts;

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

pub use parts::{
    Address, AgentState, Client, ClientKind, Destination, Expected, Flow, Get, Http, HttpExpected, Metric,
    MetricId, Outcome, Protocol, Repeat, Source, SourceAt,
};

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// `lbcase/v1`
    pub format: String,
    /// The file's name without `.yaml`.
    pub name: String,
    /// Tags, for reporting.
    #[serde(default)]
    pub features: Vec<String>,
    /// The family of its addresses.
    pub ip_family: IpFamily,
    /// Behaviour of an optional setting.
    #[serde(default)]
    pub optional: bool,
    /// Whether today's API server takes these objects.
    #[serde(default = "yes")]
    pub api_valid: bool,
    /// Settings of the agent.
    #[serde(default)]
    pub proxy: Proxy,
    /// The nodes at the start.
    pub nodes: Vec<Node>,
    /// v1 Service manifests at the start.
    #[serde(default)]
    pub services: Vec<Value>,
    /// discovery.k8s.io/v1 EndpointSlice manifests at the start.
    #[serde(default)]
    pub endpointslices: Vec<Value>,
    /// What is tried at the start.
    #[serde(default)]
    pub flows: Vec<Flow>,
    /// What is asked over HTTP at the start.
    #[serde(default)]
    pub http: Vec<Http>,
    /// What the agent must count at the start.
    #[serde(default)]
    pub metrics: Vec<Metric>,
    /// Later states.
    #[serde(default)]
    pub then: Vec<Then>,
}

/// Which families a scenario uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum IpFamily {
    /// IPv4 only.
    IPv4,
    /// IPv6 only.
    IPv6,
    /// Both.
    #[serde(rename = "dual")]
    Dual,
}

/// Settings of the agent on the node `self`.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxy {
    /// How it knows that a source is a pod of this node.
    pub pod_detection: PodDetection,
    /// Masquerade all traffic to ClusterIPs.
    pub masquerade_all: bool,
    /// NodePorts answer on addresses inside these ranges.
    pub nodeport_addresses: Vec<String>,
    /// NodePorts answer on 127.0.0.1.
    pub localhost_nodeports: bool,
}

/// How the agent knows pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodDetection {
    /// By the node's range of pod addresses.
    #[default]
    PodCidr,
    /// It does not.
    None,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The agent under test runs here.
    #[serde(default, rename = "self")]
    pub is_self: bool,
    /// Its primary address.
    pub ip: Address,
    /// Its IPv6 address, if `ip` is IPv4.
    #[serde(default)]
    pub ip6: Option<Address>,
    /// More addresses.
    #[serde(default)]
    pub extra_ips: Vec<Address>,
    /// Its zone label; empty: an empty label.
    #[serde(default)]
    pub zone: Option<String>,
    /// Its pods' range.
    #[serde(default)]
    pub pod_cidr: Option<String>,
    /// Its pods' IPv6 range, if `pod_cidr` is IPv4.
    #[serde(default)]
    pub pod_cidr6: Option<String>,
    /// Taints, as in a Node's spec.
    #[serde(default)]
    pub taints: Vec<Value>,
    /// Its object has a deletionTimestamp.
    #[serde(default)]
    pub deleting: bool,
}

/// A later state: what it names replaces what was there as a whole.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Then {
    /// What happens.
    pub step: String,
    /// New nodes.
    pub nodes: Option<Vec<Node>>,
    /// New Services.
    pub services: Option<Vec<Value>>,
    /// New EndpointSlices.
    pub endpointslices: Option<Vec<Value>>,
    /// Whether the agent can write its maps from now on.
    pub agent_state: Option<AgentState>,
    /// What is tried.
    #[serde(default)]
    pub flows: Vec<Flow>,
    /// What is asked over HTTP.
    #[serde(default)]
    pub http: Vec<Http>,
    /// What the agent must count.
    #[serde(default)]
    pub metrics: Vec<Metric>,
    /// For readers.
    #[serde(default)]
    pub note: String,
    /// Where it comes from, for readers.
    #[serde(default)]
    pub origin: String,
}

/// The objects of a cluster at one time.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct State {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Service manifests.
    pub services: Vec<Value>,
    /// EndpointSlice manifests.
    pub endpointslices: Vec<Value>,
}

/// One step: the state of the cluster, and what must hold in it.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// How it is called in reports.
    pub name: &'a str,
    /// All objects.
    pub state: State,
    /// Whether the agent can write its maps from now on.
    pub agent_state: Option<AgentState>,
    /// What is tried.
    pub flows: &'a [Flow],
    /// What is asked over HTTP.
    pub http: &'a [Http],
    /// What the agent must count.
    pub metrics: &'a [Metric],
}

fn yes() -> bool {
    true
}

impl Case {
    /// Reads a scenario.
    pub fn parse(text: &str) -> Result<Self> {
        let case: Self = serde_norway::from_str(text)?;
        case.check()?;
        Ok(case)
    }

    /// Reads a scenario from its file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let case = Self::parse(&text).with_context(|| format!("{} is not a case", path.display()))?;
        let stem = path.file_stem().unwrap_or_default();
        ensure!(
            stem == case.name.as_str(),
            "{}: its name is {:?}; name and file must agree",
            path.display(),
            case.name
        );
        Ok(case)
    }

    /// The node the agent runs on, as it is at the start.
    pub fn self_node(&self) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.is_self)
            .context("no node has `self: true`")
    }

    /// All steps, the start first, with the whole state at each.
    pub fn steps(&self) -> Vec<Step<'_>> {
        let mut state = State {
            nodes: self.nodes.clone(),
            services: self.services.clone(),
            endpointslices: self.endpointslices.clone(),
        };
        let mut steps = vec![Step {
            name: "start",
            state: state.clone(),
            agent_state: None,
            flows: &self.flows,
            http: &self.http,
            metrics: &self.metrics,
        }];
        for then in &self.then {
            state.nodes = then.nodes.clone().unwrap_or(state.nodes);
            state.services = then.services.clone().unwrap_or(state.services);
            state.endpointslices = then.endpointslices.clone().unwrap_or(state.endpointslices);
            steps.push(Step {
                name: &then.step,
                state: state.clone(),
                agent_state: then.agent_state,
                flows: &then.flows,
                http: &then.http,
                metrics: &then.metrics,
            });
        }
        steps
    }

    /// How long it is idle, at least, in seconds.
    pub fn idle_seconds(&self) -> u64 {
        let flows = self
            .flows
            .iter()
            .chain(self.then.iter().flat_map(|then| &then.flows));
        flows
            .filter_map(|flow| flow.repeat)
            .map(|repeat| u64::from(repeat.count) * repeat.gap_seconds)
            .sum()
    }
}

/// All `.yaml` files of a folder, by the name of the file without its ending: a case, or why it is none.
pub fn read_folder(folder: &Path) -> Result<BTreeMap<String, Result<Case>>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut cases = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|ending| ending == "yaml" || ending == "yml")
        {
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            cases.insert(name, Case::read(&path));
        }
    }
    if cases.is_empty() {
        bail!("no case (*.yaml) in {}", folder.display());
    }
    Ok(cases)
}

#[cfg(test)]
mod tests;
