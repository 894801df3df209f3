//! Refusals: the answer that tells a client at once that nobody serves it.
//!
//! TCP: a RST (RFC 9293, section 3.5.2). Others: ICMP or ICMPv6 "port unreachable" (RFC 792, RFC 4443
//! section 3.1), quoting the network header and eight bytes, which name the socket. The answer comes from
//! the address the client asked for.

use crate::abi::{Addr4, Addr6, Tuple, V4, V6};

use super::{
    Cursor, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Net, Parsed, Sum, checksum::fold, parse::words6,
    tcp_flag,
};

/// Bytes of the refused packet that an ICMP error quotes, from the network header on.
pub type Quote = [u8; 48];

/// Room for the largest answer.
pub const FRAME: usize = 160;

const TTL: u8 = 64;
const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const RESET: usize = 20;
const ICMP_HEADER: usize = 8;

/// A frame that is being built.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Refusal {
    /// The bytes.
    pub frame: [u8; FRAME],
}

impl Default for Refusal {
    fn default() -> Self {
        Self { frame: [0; FRAME] }
    }
}

/// What a family's refusals look like.
pub trait Refuse: Net {
    /// Protocol number of its ICMP.
    const ICMP: u8;
    /// ICMP type and code of "port unreachable".
    const PORT_UNREACHABLE: [u8; 2];
    /// Bytes of a refused packet that are quoted.
    const QUOTE: usize;
    /// Its Ethernet type.
    const ETHERTYPE: u16;
    /// Writes the network header for `payload` bytes of `protocol`.
    fn header(refusal: &mut Refusal, from: Self::Addr, to: Self::Addr, protocol: u8, payload: u16);
    /// The share of the addresses, the protocol and the length in a transport's checksum.
    fn pseudo(from: Self::Addr, to: Self::Addr, protocol: u8, length: u16) -> Sum;
    /// The same for ICMP, which has a pseudo header in IPv6 only.
    fn icmp_pseudo(from: Self::Addr, to: Self::Addr, length: u16) -> Sum;
}

impl Refuse for V4 {
    const ICMP: u8 = ICMP;
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];
    const QUOTE: usize = 28;
    const ETHERTYPE: u16 = ETHERTYPE_IPV4;

    #[inline(always)]
    fn header(refusal: &mut Refusal, from: Addr4, to: Addr4, protocol: u8, payload: u16) {
        let [t0, t1] = (payload + Self::HEADER as u16).to_be_bytes();
        refusal.put(ETHERNET, [0x45, 0, t0, t1, 0, 0, 0x40, 0, TTL, protocol, 0, 0]);
        refusal.put(Self::ADDRESSES, from.bytes);
        refusal.put(Self::ADDRESSES + 4, to.bytes);
        let sum = !fold(refusal.sum(ETHERNET, Self::HEADER, Sum::default()).difference());
        refusal.put(ETHERNET + 10, sum.to_ne_bytes());
    }

    #[inline(always)]
    fn pseudo(from: Addr4, to: Addr4, protocol: u8, length: u16) -> Sum {
        pseudo::<Self>(from, to, protocol, length)
    }

    #[inline(always)]
    fn icmp_pseudo(_: Addr4, _: Addr4, _: u16) -> Sum {
        Sum::default()
    }
}

impl Refuse for V6 {
    const ICMP: u8 = ICMPV6;
    const PORT_UNREACHABLE: [u8; 2] = [1, 4];
    const QUOTE: usize = 48;
    const ETHERTYPE: u16 = ETHERTYPE_IPV6;

    #[inline(always)]
    fn header(refusal: &mut Refusal, from: Addr6, to: Addr6, protocol: u8, payload: u16) {
        let [l0, l1] = payload.to_be_bytes();
        refusal.put(ETHERNET, [0x60, 0, 0, 0, l0, l1, protocol, TTL]);
        refusal.put(Self::ADDRESSES, from.bytes);
        refusal.put(Self::ADDRESSES + 16, to.bytes);
    }

    #[inline(always)]
    fn pseudo(from: Addr6, to: Addr6, protocol: u8, length: u16) -> Sum {
        let mut sum = pseudo_tail(protocol, length);
        for word in words6(from) {
            sum = sum.plus(word);
        }
        for word in words6(to) {
            sum = sum.plus(word);
        }
        sum
    }

    #[inline(always)]
    fn icmp_pseudo(from: Addr6, to: Addr6, length: u16) -> Sum {
        Self::pseudo(from, to, Self::ICMP, length)
    }
}

#[inline(always)]
fn pseudo<F: Net>(from: F::Addr, to: F::Addr, protocol: u8, length: u16) -> Sum {
    let mut sum = pseudo_tail(protocol, length);
    for word in F::words(from) {
        sum = sum.plus(word);
    }
    for word in F::words(to) {
        sum = sum.plus(word);
    }
    sum
}

/// The protocol and the length, each in a 16-bit word of the packet's order.
#[inline(always)]
fn pseudo_tail(protocol: u8, length: u16) -> Sum {
    Sum::default()
        .plus((protocol as u16).to_be() as u32)
        .plus(length.to_be() as u32)
}

