//! Packets as values, built into frames with every length and checksum computed from scratch.
//!
//! One code for IPv4 and IPv6: the addresses say which. What a translation should make of a packet is the
//! same packet with other addresses:
//!
//! ```
//! use lb_common::testing::{checksum::assert_checksums, packet};
//!
//! let sent = packet::tcp("198.51.100.7:40000", "10.96.0.10:80").syn().seq(7);
//! let expected = sent.clone().to("10.244.1.2:8080").ttl(63);
//! let answer = expected.reply().syn_ack().seq(1000).ack(8);
//! assert_checksums(&sent.build());
//! assert_checksums(&answer.payload(b"hello").build());
//! ```

use std::net::{IpAddr, SocketAddr};
use std::{vec, vec::Vec};

use super::checksum::{self, FRAGMENT, ICMP, ICMPV6, SCTP, TCP, UDP, octets};

mod parts;

/// Bits of the TCP header's flags.
pub mod flag {
    #![allow(missing_docs)]
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
}

/// An address and a port, also written as text: `"10.0.0.1:80"`, `"[fd00::1]:80"`.
pub trait Endpoint {
    /// The address and the port.
    fn socket(self) -> SocketAddr;
}

impl Endpoint for SocketAddr {
    fn socket(self) -> SocketAddr {
        self
    }
}

impl Endpoint for (IpAddr, u16) {
    fn socket(self) -> SocketAddr {
        self.into()
    }
}

impl Endpoint for &str {
    #[track_caller]
    fn socket(self) -> SocketAddr {
        match self.parse() {
            Ok(socket) => socket,
            Err(error) => panic!("{self:?} is no address with a port: {error}"),
        }
    }
}

/// What follows the network header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transport {
    /// RFC 9293.
    Tcp {
        /// Sum of [`flag`]s.
        flags: u8,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
        /// Window.
        window: u16,
        /// Options, filled up with zeros to a multiple of four bytes.
        options: Vec<u8>,
    },
    /// RFC 768.
    Udp,
    /// RFC 9260: the common header. The chunks are the payload.
    Sctp {
        /// Verification tag.
        tag: u32,
    },
    /// ICMP or ICMPv6, by the family of the addresses; ports are ignored.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes behind the checksum.
        rest: [u8; 4],
    },
    /// Another protocol: nothing but the payload.
    Other {
        /// Its number.
        protocol: u8,
    },
}

/// What is written into the transport's checksum field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksum {
    /// The right one.
    Complete,
    /// The sum of the pseudo header: the sender leaves the rest to its device. TCP and UDP only.
    Partial,
    /// Zero: UDP without a checksum.
    Absent,
}

/// A packet. Made by [`tcp`], [`udp`], [`sctp`], [`icmp`] and [`other`]; every field can be set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
    /// Source MAC address.
    pub source_mac: [u8; 6],
    /// Destination MAC address.
    pub destination_mac: [u8; 6],
    /// VLAN tags, outermost first.
    pub vlans: Vec<u16>,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// IPv4: identification. Also that of an IPv6 fragment.
    pub id: u16,
    /// IPv4: options, filled up with zeros to a multiple of four bytes.
    pub ip_options: Vec<u8>,
    /// IPv6: extension headers by number and content; length and next header are filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// The fragment's place in bytes (a multiple of eight), and whether more follow. The first fragment has the
    /// transport header, the others have the payload only.
    pub fragment: Option<(u16, bool)>,
    /// The transport header.
    pub transport: Transport,
    /// What is written into its checksum field.
    pub checksum: Checksum,
    /// What follows the transport header.
    pub payload: Vec<u8>,
    /// Bytes behind the packet's end that the link has added.
    pub padding: usize,
}

/// A TCP segment without flags.
#[track_caller]
#[must_use]
pub fn tcp(source: impl Endpoint, destination: impl Endpoint) -> Packet {
    let transport = Transport::Tcp {
        flags: 0,
        seq: 0,
        ack: 0,
        window: 0xffff,
        options: vec![],
    };
    packet(source, destination, transport)
}

/// A UDP datagram.
#[track_caller]
#[must_use]
pub fn udp(source: impl Endpoint, destination: impl Endpoint) -> Packet {
    packet(source, destination, Transport::Udp)
}

/// An SCTP packet; its chunks are the payload.
#[track_caller]
#[must_use]
pub fn sctp(source: impl Endpoint, destination: impl Endpoint) -> Packet {
    packet(source, destination, Transport::Sctp { tag: 0x1234_5678 })
}

