//! What is known of this node from its kernel: devices, addresses, pods' prefixes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::abi::DeviceKind;

/// What the data path needs to know of this node.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct NodeFacts {
    /// Devices that matter, by interface index.
    pub devices: BTreeMap<u32, DeviceFacts>,
    /// All addresses of this node (loopback and link-local ones left out), sorted.
    pub own: Vec<IpAddr>,
    /// Those of them on which NodePorts are served, sorted.
    pub node_ports: Vec<IpAddr>,
    /// Prefixes of this node's pods: address and length in bits, sorted.
    pub pods: Vec<(IpAddr, u8)>,
    /// Where others than this node have TCP connections to that the kernel's connection tracking translates, sorted.
    pub translated: Vec<SocketAddr>,
    /// Ports that the kernel's connection tracking has given to connections that it translates at both ends, sorted.
    pub masqueraded: Vec<u16>,
}

/// A device that one of our programs is on, or that packets are sent to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceFacts {
    /// Its name.
    pub name: String,
    /// What it leads to.
    pub kind: DeviceKind,
    /// Its MAC address; zero if it has none.
    pub mac: [u8; 6],
    /// MAC address of the bridge it is a port of; zero if none.
    pub bridge_mac: [u8; 6],
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Source address for SNAT of IPv4 packets that leave by it.
    pub snat4: Option<std::net::Ipv4Addr>,
    /// Source address for SNAT of IPv6 packets that leave by it.
    pub snat6: Option<std::net::Ipv6Addr>,
    /// XDP programs of other devices may send packets out of it.
    pub takes_xdp: bool,
}
