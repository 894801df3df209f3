//! Fragments that came before the first one of their datagram are kept in `held`, and given to the program again behind
//! it: the first one is put away, its buffer carries one after the other, and in the end itself.
//!
//! Slots are taken in turn, so a flood of such fragments costs nobody else anything. A word for each slot says whose
//! fragment it has; who changes that word atomically has the slot. Two datagrams of one hash (one pair in four milliards)
//! get each other's fragments replayed, which are then looked at like any others.
#![allow(unsafe_code, internal_features)]

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{
        bpf_clone_redirect, bpf_loop, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};
use core::{
    ffi::c_void,
    hint::black_box,
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg},
};
use lb_common::{
    abi::{DeviceKind, Event, FragmentKey, Held, Outcome, Phase, Waiting, capacity},
    net::{self, ETHERNET, Hold, Tables, datagram_hash, is_good, known},
};

use crate::{
    maps::{self, Maps},
    outcome::add,
    packet::{Packet, Tc},
    tables::{Kernel, tick, workspace},
};

const SLOTS: u32 = capacity::HELD;
/// Stands for a slot: none.
const NONE: u32 = u32::MAX;

const _: () = assert!(SLOTS.is_power_of_two());

/// The word of a slot, to be changed atomically.
#[inline(always)]
fn word(slot: u32) -> Option<*mut u32> {
    let waiting = maps::waiting.get_ptr_mut(0)?;
    // SAFETY: the pointer is valid until the program ends, and the index is bounded.
    Some(unsafe { &raw mut (*waiting).datagrams[(slot & (SLOTS - 1)) as usize] })
}

/// Adds to the turns; gives what they were. Whatever is added: what is read behind it is not older.
#[inline(always)]
fn turn(waiting: *mut Waiting, by: u32) -> u32 {
    // SAFETY: the callers' pointer is into the map, and valid until the program ends.
    let turn = unsafe { &raw mut (*waiting).turn };
    // SAFETY: an aligned word of a map, which all CPUs change atomically.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::SeqCst }>(turn, by) }
}

/// Changes a slot's word, if it is `from`.
#[inline(always)]
fn change(word: *mut u32, from: u32, to: u32) -> bool {
    // SAFETY: an aligned word of a map, which all CPUs change atomically.
    let (_, done) = unsafe {
        atomic_cxchg::<u32, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, from, to)
    };
    done
}

/// Gives a slot away that this program has.
#[inline(always)]
fn leave(slot: u32, to: u32) {
    if let Some(word) = word(slot) {
        // SAFETY: an aligned word of a map, which all CPUs change atomically.
        unsafe { atomic_xchg::<u32, { AtomicOrdering::SeqCst }>(word, to) };
    }
}

/// The hash of a datagram.
#[inline(always)]
pub(crate) fn hash_of<F: Maps>(key: &FragmentKey<F::Addr>) -> u32 {
    datagram_hash::<F>(key, maps::node.get(0).map_or(0, |node| node.seed))
}

/// Whether fragments of a datagram wait.
///
/// Who remembers a first fragment asks behind that; who puts a fragment into a slot asks behind that whether the first
/// one is remembered. So at least one of the two sees the other.
#[inline(always)]
pub(crate) fn is_held(datagram: u32) -> bool {
    let Some(waiting) = maps::waiting.get_ptr_mut(0) else {
        return false;
    };
    turn(waiting, 0); // for the order of memory alone
    // SAFETY: one word, read once.
    if !is_good(unsafe { (*waiting).seen }, tick()) {
        return false;
    }
    let mut search = Search { datagram, found: 0 };
    // SAFETY: the callback has the signature that the helper asks for; the context outlives the call.
    unsafe { bpf_loop(SLOTS, compare as *mut c_void, (&raw mut search).cast(), 0) };
    search.found != 0
}

#[repr(C)]
struct Search {
    datagram: u32,
    found: u32,
}

extern "C" fn compare(slot: u64, search: *mut Search) -> i64 {
    // SAFETY: the context that `is_held` gave the kernel, which outlives the loop.
    let search = unsafe { &mut *search };
    let Some(word) = word(slot as u32) else { return 1 };
    // SAFETY: one word, read once.
    if unsafe { word.read_volatile() } != search.datagram {
        return 0;
    }
    search.found = 1;
    1
}

/// Copies the packet into the next slot, which this program has from then on; [`NONE`]: it does not fit, or another CPU
/// is just there.
#[inline(never)]
fn keep(packet: &Tc, stopped: u32) -> u32 {
    let Some(waiting) = maps::waiting.get_ptr_mut(0) else {
        return NONE;
    };
    let length = black_box(packet.length());
    if length <= ETHERNET as u32 || length > Held::ROOM as u32 {
        return NONE;
    }
    let slot = turn(waiting, 1) & (SLOTS - 1);
    let (Some(word), Some(held)) = (word(slot), maps::held.get_ptr_mut(slot)) else {
        return NONE;
    };
    // SAFETY: one word, read once.
    let old = unsafe { word.read_volatile() };
    if old == Waiting::BUSY || !change(word, old, Waiting::BUSY) {
        return NONE;
    }
    // SAFETY: the pointer is valid until the program ends; this program has the slot.
    let held = unsafe { &mut *held };
    if old != Waiting::FREE && held.stopped != 0 {
        add(Event::FragmentLost.index(), 0);
    }
    // SAFETY: the buffer is `ROOM` bytes long, `length` is at most that.
    if unsafe { bpf_skb_load_bytes(packet.skb.cast(), 0, held.bytes.as_mut_ptr().cast(), length) } != 0 {
        leave(slot, Waiting::FREE);
        return NONE;
    }
    let now = tick();
    held.length = length;
    held.seen = now;
    held.stopped = stopped;
    // SAFETY: one word; the last writer wins.
    unsafe { (*waiting).seen = now };
    slot
}

