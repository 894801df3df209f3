//! What would change an answer: each change is made to the objects and asked about again before it is offered.
//!
//! The order is that of what it costs: another address costs nothing, another policy the client's address, pass-through a
//! second hop, and other places for pods somebody's work.

mod changes;
mod reasons;
mod trial;

use std::net::{IpAddr, SocketAddr};

use lb_common::abi::{FrontendKind, Outcome};

use super::{
    answer::{Answer, Remedies, Remedy, Verdict},
    cells::Cell,
    cluster::Cluster,
    explainer::{ExplainError, Worlds},
    tell::Basis,
};
use crate::model::{ObjectKey, Service};
use trial::Trial;

/// What is wrong with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Want {
    /// It is no.
    Yes,
    /// It is yes, and costs something.
    NoCost,
}

/// What would change `answer`, the one of `cell`.
pub(super) fn remedies(
    worlds: &mut Worlds<'_>,
    cell: &Cell,
    answer: &Answer,
    basis: &Basis,
) -> Result<Remedies, ExplainError> {
    let want = match (answer.verdict, &answer.cost) {
        (Verdict::Forwarded, None) => return Ok(Remedies::default()),
        (Verdict::Forwarded, Some(_)) => Want::NoCost,
        _ => Want::Yes,
    };
    let cluster = worlds.cluster;
    let Some(service) = concerned(cluster, cell) else {
        return Ok(Remedies {
            found: Vec::new(),
            none: Some(reasons::nobodys(cell)),
        });
    };
    let case = Case {
        cluster,
        cell,
        service,
        outcome: basis.outcome,
        kind: basis.kind,
    };
    let mut found = Vec::new();
    for trial in case.trials(want) {
        found.extend(trial.run(worlds, want)?);
    }
    let none = found.is_empty().then(|| reasons::none(&case, want));
    Ok(Remedies { found, none })
}

/// A cell whose answer is to change.
struct Case<'a> {
    cluster: &'a Cluster,
    cell: &'a Cell,
    service: &'a Service,
    outcome: Outcome,
    kind: Option<FrontendKind>,
}

/// The Service that a cell's destination belongs to: by its frontend, else by its address.
fn concerned<'a>(cluster: &'a Cluster, cell: &Cell) -> Option<&'a Service> {
    let to = cell.packet.to;
    let has_port = |service: &&Service| {
        let mut ports = service
            .ports
            .iter()
            .filter(|port| port.protocol == cell.packet.protocol);
        ports.any(|port| port.node_port == Some(to.port()))
    };
    let has_address = |service: &&Service| addresses(service).any(|ip| ip == to.ip());
    let has_both = |service: &&Service| {
        has_address(service)
            && (service.ports.iter())
                .any(|port| port.port == to.port() && port.protocol == cell.packet.protocol)
    };
    let is_node = cluster.node_of_address(to.ip()).is_some();
    let services = || cluster.services.values();
    (services().find(has_both))
        .or_else(|| services().find(|service| is_node && has_port(service)))
        .or_else(|| services().find(has_address))
}

/// All addresses that are a Service's own.
fn addresses(service: &Service) -> impl Iterator<Item = IpAddr> + '_ {
    (service.cluster_ips.iter().copied())
        .chain(service.ingress.iter().map(|ingress| ingress.address))
        .chain(service.external_ips.iter().copied())
}

impl Case<'_> {
    /// All that may help, the best first.
    fn trials(&self, want: Want) -> Vec<Trial> {
        let mut trials = Vec::new();
        trials.extend(self.cluster_ip());
        trials.extend(self.other_family());
        trials.extend(self.other_ports());
        trials.extend(self.policy(want));
        trials.extend(self.pass_through());
        trials.extend(self.endpoint_here(want));
        trials.extend(self.other_nodes(want));
        trials.extend(self.own_agent());
        trials
    }
}

impl Want {
    /// Whether `answer` is what is wanted.
    fn is_met_by(self, answer: &Answer) -> bool {
        answer.verdict == Verdict::Forwarded && (self == Self::Yes || answer.cost.is_none())
    }
}

/// Remedies that need no objects to be tried.
impl Remedy {
    fn of(trial: &Trial, tried: Vec<String>) -> Self {
        Self {
            what: trial.what.clone(),
            command: trial.command.clone(),
            cost: trial.cost.clone(),
            tried,
        }
    }

    /// The ClusterIP `there` of a Service.
    pub(super) fn cluster_ip(key: &ObjectKey, there: SocketAddr, answer: &Answer) -> Self {
        let trial = changes::cluster_ip_of(key, there, Vec::new());
        Self::of(&trial, vec![trial::tried(answer)])
    }

    /// The policy Cluster of a Service: the internal or the external one.
    pub(super) fn policy_cluster(key: &ObjectKey, internal: bool, answer: &Answer) -> Self {
        let trial = changes::policy_cluster_of(key, internal, None, Vec::new());
        Self::of(&trial, vec![trial::tried(answer)])
    }
}
