//! What the packets travel through: devices, addresses and Services, the same in both families.
//!
//! Written straight into map contents by [`crate::world`], independent of the agent's planner.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::abi::{Address, DeviceKind, FrontendKind, Set, SourceClass};

/// An address family as a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

macro_rules! devices {
    ($($dev:ident = $name:literal: $kind:ident;)+) => {
        /// A device of the namespace.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub(crate) enum Dev { $($dev),+ }

        impl Dev {
            pub(crate) const ALL: &[Self] = &[$(Self::$dev),+];

            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$dev => $name),+ }
            }

            /// Its kind in the map `devices`.
            pub(crate) const fn kind(self) -> DeviceKind {
                match self { $(Self::$dev => DeviceKind::$kind),+ }
            }
        }
    };
}

devices! {
    Lo = "lo": Loopback;
    // The node's own address, and the way to everybody.
    Up0 = "up0": Uplink;
    // To pods of other nodes; has an address of its own.
    Tun0 = "tun0": Tunnel;
    Pod0 = "pod0": Pod;
    Pod1 = "pod1": Pod;
    // Plays a port of a bridge (nothing is routed to it).
    Port0 = "port0": BridgePort;
    Lb0 = "lb0": Host;
    // More uplinks, each with an address of its own; XDP cannot send by the second.
    Up1 = "up1": Uplink;
    Up2 = "up2": Uplink;
    // An uplink for which there is no address for SNAT.
    Bare0 = "bare0": Uplink;
    // Routes lead to it, but the map `devices` does not have it.
    Alien0 = "alien0": Uplink;
}

impl Dev {
    /// XDP programs of other devices may send by these.
    pub(crate) const OUT_OF_XDP: [Self; 2] = [Self::Up0, Self::Up1];

    /// Its MAC address in the map `devices`.
    pub(crate) const fn mac(self) -> [u8; 6] {
        // The kernel wants none on the loopback device.
        match self {
            Self::Lo => [0; 6],
            _ => [2, 0xde, 0, 0, 0, self as u8],
        }
    }

    /// Its bridge's.
    pub(crate) const fn bridge_mac(self) -> [u8; 6] {
        match self {
            Self::Port0 => [2, 0xb0, 0, 0, 0, 1],
            _ => [0; 6],
        }
    }
}

macro_rules! hosts {
    ($($host:ident = $four:literal, $six:literal;)+) => {
        /// Whose address it is.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Host { $($host),+ }

        impl Host {
            pub(crate) fn ip(self, family: Family) -> IpAddr {
                let (four, six) = match self { $(Self::$host => ($four, $six)),+ };
                let text = match family { Family::V4 => four, Family::V6 => six };
                text.parse().expect("an address of the family")
            }
        }
    };
}

hosts! {
    // NodePorts are served on it for the processes of this node.
    Localhost = "127.0.0.1", "::1";
    Client = "198.51.100.7", "2001:db8:ffff::7";
    Stranger = "198.51.100.99", "2001:db8:ffff::99";
    Vip = "10.96.0.10", "fd00:96::10";
    // The Service is gone, but flows may be left.
    FormerVip = "10.96.0.11", "fd00:96::11";
    // Inside the ranges of Service addresses, and nobody's.
    UnusedVip = "10.96.0.12", "fd00:96::12";
    Balancer = "203.0.113.10", "2001:db8:113::10";
    External = "203.0.113.20", "2001:db8:113::20";
    Node = "192.0.2.10", "2001:db8:1::10";
    OtherNode = "192.0.2.11", "2001:db8:1::11";
    TunnelEnd = "10.244.3.1", "fd00:244:3::1";
    NodeAtUp1 = "198.18.1.10", "2001:db8:18:1::10";
    NodeAtUp2 = "198.18.2.10", "2001:db8:18:2::10";
    PodA = "10.244.1.2", "fd00:244:1::2";
    PodB = "10.244.1.3", "fd00:244:1::3";
    RemotePod = "10.244.2.2", "fd00:244:2::2";
    TunnelledPod = "10.244.3.2", "fd00:244:3::2";
    BarePod = "10.244.4.2", "fd00:244:4::2";
    AlienPod = "10.244.5.2", "fd00:244:5::2";
    LostPod = "10.244.6.2", "fd00:244:6::2";
    // Behind the two other uplinks.
    Up1Pod = "10.244.7.2", "fd00:244:7::2";
    Up2Pod = "10.244.8.2", "fd00:244:8::2";
    // Behind a router whose link address is not known.
    QuietPod = "10.244.9.2", "fd00:244:9::2";
    // Its route takes no more than 1280 bytes.
    NarrowPod = "10.244.10.2", "fd00:244:10::2";
}

/// Link address of the router to everybody.
pub(crate) const GATEWAY: [u8; 6] = [2, 0xaa, 0, 0, 0, 1];
/// Link address of the other node, on whichever device.
pub(crate) const OTHER_NODE: [u8; 6] = [2, 0xaa, 0, 0, 0, 11];

