//! The addresses that the bench's packets travel between, the same in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::testing::packet::{self, Packet, flag};

use crate::settings;

/// An address family as a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The measured Services.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Svc {
    /// One backend, on this node.
    Here,
    /// One backend, on another node.
    There,
    /// Ten backends, all on this node.
    Many,
}

/// Number of the first client that is not one of the many established flows.
pub(crate) const NEW_CLIENTS: u32 = 1 << 20;
/// Port of every Service.
pub(crate) const PORT: u16 = 80;
/// Port of every backend.
pub(crate) const TARGET: u16 = 8080;

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// `4` or `6`.
    pub(crate) fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    /// This node's address.
    pub(crate) fn node(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(192, 0, 2, 10).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10).into(),
        }
    }

    /// The address of the client of the first flow.
    fn first_client(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(198, 18, 0, 0).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0).into(),
        }
    }

    /// The last 32 bits of it.
    pub(crate) fn first_client_bits(self) -> u32 {
        low(self.first_client())
    }

    /// The client of a flow by its number, as program `restore` counts.
    pub(crate) fn client(self, flow: u32) -> SocketAddr {
        let (bits, port) = settings::client(self.first_client_bits(), flow);
        (with_low(self.first_client(), bits), port).into()
    }

    /// An address of the load balancer: number 0 to 2 are those of [`Svc`].
    pub(crate) fn balancer(self, number: u32) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from_bits(0xcb00_7100 + number).into(),
            Self::V6 => Ipv6Addr::from_bits((0x2001_0db8_0005_u128 << 80) + u128::from(number)).into(),
        }
    }

    /// A ClusterIP.
    pub(crate) fn cluster_ip(self, number: u32) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from_bits(0x0a60_0001 + number).into(),
            Self::V6 => Ipv6Addr::from_bits((0xfd00_0096_u128 << 96) + 1 + u128::from(number)).into(),
        }
    }

    /// A pod by its node's number (1 is this node) and its own.
    pub(crate) fn pod(self, node: u32, number: u32) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from_bits(0x0af4_0000 + (node << 8) + number).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 0x244, node as u16, 0, 0, 0, 0, number as u16).into(),
        }
    }

    /// Where clients reach a measured Service.
    pub(crate) fn frontend(self, svc: Svc) -> SocketAddr {
        (self.balancer(svc as u32), PORT).into()
    }

    /// The single backend of a measured Service.
    pub(crate) fn backend(self, svc: Svc) -> SocketAddr {
        let node = if svc == Svc::There { 2 } else { 1 };
        (self.pod(node, 2), TARGET).into()
    }

    /// Somebody whom none of this concerns.
    pub(crate) fn stranger(self) -> SocketAddr {
        let ip = match self {
            Self::V4 => Ipv4Addr::new(198, 51, 100, 77).into(),
            Self::V6 => IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 0x77)),
        };
        (ip, 4433).into()
    }

    /// Bytes of a template: what program `restore` writes.
    pub(crate) fn template(self) -> usize {
        8 * match self {
            Self::V4 => settings::TEMPLATE4,
            Self::V6 => settings::TEMPLATE6,
        }
    }

    /// A TCP segment as long as a template.
    pub(crate) fn segment(self, from: SocketAddr, to: SocketAddr) -> Packet {
        let headers = match self {
            Self::V4 => 54,
            Self::V6 => 74,
        };
        let payload = vec![0x5a; self.template() - headers];
        packet::tcp(from, to).flags(flag::ACK).payload(&payload)
    }
}

fn low(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits(),
        IpAddr::V6(ip) => ip.to_bits() as u32,
    }
}

fn with_low(ip: IpAddr, bits: u32) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::from_bits(bits).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 32 << 32 | u128::from(bits)).into(),
    }
}
