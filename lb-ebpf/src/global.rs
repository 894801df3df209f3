//! Steps that the verifier follows once in each program, however many ways lead to them (the kernel calls such
//! functions global; Linux 5.6). It knows nothing of their arguments but the types: what they work on is the packet,
//! and this CPU's workspace. They are for packets that are few: what every packet goes through is inlined, so that
//! what is known of a hook is known there.
#![allow(unsafe_code)]

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use core::hint::black_box;
use lb_common::{
    abi::{V4, V6},
    net::shift_difference,
};

use crate::{
    before, fragment, handover, held, link,
    maps::Maps,
    mtu, odd,
    packet::{Tc, Xdp},
    refuse, trace, watch, xdp,
};

/// Of packets of one kind: for each line two functions, one for each family, and the method of the packet that calls that of its family. An
/// argument that one of them does not look at is still one: callers would pass a register that nothing was written to.
macro_rules! of_packets {
    ($($(#[$doc:meta])*
        $four:ident, $six:ident: $packet:ident { $context:ident: $type:ident }.$method:ident($($name:ident),*)
            = $room:ident::$body:ident;)+) => {$(
        // SAFETY: no other symbol has this name.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $four($context: *mut $type, $($name: u32),*) -> u32 {
            $room::$body::<V4>(&$packet { $context: black_box($context) }, $(black_box($name)),*)
        }

        // SAFETY: as above.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $six($context: *mut $type, $($name: u32),*) -> u32 {
            $room::$body::<V6>(&$packet { $context: black_box($context) }, $(black_box($name)),*)
        }

        impl $packet {
            $(#[$doc])*
            #[inline(always)]
            pub(crate) fn $method<F: Maps>(&self, $($name: u32),*) -> u32 {
                if F::ADDR_LEN == 4 {
                    $four(self.$context, $($name),*)
                } else {
                    $six(self.$context, $($name),*)
                }
            }
        }
    )+};
}

/// Of this CPU's workspace alone: as above, for all hooks.
macro_rules! of_workspace {
    ($($(#[$doc:meta])* $four:ident, $six:ident: $function:ident($($name:ident),*) = $room:ident::$body:ident;)+) => {$(
        // SAFETY: no other symbol has this name.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $four($($name: u32),*) -> u32 {
            $room::$body::<V4>($(black_box($name)),*)
        }

        // SAFETY: as above.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $six($($name: u32),*) -> u32 {
            $room::$body::<V6>($(black_box($name)),*)
        }

        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $function<F: Maps>($($name: u32),*) -> u32 {
            if F::ADDR_LEN == 4 {
                $four($($name),*)
            } else {
                $six($($name),*)
            }
        }
    )+};
}

of_packets! {
    /// Opens a flow for the packet in the workspace; gives the outcome.
    tc_open4, tc_open6: Tc { skb: __sk_buff }.open(kind, address) = before::open;
    /// As at TC.
    xdp_open4, xdp_open6: Xdp { md: xdp_md }.open(address) = xdp::open;
    /// Looks at a packet that is not plain; gives the verdict, or what stands for one.
    tc_odd4, tc_odd6: Tc { skb: __sk_buff }.odd(hook, kind, phase) = odd::tc;
    /// As at TC; gives the outcome, or [`odd::PLAIN`].
    xdp_odd4, xdp_odd6: Xdp { md: xdp_md }.odd() = odd::xdp;
    /// Notes a packet that has come, if it is watched; 0: it is not.
    tc_begin4, tc_begin6: Tc { skb: __sk_buff }.begin(hook) = watch::begin_tc;
    /// As at TC.
    xdp_begin4, xdp_begin6: Xdp { md: xdp_md }.begin() = watch::begin_xdp;
    /// Whether this generation serves the packet, see [`handover`]; 0: the one before does.
    tc_serves4, tc_serves6: Tc { skb: __sk_buff }.serves(program) = handover::serves_tc;
    /// As at TC.
    xdp_serves4, xdp_serves6: Xdp { md: xdp_md }.serves() = handover::serves_xdp;
    /// Remembers the first fragment in the workspace, and has those follow that came before it; 0: it is lost.
    tc_first4, tc_first6: Tc { skb: __sk_buff }.first(phase, going) = fragment::tc;
    /// Remembers the first fragment in the workspace; 1: others wait for it at TC.
    xdp_first4, xdp_first6: Xdp { md: xdp_md }.first(going) = fragment::xdp;
    /// Keeps a later fragment whose first one is not known; gives the outcome.
    tc_hold4, tc_hold6: Tc { skb: __sk_buff }.hold(kind, phase) = held::hold;
    /// Turns the packet, whose headers are in the workspace, into its refusal; 0: that was not possible.
    tc_refuse4, tc_refuse6: Tc { skb: __sk_buff }.refuse() = refuse::tc;
    /// As at TC; 0: the packet is as it was.
    xdp_refuse4, xdp_refuse6: Xdp { md: xdp_md }.refuse() = refuse::xdp;
    /// Has a flow that is ending forgotten, if the packet begins a connection from its client's port to its very backend.
    tc_way4, tc_way6: Tc { skb: __sk_buff }.give_way(phase) = before::give_way;
    /// Answers a packet that does not fit, or makes fragments of it; gives the verdict.
    tc_too_big4, tc_too_big6: Tc { skb: __sk_buff }.too_big(leaving) = mtu::conclude;
}

of_workspace! {
    /// What the packet whose beginning is in the workspace turns out to be.
    look4, look6: look(phase) = odd::look_at;
    /// Notes what opening a flow came to.
    notes4, notes6: notes(outcome) = trace::opened;
    /// Translates that beginning; gives by how much a sum over the packet changes.
    change4, change6: change(later) = odd::change_in;
}

// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tc_find_link(skb: *mut __sk_buff) -> u32 {
    link::find(&Tc { skb: black_box(skb) })
}

impl Tc {
    /// Puts a link header back that was lost; 0: none was.
    #[inline(always)]
    pub(crate) fn find_link(&self) -> u32 {
        tc_find_link(self.skb)
    }
}

/// [`shift_difference`], which is long.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn crc32c_shift(difference: u32, rest: u32) -> u32 {
    shift_difference(difference, rest)
}
