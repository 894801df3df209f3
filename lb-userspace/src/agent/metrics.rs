//! Gathers what is measured, when it is asked for.

use std::{
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use lb_common::abi::names;
use tokio::sync::watch;

use super::{
    cluster::Cluster,
    devices::Devices,
    health::{Answers, Checks, Health},
    report,
    stale::Stale,
};
use crate::{
    apply::{Backlog, Status},
    gc::Swept,
    http::{Answer, Respond},
    load::PinDirectory,
    maps::{counted::Writes, counters::Counters},
    metrics::{self, Flows, Process, Snapshot, SourceState, no_local_endpoints},
};

/// Where the numbers are.
#[derive(Clone)]
pub(super) struct Gauges {
    pub(super) pins: PinDirectory,
    pub(super) backlog: Arc<Backlog>,
    pub(super) writes: Writes,
    pub(super) cluster: watch::Receiver<Cluster>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) devices: watch::Receiver<Devices>,
    pub(super) checks: watch::Receiver<Checks>,
    pub(super) stale: watch::Receiver<Stale>,
    pub(super) swept: watch::Receiver<Swept>,
    pub(super) answers: Arc<Answers>,
    pub(super) max_flows: u32,
}

impl Gauges {
    fn snapshot(&self) -> Snapshot {
        let status = self.status.borrow().clone();
        let checks = self.checks.borrow().clone();
        let swept = *self.swept.borrow();
        let stale = self.stale.borrow().clone();
        let (devices, failing) = {
            let devices = self.devices.borrow();
            (devices.programs.len(), devices.failures.len())
        };
        let cluster = self.cluster.borrow();
        let source = SourceState {
            synced: cluster.synced,
            failing: cluster.source.failures.len(),
            remembered: cluster.remembered,
            failing_since: cluster.source.failing_since().map_or(0, report::seconds),
            last_heard: cluster.source.heard.map_or(0, report::seconds),
            failing_for: cluster.source.failing_for(SystemTime::now()),
            errors: cluster.source.errors,
            malformed: cluster.source.malformed,
        };
        let count = |answers: &[std::sync::atomic::AtomicU64; 2]| {
            [0, 1].map(|code| answers[code].load(Ordering::Relaxed))
        };
        Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            waits: self.backlog.waits(),
            no_local: no_local_endpoints(cluster.served.values().flatten()),
            healthz: count(&self.answers.healthz),
            livez: count(&self.answers.livez),
            health_checks: checks.open,
            flows: Flows {
                entries: swept.entries,
                capacity: self.max_flows,
                expired: swept.removed,
                walks: stale.walks,
                stale: stale.removed,
            },
            counters: Counters::read(&self.pins.map(names::COUNTERS)).ok(),
            writes: self.writes.list(),
            source,
            failures: source.failing
                + failing
                + checks.failures.len()
                + usize::from(status.last_error.is_some()),
            problems: (status
                .problems
                .iter()
                .chain(&checks.problems)
                .chain(&checks.taken))
            .cloned()
            .collect(),
            status,
            devices,
            process: Process::read(),
        }
    }
}

/// Answers for the metrics; before the agent serves there are none.
pub(super) fn respond(health: &Health, gauges: watch::Receiver<Option<Gauges>>) -> Respond {
    let health = health.clone();
    Arc::new(move |path| match path {
        "/metrics" => match &*gauges.borrow() {
            Some(gauges) => metrics::render(&gauges.snapshot()),
            None => Answer::text(503, "the agent still waits for the first complete lists\n"),
        },
        // What kube-proxy calls its mode; scripts ask for it.
        "/proxyMode" => Answer::text(200, "ebpf"),
        "/healthz" => match health.plane().is_alive() {
            true => Answer::text(200, "ok"),
            false => Answer::text(503, "a change has waited too long for the maps"),
        },
        _ => Answer::not_found("/metrics, /proxyMode and /healthz"),
    })
}
