//! The show: phase by phase something changes, everybody connects, and what came of it is judged and printed,
//! while downloads go on.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use lb_lab::{Family, Options, Shares};

use super::change::Change;
use super::cluster::Cluster;
use super::download::{self, Running};
use super::expected::{Answer, Expected, Nobody, Phase, Row};
use super::explain;
use super::judge::{self, Addresses};
use super::table::{Finding, Line, Table};
use crate::child::say;
use crate::report::{Check, Report};

/// How long an answer may take: longer than a lost first packet costs (TCP tries again after a second).
const ANSWER: Duration = Duration::from_secs(3);
/// How long nothing must be heard to be called silence.
const SILENCE: Duration = Duration::from_millis(500);

/// Clients that connect at the same time; each makes up to 32 connections at a time.
const CLIENTS_AT_ONCE: usize = 4;

/// Plays all phases. `print` gets what people read.
pub(super) fn play(
    cluster: &mut Cluster,
    expected: &Expected,
    report: &mut Report,
    print: &mut dyn FnMut(String),
) -> Result<()> {
    let addresses: BTreeMap<_, _> = Family::BOTH
        .map(|family| (family, Addresses::of(cluster.lab.topology(), family)))
        .into();
    let mut downloads: Vec<Running<'_>> = Vec::new();
    for phase in &expected.phases {
        if let Some(change) = &phase.change {
            // The first phase is the quiet one; what lasts must be under way before anything changes.
            if downloads.is_empty() {
                downloads = download::start(cluster, expected, report)?;
            }
            let change = match change {
                Change::Remedy(cell) => explain::remedy(cluster, expected, cell, report, print)?,
                other => other.clone(),
            };
            cluster
                .change(&change)
                .with_context(|| format!("phase {}", phase.name))?;
        }
        say(format!(
            "{} ({} addresses and clients)",
            phase.title,
            phase.checks.len()
        ));
        let lines = look(cluster, expected, phase, &addresses)?;
        let table = Table {
            lines: &lines,
            addresses: &addresses,
        };
        print(format!("\n{}\n\n{table}", phase.title));
        lines.iter().for_each(|line| note(report, phase, line));
        for download in &downloads {
            print(download.look(phase, report));
        }
    }
    for download in downloads {
        print(download.finish(report));
    }
    for agent in &cluster.agents {
        let complaints = agent.complaints()?;
        let seen = if complaints.is_empty() {
            "nothing".to_owned()
        } else {
            complaints.join(", ")
        };
        report.check(Check {
            id: format!("agents/{}-complains-of", agent.node()),
            expected: "nothing".into(),
            ok: complaints.is_empty(),
            seen,
        });
    }
    Ok(())
}

/// Adds a line's findings to the report.
fn note(report: &mut Report, phase: &Phase, line: &Line<'_>) {
    for Finding {
        family, judgement, ..
    } in &line.findings
    {
        let family = match family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        };
        report.check(Check {
            id: format!("{}/{}/{family}", phase.name, line.row.id),
            expected: judgement.expected.clone(),
            seen: judgement.seen.clone(),
            ok: judgement.ok,
        });
    }
}

/// Makes all connections of a phase: several clients at the same time, each its own ones one after the other.
fn look<'a>(
    cluster: &Cluster,
    expected: &'a Expected,
    phase: &'a Phase,
    addresses: &BTreeMap<Family, Addresses>,
) -> Result<Vec<Line<'a>>> {
    let mut by_client: BTreeMap<&str, Vec<(usize, &Row)>> = BTreeMap::new();
    for (position, row) in phase.checks.iter().enumerate() {
        by_client.entry(&row.from).or_default().push((position, row));
    }
    let queue = Mutex::new(by_client.into_values());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<Vec<_>> {
        let mut lines = Vec::new();
        while let Some(rows) = next() {
            lines.extend(visit(cluster, expected, rows, addresses)?);
        }
        Ok(lines)
    };
    let results = thread::scope(|scope| {
        let workers: Vec<_> = (0..CLIENTS_AT_ONCE).map(|_| scope.spawn(work)).collect();
        let results = workers
            .into_iter()
            .map(|worker| worker.join().expect("connecting does not panic"));
        results.collect::<Result<Vec<_>>>()
    })?;
    let mut lines: Vec<_> = results.into_iter().flatten().collect();
    // In the order of the file, but all lines of an address together.
    let first_use = |to: &str| phase.checks.iter().position(|row| row.to == to);
    lines.sort_by_key(|(position, line)| (first_use(&line.row.to), *position));
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

/// Makes the connections of one client.
fn visit<'a>(
    cluster: &Cluster,
    expected: &'a Expected,
    mut rows: Vec<(usize, &'a Row)>,
    addresses: &BTreeMap<Family, Addresses>,
) -> Result<Vec<(usize, Line<'a>)>> {
    // The way of a client outside is switched as seldom as possible.
    rows.sort_by_key(|(position, row)| (&row.via, *position));
    let mut way: Option<&str> = None;
    let visit_one = |(position, row): (usize, &'a Row)| {
        if let Some(via) = row.via.as_deref()
            && way != Some(via)
        {
            cluster.lab.steer(&row.from, via)?;
            way = Some(via);
        }
        let address = expected.address(&row.to);
        let find = |family| -> Result<Finding> {
            let shares = connect(cluster, row, address.proto, address.of(family))
                .with_context(|| format!("{} from {}", row.to, row.from))?;
            let judgement = judge::judge(&row.answer, &row.from, &shares, &addresses[&family]);
            Ok(Finding {
                family,
                shares,
                judgement,
            })
        };
        let findings = Family::BOTH.into_iter().map(find).collect::<Result<_>>()?;
        Ok((
            position,
            Line {
                row,
                address,
                findings,
            },
        ))
    };
    rows.into_iter().map(visit_one).collect()
}

fn connect(
    cluster: &Cluster,
    row: &Row,
    proto: lb_lab::Proto,
    address: std::net::SocketAddr,
) -> Result<Shares> {
    let place = cluster.lab.at(&row.from)?;
    let (attempts, timeout) = match row.answer {
        Answer::Nobody(Nobody::Silent) => (judge::attempts(&row.answer), SILENCE),
        _ => (judge::attempts(&row.answer), ANSWER),
    };
    let options = Options::within(timeout);
    if matches!(row.answer, Answer::Pods(_)) {
        // Where nobody answers, two attempts show it as well as a hundred do, and much sooner.
        let pilot = place.probe_with(proto, address, 2, &options)?;
        if pilot.answers() == 0 {
            return Ok(pilot);
        }
    }
    place.probe_with(proto, address, attempts, &options)
}
