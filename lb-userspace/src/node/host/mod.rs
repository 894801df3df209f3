//! What is set up on the node beside programs and maps: `lb0`, routes to it, a few kernel settings.
//!
//! Node processes reach Services by `lb0`: routing comes before TC egress, so without a route to it an on-link
//! Service address would wait for ARP for ever, and a node without a default route would answer ENETUNREACH. A
//! route binds no address: no Service address is ever local. Everything here can be taken back ([`remove`]).
//! What is only forwarded to an address outside the ClusterIPs' ranges, and is not ours, never sees those routes.

mod device;
mod neighbours;
mod routes;
mod rules;
mod settings;

use std::{net::IpAddr, ops::RangeInclusive};

use lb_common::abi::DeviceKind;
use rtnetlink::Handle;
use tokio::task::JoinHandle;

use super::{
    PortSet, Prefix,
    sysctl::{self, SysctlError, Sysctls},
};
use crate::model::NodeFacts;
use device::Lb0;
use settings::Undo;

pub use neighbours::{Kept, Others};
pub use routes::wanted as wanted_routes;

/// The smallest MTU that IPv6 works with.
const MIN_MTU: u32 = 1280;

/// What the operator has decided.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ranges of Service addresses: one route each, instead of one for every address inside.
    pub service_cidrs: Vec<Prefix>,
    /// Ports that SNAT takes for itself.
    pub snat_ports: RangeInclusive<u16>,
    /// Where kernel settings are written.
    pub sysctls: Sysctls,
}

