//! Nanoseconds a packet, by `BPF_PROG_TEST_RUN`.
//!
//! Two instances of the agent's object (one of them told to write nothing) and the bench's own object are loaded at
//! once, with 10,000 Services in both families and half a million established flows. Every round measures every
//! row in turn, on one processor. A row whose program does not do what the row says has no figure.

mod case;
mod cases;
mod cluster;
mod family;
mod flows;
mod harness;
mod instance;
mod judge;
mod maglev;
mod place;

use std::{collections::BTreeMap, path::Path, thread};

use anyhow::{Result, ensure};

use self::{
    case::{Case, Way, Whose},
    cases::FLOWS,
    family::{Family, NEW_CLIENTS},
    harness::Harness,
    instance::{Instance, Memory},
    place::Place,
};
use crate::document::Document;

/// Flow entries of a family: both halves of the established flows, and the new ones of a sample.
const ENTRIES: u32 = 2 * FLOWS + 131_072;
/// Samples of a row in one round.
const SAMPLES: usize = 2;

/// Everything that is loaded.
struct Bench {
    place: Place,
    harness: Harness,
    agent: Instance,
    dry: Instance,
    unwatched: Instance,
    next_client: u32,
}

/// A row's samples in nanoseconds, or why it has none.
type Samples = BTreeMap<String, Result<Vec<f64>, String>>;

/// Measures all rows whose name contains `filter`, and what they are compared with.
pub(crate) fn measure(object: &Path, rounds: usize, filter: Option<&str>) -> Result<Document> {
    ensure!(rounds > 0, "--rounds must be at least 1");
    // The namespace and the processor belong to the thread.
    let measured = thread::scope(|scope| scope.spawn(|| in_place(object, rounds, filter)).join());
    let (cases, samples) = measured.map_err(|_| anyhow::anyhow!("the measuring thread has panicked"))??;
    let mut document = judge::document(&cases, &samples);
    if filter.is_none() {
        maglev::measure(rounds, &mut document);
    }
    Ok(document)
}

fn in_place(object: &Path, rounds: usize, filter: Option<&str>) -> Result<(Vec<Case>, Samples)> {
    let mut bench = Bench::load(object)?;
    let mut cases = cases::baselines(&bench);
    for family in Family::BOTH {
        let established = cases::establish(&mut bench, family)?;
        cases.extend(cases::floors(&bench, family));
        cases.extend(cases::rows(&bench, family, &established));
        bench.multiply(family, &established)?;
    }
    if let Some(filter) = filter {
        cases = chosen(cases, filter);
    }
    ensure!(
        !cases.is_empty(),
        "no row has this in its name: {}",
        filter.unwrap_or_default()
    );
    let mut samples = Samples::new();
    for case in &cases {
        let checked = bench.check(case).map(|()| Vec::new());
        samples.insert(case.id.clone(), checked.map_err(|error| format!("{error:#}")));
    }
    for round in 0..rounds {
        eprintln!("lb-bench: round {} of {rounds}", round + 1);
        for case in &cases {
            let Some(of_case) = samples.get_mut(&case.id) else {
                continue;
            };
            for _ in 0..SAMPLES {
                let Ok(taken) = of_case else { break };
                match bench.sample(case) {
                    Ok(sample) => taken.push(sample),
                    Err(error) => *of_case = Err(format!("{error:#}")),
                }
            }
        }
    }
    Ok((cases, samples))
}

/// The rows with `filter` in their name, and those that they are compared with.
fn chosen(cases: Vec<Case>, filter: &str) -> Vec<Case> {
    let named: Vec<_> = cases
        .iter()
        .filter(|case| case.id.contains(filter))
        .cloned()
        .collect();
    let is_used = |case: &Case| {
        named.iter().any(|row| {
            row.id == case.id
                || row.floor.as_ref() == Some(&case.id)
                || case.id == cases::baseline(row.at, row.family, row.way)
                || case.id == cases::baseline(row.at, row.family, Way::Direct)
        })
    };
    let mut all = cases;
    all.retain(|case| is_used(case) || case.id.contains("-restore-one"));
    if named.is_empty() { Vec::new() } else { all }
}

impl Bench {
    fn load(object: &Path) -> Result<Self> {
        let place = place::enter()?;
        eprintln!(
            "lb-bench: loading programs, and {} Services in both families",
            cluster::SERVICES
        );
        let services = cluster::services();
        let load = |flows, memory| Instance::load(flows, memory, &services, &place.facts);
        Ok(Self {
            harness: Harness::load(object, ENTRIES)?,
            agent: load(ENTRIES, Memory::Flows)?,
            dry: load(4096, Memory::Dry)?,
            unwatched: load(4096, Memory::Unwatched)?,
            next_client: NEW_CLIENTS,
            place,
        })
    }

    /// Copies the established flows for all other clients, and for the floors.
    fn multiply(&mut self, family: Family, established: &cases::Established) -> Result<()> {
        eprintln!("lb-bench: {FLOWS} established flows, IPv{}", family.digit());
        for flow in 0..FLOWS {
            for entry in flows::of_client(&established.here, family.client(flow)) {
                self.agent.flows(family).put(&entry)?;
                self.harness.flows(family).put(&entry)?;
            }
        }
        for entry in &established.there {
            self.harness.flows(family).put(entry)?;
        }
        Ok(())
    }

