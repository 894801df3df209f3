//! Writes down what happens to a packet, while somebody watches (`lb-agent trace`).
//!
//! Every program is in the kernel once, without any of this: the verifier removes it. Only the look whether somebody watches
//! remains ([`crate::watch`]), and if so a tail call into a second instance, which whoever watches has loaded. That one does
//! to the packet what the first would have done, by the same code and the same maps, and notes every step.
//!
//! The programs have no stack left for notes on the way through the opening of a flow: what it was made of is read once more
//! when it is done ([`opened`]).
//!
//! Records are put together in this CPU's memory. Programs at sockets have a place of their own there, since packets' programs
//! interrupt them; where they interrupt each other, a record may be of both.
#![allow(unsafe_code)]

use aya_ebpf::{
    Global,
    btf_maps::lpm_trie,
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns},
};
use core::ptr;
use lb_common::{
    abi::{Entered, Flow, FrontendKey, Hook, Outcome, Protocol, Record, Set, Step, Tuple, V4, Way},
    net::{Net, Scope, range_bits},
};

use crate::{
    fib::NextHop,
    maps::{self, Maps},
    tables::workspace,
};

/// Set when programs are loaded. 1: this is an instance that notes every step; 2: nobody can watch (for benches).
#[unsafe(no_mangle)]
static TRACED: Global<u8> = Global::new(0);

/// Whether this instance notes every step. (The verifier knows, and leaves out what does not apply.)
#[inline(always)]
pub(crate) fn is_traced() -> bool {
    TRACED.load() == 1
}

/// Whether somebody may watch this instance.
#[inline(always)]
pub(crate) fn is_watchable() -> bool {
    TRACED.load() == 0
}

/// What a CPU works with.
#[repr(C)]
pub(crate) struct Tracing {
    record: Record,
    /// Packets so far.
    packets: u64,
    /// 1: the packet is one that is watched.
    active: u32,
    /// Records lost since the last one that was not.
    lost: u32,
}

/// Whose record it is: a place in the map `tracing`.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Of {
    /// A packet's.
    Packet = 0,
    /// A socket's.
    Socket = 1,
}

#[inline(always)]
fn tracing(of: Of) -> Option<&'static mut Tracing> {
    // SAFETY: per-CPU memory of this kind of program; nothing in it is more than a number.
    maps::tracing
        .get_ptr_mut(of as u32)
        .map(|tracing| unsafe { &mut *tracing })
}

/// Nothing that anybody could notice, but with feature `other-text` instructions that other builds do not have.
#[inline(always)]
pub(crate) fn other_text() {
    #[cfg(feature = "other-text")]
    // SAFETY: no arguments.
    let _ = unsafe { bpf_get_smp_processor_id() };
}

/// The end of a program for packets: what the kernel is told.
#[inline(always)]
pub(crate) fn end<T: Copy>(verdict: T) -> T {
    other_text();
    note_plainly(Step::Verdict, &verdict);
    verdict
}

/// Notes the entry that a packet belongs to.
#[inline(always)]
pub(crate) fn flow<F: Net>(key: &Tuple<F::Addr>, flow: Option<&Flow<F::Addr>>) {
    note::<F, _, _>(Of::Packet, Step::Flow, key, flow);
}

/// Notes what is behind a frontend: what the program has just read is read once more. Gives its set.
#[inline(always)]
pub(crate) fn served<F: Maps>(of: Of, key: &FrontendKey<F::Addr>) -> Option<&'static Set> {
    if !is_traced() {
        return None;
    }
    // SAFETY: a frontend's value never changes while it is in the map.
    let frontend = unsafe { F::frontends().get(key) };
    note::<F, _, _>(of, Step::Frontend, key, frontend);
    let service = frontend?.service;
    let set = F::sets().get(F::services().get(service)?.set()?);
    note::<F, _, _>(of, Step::Set, &service, set);
    set
}

