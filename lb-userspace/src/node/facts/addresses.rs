//! Which addresses are the node's, which of them NodePorts are served on, and which one packets get as source.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::abi::DeviceKind;

use super::kinds::is_global;
use crate::node::{Address, Hints, Snapshot};

/// kube-proxy's IPVS mode binds every Service address to this device. A leftover must not make them ours.
const IPVS_DEVICE: &str = "kube-ipvs0";

pub(super) struct NodeAddresses<'a> {
    /// The usable global addresses, in the kernel's order.
    addresses: Vec<&'a Address>,
    hints: &'a Hints,
    /// Devices that most likely carry the primary address, the best first.
    main_devices: Vec<u32>,
}

impl<'a> NodeAddresses<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, hints: &'a Hints, kinds: &BTreeMap<u32, DeviceKind>) -> Self {
        let ipvs = snapshot
            .links
            .iter()
            .find(|link| link.name == IPVS_DEVICE)
            .map(|link| link.index);
        let is_own = |address: &&Address| {
            address.global && address.usable && is_global(address.address) && Some(address.device) != ipvs
        };
        let mut defaults: Vec<_> = snapshot
            .routes
            .iter()
            .filter(|route| route.destination.length() == 0)
            .collect();
        defaults.sort_by_key(|route| (!route.main, route.metric));
        let uplinks = kinds
            .iter()
            .filter(|(_, kind)| **kind == DeviceKind::Uplink)
            .map(|(index, _)| *index);
        Self {
            addresses: snapshot.addresses.iter().filter(is_own).collect(),
            hints,
            main_devices: defaults.iter().map(|route| route.device).chain(uplinks).collect(),
        }
    }

    /// All addresses of the node, sorted.
    pub(super) fn own(&self) -> Vec<IpAddr> {
        sorted(self.addresses.iter().map(|address| address.address))
    }

    /// The addresses that NodePorts are served on, sorted.
    pub(super) fn node_ports(&self) -> Vec<IpAddr> {
        let wanted = &self.hints.nodeport_addresses;
        if wanted.is_empty() {
            return sorted([true, false].into_iter().filter_map(|v4| self.primary(v4)));
        }
        // As kube-proxy has it: of a family of which no range is given, every address counts.
        let inside = |address: &IpAddr| {
            let mut of_family = wanted
                .iter()
                .filter(|prefix| prefix.address().is_ipv4() == address.is_ipv4())
                .peekable();
            of_family.peek().is_none() || of_family.any(|prefix| prefix.contains(*address))
        };
        sorted(
            self.addresses
                .iter()
                .map(|address| address.address)
                .filter(inside),
        )
    }

    /// Source address of IPv4 packets that leave by `device`.
    pub(super) fn source4(&self, device: u32) -> Option<Ipv4Addr> {
        match self.source(device, true)? {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    /// Source address of IPv6 packets that leave by `device`.
    pub(super) fn source6(&self, device: u32) -> Option<Ipv6Addr> {
        match self.source(device, false)? {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }

    /// The device's own address, as the kernel chooses; the node's where it has none.
    fn source(&self, device: u32, v4: bool) -> Option<IpAddr> {
        self.best(device, v4).or_else(|| self.primary(v4))
    }

    /// The node's primary address of a family: the Node object's, else that of the way out.
    fn primary(&self, v4: bool) -> Option<IpAddr> {
        let family = |address: &IpAddr| address.is_ipv4() == v4;
        let is_own = |address: &IpAddr| self.addresses.iter().any(|own| own.address == *address);
        let named = self
            .hints
            .node_addresses
            .iter()
            .copied()
            .find(|address| family(address) && is_own(address));
        named.or_else(|| self.main_devices.iter().find_map(|device| self.best(*device, v4)))
    }

    fn best(&self, device: u32, v4: bool) -> Option<IpAddr> {
        let of_device = || {
            self.addresses
                .iter()
                .filter(|own| own.device == device && own.address.is_ipv4() == v4)
        };
        let named = of_device().find(|own| self.hints.node_addresses.contains(&own.address));
        let best = named
            .or_else(|| of_device().find(|own| own.preferred))
            .or_else(|| of_device().next());
        best.map(|own| own.address)
    }
}

fn sorted(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = addresses.collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
