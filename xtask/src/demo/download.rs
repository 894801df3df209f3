//! Downloads that last while the cluster changes, every byte compared with what it must be.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use lb_lab::Stream;

use super::cluster::Cluster;
use super::expected::{Download, Expected, Phase};
use crate::report::{Check, Report};

/// Bytes a second.
const RATE: u64 = 12 << 20;
/// What must come in after a change for the download to count as going on.
const PROOF: u64 = 1 << 20;
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest pause that counts as undisturbed: below the second after which TCP calls a first loss repaired.
const PAUSE: Duration = Duration::from_millis(900);
/// Connections that are opened until the wanted pod serves one.
const TRIES: u32 = 60;

/// A download under way.
pub(super) struct Running<'a> {
    wanted: &'a Download,
    stream: Stream,
}

/// Starts all downloads.
pub(super) fn start<'a>(
    cluster: &Cluster,
    expected: &'a Expected,
    report: &mut Report,
) -> Result<Vec<Running<'a>>> {
    let mut running = Vec::new();
    for wanted in &expected.downloads {
        let id = format!("download/{}/start", wanted.id);
        let should = format!("a download from {} that {} serves", wanted.to, wanted.by);
        match open(cluster, expected, wanted) {
            Ok(stream) => {
                report.pass(id, should);
                running.push(Running { wanted, stream });
            }
            Err(error) => report.fail(id, should, format!("{error:#}")),
        }
    }
    Ok(running)
}

/// Opens connections until the wanted pod serves one.
fn open(cluster: &Cluster, expected: &Expected, wanted: &Download) -> Result<Stream> {
    let place = cluster.lab.at(&wanted.from)?;
    if let Some(via) = &wanted.via {
        cluster.lab.steer(&wanted.from, via)?;
    }
    let address = expected.address(&wanted.to).of(wanted.family);
    for _ in 0..TRIES {
        let stream = place.stream(address, RATE)?;
        stream
            .wait_for_more(1, PATIENCE)
            .with_context(|| format!("nothing comes from {address}"))?;
        if stream.report().by.contains_key(&wanted.by) {
            return Ok(stream);
        }
    }
    bail!(
        "{TRIES} downloads from {address}, and {} served none of them",
        wanted.by
    )
}

impl Running<'_> {
    /// Whether it still goes on: a line for people, a check for the report.
    pub(super) fn look(&self, phase: &Phase, report: &mut Report) -> String {
        let id = format!("{}/download-{}-goes-on", phase.name, self.wanted.id);
        let seen = match self.stream.wait_for_more(PROOF, PATIENCE) {
            Ok(()) => {
                report.pass(id, "more of it comes in");
                "goes on".to_owned()
            }
            Err(error) => {
                report.fail(id, "more of it comes in", format!("{error:#}"));
                format!("BROKE: {error:#}")
            }
        };
        format!(
            "  download of {} from {} (served by {}) {seen}: {} MB so far",
            self.wanted.from,
            self.wanted.to,
            self.wanted.by,
            self.stream.report().received >> 20
        )
    }

    /// Ends it and judges the whole of it.
    pub(super) fn finish(self, report: &mut Report) -> String {
        let end = self.stream.stop();
        let mut faults = Vec::new();
        faults.extend(end.error.clone());
        if end.longest_gap > PAUSE {
            faults.push(format!("a pause of {:?}", end.longest_gap));
        }
        if end.by.len() != 1 || !end.by.contains_key(&self.wanted.by) {
            faults.push(format!("served by {:?}", end.by));
        }
        let amount = format!(
            "{} MB, longest pause {} ms",
            end.received >> 20,
            end.longest_gap.as_millis()
        );
        let ok = faults.is_empty();
        let seen = if ok {
            format!("every byte right: {amount}")
        } else {
            format!("{} ({amount})", faults.join(", "))
        };
        report.check(Check {
            id: format!("download/{}/whole", self.wanted.id),
            expected: format!(
                "every byte right, all from {}, no pause above {} ms",
                self.wanted.by,
                PAUSE.as_millis()
            ),
            seen: seen.clone(),
            ok,
        });
        format!(
            "  download of {} from {}: {seen}",
            self.wanted.from, self.wanted.to
        )
    }
}
