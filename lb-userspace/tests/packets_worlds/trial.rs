//! Tries a world: delivers its events, asks after every step, and once more after they came in another order.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::SocketAddr,
    time::Duration,
};

use lb_common::abi::{Hook, Outcome};
use lb_userspace::{maps::MapStore, node::Snapshot};

use crate::{
    agent::{self, Agent, Faults},
    chance::Chance,
    cluster::{Cluster, Event, Key},
    generate::World,
    journey::{Exchange, Seen, Stage},
    kernel::Kernel,
    node,
    oracle::{self, Answer, Source, Verdict},
    probe::{self, Probe},
};

/// Questions after each step.
const QUESTIONS: usize = 60;
/// Flows that are kept from step to step.
const FLOWS: usize = 10;
/// The first source port that is asked with; those of endpoints and NodePorts are others.
const FIRST_PORT: u16 = 33_000;

/// What worlds are tried with.
pub(crate) struct Bench {
    kernel: Kernel,
    store: MapStore,
    faults: Faults,
    snapshot: Snapshot,
}

/// Which questions are asked.
#[derive(Clone, Debug)]
pub(crate) enum Questions {
    /// A sample that the world's seed determines.
    Sample,
    Only(Vec<Probe>),
}

/// Where a world and the semantics disagree.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// After which step, and how the events had come in.
    pub(crate) when: String,
    pub(crate) probe: Option<Probe>,
    pub(crate) expected: String,
    pub(crate) seen: String,
    /// What the programs counted.
    pub(crate) counted: String,
}

/// How often what has been asked.
pub(crate) type Tally = BTreeMap<String, u64>;

/// An established flow.
struct Kept {
    probe: Probe,
    port: u16,
    backend: SocketAddr,
    source: SocketAddr,
}

/// One answer in full, to be compared with another run's.
type Told = Vec<(Probe, Vec<(u16, Seen)>)>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.when)?;
        if let Some(probe) = &self.probe {
            writeln!(f, "  probe:    {probe}")?;
        }
        write!(
            f,
            "  expected: {}\n  seen:     {}\n  counted:  {}",
            self.expected, self.seen, self.counted
        )
    }
}

impl Bench {
    /// In a namespace of the calling thread's own.
    pub(crate) fn new() -> Self {
        node::enter();
        let (kernel, store) = Kernel::new();
        let faults = Faults::default();
        Self {
            kernel,
            store: faults.injected_into(store),
            faults,
            snapshot: node::snapshot(),
        }
    }

    /// Packets that were run since the last call.
    pub(crate) fn take_packets(&mut self) -> u64 {
        std::mem::take(&mut self.kernel.runs)
    }

    /// Tries a world in two orders of arrival.
    pub(crate) fn try_world(
        &mut self,
        world: &World,
        questions: &Questions,
        tally: &mut Tally,
    ) -> Result<(), Box<Failure>> {
        let result = self.in_steps(world, questions, tally).and_then(|told| {
            self.kernel.forget_flows();
            self.at_once(world, &told)
        });
        self.kernel.forget_flows();
        self.faults.stop();
        if result.is_err() {
            // What is left must not be found by the next world.
            agent::wipe(&mut self.store).expect("maps can be emptied");
        }
        result
    }

    /// Step by step; gives what was told after the last one.
    fn in_steps(
        &mut self,
        world: &World,
        questions: &Questions,
        tally: &mut Tally,
    ) -> Result<Told, Box<Failure>> {
        let chance = &mut Chance::new(world.seed, 2);
        let Self {
            kernel,
            store,
            faults,
            snapshot,
        } = self;
        let faulty = chance.one_in(2);
        faults.stop();
        let linger = Duration::from_secs(world.linger);
        let agent = Agent::new(store, snapshot, &world.settings, linger, world.seed);
        let mut run = Run {
            kernel,
            agent,
            world,
            cluster: Cluster::default(),
            kept: Vec::new(),
            next_port: FIRST_PORT,
            counted: BTreeMap::new(),
            when: String::new(),
        };
        run.counted = run.kernel.counted();
        let mut known = BTreeSet::new();
        let mut told = Vec::new();
        for (number, step) in world.steps.iter().enumerate() {
            let failing = if faulty { ", one write in ten failing" } else { "" };
            run.when = format!("after step {}{failing}", number + 1);
            if faulty {
                faults.start(chance.next());
            }
            run.deliver(chance, step, number == 0)?;
            faults.stop();
            known.extend(probe::mentioned(&run.cluster));
            let probes = match questions {
                Questions::Sample => {
                    let known: Vec<_> = known.iter().copied().collect();
                    let served = |(to, protocol): &&(SocketAddr, _)| {
                        !oracle::owners(&run.cluster, &world.settings, *to, *protocol).is_empty()
                    };
                    let served: Vec<_> = known.iter().filter(served).copied().collect();
                    probe::sample(chance, &served, &known, QUESTIONS)
                }
                Questions::Only(probes) => probes.clone(),
            };
            told.clear();
            for probe in probes {
                let all = run.ask(&probe, tally)?;
                run.keep(chance, &probe, &all);
                told.push((probe, all));
            }
            run.audit()?;
        }
        run.when = "after the last step".to_owned();
        let end = run.failure(None, "empty maps", String::new());
        run.agent
            .end()
            .map_err(|seen| Box::new(Failure { seen, ..*end }))?;
        Ok(told)
    }

