//! The kernel's links, addresses and routes at one instant, as plain values.

use std::net::IpAddr;

use super::{Prefix, Tracked};

/// Links, addresses and routes of one network namespace.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Snapshot {
    /// Network devices.
    pub links: Vec<Link>,
    /// Addresses, in the kernel's order: primary ones first.
    pub addresses: Vec<Address>,
    /// Unicast routes of all tables but `local`; one for each next hop.
    pub routes: Vec<Route>,
    /// What the kernel's connection tracking translates.
    pub tracked: Tracked,
}

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// MAC address; zero if it has none of 6 bytes.
    pub mac: [u8; 6],
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Index of the bridge, bond or VRF it is a port of.
    pub controller: Option<u32>,
}

/// Kinds of device, as far as they differ for us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkKind {
    /// The loopback device.
    Loopback,
    /// One end of a pair of virtual devices (veth, netkit).
    Pair,
    /// A bridge.
    Bridge,
    /// Packets leave it in a tunnel (vxlan, geneve, ipip, sit, gre, wireguard ...).
    Tunnel,
    /// A program's device (tun, tap): a tunnel, or a virtual machine.
    Tun,
    /// Anything else: network cards, bonds, VLANs ...
    Other,
}

/// An address of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// Interface index.
    pub device: u32,
    /// The node's own address (not the other end's of a point-to-point link).
    pub address: IpAddr,
    /// Length of the prefix that is on the link.
    pub prefix_length: u8,
    /// It is valid beyond the link (scope global or site).
    pub global: bool,
    /// Packets may have it as source: duplicate detection is over.
    pub usable: bool,
    /// It is a good choice as source: not secondary, deprecated or temporary.
    pub preferred: bool,
}

/// A unicast route, or one next hop of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Where it leads.
    pub destination: Prefix,
    /// Interface index of the way out.
    pub device: u32,
    /// There is a router in between.
    pub gateway: bool,
    /// Metric: the lowest wins.
    pub metric: u32,
    /// It is in the main table.
    pub main: bool,
}
