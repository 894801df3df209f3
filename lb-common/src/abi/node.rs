//! What the data path needs to know about its node.

use super::{Addr4, Addr6};

/// Node-wide settings. Written once before the programs are attached, then only as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Node {
    /// The kernel's number (cookie) of this node's network namespace; 0: not known, and no socket is touched.
    pub netns: u64,
    /// Interface index of `lb0`; 0: node processes are not served.
    pub lb0: u32,
    /// Interface index of the loopback device.
    pub loopback: u32,
    /// First port of the range reserved for SNAT.
    pub snat_first: u16,
    /// Last port of the range reserved for SNAT.
    pub snat_last: u16,
    /// Seed of the flow hash: the same on all nodes of a cluster.
    pub seed: u32,
    /// Slots of `embryos4` and `embryos6` less one (the number of slots is a power of two).
    pub embryo_mask: u32,
    /// Sum of the constants below.
    pub flags: u32,
    /// The clock of flows is the kernel's count of timer interrupts (jiffies) shifted right by this: a tick is
    /// about a second.
    pub tick_shift: u32,
    /// Interface indices of the devices that XDP may send packets out of, zeros behind them. A device that cannot
    /// take frames from XDP would lose them without a word.
    pub xdp_out: [u32; XDP_OUT],
    /// Zero.
    pub reserved: u32,
}

/// How many devices XDP may send packets out of.
pub const XDP_OUT: usize = 8;

impl Node {
    /// Masquerade all ClusterIP traffic.
    pub const MASQUERADE_ALL: u32 = 1;
    /// Pods are not told from other clients, so no ClusterIP traffic is masqueraded for being none of a pod.
    pub const PODS_UNKNOWN: u32 = 2;
    /// Connections of pods are translated at their sockets too, not only those of this node's own processes.
    pub const CONNECT_PODS: u32 = 4;
    /// The kernel's connection tracking translates TCP connections to frontends, made by rules of another proxy's: what is in
    /// the middle of a connection that is not known here is left to it.
    pub const LEAVES_TRACKED: u32 = 8;

    /// The shift that makes a tick of about a second out of `hertz` timer interrupts a second.
    #[must_use]
    pub const fn tick_shift(hertz: u32) -> u32 {
        // The power of two that is nearest by ratio: 100 to 7, 250 to 8, 300 to 8, 1000 to 10.
        let hertz = if hertz == 0 { 1 } else { hertz as u64 };
        let below = hertz.ilog2();
        if hertz * hertz > 1 << (2 * below + 1) {
            below + 1
        } else {
            below
        }
    }

    /// Whether XDP may send packets out of a device.
    #[inline(always)]
    #[must_use]
    pub fn sends_by_xdp(&self, device: u32) -> bool {
        let mut i = 0;
        while i < XDP_OUT {
            if self.xdp_out[i] == device {
                return device != 0;
            }
            i += 1;
        }
        false
    }
}

/// What kind of device a program is attached to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(u8)]
pub enum DeviceKind {
    /// Carries a node address: clients outside the cluster and other nodes.
    #[default]
    Uplink = 0,
    /// Leads to pods of other nodes in a tunnel.
    Tunnel = 1,
    /// The host's side of a pod's device; the pod is reached by a route to it.
    Pod = 2,
    /// The host's side of a pod's device that is a port of a bridge.
    BridgePort = 3,
    /// `lb0`: node processes to Service addresses.
    Host = 4,
    /// The loopback device: node processes to their own node's ports.
    Loopback = 5,
    /// The bridge that joins pods' devices (no program of ours; a way to local pods).
    Bridge = 6,
}

impl DeviceKind {
    /// From the number in a map.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Tunnel,
            2 => Self::Pod,
            3 => Self::BridgePort,
            4 => Self::Host,
            5 => Self::Loopback,
            6 => Self::Bridge,
            _ => Self::Uplink,
        }
    }
}

/// A device of the node, by interface index.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Device {
    /// [`DeviceKind`] as a number.
    pub kind: u8,
    /// Zero.
    pub reserved: u8,
    /// The device's own MAC address.
    pub mac: [u8; 6],
    /// MAC address of the bridge it is a port of; zero if none.
    pub bridge_mac: [u8; 6],
    /// Zero.
    pub reserved2: u16,
    /// Largest packet in bytes, without the link header.
    pub mtu: u32,
    /// Source address for SNAT of IPv4 packets that leave by this device; zero: none.
    pub snat4: Addr4,
    /// Source address for SNAT of IPv6 packets that leave by this device; zero: none.
    pub snat6: Addr6,
}

/// Who a source address belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Source {
    /// [`SourceClass`] as a number.
    pub class: u32,
}

/// The three kinds of client. What no prefix matches is outside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(u32)]
pub enum SourceClass {
    /// Neither this node nor one of its pods. Also pods and nodes elsewhere in the cluster.
    #[default]
    Outside = 0,
    /// A pod of this node.
    Pod = 1,
    /// This node itself.
    Node = 2,
}

impl SourceClass {
    /// From the number in a map.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Pod,
            2 => Self::Node,
            _ => Self::Outside,
        }
    }
}
