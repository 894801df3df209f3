//! Where a translated packet goes.
#![allow(unsafe_code)]

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::generated::{bpf_redirect, bpf_redirect_neigh},
};
use core::ptr;

use crate::{
    maps,
    outcome::TC_SHOT,
    packet::{Packet, Tc},
};

/// Out of a device, with the neighbour that its routes name; the kernel resolves it if it must.
#[inline(always)]
pub(crate) fn neighbour(device: u32) -> i32 {
    // SAFETY: no memory is passed.
    (unsafe { bpf_redirect_neigh(device, ptr::null_mut(), 0, 0) }) as i32
}

/// As if it had arrived on a device.
#[inline(always)]
pub(crate) fn receive(packet: &Tc, device: u32) -> i32 {
    // SAFETY: written as a whole by the agent; a reader sees an old or a new device.
    let Some(to) = (unsafe { maps::devices.get(device) }) else {
        return TC_SHOT;
    };
    // Another address would make it a packet for another host.
    packet.store(0, to.mac);
    // SAFETY: no memory is passed.
    (unsafe { bpf_redirect(device, BPF_F_INGRESS as u64) }) as i32
}

/// At XDP: out of a device, as it is.
#[inline(always)]
pub(crate) fn redirect(device: u32) -> u32 {
    // SAFETY: no memory is passed.
    (unsafe { bpf_redirect(device, 0) }) as u32
}

/// Back to where it came from: out of the device, or up again if it was on its way out.
#[inline(always)]
pub(crate) fn back(device: u32, leaving: bool) -> i32 {
    // SAFETY: no memory is passed.
    (unsafe { bpf_redirect(device, if leaving { BPF_F_INGRESS as u64 } else { 0 }) }) as i32
}
