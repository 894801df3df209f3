//! What `lb-agent explain` says of a cell, before a packet is sent: the decision of `lb_common`, made in this process, over
//! the maps of the node that decides, and over maps in memory that are made of the manifests. Both must be the same.
//!
//! *Output*: for each cell who is to answer, and the address that each of them sees. *Not here*: what the table says
//! (`expected`); both are compared with packets by `judge`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use lb_common::abi::Protocol;
use lb_lab::{PodNetwork, Proto, Shares};
use lb_userspace::{
    agent::live::LiveNode,
    explain::{self, Answer, Destination, Live, Question, Verdict, Worlds, explain_live},
    kubernetes::Annotations,
    source::{directory, pods},
};

use super::cell::{Backends, Cell, Client};
use crate::cluster::Cluster;

/// What is to come of a cell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Decided {
    pub(super) verdict: Verdict,
    reason: &'static str,
    /// Who answers, and the address that each sees; by name.
    pub(super) backends: BTreeMap<String, IpAddr>,
}

/// What is decided about each of `cells`, in their order; `to` is where a cell's client connects to.
pub(super) fn all(
    cluster: &Cluster,
    cells: &[Cell],
    to: impl Fn(&Cell) -> SocketAddr,
) -> Vec<Result<Decided, String>> {
    let asked: Vec<_> = cells
        .iter()
        .map(|cell| (cell.node(), question(cluster, cell, to(cell))))
        .collect();
    let mut live = BTreeMap::new();
    let nodes: BTreeSet<_> = asked.iter().map(|(node, _)| *node).collect();
    for node in nodes {
        let of_it: Vec<_> = (asked.iter().enumerate())
            .filter(|(_, (of, _))| *of == node)
            .map(|(place, (_, question))| (place, question))
            .collect();
        live.extend(on_node(cluster, node, &of_it));
    }
    let objects = objects(cluster);
    let mut worlds = Worlds::new(&objects);
    let both = asked.iter().zip(live.into_values());
    (cells.iter().zip(both))
        .map(|(cell, ((_, question), live))| {
            let made = worlds.decide(question).map_err(|error| error.to_string());
            let live = decided(cluster, cell, live?)?;
            let made = decided(cluster, cell, single(made?)?)?;
            live.same_as(&made, cell)
        })
        .collect()
}

/// What the manifests of the lab's agents say.
fn objects(cluster: &Cluster) -> explain::Cluster {
    let folder = cluster.lab.folder().join("manifests");
    let changes = directory::read_once(&folder, Annotations::default()).expect("the manifests can be read");
    let pods = pods::read(&folder).expect("the manifests can be read");
    let mut objects = explain::Cluster::new(changes, pods);
    let services = cluster.lab.topology().plan.services;
    objects.service_cidrs = vec![
        (services.v4.addr, services.v4.len),
        (services.v6.addr, services.v6.len),
    ];
    objects
}

/// Asks one node, whose maps and routes are read once.
fn on_node(
    cluster: &Cluster,
    node: &str,
    questions: &[(usize, &Question)],
) -> Vec<(usize, Result<Answer, String>)> {
    let instance = cluster.instance_on(node);
    let inside = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let node = runtime.block_on(LiveNode::open(&instance))?;
        let live = node.live(None)?;
        Ok(questions
            .iter()
            .map(|(place, question)| (*place, ask(&live, question)))
            .collect())
    };
    let place = cluster.lab.at(node).expect("the node is there");
    place.netns().run(inside).expect("the node can be asked")
}

fn ask(live: &Live<'_>, question: &Question) -> Result<Answer, String> {
    let answers = explain_live(live, question).map_err(|error| error.to_string())?;
    single(answers.into_iter().map(|(answer, _)| answer).collect())
}

fn single(mut answers: Vec<Answer>) -> Result<Answer, String> {
    match (answers.pop(), answers.is_empty()) {
        (Some(answer), true) => Ok(answer),
        (last, _) => Err(format!("no single answer: {answers:?} {last:?}")),
    }
}