    /// All events at once, in any order, with failing writes: the answers must be the same.
    fn at_once(&mut self, world: &World, told: &Told) -> Result<(), Box<Failure>> {
        let chance = &mut Chance::new(world.seed, 3);
        let Self {
            kernel,
            store,
            faults,
            snapshot,
        } = self;
        let linger = Duration::from_secs(world.linger);
        let agent = Agent::new(store, snapshot, &world.settings, linger, world.seed);
        let mut run = Run {
            kernel,
            agent,
            world,
            cluster: Cluster::default(),
            kept: Vec::new(),
            next_port: FIRST_PORT,
            counted: BTreeMap::new(),
            when: "after all events in another order, one write in ten failing".to_owned(),
        };
        faults.start(chance.next());
        let all = world.steps.concat();
        run.deliver(chance, &all, false)?;
        faults.stop();
        for (probe, answers) in told {
            run.ask_again(probe, answers)?;
        }
        let end = run.failure(None, "empty maps", String::new());
        run.agent.end().map_err(|seen| Box::new(Failure { seen, ..*end }))
    }
}

/// A world that is being tried.
struct Run<'a> {
    kernel: &'a mut Kernel,
    agent: Agent<'a>,
    world: &'a World,
    cluster: Cluster,
    kept: Vec<Kept>,
    next_port: u16,
    counted: BTreeMap<(Hook, Outcome), u64>,
    when: String,
}

