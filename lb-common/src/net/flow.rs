//! Flows: found, opened, followed and forgotten.
//!
//! [`before`] runs in front of the routing decision and opens flows; [`after`] runs behind it and only
//! follows them. Both give back the entry to translate by, or the outcome without one. What a new flow comes to is
//! in `open`, how it gets into the tables in `install`.
//!
//! *Invariants*: the reverse half is inserted first and only where its key is free: who inserts it owns the
//! tuple. A forward half without its reverse half is never used for a new flow. A tuple that another flow
//! owns is left to it: the new flow gets another source port.

use crate::abi::{
    Action, Address, Affinity, AffinityKey, DeviceKind, Event, Flow, FrontendKey, Kind, Outcome, Phase,
    Protocol, RangeKey, Set, State, Tuple,
};

use super::{
    Entry, Net, Parsed, Tables,
    affinity::{keep, recall},
    install::{displace, install},
    lifetime, next_state,
    open::{direct, pick, plan, turn, turn_back},
    tcp_flag::{ACK, SYN},
};

/// Ticks between two looks at the other half of a flow that packets pass in one direction.
pub const TWIN_TICKS: u32 = 16;

/// Where a packet of [`before`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// Interface index of the device.
    pub device: u32,
    /// What kind of device it is.
    pub kind: DeviceKind,
}

/// Room for what is being made of a packet; too large for the kernel's stack.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Scratch<A> {
    /// The packet.
    pub parsed: Parsed<A>,
    /// Key of the forward half.
    pub key: Tuple<A>,
    /// The forward half.
    pub flow: Flow<A>,
    /// Key of the reverse half.
    pub twin_key: Tuple<A>,
    /// The reverse half.
    pub twin: Flow<A>,
    /// The first of two translations, while the second is being made.
    pub first_key: Tuple<A>,
    /// The first of two translations, while the second is being made.
    pub first_flow: Flow<A>,
    /// The frontend that is looked up.
    pub frontend: FrontendKey<A>,
    /// The packet's flow hash.
    pub hash: u32,
    /// 1: the source port must come from the reserved range.
    pub new_port: u16,
    /// 1: the flow goes back to its own client.
    pub hairpin: u16,
    /// 1: the source changes behind the routing decision, by a second translation.
    pub second: u16,
    /// 1: the backend is chosen anew, not the one that the client had.
    pub new_choice: u16,
    /// [`Scope`](super::Scope) of the flow as a number.
    pub scope: u16,
    /// 1: the packet is in the middle of a connection.
    pub midstream: u16,
    /// Flags of the backend.
    pub backend: u16,
    /// [`crate::abi::FrontendKind`] of the frontend as a number.
    pub frontend_kind: u16,
    /// [`crate::abi::SourceClass`] of the client as a number.
    pub source_class: u16,
    /// Position of the backend within its set.
    pub position: u32,
    /// What the row of a table is found by.
    pub row_hash: u32,
    /// The client whose backend is looked up.
    pub affinity_key: AffinityKey<A>,
    /// The backend that a client had, or has now.
    pub affinity: Affinity<A>,
    /// The source that is looked up among the ranges.
    pub range: RangeKey<A>,
}

/// What becomes of a packet in front of the routing decision. (A pointer that may be null, rather than variants: the
/// verifier follows it also through the stack, where it forgets which variant was written.)
#[derive(Clone, Copy, Debug)]
pub struct Before<'a, A> {
    /// The entry to translate by; `None`: do not translate.
    pub flow: Option<&'a Flow<A>>,
    /// What it counts as.
    pub outcome: Outcome,
}

impl<A> Before<'_, A> {
    /// Not to be translated.
    #[inline(always)]
    #[must_use]
    pub const fn leave(outcome: Outcome) -> Self {
        Self { flow: None, outcome }
    }
}

/// What [`after`] comes to: the entry to translate by, if there is one.
pub type After<'a, A> = Option<&'a Flow<A>>;

/// A packet in front of the routing decision, to one of our addresses: flows have no other destinations there, so this
/// is asked first, and most packets of a node are asked nothing else. `None`: it is of no flow; [`open`] one, and see
/// what it has [come to](opened).
#[inline(always)]
pub fn before<'a, F: Net, T: Tables<F>>(
    tables: &'a T,
    parsed: &Parsed<F::Addr>,
) -> Option<Before<'a, F::Addr>> {
    let entry = tables.entry(&parsed.tuple)?;
    if belongs(entry.flow(), parsed.flags) {
        follow(tables, &parsed.tuple, entry, parsed.flags);
        return Some(Before {
            flow: Some(entry.flow()),
            outcome: Outcome::ForwardedFlow,
        });
    }
    if entry.flow().flags & Flow::<F::Addr>::REVERSE != 0 {
        return Some(Before::leave(Outcome::PassedNotOurs));
    }
    forget(tables, &parsed.tuple, entry.flow());
    None
}

