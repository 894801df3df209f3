//! Keeps health checks in line with Services, node and maps.
//!
//! *Invariant*: an endpoint counts once it is live in the maps, and not any more as soon as it is gone from the
//! cluster. So a load balancer comes late and leaves early, and is never sent to where nothing is yet.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::watch, time};
use tracing::{info, warn};

use super::cluster::Cluster;
use crate::{
    apply::{Backlog, Status},
    health::{self, DataPlane, Listeners, Place},
    http::{Answer, Respond},
    model::{HealthCheck, NodeFacts, ObjectKey, Problem},
};

/// A port that could not be opened is tried again this often.
const RETRY: Duration = Duration::from_secs(2);

/// How the node fares, for all who ask.
#[derive(Clone, Debug)]
pub(super) struct Health {
    backlog: Arc<Backlog>,
    timeout: Duration,
    cluster: watch::Receiver<Cluster>,
    /// Without any Node object a node is eligible: a folder of manifests need not describe nodes.
    nodes_are_known: bool,
    /// Programs have been put on this node's devices.
    attached: Arc<AtomicBool>,
    answers: Arc<Answers>,
}

/// Answers given: 200 and 503.
#[derive(Default, Debug)]
pub(super) struct Answers {
    pub(super) healthz: [AtomicU64; 2],
    pub(super) livez: [AtomicU64; 2],
}

/// What listens, and what does not.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Checks {
    /// Open listeners of Services.
    pub(super) open: usize,
    /// Services whose health check cannot be asked.
    pub(super) problems: Vec<Problem>,
    /// Services whose NodePorts a process of this node has bound too.
    pub(super) taken: Vec<Problem>,
    /// Addresses of the agent's own that cannot be listened on.
    pub(super) failures: Vec<String>,
}

impl Health {
    pub(super) fn new(
        backlog: Arc<Backlog>,
        timeout: Duration,
        cluster: watch::Receiver<Cluster>,
        nodes_are_known: bool,
    ) -> Self {
        Self {
            backlog,
            timeout,
            cluster,
            nodes_are_known,
            attached: Arc::default(),
            answers: Arc::default(),
        }
    }

    pub(super) fn plane(&self) -> DataPlane {
        let plane = DataPlane::new(&self.backlog.waits(), self.timeout, Instant::now());
        if self.attached.load(Ordering::Relaxed) {
            plane
        } else {
            plane.without_programs()
        }
    }

    /// From now on what is live in the maps is live: programs are on this node's devices.
    pub(super) fn programs_are_attached(&self) {
        self.attached.store(true, Ordering::Relaxed);
    }

    pub(super) fn answers(&self) -> Arc<Answers> {
        Arc::clone(&self.answers)
    }

    fn is_eligible(&self) -> bool {
        let cluster = self.cluster.borrow();
        match &cluster.node {
            Some(node) => !node.leaving,
            None => !self.nodes_are_known && !cluster.knows_nodes,
        }
    }

    fn answer(&self, path: &str) -> Answer {
        let (answer, counts) = match path {
            "/healthz" => {
                let answer = health::healthz(&self.plane(), self.is_eligible(), SystemTime::now());
                (answer, &self.answers.healthz)
            }
            "/livez" => (
                health::livez(&self.plane(), SystemTime::now()),
                &self.answers.livez,
            ),
            _ => return Answer::not_found("/healthz and /livez"),
        };
        counts[usize::from(answer.status != 200)].fetch_add(1, Ordering::Relaxed);
        answer
    }

    /// Answers for the node.
    pub(super) fn respond(&self) -> Respond {
        let health = self.clone();
        Arc::new(move |path| health.answer(path))
    }
}

/// What there is to follow.
pub(super) struct Followed {
    pub(super) cluster: watch::Receiver<Cluster>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) facts: watch::Receiver<NodeFacts>,
}

/// Ready endpoints here, by Service.
type Ready = BTreeMap<ObjectKey, usize>;

