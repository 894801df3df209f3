//! Which device is what. Each rule looks only at devices that no rule before it has decided on:
//!
//! 1. `lo`, `lb0`, and what the operator says;
//! 2. uplinks: devices with an address of the Node object, or a default route;
//! 3. bridges with an address or a connected route in this node's pod range, and their ports;
//! 4. pods' devices: routes to single addresses (or parts) of this node's pod range lead there;
//! 5. more uplinks: devices with an address by which other nodes' pods are reached, if they do not wrap packets;
//!    tunnels: those that do and have a route; any other device by which other nodes' pods are reached;
//! 6. if there is no uplink yet and the Node object is unknown: devices with an address;
//! 7. by name: ends of pairs that look like a pod's device and have no address.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::abi::DeviceKind;

use super::{LB0, LB0_PEER};
use crate::node::{Hints, Link, LinkKind, Prefix, Route, Snapshot};

struct Classification<'a> {
    snapshot: &'a Snapshot,
    /// Routes by device: a node may have many of both.
    routes: BTreeMap<u32, Vec<&'a Route>>,
    hints: &'a Hints,
    /// `None`: decided to be none of our business.
    kinds: BTreeMap<u32, Option<DeviceKind>>,
}

/// The devices that matter, by interface index.
pub(super) fn classify(snapshot: &Snapshot, hints: &Hints) -> BTreeMap<u32, DeviceKind> {
    let mut routes: BTreeMap<u32, Vec<&Route>> = BTreeMap::new();
    for route in &snapshot.routes {
        routes.entry(route.device).or_default().push(route);
    }
    let mut classification = Classification {
        snapshot,
        routes,
        hints,
        kinds: BTreeMap::new(),
    };
    classification.given();
    classification.uplinks();
    classification.bridges();
    classification.routed_pods();
    classification.tunnels();
    classification.uplinks_without_node_object();
    classification.pods_by_name();
    classification
        .kinds
        .into_iter()
        .filter_map(|(index, kind)| Some((index, kind?)))
        .collect()
}

