//! Follows the source: events into the index, and what they change out to everyone concerned.
//!
//! *Invariant*: nothing is passed on before the source has told everything once, but for what it remembers of the API
//! servers' Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use tokio::sync::{mpsc, watch};

use crate::{
    apply::{self, Inbox, Update},
    model::{HealthCheck, Index, NodeIdentity, NodeObject, ObjectKey, ServicePort},
    node::PortSet,
    source::{Event, SourceStatus},
};

/// Events that are taken in before anything is passed on: a burst is one change.
const BATCH: usize = 4096;

/// What is known of the cluster.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Cluster {
    /// The source has told everything once.
    pub(super) synced: bool,
    /// What is known is remembered from before the start: the Service of the API servers, and no more.
    pub(super) remembered: bool,
    /// How the source is doing.
    pub(super) source: SourceStatus,
    /// What is served here, by Service.
    pub(super) served: BTreeMap<ObjectKey, Vec<ServicePort>>,
    /// This node's own object.
    pub(super) node: Option<NodeObject>,
    /// There are Node objects, of this node or of others.
    pub(super) knows_nodes: bool,
    /// What load balancers are told of Services.
    pub(super) health_checks: BTreeMap<ObjectKey, HealthCheck>,
    /// The number of the change that made the maps follow to here, see [`Inbox::send`].
    pub(super) generation: u64,
    /// Addresses of the other nodes.
    pub(super) other_nodes: BTreeSet<IpAddr>,
    /// Prefixes of the other nodes' pods.
    pub(super) other_pod_prefixes: Vec<(IpAddr, u8)>,
}

impl Cluster {
    /// All ports of nodes that are Services' own.
    pub(super) fn node_ports(&self) -> PortSet {
        let frontends = self.served.values().flatten().flat_map(|port| &port.frontends);
        frontends
            .filter(|frontend| frontend.address.is_none())
            .map(|frontend| frontend.port)
            .collect()
    }

    /// All addresses that are Services' own.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        let ports = self.served.values().flatten();
        ports
            .flat_map(|port| &port.frontends)
            .filter_map(|frontend| frontend.address)
            .collect()
    }
}

/// Follows the source until it ends. The first change that is sent is the complete state; then
/// [`Cluster::synced`] is set. What is remembered may be sent before, alone.
pub(super) async fn follow(
    identity: NodeIdentity,
    mut events: mpsc::Receiver<Event>,
    changes: Inbox,
    cluster: watch::Sender<Cluster>,
) {
    let mut index = Index::new(identity);
    let mut synced = false;
    let mut batch = Vec::new();
    while events.recv_many(&mut batch, BATCH).await > 0 {
        let (mut first, mut source) = (false, None);
        for event in batch.drain(..) {
            match event {
                Event::Change(change) => index.apply(change),
                Event::Synced => first = !synced,
                Event::Remembered if !synced && !first => {
                    cluster.send_modify(|cluster| cluster.remembered = true);
                    pass_on(&mut index, true, &changes, &cluster);
                }
                Event::Remembered => {}
                Event::Status(status) => source = Some(status),
            }
        }
        synced |= first;
        if let Some(source) = source {
            cluster.send_modify(|cluster| cluster.source = source);
        }
        if first {
            cluster.send_modify(|cluster| (cluster.synced, cluster.remembered) = (true, false));
        }
        if synced {
            pass_on(&mut index, first, &changes, &cluster);
        }
    }
}

fn pass_on(index: &mut Index, first: bool, changes: &Inbox, cluster: &watch::Sender<Cluster>) {
    let mut changed = index.take_changed();
    if changed.is_empty() && !first {
        return;
    }
    if first {
        // What changed before anybody followed says nothing about how fast it is followed.
        changed.origins.triggered = Default::default();
    }
    cluster.send_modify(|cluster| {
        let mut update = Update {
            services: BTreeMap::new(),
            other_nodes: (first || changed.nodes).then(|| index.other_nodes()),
            problems: (first || changed.problems).then(|| index.problems()),
            origins: changed.origins,
        };
        for key in changed.services {
            let ports = index.desired_service(&key);
            match index.health_check(&key) {
                Some(check) => cluster.health_checks.insert(key.clone(), check),
                None => cluster.health_checks.remove(&key),
            };
            let before = match ports.is_empty() {
                true => cluster.served.remove(&key),
                false => cluster.served.insert(key, ports.clone()),
            };
            update
                .services
                .extend(before.into_iter().flatten().map(|port| (port.id, None)));
            update
                .services
                .extend(ports.into_iter().map(|port| (port.id.clone(), Some(port))));
        }
        if first || changed.nodes {
            cluster.node = index.this_node().cloned();
            cluster.knows_nodes = index.knows_nodes();
            cluster.other_nodes = index.other_nodes().into_iter().collect();
            cluster.other_pod_prefixes = index.other_pod_prefixes().collect();
        }
        cluster.generation = changes.send(apply::Change::Desired(update));
    });
}

#[cfg(test)]
mod storm;
#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Change, Problem};

    fn reported(subject: &str) -> Event {
        let problems = vec![Problem {
            object: subject.into(),
            message: "is wrong".into(),
        }];
        Event::Change(Change::Reported {
            subject: subject.into(),
            problems,
        })
    }

    #[tokio::test]
    async fn nothing_is_passed_on_before_the_first_complete_state() {
        let (events, received) = mpsc::channel(16);
        let (changes, passed_on) = apply::channel();
        let (cluster, mut view) = watch::channel(Cluster::default());
        let identity = NodeIdentity::new("n1");
        let task = tokio::spawn(follow(identity, received, changes, cluster));

        events.send(reported("a")).await.unwrap();
        events
            .send(Event::Status(SourceStatus {
                errors: 1,
                ..Default::default()
            }))
            .await
            .unwrap();
        view.wait_for(|cluster| cluster.source.errors == 1).await.unwrap();
        assert!(passed_on.try_recv().is_err(), "not synced yet");

        events.send(Event::Synced).await.unwrap();
        view.wait_for(|cluster| cluster.synced).await.unwrap();
        let apply::Change::Desired(first) = passed_on.try_recv().unwrap() else {
            panic!("not the cluster's")
        };
        assert_eq!(first.problems.map(|problems| problems.len()), Some(1));
        assert_eq!(first.other_nodes, Some(vec![]));

        events.send(reported("b")).await.unwrap();
        drop(events);
        task.await.unwrap();
        let apply::Change::Desired(second) = passed_on.try_recv().unwrap() else {
            panic!("not the cluster's")
        };
        assert_eq!(
            (second.problems.map(|problems| problems.len()), second.other_nodes),
            (Some(2), None)
        );
    }
}
