//! Turns a packet into the refusal of itself and sends it back.
#![allow(unsafe_code)]

use aya_ebpf::helpers::generated::{bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes};
use lb_common::{
    abi::Protocol,
    net::{Cursor, ETHERNET, FRAME, Refusal, Segment},
};

use crate::{
    maps::{Maps, Workspace},
    outcome::TC_SHOT,
    packet::Tc,
    send,
};

/// The verdict that sends a refusal of the packet back on `device`; `leaving`: it was on its way out.
#[inline(never)]
pub(crate) fn refuse<F: Maps>(
    packet: &Tc,
    workspace: &mut Workspace<F::Addr>,
    device: u32,
    leaving: bool,
) -> i32 {
    let parsed = &workspace.flow.parsed;
    let length = if parsed.tuple.protocol == Protocol::Tcp as u8 {
        Segment::read::<F, _>(packet, parsed).map(|of| workspace.refusal.reset::<F>(&parsed.tuple, &of))
    } else {
        unreachable::<F>(packet, workspace)
    };
    let Some(length) = length else { return TC_SHOT };
    send::<F>(packet, &mut workspace.refusal, length, device, leaving)
}

/// Sends an answer of `length` bytes back in place of the packet.
#[inline(always)]
pub(crate) fn send<F: Maps>(
    packet: &Tc,
    refusal: &mut Refusal,
    length: usize,
    device: u32,
    leaving: bool,
) -> i32 {
    let Some(link) = packet.load::<[u8; 12]>(0) else {
        return TC_SHOT;
    };
    refusal.link::<F>(link);
    if write(packet, &refusal.frame, length) {
        send::back(device, leaving)
    } else {
        TC_SHOT
    }
}

#[inline(always)]
fn unreachable<F: Maps>(packet: &Tc, workspace: &mut Workspace<F::Addr>) -> Option<usize> {
    let quote = workspace.quote.as_mut_ptr().cast();
    // SAFETY: the buffer is at least as long as a family's quote; the helper checks the packet's length.
    let read = unsafe { bpf_skb_load_bytes(packet.skb.cast(), ETHERNET as u32, quote, F::QUOTE as u32) };
    if read != 0 {
        return None;
    }
    Some(
        workspace
            .refusal
            .unreachable::<F>(&workspace.flow.parsed.tuple, &workspace.quote),
    )
}

#[inline(always)]
fn write(packet: &Tc, frame: &[u8; FRAME], length: usize) -> bool {
    // SAFETY: the context is the program's own.
    if unsafe { bpf_skb_change_tail(packet.skb, length as u32, 0) } != 0 {
        return false;
    }
    // SAFETY: `length` is at most the frame's size, a constant of the family; the helper checks the packet's.
    let written = unsafe { bpf_skb_store_bytes(packet.skb, 0, frame.as_ptr().cast(), length as u32, 0) };
    written == 0
}
