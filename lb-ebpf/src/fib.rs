//! The kernel's routes and neighbours.
#![allow(unsafe_code)]

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_fib_lookup as FibParams,
    },
    helpers::generated::bpf_fib_lookup,
};
use core::{ffi::c_void, hint::black_box};
use lb_common::abi::Tuple;

use crate::maps::Maps;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The route and the neighbour are known.
pub(crate) const KNOWN: i64 = BPF_FIB_LKUP_RET_SUCCESS as i64;
/// The route is known, the neighbour's link address is not. The helper never asks for it.
pub(crate) const NO_NEIGHBOUR: i64 = BPF_FIB_LKUP_RET_NO_NEIGH as i64;
/// The packet is too large for the route, whose device may or may not be known.
pub(crate) const TOO_LARGE: i64 = BPF_FIB_LKUP_RET_FRAG_NEEDED as i64;

/// Where a packet goes next.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct NextHop {
    /// Interface index of the device it leaves by; 0: not known.
    pub(crate) device: u32,
    /// Link address of the neighbour.
    pub(crate) destination: [u8; 6],
    /// Link address of the device.
    pub(crate) source: [u8; 6],
    /// The longest packet that the way takes (network header and on), if its length was asked for.
    pub(crate) mtu: u32,
}

/// Asks for the way of a packet of `length` bytes (network header and on) with this tuple that has come in on
/// `device`. `length` 0: only for the route. Gives the helper's result.
///
/// A subprogram of its own: the parameters would not fit into the caller's stack frame.
#[inline(never)]
pub(crate) fn look_up<F: Maps>(
    ctx: *mut c_void,
    device: u32,
    tuple: &Tuple<F::Addr>,
    length: u32,
    hop: &mut NextHop,
) -> i64 {
    // A zero that the compiler knows would become a call of `memset`, which goes byte by byte.
    let zeros = [black_box(0_u32); size_of::<FibParams>() / 4];
    // SAFETY: plain old data of this size, for which all zero is valid.
    let mut fib: FibParams = unsafe { core::mem::transmute(zeros) };
    fib.ifindex = device;
    fib.l4_protocol = tuple.protocol;
    fib.sport = tuple.source_port.to_be();
    fib.dport = tuple.destination_port.to_be();
    fib.__bindgen_anon_1.tot_len = if length > 0xffff { 0xffff } else { length as u16 };
    let (source, destination) = (words::<F>(tuple.source), words::<F>(tuple.destination));
    if F::ADDR_LEN == 4 {
        fib.family = AF_INET;
        fib.__bindgen_anon_3.ipv4_src = source[0];
        fib.__bindgen_anon_4.ipv4_dst = destination[0];
    } else {
        fib.family = AF_INET6;
        fib.__bindgen_anon_3.ipv6_src = source;
        fib.__bindgen_anon_4.ipv6_dst = destination;
    }
    let flags = if length == 0 { BPF_FIB_LOOKUP_SKIP_NEIGH } else { 0 };
    // SAFETY: the context is the program's own; the parameters are as long as said.
    let result = unsafe { bpf_fib_lookup(ctx, &mut fib, size_of::<FibParams>() as i32, flags) };
    hop.device = if result == KNOWN || result == NO_NEIGHBOUR || (result == TOO_LARGE && length == 0) {
        fib.ifindex
    } else {
        0
    };
    hop.destination = fib.dmac;
    hop.source = fib.smac;
    // SAFETY: both members of the union are a number of 16 bits.
    hop.mtu = unsafe { fib.__bindgen_anon_1.mtu_result } as u32;
    result
}

/// An address as up to four words.
#[inline(always)]
pub(crate) fn words<F: Maps>(address: F::Addr) -> [u32; 4] {
    let mut words = [0; 4];
    for (slot, word) in words.iter_mut().zip(F::words(address)) {
        *slot = word;
    }
    words
}
