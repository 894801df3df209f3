//! Writes a translation into a packet.
//!
//! Checksums are changed in place. At TC a sender may have left its checksum to the device, which only the kernel's
//! helper knows: it is asked where the checksum looks like that, and makes all packet pointers invalid.
#![allow(unsafe_code)]

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::{bpf_csum_update, bpf_l4_csum_replace},
};
use lb_common::{
    abi::{Step, Tuple},
    net::{Cursor, Differences, Edit, Net, Parsed, Sum, apply, differences, fold},
};

use crate::{
    global::crc32c_shift,
    packet::{Packet, Tc, Xdp},
    trace::{self, Of, note},
};

/// A packet whose transport checksum can follow a translation.
pub(crate) trait Rewrite: Packet {
    /// Changes the Internet checksum at `offset` by `by`; `parsed` is what the packet was.
    fn fix<F: Net>(
        &self,
        parsed: &Parsed<F::Addr>,
        offset: usize,
        by: Differences,
        zero_is_none: bool,
    ) -> bool;
}

/// Makes `to` the packet's tuple; `false` if the packet could not be written.
#[inline(always)]
pub(crate) fn translate<F: Net, P: Rewrite>(
    packet: &P,
    parsed: &Parsed<F::Addr>,
    to: &Tuple<F::Addr>,
) -> bool {
    note::<F, _, _>(Of::Packet, Step::Rewrite, &parsed.tuple, Some(to));
    let by = differences::<F>(&parsed.tuple, to);
    let transport = parsed.at();
    if !packet.store(F::ADDRESSES, to.source) || !packet.store(F::ADDRESSES + F::ADDR_LEN, to.destination) {
        return false;
    }
    if let Some(field) = F::CHECKSUM {
        let Some(old) = packet.load::<u16>(field) else {
            return false;
        };
        packet.store(field, apply(old, by.addresses));
    }
    if !packet.store(transport, to.source_port.to_be())
        || !packet.store(transport + 2, to.destination_port.to_be())
    {
        return false;
    }
    match Edit::of(to.protocol) {
        Edit::Checksum { field, zero_is_none } => {
            packet.fix::<F>(parsed, transport + field, by, zero_is_none)
        }
        Edit::Crc32c => fix_crc::<F, P>(packet, parsed, to),
    }
}

/// [`translate`] at TC, as a function of its own: its words would crowd the caller's stack.
#[inline(never)]
pub(crate) fn translate_tc<F: Net>(packet: &Tc, parsed: &Parsed<F::Addr>, to: &Tuple<F::Addr>) -> bool {
    translate::<F, _>(packet, parsed, to)
}

/// As [`translate_tc`], at XDP.
#[inline(never)]
pub(crate) fn translate_xdp<F: Net>(packet: &Xdp, parsed: &Parsed<F::Addr>, to: &Tuple<F::Addr>) -> bool {
    translate::<F, _>(packet, parsed, to)
}

/// SCTP's checksum covers the ports but no address.
#[inline(always)]
fn fix_crc<F: Net, P: Packet>(packet: &P, parsed: &Parsed<F::Addr>, to: &Tuple<F::Addr>) -> bool {
    let ports =
        |t: &Tuple<F::Addr>| (t.source_port.to_be() as u32) | (t.destination_port.to_be() as u32) << 16;
    let difference = ports(&parsed.tuple) ^ ports(to);
    if difference == 0 {
        return true;
    }
    let transport = parsed.at();
    let (Some(end), Some(old)) = (F::end(packet), packet.load::<u32>(transport + 8)) else {
        return false;
    };
    let rest = end.wrapping_sub(parsed.transport).wrapping_sub(4);
    packet.store(transport + 8, old ^ crc32c_shift(difference, rest))
}

