//! Checksums of whole frames, computed from scratch.
//!
//! *Invariant*: nothing of [`crate::net`] is used here, so that a mistake there cannot hide itself: Internet
//! checksums are summed byte by byte in network order (RFC 1071), SCTP's CRC is computed bit by bit
//! (RFC 9260, appendix A), headers are found by this file's own walk.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{format, string::String, vec, vec::Vec};

use super::dump;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const SCTP: u8 = 132;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;
pub(super) const FRAGMENT: u8 = 44;

/// The one's complement sum of the concatenated `parts` (not complemented): what a sender that leaves the
/// checksum to its device writes for the pseudo header.
#[must_use]
pub fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += (u32::from(pair[0]) << 8) | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The Internet checksum of the concatenated `parts`.
#[must_use]
pub fn internet(parts: &[&[u8]]) -> u16 {
    !sum(parts)
}

/// CRC32c, one bit at a time.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

/// The pseudo header of a transport (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[must_use]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let mut bytes = octets(source);
    bytes.extend(octets(destination));
    match source {
        IpAddr::V4(_) => {
            bytes.extend([0, protocol]);
            bytes.extend((length as u16).to_be_bytes());
        }
        IpAddr::V6(_) => {
            bytes.extend((length as u32).to_be_bytes());
            bytes.extend([0, 0, 0, protocol]);
        }
    }
    bytes
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Where the layers of a frame are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layers {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Offset of the network header.
    pub network: usize,
    /// Number of the transport protocol.
    pub protocol: u8,
    /// Offset of the transport header.
    pub transport: usize,
    /// Offset behind the last byte of the packet; the link may have padded the frame.
    pub end: usize,
    /// Part of a larger datagram: its transport checksum says nothing about this frame alone.
    pub fragment: bool,
    /// A fragment that does not start its datagram: it has no transport header.
    pub later_fragment: bool,
}

impl Layers {
    /// Finds the layers of a frame.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn of(frame: &[u8]) -> Result<Self, String> {
        let mut network = 14;
        let mut ethertype = word(frame, 12)?;
        while matches!(ethertype, 0x8100 | 0x88a8) {
            ethertype = word(frame, network + 2)?;
            network += 4;
        }
        match ethertype {
            0x0800 => Self::ipv4(frame, network),
            0x86dd => Self::ipv6(frame, network),
            other => Err(format!("Ethernet type {other:#06x} is neither IPv4 nor IPv6")),
        }
    }

    fn ipv4(frame: &[u8], network: usize) -> Result<Self, String> {
        let header = bytes(frame, network, 20)?;
        let length = usize::from(header[0] & 0xf) * 4;
        if header[0] >> 4 != 4 || length < 20 {
            return Err(format!("first byte {:#04x} of an IPv4 header", header[0]));
        }
        let fragment = word(header, 6)?;
        let layers = Self {
            source: Ipv4Addr::from(<[u8; 4]>::try_from(&header[12..16]).expect("four bytes")).into(),
            destination: Ipv4Addr::from(<[u8; 4]>::try_from(&header[16..20]).expect("four bytes")).into(),
            network,
            protocol: header[9],
            transport: network + length,
            end: network + usize::from(word(header, 2)?),
            fragment: fragment & 0x3fff != 0,
            later_fragment: fragment & 0x1fff != 0,
        };
        layers.within(frame)
    }

    fn ipv6(frame: &[u8], network: usize) -> Result<Self, String> {
        let header = bytes(frame, network, 40)?;
        if header[0] >> 4 != 6 {
            return Err(format!("first byte {:#04x} of an IPv6 header", header[0]));
        }
        let mut layers = Self {
            source: Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).expect("sixteen bytes")).into(),
            destination: Ipv6Addr::from(<[u8; 16]>::try_from(&header[24..40]).expect("sixteen bytes")).into(),
            network,
            protocol: header[6],
            transport: network + 40,
            end: network + 40 + usize::from(word(header, 4)?),
            fragment: false,
            later_fragment: false,
        };
        // Hop-by-hop options, routing, fragment, destination options (RFC 8200 section 4).
        while matches!(layers.protocol, 0 | 43 | FRAGMENT | 60) && !layers.later_fragment {
            let extension = bytes(frame, layers.transport, 8)?;
            let mut length = usize::from(extension[1]) * 8 + 8;
            if layers.protocol == FRAGMENT {
                layers.fragment = true;
                layers.later_fragment = word(extension, 2)? & 0xfff8 != 0;
                length = 8;
            }
            layers.protocol = extension[0];
            layers.transport += length;
        }
        layers.within(frame)
    }

    fn within(self, frame: &[u8]) -> Result<Self, String> {
        if self.end > frame.len() || self.transport > self.end {
            return Err(format!(
                "transport at {}, end at {}, in a frame of {} bytes",
                self.transport,
                self.end,
                frame.len()
            ));
        }
        Ok(self)
    }
}

