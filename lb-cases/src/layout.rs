//! The lab that a scenario needs: which addresses there are, who has them, and who listens where. Pure.
//!
//! Five kinds of places: `self` with the agent; a namespace for each of its pods; `peers` with the addresses of
//! all other nodes and their pods; `outside` with the clients there; and `fabric`, which joins them, leads
//! Services' addresses to `self`, and has the addresses that nobody has: there ends what nobody translates.

mod owner;
mod wires;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;
use lb_lab::Wiring;

use crate::format::{Case, Protocol};

pub(crate) use owner::Owner;
pub(crate) use wires::pod_device;

/// The node with the agent.
pub(crate) const SELF: &str = "self";
/// What joins the others.
pub(crate) const FABRIC: &str = "fabric";
/// All other nodes and their pods.
pub(crate) const PEERS: &str = "peers";
/// The clients outside.
pub(crate) const OUTSIDE: &str = "outside";
/// The uplink of every place but the fabric.
pub(crate) const UPLINK: &str = "eth0";
/// Where ClusterIPs are, in all scenarios.
pub(crate) const SERVICE_CIDRS: [&str; 2] = ["172.30.0.0/16", "fd00:172:30::/112"];

/// A scenario's lab.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Who has which address.
    pub(crate) owners: BTreeMap<IpAddr, Owner>,
    /// This node's pods, in the order of their places.
    pub(crate) pods: Vec<IpAddr>,
    /// Who listens all the time.
    pub(crate) listeners: BTreeSet<Listener>,
    /// Namespaces, devices, routes.
    pub(crate) wiring: Wiring,
}

/// Somebody who answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listener {
    /// The place.
    pub(crate) place: String,
    /// The protocol.
    pub(crate) proto: Protocol,
    /// Address and port.
    pub(crate) at: SocketAddr,
}

impl Layout {
    /// The lab of a scenario. `tag`: see [`Wiring`].
    pub(crate) fn of(case: &Case, tag: &str) -> Result<Self> {
        let owners = owner::owners(case)?;
        let pods: Vec<_> = owners
            .iter()
            .filter(|(_, owner)| **owner == Owner::OwnPod)
            .map(|(ip, _)| *ip)
            .collect();
        let mut layout = Self {
            owners,
            pods,
            listeners: BTreeSet::new(),
            wiring: Wiring::default(),
        };
        layout.listeners = layout.all_listeners(case);
        layout.wiring = wires::wiring(case, &layout, tag)?;
        Ok(layout)
    }

    /// The place that has this address.
    pub(crate) fn place(&self, ip: IpAddr) -> String {
        match self.owners.get(&ip) {
            Some(Owner::OwnNode) => SELF.into(),
            Some(Owner::OwnPod) => pod_place(self.pods.binary_search(&ip).unwrap_or_default()),
            Some(Owner::Peer) => PEERS.into(),
            Some(Owner::Outside) => OUTSIDE.into(),
            Some(Owner::Nobody) | None if ip.is_loopback() => SELF.into(),
            Some(Owner::Nobody) | None => FABRIC.into(),
        }
    }

    /// All endpoints, and whoever gets what nobody translates. (On `self` that depends on the flow: a port that
    /// is a NodePort now may be nobody's later.)
    fn all_listeners(&self, case: &Case) -> BTreeSet<Listener> {
        let endpoints = owner::endpoints(case)
            .into_iter()
            .filter_map(|endpoint| Some((SocketAddr::new(endpoint.ip, endpoint.port?), endpoint.proto)));
        let steps = case.steps();
        let flows = || steps.iter().flat_map(|step| step.flows);
        let backends = flows().flat_map(|flow| {
            let proto = flow.dst.proto;
            flow.expect.backends.iter().map(move |at| (*at, proto))
        });
        let passed = flows()
            .map(|flow| (flow.dst.socket(), flow.dst.proto))
            .filter(|(at, _)| self.place(at.ip()) != SELF);
        endpoints
            .chain(backends)
            .chain(passed)
            .map(|(at, proto)| Listener {
                place: self.place(at.ip()),
                proto,
                at,
            })
            .collect()
    }
}

/// The place of this node's pod of this number.
pub(crate) fn pod_place(number: usize) -> String {
    format!("pod{number}")
}

#[cfg(test)]
mod tests;