/// An ICMP or ICMPv6 message.
#[must_use]
pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8) -> Packet {
    let rest = [0; 4];
    packet(
        (source, 0),
        (destination, 0),
        Transport::Icmp { kind, code, rest },
    )
}

/// A packet of a protocol that is not built here.
#[must_use]
pub fn other(source: IpAddr, destination: IpAddr, protocol: u8) -> Packet {
    packet((source, 0), (destination, 0), Transport::Other { protocol })
}

#[track_caller]
fn packet(source: impl Endpoint, destination: impl Endpoint, transport: Transport) -> Packet {
    Packet {
        source: source.socket(),
        destination: destination.socket(),
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        vlans: vec![],
        ttl: 64,
        id: 0,
        ip_options: vec![],
        extensions: vec![],
        fragment: None,
        transport,
        checksum: Checksum::Complete,
        payload: vec![],
        padding: 0,
    }
}

/// Setters, to be chained.
impl Packet {
    /// Another source.
    #[track_caller]
    #[must_use]
    pub fn from(mut self, source: impl Endpoint) -> Self {
        self.source = source.socket();
        self
    }

    /// Another destination.
    #[track_caller]
    #[must_use]
    pub fn to(mut self, destination: impl Endpoint) -> Self {
        self.destination = destination.socket();
        self
    }

    /// Both MAC addresses.
    #[must_use]
    pub fn macs(mut self, source: [u8; 6], destination: [u8; 6]) -> Self {
        self.source_mac = source;
        self.destination_mac = destination;
        self
    }

    /// The same packet in the other direction, MAC addresses included.
    #[must_use]
    pub fn reply(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_mac: self.destination_mac,
            destination_mac: self.source_mac,
            ..self.clone()
        }
    }

    /// TCP flags, as a sum of [`flag`]s.
    #[must_use]
    pub fn flags(mut self, wanted: u8) -> Self {
        if let Transport::Tcp { flags, .. } = &mut self.transport {
            *flags = wanted;
        }
        self
    }

    /// The first segment of a connection.
    #[must_use]
    pub fn syn(self) -> Self {
        self.flags(flag::SYN)
    }

    /// The second segment of a connection.
    #[must_use]
    pub fn syn_ack(self) -> Self {
        self.flags(flag::SYN | flag::ACK)
    }

    /// TCP sequence number.
    #[must_use]
    pub fn seq(mut self, wanted: u32) -> Self {
        if let Transport::Tcp { seq, .. } = &mut self.transport {
            *seq = wanted;
        }
        self
    }

    /// TCP acknowledgement number, with its flag.
    #[must_use]
    pub fn ack(mut self, wanted: u32) -> Self {
        if let Transport::Tcp { ack, flags, .. } = &mut self.transport {
            *ack = wanted;
            *flags |= flag::ACK;
        }
        self
    }

    /// TCP window.
    #[must_use]
    pub fn window(mut self, wanted: u16) -> Self {
        if let Transport::Tcp { window, .. } = &mut self.transport {
            *window = wanted;
        }
        self
    }

    /// TCP options.
    #[must_use]
    pub fn tcp_options(mut self, wanted: &[u8]) -> Self {
        if let Transport::Tcp { options, .. } = &mut self.transport {
            *options = wanted.to_vec();
        }
        self
    }

    /// What follows the transport header.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Time to live or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// IPv4 options.
    #[must_use]
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip_options = options.to_vec();
        self
    }

    /// One more IPv6 extension header.
    #[must_use]
    pub fn extension(mut self, number: u8, content: &[u8]) -> Self {
        self.extensions.push((number, content.to_vec()));
        self
    }

    /// Makes it a fragment, see [`Packet::fragment`].
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = Some((offset, more));
        self
    }

    /// One more VLAN tag.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlans.push(id);
        self
    }

    /// What is written into the transport's checksum field.
    #[must_use]
    pub fn checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }

    /// Bytes that the link has added.
    #[must_use]
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = padding;
        self
    }
}