/// Checks every checksum and length of a frame: IPv4 header, TCP, UDP, SCTP, ICMP, ICMPv6. UDP over IPv4 may
/// do without. A fragment's transport checksum is not checked.
///
/// # Errors
/// The first thing that is wrong, in words.
pub fn verify(frame: &[u8]) -> Result<(), String> {
    let layers = Layers::of(frame)?;
    let v4 = layers.source.is_ipv4();
    if v4 {
        let options = usize::from(frame[layers.network] & 0xf) * 4;
        let header = &frame[layers.network..layers.network + options];
        expect_zero("IPv4 header", internet(&[header]))?;
    }
    if layers.fragment {
        return Ok(());
    }
    let transport = &frame[layers.transport..layers.end];
    let pseudo = pseudo_header(
        layers.source,
        layers.destination,
        layers.protocol,
        transport.len(),
    );
    match layers.protocol {
        TCP => expect_zero("TCP", internet(&[&pseudo, transport])),
        UDP => {
            let length = usize::from(word(transport, 4)?);
            if length != transport.len() {
                return Err(format!("UDP length {length} of {} bytes", transport.len()));
            }
            match (word(transport, 6)?, v4) {
                (0, true) => Ok(()),
                (0, false) => Err("UDP over IPv6 without a checksum".into()),
                _ => expect_zero("UDP", internet(&[&pseudo, transport])),
            }
        }
        SCTP => {
            let field = bytes(transport, 8, 4)?;
            let mut cleared = vec![0; transport.len()];
            cleared.copy_from_slice(transport);
            cleared[8..12].fill(0);
            let right = crc32c(&cleared).to_le_bytes();
            if field == right {
                Ok(())
            } else {
                Err(format!("SCTP checksum {field:02x?} should be {right:02x?}"))
            }
        }
        ICMP => expect_zero("ICMP", internet(&[transport])),
        ICMPV6 => expect_zero("ICMPv6", internet(&[&pseudo, transport])),
        _ => Ok(()),
    }
}

/// Panics, with the frame, unless [`verify`] is content with it.
///
/// # Panics
/// If a checksum or a length is wrong.
#[track_caller]
pub fn assert_checksums(frame: &[u8]) {
    if let Err(error) = verify(frame) {
        panic!("{error}\n{}", dump::hex(frame));
    }
}

fn expect_zero(what: &str, rest: u16) -> Result<(), String> {
    if rest == 0 {
        Ok(())
    } else {
        Err(format!("{what} checksum is wrong by {rest:#06x}"))
    }
}

pub(super) fn word(bytes: &[u8], at: usize) -> Result<u16, String> {
    match bytes.get(at..at + 2) {
        Some(pair) => Ok(u16::from_be_bytes([pair[0], pair[1]])),
        None => Err(format!("{} bytes end before offset {}", bytes.len(), at + 2)),
    }
}

fn bytes(frame: &[u8], at: usize, length: usize) -> Result<&[u8], String> {
    frame
        .get(at..at + length)
        .ok_or_else(|| format!("{} bytes end before offset {}", frame.len(), at + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_come_out() {
        // RFC 1071 section 3, and the check value of CRC-32C.
        assert_eq!(sum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), 0xddf2);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
