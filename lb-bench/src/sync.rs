//! What it costs to follow a cluster: objects in memory to real maps, changes, the agent's own memory, and how long
//! explaining takes among many Services.

mod agent;
mod explain;
mod memory;
mod objects;
mod site;
mod watched;

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use lb_common::abi::{Rows, names};
use lb_userspace::{apply, model::Change};

use self::{
    objects::{Endpoints, changes, slice},
    site::Site,
};
use crate::{
    document::{Check, Document},
    processor,
};

/// Services of the rows that do not say otherwise.
const SERVICES: u32 = 10_000;
/// Endpoints of each.
const ENDPOINTS: u32 = 10;
/// Services side by side.
const SIZES: [u32; 3] = [1_000, SERVICES, 30_000];
/// Changes whose times are taken.
const CHANGES: u32 = 300;
/// How long after one change the next one comes: the first one must not be in its way.
const REST: Duration = Duration::from_millis(40);
/// How long a change may take at most, before something must be wrong.
const LIMIT: Duration = Duration::from_secs(5);

/// Seconds of the processor's time for all of [`SERVICES`].
const ALL: f64 = 1.0;
/// Milliseconds from an event to the map, 99 of 100.
const EVENT: f64 = 5.0;
/// Writes for one changed endpoint: its Service's backends and table, a set, a word.
const WRITES: usize = 40;
/// How much more a change may cost among thirty times as many Services.
const GROWTH: f64 = 2.0;
/// Per cent of tables of a fixed size.
const TABLES: f64 = 5.0;
/// Rows, and bytes of a row, of the tables that ours are compared with.
const FIXED: (u64, u64) = (16_381, 4);

/// What can be measured by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Part {
    /// Processor time and writes, of everything and of changes.
    Cost,
    /// Memory of lookup tables.
    Tables,
    /// From an event to the map.
    Events,
    /// The agent's memory.
    Memory,
    /// How long `lb-agent explain` takes.
    Explain,
}

/// Measures these parts; `agent` is the agent's program.
pub(crate) fn measure(parts: &[Part], rounds: usize, agent: &Path) -> Result<Document> {
    let mut document = Document::default();
    for part in parts {
        match part {
            Part::Cost => {
                let mut costs = Vec::new();
                for services in SIZES {
                    costs.push((services, size(services, rounds, &mut document)?));
                }
                growth(&costs, &mut document);
            }
            Part::Tables => tables(&mut document)?,
            Part::Events => events(&mut document)?,
            Part::Memory => memory::measure(agent, &mut document)?,
            Part::Explain => explain::measure(agent, &mut document)?,
        }
    }
    Ok(document)
}

/// Costs of one change.
struct Cost {
    /// Microseconds of the processor's time, median.
    micros: f64,
    writes: usize,
}

/// One number of Services: everything at once, nothing new, one endpoint, all endpoints of a Service.
fn size(services: u32, rounds: usize, document: &mut Document) -> Result<Cost> {
    say(format!("{services} Services"));
    let objects = changes(services, Endpoints::Each(ENDPOINTS));
    let mut best = f64::INFINITY;
    let mut site = Site::new()?;
    for round in 0..rounds.max(1) {
        if round > 0 {
            site = Site::new()?;
        }
        let input = objects.clone();
        let before = processor::time()?;
        site.apply(input)?;
        best = best.min((processor::time()? - before).as_secs_f64());
    }
    let written = site.account.take();
    let summary = format!("{best:.2} s of processor time; writes: {}", written.summary());
    document
        .table
        .push(format!("{services} Services at once: {summary}"));
    if services == SERVICES {
        let id = format!("sync-{services}-services-cpu");
        check(
            document,
            id,
            format!("<= {ALL} s"),
            format!("{best:.2} s"),
            best <= ALL,
        );
    }

    site.apply(objects)?;
    let repeated = site.account.take();
    let id = format!("sync-{services}-services-told-again-writes");
    check(
        document,
        id,
        "0".into(),
        repeated.maps.len().to_string(),
        repeated.maps.is_empty(),
    );

    let mut times = Vec::new();
    let mut writes = 0;
    for n in 0..CHANGES {
        let change = one_endpoint(spread(n, services), 0);
        let before = processor::time()?;
        site.apply([change])?;
        times.push((processor::time()? - before).as_secs_f64() * 1e6);
        writes = site.account.take().maps.len();
    }
    times.sort_by(f64::total_cmp);
    let cost = Cost {
        micros: times[times.len() / 2],
        writes,
    };
    document.table.push(format!(
        "{services} Services, one endpoint changes: {:.0} us of processor time (median), {} writes",
        cost.micros, cost.writes
    ));
    if services == SERVICES {
        one_switch(&mut site, document)?;
    }
    Ok(cost)
}

