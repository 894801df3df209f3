//! The values that metrics are made of, as they are at one moment.

use std::{collections::BTreeMap, time::Duration};

use lb_common::abi::Counter;

use crate::{
    apply::{Histogram, Status, Waits},
    maps::{counted::MapWrites, counters::Counters},
    model::{Problem, ServicePort},
};

use super::Process;

/// Everything that is measured.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Version of the agent.
    pub version: &'static str,
    /// What is asked for and not live.
    pub waits: Waits,
    /// How far the maps have followed.
    pub status: Status,
    /// Service ports that clients do not reach here.
    pub no_local: NoLocal,
    /// Answers of `/healthz`: 200 and 503.
    pub healthz: [u64; 2],
    /// Answers of `/livez`: 200 and 503.
    pub livez: [u64; 2],
    /// Open listeners of Services' health checks.
    pub health_checks: usize,
    /// The flow tables.
    pub flows: Flows,
    /// What the programs count; `None`: they cannot be read.
    pub counters: Option<Counters>,
    /// What they count for each Service; `None`: nothing.
    pub services: Option<Vec<ServiceTraffic>>,
    /// What was done to the maps.
    pub writes: Vec<MapWrites>,
    /// Where objects come from.
    pub source: SourceState,
    /// What cannot be served as it stands.
    pub problems: Vec<Problem>,
    /// What the agent cannot do at present.
    pub failures: usize,
    /// Devices with programs.
    pub devices: usize,
    /// This process.
    pub process: Process,
}

/// What was counted for a port of a Service in one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceTraffic {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// The port's name; empty if it has none.
    pub port: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// Packets from clients, and from backends.
    pub packets: [Vec<(&'static str, Counter)>; 2],
    /// New flows, and connections that got their backend at their socket.
    pub connections: [u64; 2],
}

/// The flow tables: IPv4 and IPv6.
#[derive(Clone, Debug)]
pub struct Flows {
    /// Entries now.
    pub entries: [u32; 2],
    /// Entries that fit.
    pub capacity: u32,
    /// Idle entries that were removed.
    pub expired: [u64; 2],
    /// Walks in search of UDP flows whose backend no longer serves.
    pub walks: [Histogram; 2],
    /// Flows removed by them.
    pub stale: [u64; 2],
}

/// How the source of objects fares.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SourceState {
    /// It has told everything once.
    pub synced: bool,
    /// Things that it cannot do at present.
    pub failing: usize,
    /// Nothing is known but what is remembered from before the start.
    pub remembered: bool,
    /// When it was last heard, in seconds since 1970, while something fails; 0: nothing does, or it never was.
    pub last_heard: u64,
    /// For how long at least one of them; zero: there is none.
    pub failing_for: Duration,
    /// Failures since the start.
    pub errors: u64,
    /// Objects that could not be understood, since the start.
    pub malformed: u64,
}

/// Service ports with a policy Local that have usable endpoints, but none here: by family.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NoLocal {
    /// For the internal policy.
    pub internal: [u64; 2],
    /// For the external policy.
    pub external: [u64; 2],
}

/// Counts the Service ports whose policy Local keeps clients from endpoints that exist elsewhere. A port without
/// any endpoint is not counted: policy Cluster would not help it.
#[must_use]
pub fn no_local_endpoints<'a>(ports: impl IntoIterator<Item = &'a ServicePort>) -> NoLocal {
    let mut counts = NoLocal::default();
    for port in ports {
        let none_here = port.endpoints_exist && !port.backends.iter().any(|backend| backend.in_local);
        let family = usize::from(port.id.ipv6);
        counts.internal[family] += u64::from(none_here && port.internal_local);
        counts.external[family] += u64::from(none_here && port.external_local);
    }
    counts
}

impl Snapshot {
    /// How many problems there are of each kind of object. A file is of the kind `file`.
    pub(super) fn problems_by_kind(&self) -> BTreeMap<&str, usize> {
        let mut kinds: BTreeMap<_, _> = ["EndpointSlice", "Node", "Service", "file"]
            .map(|kind| (kind, 0))
            .into();
        for problem in &self.problems {
            let kind = problem.object.split(' ').next().unwrap_or_default();
            let kind = if kinds.contains_key(kind) { kind } else { "file" };
            *kinds.entry(kind).or_default() += 1;
        }
        kinds
    }
}