fn question(cluster: &Cluster, cell: &Cell, to: SocketAddr) -> Question {
    let place = cluster.lab.at(cell.place()).expect("the client is there");
    let protocol = match cell.proto {
        Proto::Tcp => Protocol::Tcp,
        Proto::Udp => Protocol::Udp,
    };
    Question {
        from: match cell.client {
            Client::Node => explain::Client::Node(cell.place().into()),
            Client::Outside | Client::Pod | Client::Backend => {
                explain::Client::Address(place.ip(cell.family))
            }
        },
        to: Destination::Address(to, protocol),
        via: Some(cell.node().into()),
    }
}

/// An answer in the lab's names, with what the cluster's own rules make of it on the way.
fn decided(cluster: &Cluster, cell: &Cell, answer: Answer) -> Result<Decided, String> {
    let names = cell.kind.names();
    let backend = |reached: explain::Reached| {
        let is_it = |name: &&&str| {
            let place = cluster.lab.at(name).expect("the backend is there");
            place.ip(cell.family) == reached.backend.ip()
        };
        let name = names.iter().find(is_it);
        let name = name.ok_or_else(|| format!("{} is no backend", reached.backend))?;
        let source = behind_the_rules(cluster, cell, name, reached.source);
        Ok(((*name).to_owned(), source))
    };
    Ok(Decided {
        verdict: answer.verdict,
        reason: answer.reason,
        backends: answer
            .backends
            .into_iter()
            .map(backend)
            .collect::<Result<_, String>>()?,
    })
}

/// The source address that `backend` sees of a packet that left the programs with this one. Where pods are joined by
/// tunnels, the nodes' netfilter rules masquerade what a pod sends to another node itself: that is the cluster's
/// doing, behind ours, and happens to a pod's connection to a node's address without any Service too.
fn behind_the_rules(cluster: &Cluster, cell: &Cell, backend: &str, source: IpAddr) -> IpAddr {
    let from_pod = matches!(cell.client, Client::Pod | Client::Backend);
    let to_node = cell.kind.backends == Backends::Hosts && backend != cell.node();
    if cell.site.network == PodNetwork::Tunnel && from_pod && to_node {
        let node = cluster.lab.node(cell.node()).expect("the node is there");
        return node.addr.of(cell.family);
    }
    source
}

impl Decided {
    /// It, if the same was decided over maps that were made of the manifests. Those do not tell the addresses of tunnels
    /// and bridges, which some backends see: they are taken to be of a routed network, see docs/explain.md.
    fn same_as(self, made: &Self, cell: &Cell) -> Result<Self, String> {
        let who = |decided: &Self| decided.backends.keys().cloned().collect::<Vec<_>>();
        let sources = cell.site.network != PodNetwork::Routed || self.backends == made.backends;
        let same = self.verdict == made.verdict && self.reason == made.reason && who(&self) == who(made);
        if same && sources {
            return Ok(self);
        }
        Err(format!("{self} by the node's maps, {made} by the manifests"))
    }

    /// Whether packets did that, and nothing else.
    pub(super) fn agrees(&self, shares: &Shares) -> bool {
        match self.verdict {
            Verdict::Forwarded => {
                let expected: BTreeMap<_, _> = (self.backends.iter())
                    .map(|(name, source)| (name.clone(), BTreeSet::from([*source])))
                    .collect();
                shares.all_answered() && shares.sources == expected
            }
            Verdict::Rejected => shares.all_refused(),
            Verdict::Dropped => shares.all_silent(),
            Verdict::Passed => shares.answers() == 0,
        }
    }
}

impl fmt::Display for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.verdict.name(), self.reason)?;
        for (name, source) in &self.backends {
            write!(f, ", {name} sees {source}")?;
        }
        Ok(())
    }
}
