//! Forgets idle flows: walks both flow tables inside the kernel, which costs a fraction of reading them out.
//!
//! Output: four words in the packet behind its link header, in the machine's order: entries and removed
//! entries of `flows4`, then of `flows6`.
#![allow(unsafe_code)]

use aya_ebpf::{
    helpers::generated::{bpf_for_each_map_elem, bpf_map_delete_elem},
    programs::TcContext,
};
use core::ffi::c_void;
use lb_common::{
    abi::{Flow, Tuple, V4, V6},
    net::{ETHERNET, sweep},
};

use crate::{
    maps::Maps,
    outcome::TC_NEXT,
    packet::{Packet, Tc},
    tables::tick,
};

/// What a walk has found.
#[repr(C)]
struct Walk {
    tick: u32,
    entries: u32,
    removed: u32,
}

/// Walks both tables.
#[inline(always)]
pub(crate) fn run(ctx: &TcContext) -> i32 {
    let four = walk::<V4>();
    let six = walk::<V6>();
    let packet = Tc::new(ctx);
    packet.store(ETHERNET, [four.entries, four.removed, six.entries, six.removed]);
    TC_NEXT
}

#[inline(always)]
fn walk<F: Maps>() -> Walk {
    let mut walk = Walk {
        tick: tick(),
        entries: 0,
        removed: 0,
    };
    let map: *const _ = F::flows();
    // SAFETY: the callback has the signature that the helper asks for, for this map's key and value; the context
    // outlives the call.
    unsafe {
        bpf_for_each_map_elem(
            map.cast_mut().cast(),
            visit::<F> as *mut c_void,
            (&raw mut walk).cast(),
            0,
        )
    };
    walk
}

extern "C" fn visit<F: Maps>(
    map: *mut c_void,
    key: *const Tuple<F::Addr>,
    flow: *const Flow<F::Addr>,
    walk: *mut Walk,
) -> i64 {
    // SAFETY: the context that `walk` gave the kernel, which outlives the walk.
    let walk = unsafe { &mut *walk };
    // SAFETY: the kernel passes a key of the map.
    let protocol = unsafe { (*key).protocol };
    // SAFETY: the kernel passes the key's value.
    let flow = unsafe { &*flow };
    walk.entries = walk.entries.wrapping_add(1);
    if sweep(protocol, flow, walk.tick) {
        // SAFETY: the map and the key are the kernel's own.
        unsafe { bpf_map_delete_elem(map, key.cast_mut().cast()) };
        walk.removed = walk.removed.wrapping_add(1);
    }
    0
}
