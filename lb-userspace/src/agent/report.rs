//! The status of the running agent as a file, for `lb-agent status` and whoever else wants to know.

use std::{
    collections::BTreeMap,
    fs, io, process,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time};
use tracing::warn;

use super::{cluster::Cluster, devices::Devices, health::Checks};
use crate::{
    apply::Status,
    config::Instance,
    gc::Swept,
    load::{AtSockets, OnUplink},
    model::ServicePort,
};

/// Time between two writings: changes in between are written together.
const INTERVAL: Duration = Duration::from_millis(100);

/// Name of the source that is an API server.
pub(super) const KUBERNETES: &str = "kubernetes";

/// What `status.json` holds. Fields may be added in later versions.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of the agent.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Name of this node.
    pub node: String,
    /// When this was written, in seconds since 1970: only what has changed is written again.
    pub written: u64,
    /// Where objects come from.
    pub source: SourceReport,
    /// Changes that have come in, from cluster and node.
    pub generation: u64,
    /// How many of them are completely in the maps: equal to `generation` when nothing is left to do.
    pub generation_live: u64,
    /// How many service ports are live.
    pub services_live: usize,
    /// How many frontends are live.
    pub frontends_live: usize,
    /// How many backends are live.
    pub backends_live: usize,
    /// How programs are attached: `tcx` or `clsact`.
    pub attach: String,
    /// Where packets from outside are to be translated, as `--hook` says.
    pub hook: String,
    /// TC programs, as `direction program`, by name of the device.
    pub devices: BTreeMap<String, Vec<String>>,
    /// Devices that have the XDP program.
    pub xdp: BTreeMap<String, XdpReport>,
    /// What is at sockets.
    pub sockets: SocketsReport,
    /// Connections to frontends that another proxy has opened go on by the kernel's connection tracking.
    #[serde(default)]
    pub leaves_tracked: bool,
    /// Next hops towards other nodes that are kept resolved (with XDP only; TC resolves by itself).
    pub next_hops: usize,
    /// How many of them the agent has to remind the kernel of (before Linux 5.16).
    pub next_hops_reminded: usize,
    /// What is to be served on this node.
    pub services: Vec<ServiceReport>,
    /// Objects that cannot be served as they stand.
    pub problems: Vec<ProblemReport>,
    /// What the agent cannot do at present.
    pub failures: Vec<String>,
    /// Failed map writes since the start.
    pub failed_writes: Vec<FailedWrites>,
    /// Flow entries, IPv4 and IPv6.
    pub flow_entries: [u32; 2],
    /// How many entries each flow table holds.
    pub flow_capacity: u32,
    /// Expired flow entries that were removed since the start, IPv4 and IPv6.
    pub flows_expired: [u64; 2],
}

/// Where objects come from.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct SourceReport {
    /// `kubernetes` or the directory.
    pub name: String,
    /// It has told everything once.
    pub synced: bool,
    /// Failures since the start.
    pub errors: u64,
    /// Objects that could not be understood.
    pub malformed: u64,
    /// The API server that answered last, if one does.
    #[serde(default)]
    pub server: Option<String>,
    /// Nothing is known but the endpoints of the API servers, remembered from before the start.
    #[serde(default)]
    pub remembered: bool,
    /// While something fails: since when, in seconds since 1970.
    #[serde(default)]
    pub failing_since: Option<u64>,
    /// While something fails: when the API server was last heard, in seconds since 1970.
    #[serde(default)]
    pub last_heard: Option<u64>,
}

/// XDP on a device.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct XdpReport {
    /// `native` (in the driver) or `generic` (in the stack).
    pub mode: String,
    /// Why it does not run in the driver, although it was to.
    pub reason: Option<String>,
}

/// Programs at the node's sockets.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct SocketsReport {
    /// Directory of the cgroup whose processes they see.
    pub cgroup: String,
    /// Their names.
    pub programs: Vec<String>,
    /// Why some are missing.
    pub reason: Option<String>,
}

/// A Service port in one family.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServiceReport {
    /// `namespace/name`
    pub service: String,
    /// Name of the port.
    pub port_name: String,
    /// `TCP`, `UDP` or `SCTP`
    pub protocol: String,
    /// `Kind address:port`, `*` for all addresses that accept NodePorts.
    pub frontends: Vec<String>,
    /// Backends that any node would choose.
    pub backends_cluster: usize,
    /// Backends for policy Local.
    pub backends_local: usize,
}

/// Something in the cluster's objects that cannot be served as it stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProblemReport {
    /// The object.
    pub object: String,
    /// What is wrong and what would mend it.
    pub message: String,
}

/// Writes that the kernel refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FailedWrites {
    /// Name of the map.
    pub map: String,
    /// The error number.
    pub errno: i32,
    /// How often.
    pub count: u64,
}

/// What the report is made of.
pub(super) struct Sources {
    pub(super) instance: Instance,
    pub(super) node: String,
    pub(super) source: String,
    pub(super) cluster: watch::Receiver<Cluster>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) devices: watch::Receiver<Devices>,
    pub(super) swept: watch::Receiver<Swept>,
    pub(super) checks: watch::Receiver<Checks>,
    pub(super) max_flows: u32,
}

