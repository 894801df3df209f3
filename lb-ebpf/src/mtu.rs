//! Packets that are sent around the stack must fit the link they go to: the kernel would drop them silently.
//!
//! A sender that wants no fragments is told the link's MTU. An IPv4 packet that may be fragmented is made into
//! fragments here and given to the same program again, piece by piece, as if the sender had made them: the kernel
//! fragments only what it routes itself, and a packet with this node's address as its source, it does not.
#![allow(unsafe_code)]

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::generated::{
        bpf_check_mtu, bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};
use core::{ffi::c_void, hint::black_box};
use lb_common::{
    abi::{Outcome, Tuple},
    net::{Cursor, ETHERNET, Headers, SMALLEST_MTU, Sum, apply},
};

use crate::{
    maps::{self, Maps, Workspace},
    outcome::TC_SHOT,
    packet::{Packet, Tc},
    refuse, send,
    tables::workspace,
};

/// Room for a packet that is made into fragments, twice: a place in it and a length are each bounded by half of it.
const WHOLE: usize = 2 * HALF as usize;
/// The longest packet that is.
const HALF: u32 = 16_000;
/// Pieces that it is made into: the longest packet for a link of 1,280 bytes. The verifier goes through each.
const PIECES: u32 = 13;

/// `BPF_MTU_CHK_SEGS`: compare the segments of a packet that the device will cut up.
const SEGMENTS: u64 = 1;

// The kernel's bound for memory of one CPU.
const _: () = assert!(size_of::<Whole>() <= 32_768);

const MAY_NOT: u16 = 0x4000;
const MORE: u16 = 0x2000;

/// The MTU of `device`, if the packet is larger; 0: it fits.
#[inline(always)]
pub(crate) fn exceeded(packet: &Tc, device: u32) -> u32 {
    if packet.length() <= SMALLEST_MTU + ETHERNET as u32 {
        return 0;
    }
    compare(packet, device)
}

#[inline(never)]
fn compare(packet: &Tc, device: u32) -> u32 {
    let mut mtu = 0;
    // SAFETY: the context is the program's own, `mtu` outlives the call. An error (no such device) is for the one who
    // sends to find.
    let result = unsafe { bpf_check_mtu(packet.skb.cast(), device, &raw mut mtu, 0, SEGMENTS) };
    if result > 0 { mtu & 0xffff } else { 0 }
}

/// Whether the network may make fragments of a packet: IPv4 without "don't fragment", and one packet, not several
/// that the device will cut up.
#[inline(always)]
fn may_split<F: Maps>(packet: &Tc) -> bool {
    let flags = packet.load::<u16>(ETHERNET + 6).map_or(MAY_NOT, u16::from_be);
    // SAFETY: reads a field of the program's own context.
    let segments = unsafe { (*packet.skb).gso_size };
    F::ID.is_some() && flags & MAY_NOT == 0 && segments == 0
}

/// The verdict that tells the sender of a packet how large it may be.
#[inline(never)]
fn answer<F: Maps>(packet: &Tc, workspace: &mut Workspace<F::Addr>, device: u32, leaving: bool) -> i32 {
    if !copy(packet, &mut workspace.look.headers) {
        return TC_SHOT;
    }
    let Workspace {
        refusal, look, mtu, ..
    } = workspace;
    let (source, destination) = (look.key.source, look.key.destination);
    let length = refusal.too_big::<F>(source, destination, &look.headers, *mtu & 0xffff);
    if refuse::answer_tc::<F>(packet, refusal, length) {
        send::back(device, leaving)
    } else {
        TC_SHOT
    }
}

#[inline(always)]
fn copy(packet: &Tc, headers: &mut Headers) -> bool {
    headers.length = headers.bytes.len() as u32;
    let to = headers.bytes.as_mut_ptr().cast();
    // SAFETY: the buffer is as long as said; the helper checks the packet's length.
    unsafe { bpf_skb_load_bytes(packet.skb.cast(), 0, to, lb_common::net::HEADERS as u32) == 0 }
}

/// Makes fragments of an IPv4 packet that fit `mtu`, and gives them to the program on `device` again.
#[inline(never)]
fn split(packet: &Tc, device: u32, leaving: bool, mtu: u32) -> i32 {
    let Some(whole) = maps::whole.get_ptr_mut(0) else {
        return TC_SHOT;
    };
    // SAFETY: per-CPU memory; the programs that are run for the pieces do not come here: the pieces fit.
    let whole = unsafe { &mut *whole };
    if !read(packet, whole, mtu) {
        return TC_SHOT;
    }
    let flags = if leaving { 0 } else { BPF_F_INGRESS as u64 };
    let mut n = 0;
    while n < PIECES && whole.done < whole.body {
        if !write(packet, whole) {
            break;
        }
        // SAFETY: the context is the program's own.
        unsafe { bpf_clone_redirect(packet.skb, device, flags) };
        whole.done += whole.size;
        n += 1;
    }
    // What is left of the packet is a copy of its last piece.
    TC_SHOT
}

/// A packet that is made into fragments. All of it lies in a map, numbers too: what is read from there the verifier
/// takes for unknown, and so each round of the loop is like the one before.
#[repr(C)]
pub(crate) struct Whole {
    /// The packet.
    bytes: [u8; WHOLE],
    /// Where its body begins.
    start: u32,
    /// Bytes of its body.
    body: u32,
    /// Bytes that fit into a piece.
    room: u32,
    /// Bytes of the body before the piece.
    done: u32,
    /// Bytes of the piece.
    size: u32,
    /// The words of its header that change.
    total: u16,
    fragment: u16,
    checksum: u16,
    reserved: u16,
}