    /// Whether a single packet becomes what the row says.
    fn check(&mut self, case: &Case) -> Result<()> {
        let first = self.prepare(case)?;
        let output = harness::once(self.entry(case)?, &case.input)?;
        self.clean(case, first, 1)?;
        if let Some(expected) = &case.becomes {
            same(&output.frame, expected)?;
        }
        ensure!(
            case.verdicts.contains(&output.verdict),
            "verdict {}, expected one of {:?}",
            output.verdict,
            case.verdicts
        );
        Ok(())
    }

    /// One sample, in nanoseconds a packet.
    fn sample(&mut self, case: &Case) -> Result<f64> {
        let first = self.prepare(case)?;
        let instance = match case.whose {
            Whose::Dry => &self.dry,
            Whose::Unwatched => &self.unwatched,
            Whose::Bench | Whose::Agent => &self.agent,
        };
        let before = instance.counted()?;
        let (nanoseconds, verdict) = harness::time(self.entry(case)?, &case.input, case.repeat)?;
        let moved = instance.counted()?.since(&before);
        self.clean(case, first, case.repeat)?;
        let expected: Vec<_> = case
            .counted
            .into_iter()
            .map(|(hook, outcome)| (hook, outcome, u64::from(case.repeat)))
            .collect();
        ensure!(
            moved == expected,
            "the programs counted {moved:?}, expected {expected:?}"
        );
        ensure!(
            case.verdicts.contains(&verdict),
            "verdict {verdict}, expected one of {:?}",
            case.verdicts
        );
        Ok(nanoseconds)
    }

    /// Tells program `restore` what to do; gives the first client's number.
    fn prepare(&mut self, case: &Case) -> Result<u32> {
        let Some(mode) = case.way.mode() else { return Ok(0) };
        let first = self.next_client;
        let next = match case.way {
            Way::New => u64::from(first),
            // Any seed but zero does.
            _ => 0x9e37_79b9_7f4a_7c15,
        };
        let program = harness::handle(self.program(case)?)?;
        self.harness.aim(case.at, &program)?;
        self.harness
            .prepare(case.family, &case.input.frame, mode, next, case.way.mask())?;
        Ok(first)
    }

    /// The program that is run: the one under test, or the one that jumps to it.
    fn entry(&self, case: &Case) -> Result<&aya::programs::Program> {
        if case.way == Way::Direct {
            self.program(case)
        } else {
            self.harness.program(&case.at.restore(case.family))
        }
    }

    fn program(&self, case: &Case) -> Result<&aya::programs::Program> {
        match case.whose {
            Whose::Bench => self.harness.program(&case.program),
            Whose::Agent => self.agent.program(&case.program),
            Whose::Dry => self.dry.program(&case.program),
            Whose::Unwatched => self.unwatched.program(&case.program),
        }
    }

    /// Forgets the flows that a row has opened.
    fn clean(&mut self, case: &Case, first: u32, runs: u32) -> Result<()> {
        let family = case.family;
        let frontend = family.frontend(family::Svc::Many);
        if case.whose == Whose::Dry {
            let key = flows::tuple(family.client(NEW_CLIENTS - 1), frontend);
            let written = self.dry.flows(family).get(&key)?;
            ensure!(
                written.is_none(),
                "a flow was written: the object has no global DRY_RUN"
            );
        }
        if case.way != Way::New {
            return Ok(());
        }
        self.next_client = first + runs;
        if case.program == case.at.empty() {
            return Ok(());
        }
        if case.whose == Whose::Agent {
            self.agent.rest(family)?;
        }
        let table = match case.whose {
            Whose::Bench => self.harness.flows(family),
            Whose::Agent | Whose::Dry | Whose::Unwatched => self.agent.flows(family),
        };
        let mut found = 0;
        for flow in first..first + runs {
            let key = flows::tuple(family.client(flow), frontend);
            if let Some(forward) = table.get(&key)? {
                table.remove(&forward.to.reverse());
                table.remove(&key);
                found += 1;
            }
        }
        // Unanswered flows may displace each other, a few in a thousand at this number.
        ensure!(
            found >= runs - runs / 50,
            "only {found} of {runs} new flows were remembered"
        );
        Ok(())
    }
}

/// Whether two frames are the same; says where they differ first.
fn same(frame: &[u8], expected: &[u8]) -> Result<()> {
    let differ = frame
        .iter()
        .zip(expected)
        .position(|(seen, expected)| seen != expected);
    if let Some(at) = differ {
        anyhow::bail!(
            "byte {at} of the packet became {:02x}, expected {:02x}",
            frame[at],
            expected[at]
        );
    }
    ensure!(
        frame.len() == expected.len(),
        "the packet became {} bytes long, expected {}",
        frame.len(),
        expected.len()
    );
    Ok(())
}
