//! From bytes to addresses, ports and protocol.
//!
//! Input: a packet that begins with an Ethernet header. Output: [`Parsed`], or the outcome of a packet that
//! can have nothing to do with Services. IPv4 options are skipped; IPv6 extension headers are not followed
//! yet (such packets pass).
//!
//! RFC 791 (IPv4), RFC 8200 (IPv6), RFC 9293 (TCP), RFC 768 (UDP), RFC 9260 (SCTP).

use crate::abi::{Addr4, Addr6, Device, Family, Outcome, Protocol, Tuple, V4, V6};

use super::Cursor;

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Ethernet type of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Ethernet type of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Ethernet types of VLAN tags (IEEE 802.1Q and 802.1ad).
pub const ETHERTYPE_VLAN: [u16; 2] = [0x8100, 0x88a8];

/// Bits of the TCP header's flags.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 16;
}

/// What the data path needs to know of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Parsed<A> {
    /// Addresses, ports, protocol; the phase is left at its default.
    pub tuple: Tuple<A>,
    /// Offset of the transport header.
    pub transport: u32,
    /// TCP flags; 0 for other protocols.
    pub flags: u8,
}

impl<A> Parsed<A> {
    /// Offset of the transport header: at most 74. The mask says so to the verifier, which forgets bounds
    /// across function calls.
    #[inline(always)]
    #[must_use]
    pub const fn at(&self) -> usize {
        (self.transport & 0x7f) as usize
    }
}

/// An address family as it appears on the wire.
pub trait Net: Family {
    /// Length of the header without options or extensions.
    const HEADER: usize;
    /// Offset of the source address in the packet; the destination follows.
    const ADDRESSES: usize;
    /// Offset of the time to live (hop limit) in the packet.
    const TTL: usize;
    /// Offset of the header's checksum in the packet, if it has one.
    const CHECKSUM: Option<usize>;

    /// Reads a packet's headers.
    ///
    /// # Errors
    /// The outcome (always of the kind "passed") of a packet that cannot be a Service's.
    fn parse<C: Cursor>(cursor: &C) -> Result<Parsed<Self::Addr>, Outcome>;

    /// The address as words whose sum is the address's share of a checksum (in packet order).
    fn words(address: Self::Addr) -> impl Iterator<Item = u32>;

    /// The source address for packets that leave by `device`; all zero: none.
    fn snat(device: &Device) -> Self::Addr;

    /// Offset of the packet's end, as its network header has it (the link may have padded it).
    fn end<C: Cursor>(cursor: &C) -> Option<u32>;

    /// Length of the packet from its network header on.
    #[inline(always)]
    fn length<C: Cursor>(cursor: &C) -> Option<u32> {
        Some(Self::end(cursor)?.wrapping_sub(ETHERNET as u32))
    }
}

impl Net for V4 {
    const HEADER: usize = 20;
    const ADDRESSES: usize = ETHERNET + 12;
    const TTL: usize = ETHERNET + 8;
    const CHECKSUM: Option<usize> = Some(ETHERNET + 10);

    #[inline(always)]
    fn parse<C: Cursor>(cursor: &C) -> Result<Parsed<Addr4>, Outcome> {
        let [first, _, ttl_protocol, source, destination] = cursor
            .load::<[u32; 5]>(ETHERNET)
            .ok_or(Outcome::PassedMalformed)?;
        let [version_length, ..] = first.to_ne_bytes();
        let [_, protocol, ..] = ttl_protocol.to_ne_bytes();
        let length = ((version_length & 0xf) as usize) * 4;
        if version_length >> 4 != 4 || length < Self::HEADER {
            return Err(Outcome::PassedMalformed);
        }
        let fragment = cursor.load::<u16>(ETHERNET + 6).ok_or(Outcome::PassedMalformed)?;
        if u16::from_be(fragment) & 0x1fff != 0 {
            return Err(Outcome::PassedFragment);
        }
        let mut parsed = transport(cursor, protocol, ETHERNET + length)?;
        parsed.tuple.source = Addr4 {
            bytes: source.to_ne_bytes(),
        };
        parsed.tuple.destination = Addr4 {
            bytes: destination.to_ne_bytes(),
        };
        Ok(parsed)
    }

