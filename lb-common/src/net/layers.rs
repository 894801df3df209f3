//! The layers of packets that are not plain: fragments, IPv6 extension headers, and packets inside ICMP errors.
//!
//! Input: [`Headers`], a copy of a packet's beginning. Output: [`Layers`]. The walk over extension headers is
//! bounded in steps and in bytes; what lies behind the bounds passes as [`Outcome::PassedExtension`], and so do
//! headers that a translation would break: authentication (RFC 4302) and routing that is not at its end, whose
//! transport is summed with an address other than the one we see (RFC 8200, section 8.1).

use core::hint::black_box;

use bytemuck::AnyBitPattern;

use crate::abi::{Addr4, Addr6, Family, Outcome, V4, V6};

use super::{Cursor, Sum, parse::address6};

/// Bytes of a packet that are looked at: headers behind them are not found.
pub const HEADERS: usize = 256;

/// Extension headers that are followed.
const EXTENSIONS: u32 = 6;

/// Protocol number of ICMP.
pub(super) const ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub(super) const ICMPV6: u8 = 58;

/// The beginning of a packet, from the link header on, copied out of it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Headers {
    /// The bytes; what lies behind `length` means nothing.
    pub bytes: [u8; HEADERS],
    /// How many of them there are.
    pub length: u32,
}

impl Default for Headers {
    fn default() -> Self {
        Self {
            bytes: [0; HEADERS],
            length: 0,
        }
    }
}

impl Cursor for &Headers {
    #[inline(always)]
    fn load<T: AnyBitPattern>(&self, offset: usize) -> Option<T> {
        // The bound of the memory first, by itself: the verifier does not derive it from the other one.
        if offset > HEADERS - size_of::<T>() || offset + size_of::<T>() > self.length as usize {
            return None;
        }
        let bytes = self.bytes.get(offset..offset + size_of::<T>())?;
        Some(bytemuck::pod_read_unaligned(bytes))
    }
}

impl Headers {
    /// A copy of the beginning of `frame`.
    #[must_use]
    pub fn of(frame: &[u8]) -> Self {
        let mut headers = Self::default();
        for (to, from) in headers.bytes.iter_mut().zip(frame) {
            *to = *from;
        }
        headers.length = frame.len().min(HEADERS) as u32;
        headers
    }

    /// Writes `new` at an even `offset` and adds what that changes to `sum`; nothing, if it is not there.
    #[inline(always)]
    pub(super) fn change<const N: usize>(&mut self, offset: usize, new: [u8; N], sum: Sum) -> Sum {
        if offset > HEADERS - N || offset + N > self.length as usize {
            return sum;
        }
        let Some(bytes) = self.bytes.get_mut(offset..offset + N) else {
            return sum;
        };
        let mut sum = sum;
        let mut i = 0;
        while i + 1 < N {
            let old = u16::from_ne_bytes([bytes[i], bytes[i + 1]]);
            sum = sum
                .minus(old as u32)
                .plus(u16::from_ne_bytes([new[i], new[i + 1]]) as u32);
            bytes[i] = new[i];
            bytes[i + 1] = new[i + 1];
            i += 2;
        }
        sum
    }
}

/// What a network header and its extensions say.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Layers<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Offset of the network header.
    pub network: u32,
    /// Offset of what the network carries.
    pub transport: u32,
    /// Offset behind the packet's last byte, by the network header's length.
    pub end: u32,
    /// Identification of the datagram, if this is a fragment of it.
    pub id: u32,
    /// Where the fragment lies in its datagram, in bytes.
    pub offset: u16,
    /// More fragments follow (0 or 1).
    pub more: u8,
    /// Number of the protocol that the network carries.
    pub protocol: u8,
}

impl<A> Layers<A> {
    /// Part of a larger datagram.
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.offset != 0 || self.more != 0
    }
}

/// What is done with an IPv6 extension header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extension {
    /// It is none.
    None,
    /// Hop-by-hop options, destination options: skipped.
    Options,
    /// Skipped, if it has no more stops.
    Routing,
    /// Read.
    Fragment,
    /// Not understood, or nothing that may be translated.
    Unknown,
}

/// By its number (RFC 8200, section 4; the registry "IPv6 Extension Header Types").
#[inline(always)]
pub(super) const fn extension(number: u8) -> Extension {
    match number {
        0 | 60 => Extension::Options,
        43 => Extension::Routing,
        44 => Extension::Fragment,
        // Encapsulating security, authentication, mobility, host identity, shim6, experiments.
        50 | 51 | 135 | 139 | 140 | 253 | 254 => Extension::Unknown,
        _ => Extension::None,
    }
}

/// The part of a family that closer looks need.
pub trait Read: Family {
    /// Offset of the identification of a plain fragment in the network header, if it is rewritten.
    const ID: Option<usize>;
    /// Offset of the addresses in the network header.
    const ADDRESSES_IN_HEADER: usize;
    /// Offset of the checksum in the network header.
    const CHECKSUM_IN_HEADER: Option<usize>;

    /// Whether a message of this ICMP type, in a packet of this protocol, is an error that quotes a packet.
    fn is_error(protocol: u8, kind: u8) -> bool;