/// Follows the Services that have a health check until there is nothing to follow any more.
pub(super) async fn follow(health: Health, mut followed: Followed, checks: watch::Sender<Checks>) {
    let ready: Arc<RwLock<Ready>> = Arc::default();
    let mut live = Ready::new();
    let mut listeners = Listeners::default();
    loop {
        let (wanted, generation) = {
            let cluster = followed.cluster.borrow_and_update();
            (cluster.health_checks.clone(), cluster.generation)
        };
        if followed.status.borrow_and_update().live >= generation {
            live = (wanted.iter())
                .map(|(key, check)| (key.clone(), check.ready_here))
                .collect();
        }
        *ready.write().unwrap_or_else(std::sync::PoisonError::into_inner) = counts(&wanted, &live);
        let places = places(&wanted, &followed.facts.borrow_and_update().node_ports);
        let places = (places.into_iter())
            .map(|place| {
                let respond = respond(&health, &ready, place.subject.clone());
                (place, respond)
            })
            .collect();
        let failed = listeners.sync(places).await;
        let problems: Vec<_> = failed
            .iter()
            .map(|(place, error)| problem(place, error))
            .collect();
        let failing = !problems.is_empty();
        checks.send_if_modified(|checks| {
            let modified = (checks.open, &checks.problems) != (listeners.count(), &problems);
            for problem in problems
                .iter()
                .filter(|problem| !checks.problems.contains(problem))
            {
                warn!(object = problem.object, "{}", problem.message);
            }
            (checks.open, checks.problems) = (listeners.count(), problems);
            modified
        });
        let changed = tokio::select! {
            changed = followed.cluster.changed() => changed,
            changed = followed.status.changed() => changed,
            changed = followed.facts.changed() => changed,
            () = time::sleep(RETRY), if failing => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

/// How many endpoints count.
fn counts(wanted: &BTreeMap<ObjectKey, HealthCheck>, live: &Ready) -> Ready {
    let both = |(key, check): (&ObjectKey, &HealthCheck)| {
        let live = live.get(key).copied().unwrap_or_default();
        (key.clone(), live.min(check.ready_here))
    };
    wanted.iter().map(both).collect()
}

/// Where Services' health checks listen. A port that two Services name belongs to the first by name.
fn places(
    wanted: &BTreeMap<ObjectKey, HealthCheck>,
    addresses: &[std::net::IpAddr],
) -> Vec<Place<ObjectKey>> {
    let everywhere = |(key, check): (&ObjectKey, &HealthCheck)| {
        let (key, port) = (key.clone(), check.port);
        addresses.iter().map(move |address| Place {
            address: SocketAddr::new(*address, port),
            subject: key.clone(),
        })
    };
    wanted.iter().flat_map(everywhere).collect()
}

fn respond(health: &Health, ready: &Arc<RwLock<Ready>>, key: ObjectKey) -> Respond {
    let (health, ready) = (health.clone(), Arc::clone(ready));
    Arc::new(move |_| {
        let ready = ready.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = ready.get(&key).copied().unwrap_or_default();
        health::service(&key, count, health.plane().is_healthy())
    })
}

fn problem(place: &Place<ObjectKey>, error: &io::Error) -> Problem {
    Problem {
        object: format!("Service {}", place.subject),
        message: format!(
            "its health check cannot listen on {}, so load balancers pass this node by: {error}; free the \
             port, or give the Service another healthCheckNodePort",
            place.address
        ),
    }
}

/// Answers on the agent's own addresses for as long as the agent runs. What cannot be listened on is tried again.
pub(super) async fn listen(
    servers: Vec<(Vec<SocketAddr>, &'static str, Respond)>,
    checks: watch::Sender<Checks>,
) {
    let mut listeners = Listeners::default();
    loop {
        let wanted = servers.iter().flat_map(|(addresses, what, respond)| {
            let place = |address: &SocketAddr| Place {
                address: *address,
                subject: *what,
            };
            addresses
                .iter()
                .map(move |address| (place(address), Arc::clone(respond)))
        });
        let failed = listeners.sync(wanted.collect()).await;
        let failures: Vec<_> = (failed.iter())
            // A kernel without IPv6 has no client that could miss it.
            .filter(|(_, error)| error.raw_os_error() != Some(libc::EAFNOSUPPORT))
            .map(|(place, error)| {
                format!(
                    "{} cannot be served on {}: {error}; free the port, or choose another with --{}-address",
                    place.subject, place.address, place.subject
                )
            })
            .collect();
        checks.send_if_modified(|checks| {
            let modified = checks.failures != failures;
            for failure in failures
                .iter()
                .filter(|failure| !checks.failures.contains(failure))
            {
                warn!("{failure}");
            }
            checks.failures = failures;
            modified
        });
        if failed.is_empty() {
            info!(listeners = listeners.count(), "health and metrics are served");
            checks.closed().await;
            return;
        }
        tokio::select! {
            () = time::sleep(RETRY) => {}
            () = checks.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{apply, model::NodeObject};

    fn check(port: u16, ready_here: usize) -> HealthCheck {
        HealthCheck { port, ready_here }
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("shop", name)
    }

    #[test]
    fn an_endpoint_counts_once_it_is_live_and_only_while_it_is_wanted() {
        let wanted = BTreeMap::from([
            (key("more"), check(1, 3)),
            (key("fewer"), check(2, 1)),
            (key("new"), check(3, 2)),
        ]);
        let live = Ready::from([(key("more"), 2), (key("fewer"), 2), (key("gone"), 5)]);
        let expected = Ready::from([(key("more"), 2), (key("fewer"), 1), (key("new"), 0)]);
        assert_eq!(counts(&wanted, &live), expected);
    }

    #[test]
    fn health_checks_listen_on_every_address_that_accepts_node_ports() {
        let wanted = BTreeMap::from([(key("a"), check(31_000, 1)), (key("b"), check(31_001, 0))]);
        let addresses = ["192.168.0.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
        let told: Vec<_> = (places(&wanted, &addresses).into_iter())
            .map(|place| format!("{} {}", place.subject, place.address))
            .collect();
        let expected = [
            "shop/a 192.168.0.2:31000",
            "shop/a [2001:db8::2]:31000",
            "shop/b 192.168.0.2:31001",
            "shop/b [2001:db8::2]:31001",
        ];
        assert_eq!(told, expected);
        assert_eq!(places(&wanted, &[]), []);
    }

    #[test]
    fn a_node_is_eligible_unless_it_is_leaving_or_unknown_among_known_ones() {
        let node = |leaving| {
            Some(NodeObject {
                name: "n1".into(),
                zone: None,
                ready: true,
                leaving,
                addresses: vec![],
                pod_prefixes: vec![],
            })
        };
        for (what, in_cluster, knows_nodes, node, expected) in [
            ("known", true, true, node(false), true),
            ("leaving", true, true, node(true), false),
            ("gone from a cluster", true, true, None, false),
            ("a cluster without nodes", true, false, None, false),
            ("a folder without nodes", false, false, None, true),
            ("a folder with other nodes", false, true, None, false),
        ] {
            let (sender, cluster) = watch::channel(Cluster::default());
            sender.send_modify(|cluster| (cluster.node, cluster.knows_nodes) = (node, knows_nodes));
            let (inbox, _receiver) = apply::channel();
            let health = Health::new(inbox.backlog(), Duration::from_secs(60), cluster, in_cluster);
            assert_eq!(health.is_eligible(), expected, "{what}");
        }
    }

    #[test]
    fn answers_are_counted_by_their_code() {
        let (_sender, cluster) = watch::channel(Cluster::default());
        let (inbox, _receiver) = apply::channel();
        let health = Health::new(inbox.backlog(), Duration::from_secs(60), cluster, true);
        let statuses = ["/healthz", "/healthz", "/livez", "/metrics"].map(|path| health.answer(path).status);
        assert_eq!(
            statuses,
            [503, 503, 200, 404],
            "nothing is live yet, but the agent works"
        );
        let count = |answers: &[AtomicU64; 2]| [0, 1].map(|code| answers[code].load(Ordering::Relaxed));
        let answers = health.answers();
        assert_eq!((count(&answers.healthz), count(&answers.livez)), ([0, 2], [1, 0]));
    }
}