/// Takes one off the time to live; `false` if that was the last.
#[inline(always)]
pub(crate) fn age<F: Net, P: Packet>(packet: &P) -> bool {
    let Some(ttl) = packet.load::<u8>(F::TTL) else {
        return false;
    };
    if ttl <= 1 {
        return false;
    }
    packet.store(F::TTL, ttl - 1);
    if let Some(field) = F::CHECKSUM
        && let Some(old) = packet.load::<u16>(field)
    {
        // The time to live is the first byte of its word.
        let word = |ttl: u8| u16::from_ne_bytes([ttl, 0]) as u32;
        packet.store(
            field,
            apply(
                old,
                Sum::default().minus(word(ttl)).plus(word(ttl - 1)).difference(),
            ),
        );
    }
    true
}

impl Rewrite for Tc {
    #[inline(always)]
    fn fix<F: Net>(
        &self,
        parsed: &Parsed<F::Addr>,
        offset: usize,
        by: Differences,
        zero_is_none: bool,
    ) -> bool {
        if !may_be_partial::<F>(self, parsed, offset) {
            // A device may have summed up the whole packet. IPv4: two checksums follow the addresses, one too many for
            // that sum. IPv6: it stays the same.
            if F::CHECKSUM.is_some() {
                // SAFETY: the context is the program's own; an error says that there is no such sum.
                unsafe { bpf_csum_update(self.skb, !by.addresses) };
            }
            trace::checksum(offset, false);
            return fix_in_place(self, offset, by, zero_is_none);
        }
        trace::checksum(offset, true);
        let flags = if zero_is_none {
            BPF_F_MARK_MANGLED_0 as u64
        } else {
            0
        };
        let pseudo = flags | BPF_F_PSEUDO_HDR as u64;
        // SAFETY: the context is the program's own; the helper checks the offset. Two calls: a sender that
        // leaves its checksum to the device has summed the addresses and not the ports.
        let addresses =
            unsafe { bpf_l4_csum_replace(self.skb, offset as u32, 0, by.addresses as u64, pseudo) };
        if by.ports == u32::MAX || by.ports == 0 {
            return addresses == 0; // the same ports: their difference is a zero of one's complement
        }
        // SAFETY: as above.
        let ports = unsafe { bpf_l4_csum_replace(self.skb, offset as u32, 0, by.ports as u64, flags) };
        addresses == 0 && ports == 0
    }
}

impl Rewrite for Xdp {
    #[inline(always)]
    fn fix<F: Net>(&self, _: &Parsed<F::Addr>, offset: usize, by: Differences, zero_is_none: bool) -> bool {
        trace::checksum(offset, false);
        fix_in_place(self, offset, by, zero_is_none)
    }
}

/// Changes a checksum that covers the whole packet.
#[inline(always)]
fn fix_in_place<P: Packet>(packet: &P, offset: usize, by: Differences, zero_is_none: bool) -> bool {
    let Some(old) = packet.load::<u16>(offset) else {
        return false;
    };
    if zero_is_none && old == 0 {
        return true;
    }
    let sum = Sum::default().plus(by.addresses).plus(by.ports).difference();
    let new = apply(old, sum);
    packet.store(offset, if zero_is_none && new == 0 { 0xffff } else { new })
}

/// Whether the checksum at `offset` may be one that its sender has left to the device: then it is the sum of the pseudo
/// header and nothing more. (One complete checksum in 65,536 is that, too.) Segments that the device will cut up are
/// taken for such, since their length may be beyond what the headers can say.
#[inline(always)]
fn may_be_partial<F: Net>(packet: &Tc, parsed: &Parsed<F::Addr>, offset: usize) -> bool {
    // SAFETY: reads a field of the program's own context.
    if unsafe { (*packet.skb).gso_size } != 0 {
        return true;
    }
    let (Some(end), Some(field)) = (F::end(packet), packet.load::<u16>(offset)) else {
        return true;
    };
    let length = end.wrapping_sub(parsed.transport) as u16;
    let mut sum = Sum::default()
        .plus((parsed.tuple.protocol as u16).to_be() as u32)
        .plus(length.to_be() as u32);
    for word in F::words(parsed.tuple.source) {
        sum = sum.plus(word);
    }
    for word in F::words(parsed.tuple.destination) {
        sum = sum.plus(word);
    }
    fold(sum.difference()) == field
}