    /// Reads the network header at `network`.
    ///
    /// # Errors
    /// The outcome (always of the kind "passed") of what cannot be read.
    fn layers(headers: &Headers, network: u32, layers: &mut Layers<Self::Addr>) -> Result<(), Outcome>;
}

impl Read for V4 {
    const ID: Option<usize> = Some(4);
    const ADDRESSES_IN_HEADER: usize = 12;
    const CHECKSUM_IN_HEADER: Option<usize> = Some(10);

    /// Destination unreachable, time exceeded, parameter problem (RFC 792). Not source quench, which is
    /// obsolete (RFC 6633), and not redirect: another way to a Service's address is none to its backend.
    #[inline(always)]
    fn is_error(protocol: u8, kind: u8) -> bool {
        protocol == ICMP && matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn layers(headers: &Headers, network: u32, layers: &mut Layers<Addr4>) -> Result<(), Outcome> {
        let cursor = headers;
        let [first, id_fragment, ttl_protocol, source, destination] = cursor
            .load::<[u32; 5]>(network as usize)
            .ok_or(Outcome::PassedMalformed)?;
        let [version_length, _, t0, t1] = first.to_ne_bytes();
        let [i0, i1, f0, f1] = id_fragment.to_ne_bytes();
        let length = (version_length & 0xf) as u32 * 4;
        if version_length >> 4 != 4 || length < 20 {
            return Err(Outcome::PassedMalformed);
        }
        let fragment = u16::from_be_bytes([f0, f1]);
        layers.source = Addr4 {
            bytes: source.to_ne_bytes(),
        };
        layers.destination = Addr4 {
            bytes: destination.to_ne_bytes(),
        };
        layers.network = network;
        layers.transport = network + length;
        layers.end = network + u16::from_be_bytes([t0, t1]) as u32;
        layers.id = u16::from_be_bytes([i0, i1]) as u32;
        layers.offset = (fragment & 0x1fff) << 3;
        layers.more = (fragment >> 13 & 1) as u8;
        layers.protocol = ttl_protocol.to_ne_bytes()[1];
        Ok(())
    }
}

impl Read for V6 {
    // 32 bits, which senders draw at random: two datagrams hardly ever share one.
    const ID: Option<usize> = None;
    const ADDRESSES_IN_HEADER: usize = 8;
    const CHECKSUM_IN_HEADER: Option<usize> = None;

    /// Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
    #[inline(always)]
    fn is_error(protocol: u8, kind: u8) -> bool {
        protocol == ICMPV6 && matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn layers(headers: &Headers, network: u32, layers: &mut Layers<Addr6>) -> Result<(), Outcome> {
        let [first, second] = headers
            .load::<[u32; 2]>(network as usize)
            .ok_or(Outcome::PassedMalformed)?;
        let [version, ..] = first.to_ne_bytes();
        let [l0, l1, next, _] = second.to_ne_bytes();
        if version >> 4 != 6 {
            return Err(Outcome::PassedMalformed);
        }
        // One after the other: all of them together would take up much of the stack.
        let address = |offset| {
            let words = headers.load::<[u32; 4]>(network as usize + offset);
            words.map(address6).ok_or(Outcome::PassedMalformed)
        };
        layers.source = address(Self::ADDRESSES_IN_HEADER)?;
        layers.destination = address(Self::ADDRESSES_IN_HEADER + 16)?;
        layers.transport = network + 40;
        layers.protocol = next;
        layers.network = network;
        layers.end = network + 40 + u16::from_be_bytes([l0, l1]) as u32;
        layers.id = 0;
        layers.offset = 0;
        layers.more = 0;
        extensions(headers, layers)
    }
}

/// Walks over the extension headers that begin at `layers.transport` with one of number `layers.protocol`. What a round
/// finds is left in memory, not in registers: so the verifier does not follow every way through the round any further.
#[inline(never)]
fn extensions(headers: &Headers, layers: &mut Layers<Addr6>) -> Result<(), Outcome> {
    let mut seen = 0;
    loop {
        let layers = black_box(&mut *layers);
        let (kind, at) = (extension(layers.protocol), layers.transport);
        // Behind a fragment's header that is not the first there are no headers.
        if kind == Extension::None || layers.offset != 0 {
            return Ok(());
        }
        if kind == Extension::Unknown || seen == EXTENSIONS || at > HEADERS as u32 {
            return Err(Outcome::PassedExtension);
        }
        let [h0, h1] = headers
            .load::<[u32; 2]>(at as usize)
            .ok_or(Outcome::PassedMalformed)?;
        let [following, length, b2, b3] = h0.to_ne_bytes();
        layers.protocol = following;
        if kind == Extension::Fragment {
            let place = u16::from_be_bytes([b2, b3]);
            layers.offset = place & 0xfff8;
            layers.more = (place & 1) as u8;
            layers.id = u32::from_be(h1);
            layers.transport = at + 8;
        } else {
            // The fourth byte of a routing header: how many stops are left.
            if kind == Extension::Routing && b3 != 0 {
                return Err(Outcome::PassedExtension);
            }
            layers.transport = at + (length as u32 + 1) * 8;
        }
        seen += 1;
    }
}
