//! Both books of an agent: how often its programs ran, by the kernel's own count, and what they counted, by `lb-agent counters`.
//! A packet is one run and has one outcome, and so is a call at a socket: hook by hook both books have the same number, or
//! something came to an end that no counter knows.
//!
//! *Input*: the folder of an agent's pins, and whoever asks it for its counters. *Output*: what each hook received, and how that
//! adds up. *Invariant*: the kernel counts runs only while somebody wants to know ([`count_runs`]). That must be so from before
//! the agent is started, and then both books begin with 0.

mod balance;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::OwnedFd,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::{maps::MapInfo, programs::loaded_programs, sys::Stats};
use lb_common::abi::{Hook, names};
use lb_lab::wait_for;
use serde_json::Value;

pub use balance::{Balance, Line, Received};

/// The programs that count, and under which hook. (`sweep` sees no packets; `getpeername` only says what was asked for.)
const PROGRAMS: [(&str, Hook); 12] = [
    ("uplink_xdp", Hook::UplinkXdp),
    ("uplink_in", Hook::UplinkIn),
    ("uplink_out", Hook::UplinkOut),
    ("pod_in", Hook::PodIn),
    ("bridge_port_in", Hook::PodIn),
    ("pod_out", Hook::PodOut),
    ("host_out", Hook::HostOut),
    ("loopback_out", Hook::LoopbackOut),
    ("connect4", Hook::Connect),
    ("connect6", Hook::Connect),
    ("post_bind4", Hook::Bind),
    ("post_bind6", Hook::Bind),
];

/// How long until a moment comes in which a node sees no packet.
const QUIET: Duration = Duration::from_secs(60);
/// In how many quiet moments in a row books must differ by the same: in one, a program may have counted and not yet ended.
const CONFIRMED: u32 = 5;

/// Has the kernel count how often programs run, until the result is dropped.
///
/// # Errors
/// If the kernel refuses: it takes root.
pub fn count_runs() -> Result<OwnedFd> {
    aya::sys::enable_stats(Stats::RunTime).context("the kernel does not count how often programs run")
}

/// The books of an agent that runs.
#[derive(Clone, Debug)]
pub struct Books {
    /// The kernel's id of its map of counters.
    counters: u32,
    /// The kernel's ids of its programs when they were opened.
    programs: BTreeSet<u32>,
}

/// The kernel's book at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Runs {
    programs: BTreeSet<u32>,
    ran: BTreeMap<Hook, u64>,
}

impl Books {
    /// Opens the books of the agent that has its maps and links in the folder `pins`: once it serves, and before it could be
    /// replaced.
    ///
    /// # Errors
    /// If no such agent counts.
    pub fn open(pins: &Path) -> Result<Self> {
        // The folder of the map layout's version is the only one beside those of links.
        let folders =
            fs::read_dir(pins).with_context(|| format!("nothing is pinned in {}", pins.display()))?;
        let mut maps = folders
            .flatten()
            .map(|folder| folder.path().join(names::COUNTERS));
        let map = maps
            .find(|map| map.exists())
            .with_context(|| format!("no map `{}` is pinned below {}", names::COUNTERS, pins.display()))?;
        let counters = MapInfo::from_pin(&map)
            .with_context(|| format!("cannot open {}", map.display()))?
            .id();
        let Runs { programs, .. } = runs(counters);
        Ok(Self { counters, programs })
    }

    /// Both books when no packet comes in between the pages. `counters` gives what `lb-agent counters -o json` says.
    ///
    /// # Errors
    /// If there is no such moment, or the agent does not say what it has counted.
    pub fn balance(&self, counters: impl Fn() -> Result<Value>) -> Result<Balance> {
        let mut last = None;
        let mut confirmed = 0;
        let quiet = wait_for(QUIET, "a moment without packets, to compare the books in", || {
            let before = runs(self.counters);
            let now = counters().and_then(|counters| Balance::of(&before, &self.programs, &counters));
            if before != runs(self.counters) {
                last = None;
                return false;
            }
            let adds_up = now.as_ref().is_ok_and(Balance::adds_up);
            let same = matches!((&now, &last), (Ok(now), Some(Ok(last))) if now == last);
            confirmed = if same { confirmed + 1 } else { 1 };
            let done = adds_up || confirmed >= CONFIRMED || now.is_err();
            last = Some(now);
            done
        });
        quiet?;
        last.context("the books were read")?
    }
}

/// How often the programs with this map of counters ran.
fn runs(counters: u32) -> Runs {
    let mut runs = Runs::default();
    // A program that is gone by the time it is asked is none of a running agent's.
    for program in loaded_programs().filter_map(Result::ok) {
        let name = program.name_as_str().unwrap_or_default();
        let Some((_, hook)) = PROGRAMS.iter().find(|(known, _)| *known == name) else {
            continue;
        };
        // Programs of other nodes, and of other labs, have other maps.
        let maps = program.map_ids().ok().flatten().unwrap_or_default();
        if maps.contains(&counters) {
            runs.programs.insert(program.id());
            *runs.ran.entry(*hook).or_default() += program.run_count();
        }
    }
    runs
}
