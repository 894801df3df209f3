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
    Action, Affinity, AffinityKey, DeviceKind, Event, Flow, FrontendKey, Kind, Outcome, Phase, RangeKey,
    State, Tuple,
};

use super::{
    Net, Parsed, Tables,
    install::{displace, install},
    lifetime, next_state,
    open::{plan, turn, turn_back},
    tcp_flag::SYN,
};

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
    /// Zero.
    pub reserved: u16,
    /// Hash of the client alone, with affinity.
    pub hash_of_client: u32,
    /// The client whose backend is looked up.
    pub affinity_key: AffinityKey<A>,
    /// The backend that a client had, or has now.
    pub affinity: Affinity<A>,
    /// The source that is looked up among the ranges.
    pub range: RangeKey<A>,
}

/// What [`before`] comes to.
#[derive(Clone, Copy, Debug)]
pub enum Before<'a, A> {
    /// Translate by this entry.
    Translate(&'a Flow<A>, Outcome),
    /// Do not translate.
    Leave(Outcome),
}

/// What [`after`] comes to: the entry to translate by, if there is one.
pub type After<'a, A> = Option<&'a Flow<A>>;

/// The packet `scratch.parsed` in front of the routing decision.
#[inline(always)]
pub fn before<'a, F: Net, T: Tables<F>>(
    tables: &'a T,
    arrival: &Arrival,
    scratch: &'a mut Scratch<F::Addr>,
) -> Before<'a, F::Addr> {
    let Some(address) = tables.address(&scratch.parsed.tuple.destination) else {
        return Before::Leave(Outcome::PassedNotOurs);
    };
    if let Some(flow) = tables.flow(&scratch.parsed.tuple) {
        if belongs(flow, scratch.parsed.flags) {
            follow(tables, &scratch.parsed.tuple, flow, scratch.parsed.flags);
            return Before::Translate(flow, Outcome::ForwardedFlow);
        }
        if flow.flags & Flow::<F::Addr>::REVERSE != 0 {
            return Before::Leave(Outcome::PassedNotOurs);
        }
        forget(tables, &scratch.parsed.tuple, flow);
    }
    // One after the other rather than one inside the other: their frames share one small stack.
    let outcome = plan(tables, arrival, scratch, address);
    if outcome.kind() != Kind::Forwarded {
        return Before::Leave(outcome);
    }
    let installed = install(tables, scratch);
    if installed != Outcome::ForwardedNew {
        return Before::Leave(installed);
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
            displace(tables, scratch, !scratch.hash); // never the first one's slot
        }
        turn_back(scratch);
        if installed != Outcome::ForwardedNew {
            forget(tables, &scratch.key, &scratch.flow);
            return Before::Leave(installed);
        }
    }
    displace(tables, scratch, scratch.hash);
    Before::Translate(&scratch.flow, outcome)
}

/// The packet `scratch.parsed` behind the routing decision.
#[inline(always)]
pub fn after<'a, F: Net, T: Tables<F>>(tables: &'a T, scratch: &mut Scratch<F::Addr>) -> After<'a, F::Addr> {
    scratch.key = scratch.parsed.tuple;
    scratch.key.phase = Phase::After as u8;
    let flow = tables.flow(&scratch.key)?;
    if !belongs(flow, scratch.parsed.flags) {
        return None;
    }
    follow(tables, &scratch.key, flow, scratch.parsed.flags);
    Some(flow)
}

/// Whether an entry may be forgotten at `tick`: idle for longer than its state allows.
#[inline(always)]
#[must_use]
pub fn sweep<A>(protocol: u8, flow: &Flow<A>, tick: u32) -> bool {
    // A clock that seems to go back (a packet was noted meanwhile) is no idleness.
    let idle = tick.wrapping_sub(flow.seen);
    idle < u32::MAX / 2 && idle > lifetime(protocol, State::from_number(flow.state))
}

/// A handshake never belongs to a flow that is closing.
#[inline(always)]
fn belongs<A>(flow: &Flow<A>, flags: u8) -> bool {
    flags & SYN == 0 || !State::from_number(flow.state).is_closing()
}

/// Notes a packet in both halves, once a tick or when the state changes.
#[inline(always)]
fn follow<F: Net, T: Tables<F>>(tables: &T, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>, flags: u8) {
    let state = State::from_number(flow.state);
    let next = next_state(
        state,
        key.protocol,
        flow.flags & Flow::<F::Addr>::REVERSE != 0,
        flags,
    );
    let tick = tables.tick();
    if next as u8 != flow.state || tick != flow.seen {
        note(tables, key, flow, tick, next);
    }
}

/// Writes tick and state into both halves; makes the other one anew if it was lost.
#[inline(never)]
fn note<F: Net, T: Tables<F>>(
    tables: &T,
    key: &Tuple<F::Addr>,
    flow: &Flow<F::Addr>,
    tick: u32,
    state: State,
) {
    tables.touch(key, tick, state);
    let twin_key = flow.to.reverse();
    if !tables.touch(&twin_key, tick, state) {
        let mut twin = Flow::default();
        mirror(key, flow, &mut twin);
        twin.seen = tick;
        twin.state = state as u8;
        tables.create(&twin_key, &twin);
        tables.count(Event::FlowRepaired);
    }
}

/// Removes both halves.
#[inline(always)]
pub(super) fn forget<F: Net, T: Tables<F>>(tables: &T, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>) {
    let twin_key = flow.to.reverse();
    tables.remove(key);
    tables.remove(&twin_key);
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
