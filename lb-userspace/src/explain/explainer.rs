//! Answers from objects: the nodes' maps are made as their agents would fill them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::abi::Protocol;
use thiserror::Error;

use super::{
    answer::Answer,
    cells::{Cell, cells, node_object},
    cluster::Cluster,
    inquiry::{Finding, Packet},
    question::Question,
    remedy::remedies,
    tell::{Basis, Ground, tell},
    world::World,
};
use crate::{
    maps::MapError,
    model::{ObjectKey, Service},
};

/// A question that the objects do not answer.
#[derive(Debug, Error)]
pub enum ExplainError {
    /// Something is missing.
    #[error("{0}")]
    Unknown(String),
    /// The maps cannot be read.
    #[error(transparent)]
    Maps(#[from] MapError),
}

pub(super) fn unknown<T>(message: impl Into<String>) -> Result<T, ExplainError> {
    Err(ExplainError::Unknown(message.into()))
}

/// Answers `question` from the objects of `cluster`: one answer for each address, port and node that it is about.
///
/// # Errors
/// If the client, the destination or a node is not known, with what would make it known.
pub fn explain(cluster: &Cluster, question: &Question) -> Result<Vec<Answer>, ExplainError> {
    let mut worlds = Worlds::new(cluster);
    let mut answers = Vec::new();
    for cell in cells(cluster, question)? {
        let (mut answer, basis) = answer(&mut worlds, &cell)?;
        answer.remedies = remedies(&mut worlds, &cell, &answer, &basis)?;
        answers.push(answer);
    }
    Ok(answers)
}

/// The nodes of a cluster, each made when it is first asked about: for many questions.
#[derive(Debug)]
pub struct Worlds<'a> {
    pub(super) cluster: &'a Cluster,
    made: BTreeMap<String, World>,
}

impl<'a> Worlds<'a> {
    /// No node was asked about yet.
    #[must_use]
    pub fn new(cluster: &'a Cluster) -> Self {
        Self {
            cluster,
            made: BTreeMap::new(),
        }
    }

    /// As [`explain`], without remedies: what is decided, and why.
    ///
    /// # Errors
    /// As [`explain`].
    pub fn decide(&mut self, question: &Question) -> Result<Vec<Answer>, ExplainError> {
        let cells = cells(self.cluster, question)?;
        let answers = cells.iter().map(|cell| Ok(answer(self, cell)?.0));
        answers.collect()
    }

    fn of(&mut self, node: &str) -> Result<&World, ExplainError> {
        if !self.made.contains_key(node) {
            let object = node_object(self.cluster, node)?;
            self.made
                .insert(node.to_owned(), World::new(self.cluster, object));
        }
        Ok(&self.made[node])
    }
}

/// What becomes of a cell, before anybody has thought of remedies.
pub(super) fn answer(worlds: &mut Worlds<'_>, cell: &Cell) -> Result<(Answer, Basis), ExplainError> {
    let cluster = worlds.cluster;
    let world = worlds.of(&cell.node)?;
    tell(&Objects { cluster, world }, cell)
}

/// The objects of a cluster, as one node sees them.
struct Objects<'a> {
    cluster: &'a Cluster,
    world: &'a World,
}

impl Ground for Objects<'_> {
    fn inquire(&self, packet: &Packet) -> Result<Option<Finding>, MapError> {
        self.world.inquire(packet)
    }

    fn port_at(&self, to: SocketAddr, protocol: Protocol) -> Option<(ObjectKey, String)> {
        let id = &self.world.port_at(to, protocol)?.id;
        Some((ObjectKey::new(&id.namespace, &id.name), id.port_name.clone()))
    }

    fn proxied_by(&self, address: IpAddr) -> Option<ObjectKey> {
        let has_it = |service: &&Service| {
            let mut ingress = service.ingress.iter();
            ingress.any(|ingress| ingress.proxied && ingress.address == address)
        };
        let mut services = self.cluster.services.values();
        services.find(has_it).map(|service| service.key.clone())
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        self.cluster.name_of(address)
    }

    fn node_of(&self, address: IpAddr) -> Option<String> {
        let node = self
            .cluster
            .node_of_address(address)
            .map(|node| node.name.as_str());
        node.or_else(|| self.cluster.node_of_pod_address(address))
            .map(str::to_owned)
    }

    fn notes(&self, object: &str) -> Vec<String> {
        let problems = self.world.desired.problems.iter();
        let about = problems.filter(|problem| problem.object == object);
        about.map(|problem| problem.message.clone()).collect()
    }
}
