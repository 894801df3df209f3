//! Addresses, address families and transport protocols.

use core::{fmt, net};

/// An IPv4 address as it lies in the packet (network byte order).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C, align(4))]
pub struct Addr4 {
    /// The four octets, most significant first.
    pub bytes: [u8; 4],
}

/// An IPv6 address as it lies in the packet (network byte order).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C, align(4))]
pub struct Addr6 {
    /// The sixteen octets, most significant first.
    pub bytes: [u8; 16],
}

impl From<net::Ipv4Addr> for Addr4 {
    fn from(address: net::Ipv4Addr) -> Self {
        Self {
            bytes: address.octets(),
        }
    }
}

impl From<Addr4> for net::Ipv4Addr {
    fn from(address: Addr4) -> Self {
        Self::from(address.bytes)
    }
}

impl From<net::Ipv6Addr> for Addr6 {
    fn from(address: net::Ipv6Addr) -> Self {
        Self {
            bytes: address.octets(),
        }
    }
}

impl From<Addr6> for net::Ipv6Addr {
    fn from(address: Addr6) -> Self {
        Self::from(address.bytes)
    }
}

impl fmt::Debug for Addr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        net::Ipv4Addr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        net::Ipv6Addr::from(*self).fmt(f)
    }
}

/// An address family: the one parameter that distinguishes IPv4 from IPv6 code.
pub trait Family: Copy + Default + fmt::Debug + 'static {
    /// Its addresses.
    type Addr: Copy + Eq + Ord + Default + fmt::Debug + Into<net::IpAddr> + AsRef<[u8]> + 'static;
    /// Position in the name pairs of [`super::names`]: 0 for IPv4, 1 for IPv6.
    const INDEX: usize;
    /// Length of an address in bytes.
    const ADDR_LEN: usize;
    /// The family's address out of a general one; `None` if it is of the other family.
    fn from_ip(ip: net::IpAddr) -> Option<Self::Addr>;
}

/// IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct V6;

impl Family for V4 {
    type Addr = Addr4;
    const INDEX: usize = 0;
    const ADDR_LEN: usize = 4;
    fn from_ip(ip: net::IpAddr) -> Option<Addr4> {
        match ip {
            net::IpAddr::V4(ip) => Some(ip.into()),
            net::IpAddr::V6(_) => None,
        }
    }
}

impl Family for V6 {
    type Addr = Addr6;
    const INDEX: usize = 1;
    const ADDR_LEN: usize = 16;
    fn from_ip(ip: net::IpAddr) -> Option<Addr6> {
        match ip {
            net::IpAddr::V4(_) => None,
            net::IpAddr::V6(ip) => Some(ip.into()),
        }
    }
}

impl From<Addr4> for net::IpAddr {
    fn from(address: Addr4) -> Self {
        net::Ipv4Addr::from(address).into()
    }
}

impl From<Addr6> for net::IpAddr {
    fn from(address: Addr6) -> Self {
        net::Ipv6Addr::from(address).into()
    }
}

impl AsRef<[u8]> for Addr4 {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Addr6 {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A transport protocol that Services can have, by its IANA number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// RFC 9260.
    Sctp = 132,
}

impl Protocol {
    /// From the IP header's field; `None` for a protocol that Services cannot have.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}
