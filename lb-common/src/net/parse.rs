//! From bytes to addresses, ports and protocol.
//!
//! Input: a packet that begins with an Ethernet header. Output: [`Parsed`], or [`Odd`]: the outcome of a packet
//! that can have nothing to do with Services, or the wish for a closer look. IPv4 options are skipped.
//! Not here: fragments, IPv6 extension headers and ICMP, which ordinary packets have none of, see `layers`.
//!
//! RFC 791 (IPv4), RFC 8200 (IPv6), RFC 9293 (TCP), RFC 768 (UDP), RFC 9260 (SCTP).

use crate::abi::{Addr4, Addr6, Device, Outcome, Protocol, Tuple, V4, V6};

use super::{
    Cursor, HEADERS,
    layers::{Extension, ICMP, ICMPV6, Read, extension},
};

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Ethernet type of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Ethernet type of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Ethernet types of VLAN tags (IEEE 802.1Q and 802.1ad).
pub const ETHERTYPE_VLAN: [u16; 2] = [0x8100, 0x88a8];

const MALFORMED: Odd = Odd::Pass(Outcome::PassedMalformed);

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
    /// 1: the first fragment of a datagram. (Here rather than beside it: programs then have one way on for all
    /// packets, which the verifier follows once.)
    pub first: u8,
}

impl<A> Parsed<A> {
    /// Offset of the transport header: below [`HEADERS`]. The mask says so to the verifier, which forgets bounds
    /// across function calls.
    #[inline(always)]
    #[must_use]
    pub const fn at(&self) -> usize {
        (self.transport & (HEADERS - 1) as u32) as usize
    }
}

/// Why a packet's ports are not seen at first sight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Odd {
    /// It is ICMP, a fragment, or has extension headers: a closer look may tell.
    Look,
    /// It cannot be a Service's; the outcome is always of the kind "passed".
    Pass(Outcome),
}

/// An address family as it appears on the wire.
pub trait Net: Read {
    /// Length of the header without options or extensions.
    const HEADER: usize;
    /// Offset of the source address in the packet; the destination follows.
    const ADDRESSES: usize;
    /// Offset of the protocol's number (of the first extension header's, if there is one) in the packet.
    const PROTOCOL: usize;
    /// Offset of the time to live (hop limit) in the packet.
    const TTL: usize;
    /// Offset of the header's checksum in the packet, if it has one.
    const CHECKSUM: Option<usize>;

    /// Reads the address at `offset` of a packet.
    fn address<C: Cursor>(cursor: &C, offset: usize) -> Option<Self::Addr>;

    /// Reads a packet's destination.
    #[inline(always)]
    fn destination<C: Cursor>(cursor: &C) -> Option<Self::Addr> {
        Self::address(cursor, Self::ADDRESSES + Self::ADDR_LEN)
    }

    /// Reads a packet's headers, but for the destination if that is `known`.
    ///
    /// # Errors
    /// Why its ports are not seen.
    fn parse_rest<C: Cursor>(cursor: &C, known: Option<Self::Addr>) -> Result<Parsed<Self::Addr>, Odd>;

    /// Reads a packet's headers.
    ///
    /// # Errors
    /// Why its ports are not seen.
    #[inline(always)]
    fn parse<C: Cursor>(cursor: &C) -> Result<Parsed<Self::Addr>, Odd> {
        Self::parse_rest(cursor, None)
    }

    /// The address as words whose sum is the address's share of a checksum (in packet order).
    fn words(address: Self::Addr) -> impl Iterator<Item = u32>;

    /// The address, as words in registers: see [`super::copy_tuple`].
    fn copied(address: &Self::Addr) -> Self::Addr;

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
    const PROTOCOL: usize = ETHERNET + 9;
    const TTL: usize = ETHERNET + 8;
    const CHECKSUM: Option<usize> = Some(ETHERNET + 10);

    #[inline(always)]
    fn address<C: Cursor>(cursor: &C, offset: usize) -> Option<Addr4> {
        cursor.load::<Addr4>(offset)
    }

