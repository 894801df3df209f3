//! Addresses as the lab needs them: pairs of both families, and prefixes.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, for loops over everything the lab does twice.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of `ip`.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Proto {
    /// Both, for loops.
    pub const BOTH: [Proto; 2] = [Proto::Tcp, Proto::Udp];
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proto::Tcp => "TCP",
            Proto::Udp => "UDP",
        })
    }
}

/// One address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dual {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

impl Dual {
    /// The address of one family.
    pub fn of(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// Both addresses.
    pub fn both(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// An address range, also used as a route's destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// First address.
    pub addr: IpAddr,
    /// Prefix length.
    pub len: u8,
}

impl Cidr {
    /// The range of exactly `ip`.
    pub fn host(ip: IpAddr) -> Self {
        Self {
            addr: ip,
            len: if ip.is_ipv4() { 32 } else { 128 },
        }
    }

    /// The range's family.
    pub fn family(&self) -> Family {
        Family::of(self.addr)
    }

    /// Whether `ip` lies inside.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (width, range, ip) = match (self.addr, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (32, u128::from(a.to_bits()), u128::from(b.to_bits())),
            (IpAddr::V6(a), IpAddr::V6(b)) => (128, a.to_bits(), b.to_bits()),
            _ => return false,
        };
        // A shift by the whole width (prefix length 0) is not defined: everything matches then.
        self.len == 0 || (range ^ ip) >> (width - u32::from(self.len)) == 0
    }

    /// The address `offset` places after the first one.
    pub fn nth(&self, offset: u16) -> IpAddr {
        match self.addr {
            IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() + u32::from(offset)).into(),
            IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() + u128::from(offset)).into(),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl FromStr for Cidr {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr = addr
            .parse()
            .with_context(|| format!("{text:?} is not an address or address/length"))?;
        let mut cidr = Self::host(addr);
        if let Some(len) = len {
            let len = len
                .parse()
                .with_context(|| format!("{text:?}: the length is not a number"))?;
            ensure!(len <= cidr.len, "{text:?}: the length exceeds {}", cidr.len);
            cidr.len = len;
        }
        Ok(cidr)
    }
}

impl From<IpAddr> for Cidr {
    fn from(ip: IpAddr) -> Self {
        Self::host(ip)
    }
}

/// A range of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DualCidr {
    /// The IPv4 range.
    pub v4: Cidr,
    /// The IPv6 range.
    pub v6: Cidr,
}

impl DualCidr {
    /// The ranges of a pair of texts that are known to be right (address plans are written in code).
    pub fn literal(v4: &str, v6: &str) -> Self {
        let parse = |text: &str| {
            text.parse::<Cidr>()
                .expect("the address plan is written correctly")
        };
        Self {
            v4: parse(v4),
            v6: parse(v6),
        }
    }

    /// The range of one family.
    pub fn of(&self, family: Family) -> Cidr {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Both ranges.
    pub fn both(&self) -> [Cidr; 2] {
        [self.v4, self.v6]
    }

    /// The addresses `offset` places after the first ones.
    pub fn nth(&self, offset: u16) -> Dual {
        match (self.v4.nth(offset), self.v6.nth(offset)) {
            (IpAddr::V4(v4), IpAddr::V6(v6)) => Dual { v4, v6 },
            _ => unreachable!("a DualCidr holds one range of each family"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_contains_what_shares_its_prefix() {
        for (range, ip, inside) in [
            ("10.180.1.0/24", "10.180.1.255", true),
            ("10.180.1.0/24", "10.180.2.0", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "::1", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("fd00:10:180::/48", "fd00:10:180:ff::1", true),
            ("fd00:10:180::/48", "fd00:10:181::1", false),
            ("::/0", "fd00::1", true),
        ] {
            let range: Cidr = range.parse().unwrap();
            assert_eq!(range.contains(ip.parse().unwrap()), inside, "{range} {ip}");
        }
    }

    #[test]
    fn wrong_ranges_are_refused() {
        for text in ["", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "10.0.0.0/x"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
