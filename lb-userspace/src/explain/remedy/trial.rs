//! Tries a change: the objects are changed, the same question is asked again.

use std::collections::BTreeSet;

use super::{
    super::{
        answer::{Answer, Remedy, Verdict},
        cells::Cell,
        cluster::Cluster,
        explainer::{ExplainError, Worlds, answer},
    },
    Want, addresses,
};
use crate::model::Service;

/// A change that may help.
pub(super) struct Trial {
    pub(super) what: String,
    pub(super) command: String,
    pub(super) cost: String,
    /// The changed objects; `None`: nothing of them changes.
    pub(super) cluster: Option<Cluster>,
    /// What is asked then. Each has to be as is wanted.
    pub(super) cells: Vec<Cell>,
    /// The first of them is to be left alone, so that it goes on to the others.
    pub(super) passes_first: bool,
}

impl Trial {
    /// The remedy, if it is one.
    pub(super) fn run(&self, worlds: &mut Worlds<'_>, want: Want) -> Result<Option<Remedy>, ExplainError> {
        let tried = match &self.cluster {
            Some(changed) => self.ask(&mut Worlds::new(changed), want)?,
            None => self.ask(worlds, want)?,
        };
        Ok(tried
            .filter(|tried| !tried.is_empty())
            .map(|tried| Remedy::of(self, tried)))
    }

    /// What was found, of each cell; `None`: one of them is not as is wanted.
    fn ask(&self, worlds: &mut Worlds<'_>, want: Want) -> Result<Option<Vec<String>>, ExplainError> {
        let mut found = Vec::new();
        for (number, cell) in self.cells.iter().enumerate() {
            let (answer, _) = answer(worlds, cell)?;
            let is_good = match number == 0 && self.passes_first {
                true => answer.verdict == Verdict::Passed,
                false => want.is_met_by(&answer),
            };
            if !is_good {
                return Ok(None);
            }
            found.push(tried(&answer));
        }
        Ok(Some(found))
    }
}

/// What was found, in a line.
pub(super) fn tried(answer: &Answer) -> String {
    let Answer {
        to,
        protocol,
        node,
        verdict,
        reason,
        backends,
        cost,
        ..
    } = answer;
    let nodes: BTreeSet<_> = backends
        .iter()
        .filter_map(|reached| reached.node.as_deref())
        .collect();
    let nodes: Vec<_> = nodes.into_iter().collect();
    let count = backends.len();
    let whom = match (count, nodes.as_slice()) {
        (0, _) => String::new(),
        (1, [one]) => format!(" to 1 backend on {one}"),
        (count, []) => format!(" to {count} backends"),
        (count, nodes) => format!(" to {count} backends on {}", nodes.join(", ")),
    };
    let source = match (count, cost) {
        (0, _) => String::new(),
        (_, None) => ", the client's address is kept".to_owned(),
        (_, Some(cost)) => format!(", {cost}"),
    };
    format!(
        "{to} {protocol} on node {node}: {} ({reason}){whom}{source}",
        verdict.name()
    )
}

/// The objects that decide about `service`, which is `changed`: itself, who claims the same, its endpoints, all nodes.
pub(super) fn with(cluster: &Cluster, changed: Service) -> Cluster {
    let all: BTreeSet<_> = addresses(&changed).collect();
    let node_ports = |service: &Service| -> BTreeSet<_> {
        service.ports.iter().filter_map(|port| port.node_port).collect()
    };
    let wanted = node_ports(&changed);
    let mut small = Cluster {
        nodes: cluster.nodes.clone(),
        pods: cluster.pods.clone(),
        service_cidrs: cluster.service_cidrs.clone(),
        ..Cluster::default()
    };
    for (key, other) in &cluster.services {
        if addresses(other).any(|ip| all.contains(&ip)) || !wanted.is_disjoint(&node_ports(other)) {
            small.services.insert(key.clone(), other.clone());
        }
    }
    for (key, slice) in &cluster.slices {
        let mut owners = small.services.keys();
        if owners.any(|owner| owner.namespace == key.namespace && owner.name == slice.service) {
            small.slices.insert(key.clone(), slice.clone());
        }
    }
    small.services.insert(changed.key.clone(), changed);
    small
}
