//! What a node's kernel would say of it, as far as the cluster's objects tell: for an agent that is not running.
//!
//! *Assumed*: one uplink with the node's addresses, a device for pods, packets to other nodes' pods leave by the uplink
//! (a routed network; in a tunnel, processes of a node come from the tunnel's own address).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::abi::DeviceKind;

use super::{cluster::Cluster, position::Ways};
use crate::model::{DeviceFacts, NodeFacts, NodeObject, is_inside};

/// The devices of every node that is made up.
pub(super) const WAYS: Ways = Ways {
    loopback: 1,
    uplink: 2,
    lb0: 3,
    pod: 4,
    bridged: false,
};

/// The facts of `node`.
pub(super) fn of(cluster: &Cluster, node: &NodeObject) -> NodeFacts {
    let first = |ipv6: bool| node.addresses.iter().find(|ip| ip.is_ipv6() == ipv6).copied();
    let primary = [first(false), first(true)];
    let device = |name: &str, kind, with_snat: bool| {
        let snat = primary.map(|ip| ip.filter(|_| with_snat));
        DeviceFacts {
            name: name.to_owned(),
            kind,
            mac: [0; 6],
            bridge_mac: [0; 6],
            mtu: 1500,
            snat4: snat[0].and_then(|ip| match ip {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            }),
            snat6: snat[1].and_then(|ip| match ip {
                IpAddr::V6(ip) => Some(ip),
                IpAddr::V4(_) => None,
            }),
            takes_xdp: false,
        }
    };
    NodeFacts {
        devices: BTreeMap::from([
            (WAYS.loopback, device("lo", DeviceKind::Loopback, false)),
            (WAYS.uplink, device("uplink", DeviceKind::Uplink, true)),
            (WAYS.lb0, device("lb0", DeviceKind::Host, false)),
            (WAYS.pod, device("pod", DeviceKind::Pod, true)),
        ]),
        own: node.addresses.clone(),
        node_ports: primary.into_iter().flatten().collect(),
        pods: pods(cluster, node).into_iter().collect(),
        translated: Vec::new(),
        masqueraded: Vec::new(),
    }
}

/// Prefixes of the node's pods. An agent learns from routes what is not in the Node object.
fn pods(cluster: &Cluster, node: &NodeObject) -> BTreeSet<(IpAddr, u8)> {
    let mut prefixes: BTreeSet<_> = node.pod_prefixes.iter().copied().collect();
    let endpoints = cluster.endpoints();
    let endpoints = endpoints.map(|endpoint| (endpoint.node.as_deref(), endpoint.address));
    let pods = cluster.pods.values().filter(|pod| !pod.host_network);
    let pods = pods.flat_map(|pod| {
        pod.addresses
            .iter()
            .map(|address| (pod.node.as_deref(), *address))
    });
    for (_, address) in endpoints
        .chain(pods)
        .filter(|(of, _)| *of == Some(node.name.as_str()))
    {
        let known = node.pod_prefixes.iter().any(|prefix| is_inside(address, *prefix));
        if !known && !node.addresses.contains(&address) {
            prefixes.insert((address, if address.is_ipv6() { 128 } else { 32 }));
        }
    }
    prefixes
}

/// The device by which packets to `address` leave the node with these facts; `is_service`: it is routed into `lb0`.
pub(super) fn route(facts: &NodeFacts, address: IpAddr, is_service: bool) -> u32 {
    if facts.own.contains(&address) {
        WAYS.loopback
    } else if is_service {
        WAYS.lb0
    } else if facts.pods.iter().any(|prefix| is_inside(address, *prefix)) {
        WAYS.pod
    } else {
        WAYS.uplink
    }
}
