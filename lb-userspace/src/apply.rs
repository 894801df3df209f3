//! The reconciler: takes changes, plans, writes, tries again after a failure, publishes its status.
//!
//! Runs on a thread of its own, because system calls and grace periods block.
//!
//! *Invariants*: only the newest state counts; a burst of changes is one round, but a single change is
//! written within milliseconds; a failure never stops what does not rely on it.
//!
//! *Not here*: Kubernetes, what the writes mean (`plan`), how they are made (`maps`).

mod backlog;
mod histogram;
mod pace;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Instant, SystemTime},
};

use tokio::sync::watch;
use tracing::{debug, info, warn};

pub use crate::plan::Fill;
pub use backlog::{Backlog, Inbox, Objects, Waiting, Waits, channel};
pub use histogram::{Histogram, ROUNDS};
pub use write::write;

use self::pace::Pace;
use crate::{
    maps::{MapError, MapStore},
    model::{DesiredState, NodeFacts, Origins, Problem, ServicePort, ServicePortId},
    plan::{Counts, PlanSettings, Planner},
};

/// Rounds without a failure that may follow each other at once: each makes room for the next.
const ROUNDS_AT_ONCE: usize = 8;

/// Something that the maps should follow.
#[derive(Clone, Debug)]
pub enum Change {
    /// The cluster wants something else.
    Desired(Update),
    /// The node has become another.
    Facts(Arc<NodeFacts>),
}

/// What the cluster wants else than before.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Update {
    /// Service ports that changed; `None`: gone.
    pub services: BTreeMap<ServicePortId, Option<ServicePort>>,
    /// Addresses of the other nodes, if they changed.
    pub other_nodes: Option<Vec<IpAddr>>,
    /// What cannot be served, if that changed.
    pub problems: Option<Vec<Problem>>,
    /// What made it change.
    pub origins: Origins,
}

impl Change {
    /// Which families it concerns: IPv4, IPv6.
    fn families(&self) -> [bool; 2] {
        match self {
            Self::Facts(_) => [true, true],
            Self::Desired(update) => [false, true]
                .map(|ipv6| update.other_nodes.is_some() || update.services.keys().any(|id| id.ipv6 == ipv6)),
        }
    }
}

impl Update {
    /// Adds what came later.
    fn merge(&mut self, later: Self) {
        let Self {
            services,
            other_nodes,
            problems,
            origins,
        } = later;
        self.origins.merge(origins);
        self.services.extend(services);
        self.other_nodes = other_nodes.or(self.other_nodes.take());
        self.problems = problems.or(self.problems.take());
    }
}

/// A complete state, for someone who has nothing yet.
impl From<DesiredState> for Update {
    fn from(state: DesiredState) -> Self {
        let DesiredState {
            services,
            other_nodes,
            problems,
        } = state;
        Self {
            services: services
                .into_iter()
                .map(|port| (port.id.clone(), Some(port)))
                .collect(),
            other_nodes: Some(other_nodes),
            problems: Some(problems),
            origins: Origins::default(),
        }
    }
}

/// How far the maps have followed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Status {
    /// How many changes have come in.
    pub received: u64,
    /// How many of them are completely in the maps.
    pub live: u64,
    /// How much is live.
    pub counts: Counts,
    /// How full the maps are.
    pub fill: Vec<Fill>,
    /// Interface indices of the devices that the data path knows.
    pub devices: BTreeSet<u32>,
    /// Connections to frontends that another proxy has opened go on by the kernel's connection tracking.
    pub leaves_tracked: bool,
    /// What cannot be served, and why.
    pub problems: Vec<Problem>,
    /// The newest failure, while something is left to write because of it.
    pub last_error: Option<String>,
    /// Failed writes since the start, by map and error number.
    pub failed_writes: BTreeMap<(&'static str, i32), u64>,
    /// How long it takes to follow: IPv4 and IPv6.
    pub pace: [FamilyPace; 2],
    /// Rounds that have left something to write.
    pub failed_rounds: u64,
}