impl Host {
    /// Each in a prefix that has a route of its own.
    const PREFIXES: [Self; 12] = [
        Self::Node,
        Self::NodeAtUp1,
        Self::NodeAtUp2,
        Self::RemotePod,
        Self::TunnelledPod,
        Self::BarePod,
        Self::AlienPod,
        Self::LostPod,
        Self::Up1Pod,
        Self::Up2Pod,
        Self::QuietPod,
        Self::NarrowPod,
    ];

    /// What the map `addresses` says of it.
    pub(crate) const DESTINATIONS: [(Self, u32); 10] = [
        (Self::Vip, Address::VIP | Address::CLUSTER_IP),
        (Self::FormerVip, Address::VIP | Address::CLUSTER_IP),
        (Self::Balancer, Address::VIP | Address::EXTERNAL),
        (Self::External, Address::VIP | Address::EXTERNAL),
        (Self::Node, Address::OWN | Address::NODE_PORTS),
        (Self::TunnelEnd, Address::OWN),
        (Self::NodeAtUp1, Address::OWN),
        (Self::NodeAtUp2, Address::OWN),
        (Self::OtherNode, Address::OTHER_NODE),
        (Self::Localhost, Address::LOCALHOST),
    ];

    /// What the map `sources` says of it.
    pub(crate) const SOURCES: [(Self, SourceClass); 6] = [
        (Self::NodeAtUp1, SourceClass::Node),
        (Self::NodeAtUp2, SourceClass::Node),
        (Self::Node, SourceClass::Node),
        (Self::TunnelEnd, SourceClass::Node),
        (Self::PodA, SourceClass::Pod),
        (Self::PodB, SourceClass::Pod),
    ];

    /// Whom the ranges of source addresses let in, and how many of the last bits do not matter.
    pub(crate) const IN_RANGES: [(Self, u32); 2] = [(Self::Client, 3), (Self::PodB, 0)];

    /// The device that routes to a backend lead to; `None`: there is no route.
    const fn device(self) -> Option<Dev> {
        match self {
            Self::PodA => Some(Dev::Pod0),
            Self::PodB => Some(Dev::Pod1),
            Self::TunnelledPod => Some(Dev::Tun0),
            Self::BarePod => Some(Dev::Bare0),
            Self::AlienPod => Some(Dev::Alien0),
            Self::LostPod => None,
            Self::Up1Pod | Self::NodeAtUp1 => Some(Dev::Up1),
            Self::Up2Pod | Self::NodeAtUp2 => Some(Dev::Up2),
            _ => Some(Dev::Up0),
        }
    }

    /// Backend flags (`LOCAL`, `HOST`).
    const fn flags(self) -> u16 {
        match self {
            Self::PodA | Self::PodB => 1,
            Self::Node => 3,
            Self::OtherNode => 2,
            _ => 0,
        }
    }
}

macro_rules! services {
    ($($service:ident: [$($local:ident),*] + [$($remote:ident),*], $flags:expr;)+) => {
        /// A Service; each has a ClusterIP, a node port, a LoadBalancer address and an externalIP, and every protocol.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr(u16)]
        pub(crate) enum Svc { $($service),+ }

        impl Svc {
            pub(crate) const ALL: &[Self] = &[$(Self::$service),+];

            /// Backends of this node, and others.
            fn endpoints(self) -> (&'static [Host], &'static [Host]) {
                match self { $(Self::$service => (&[$(Host::$local),*], &[$(Host::$remote),*])),+ }
            }

            /// Flags of the set.
            pub(crate) const fn flags(self) -> u16 {
                match self { $(Self::$service => $flags),+ }
            }
        }
    };
}

services! {
    // One backend each.
    Local: [PodA] + [], 0;
    Neighbour: [PodB] + [], 0;
    Remote: [] + [RemotePod], 0;
    Tunnelled: [] + [TunnelledPod], 0;
    HostHere: [Node] + [], 0;
    HostThere: [] + [OtherNode], 0;
    // Ways that do not exist.
    Bare: [] + [BarePod], 0;
    Alien: [] + [AlienPod], 0;
    Lost: [] + [LostPod], 0;
    // Ways that are not everyday's.
    ByUp1: [] + [Up1Pod], 0;
    ByUp2: [] + [Up2Pod], 0;
    Quiet: [] + [QuietPod], 0;
    Narrow: [] + [NarrowPod], 0;
    // Policies.
    Empty: [] + [], 0;
    ExternalLocalHere: [PodA] + [RemotePod], Set::EXTERNAL_LOCAL | Set::ENDPOINTS_EXIST;
    ExternalLocalElsewhere: [] + [RemotePod], Set::EXTERNAL_LOCAL | Set::ENDPOINTS_EXIST;
    ExternalLocalEmpty: [] + [], Set::EXTERNAL_LOCAL;
    InternalLocalHere: [PodB] + [RemotePod], Set::INTERNAL_LOCAL | Set::ENDPOINTS_EXIST;
    InternalLocalElsewhere: [] + [RemotePod], Set::INTERNAL_LOCAL | Set::ENDPOINTS_EXIST;
    Affine: [PodA, PodB] + [RemotePod], Set::AFFINITY;
    AffineLocal: [PodA, PodB] + [RemotePod], Set::AFFINITY | Set::EXTERNAL_LOCAL | Set::ENDPOINTS_EXIST;
    // For the sources in `Host::IN_RANGES` only.
    Ranged: [PodA] + [], Set::RANGES;
    RangedWithNode: [PodA] + [], Set::RANGES | Set::RANGES_WITH_NODE;
    RangedEmpty: [] + [], Set::RANGES;
    // A table with many rows.
    Many: [PodA, PodB] + [RemotePod, TunnelledPod, OtherNode], 0;
    // Maps that contradict each other, see `world`.
    NoService: [PodA] + [], 0;
    NoRow: [PodA] + [], 0;
    NoBackend: [PodA] + [], 0;
}

