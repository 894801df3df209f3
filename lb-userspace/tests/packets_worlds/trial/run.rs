//! A world that is being tried: delivery, questions, established flows.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::abi::{Hook, Outcome};

use super::{
    Failure, Tally,
    compare::{agrees, is_complete, kind, reached},
};
use lb_common::testing::chance::Chance;

use crate::{
    agent::Agent,
    cluster::{Cluster, Event, Key},
    generate::World,
    journey::{Exchange, Seen, Stage},
    kernel::Kernel,
    oracle::{self, Answer, Protocol},
    probe::Probe,
};

/// Flows that are kept from step to step.
const FLOWS: usize = 10;
/// The first source port that is asked with; those of endpoints and NodePorts are others.
pub(super) const FIRST_PORT: u16 = 33_000;

/// An established flow.
pub(super) struct Kept {
    probe: Probe,
    port: u16,
    backend: SocketAddr,
    source: SocketAddr,
}

/// What a client of a Service port with affinity had last: the probe and the endpoint.
pub(super) type Records = BTreeMap<(IpAddr, String), (Probe, SocketAddr)>;

/// A world that is being tried.
pub(super) struct Run<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) agent: Agent<'a>,
    pub(super) world: &'a World,
    pub(super) cluster: Cluster,
    pub(super) kept: Vec<Kept>,
    pub(super) records: Records,
    pub(super) next_port: u16,
    pub(super) counted: BTreeMap<(Hook, Outcome), u64>,
    pub(super) when: String,
}

impl Run<'_> {
    /// Delivers events: those of one object in their order, otherwise in any; in batches, with writes in between.
    pub(super) fn deliver(
        &mut self,
        chance: &mut Chance,
        events: &[Event],
        at_once: bool,
    ) -> Result<(), Box<Failure>> {
        for event in reordered(chance, events) {
            self.agent.take(&event);
            self.cluster.apply(&event);
            let (cluster, settings) = (&self.cluster, &self.world.settings);
            self.records.retain(|(_, name), (probe, backend)| {
                oracle::keeps_record(cluster, settings, probe, name, *backend)
            });
            if !at_once && chance.one_in(4) {
                self.agent.pass_on(chance.one_in(2));
                if chance.one_in(2) {
                    self.agent.round();
                }
            }
        }
        self.agent.pass_on(chance.one_in(2));
        let (cluster, settings) = (&self.cluster, &self.world.settings);
        let (kept, ended) = std::mem::take(&mut self.kept).into_iter().partition(|kept| {
            let keepers = oracle::keepers(cluster, settings, &kept.probe);
            keepers.is_some_and(|keepers| keepers.contains(&kept.backend))
        });
        self.kept = kept;
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
        self.agent.forget_stale(self.kernel);
        for kept in ended {
            self.expect_end(&kept)?;
        }
        if chance.one_in(2) {
            self.agent.wait(Duration::from_secs(60));
        }
        Ok(())
    }

    /// A flow whose endpoint may have gone. Of TCP and SCTP nothing is known then; the next UDP datagram is a new flow's,
    /// unless the endpoint still serves in some reading, or nobody does (section 11).
    fn expect_end(&mut self, kept: &Kept) -> Result<(), Box<Failure>> {
        let probe = &kept.probe;
        if probe.protocol != Protocol::Udp {
            return Ok(());
        }
        let seen = self.exchange(probe, kept.port).send(self.kernel, Stage::Later);
        let stays = matches!(&seen, Seen::Forward { backend, .. } if *backend == kept.backend);
        let (cluster, settings) = (&self.cluster, &self.world.settings);
        if stays && oracle::may_stay(cluster, settings, probe, kept.backend) {
            return Ok(());
        }
        let answers = oracle::answers(cluster, settings, probe);
        let told = [(kept.port, seen)];
        if answers.iter().any(|answer| agrees(answer, probe, &told)) {
            return Ok(());
        }
        let mut wrong = self.wrong(probe, &answers, &told);
        wrong.when = format!(
            "{}: a flow whose endpoint {} no longer serves",
            wrong.when, kept.backend
        );
        Err(wrong)
    }

    /// Asks with as many source ports as it takes to see every endpoint.
    pub(super) fn ask(&mut self, probe: &Probe, tally: &mut Tally) -> Result<Vec<(u16, Seen)>, Box<Failure>> {
        let mut answers = oracle::answers(&self.cluster, &self.world.settings, probe);
        let name = oracle::service_port(&self.cluster, &self.world.settings, probe);
        let record = name.map(|name| (probe.from(), name));
        match record.as_ref().map(|record| self.records.get(record)) {
            Some(Some((_, backend))) => answers = oracle::remembering(answers, *backend),
            Some(None) => {}
            // Whose records it changes is not known.
            None => self.records.retain(|(client, _), _| *client != probe.from()),
        }
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
                if let (true, Some(record), Some(backend)) =
                    (answer.is_sticky(), record, reached(&told).first())
                {
                    self.records.insert(record, (*probe, *backend));
                }
                return Ok(told);
            }
        }
    }

    /// The answer of the endpoint, and the client's next packet.
    pub(super) fn follow(&mut self, exchange: &Exchange<'_>, seen: &Seen) -> Result<(), Box<Failure>> {
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

    /// Asks with the ports of another run. What affinity has chosen depends on what came before, and so does what an
    /// address is that nobody has (any more: it lingers); all else does not.
    pub(super) fn ask_again(&mut self, probe: &Probe, told: &[(u16, Seen)]) -> Result<(), Box<Failure>> {
        let answers = oracle::answers(&self.cluster, &self.world.settings, probe);
        let owners = oracle::owners(&self.cluster, &self.world.settings, probe.to, probe.protocol);
        let by_history = owners.is_empty() || answers.iter().any(Answer::is_sticky);
        for (port, before) in told {
            let seen = self.exchange(probe, *port).send(self.kernel, Stage::First);
            let same = match (&seen, before) {
                _ if by_history => {
                    let told = [(*port, seen.clone())];
                    answers.iter().any(|answer| agrees(answer, probe, &told))
                }
                (
                    Seen::Forward {
                        backend: a,
                        source: s,
                    },
                    Seen::Forward {
                        backend: b,
                        source: t,
                    },
                ) => a == b && s.ip() == t.ip(),
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
    pub(super) fn keep(&mut self, chance: &mut Chance, probe: &Probe, told: &[(u16, Seen)]) {
        // Without lingering, a flow ends with its address, however short that is gone.
        if self.world.linger == 0 {
            return;
        }
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

    pub(super) fn exchange<'b>(&self, probe: &'b Probe, port: u16) -> Exchange<'b> {
        Exchange {
            probe,
            port,
            routed_to_lb0: self.agent.is_routed(probe.to.ip()),
        }
    }

    /// Whether the programs have counted what never may happen.
    pub(super) fn audit(&mut self) -> Result<(), Box<Failure>> {
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

    pub(super) fn wrong(&mut self, probe: &Probe, answers: &[Answer], told: &[(u16, Seen)]) -> Box<Failure> {
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

    pub(super) fn failure(&mut self, probe: Option<&Probe>, expected: &str, seen: String) -> Box<Failure> {
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
