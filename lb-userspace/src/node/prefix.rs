//! Address prefixes of either family.

use std::{fmt, net::IpAddr, str::FromStr};

/// An address and how many of its bits count; the others are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// A text that is no prefix.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an address prefix such as 10.0.0.0/8 or fd00::/64")]
pub struct NoPrefix(String);

impl Prefix {
    /// The prefix that contains `address`; `None` if `length` is too large for its family.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        (length <= width(address)).then(|| Self {
            address: from_bits(bits(address) & mask(length), address.is_ipv4()),
            length,
        })
    }

    /// The prefix of one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self {
            address,
            length: width(address),
        }
    }

    /// Its address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits count.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether it is one address.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.length == width(self.address)
    }

    /// Whether `address` is inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && bits(address) & mask(self.length) == bits(self.address)
    }

    /// Whether all of `other` is inside.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Whether some address is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl FromStr for Prefix {
    type Err = NoPrefix;
    fn from_str(text: &str) -> Result<Self, NoPrefix> {
        let parse = || {
            let Some((address, length)) = text.split_once('/') else {
                return text.parse().ok().map(Self::host);
            };
            Self::new(address.parse().ok()?, length.parse().ok()?)
        };
        parse().ok_or_else(|| NoPrefix(text.to_owned()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The address, left-aligned in 128 bits: one arithmetic for both families.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn from_bits(bits: u128, v4: bool) -> IpAddr {
    if v4 {
        IpAddr::V4(((bits >> 96) as u32).into())
    } else {
        IpAddr::V6(bits.into())
    }
}

const fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

const fn mask(length: u8) -> u128 {
    if length == 0 {
        0
    } else {
        u128::MAX << (128 - length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_contains_exactly_its_addresses() {
        for (prefix, address, inside) in [
            ("10.1.0.0/16", "10.1.255.255", true),
            ("10.1.0.0/16", "10.2.0.0", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::", false),
            ("::/0", "10.0.0.1", false),
            ("fd00:1::/32", "fd00:1:ffff::1", true),
            ("fd00:1::/32", "fd00:2::", false),
            ("10.0.0.1/32", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
        ] {
            let prefix: Prefix = prefix.parse().unwrap();
            assert_eq!(
                prefix.contains(address.parse().unwrap()),
                inside,
                "{prefix} {address}"
            );
        }
    }

    #[test]
    fn prefix_is_written_with_its_host_bits_cleared() {
        for (text, expected) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("fd00::1/64", "fd00::/64"),
            ("::1", "::1/128"),
            ("1.2.3.4/0", "0.0.0.0/0"),
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), expected);
        }
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "a/8", "10.0.0.0/"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }
}
