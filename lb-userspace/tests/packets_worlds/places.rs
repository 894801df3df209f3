//! The addresses that worlds are made of: where nodes, pods, Services and clients are.
//!
//! Node `node-a` is this node. Its pods 1 to 3 have devices of their own, pod 4 is behind a bridge; the pods of
//! `node-b` are routed to, those of `node-c` are behind a tunnel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Names of the nodes; the first is this one.
pub(crate) const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
/// This node's pods.
pub(crate) const PODS: std::ops::RangeInclusive<u8> = 1..=4;
/// The pod behind the bridge.
pub(crate) const BRIDGED: u8 = 4;
/// Ranges of ClusterIPs.
pub(crate) const SERVICE_CIDRS: [(IpAddr, u8); 2] = [
    (IpAddr::V4(Ipv4Addr::new(172, 30, 0, 0)), 16),
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 0)), 112),
];

fn six(a: u16, b: u16, c: u16, d: u16, last: u8) -> IpAddr {
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, u16::from(last)).into()
}

fn four(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    Ipv4Addr::new(a, b, c, d).into()
}

fn either(ipv6: bool, v4: IpAddr, v6: IpAddr) -> IpAddr {
    if ipv6 { v6 } else { v4 }
}

/// A node's primary address; `node` counts from 0.
pub(crate) fn node(node: u8, ipv6: bool) -> IpAddr {
    let last = node + 2;
    either(ipv6, four(192, 168, 0, last), six(0x2001, 0xdb8, 0, 1, last))
}

/// This node's second address.
pub(crate) fn secondary(ipv6: bool) -> IpAddr {
    either(ipv6, four(192, 168, 1, 2), six(0x2001, 0xdb8, 0, 2, 2))
}

/// This node's address in the tunnel.
pub(crate) fn tunnel_end(ipv6: bool) -> IpAddr {
    either(ipv6, four(10, 180, 200, 1), six(0xfd00, 0x10, 0x180, 0x200, 1))
}

/// This node's address on the bridge.
pub(crate) fn bridge(ipv6: bool) -> IpAddr {
    pod(0, 254, ipv6)
}

/// All of this node's addresses.
pub(crate) fn own(ipv6: bool) -> [IpAddr; 4] {
    [node(0, ipv6), secondary(ipv6), tunnel_end(ipv6), bridge(ipv6)]
}

/// Pod `pod` of a node.
pub(crate) fn pod(node: u8, pod: u8, ipv6: bool) -> IpAddr {
    let six = six(0xfd00, 0x10, 0x180, u16::from(node), pod);
    either(ipv6, four(10, 180, node, pod), six)
}

/// The range of a node's pods, as text.
pub(crate) fn pod_cidr(node: u8, ipv6: bool) -> String {
    if ipv6 {
        format!("fd00:10:180:{node:x}::/64")
    } else {
        format!("10.180.{node}.0/24")
    }
}

pub(crate) fn cluster_ip(number: u8, ipv6: bool) -> IpAddr {
    either(
        ipv6,
        four(172, 30, 0, number),
        six(0xfd00, 0x172, 0x30, 0, number),
    )
}

/// An address of a load balancer.
pub(crate) fn vip(number: u8, ipv6: bool) -> IpAddr {
    either(
        ipv6,
        four(192, 0, 2, number),
        six(0x2001, 0xdb8, 0x1ba, 0, number),
    )
}

pub(crate) fn external_ip(number: u8, ipv6: bool) -> IpAddr {
    either(
        ipv6,
        four(198, 51, 100, number),
        six(0x2001, 0xdb8, 0xe1b, 0, number),
    )
}

/// A client outside the cluster.
pub(crate) fn outside(near: bool, ipv6: bool) -> IpAddr {
    let (v4, v6) = if near { (2, 0xa) } else { (130, 0xb) };
    either(ipv6, four(203, 0, 113, v4), six(0x2001, 0xdb8, 0xc11e, v6, v4))
}