/// The body of `notes`: what the flow in the workspace was made of, or why there is none. The programs have no stack left to
/// note it on the way.
#[inline(always)]
pub(crate) fn opened<F: Maps>(outcome: u32) -> u32 {
    let Some(workspace) = workspace::<F>() else {
        return 0;
    };
    let scratch = &workspace.flow;
    let tuple = &scratch.parsed.tuple;
    // SAFETY: the value is one word, read once.
    let address = unsafe { F::addresses().get(tuple.destination) };
    note::<F, _, _>(Of::Packet, Step::Address, &tuple.destination, address);
    let client = tuple.source;
    let source = F::sources().get(&lpm_trie::Key::new(8 * F::ADDR_LEN as u32, client));
    note::<F, _, _>(Of::Packet, Step::Source, &client, source);
    let Some(set) = served::<F>(Of::Packet, &scratch.frontend) else {
        return 0;
    };
    if set.has(Set::RANGES) {
        let range = F::ranges().get(&lpm_trie::Key::new(range_bits::<F>(), scratch.range));
        note::<F, _, _>(Of::Packet, Step::Range, &scratch.range, range);
    }
    if outcome != Outcome::ForwardedNew as u32 && outcome != Outcome::ForwardedMidstream as u32 {
        return 0;
    }
    let is_new = scratch.new_choice != 0;
    if set.has(Set::AFFINITY) {
        let had = (!is_new).then_some(&scratch.affinity);
        note::<F, _, _>(Of::Packet, Step::Affinity, &scratch.affinity_key, had);
    }
    if is_new {
        let (table, rows) = if scratch.scope == Scope::Local as u16 {
            (set.local_table, set.local_rows)
        } else {
            (set.cluster_table, set.cluster_rows)
        };
        let row = [table, rows, scratch.row_hash];
        note::<F, _, _>(Of::Packet, Step::Row, &row, Some(&scratch.position));
    }
    let index = set.backends.wrapping_add(scratch.position);
    note::<F, _, _>(Of::Packet, Step::Backend, &index, F::backends().get(index));
    // Two translations in a row have two entries each.
    if let Some(first) = made::<F>(&scratch.key)
        && scratch.second != 0
    {
        made::<F>(&first.to);
    }
    0
}

/// Notes the two entries of a translation. Gives the first.
#[inline(always)]
fn made<F: Maps>(key: &Tuple<F::Addr>) -> Option<&'static Flow<F::Addr>> {
    // SAFETY: as for [`crate::tables::Entry`].
    let forward = unsafe { F::flows().get(key) };
    note::<F, _, _>(Of::Packet, Step::Create, key, forward);
    let answers = forward?.to.reverse();
    // SAFETY: as above.
    let reverse = unsafe { F::flows().get(answers) };
    note::<F, _, _>(Of::Packet, Step::Create, &answers, reverse);
    forward
}

/// A connection got its backend.
#[inline(always)]
pub(crate) fn connected<F: Maps>(asked: &FrontendKey<F::Addr>, address: F::Addr, port: u16) {
    if !is_traced() {
        return;
    }
    let tuple = |destination, destination_port| Tuple {
        source: F::Addr::default(),
        destination,
        source_port: 0,
        destination_port,
        protocol: Protocol::Tcp as u8,
        phase: 0,
        reserved: 0,
    };
    let before = tuple(asked.address, asked.port);
    note::<F, _, _>(Of::Socket, Step::Rewrite, &before, Some(&tuple(address, port)));
}

/// The packet is none that is watched, until it turns out to be one.
#[inline(always)]
pub(crate) fn stop(of: Of) {
    if let Some(tracing) = tracing(of) {
        tracing.active = 0;
    }
}

/// Notes that a packet, or a connection, has come that is watched.
#[inline(always)]
pub(crate) fn enter<F: Net>(
    of: Of,
    device: u32,
    hook: Hook,
    tuple: &Tuple<F::Addr>,
    entered: &Entered,
    has_ports: bool,
) {
    let Some(tracing) = tracing(of) else { return };
    tracing.active = 1;
    tracing.packets += 1;
    tracing.record.packet = tracing.packets;
    tracing.record.device = device;
    tracing.record.hook = hook as u8;
    // SAFETY: no arguments.
    tracing.record.cpu = (unsafe { bpf_get_smp_processor_id() }) as u16;
    write(tracing, tuple);
    write_value(tracing, entered);
    emit(tracing, Step::Enter as u8, family::<F>(), has_ports);
}

#[inline(always)]
const fn family<F: Net>() -> u8 {
    if F::ADDR_LEN == 4 { 4 } else { 6 }
}