/// What a packet comes to that [`open`] has opened a flow for in `scratch`, or has not.
#[inline(always)]
#[must_use]
pub fn opened<A>(scratch: &Scratch<A>, outcome: Outcome) -> Before<'_, A> {
    Before {
        flow: (outcome.kind() == Kind::Forwarded).then_some(&scratch.flow),
        outcome,
    }
}

/// Opens the flow that the packet `scratch.parsed`, to one of our addresses, begins, if it begins one: then
/// `scratch.flow` is its forward half. Its steps come one after the other rather than one inside the other: their frames share one small stack.
#[inline(always)]
pub fn open<F: Net, T: Tables<F>>(
    tables: &T,
    arrival: &Arrival,
    scratch: &mut Scratch<F::Addr>,
    address: Address,
) -> Outcome {
    let mut set = None;
    let outcome = plan(tables, arrival, scratch, address, &mut set);
    if outcome != Outcome::ForwardedNew {
        return outcome;
    }
    let Some(set) = set else {
        return Outcome::DroppedInconsistent;
    };
    if set.has(Set::AFFINITY) {
        recall(tables, scratch, set);
    }
    let picked = pick(tables, scratch, set);
    if picked != Outcome::ForwardedNew {
        return picked;
    }
    if set.has(Set::AFFINITY) && scratch.new_choice != 0 {
        keep(tables, scratch, set);
    }
    let directed = direct(tables, arrival, scratch);
    if directed != Outcome::ForwardedNew {
        return directed;
    }
    let installed = install(tables, scratch);
    if installed != Outcome::ForwardedNew {
        return installed;
    }
    if scratch.second != 0 {
        // Second, since it begins with the source port that the first has found.
        let turned = turn(tables, arrival, scratch);
        let installed = if turned == Outcome::ForwardedNew {
            install(tables, scratch)
        } else {
            turned
        };
        if installed == Outcome::ForwardedNew {
            make_room(tables, scratch, !scratch.hash); // never the first one's slot
        }
        turn_back(scratch);
        if installed != Outcome::ForwardedNew {
            forget(tables, &scratch.key, &scratch.flow);
            return installed;
        }
    }
    make_room(tables, scratch, scratch.hash);
    if scratch.midstream != 0 {
        Outcome::ForwardedMidstream
    } else {
        Outcome::ForwardedNew
    }
}

#[inline(always)]
fn make_room<F: Net, T: Tables<F>>(tables: &T, scratch: &mut Scratch<F::Addr>, hash: u32) {
    if displace(tables, scratch, hash) {
        tables.count(Event::FlowDisplaced);
    }
}

/// A packet behind the routing decision; says so in its tuple.
#[inline(always)]
pub fn after<'a, F: Net, T: Tables<F>>(tables: &'a T, parsed: &mut Parsed<F::Addr>) -> After<'a, F::Addr> {
    parsed.tuple.phase = Phase::After as u8;
    let entry = tables.entry(&parsed.tuple)?;
    if !belongs(entry.flow(), parsed.flags) {
        // The answer to a handshake that passed no program of ours: as in `give_way`.
        forget_apart(tables, &parsed.tuple, entry.flow());
        return None;
    }
    follow(tables, &parsed.tuple, entry, parsed.flags);
    Some(entry.flow())
}

/// A TCP packet from `tuple.source` begins a connection that is none of ours, and may come from the port of a flow that is
/// ending, to the very backend of it. What that backend sends from here on must not be taken for the rest of the flow: not even
/// its refusal, for which its kernel waits to be told that the old connection is gone. (A flow in its end may never look
/// closed: two last packets at the same time, each seen by another CPU, each note that the other side is still open.)
#[inline(always)]
pub fn give_way<F: Net, T: Tables<F>>(tables: &T, tuple: &Tuple<F::Addr>, phase: Phase) {
    let mut answers = Tuple::default();
    reverse(tuple, &mut answers);
    answers.phase = phase as u8;
    if let Some(flow) = tables.flow(&answers)
        && State::from_number(flow.state).is_closing()
    {
        forget(tables, &answers, flow);
    }
}

