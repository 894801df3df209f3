//! Reduces links, addresses and routes to what the data path needs to know of the node.
//!
//! *Input*: [`Snapshot`] and [`Hints`]. *Output*: [`NodeFacts`]. *Invariants*: pure, and total: any input gives
//! facts. A device has one kind; what is decided first stays (see `kinds`).

mod addresses;
mod kinds;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::abi::DeviceKind;

use super::{Hints, Link, Prefix, Snapshot};
use crate::model::{DeviceFacts, NodeFacts};
use addresses::NodeAddresses;

/// Name of the device by which node processes reach Services.
pub const LB0: &str = "lb0";
/// The other end of [`LB0`].
pub const LB0_PEER: &str = "lb0p";

/// What `snapshot` says of the node, with the help of `hints`.
#[must_use]
pub fn reduce(snapshot: &Snapshot, hints: &Hints) -> NodeFacts {
    let kinds = kinds::classify(snapshot, hints);
    let addresses = NodeAddresses::new(snapshot, hints, &kinds);
    let devices = snapshot.links.iter().filter_map(|link| {
        let kind = *kinds.get(&link.index)?;
        Some((link.index, device(link, kind, snapshot, &addresses)))
    });
    NodeFacts {
        devices: devices.collect(),
        own: addresses.own(),
        node_ports: addresses.node_ports(),
        pods: pods(snapshot, hints, &kinds)
            .into_iter()
            .map(|pods| (pods.address(), pods.length()))
            .collect(),
        translated: snapshot.tracked.translated.iter().copied().collect(),
        masqueraded: snapshot.tracked.masqueraded.iter().copied().collect(),
    }
}

fn device(link: &Link, kind: DeviceKind, snapshot: &Snapshot, addresses: &NodeAddresses<'_>) -> DeviceFacts {
    let bridge = link.controller.filter(|_| kind == DeviceKind::BridgePort);
    let bridge_link = bridge.and_then(|bridge| snapshot.links.iter().find(|link| link.index == bridge));
    // What leaves by a bridge's port has the bridge's address.
    let source = match kind {
        DeviceKind::Host | DeviceKind::Loopback => None,
        _ => Some(bridge.unwrap_or(link.index)),
    };
    DeviceFacts {
        name: link.name.clone(),
        kind,
        mac: link.mac,
        bridge_mac: bridge_link.map_or([0; 6], |bridge| bridge.mac),
        mtu: link.mtu,
        snat4: source.and_then(|device| addresses.source4(device)),
        snat6: source.and_then(|device| addresses.source6(device)),
        takes_xdp: false,
    }
}

/// Prefixes of this node's pods: those of the Node object, and what routes to pods' devices lead to beyond them
/// (address managers such as Calico's do not keep to the Node object).
fn pods(snapshot: &Snapshot, hints: &Hints, kinds: &BTreeMap<u32, DeviceKind>) -> BTreeSet<Prefix> {
    let mut pods: BTreeSet<Prefix> = hints.pod_cidrs.iter().copied().collect();
    let leads_to_pods = |device: &u32| match kinds.get(device) {
        Some(DeviceKind::Pod) => true,
        Some(DeviceKind::Bridge) => hints.pod_cidrs.is_empty(),
        _ => false,
    };
    for route in snapshot
        .routes
        .iter()
        .filter(|route| leads_to_pods(&route.device))
    {
        let known = hints.pod_cidrs.iter().any(|cidr| cidr.covers(&route.destination));
        if !known && route.destination.length() > 0 && kinds::is_global(route.destination.address()) {
            pods.insert(route.destination);
        }
    }
    pods
}