/// From a value to bytes.
impl Packet {
    /// Number of the transport protocol.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => TCP,
            Transport::Udp => UDP,
            Transport::Sctp { .. } => SCTP,
            Transport::Icmp { .. } if self.source.is_ipv4() => ICMP,
            Transport::Icmp { .. } => ICMPV6,
            Transport::Other { protocol } => protocol,
        }
    }

    /// The frame.
    ///
    /// # Panics
    /// If source and destination are of different families.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let body = match self.fragment {
            Some((offset, _)) if offset != 0 => self.payload.clone(),
            _ => self.segment(),
        };
        let mut frame = [self.destination_mac, self.source_mac].concat();
        for vlan in &self.vlans {
            frame.extend(0x8100u16.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                frame.extend(0x0800u16.to_be_bytes());
                frame.extend(self.ipv4(body.len()));
            }
            (IpAddr::V6(_), IpAddr::V6(_)) => {
                frame.extend(0x86ddu16.to_be_bytes());
                frame.extend(self.ipv6(body.len()));
            }
            (source, destination) => panic!("a packet from {source} to {destination}"),
        }
        frame.extend(body);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }

    fn ipv4(&self, body: usize) -> Vec<u8> {
        let options = padded(&self.ip_options);
        let length = 20 + options.len();
        let mut header = vec![0x40 | (length / 4) as u8, 0];
        header.extend(((length + body) as u16).to_be_bytes());
        header.extend(self.id.to_be_bytes());
        let fragment = match self.fragment {
            Some((offset, more)) => (offset / 8) | (u16::from(more) << 13),
            None => 0x4000,
        };
        header.extend(fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol(), 0, 0]);
        header.extend(octets(self.source.ip()));
        header.extend(octets(self.destination.ip()));
        header.extend(options);
        let sum = checksum::internet(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn ipv6(&self, body: usize) -> Vec<u8> {
        // From the last to the first, since each names the one behind it.
        let mut next = self.protocol();
        let mut extensions = vec![];
        if let Some((offset, more)) = self.fragment {
            let [o0, o1] = ((offset & 0xfff8) | u16::from(more)).to_be_bytes();
            let [i0, i1] = self.id.to_be_bytes();
            extensions = vec![next, 0, o0, o1, 0, 0, i0, i1];
            next = FRAGMENT;
        }
        for (number, content) in self.extensions.iter().rev() {
            let mut header = vec![next, 0];
            header.extend(content);
            header.resize(header.len().next_multiple_of(8), 0);
            header[1] = (header.len() / 8 - 1) as u8;
            header.extend(&extensions);
            extensions = header;
            next = *number;
        }
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(((extensions.len() + body) as u16).to_be_bytes());
        header.extend([next, self.ttl]);
        header.extend(octets(self.source.ip()));
        header.extend(octets(self.destination.ip()));
        header.extend(extensions);
        header
    }

    /// Transport header and payload.
    fn segment(&self) -> Vec<u8> {
        let mut bytes = [
            self.source.port().to_be_bytes(),
            self.destination.port().to_be_bytes(),
        ]
        .concat();
        match &self.transport {
            Transport::Tcp {
                flags,
                seq,
                ack,
                window,
                options,
            } => {
                let options = padded(options);
                bytes.extend(seq.to_be_bytes());
                bytes.extend(ack.to_be_bytes());
                let offset = ((20 + options.len()) / 4) as u8;
                bytes.extend([offset << 4, *flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(options);
                bytes.extend(&self.payload);
                self.seal(bytes, 16)
            }
            Transport::Udp => {
                bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(&self.payload);
                self.seal(bytes, 6)
            }
            Transport::Sctp { tag } => {
                bytes.extend(tag.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(&self.payload);
                let crc = checksum::crc32c(&bytes).to_le_bytes();
                bytes[8..12].copy_from_slice(&crc);
                bytes
            }
            Transport::Icmp { kind, code, rest } => {
                bytes = vec![*kind, *code, 0, 0];
                bytes.extend(rest);
                bytes.extend(&self.payload);
                self.seal(bytes, 2)
            }
            Transport::Other { .. } => self.payload.clone(),
        }
    }

    /// Fills in an Internet checksum at `field`.
    fn seal(&self, mut bytes: Vec<u8>, field: usize) -> Vec<u8> {
        let protocol = self.protocol();
        let pseudo = if protocol == ICMP {
            vec![]
        } else {
            checksum::pseudo_header(self.source.ip(), self.destination.ip(), protocol, bytes.len())
        };
        let sum = match self.checksum {
            Checksum::Complete => match checksum::internet(&[&pseudo, &bytes]) {
                0 if protocol == UDP => 0xffff,
                sum => sum,
            },
            Checksum::Partial => checksum::sum(&[&pseudo]),
            Checksum::Absent => 0,
        };
        bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

fn padded(options: &[u8]) -> Vec<u8> {
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

#[cfg(test)]
mod tests;