impl Run<'_> {
    /// Delivers events: those of one object in their order, otherwise in any; in batches, with writes in between.
    fn deliver(&mut self, chance: &mut Chance, events: &[Event], at_once: bool) -> Result<(), Box<Failure>> {
        for event in reordered(chance, events) {
            self.agent.take(&event);
            self.cluster.apply(&event);
            if !at_once && chance.one_in(4) {
                self.agent.pass_on(chance.one_in(2));
                if chance.one_in(2) {
                    self.agent.round();
                }
            }
        }
        self.agent.pass_on(chance.one_in(2));
        let settings = &self.world.settings;
        let cluster = &self.cluster;
        let lasting = |kept: &Kept| {
            let keepers = oracle::keepers(cluster, settings, &kept.probe);
            keepers.is_some_and(|keepers| keepers.contains(&kept.backend))
        };
        self.kept.retain(lasting);
        let mut lost = None;
        let (kernel, kept) = (&mut *self.kernel, &self.kept);
        let settled = self.agent.settle(|| {
            lost = kept.iter().find_map(|kept| is_lost(kernel, kept));
            lost.as_ref().map_or(Ok(()), |_| Err(String::new()))
        });
        if let Some((probe, expected, seen)) = lost {
            return Err(self.failure(Some(&probe), &expected, seen));
        }
        settled.map_err(|error| self.failure(None, "maps that are complete", error))?;
        if chance.one_in(2) {
            self.agent.wait(Duration::from_secs(60));
        }
        Ok(())
    }

    /// Asks with as many source ports as it takes to see every endpoint.
    fn ask(&mut self, probe: &Probe, tally: &mut Tally) -> Result<Vec<(u16, Seen)>, Box<Failure>> {
        let answers = oracle::answers(&self.cluster, &self.world.settings, probe);
        let mut told: Vec<(u16, Seen)> = Vec::new();
        let limit = 100 + 80 * answers.iter().map(Answer::breadth).max().unwrap_or(0);
        loop {
            self.next_port = self
                .next_port
                .checked_add(1)
                .filter(|port| *port < 60_000)
                .unwrap_or(FIRST_PORT);
            let exchange = self.exchange(probe, self.next_port);
            let seen = exchange.send(self.kernel, Stage::First);
            if told.len() < 2 {
                self.follow(&exchange, &seen)?;
            }
            told.push((self.next_port, seen));
            let right: Vec<&Answer> = answers
                .iter()
                .filter(|answer| agrees(answer, probe, &told))
                .collect();
            if right.is_empty() || told.len() > limit {
                return Err(self.wrong(probe, &answers, &told));
            }
            if let Some(answer) = right.iter().find(|answer| is_complete(answer, &told)) {
                *tally.entry(kind(probe, answer)).or_default() += 1;
                return Ok(told);
            }
        }
    }

    /// The answer of the endpoint, and the client's next packet.
    fn follow(&mut self, exchange: &Exchange<'_>, seen: &Seen) -> Result<(), Box<Failure>> {
        let Seen::Forward { backend, source } = seen else {
            return Ok(());
        };
        let probe = exchange.probe;
        let answered = exchange.answer(self.kernel, *backend, *source);
        answered
            .map_err(|error| self.failure(Some(probe), "the answer arrives as the destination's", error))?;
        let later = exchange.send(self.kernel, Stage::Later);
        if later == *seen {
            return Ok(());
        }
        let expected = format!("the next packet takes the same way: {seen}");
        Err(self.failure(Some(probe), &expected, later.to_string()))
    }

    /// Asks with the ports of another run.
    fn ask_again(&mut self, probe: &Probe, told: &[(u16, Seen)]) -> Result<(), Box<Failure>> {
        let answers = oracle::answers(&self.cluster, &self.world.settings, probe);
        let sticky = answers.iter().any(Answer::is_sticky);
        for (port, before) in told {
            let seen = self.exchange(probe, *port).send(self.kernel, Stage::First);
            let same = match (&seen, before) {
                (
                    Seen::Forward {
                        backend: a,
                        source: s,
                    },
                    Seen::Forward {
                        backend: b,
                        source: t,
                    },
                ) => (a == b || sticky) && s.ip() == t.ip(),
                (a, b) => a == b,
            };
            if !same {
                let expected = format!("from port {port} as in the first order: {before}");
                return Err(self.failure(Some(probe), &expected, seen.to_string()));
            }
        }
        Ok(())
    }

    /// Keeps the flow of an answer, perhaps.
    fn keep(&mut self, chance: &mut Chance, probe: &Probe, told: &[(u16, Seen)]) {
        // Who has claimed a place, and which node's NodePort it is, may change.
        let certain = oracle::service_port(&self.cluster, &self.world.settings, probe).is_some();
        if !certain || self.kept.len() >= FLOWS || !chance.one_in(3) {
            return;
        }
        if let Some((port, Seen::Forward { backend, source })) = told.first() {
            self.kept.push(Kept {
                probe: *probe,
                port: *port,
                backend: *backend,
                source: *source,
            });
        }
    }

    fn exchange<'b>(&self, probe: &'b Probe, port: u16) -> Exchange<'b> {
        Exchange {
            probe,
            port,
            routed_to_lb0: self.agent.is_routed(probe.to.ip()),
        }
    }

    /// Whether the programs have counted what never may happen.
    fn audit(&mut self) -> Result<(), Box<Failure>> {
        use Outcome as O;
        let never = [
            O::DroppedInconsistent,
            O::DroppedRewrite,
            O::DroppedNoRoute,
            O::DroppedFlowsFull,
            O::DroppedNoPort,
            O::DroppedSpoofed,
            O::DroppedUnknownFlow,
            O::DroppedExpired,
            O::RejectedUnknownFlow,
            O::PassedMalformed,
            O::PassedOther,
        ];
        let now = self.kernel.counted();
        let before = std::mem::replace(&mut self.counted, now);
        let moved = difference(&before, &self.counted);
        match moved.iter().find(|((_, outcome), _)| never.contains(outcome)) {
            None => Ok(()),
            Some(((hook, outcome), packets)) => {
                let seen = format!("{packets} at {} {}", hook.name(), outcome.name());
                Err(self.failure(None, "no packet is counted as what cannot be", seen))
            }
        }
    }

    fn wrong(&mut self, probe: &Probe, answers: &[Answer], told: &[(u16, Seen)]) -> Box<Failure> {
        let expected: Vec<String> = answers.iter().map(ToString::to_string).collect();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (_, seen) in told {
            // Source ports are many.
            let text = match seen {
                Seen::Forward { backend, source } => format!("forward to {backend} as {}", source.ip()),
                other => other.to_string(),
            };
            *counts.entry(text).or_default() += 1;
        }
        let seen: Vec<String> = counts
            .iter()
            .map(|(seen, count)| format!("{count} times {seen}"))
            .collect();
        self.failure(Some(probe), &expected.join("\n       or: "), seen.join(", "))
    }

    fn failure(&mut self, probe: Option<&Probe>, expected: &str, seen: String) -> Box<Failure> {
        let counted = probe.map(|probe| {
            // Once more, to see what is counted.
            let before = self.kernel.counted();
            let again = self
                .exchange(probe, FIRST_PORT - 1)
                .send(self.kernel, Stage::First);
            let moved = difference(&before, &self.kernel.counted());
            let names = moved
                .keys()
                .map(|(hook, outcome)| format!("{} {}", hook.name(), outcome.name()));
            format!("{} ({again})", names.collect::<Vec<_>>().join(", "))
        });
        Box::new(Failure {
            when: self.when.clone(),
            probe: probe.copied(),
            expected: expected.to_owned(),
            seen,
            counted: counted.unwrap_or_else(|| "not for one probe".to_owned()),
        })
    }
}

