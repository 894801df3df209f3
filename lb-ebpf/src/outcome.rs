//! The end of every program: one outcome, counted once, and the verdict that follows from it.
#![allow(unsafe_code)]

use lb_common::abi::{Hook, Outcome};

use crate::{maps, packet::Packet};

/// TC verdict: the packet goes on.
pub const TC_OK: i32 = 0;
/// TC verdict: the packet ends here.
pub const TC_SHOT: i32 = 2;

/// Counts a packet.
#[inline(always)]
pub fn count(hook: Hook, outcome: Outcome, length: u32) {
    if let Some(counter) = maps::counters.get_ptr_mut(outcome.index(hook)) {
        // SAFETY: per-CPU memory that only this CPU's programs write, one at a time.
        unsafe { (*counter).packets += 1 };
        // SAFETY: as above.
        unsafe { (*counter).bytes += length as u64 };
    }
}

/// Counts a packet, and logs it in a developer's build (those that pass untouched are left out).
#[inline(always)]
pub fn conclude<P: Packet>(packet: &P, hook: Hook, outcome: Outcome, length: u32) {
    count(hook, outcome, length);
    #[cfg(feature = "log")]
    packet.log(hook as u8, outcome as u8);
    #[cfg(not(feature = "log"))]
    let _ = packet;
}