/// All endpoints of a Service replaced: everything is written before its one word, which changes all at once.
fn one_switch(site: &mut Site, document: &mut Document) -> Result<()> {
    site.apply([Change::SliceApplied(slice(SERVICES / 2, 100..100 + ENDPOINTS))])?;
    let written = site.account.take();
    let words = written.count_of(names::SERVICES[0]);
    let last = written.maps.last() == Some(&names::SERVICES[0]);
    check(
        document,
        "sync-all-endpoints-replaced-switches".into(),
        "1, after everything else".into(),
        format!(
            "{words}{}; {}",
            if last { ", after everything else" } else { "" },
            written.summary()
        ),
        words == 1 && last,
    );
    Ok(())
}

/// What did not change must not cost.
fn growth(costs: &[(u32, Cost)], document: &mut Document) {
    let [(_, few), .., (_, many)] = costs else { return };
    let growth = many.micros / few.micros;
    check(
        document,
        "sync-one-endpoint-cpu-30000-to-1000-services".into(),
        format!("<= {GROWTH:.2} times"),
        format!("{growth:.2} times ({:.0} us, {:.0} us)", many.micros, few.micros),
        growth <= GROWTH,
    );
    let writes: Vec<_> = costs.iter().map(|(_, cost)| cost.writes).collect();
    let same = writes.iter().all(|count| *count == writes[0]);
    check(
        document,
        "sync-one-endpoint-writes".into(),
        format!("<= {WRITES}, the same among 1,000, 10,000 and 30,000 Services"),
        format!("{writes:?}"),
        same && writes[0] <= WRITES,
    );
}

/// The memory of lookup tables, of a mixture of Services.
fn tables(document: &mut Document) -> Result<()> {
    say("lookup tables of a mixture");
    let mut site = Site::new()?;
    site.apply(changes(SERVICES, Endpoints::Mixed))?;
    let bytes = (site.account.take().count_of(names::MAGLEV) * size_of::<Rows>()) as f64;
    let fixed = (u64::from(SERVICES) * FIXED.0 * FIXED.1) as f64;
    let share = 100.0 * bytes / fixed;
    check(
        document,
        "sync-maglev-memory-of-a-mixture".into(),
        format!("<= {TABLES} % of fixed tables"),
        format!("{share:.2} % ({:.1} MiB)", bytes / f64::from(1 << 20)),
        share <= TABLES,
    );
    Ok(())
}

/// From an event to the map, through the reconciler's thread, one change at a time.
fn events(document: &mut Document) -> Result<()> {
    say("events, one at a time");
    let mut site = Site::new()?;
    site.apply(changes(SERVICES, Endpoints::Each(ENDPOINTS)))?;
    let status = site.reconciler.status();
    // As in the agent, objects and reconciler are on threads of their own.
    let Site {
        mut objects,
        reconciler,
        account,
        inbox,
        changes,
        ..
    } = site;
    let thread = thread::spawn(move || reconciler.run(&changes));
    let mut times = Vec::new();
    for n in 0..CHANGES {
        thread::sleep(REST);
        account.take();
        let change = one_endpoint(spread(n, SERVICES), 1);
        let start = Instant::now();
        let update = objects.update([change]);
        inbox.send(apply::Change::Desired(update));
        let switched = loop {
            if let Some(switched) = account.switched() {
                break switched;
            }
            ensure!(start.elapsed() < LIMIT, "a change is not written");
            thread::sleep(Duration::from_micros(200));
        };
        times.push((switched - start).as_secs_f64() * 1e3);
        while status.borrow().live != status.borrow().received {
            ensure!(start.elapsed() < LIMIT, "a change is not completed");
            thread::sleep(Duration::from_millis(1));
        }
    }
    drop(inbox);
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("the reconciler has panicked"))?;
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    check(
        document,
        "sync-one-endpoint-event-to-map-p99".into(),
        format!("<= {EVENT} ms"),
        format!("{:.2} ms (median {:.2}, worst {:.2})", at(99), at(50), at(100)),
        at(99) <= EVENT,
    );
    Ok(())
}

/// One endpoint of a Service replaced by one that it never had.
fn one_endpoint(service: u32, variant: u32) -> Change {
    let new = 20 + variant;
    Change::SliceApplied(slice(service, (1..ENDPOINTS).chain([new])))
}

/// The `n`-th Service of a walk all over them.
fn spread(n: u32, services: u32) -> u32 {
    (u64::from(n) * 7919 % u64::from(services)) as u32
}

fn check(document: &mut Document, id: String, expected: String, seen: String, ok: bool) {
    let mark = if ok { "ok" } else { "MISSED" };
    document
        .table
        .push(format!("{id}: {seen}, target {expected}: {mark}"));
    document.checks.push(Check {
        id,
        expected,
        seen,
        ok,
    });
}

fn say(line: impl std::fmt::Display) {
    eprintln!("lb-bench: {line}");
}