impl Answer {
    /// How many endpoints it names.
    fn breadth(&self) -> usize {
        match &self.verdict {
            Verdict::Forward { backends, .. } => backends.len(),
            _ => 0,
        }
    }

    fn is_sticky(&self) -> bool {
        matches!(self.verdict, Verdict::Forward { sticky: true, .. })
    }
}

/// Whether nothing that was seen contradicts an answer.
fn agrees(answer: &Answer, probe: &Probe, told: &[(u16, Seen)]) -> bool {
    let of_source = |rule: Source, seen: SocketAddr| match rule {
        Source::Client => seen.ip() == probe.from(),
        Source::Node => crate::journey::is_own(seen.ip()),
        Source::Either => seen.ip() == probe.from() || crate::journey::is_own(seen.ip()),
    };
    told.iter().all(|(_, seen)| match (&answer.verdict, seen) {
        (Verdict::Forward { backends, .. }, Seen::Forward { backend, source }) => backends
            .get(backend)
            .is_some_and(|rule| of_source(*rule, *source)),
        (Verdict::Reject, Seen::Reject) | (Verdict::Drop, Seen::Drop) | (Verdict::Pass, Seen::Pass) => true,
        _ => false,
    }) && (!answer.is_sticky() || reached(told).len() < 2)
}

/// Whether enough was seen to be sure of it.
fn is_complete(answer: &Answer, told: &[(u16, Seen)]) -> bool {
    match &answer.verdict {
        Verdict::Forward { sticky: true, .. } => told.len() > 5,
        Verdict::Forward { backends, .. } => {
            told.len() > 2 * backends.len() && reached(told).len() == backends.len()
        }
        _ => told.len() > 1,
    }
}

fn reached(told: &[(u16, Seen)]) -> BTreeSet<SocketAddr> {
    let backends = told.iter().filter_map(|(_, seen)| match seen {
        Seen::Forward { backend, .. } => Some(*backend),
        _ => None,
    });
    backends.collect()
}

/// What is wrong with a flow that should have stayed.
fn is_lost(kernel: &mut Kernel, kept: &Kept) -> Option<(Probe, String, String)> {
    let exchange = Exchange {
        probe: &kept.probe,
        port: kept.port,
        // Its address was routed there when it began; it stays so while the address lingers.
        routed_to_lb0: true,
    };
    let before = Seen::Forward {
        backend: kept.backend,
        source: kept.source,
    };
    let seen = exchange.send(kernel, Stage::Later);
    (seen != before).then(|| {
        let expected = format!("an established flow stays: {before}");
        (kept.probe, expected, seen.to_string())
    })
}

/// Which sort of answer it was, for the tally.
fn kind(probe: &Probe, answer: &Answer) -> String {
    use crate::probe::{Client, Hook};
    let verdict = match &answer.verdict {
        Verdict::Forward { backends, .. } if backends.len() == 1 => "forward to one",
        Verdict::Forward { .. } => "forward to several",
        Verdict::Reject => "reject",
        Verdict::Drop => "drop",
        Verdict::Pass => "pass",
    };
    let client = match (probe.client, probe.hook) {
        (Client::Pod(_), _) => "pod",
        (Client::Node, _) => "node",
        (Client::Outside(_), Hook::Xdp) => "outside at XDP",
        (Client::Outside(_), Hook::Tc) => "outside at TC",
    };
    format!("{client}: {verdict}")
}

fn difference(
    before: &BTreeMap<(Hook, Outcome), u64>,
    after: &BTreeMap<(Hook, Outcome), u64>,
) -> BTreeMap<(Hook, Outcome), u64> {
    let moved = after
        .iter()
        .map(|(key, count)| (*key, count - before.get(key).copied().unwrap_or(0)));
    moved.filter(|(_, count)| *count != 0).collect()
}

/// Any order of `events` that keeps those of each object in theirs.
fn reordered(chance: &mut Chance, events: &[Event]) -> Vec<Event> {
    let mut queues: BTreeMap<Key, VecDeque<Event>> = BTreeMap::new();
    let mut turns: Vec<Key> = Vec::new();
    for event in events {
        turns.push(event.key());
        queues.entry(event.key()).or_default().push_back(event.clone());
    }
    chance.shuffle(&mut turns);
    let next = |key: &Key| queues.get_mut(key).and_then(VecDeque::pop_front);
    turns.iter().filter_map(next).collect()
}
