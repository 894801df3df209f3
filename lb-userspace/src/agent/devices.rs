//! Follows the node: programs on its devices, routes to `lb0`, neighbours on the way to other nodes.
//!
//! *Invariant*: a device gets its programs only once the maps know it, and the routes lead to `lb0` only
//! once a program is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time};
use tracing::{info, warn};

use super::{cluster::Cluster, health::Health};
use crate::{
    apply::{self, Inbox, Status},
    load::{AtSockets, Attachments, OnUplink, Target, UplinkHook},
    model::NodeFacts,
    node::{
        PortSet,
        host::{Host, Kept, Others},
    },
};

/// What failed on a device is tried again this often; devices recover without telling.
const RETRY: Duration = Duration::from_secs(2);

/// How often it is looked whether the next hops are still kept resolved: routes and neighbours change without being
/// followed here, and meanwhile TC does what XDP cannot.
const NEXT_HOPS: Duration = Duration::from_secs(10);

/// What is attached, and what is not.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Devices {
    /// Programs are attached by links (tcx) rather than filters (clsact).
    pub(super) tcx: bool,
    /// What is to be at the uplinks' XDP hooks.
    pub(super) hook: UplinkHook,
    /// Programs, as `direction program`, by name of the device.
    pub(super) programs: BTreeMap<String, Vec<String>>,
    /// The devices that have the XDP program.
    pub(super) xdp: Vec<OnUplink>,
    /// What is at sockets.
    pub(super) sockets: AtSockets,
    /// Next hops towards other nodes that are kept resolved.
    pub(super) kept: Kept,
    /// What cannot be done at present.
    pub(super) failures: Vec<String>,
}

/// What is brought in line with the node.
pub(super) struct Equipment {
    pub(super) attachments: Attachments,
    pub(super) host: Host,
}

/// What there is to follow.
pub(super) struct Followed {
    pub(super) facts: watch::Receiver<NodeFacts>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) cluster: watch::Receiver<Cluster>,
}

/// Follows the node until there is nothing to follow any more.
pub(super) async fn follow(
    mut equipment: Equipment,
    mut followed: Followed,
    changes: Inbox,
    health: Health,
    devices: watch::Sender<Devices>,
) {
    let mut known = Known::default();
    let mut look = time::Instant::now();
    let xdp = equipment.attachments.hook().is_xdp();
    loop {
        let (addresses, node_ports, others) = {
            let cluster = followed.cluster.borrow_and_update();
            let others = Others {
                nodes: cluster.other_nodes.clone(),
                pods: cluster
                    .other_pod_prefixes
                    .iter()
                    .map(|(first, _)| *first)
                    .collect(),
            };
            (cluster.addresses(), cluster.node_ports(), others)
        };
        let now = Known {
            facts: followed.facts.borrow_and_update().clone(),
            written: followed.status.borrow_and_update().devices.clone(),
            addresses,
            node_ports,
            others,
        };
        if now.facts != known.facts {
            changes.send(apply::Change::Facts(Arc::new(now.facts.clone())));
        }
        let failed = !devices.borrow().failures.is_empty();
        if now != known || failed || look.elapsed() >= NEXT_HOPS {
            known = now;
            look = time::Instant::now();
            let state = equipment.bring_in_line(&known).await;
            if !state.programs.is_empty() {
                health.programs_are_attached();
            }
            devices.send_if_modified(|before| before.replace(state));
        }
        let failed = !devices.borrow().failures.is_empty();
        let changed = tokio::select! {
            changed = followed.facts.changed() => changed,
            changed = followed.status.changed() => changed,
            changed = followed.cluster.changed() => changed,
            () = time::sleep(RETRY), if failed => Ok(()),
            () = time::sleep_until(look + NEXT_HOPS), if xdp => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

/// What the equipment depends on.
#[derive(PartialEq, Eq, Default)]
struct Known {
    facts: NodeFacts,
    /// Interface indices of the devices that the maps know.
    written: BTreeSet<u32>,
    addresses: BTreeSet<IpAddr>,
    node_ports: PortSet,
    others: Others,
}

impl Equipment {
    async fn bring_in_line(&mut self, known: &Known) -> Devices {
        let Known {
            facts,
            written,
            addresses,
            node_ports,
            others,
        } = known;
        let targets = facts
            .devices
            .iter()
            .filter(|(index, _)| written.contains(index))
            .map(|(index, device)| Target {
                index: *index,
                name: device.name.clone(),
                kind: device.kind,
            });
        let mut failures: Vec<String> = self.attachments.sync(targets).iter().map(|e| chain(e)).collect();
        failures.extend(
            self.host
                .sync(addresses.iter().copied(), facts)
                .await
                .iter()
                .map(|e| chain(e)),
        );
        failures.extend(
            self.host
                .reserve(node_ports)
                .await
                .err()
                .map(|error| chain(&error)),
        );
        // TC resolves by itself. Without XDP only what a process before has kept is let go.
        let none = Others::default();
        let others = if self.attachments.hook().is_xdp() {
            others
        } else {
            &none
        };
        let (kept, errors) = self.host.keep_resolved(others, facts).await;
        failures.extend(errors.iter().map(|e| chain(e)));
        let mut programs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (device, direction, program) in self.attachments.list() {
            programs
                .entry(device.to_owned())
                .or_default()
                .push(format!("{direction} {program}"));
        }
        Devices {
            tcx: self.attachments.uses_tcx(),
            hook: self.attachments.hook(),
            programs,
            xdp: self.attachments.list_xdp().cloned().collect(),
            sockets: self.attachments.at_sockets().clone(),
            kept,
            failures,
        }
    }
}

impl Devices {
    /// Takes over a newer state and tells what is new in it; whether anything is.
    fn replace(&mut self, newer: Self) -> bool {
        for failure in newer
            .failures
            .iter()
            .filter(|failure| !self.failures.contains(failure))
        {
            warn!("{failure}");
        }
        if self.programs != newer.programs {
            info!(devices = ?newer.programs.keys().collect::<Vec<_>>(), "programs are attached");
        }
        for on in newer.xdp.iter().filter(|on| !self.xdp.contains(on)) {
            let OnUplink { device, mode, reason } = on;
            match reason {
                None => info!(device, %mode, "XDP is attached"),
                Some(reason) => warn!(
                    device,
                    reason,
                    "XDP is attached in the stack (generic), since the driver cannot run it: it works the same, but \
                     slower"
                ),
            }
        }
        if self.sockets != newer.sockets {
            let AtSockets {
                cgroup,
                programs,
                reason,
            } = &newer.sockets;
            match reason {
                None => info!(?cgroup, ?programs, "sockets are seen"),
                Some(reason) => warn!(
                    ?cgroup,
                    ?programs,
                    reason,
                    "sockets are not all seen; TC serves them alone"
                ),
            }
        }
        let modified = *self != newer;
        *self = newer;
        modified
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}
