//! Writes the packet's headers anew, chooses its flow, and jumps to the program under test.
//!
//! `BPF_PROG_TEST_RUN` runs a program again on the packet that the run before has changed. What this costs is
//! measured with an empty program as the target, and taken off.
#![allow(unsafe_code)]

use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::net::{ETHERNET, Net};

use crate::{
    maps,
    raw::Raw,
    settings::{CLIENT, EACH, MASK, MODE, NEXT, ONE, RANDOM, TEMPLATE4, TEMPLATE6, client},
};

/// Restores the packet; `false` if it is shorter than its template.
#[inline(always)]
pub(crate) fn restore<F: Net>(packet: Raw) -> bool {
    let words = if F::ADDR_LEN == 4 { TEMPLATE4 } else { TEMPLATE6 };
    let (Some(settings), Some(head)) = (maps::settings.get_ptr_mut(0), packet.head(8 * words)) else {
        return false;
    };
    // SAFETY: the one process that runs the bench writes it between runs only.
    let settings = unsafe { &mut *settings };
    let mut word = 0;
    while word < words {
        head.store(8 * word, settings[word]);
        word += 1;
    }
    let flow = match settings[MODE] {
        ONE => return true,
        RANDOM => {
            // Marsaglia's xorshift64.
            let mut x = settings[NEXT];
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            settings[NEXT] = x;
            (x >> 32) & settings[MASK]
        }
        EACH => {
            let next = settings[NEXT];
            settings[NEXT] = next + 1;
            next
        }
        _ => return false,
    };
    let (address, port) = client(settings[CLIENT] as u32, flow as u32);
    head.store(F::ADDRESSES + F::ADDR_LEN - 4, address.to_be());
    head.store(ETHERNET + F::HEADER, port.to_be());
    true
}

/// Jumps; comes back only if there is no target.
#[inline(always)]
pub(crate) fn jump_xdp(ctx: &XdpContext) {
    // SAFETY: nothing is left to be dropped here. The index is a constant: the kernel patches a plain jump in.
    unsafe { maps::xdp_target.tail_call(ctx, 0) };
}

/// As [`jump_xdp`].
#[inline(always)]
pub(crate) fn jump_tc(ctx: &TcContext) {
    // SAFETY: as above.
    unsafe { maps::tc_target.tail_call(ctx, 0) };
}
