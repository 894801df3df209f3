//! Addresses as old objects spell them.

use std::net::{IpAddr, Ipv4Addr};

/// An address with blanks around it or with leading zeros, which are decimal: 172.30.0.041 is .41.
pub(crate) fn lenient(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        *octet = digits.then(|| part.parse().ok())??;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_are_decimal_and_names_are_no_addresses() {
        for (text, ip) in [
            ("172.30.0.041", Some("172.30.0.41")),
            (" 192.0.2.4 ", Some("192.0.2.4")),
            ("010.180.000.001", Some("10.180.0.1")),
            ("FD00:0:0::0001", Some("fd00::1")),
            ("172.30.0.256", None),
            ("172.30.0", None),
            ("1.2.3.4.5", None),
            ("web.example", None),
            ("", None),
        ] {
            assert_eq!(lenient(text), ip.map(|ip| ip.parse().unwrap()), "{text:?}");
        }
    }
}