/// Notes a step of a packet that is watched: what was asked for, and what was found.
#[inline(always)]
pub(crate) fn note<F: Net, K: Copy, V: Copy>(of: Of, step: Step, key: &K, value: Option<&V>) {
    if is_traced() {
        let about = of as u32 | (step as u32) << 8 | (family::<F>() as u32) << 16;
        write_down::<K, V>(about, key, value);
    }
}

/// The body of [`note`]. A function, so that its words do not crowd the stack of every caller. `about`: [`Of`], step and family.
#[inline(never)]
fn write_down<K: Copy, V: Copy>(about: u32, key: &K, value: Option<&V>) {
    let of = if about & 1 == 0 { Of::Packet } else { Of::Socket };
    let Some(tracing) = tracing(of) else { return };
    if tracing.active == 0 {
        return;
    }
    write(tracing, key);
    if let Some(value) = value {
        write_value(tracing, value);
    }
    emit(tracing, (about >> 8) as u8, (about >> 16) as u8, value.is_some());
}

/// Notes a step that has no value: whether something is so.
#[inline(always)]
pub(crate) fn note_whether<F: Net, K: Copy>(of: Of, step: Step, key: &K, is_so: bool) {
    note::<F, K, [u32; 0]>(of, step, key, is_so.then_some(&[]));
}

/// Notes a step that is about no address.
#[inline(always)]
fn note_plainly<K: Copy>(step: Step, key: &K) {
    note_whether::<V4, K>(Of::Packet, step, key, true);
}

/// Notes the outcome.
#[inline(always)]
pub(crate) fn outcome(of: Of, outcome: Outcome) {
    note_whether::<V4, u32>(of, Step::Outcome, &(outcome as u32), true);
}

/// Notes how a checksum followed, whose field is at `offset`.
#[inline(always)]
pub(crate) fn checksum(offset: usize, by_kernel: bool) {
    note_whether::<V4, u32>(Of::Packet, Step::Checksum, &(offset as u32), by_kernel);
}

/// Notes the way of a packet.
#[inline(always)]
pub(crate) fn way<F: Net>(tuple: &Tuple<F::Addr>, hop: &NextHop) {
    let way = Way {
        device: hop.device,
        neighbour: hop.destination,
        reserved: 0,
    };
    note::<F, _, _>(Of::Packet, Step::Route, tuple, (hop.device != 0).then_some(&way));
}

#[inline(always)]
fn write<T: Copy>(tracing: &mut Tracing, key: &T) {
    copy(key, &mut tracing.record.key);
}

#[inline(always)]
fn write_value<T: Copy>(tracing: &mut Tracing, value: &T) {
    copy(value, &mut tracing.record.value);
}

/// Word by word: a plain copy would be a call that goes byte by byte.
#[inline(always)]
fn copy<T: Copy, const ROOM: usize>(from: &T, to: &mut [u8; ROOM]) {
    const { assert!(size_of::<T>() <= ROOM, "it has no room in a record") };
    const {
        assert!(
            align_of::<T>() == 4 || size_of::<T>() == 0,
            "it is not made of words"
        );
    };
    let (from, to) = (ptr::from_ref(from).cast::<u32>(), to.as_mut_ptr().cast::<u32>());
    let mut word = 0;
    while word < size_of::<T>() / 4 {
        // SAFETY: within `T`, which is aligned for a word.
        let value = unsafe { from.wrapping_add(word).read_volatile() };
        // SAFETY: a record's fields are aligned for words, and as long as asserted.
        unsafe { to.wrapping_add(word).write_volatile(value) };
        word += 1;
    }
}

/// Sends the record.
#[inline(always)]
fn emit(tracing: &mut Tracing, step: u8, family: u8, found: bool) {
    let record = &mut tracing.record;
    // SAFETY: no arguments.
    record.time = unsafe { bpf_ktime_get_boot_ns() };
    record.step = step;
    record.family = family;
    record.found = found as u8;
    record.lost = if tracing.lost > 0xffff {
        0xffff
    } else {
        tracing.lost as u16
    };
    let sent = maps::trace_ring.output_untyped::<Record>(&*record, 0).is_ok();
    tracing.lost = if sent { 0 } else { tracing.lost + 1 };
}
