//! Turns a packet into the refusal of itself and sends it back.
#![allow(unsafe_code)]

use aya_ebpf::helpers::generated::{
    bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_xdp_adjust_tail, bpf_xdp_load_bytes,
    bpf_xdp_store_bytes,
};
use lb_common::{
    abi::Protocol,
    net::{Cursor, ETHERNET, FRAME, Quote, Refusal, Segment},
};

use crate::{
    maps::{Maps, Workspace},
    packet::{Packet, Tc, Xdp},
    tables::workspace,
};

/// The body of [`Tc::refuse`].
#[inline(always)]
pub(crate) fn tc<F: Maps>(packet: &Tc) -> u32 {
    workspace::<F>().is_some_and(|workspace| write::<F, _>(packet, workspace)) as u32
}

/// The body of [`Xdp::refuse`].
#[inline(always)]
pub(crate) fn xdp<F: Maps>(packet: &Xdp) -> u32 {
    workspace::<F>().is_some_and(|workspace| write::<F, _>(packet, workspace)) as u32
}

/// A packet that can become another one.
trait Answer: Packet {
    /// Reads what an answer quotes: `length` bytes from the network header on.
    fn quote(&self, quote: &mut Quote, length: usize) -> bool;
    /// Becomes the first `length` bytes of `frame`.
    fn replace(&self, frame: &[u8; FRAME], length: usize) -> bool;
}

#[inline(always)]
fn write<F: Maps, P: Answer>(packet: &P, workspace: &mut Workspace<F::Addr>) -> bool {
    let Some(link) = packet.load::<[u8; 12]>(0) else {
        return false;
    };
    // One after the other: each needs much of the stack.
    let length = if workspace.flow.parsed.tuple.protocol == Protocol::Tcp as u8 {
        match Segment::read::<F, _>(packet, &workspace.flow.parsed) {
            Some(segment) => reset::<F>(workspace, &segment),
            None => return false,
        }
    } else if packet.quote(&mut workspace.quote, F::QUOTE) {
        unreachable::<F>(workspace)
    } else {
        return false;
    };
    workspace.refusal.link::<F>(link);
    packet.replace(&workspace.refusal.frame, length)
}

#[inline(never)]
fn reset<F: Maps>(workspace: &mut Workspace<F::Addr>, segment: &Segment) -> usize {
    let Workspace { flow, refusal, .. } = workspace;
    refusal.reset::<F>(&flow.parsed.tuple, segment)
}

#[inline(never)]
fn unreachable<F: Maps>(workspace: &mut Workspace<F::Addr>) -> usize {
    let Workspace {
        flow, refusal, quote, ..
    } = workspace;
    refusal.unreachable::<F>(&flow.parsed.tuple, quote)
}

/// Turns the packet into an answer of `length` bytes that is written but for its link header.
#[inline(always)]
pub(crate) fn answer_tc<F: Maps>(packet: &Tc, refusal: &mut Refusal, length: usize) -> bool {
    let Some(link) = packet.load::<[u8; 12]>(0) else {
        return false;
    };
    refusal.link::<F>(link);
    packet.replace(&refusal.frame, length)
}

impl Answer for Tc {
    #[inline(always)]
    fn quote(&self, quote: &mut Quote, length: usize) -> bool {
        let quote = quote.as_mut_ptr().cast();
        // SAFETY: `length` is at most the quote's size, a constant of the family; the helper checks the packet's.
        (unsafe { bpf_skb_load_bytes(self.skb.cast(), ETHERNET as u32, quote, length as u32) }) == 0
    }

    #[inline(always)]
    fn replace(&self, frame: &[u8; FRAME], length: usize) -> bool {
        // SAFETY: the context is the program's own.
        if unsafe { bpf_skb_change_tail(self.skb, length as u32, 0) } != 0 {
            return false;
        }
        let frame = frame.as_ptr().cast();
        // SAFETY: `length` is at most the frame's size, a constant of the family; the helper checks the packet's.
        (unsafe { bpf_skb_store_bytes(self.skb, 0, frame, length as u32, 0) }) == 0
    }
}

impl Answer for Xdp {
    #[inline(always)]
    fn quote(&self, quote: &mut Quote, length: usize) -> bool {
        let quote = quote.as_mut_ptr().cast();
        // SAFETY: as at TC.
        (unsafe { bpf_xdp_load_bytes(self.md, ETHERNET as u32, quote, length as u32) }) == 0
    }

    #[inline(always)]
    fn replace(&self, frame: &[u8; FRAME], length: usize) -> bool {
        let by = (length as u32).wrapping_sub(self.length()) as i32;
        // SAFETY: the context is the program's own.
        if unsafe { bpf_xdp_adjust_tail(self.md, by) } != 0 {
            return false;
        }
        let frame = frame.as_ptr().cast_mut().cast();
        // SAFETY: as at TC; the helper only reads the frame.
        (unsafe { bpf_xdp_store_bytes(self.md, 0, frame, length as u32) }) == 0
    }
}