/// Whether an address can be reached from beyond its link.
pub(super) fn is_global(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(local || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

impl Classification<'_> {
    fn given(&mut self) {
        for link in &self.snapshot.links {
            let told = self
                .hints
                .devices
                .iter()
                .find(|told| told.name.matches(&link.name));
            let kind = match (link.name.as_str(), told) {
                _ if link.kind == LinkKind::Loopback => Some(DeviceKind::Loopback),
                (LB0, _) => Some(DeviceKind::Host),
                (LB0_PEER, _) => None,
                (_, Some(told)) => told.kind,
                (_, None) => continue,
            };
            self.kinds.insert(link.index, kind);
        }
    }

    fn uplinks(&mut self) {
        if self.uplinks_are_given() {
            return;
        }
        self.decide(DeviceKind::Uplink, |this, link| {
            let node_address = |address: &IpAddr| this.hints.node_addresses.contains(address);
            this.addresses(link).any(|address| node_address(&address))
                || this.routes(link).any(|route| route.destination.length() == 0)
        });
    }

    fn bridges(&mut self) {
        self.decide(DeviceKind::Bridge, |this, link| {
            if link.kind != LinkKind::Bridge {
                return false;
            }
            if this.hints.pod_cidrs.is_empty() {
                return this.addresses(link).next().is_some()
                    && this.ports(link.index).any(|port| this.looks_like_a_pods(port));
            }
            let in_range = |prefix: &Prefix| this.hints.pod_cidrs.iter().any(|cidr| cidr.overlaps(prefix));
            this.addresses(link)
                .any(|address| in_range(&Prefix::host(address)))
                || this
                    .routes(link)
                    .any(|route| !route.gateway && in_range(&route.destination))
        });
        let is_bridge =
            |this: &Self, index: &u32| matches!(this.kinds.get(index), Some(Some(DeviceKind::Bridge)));
        self.decide(DeviceKind::BridgePort, |this, link| {
            link.controller.is_some_and(|bridge| is_bridge(this, &bridge))
                && (matches!(link.kind, LinkKind::Pair | LinkKind::Tun) || this.looks_like_a_pods(link))
        });
    }

    fn routed_pods(&mut self) {
        self.decide(DeviceKind::Pod, |this, link| {
            if matches!(link.kind, LinkKind::Bridge | LinkKind::Tunnel) {
                return false;
            }
            this.routes(link).any(|route| {
                let to = &route.destination;
                let in_range = this
                    .hints
                    .pod_cidrs
                    .iter()
                    .any(|cidr| cidr.covers(to) && cidr.length() < to.length());
                let by_name = to.is_host() && is_global(to.address()) && this.looks_like_a_pods(link);
                in_range || by_name
            })
        });
    }

    fn tunnels(&mut self) {
        let wraps = |link: &Link| matches!(link.kind, LinkKind::Tunnel | LinkKind::Tun);
        let other_pods = |this: &Self, route: &Route| {
            let cidrs = &this.hints.other_pod_cidrs;
            cidrs.iter().any(|cidr| cidr.overlaps(&route.destination))
        };
        if !self.uplinks_are_given() {
            self.decide(DeviceKind::Uplink, |this, link| {
                !wraps(link)
                    && this.addresses(link).next().is_some()
                    && this.routes(link).any(|route| other_pods(this, route))
            });
        }
        self.decide(DeviceKind::Tunnel, |this, link| {
            this.routes(link)
                .any(|route| other_pods(this, route) || wraps(link) && is_global(route.destination.address()))
        });
    }

    fn uplinks_without_node_object(&mut self) {
        let none_yet = !self.kinds.values().any(|kind| *kind == Some(DeviceKind::Uplink));
        if none_yet && self.hints.node_addresses.is_empty() && !self.uplinks_are_given() {
            self.decide(DeviceKind::Uplink, |this, link| {
                this.addresses(link).next().is_some()
            });
        }
    }

    fn pods_by_name(&mut self) {
        self.decide(DeviceKind::Pod, |this, link| {
            link.kind == LinkKind::Pair
                && link.controller.is_none()
                && this.looks_like_a_pods(link)
                && this.addresses(link).next().is_none()
        });
    }

    /// Gives `kind` to all undecided devices that `rule` holds for.
    fn decide(&mut self, kind: DeviceKind, rule: impl Fn(&Self, &Link) -> bool) {
        let undecided = self
            .snapshot
            .links
            .iter()
            .filter(|link| !self.kinds.contains_key(&link.index));
        let found: Vec<u32> = undecided
            .filter(|link| rule(self, link))
            .map(|link| link.index)
            .collect();
        self.kinds
            .extend(found.into_iter().map(|index| (index, Some(kind))));
    }

    fn uplinks_are_given(&self) -> bool {
        self.hints
            .devices
            .iter()
            .any(|told| told.kind == Some(DeviceKind::Uplink))
    }

    fn looks_like_a_pods(&self, link: &Link) -> bool {
        self.hints
            .pod_devices
            .iter()
            .any(|pattern| pattern.matches(&link.name))
    }

    /// Its global addresses.
    fn addresses(&self, link: &Link) -> impl Iterator<Item = IpAddr> {
        let index = link.index;
        let of_device = self
            .snapshot
            .addresses
            .iter()
            .filter(move |address| address.device == index);
        of_device
            .filter(|address| address.global && is_global(address.address))
            .map(|address| address.address)
    }

    fn routes(&self, link: &Link) -> impl Iterator<Item = &Route> {
        self.routes.get(&link.index).into_iter().flatten().copied()
    }

    fn ports(&self, bridge: u32) -> impl Iterator<Item = &Link> {
        self.snapshot
            .links
            .iter()
            .filter(move |link| link.controller == Some(bridge))
    }
}