/// Whether a TCP packet with these flags may be the first one of a connection, see [`give_way`].
#[inline(always)]
#[must_use]
pub const fn begins(protocol: u8, flags: u8) -> bool {
    protocol == Protocol::Tcp as u8 && flags & (SYN | ACK) == SYN
}

/// Whether an entry may be forgotten at `tick`: idle for longer than its state allows, and its other half as well.
#[inline(always)]
#[must_use]
pub fn sweep<A>(protocol: u8, flow: &Flow<A>, tick: u32) -> bool {
    // A clock that seems to go back (a packet was noted meanwhile) is no idleness.
    let idle = tick.wrapping_sub(flow.seen);
    idle < u32::MAX / 2 && idle > lifetime(protocol, State::from_number(flow.state)) + TWIN_TICKS
}

/// Whether a packet with these TCP flags belongs to a flow that has its tuple: a handshake does not to one that is
/// closing.
#[inline(always)]
#[must_use]
pub fn belongs<A>(flow: &Flow<A>, flags: u8) -> bool {
    flags & SYN == 0 || !State::from_number(flow.state).is_closing()
}

/// Notes a packet in its half, once a tick; in the other half when the state changes, and now and then: that one
/// lies elsewhere in memory, and a look at it may cost more than everything else.
#[inline(always)]
fn follow<'a, F: Net, T: Tables<F>>(tables: &'a T, key: &Tuple<F::Addr>, entry: T::Entry<'a>, flags: u8) {
    let Flow {
        seen,
        state: number,
        flags: half,
        ..
    } = *entry.flow();
    let reverse = half & Flow::<F::Addr>::REVERSE != 0;
    let state = next_state(State::from_number(number), key.protocol, reverse, flags);
    let tick = tables.tick();
    if state as u8 == number && tick == seen {
        return;
    }
    entry.note(tick, state);
    if state as u8 != number || tick / TWIN_TICKS != seen / TWIN_TICKS {
        note_twin(tables, key, entry.flow(), tick, state);
    }
}

/// Notes a packet in the other half of `flow`; makes it anew if it was lost.
#[inline(never)]
fn note_twin<F: Net, T: Tables<F>>(
    tables: &T,
    key: &Tuple<F::Addr>,
    flow: &Flow<F::Addr>,
    tick: u32,
    state: State,
) {
    let twin_key = flow.to.reverse();
    if let Some(twin) = tables.entry(&twin_key) {
        twin.note(tick, state);
        return;
    }
    let mut twin = Flow::default();
    mirror(key, flow, &mut twin);
    twin.seen = tick;
    twin.state = state as u8;
    tables.create(&twin_key, &twin);
    tables.count(Event::FlowRepaired);
}

/// Removes both halves.
#[inline(always)]
pub(super) fn forget<F: Net, T: Tables<F>>(tables: &T, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>) {
    let twin_key = flow.to.reverse();
    tables.remove(key);
    tables.remove(&twin_key);
}

/// [`forget`], where the verifier is not to follow it in the midst of everything else.
#[inline(never)]
fn forget_apart<F: Net, T: Tables<F>>(tables: &T, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>) {
    forget(tables, key, flow);
}

/// Makes the other half of `flow`, whose key is `key`.
#[inline(always)]
pub(super) fn mirror<A: Copy>(key: &Tuple<A>, flow: &Flow<A>, twin: &mut Flow<A>) {
    reverse(key, &mut twin.to);
    twin.seen = flow.seen;
    twin.created = flow.created;
    twin.device = flow.twin_device;
    twin.twin_device = flow.device;
    twin.state = flow.state;
    twin.action = flow.action.rotate_left(4);
    twin.flags = flow.flags ^ Flow::<A>::REVERSE;
}

/// [`Tuple::reverse`] in place, word by word.
#[inline(always)]
pub(super) fn reverse<A: Copy>(of: &Tuple<A>, into: &mut Tuple<A>) {
    into.source = of.destination;
    into.destination = of.source;
    into.source_port = of.destination_port;
    into.destination_port = of.source_port;
    into.protocol = of.protocol;
    into.phase = of.phase;
    into.reserved = 0;
}

impl<A> Flow<A> {
    /// What happens to the packet after its translation.
    #[inline(always)]
    #[must_use]
    pub const fn action(&self) -> Action {
        match self.action & 0xf {
            1 => Action::Neighbour,
            2 => Action::Receive,
            _ => Action::Stack,
        }
    }
}

#[cfg(test)]
mod tests;
