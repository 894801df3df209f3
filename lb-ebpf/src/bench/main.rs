// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What the bench loads beside the real programs: programs that restore the packet before each run of
//! `BPF_PROG_TEST_RUN` and jump to the one under test, empty ones, and floors.
//!
//! A *floor* does the least that any program of its kind must do: no policy, no counter, no life of a flow. Ours
//! is judged by how far it is above.
#![no_std]
#![no_main]
// The program macros make undocumented, public items of their own.
#![allow(missing_docs, unreachable_pub)]

mod floor;
mod maps;
mod raw;
mod restore;
#[path = "../../../lb-bench/src/settings.rs"]
mod settings;

use aya_ebpf::{
    bindings::xdp_action::XDP_PASS,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::abi::{V4, V6};

use crate::{floor::Floor, raw::Raw, restore::restore};

/// TC verdict: on to the next program (`TCX_NEXT`).
const TC_NEXT: i32 = -1;

#[xdp(frags)]
pub fn empty_xdp(_: XdpContext) -> u32 {
    XDP_PASS
}

#[classifier]
pub fn empty_tc(_: TcContext) -> i32 {
    TC_NEXT
}

#[xdp(frags)]
pub fn restore_xdp4(ctx: XdpContext) -> u32 {
    if restore::<V4>(Raw::xdp(&ctx)) {
        restore::jump_xdp(&ctx);
    }
    0
}

#[xdp(frags)]
pub fn restore_xdp6(ctx: XdpContext) -> u32 {
    if restore::<V6>(Raw::xdp(&ctx)) {
        restore::jump_xdp(&ctx);
    }
    0
}

#[classifier]
pub fn restore_tc4(ctx: TcContext) -> i32 {
    if restore::<V4>(Raw::tc(&ctx)) {
        restore::jump_tc(&ctx);
    }
    0
}

#[classifier]
pub fn restore_tc6(ctx: TcContext) -> i32 {
    if restore::<V6>(Raw::tc(&ctx)) {
        restore::jump_tc(&ctx);
    }
    0
}

/// A floor, for both families, at XDP and at TC. Zero is the verdict of a floor that did not get to its end.
macro_rules! floors {
    ($($floor:expr => $xdp4:ident $xdp6:ident $tc4:ident $tc6:ident;)+) => {$(
        #[xdp(frags)]
        pub fn $xdp4(ctx: XdpContext) -> u32 {
            if floor::run::<V4>(Raw::xdp(&ctx), $floor) { XDP_PASS } else { 0 }
        }

        #[xdp(frags)]
        pub fn $xdp6(ctx: XdpContext) -> u32 {
            if floor::run::<V6>(Raw::xdp(&ctx), $floor) { XDP_PASS } else { 0 }
        }

        #[classifier]
        pub fn $tc4(ctx: TcContext) -> i32 {
            if floor::run::<V4>(Raw::tc(&ctx), $floor) { TC_NEXT } else { 0 }
        }

        #[classifier]
        pub fn $tc6(ctx: TcContext) -> i32 {
            if floor::run::<V6>(Raw::tc(&ctx), $floor) { TC_NEXT } else { 0 }
        }
    )+};
}

floors! {
    Floor::Parse => parse_xdp4 parse_xdp6 parse_tc4 parse_tc6;
    Floor::Address => address_xdp4 address_xdp6 address_tc4 address_tc6;
    Floor::Reply => reply_xdp4 reply_xdp6 reply_tc4 reply_tc6;
    Floor::Flow => flow_xdp4 flow_xdp6 flow_tc4 flow_tc6;
    Floor::FlowFib => fib_xdp4 fib_xdp6 fib_tc4 fib_tc6;
    Floor::First(0) => first0_xdp4 first0_xdp6 first0_tc4 first0_tc6;
    Floor::First(1) => first1_xdp4 first1_xdp6 first1_tc4 first1_tc6;
    Floor::First(2) => first2_xdp4 first2_xdp6 first2_tc4 first2_tc6;
}

/// Makes the verifier refuse a program in which a panic can be reached: it never ends.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends its GPL-only helpers to this licence.
#[allow(unsafe_code)]
// SAFETY: the section and symbol names are the ones every BPF loader expects; nothing else defines them.
#[unsafe(link_section = "license")]
// SAFETY: as above.
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