impl Svc {
    /// Port of its virtual addresses.
    pub(crate) const fn port(self) -> u16 {
        8000 + self as u16
    }

    /// Its node port.
    pub(crate) const fn node_port(self) -> u16 {
        30_000 + self as u16
    }

    /// Port of its backends.
    pub(crate) const fn target(self) -> u16 {
        9000 + self as u16
    }

    /// How many of its backends are on this node; they come first.
    pub(crate) fn local(self) -> usize {
        self.endpoints().0.len()
    }

    /// All its backends, with their flags.
    pub(crate) fn backends(self) -> Vec<(Host, u16)> {
        let (local, remote) = self.endpoints();
        let all = local.iter().chain(remote);
        all.map(|host| (*host, host.flags())).collect()
    }
}

/// Which of a Service's addresses.
pub(crate) const KINDS: [FrontendKind; 4] = [
    FrontendKind::ClusterIp,
    FrontendKind::NodePort,
    FrontendKind::LoadBalancer,
    FrontendKind::ExternalIp,
];

/// The site as one family sees it, with the interface indexes of the namespace.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) family: Family,
    pub(crate) devices: BTreeMap<Dev, u32>,
}

impl Site {
    pub(crate) fn is_v4(&self) -> bool {
        self.family == Family::V4
    }

    pub(crate) fn ip(&self, host: Host) -> IpAddr {
        host.ip(self.family)
    }

    pub(crate) fn at(&self, host: Host, port: u16) -> SocketAddr {
        (host.ip(self.family), port).into()
    }

    pub(crate) fn dev(&self, dev: Dev) -> u32 {
        self.devices[&dev]
    }

    /// Interface index of the device that routes to a backend's address lead to.
    pub(crate) fn route(&self, ip: IpAddr) -> Option<u32> {
        let backends = Svc::ALL.iter().flat_map(|svc| svc.backends());
        let host = backends.map(|(host, _)| host).find(|host| self.ip(*host) == ip)?;
        host.device().map(|dev| self.dev(dev))
    }

    /// The device and the link address of the next hop to an address elsewhere. No device: there is no route; no link
    /// address: the kernel does not know it. (The routes and neighbours of [`crate::namespace`].)
    pub(crate) fn hop(&self, ip: IpAddr) -> (Option<Dev>, Option<[u8; 6]>) {
        let near = |host: &Host| match (self.ip(*host), ip) {
            (IpAddr::V4(host), IpAddr::V4(ip)) => host.octets()[..3] == ip.octets()[..3],
            (IpAddr::V6(host), IpAddr::V6(ip)) => host.octets()[..8] == ip.octets()[..8],
            _ => false,
        };
        let known = |host: &Host| match host {
            Host::Node => (ip == self.ip(Host::OtherNode)).then_some(OTHER_NODE),
            Host::RemotePod | Host::NarrowPod | Host::Up1Pod | Host::Up2Pod => Some(OTHER_NODE),
            _ => None,
        };
        match Host::PREFIXES.iter().find(|host| near(host)) {
            Some(host) => (host.device(), known(host)),
            None => (Some(Dev::Up0), Some(GATEWAY)),
        }
    }

    /// A Service's address of a kind.
    pub(crate) fn frontend(&self, svc: Svc, kind: FrontendKind) -> SocketAddr {
        match kind {
            FrontendKind::ClusterIp => self.at(Host::Vip, svc.port()),
            FrontendKind::NodePort => self.at(Host::Node, svc.node_port()),
            FrontendKind::LoadBalancer => self.at(Host::Balancer, svc.port()),
            FrontendKind::ExternalIp => self.at(Host::External, svc.port()),
        }
    }

    /// A Service's ClusterIP.
    pub(crate) fn cluster_ip(&self, svc: Svc) -> SocketAddr {
        self.frontend(svc, FrontendKind::ClusterIp)
    }

    /// A Service's node port on this node.
    pub(crate) fn node_port(&self, svc: Svc) -> SocketAddr {
        self.frontend(svc, FrontendKind::NodePort)
    }

    /// A Service's first backend.
    pub(crate) fn backend(&self, svc: Svc) -> SocketAddr {
        self.at(svc.backends()[0].0, svc.target())
    }
}
