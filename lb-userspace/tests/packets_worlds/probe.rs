//! A question to a node: what becomes of a packet of this client to this destination?

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use lb_common::testing::chance::Chance;

use crate::{
    cluster::Cluster,
    oracle::{self, Protocol},
    places,
};

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Client {
    /// A pod of this node, by number.
    Pod(u8),
    /// A process of this node.
    Node,
    /// Somebody who arrives by an uplink.
    Outside(Far),
}

/// Somebody who is not on this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Far {
    /// A client outside the cluster; `true`: inside the usual source range.
    Internet(bool),
    /// The process of another node.
    OtherNode,
    /// A pod of another node.
    RoutedPod(u8),
    /// A pod of another node that arrives by the tunnel.
    TunnelledPod(u8),
}

/// Where packets of outside clients are seen first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Hook {
    /// At XDP, then at TC.
    Xdp,
    /// At TC only.
    Tc,
}

/// Address, port and protocol.
pub(crate) type Place = (SocketAddr, Protocol);

/// A question. The source port is left open: it is asked with many.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Probe {
    pub(crate) client: Client,
    pub(crate) hook: Hook,
    pub(crate) to: SocketAddr,
    pub(crate) protocol: Protocol,
}

impl Probe {
    /// The client's address.
    pub(crate) fn from(&self) -> IpAddr {
        let ipv6 = self.to.is_ipv6();
        match self.client {
            Client::Pod(pod) => places::pod(0, pod, ipv6),
            Client::Node => places::node(0, ipv6),
            Client::Outside(Far::Internet(near)) => places::outside(near, ipv6),
            Client::Outside(Far::OtherNode) => places::node(1, ipv6),
            Client::Outside(Far::RoutedPod(pod)) => places::pod(1, pod, ipv6),
            Client::Outside(Far::TunnelledPod(pod)) => places::pod(2, pod, ipv6),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client,
            hook,
            to,
            protocol,
        } = self;
        write!(f, "{client:?} ({}) to {to} {protocol:?}", self.from())?;
        if matches!(client, Client::Outside(_)) {
            write!(f, ", seen first at {hook:?}")?;
        }
        Ok(())
    }
}

/// `count` questions: most about the places that are `served`, some about those that are merely `known`, some about
/// what there is not.
pub(crate) fn sample(chance: &mut Chance, served: &[Place], known: &[Place], count: usize) -> Vec<Probe> {
    if known.is_empty() {
        return Vec::new();
    }
    (0..count)
        .map(|_| {
            let from = if served.is_empty() || chance.one_in(3) {
                known
            } else {
                served
            };
            let (mut to, mut protocol) = *chance.pick(from);
            match chance.below(16) {
                0 => to.set_port(to.port() + 1000),
                1 => protocol = *chance.pick(&Protocol::ALL),
                2 => {
                    let ipv6 = to.is_ipv6();
                    let elsewhere = [
                        places::cluster_ip(200, ipv6),
                        places::external_ip(250, ipv6),
                        places::secondary(ipv6),
                        places::tunnel_end(ipv6),
                        places::node(1, ipv6),
                        places::node(2, ipv6),
                    ];
                    to.set_ip(*chance.pick(&elsewhere));
                }
                _ => {}
            }
            Probe {
                client: client(chance),
                hook: *chance.pick(&[Hook::Xdp, Hook::Tc]),
                to,
                protocol,
            }
        })
        .collect()
}

fn client(chance: &mut Chance) -> Client {
    match chance.below(10) {
        0..3 => Client::Pod(*chance.pick(&[1, 2, 3, 4])),
        3..5 => Client::Node,
        5..8 => Client::Outside(Far::Internet(chance.one_in(2))),
        8 => Client::Outside(*chance.pick(&[Far::RoutedPod(1), Far::RoutedPod(2), Far::OtherNode])),
        _ => Client::Outside(Far::TunnelledPod(1)),
    }
}

/// Every place that some object of the cluster mentions, whether or not it is served there.
pub(crate) fn mentioned(cluster: &Cluster) -> Vec<Place> {
    let mut all = Vec::new();
    for service in cluster.services() {
        let Some(spec) = &service.spec else { continue };
        let texts = (spec.cluster_ips.iter().flatten())
            .chain(spec.cluster_ip.iter())
            .chain(spec.external_ips.iter().flatten())
            .chain(oracle::ingress(service).filter_map(|entry| entry.ip.as_ref()));
        let addresses: Vec<IpAddr> = texts.filter_map(|text| oracle::address(text)).collect();
        for port in spec.ports.iter().flatten() {
            let protocol = Protocol::of(port.protocol.as_deref());
            let Ok(number) = u16::try_from(port.port) else {
                continue;
            };
            all.extend(
                addresses
                    .iter()
                    .map(|ip| (SocketAddr::new(*ip, number), protocol)),
            );
            let Some(node_port) = port.node_port.and_then(|port| u16::try_from(port).ok()) else {
                continue;
            };
            for ipv6 in [false, true].into_iter().filter(|_| node_port != 0) {
                all.push((SocketAddr::new(places::node(0, ipv6), node_port), protocol));
                all.push((SocketAddr::new(places::secondary(ipv6), node_port), protocol));
                all.push((SocketAddr::new(places::node(1, ipv6), node_port), protocol));
            }
        }
    }
    all
}
