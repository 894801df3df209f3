//! The answer to a packet that is larger than the link it would be sent by: ICMP "fragmentation needed" with the
//! link's MTU (RFC 1191), ICMPv6 "packet too big" (RFC 4443 section 3.2, RFC 8201).
//!
//! A packet that goes around the stack must get it from us. It comes from the address that the sender asked for,
//! and quotes the packet as the sender made it.

use crate::abi::{V4, V6};

use super::{ETHERNET, Headers, Refusal, Refuse, checksum::fold};

/// Bytes that are quoted: a network header with options or extension headers, and the ports behind it. Every packet
/// that is too big has more.
const QUOTE: usize = 96;
const HEADER: usize = 8;

/// The smallest MTU of a link that carries IPv6 (RFC 8200, section 5): packets of at most this size are not
/// compared with any.
pub const SMALLEST_MTU: u32 = 1280;

/// How a family says that a packet is too big.
pub trait TooBig: Refuse {
    /// ICMP type and code.
    const TOO_BIG: [u8; 2];
    /// The MTU that is told, of a link of this one.
    fn told(mtu: u32) -> u32;
}

impl TooBig for V4 {
    const TOO_BIG: [u8; 2] = [3, 4];

    #[inline(always)]
    fn told(mtu: u32) -> u32 {
        mtu & 0xffff
    }
}

impl TooBig for V6 {
    const TOO_BIG: [u8; 2] = [2, 0];

    #[inline(always)]
    fn told(mtu: u32) -> u32 {
        if mtu < SMALLEST_MTU { SMALLEST_MTU } else { mtu }
    }
}

impl Refusal {
    /// Writes the answer to the packet that begins with `headers`, from `source` to `destination`; gives its length.
    #[inline(always)]
    pub fn too_big<F: TooBig>(
        &mut self,
        source: F::Addr,
        destination: F::Addr,
        headers: &Headers,
        mtu: u32,
    ) -> usize {
        let at = ETHERNET + F::HEADER;
        let length = (HEADER + QUOTE) as u16;
        F::header(self, destination, source, F::ICMP, length);
        let [kind, code] = F::TOO_BIG;
        let [m0, m1, m2, m3] = F::told(mtu).to_be_bytes();
        self.put(at, [kind, code, 0, 0, m0, m1, m2, m3]);
        let mut i = 0;
        while i < QUOTE {
            self.frame[at + HEADER + i] = headers.bytes[ETHERNET + i];
            i += 1;
        }
        let pseudo = F::icmp_pseudo(destination, source, length);
        let sum = !fold(self.sum(at, HEADER + QUOTE, pseudo).difference());
        self.put(at + 2, sum.to_ne_bytes());
        at + HEADER + QUOTE
    }
}

#[cfg(test)]
mod tests;