/// How long it takes until a family has followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FamilyPace {
    /// The first filling of the maps, however many rounds it took.
    pub full: Histogram,
    /// Rounds of writing after that.
    pub partial: Histogram,
    /// From the change of an endpoint in the cluster until it is live.
    pub programming: Histogram,
}

impl Default for FamilyPace {
    fn default() -> Self {
        Self {
            full: Histogram::new(histogram::ROUNDS),
            partial: Histogram::new(histogram::ROUNDS),
            programming: Histogram::new(histogram::PROGRAMMING),
        }
    }
}

/// Called whenever a plan is about to be carried out.
pub type PlanBegins = Box<dyn FnMut() + Send>;

/// The reconciler's state.
pub struct Reconciler {
    planner: Planner,
    store: MapStore,
    started: Instant,
    update: Option<Update>,
    facts: Option<Arc<NodeFacts>>,
    problems: Vec<Problem>,
    status: watch::Sender<Status>,
    pace: Pace,
    backlog: Arc<Backlog>,
    /// Taken, but not live in all families.
    origins: Origins,
    /// Families with a change that is not live.
    concerned: [bool; 2],
    plan_begins: Option<PlanBegins>,
}

impl Reconciler {
    /// A reconciler for empty maps.
    #[must_use]
    pub fn new(settings: PlanSettings, store: MapStore, backlog: Arc<Backlog>) -> Self {
        let started = Instant::now();
        Self {
            planner: Planner::new(settings),
            store,
            started,
            update: None,
            facts: None,
            problems: Vec::new(),
            status: watch::Sender::default(),
            pace: Pace::new(started),
            backlog,
            origins: Origins::default(),
            concerned: [false; 2],
            plan_begins: None,
        }
    }

    /// The same, which tells when a plan begins.
    #[must_use]
    pub fn telling(self, plan_begins: Option<PlanBegins>) -> Self {
        Self { plan_begins, ..self }
    }

    /// Its status, now and whenever it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Writes the first complete state, before any program is attached. Everything that can be written
    /// is, even if some write fails.
    pub fn fill(&mut self, first: impl IntoIterator<Item = Change>) {
        first.into_iter().for_each(|change| self.take(change));
        self.round(Instant::now());
    }

    /// Follows the changes until their sender is gone.
    pub fn run(mut self, changes: &Receiver<Change>) {
        loop {
            let received = match self.wake() {
                None => changes.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wake) => changes.recv_timeout(wake.saturating_duration_since(Instant::now())),
            };
            match received {
                Ok(change) => self.take(change),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let until = self.pace.gather_until(Instant::now());
            while let Ok(change) = changes.recv_timeout(until.saturating_duration_since(Instant::now())) {
                self.take(change);
            }
            self.round(Instant::now());
        }
    }

    /// When there is something to do even if no change comes in.
    fn wake(&self) -> Option<Instant> {
        let due = self.planner.next_due().map(|due| self.started + due);
        let retry = self.pace.retry();
        due.into_iter().chain(retry).min()
    }

    fn take(&mut self, change: Change) {
        for (all, concerned) in self.concerned.iter_mut().zip(change.families()) {
            *all |= concerned;
        }
        match change {
            Change::Desired(update) => self.update.get_or_insert_default().merge(update),
            Change::Facts(facts) => self.facts = Some(facts),
        }
        self.status.send_modify(|status| status.received += 1);
    }

