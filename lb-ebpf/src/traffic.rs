//! Counts packets and connections of Services, if the agent is told to (`--service-counters`); if not, the verifier removes all
//! of it.
//!
//! A packet's Service is noted in this CPU's memory where its flow is known, and counted where its outcome is: the programs have
//! no stack left to carry it from one to the other.
#![allow(unsafe_code, internal_features)]

use core::{
    hint::black_box,
    intrinsics::{AtomicOrdering, atomic_xadd},
};

use aya_ebpf::{Global, bindings::BPF_NOEXIST};
use lb_common::{
    abi::{Backend, Counter, Flow, FrontendKey, Leg, Outcome, TrafficKey, Tuple, V4, V6},
    net::{CONNECTED, Net, counts_as_traffic, traffic},
};

use crate::{
    maps::{self, Maps},
    tables::workspace,
};

/// Set when programs are loaded. 1: what concerns Services is counted for each of them.
#[unsafe(no_mangle)]
static SERVICE_COUNTERS: Global<u8> = Global::new(0);

/// Whether Services are counted. (The verifier knows, and leaves out what does not apply.)
#[inline(always)]
fn is_on() -> bool {
    SERVICE_COUNTERS.load() == 1
}

/// Of which family the packet is whose Service is noted in its workspace: 4, 6; 0: it is no Service's.
#[inline(always)]
fn noted() -> Option<&'static mut u32> {
    // SAFETY: per-CPU memory of programs that see packets, which do not interrupt each other.
    maps::noted.get_ptr_mut(0).map(|noted| unsafe { &mut *noted })
}

/// Notes whose packet it is that has this tuple: of what flow, or what was decided without one. To be called where
/// [`count`] follows, for the same packet and with no other in between.
#[inline(always)]
pub(crate) fn note<F: Maps>(of: &Tuple<F::Addr>, flow: Option<&Flow<F::Addr>>, decided: Outcome) {
    if is_on() {
        write_down::<F>(of, flow, decided);
    }
}

/// The body of [`note`]. A function, so that its words do not crowd the stack of every caller.
#[inline(never)]
fn write_down<F: Maps>(of: &Tuple<F::Addr>, flow: Option<&Flow<F::Addr>>, decided: Outcome) {
    let (Some(noted), Some(workspace)) = (noted(), workspace::<F>()) else {
        return;
    };
    let asked = &workspace.flow.frontend;
    let is_one = traffic::<F>(of, flow, asked, decided, &mut workspace.traffic);
    *noted = if is_one { family::<F>() } else { 0 };
}

#[inline(always)]
const fn family<F: Net>() -> u32 {
    if F::ADDR_LEN == 4 { 4 } else { 6 }
}

/// Counts the packet that was noted, if one was.
#[inline(always)]
pub(crate) fn count(outcome: Outcome, length: u32) {
    if is_on() {
        count_noted(outcome as u32, length);
    }
}

/// The body of [`count`]: global, so that the verifier follows it once.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_noted(outcome: u32, length: u32) -> u32 {
    let (outcome, length) = (black_box(outcome), black_box(length));
    let Some(noted) = noted() else { return 0 };
    let family = *noted;
    *noted = 0;
    if !Outcome::from_number(outcome).is_some_and(counts_as_traffic) {
        return 0;
    }
    match family {
        4 => add::<V4>(outcome, length),
        6 => add::<V6>(outcome, length),
        _ => {}
    }
    0
}

#[inline(always)]
fn add<F: Maps>(outcome: u32, length: u32) {
    let Some(workspace) = workspace::<F>() else { return };
    let key = &mut workspace.traffic;
    key.outcome = outcome as u8;
    if let Some(counter) = counter::<F>(key) {
        // SAFETY: per-CPU memory that only this CPU's programs for packets write, one at a time: those at sockets have keys
        // of their own.
        unsafe { (*counter).packets += 1 };
        // SAFETY: as above.
        unsafe { (*counter).bytes += length as u64 };
    }
}

/// This CPU's counter for a key, made if there is none.
#[inline(always)]
fn counter<F: Maps>(key: &TrafficKey<F::Addr>) -> Option<*mut Counter> {
    if let Some(counter) = F::traffic().get_ptr_mut(key) {
        return Some(counter);
    }
    let none = Counter { packets: 0, bytes: 0 };
    // Another CPU may have made it meanwhile: then it is there.
    let _ = F::traffic().insert(key, none, BPF_NOEXIST as u64);
    F::traffic().get_ptr_mut(key)
}

/// Counts a connection to a frontend that got this backend at its socket.
#[inline(always)]
pub(crate) fn connected<F: Maps>(asked: &FrontendKey<F::Addr>, backend: &Backend<F::Addr>) {
    if is_on() {
        count_connection::<F>(asked, backend, Outcome::ForwardedNew);
    }
}

/// Counts a connection that came to this at its socket, if it was refused.
#[inline(always)]
pub(crate) fn refused<F: Maps>(address: &F::Addr, port: u16, outcome: Outcome) {
    if is_on() && counts_as_traffic(outcome) {
        let asked = FrontendKey {
            address: *address,
            port,
            protocol: CONNECTED,
            reserved: 0,
        };
        let nobody = Backend {
            address: F::Addr::default(),
            port: 0,
            flags: 0,
        };
        count_connection::<F>(&asked, &nobody, outcome);
    }
}

/// Counts a connection. Processes interrupt each other, so the key is on the stack and counting is atomic.
#[inline(never)]
fn count_connection<F: Maps>(asked: &FrontendKey<F::Addr>, backend: &Backend<F::Addr>, outcome: Outcome) {
    let key = TrafficKey {
        frontend: asked.address,
        backend: backend.address,
        frontend_port: asked.port,
        backend_port: backend.port,
        protocol: CONNECTED,
        outcome: outcome as u8,
        leg: Leg::Connected as u8,
        reserved: 0,
    };
    if let Some(counter) = counter::<F>(&key) {
        // SAFETY: within the counter, which is valid.
        let packets = unsafe { &raw mut (*counter).packets };
        // SAFETY: an aligned word of per-CPU memory, which only these programs write, atomically.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(packets, 1) };
    }
}
