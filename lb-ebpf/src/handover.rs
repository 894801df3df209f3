//! Whether the generation of programs before this one, with maps that are laid out otherwise, serves a packet (see
//! [`lb_common::abi::Stage`]). Only in the instances that are there while flows are copied.
#![allow(unsafe_code)]

use aya_ebpf::{
    Global,
    programs::{TcContext, XdpContext},
};
use lb_common::{
    abi::{Phase, Stage, Traced, V4, V6},
    net::{Cursor, ETHERTYPE_IPV4, ETHERTYPE_IPV6, is_taken_over},
};

use crate::{
    maps::{self, Maps},
    packet::{Packet, Tc, Xdp},
    tables::Kernel,
};

/// Set when the programs are loaded. 1: this instance looks whose a packet is. The verifier removes it from the others.
#[unsafe(no_mangle)]
static HANDS_OVER: Global<u8> = Global::new(0);

/// How far the change has come; written by the agent.
// SAFETY: no other symbol has this name, and nothing else is in this section.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.handover")]
static mut HANDOVER: u32 = Stage::Copying as u32;

/// The beginning of a program at TC: that of the generation before takes over here, if the packet is its.
#[inline(always)]
pub(crate) fn tc(ctx: &TcContext, program: Traced) {
    if HANDS_OVER.load() == 0 {
        return;
    }
    let packet = Tc::new(ctx);
    let serves = match packet.load::<u16>(12).map(u16::from_be) {
        Some(ETHERTYPE_IPV4) => packet.serves::<V4>(program as u32),
        Some(ETHERTYPE_IPV6) => packet.serves::<V6>(program as u32),
        _ => 0,
    };
    if serves == 0 {
        // SAFETY: nothing here needs to be dropped; if the place is empty, there was no such program, and this one goes on.
        unsafe { maps::handover_tc.tail_call(ctx, program as u32) };
    }
}

/// As [`tc`], at XDP.
#[inline(always)]
pub(crate) fn xdp(ctx: &XdpContext) {
    if HANDS_OVER.load() == 0 {
        return;
    }
    let packet = Xdp::new(ctx);
    let serves = match packet.load::<u16>(12).map(u16::from_be) {
        Some(ETHERTYPE_IPV4) => packet.serves::<V4>(),
        Some(ETHERTYPE_IPV6) => packet.serves::<V6>(),
        _ => 0,
    };
    if serves == 0 {
        // SAFETY: as at TC.
        unsafe { maps::handover_xdp.tail_call(ctx, 0) };
    }
}

/// The body of [`Tc::serves`].
#[inline(always)]
pub(crate) fn serves_tc<F: Maps>(packet: &Tc, program: u32) -> u32 {
    let device = packet.device();
    let ctx = packet.skb.cast();
    let is_after = program == Traced::UplinkOut as u32 || program == Traced::PodOut as u32;
    let kernel = Kernel { ctx, device };
    if is_after && serves::<F, Tc>(packet, &kernel, Phase::After) != 0 {
        return 1;
    }
    // (Of this node's own way to other nodes' ports, there are entries of both kinds.)
    if program == Traced::PodOut as u32 {
        return 0;
    }
    serves::<F, Tc>(packet, &kernel, Phase::Before)
}

/// The body of [`Xdp::serves`].
#[inline(always)]
pub(crate) fn serves_xdp<F: Maps>(packet: &Xdp) -> u32 {
    let device = packet.device();
    let ctx = packet.md.cast();
    serves::<F, Xdp>(packet, &Kernel { ctx, device }, Phase::Before)
}

#[inline(always)]
fn serves<F: Maps, P: Packet>(packet: &P, kernel: &Kernel, phase: Phase) -> u32 {
    let stage = &raw const HANDOVER;
    // SAFETY: always valid, and the compiler must not think that it knows it.
    let stage = unsafe { stage.read_volatile() };
    match F::parse(packet) {
        Ok(mut parsed) => {
            parsed.tuple.phase = phase as u8;
            is_taken_over::<F, Kernel>(kernel, &parsed, stage == Stage::Opening as u32) as u32
        }
        // Fragments and errors: what they are about is most likely in the old tables.
        Err(_) => 0,
    }
}