/// Writes a report whenever something has changed.
pub(super) async fn write(mut sources: Sources) {
    let mut written = Report::default();
    loop {
        let report = sources.report();
        if report != written {
            let now = seconds(SystemTime::now());
            match store(
                &sources.instance,
                &Report {
                    written: now,
                    ..report.clone()
                },
            ) {
                Ok(()) => written = report,
                Err(error) => {
                    let file = sources.instance.status_file();
                    warn!(file = %file.display(), %error, "cannot write the status file");
                }
            }
        }
        time::sleep(INTERVAL).await;
        let changed = tokio::select! {
            changed = sources.cluster.changed() => changed,
            changed = sources.status.changed() => changed,
            changed = sources.devices.changed() => changed,
            changed = sources.swept.changed() => changed,
            changed = sources.checks.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Puts the report in place as a whole: a reader sees the one before or this one.
fn store(instance: &Instance, report: &Report) -> io::Result<()> {
    let file = instance.status_file();
    let beside = file.with_extension("json.new");
    fs::write(&beside, serde_json::to_vec(report)?)?;
    fs::rename(beside, file)
}

impl Sources {
    fn report(&mut self) -> Report {
        let Self {
            instance: _,
            node,
            source,
            cluster,
            status,
            devices,
            swept,
            checks,
            max_flows,
        } = self;
        let status = status.borrow_and_update().clone();
        let devices = devices.borrow_and_update().clone();
        let swept = *swept.borrow_and_update();
        let checks = checks.borrow_and_update().clone();
        let cluster = cluster.borrow_and_update();
        let source_failures = cluster
            .source
            .failures
            .iter()
            .map(|f| format!("{}: {}", f.what, f.message));
        // A folder of manifests need not describe nodes.
        let node_missing = cluster.synced && cluster.node.is_none() && source == KUBERNETES;
        let node_missing = node_missing.then(|| {
            format!(
                "Node {node}: there is no such object, so /healthz answers 503, and this node's addresses, zone and pod \
                 ranges are unknown; if the node was renamed, start the agent with the name that `kubectl get nodes` has \
                 (--node-name, NODE_NAME)"
            )
        });
        let problem = |problem: &crate::model::Problem| ProblemReport {
            object: problem.object.clone(),
            message: problem.message.clone(),
        };
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            node: node.clone(),
            written: 0,
            source: SourceReport {
                name: source.clone(),
                synced: cluster.synced,
                errors: cluster.source.errors,
                malformed: cluster.source.malformed,
                server: cluster.source.server.clone(),
                remembered: cluster.remembered,
                failing_since: cluster.source.failing_since().map(seconds),
                last_heard: cluster.source.heard.map(seconds),
            },
            generation: status.received,
            generation_live: status.live,
            services_live: status.counts.services,
            frontends_live: status.counts.frontends,
            backends_live: status.counts.backends,
            attach: if devices.tcx { "tcx" } else { "clsact" }.to_owned(),
            hook: devices.hook.to_string(),
            devices: devices.programs,
            xdp: devices.xdp.into_iter().map(xdp).collect(),
            sockets: sockets(devices.sockets),
            leaves_tracked: status.leaves_tracked,
            next_hops: devices.kept.next_hops,
            next_hops_reminded: devices.kept.reminded,
            services: cluster.served.values().flatten().map(service).collect(),
            problems: status
                .problems
                .iter()
                .chain(&checks.problems)
                .chain(&checks.taken)
                .map(problem)
                .collect(),
            failures: source_failures
                .chain(node_missing)
                .chain(devices.failures)
                .chain(checks.failures)
                .chain(status.last_error)
                .collect(),
            failed_writes: status
                .failed_writes
                .iter()
                .map(|((map, errno), count)| FailedWrites {
                    map: (*map).to_owned(),
                    errno: *errno,
                    count: *count,
                })
                .collect(),
            flow_entries: swept.entries,
            flow_capacity: *max_flows,
            flows_expired: swept.removed,
        }
    }
}

fn xdp(on: OnUplink) -> (String, XdpReport) {
    let OnUplink { device, mode, reason } = on;
    let mode = mode.name().to_owned();
    (device, XdpReport { mode, reason })
}

fn sockets(at: AtSockets) -> SocketsReport {
    let AtSockets {
        cgroup,
        programs,
        reason,
    } = at;
    SocketsReport {
        cgroup: cgroup.map(|path| path.display().to_string()).unwrap_or_default(),
        programs: programs.into_iter().map(str::to_owned).collect(),
        reason,
    }
}

fn service(port: &ServicePort) -> ServiceReport {
    let frontend = |frontend: &crate::model::FrontendAddress| match frontend.address {
        Some(address) => {
            format!(
                "{:?} {}",
                frontend.kind,
                std::net::SocketAddr::new(address, frontend.port)
            )
        }
        None => format!("{:?} *:{}", frontend.kind, frontend.port),
    };
    ServiceReport {
        service: format!("{}/{}", port.id.namespace, port.id.name),
        port_name: port.id.port_name.clone(),
        protocol: port.id.protocol.to_string(),
        frontends: port.frontends.iter().map(frontend).collect(),
        backends_cluster: port.backends.iter().filter(|backend| backend.in_cluster).count(),
        backends_local: port.backends.iter().filter(|backend| backend.in_local).count(),
    }
}
