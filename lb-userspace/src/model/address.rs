//! Addresses as cluster objects spell them, read leniently.
//!
//! Old objects may carry what today's API refuses: leading zeros (always decimal, never octal), blanks
//! around the text, IPv4 addresses in IPv6 clothes. All are brought to one canonical form, because what
//! is compared with packets must be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Reads an address. `172.30.0.041` is `172.30.0.41`; `::ffff:10.0.0.1` is `10.0.0.1`.
#[must_use]
pub fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if text.contains(':') {
        text.parse::<Ipv6Addr>()
            .ok()
            .map(|v6| IpAddr::V6(v6).to_canonical())
    } else {
        parse_v4(text).map(IpAddr::V4)
    }
}

/// Reads a prefix, `ADDRESS/BITS`. Bits behind the prefix are cleared.
#[must_use]
pub fn parse_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.trim().split_once('/')?;
    let address = parse_address(address)?;
    let bits = parse_decimal(bits)?;
    match address {
        IpAddr::V4(v4) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Some((Ipv4Addr::from_bits(v4.to_bits() & mask).into(), bits))
        }
        IpAddr::V6(v6) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Some((Ipv6Addr::from_bits(v6.to_bits() & mask).into(), bits))
        }
        _ => None,
    }
}

/// Whether `address` is inside a prefix: address and length in bits, the bits behind it zero.
#[must_use]
pub fn is_inside(address: IpAddr, (prefix, bits): (IpAddr, u8)) -> bool {
    let shared = match (address, prefix) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return false,
    };
    shared >= u32::from(bits)
}

/// Whether an address can stand for something that other machines reach: neither unspecified (that is how
/// the maps spell a NodePort), nor loopback, link-local or multicast. The API server refuses these too.
#[must_use]
pub fn is_reachable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local)
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = text.split('.').map(parse_decimal);
    let address = Ipv4Addr::new(octets.next()??, octets.next()??, octets.next()??, octets.next()??);
    octets.next().is_none().then_some(address)
}

/// Digits only: `u8::from_str` would also take a sign.
fn parse_decimal(text: &str) -> Option<u8> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_leniently_and_made_canonical() {
        for (text, expected) in [
            ("10.1.2.3", Some("10.1.2.3")),
            ("172.30.0.041", Some("172.30.0.41")),
            ("010.180.00.0001", Some("10.180.0.1")),
            (" 10.1.2.3\t", Some("10.1.2.3")),
            ("FD00:0172:0030:0:0:0:0:0029", Some("fd00:172:30::29")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("", None),
            ("None", None),
            ("10.1.2", None),
            ("10.1.2.3.4", None),
            ("10.1.2.256", None),
            ("10.1.2.+3", None),
            ("10.1..3", None),
            ("fe80::1%eth0", None),
            ("0x0a.1.2.3", None),
        ] {
            let expected: Option<IpAddr> = expected.map(|e| e.parse().expect("the table is right"));
            assert_eq!(parse_address(text), expected, "{text:?}");
        }
    }

    #[test]
    fn prefixes_lose_their_host_bits() {
        for (text, expected) in [
            ("10.180.1.7/24", Some(("10.180.1.0", 24))),
            (" 203.0.113.000/025 ", Some(("203.0.113.0", 25))),
            ("10.0.0.1/0", Some(("0.0.0.0", 0))),
            ("10.0.0.1/32", Some(("10.0.0.1", 32))),
            ("fd00:10:180::5/64", Some(("fd00:10:180::", 64))),
            ("::1/0", Some(("::", 0))),
            ("10.0.0.0/33", None),
            ("fd00::/129", None),
            ("10.0.0.0", None),
        ] {
            let expected = expected.map(|(a, b)| (a.parse().expect("the table is right"), b));
            assert_eq!(parse_prefix(text), expected, "{text:?}");
        }
    }

    #[test]
    fn an_address_is_inside_the_prefixes_that_it_begins_with() {
        for (address, prefix, expected) in [
            ("10.0.0.1", ("10.0.0.0", 24), true),
            ("10.0.1.1", ("10.0.0.0", 24), false),
            ("10.0.0.129", ("10.0.0.128", 25), true),
            ("10.0.0.127", ("10.0.0.128", 25), false),
            ("10.0.0.1", ("0.0.0.0", 0), true),
            ("10.0.0.1", ("10.0.0.1", 32), true),
            ("10.0.0.2", ("10.0.0.1", 32), false),
            ("fd00::1", ("fd00::", 64), true),
            ("fd00:0:0:1::1", ("fd00::", 64), false),
            ("fd00::1", ("::", 0), true),
            ("fd00::1", ("0.0.0.0", 0), false),
            ("10.0.0.1", ("::", 0), false),
        ] {
            let address = address.parse().expect("the table is right");
            let (prefix, bits) = prefix;
            let prefix = (prefix.parse().expect("the table is right"), bits);
            assert_eq!(is_inside(address, prefix), expected, "{address} in {prefix:?}");
        }
    }

    #[test]
    fn addresses_that_no_other_machine_can_reach_are_told_apart() {
        for (text, expected) in [
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("2001:db8::1", true),
            ("0.0.0.0", false),
            ("::", false),
            ("127.0.0.1", false),
            ("::1", false),
            ("169.254.1.1", false),
            ("fe80::1", false),
            ("224.0.0.1", false),
            ("ff02::1", false),
            ("255.255.255.255", false),
        ] {
            assert_eq!(
                is_reachable(text.parse().expect("the table is right")),
                expected,
                "{text}"
            );
        }
    }
}