    #[inline(always)]
    fn parse_rest<C: Cursor>(cursor: &C, known: Option<Addr4>) -> Result<Parsed<Addr4>, Odd> {
        let [first, id_fragment, ttl_protocol, source, destination] =
            cursor.load::<[u32; 5]>(ETHERNET).ok_or(MALFORMED)?;
        let [version_length, ..] = first.to_ne_bytes();
        let [_, protocol, ..] = ttl_protocol.to_ne_bytes();
        let length = ((version_length & 0xf) as usize) * 4;
        if version_length >> 4 != 4 || length < Self::HEADER {
            return Err(MALFORMED);
        }
        // All but "don't fragment": where a fragment lies, and whether more follow.
        if id_fragment & u32::from_ne_bytes([0, 0, 0xbf, 0xff]) != 0 {
            return Err(Odd::Look);
        }
        let Some(transported) = Protocol::from_number(protocol) else {
            return Err(if protocol == ICMP {
                Odd::Look
            } else {
                Odd::Pass(Outcome::PassedOther)
            });
        };
        let mut parsed = transport(cursor, transported, ETHERNET + length).ok_or(MALFORMED)?;
        parsed.tuple.source = Addr4 {
            bytes: source.to_ne_bytes(),
        };
        parsed.tuple.destination = known.unwrap_or(Addr4 {
            bytes: destination.to_ne_bytes(),
        });
        Ok(parsed)
    }

    #[inline(always)]
    fn words(address: Addr4) -> impl Iterator<Item = u32> {
        core::iter::once(u32::from_ne_bytes(address.bytes))
    }

    #[inline(always)]
    fn copied(address: &Addr4) -> Addr4 {
        Addr4 {
            bytes: u32::from_ne_bytes(address.bytes).to_ne_bytes(),
        }
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
    const PROTOCOL: usize = ETHERNET + 6;
    const TTL: usize = ETHERNET + 7;
    const CHECKSUM: Option<usize> = None;

    #[inline(always)]
    fn address<C: Cursor>(cursor: &C, offset: usize) -> Option<Addr6> {
        // Word by word, see `copy`.
        let [a, b, c, d] = cursor.load::<[u32; 4]>(offset)?;
        Some(address6([a, b, c, d]))
    }

    #[inline(always)]
    fn parse_rest<C: Cursor>(cursor: &C, known: Option<Addr6>) -> Result<Parsed<Addr6>, Odd> {
        let words = cursor.load::<[u32; 10]>(ETHERNET).ok_or(MALFORMED)?;
        let [version, ..] = words[0].to_ne_bytes();
        let [_, _, next, _] = words[1].to_ne_bytes();
        if version >> 4 != 6 {
            return Err(MALFORMED);
        }
        let Some(transported) = Protocol::from_number(next) else {
            return Err(if next == ICMPV6 || extension(next) != Extension::None {
                Odd::Look
            } else {
                Odd::Pass(Outcome::PassedOther)
            });
        };
        let mut parsed = transport(cursor, transported, ETHERNET + Self::HEADER).ok_or(MALFORMED)?;
        parsed.tuple.source = address6([words[2], words[3], words[4], words[5]]);
        parsed.tuple.destination = known.unwrap_or(address6([words[6], words[7], words[8], words[9]]));
        Ok(parsed)
    }

    #[inline(always)]
    fn words(address: Addr6) -> impl Iterator<Item = u32> {
        words6(address).into_iter()
    }

    #[inline(always)]
    fn copied(address: &Addr6) -> Addr6 {
        let [a, b, c, d] = words6(*address);
        address6([a, b, c, d])
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
pub(super) fn address6(words: [u32; 4]) -> Addr6 {
    bytemuck::cast(words)
}

#[inline(always)]
pub(super) fn words6(address: Addr6) -> [u32; 4] {
    bytemuck::cast(address)
}

/// Ports and flags: one type for all transports that begin with two ports.
#[inline(always)]
pub(super) fn transport<C: Cursor, A: Default>(
    cursor: &C,
    protocol: Protocol,
    offset: usize,
) -> Option<Parsed<A>> {
    // Every one of the three has a header of at least eight bytes.
    let [ports, _] = cursor.load::<[u32; 2]>(offset)?;
    let [s0, s1, d0, d1] = ports.to_ne_bytes();
    let flags = match protocol {
        Protocol::Tcp => cursor.load::<[u8; 6]>(offset + 12)?[1],
        Protocol::Udp | Protocol::Sctp => 0,
    };
    Some(Parsed {
        tuple: Tuple {
            source: A::default(),
            destination: A::default(),
            source_port: u16::from_be_bytes([s0, s1]),
            destination_port: u16::from_be_bytes([d0, d1]),
            protocol: protocol as u8,
            phase: 0,
            reserved: 0,
        },
        transport: offset as u32,
        flags,
        first: 0,
    })
}

#[cfg(test)]
mod tests;