    #[inline(always)]
    fn words(address: Addr4) -> impl Iterator<Item = u32> {
        core::iter::once(u32::from_ne_bytes(address.bytes))
    }

    #[inline(always)]
    fn snat(device: &Device) -> Addr4 {
        device.snat4
    }

    #[inline(always)]
    fn end<C: Cursor>(cursor: &C) -> Option<u32> {
        let total = u16::from_be(cursor.load::<u16>(ETHERNET + 2)?);
        Some(total as u32 + ETHERNET as u32)
    }
}

impl Net for V6 {
    const HEADER: usize = 40;
    const ADDRESSES: usize = ETHERNET + 8;
    const TTL: usize = ETHERNET + 7;
    const CHECKSUM: Option<usize> = None;

    #[inline(always)]
    fn parse<C: Cursor>(cursor: &C) -> Result<Parsed<Addr6>, Outcome> {
        let words = cursor
            .load::<[u32; 10]>(ETHERNET)
            .ok_or(Outcome::PassedMalformed)?;
        let [version, ..] = words[0].to_ne_bytes();
        let [_, _, next, _] = words[1].to_ne_bytes();
        if version >> 4 != 6 {
            return Err(Outcome::PassedMalformed);
        }
        let mut parsed = transport(cursor, next, ETHERNET + Self::HEADER)?;
        parsed.tuple.source = address6([words[2], words[3], words[4], words[5]]);
        parsed.tuple.destination = address6([words[6], words[7], words[8], words[9]]);
        Ok(parsed)
    }

    #[inline(always)]
    fn words(address: Addr6) -> impl Iterator<Item = u32> {
        words6(address).into_iter()
    }

    #[inline(always)]
    fn snat(device: &Device) -> Addr6 {
        device.snat6
    }

    #[inline(always)]
    fn end<C: Cursor>(cursor: &C) -> Option<u32> {
        let payload = u16::from_be(cursor.load::<u16>(ETHERNET + 4)?);
        Some(payload as u32 + (ETHERNET + Self::HEADER) as u32)
    }
}

#[inline(always)]
fn address6(words: [u32; 4]) -> Addr6 {
    bytemuck::cast(words)
}

#[inline(always)]
pub(super) fn words6(address: Addr6) -> [u32; 4] {
    bytemuck::cast(address)
}

/// Ports and flags: one type for all transports that begin with two ports.
#[inline(always)]
fn transport<C: Cursor, A: Default>(cursor: &C, protocol: u8, offset: usize) -> Result<Parsed<A>, Outcome> {
    let Some(known) = Protocol::from_number(protocol) else {
        return Err(Outcome::PassedOther);
    };
    // Every one of the three has a header of at least eight bytes.
    let [ports, _] = cursor.load::<[u32; 2]>(offset).ok_or(Outcome::PassedMalformed)?;
    let [s0, s1, d0, d1] = ports.to_ne_bytes();
    let flags = match known {
        Protocol::Tcp => cursor
            .load::<[u8; 6]>(offset + 12)
            .ok_or(Outcome::PassedMalformed)?[1],
        Protocol::Udp | Protocol::Sctp => 0,
    };
    Ok(Parsed {
        tuple: Tuple {
            source: A::default(),
            destination: A::default(),
            source_port: u16::from_be_bytes([s0, s1]),
            destination_port: u16::from_be_bytes([d0, d1]),
            protocol,
            phase: 0,
            reserved: 0,
        },
        transport: offset as u32,
        flags,
    })
}

#[cfg(test)]
mod tests;