/// Makes the packet the one in `held`, but for its link header: that is right for the device that it is on now.
#[inline(always)]
fn put(skb: *mut __sk_buff, held: &Held) -> bool {
    const LINK: u32 = ETHERNET as u32;
    let length = black_box(held.length);
    if length <= LINK || length > Held::ROOM as u32 {
        return false;
    }
    // SAFETY: the context is the program's own.
    if unsafe { bpf_skb_change_tail(skb, length, 0) } != 0 {
        return false;
    }
    // SAFETY: within the array.
    let rest: *const c_void = unsafe { held.bytes.as_ptr().add(ETHERNET) }.cast();
    let flags = BPF_F_RECOMPUTE_CSUM as u64; // of a sum that a device has made over the packet
    // SAFETY: the context is the program's own; `length` is at most `ROOM`.
    (unsafe { bpf_skb_store_bytes(skb, LINK, rest, length - LINK, flags) }) == 0
}

/// The flags that give a copy of a packet to the program that sees it now.
#[inline(always)]
const fn again(phase: u32) -> u64 {
    if phase == Phase::Before as u32 {
        BPF_F_INGRESS as u64
    } else {
        0
    }
}

/// The body of [`Tc::hold`]: the outcome of the later fragment in the workspace, which belongs to no flow that is known.
#[inline(always)]
pub(crate) fn hold<F: Maps>(packet: &Tc, kind: u32, phase: u32) -> u32 {
    const PASSED: u32 = Outcome::PassedFragment as u32;
    const HELD: u32 = Outcome::ForwardedHeld as u32;
    let Some(workspace) = workspace::<F>() else {
        return PASSED;
    };
    let device = packet.device();
    let kernel = Kernel {
        ctx: packet.skb.cast(),
        device,
    };
    let key = &mut workspace.look.datagram;
    key.phase = phase as u8;
    if known::<F, Kernel>(&kernel, key).is_some() {
        return PASSED; // the first one belonged to no flow
    }
    let address = Tables::<F>::address(&kernel, &key.destination);
    let side = if phase == Phase::Before as u32 {
        Phase::Before
    } else {
        Phase::After
    };
    let stopped = match net::hold(side, DeviceKind::from_number(kind as u8), address) {
        Hold::No => return PASSED,
        Hold::Copy => 0,
        Hold::Stop => 1,
    };
    let slot = keep(packet, stopped);
    if slot == NONE {
        return PASSED;
    }
    let datagram = hash_of::<F>(key);
    leave(slot, datagram);
    let outcome = if stopped != 0 { HELD } else { PASSED };
    if known::<F, Kernel>(&kernel, key).is_none() {
        return outcome;
    }
    // The first one came on another CPU just now, and this one was taken along or is too late for that.
    let Some(word) = word(slot) else { return outcome };
    if !change(word, datagram, Waiting::FREE) {
        return outcome;
    }
    // SAFETY: the context is the program's own.
    unsafe { bpf_clone_redirect(packet.skb, device, again(phase)) };
    HELD
}

#[repr(C)]
struct Replay {
    skb: *mut __sk_buff,
    flags: u64,
    device: u32,
    datagram: u32,
    first: u32,
    tick: u32,
    translated: u32,
}

/// Gives the fragments of a datagram that wait to the program again; the packet is its first, on which others follow if
/// it is `translated`. `false`: the packet is lost.
#[inline(never)]
pub(crate) fn replay(packet: &Tc, datagram: u32, phase: u32, translated: u32) -> bool {
    if !is_held(datagram) {
        return true;
    }
    let own = keep(packet, 0);
    if own == NONE {
        return true;
    }
    let mut replay = Replay {
        skb: packet.skb,
        flags: again(phase),
        device: packet.device(),
        datagram,
        first: own + 1, // the slot whose turn is next: the oldest
        tick: tick(),
        translated,
    };
    // SAFETY: the callback has the signature that the helper asks for; the context outlives the call.
    unsafe { bpf_loop(SLOTS, send as *mut c_void, (&raw mut replay).cast(), 0) };
    let back = match maps::held.get(own) {
        Some(held) => put(packet.skb, held),
        None => false,
    };
    leave(own, Waiting::FREE);
    back
}

extern "C" fn send(number: u64, replay: *mut Replay) -> i64 {
    // SAFETY: the context that `replay` gave the kernel, which outlives the loop.
    let replay = unsafe { &*replay };
    let slot = (number as u32).wrapping_add(replay.first) & (SLOTS - 1);
    let (Some(word), Some(held)) = (word(slot), maps::held.get(slot)) else {
        return 1;
    };
    // SAFETY: one word, read once.
    if unsafe { word.read_volatile() } != replay.datagram || !change(word, replay.datagram, Waiting::BUSY) {
        return 0;
    }
    if !is_good(held.seen, replay.tick) {
        if held.stopped != 0 {
            add(Event::FragmentLost.index(), 0);
        }
    } else if (held.stopped != 0 || replay.translated != 0) && put(replay.skb, held) {
        // SAFETY: the context is the program's own.
        unsafe { bpf_clone_redirect(replay.skb, replay.device, replay.flags) };
    }
    leave(slot, Waiting::FREE);
    0
}