#[inline(never)]
fn read(packet: &Tc, whole: &mut Whole, mtu: u32) -> bool {
    let length = black_box(packet.length());
    if length <= ETHERNET as u32 + 20 || length > HALF {
        return false;
    }
    // SAFETY: the buffer is `WHOLE` bytes long, which `length` is at most.
    if unsafe { bpf_skb_load_bytes(packet.skb.cast(), 0, whole.bytes.as_mut_ptr().cast(), length) } != 0 {
        return false;
    }
    let Some([first, second, third]) = packet.load::<[u32; 3]>(ETHERNET) else {
        return false;
    };
    let [version_length, _, t0, t1] = first.to_ne_bytes();
    let [_, _, f0, f1] = second.to_ne_bytes();
    let [_, _, c0, c1] = third.to_ne_bytes();
    let header = (version_length & 0xf) as u32 * 4;
    whole.total = u16::from_be_bytes([t0, t1]);
    whole.fragment = u16::from_be_bytes([f0, f1]);
    whole.checksum = u16::from_ne_bytes([c0, c1]);
    whole.start = ETHERNET as u32 + header;
    whole.body = (whole.total as u32).wrapping_sub(header);
    whole.room = mtu.wrapping_sub(header) & 0xfff8;
    whole.done = 0;
    mtu > header && whole.room != 0 && whole.start + whole.body <= length
}

/// Makes the packet the next piece of itself.
#[inline(never)]
fn write(packet: &Tc, whole: &mut Whole) -> bool {
    let left = whole.body.wrapping_sub(whole.done);
    let last = left <= whole.room;
    whole.size = if last { left } else { whole.room };
    let start = black_box(whole.start) & 0x7f;
    let size = black_box(whole.size);
    let from = black_box(whole.start + whole.done);
    if start == 0 || size == 0 || size > HALF || from > HALF {
        return false;
    }
    // SAFETY: the context is the program's own.
    if unsafe { bpf_skb_change_tail(packet.skb, start + size, 0) } != 0 {
        return false;
    }
    // SAFETY: `from + size` is at most the buffer's length, since each is at most half of it.
    let body: *const c_void = unsafe { whole.bytes.as_ptr().add(from as usize) }.cast();
    // SAFETY: as above; the helper checks the packet's length.
    if unsafe { bpf_skb_store_bytes(packet.skb, start, body, size, 0) } != 0 {
        return false;
    }
    let more = if last { whole.fragment & MORE } else { MORE };
    let place = (whole.fragment & 0x1fff).wrapping_add((whole.done >> 3) as u16);
    let total = (whole.start - ETHERNET as u32 + whole.size) as u16;
    let sum = Sum::default()
        .minus(whole.total.to_be() as u32)
        .plus(total.to_be() as u32)
        .minus(whole.fragment.to_be() as u32)
        .plus((place | more).to_be() as u32);
    packet.store(ETHERNET + 2, total.to_be())
        && packet.store(ETHERNET + 6, (place | more).to_be())
        && packet.store(ETHERNET + 10, apply(whole.checksum, sum.difference()))
}

/// Stands for a verdict: the packet does not fit, and [`conclude`] says what becomes of it. No TC verdict has this
/// value.
pub(crate) const TOO_BIG: i32 = i32::MIN + 1000;

/// The bit of `Workspace::mtu` that says that the packet is to be made into fragments.
const SPLIT: u32 = 1 << 31;

/// Notes for [`conclude`] that the packet does not fit a link of this MTU; gives the outcome.
#[inline(never)]
pub(crate) fn note<F: Maps>(packet: &Tc, tuple: &Tuple<F::Addr>, mtu: u32) -> Outcome {
    let Some(workspace) = workspace::<F>() else {
        return Outcome::DroppedInconsistent;
    };
    workspace.mtu = mtu;
    workspace.look.key.source = tuple.source;
    workspace.look.key.destination = tuple.destination;
    if may_split::<F>(packet) {
        workspace.mtu = mtu | SPLIT;
        Outcome::ForwardedSplit
    } else {
        Outcome::RejectedTooBig
    }
}

/// The body of [`Tc::too_big`]: the verdict for a packet that does not fit. `leaving`: it is on its way out.
#[inline(always)]
pub(crate) fn conclude<F: Maps>(packet: &Tc, leaving: u32) -> u32 {
    let (device, leaving) = (packet.device(), leaving != 0);
    let Some(workspace) = workspace::<F>() else {
        return TC_SHOT as u32;
    };
    let verdict = if F::ID.is_some() && workspace.mtu & SPLIT != 0 {
        split(packet, device, leaving, workspace.mtu & 0xffff)
    } else {
        answer::<F>(packet, workspace, device, leaving)
    };
    verdict as u32
}

/// The same for a later fragment. If its datagram may not be fragmented further, the first one is answered, which
/// names the socket, and this one is not.
#[inline(always)]
pub(crate) fn conclude_later<F: Maps>(packet: &Tc, device: u32, leaving: bool) -> i32 {
    match workspace::<F>() {
        Some(workspace) if F::ID.is_some() && workspace.mtu & SPLIT != 0 => {
            split(packet, device, leaving, workspace.mtu & 0xffff)
        }
        _ => TC_SHOT,
    }
}

const _: () = assert!(SMALLEST_MTU as usize > lb_common::net::HEADERS);
