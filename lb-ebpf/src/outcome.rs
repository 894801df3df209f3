//! The end of every program: one outcome, counted once, and the verdict that follows from it.
#![allow(unsafe_code)]

use lb_common::abi::{Hook, Outcome};

use crate::{
    maps,
    packet::Packet,
    tables::counts,
    trace::{self, Of},
    traffic,
};

/// TC verdict: the packet goes on, through other programs of the device first (`TCX_NEXT`; for clsact
/// `TC_ACT_UNSPEC`, which means the same).
pub(crate) const TC_NEXT: i32 = -1;
/// TC verdict: the packet ends here.
pub(crate) const TC_SHOT: i32 = 2;
/// TC verdict: the packet goes where a redirecting helper was told.
pub(crate) const TC_REDIRECT: i32 = 7;

/// Counts a packet.
#[inline(always)]
pub(crate) fn count(hook: Hook, outcome: Outcome, length: u32) {
    trace::outcome(Of::Packet, outcome);
    add(outcome.index(hook), length);
    traffic::count(outcome, length);
}

/// Adds a packet, or an event, to a counter.
#[inline(always)]
pub(crate) fn add(index: u32, length: u32) {
    if counts()
        && let Some(counter) = maps::counters.get_ptr_mut(index)
    {
        // SAFETY: per-CPU memory that only this CPU's programs write, one at a time.
        unsafe { (*counter).packets += 1 };
        // SAFETY: as above.
        unsafe { (*counter).bytes += length as u64 };
    }
}

/// Counts a packet, and logs it in a developer's build.
#[inline(always)]
pub(crate) fn conclude<P: Packet>(packet: &P, hook: Hook, outcome: Outcome, length: u32) {
    count(hook, outcome, length);
    #[cfg(feature = "log")]
    log(packet, hook, outcome, length);
    #[cfg(not(feature = "log"))]
    let _ = packet;
}

/// One line for each packet that concerns us.
#[cfg(feature = "log")]
#[inline(always)]
fn log<P: Packet>(packet: &P, hook: Hook, outcome: Outcome, length: u32) {
    if outcome.kind() != lb_common::abi::Kind::Passed {
        aya_log_ebpf::info!(
            &packet.context(),
            "{} {} {} bytes",
            hook.name(),
            outcome.name(),
            length
        );
    }
}
