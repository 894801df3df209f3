//! Tries a world: delivers its events, asks after every step, and once more after they came in another order.

mod compare;
mod run;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    time::Duration,
};

use lb_userspace::{maps::MapStore, node::Snapshot};

use lb_common::testing::chance::Chance;

use crate::{
    agent::{self, Agent, Faults},
    cluster::Cluster,
    generate::World,
    journey::Seen,
    kernel::Kernel,
    node, oracle,
    probe::{self, Probe},
};

use run::{FIRST_PORT, Records, Run};

/// Questions after each step.
const QUESTIONS: usize = 60;
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
            records: Records::new(),
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
                faults.start(chance.number());
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
            records: Records::new(),
            next_port: FIRST_PORT,
            counted: BTreeMap::new(),
            when: "after all events in another order, one write in ten failing".to_owned(),
        };
        faults.start(chance.number());
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