    /// One round: takes over what came in and writes what is left to write.
    fn round(&mut self, now: Instant) {
        let time = now.duration_since(self.started);
        // Facts first: whether a backend is a host-network pod depends on them.
        if let Some(facts) = self.facts.take() {
            self.planner.node_facts(&facts, time);
        }
        if let Some(Update {
            services,
            other_nodes,
            problems,
            origins,
        }) = self.update.take()
        {
            self.origins.merge(origins);
            if let Some(addresses) = other_nodes {
                self.planner.other_nodes(&addresses, time);
            }
            self.problems = problems.unwrap_or(std::mem::take(&mut self.problems));
            let (mut changed, mut removed) = (Vec::new(), Vec::new());
            for (id, port) in services {
                match port {
                    Some(port) => changed.push(port),
                    None => removed.push(id),
                }
            }
            self.planner.update(changed, &removed, time);
        }
        let mut failure = None;
        for _ in 0..ROUNDS_AT_ONCE {
            if let Some(begins) = &mut self.plan_begins {
                begins();
            }
            let store = &mut self.store;
            let failures = self.planner.execute(time, |op| write(store, op));
            failures.iter().for_each(|failure| self.count(&failure.error));
            failure = failures.into_iter().next();
            if failure.is_some() || self.planner.is_settled() {
                break;
            }
        }
        let settled = self.planner.is_settled();
        self.measure(now);
        if settled {
            self.pace.succeeded(Instant::now());
        } else {
            let wait = self.pace.failed(Instant::now());
            let error = failure
                .as_ref()
                .map(|failure| &failure.error as &dyn std::error::Error);
            warn!(error, retry_in = ?wait, "the maps are not complete yet");
        }
        self.publish(
            settled,
            failure.map(|failure| format!("{}, while writing {:?}", failure.error, failure.op)),
        );
    }

    /// Notes what is live now, and how long that took.
    fn measure(&mut self, began: Instant) {
        let settled = self.planner.settled_families();
        let (took, clock) = (began.elapsed(), SystemTime::now());
        self.status.send_modify(|status| {
            let origins = &mut self.origins;
            let families = (status.pace.iter_mut().zip(&mut origins.triggered))
                .zip(self.concerned.iter_mut().zip(settled));
            for ((pace, triggered), (concerned, settled)) in families {
                if *concerned && pace.full.count() == 0 {
                    if settled {
                        pace.full.observe(took);
                    }
                } else if *concerned {
                    pace.partial.observe(took);
                }
                if settled {
                    // A clock that was set back in between measures nothing.
                    let durations = triggered
                        .drain(..)
                        .filter_map(|time| clock.duration_since(time).ok());
                    durations.for_each(|duration| pace.programming.observe(duration));
                    *concerned = false;
                }
            }
            status.failed_rounds += u64::from(settled != [true, true]);
            self.backlog
                .wrote(status.received, settled, [origins.services, origins.endpoints]);
            if settled == [true, true] {
                (origins.services, origins.endpoints) = (0, 0);
            }
        });
    }

    fn count(&self, error: &MapError) {
        debug!(map = error.map, error = %error, "a map write failed");
        self.status
            .send_modify(|status| *status.failed_writes.entry(error.kind()).or_default() += 1);
    }

    fn publish(&self, settled: bool, failure: Option<String>) {
        let counts = self.planner.counts();
        let fill = self.planner.fill();
        let devices = self.planner.devices_written();
        let leaves_tracked = self.planner.leaves_tracked();
        let mut problems = self.planner.problems();
        problems.extend_from_slice(&self.problems);
        problems.sort_unstable();
        problems.dedup();
        self.status.send_modify(|status| {
            for problem in problems
                .iter()
                .filter(|problem| !status.problems.contains(problem))
            {
                warn!(object = problem.object, "{}", problem.message);
            }
            if status.leaves_tracked != leaves_tracked {
                status.leaves_tracked = leaves_tracked;
                info!("{}", told(leaves_tracked));
            }
            status.problems = problems;
            status.last_error = failure;
            status.counts = counts;
            status.fill = fill;
            status.devices = devices;
            if settled {
                status.live = status.received;
                info!(
                    generation = status.live,
                    services = counts.services,
                    frontends = counts.frontends,
                    backends = counts.backends,
                    "the maps are complete"
                );
            }
        });
    }
}

const fn told(leaves_tracked: bool) -> &'static str {
    if leaves_tracked {
        "connection tracking translates connections to Services that another proxy has opened: they are left to it until they end"
    } else {
        "the connections to Services that another proxy had opened have ended"
    }
}

#[cfg(test)]
mod tests;