/// What could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No netlink socket.
    #[error("cannot open a netlink socket; is the agent allowed to (CAP_NET_ADMIN, seccomp)?")]
    Socket(#[source] std::io::Error),
    /// A device of that name is there, and is not ours.
    #[error("a device named {0} exists and is not the agent's: rename or delete it")]
    Foreign(&'static str),
    /// A device cannot be made or changed.
    #[error("cannot {action} device {device}")]
    Device {
        /// What was tried.
        action: &'static str,
        /// Name of the device.
        device: &'static str,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
    /// A route cannot be made or removed.
    #[error("cannot {action} route {destination} dev lb0: does another route to it exist?")]
    Route {
        /// What was tried.
        action: &'static str,
        /// Where it leads.
        destination: Prefix,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
    /// The rules for this node's own packets cannot be read, made or removed.
    #[error("cannot change the routing rules `iif lo lookup 108`")]
    Rules(#[source] rtnetlink::Error),
    /// The routes cannot be read.
    #[error("cannot read the routes of lb0")]
    Routes(#[source] rtnetlink::Error),
    /// The neighbours cannot be read.
    #[error("cannot read the neighbours by netlink")]
    Neighbours(#[source] rtnetlink::Error),
    /// A neighbour cannot be kept resolved, or let go.
    #[error("cannot {action} the neighbour {address} on the device of index {device}")]
    Neighbour {
        /// What was tried.
        action: &'static str,
        /// Its address.
        address: IpAddr,
        /// Interface index of the way to it.
        device: u32,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
    /// A kernel setting cannot be changed.
    #[error(transparent)]
    Setting(#[from] SysctlError),
}

/// `lb0`, ready for use.
#[derive(Debug)]
pub struct Host {
    netlink: Netlink,
    lb0: Lb0,
    service_cidrs: Vec<Prefix>,
    snat_ports: PortSet,
    sysctls: Sysctls,
    /// How it was before us.
    undo: Undo,
}

/// A netlink connection, driven by a task of its own.
#[derive(Debug)]
struct Netlink {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Host {
    /// Makes `lb0` if it is not there, reserves the ports and changes the settings. In the network namespace of
    /// the calling thread.
    ///
    /// # Errors
    /// If any of it fails: without it node processes are not served, or ports are used twice.
    pub async fn ensure(options: Options) -> Result<Self, HostError> {
        let Options {
            service_cidrs,
            snat_ports,
            sysctls,
        } = options;
        let netlink = Netlink::open()?;
        let lb0 = match device::find(&netlink.handle).await? {
            Some(lb0) => lb0,
            None => device::create(&netlink.handle).await?,
        };
        let before: Undo = lb0.alias.parse().unwrap_or_default();
        let snat_ports = PortSet::from(snat_ports);
        // NodePorts are not known yet: those of a process before stay reserved until they are.
        let plan = settings::plan(
            &sysctls,
            &before,
            &snat_ports.union(&before.ports()),
            &PortSet::default(),
        );
        // Noted before it is done: after a crash in between there is too much to undo, not too little.
        if plan.undo != before {
            device::set_alias(&netlink.handle, &lb0, &plan.undo.to_string()).await?;
        }
        plan.apply(&sysctls)?;
        device::bring_up(&netlink.handle, &sysctls, &lb0).await?;
        Ok(Self {
            netlink,
            lb0,
            service_cidrs,
            snat_ports,
            sysctls,
            undo: plan.undo,
        })
    }

    /// Reserves the NodePorts that the kernel would give to connections of this node otherwise; gives back those
    /// that are none any more.
    ///
    /// # Errors
    /// If the kernel refuses. It is to be tried again.
    pub async fn reserve(&mut self, node_ports: &PortSet) -> Result<(), HostError> {
        let plan = settings::plan(&self.sysctls, &self.undo, &self.snat_ports, node_ports);
        if plan.undo != self.undo {
            device::set_alias(&self.netlink.handle, &self.lb0, &plan.undo.to_string()).await?;
        }
        plan.apply(&self.sysctls)?;
        self.undo = plan.undo;
        Ok(())
    }

    /// Interface index of `lb0`.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.lb0.index
    }

    /// Brings routes, MTU and bridges' settings in line with the Service addresses and the node's devices. What
    /// fails keeps nothing else waiting, and is tried again by the next call.
    pub async fn sync(
        &mut self,
        service_addresses: impl IntoIterator<Item = IpAddr>,
        facts: &NodeFacts,
    ) -> Vec<HostError> {
        let wanted = wanted_routes(&self.service_cidrs, service_addresses, facts);
        let mut errors = routes::sync(&self.netlink.handle, self.lb0.index, &wanted).await;
        // A rule costs every packet that is routed a little: none where ranges are all there is.
        if wanted.keys().any(|(table, _)| *table == routes::OWN_TABLE) {
            errors.extend(rules::ensure(&self.netlink.handle).await);
        }
        let mtu = mtu(facts);
        if self.lb0.mtu != mtu {
            match device::set_mtu(&self.netlink.handle, &self.lb0, mtu).await {
                Ok(()) => self.lb0.mtu = mtu,
                Err(error) => errors.push(error),
            }
        }
        for bridge in facts
            .devices
            .values()
            .filter(|device| device.kind == DeviceKind::Bridge)
        {
            // A reply that leaves by the port it came in on must not make the bridge advise its pods.
            let setting = sysctl::of_device("ipv4", &bridge.name, "send_redirects");
            errors.extend(self.sysctls.write(&setting, "0").err().map(HostError::from));
        }
        errors
    }
}

impl Host {
    /// Has the kernel keep the next hops towards `others` resolved, as far as they are behind uplinks; lets go of all
    /// others of ours. To be repeated: routes change, and neighbours are removed.
    pub async fn keep_resolved(&self, others: &Others, facts: &NodeFacts) -> (Kept, Vec<HostError>) {
        let uplinks = facts
            .devices
            .iter()
            .filter(|(_, device)| device.kind == DeviceKind::Uplink)
            .map(|(index, _)| *index)
            .collect();
        neighbours::sync(&self.netlink.handle, others, &uplinks).await
    }
}

/// Takes back everything that [`Host`] has done in this network namespace, whichever process did it.
///
/// # Errors
/// If a part of it fails; the others are done nevertheless.
pub async fn remove(sysctls: &Sysctls) -> Result<(), HostError> {
    let netlink = Netlink::open()?;
    let let_go = neighbours::remove(&netlink.handle).await;
    let let_go = rules::remove(&netlink.handle).await.and(let_go);
    let Some(lb0) = device::find(&netlink.handle).await? else {
        return let_go;
    };
    let undone = lb0.alias.parse::<Undo>().unwrap_or_default().apply(sysctls);
    // Routes and the other end go with it.
    device::delete(&netlink.handle, &lb0).await?;
    undone?;
    let_go
}

impl Netlink {
    fn open() -> Result<Self, HostError> {
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(HostError::Socket)?;
        Ok(Self {
            handle,
            task: tokio::spawn(connection),
        })
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// No packet that is sent to `lb0` may be larger than the way it is redirected to.
fn mtu(facts: &NodeFacts) -> u32 {
    let ways = facts.devices.values().filter(|device| {
        matches!(
            device.kind,
            DeviceKind::Uplink | DeviceKind::Tunnel | DeviceKind::Pod | DeviceKind::Bridge
        )
    });
    ways.map(|device| device.mtu).min().unwrap_or(1500).max(MIN_MTU)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_can_be_done_by_any_thread() {
        fn check<T: Send>(_: T) {}
        fn all(mut host: Host, facts: &NodeFacts, options: Options, sysctls: &Sysctls) {
            check(host.sync(Vec::new(), facts));
            check(Host::ensure(options));
            check(remove(sysctls));
        }
        let _ = all;
    }
}
