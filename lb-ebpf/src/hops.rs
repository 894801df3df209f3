//! Next hops that this CPU has asked the kernel for a moment ago.
//!
//! Asking costs more than all the rest of forwarding a packet. So an answer is good for a few jiffies,
//! for packets between the same two addresses that came in on the same device and are not larger than the way
//! allows: a changed route or neighbour is followed that late, which is sooner than neighbours notice each other's
//! silence. Where several equal ways lead to a host, one of them serves all connections between two addresses for
//! that long (as the kernel's own choice by addresses does).
#![allow(unsafe_code)]

use aya_ebpf::helpers::generated::bpf_jiffies64;
use lb_common::{abi::Tuple, net::Net};

use crate::{
    fib::{NextHop, look_up},
    maps::Maps,
    tables::Kernel,
    trace,
};

/// Hops that a CPU remembers: a power of two. Two that fall on one place take turns.
pub(crate) const HOPS: usize = 1024;

/// For so many jiffies an answer is good at XDP: 8 of them are 8 to 80 ms. An old way still leads to a neighbour.
const GOOD: u32 = 8;

/// As above, at TC: there the kernel finds the neighbour itself, and drops a packet that has none by that device.
const GOOD_AT_TC: u32 = 1;

/// A way that packets can take by XDP.
#[repr(C)]
pub(crate) struct Hop<A> {
    source: A,
    destination: A,
    /// Interface index of the device that packets come in on.
    device: u32,
    /// When it was asked for.
    time: u32,
    /// The answer.
    way: NextHop,
}

#[inline(always)]
fn time() -> u32 {
    // SAFETY: no arguments. The verifier puts a load in place of the call.
    (unsafe { bpf_jiffies64() }) as u32
}

#[inline(always)]
fn place<F: Net>(tuple: &Tuple<F::Addr>) -> u32 {
    let mut hash: u32 = 0;
    for word in F::words(tuple.source) {
        hash = hash.rotate_left(5) ^ word;
    }
    for word in F::words(tuple.destination) {
        hash = hash.rotate_left(5) ^ word;
    }
    hash.wrapping_mul(0x9e37_79b1) >> (32 - HOPS.trailing_zeros())
}

/// The way of packets of `length` bytes with this tuple, if it is known: into `way`.
#[inline(always)]
pub(crate) fn find<F: Maps>(device: u32, tuple: &Tuple<F::Addr>, length: u32, way: &mut NextHop) -> bool {
    find_younger::<F>(device, tuple, length, GOOD, way)
}

#[inline(always)]
fn find_younger<F: Maps>(
    device: u32,
    tuple: &Tuple<F::Addr>,
    length: u32,
    than: u32,
    way: &mut NextHop,
) -> bool {
    let Some(hop) = F::hops().get(place::<F>(tuple)) else {
        return false;
    };
    let fits = time().wrapping_sub(hop.time) < than
        && hop.device == device
        && length <= hop.way.mtu
        && hop.destination == tuple.destination
        && hop.source == tuple.source;
    if fits {
        *way = hop.way;
    }
    fits
}

/// At TC: the device that packets with this tuple leave by; `otherwise`, if the kernel knows no route.
#[inline(never)]
pub(crate) fn device<F: Maps>(kernel: &Kernel, tuple: &Tuple<F::Addr>, otherwise: u32) -> u32 {
    let mut hop = NextHop::default();
    if find_younger::<F>(kernel.device, tuple, 0, GOOD_AT_TC, &mut hop) {
        return hop.device;
    }
    look_up::<F>(kernel.ctx, kernel.device, tuple, 0, &mut hop);
    trace::way::<F>(tuple, &hop);
    if hop.device == 0 {
        return otherwise;
    }
    // Its link address was not asked for: no packet fits, at XDP.
    hop.mtu = 0;
    keep::<F>(kernel.device, tuple, &hop);
    hop.device
}

/// Remembers a way that packets can be sent on.
#[inline(always)]
pub(crate) fn keep<F: Maps>(device: u32, tuple: &Tuple<F::Addr>, way: &NextHop) {
    let Some(hop) = F::hops().get_ptr_mut(place::<F>(tuple)) else {
        return;
    };
    // SAFETY: per-CPU memory; XDP and TC programs run with bottom halves off, one at a time on a CPU.
    let hop = unsafe { &mut *hop };
    hop.source = tuple.source;
    hop.destination = tuple.destination;
    hop.device = device;
    hop.time = time();
    hop.way = *way;
}