impl Refusal {
    /// Writes a RST that answers a segment of `tuple`'s connection; gives its length. A checksum that is left
    /// to the device is the pseudo header's sum only.
    #[inline(always)]
    pub fn reset<F: Refuse>(&mut self, tuple: &Tuple<F::Addr>, of: &Segment) -> usize {
        let (sequence, acknowledgement, flags) = if of.flags & tcp_flag::ACK != 0 {
            (of.acknowledgement, 0, tcp_flag::RST)
        } else {
            let length =
                of.data + (of.flags & tcp_flag::SYN != 0) as u32 + (of.flags & tcp_flag::FIN != 0) as u32;
            (0, of.sequence.wrapping_add(length), tcp_flag::RST | tcp_flag::ACK)
        };
        let Tuple {
            source,
            destination,
            source_port,
            destination_port,
            ..
        } = *tuple;
        let at = ETHERNET + F::HEADER;
        F::header(self, destination, source, TCP, RESET as u16);
        self.put(at, destination_port.to_be_bytes());
        self.put(at + 2, source_port.to_be_bytes());
        self.put(at + 4, sequence.to_be_bytes());
        self.put(at + 8, acknowledgement.to_be_bytes());
        self.put(at + 12, [0x50, flags, 0, 0, 0, 0, 0, 0]);
        let pseudo = F::pseudo(destination, source, TCP, RESET as u16);
        let sum = if of.partial {
            fold(pseudo.difference())
        } else {
            !fold(self.sum(at, RESET, pseudo).difference())
        };
        self.put(at + 16, sum.to_ne_bytes());
        at + RESET
    }

    /// Writes an ICMP error "port unreachable" that quotes the refused packet; gives its length.
    #[inline(always)]
    pub fn unreachable<F: Refuse>(&mut self, tuple: &Tuple<F::Addr>, quote: &Quote) -> usize {
        let Tuple {
            source, destination, ..
        } = *tuple;
        let at = ETHERNET + F::HEADER;
        let length = (ICMP_HEADER + F::QUOTE) as u16;
        F::header(self, destination, source, F::ICMP, length);
        let [kind, code] = F::PORT_UNREACHABLE;
        self.put(at, [kind, code, 0, 0, 0, 0, 0, 0]);
        let mut i = 0;
        while i < F::QUOTE {
            self.frame[at + ICMP_HEADER + i] = quote[i];
            i += 1;
        }
        let pseudo = F::icmp_pseudo(destination, source, length);
        let sum = !fold(self.sum(at, ICMP_HEADER + F::QUOTE, pseudo).difference());
        self.put(at + 2, sum.to_ne_bytes());
        at + ICMP_HEADER + F::QUOTE
    }

    /// Writes the link header of an answer to a frame that began with `link`.
    #[inline(always)]
    pub fn link<F: Refuse>(&mut self, link: [u8; 12]) {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = link;
        self.put(0, [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5]);
        self.put(12, F::ETHERTYPE.to_be_bytes());
    }

    #[inline(always)]
    pub(super) fn put<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) {
        let mut i = 0;
        while i < N {
            self.frame[offset + i] = bytes[i];
            i += 1;
        }
    }

    /// A function of its own: what was just written would otherwise be kept in registers that the kernel's
    /// machine does not have.
    #[inline(never)]
    pub(super) fn sum(&self, offset: usize, length: usize, start: Sum) -> Sum {
        let mut sum = start;
        let mut i = 0;
        while i < length && i < FRAME {
            let Some(&[a, b]) = self.frame.get(offset + i..).and_then(|rest| rest.first_chunk()) else {
                break;
            };
            sum = sum.plus(u16::from_ne_bytes([a, b]) as u32);
            i += 2;
        }
        sum
    }
}

/// What a RST needs to know of the segment it answers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Segment {
    /// Its sequence number.
    pub sequence: u32,
    /// Its acknowledgement number.
    pub acknowledgement: u32,
    /// Its flags.
    pub flags: u8,
    /// Its data in bytes.
    pub data: u32,
    /// Its checksum was left to the device, and so must the answer's be.
    pub partial: bool,
}

impl Segment {
    /// Reads the segment of a parsed packet.
    #[inline(always)]
    pub fn read<F: Refuse, C: Cursor>(cursor: &C, parsed: &Parsed<F::Addr>) -> Option<Self> {
        // The fixed offset first, and the header in one piece: behind a check at a variable offset the compiler
        // drops the checks that this one implies, and the verifier does not follow it.
        let length = F::end(cursor)?.wrapping_sub(parsed.transport);
        let header = cursor.load::<[u32; 5]>(parsed.at())?;
        let [offset, ..] = header[3].to_ne_bytes();
        let [c0, c1, ..] = header[4].to_ne_bytes();
        // The field of a sender that leaves the checksum to its device holds the pseudo header's sum. So does one
        // complete checksum in 65,536; that client sends its segment again.
        let tuple = &parsed.tuple;
        let pseudo = F::pseudo(tuple.source, tuple.destination, tuple.protocol, length as u16);
        Some(Self {
            sequence: u32::from_be(header[1]),
            acknowledgement: u32::from_be(header[2]),
            flags: parsed.flags,
            data: length.saturating_sub((offset >> 4) as u32 * 4),
            partial: fold(pseudo.difference()) == u16::from_ne_bytes([c0, c1]),
        })
    }
}

const _: () = assert!(ETHERNET + <V6 as Net>::HEADER + ICMP_HEADER + <V6 as Refuse>::QUOTE <= FRAME);

#[cfg(test)]
mod tests;
