//! Gathers what is measured, when it is asked for.

use std::{
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use lb_common::abi::{Counter, names};
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
    explain::Served,
    gc::Swept,
    http::{Answer, Respond},
    inspect::{self, Filter, Names, OutcomeRow, TrafficRow},
    load::PinDirectory,
    maps::{counted::Writes, counters::Counters, traffic},
    metrics::{self, Flows, Process, ServiceTraffic, Snapshot, SourceState, no_local_endpoints},
    model::ObjectKey,
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
            services: self.services(&cluster),
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

impl Gauges {
    /// What is counted for each Service that is there; `None`: nothing.
    fn services(&self, cluster: &Cluster) -> Option<Vec<ServiceTraffic>> {
        let all = traffic::read(|name| self.pins.map(name)).ok().flatten()?;
        let names = Names::new(cluster.served.values().flatten().map(|port| Served {
            key: ObjectKey::new(&port.id.namespace, &port.id.name),
            port_name: port.id.port_name.clone(),
            protocol: port.id.protocol,
            frontends: port.frontends.clone(),
        }));
        let rows = inspect::traffic(&all, &names, &Filter::default());
        Some(rows.into_iter().filter_map(of_service).collect())
    }
}

/// A row as metrics have it; `None`: its Service is gone.
fn of_service(row: TrafficRow) -> Option<ServiceTraffic> {
    let service = row.service?;
    let exchanged = row.exchanged;
    let packets = |rows: Vec<OutcomeRow>| {
        let counter = |row: OutcomeRow| {
            let OutcomeRow { packets, bytes, .. } = row;
            (row.outcome, Counter { packets, bytes })
        };
        rows.into_iter().map(counter).collect()
    };
    Some(ServiceTraffic {
        namespace: service.namespace,
        service: service.name,
        port: service.port,
        protocol: row.protocol,
        family: row.family,
        packets: [packets(exchanged.outcomes), packets(exchanged.answer_outcomes)],
        connections: [exchanged.flows, exchanged.connections_at_sockets],
    })
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
