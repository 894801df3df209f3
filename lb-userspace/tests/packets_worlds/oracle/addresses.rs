//! Section 2, address text: parse leniently, leading zeros are decimal, IPv6 in any spelling.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address, in its canonical form.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() != 4 {
        return None;
    }
    let mut octets = [0; 4];
    for (octet, part) in octets.iter_mut().zip(parts) {
        let digits = part.trim_start_matches('0');
        *octet = match digits {
            "" if !part.is_empty() => 0,
            _ => digits.parse::<u8>().ok()?,
        };
    }
    Some(Ipv4Addr::from(octets).into())
}

/// A prefix.
pub(crate) fn prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (network, bits) = text.trim().split_once('/')?;
    Some((address(network)?, bits.parse().ok()?))
}

/// Whether the first `bits` bits of two addresses of one family agree: compared one by one.
pub(crate) fn prefix_contains(network: IpAddr, bits: u8, ip: IpAddr) -> bool {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (network, ip) = (octets(network), octets(ip));
    let bit = |of: &[u8], place: usize| of[place / 8] >> (7 - place % 8) & 1;
    network.len() == ip.len() && (0..usize::from(bits)).all(|place| bit(&network, place) == bit(&ip, place))
}
