//! Flows: found, opened, followed and forgotten.
//!
//! [`before`] runs in front of the routing decision and opens flows; [`after`] runs behind it and only
//! follows them. Both give back the entry to translate by, or the outcome without one.
//!
//! *Invariants*: the reverse half is inserted first and only where its key is free: who inserts it owns the
//! tuple. A forward half without its reverse half is never used for a new flow. A tuple that another flow
//! owns is left to it: the new flow gets another source port.

use crate::abi::{
    Action, Address, Backend, DeviceKind, Event, Flow, FrontendKey, FrontendKind, Kind, Node, Outcome, Phase,
    Protocol, Set, State, Tuple,
};

use super::{
    Choice, Client, Created, Net, Parsed, Scope, Tables, choose, client, flow_hash, lifetime, next_state,
    tcp_flag::{ACK, RST, SYN},
};

/// Source ports that are tried before a flow is given up.
const PORT_TRIES: u32 = 16;

/// Ticks that the tuple of a closed flow is left alone: its backend may still wait for the last acknowledgement, and
/// would not take a handshake for what it is.
const QUARANTINE: u32 = 2;
/// Slots that an unconfirmed flow may take.
const SLOT_WAYS: u32 = 4;
/// Hashes of neighbouring slots lie this far apart (2^32 divided by the golden ratio).
const SLOT_SPREAD: u32 = 0x9e37_79b9;

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
    let from_pod = matches!(arrival.kind, DeviceKind::Pod | DeviceKind::BridgePort);
    if from_pod && scratch.hairpin != 0 {
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
fn forget<F: Net, T: Tables<F>>(tables: &T, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>) {
    let twin_key = flow.to.reverse();
    tables.remove(key);
    tables.remove(&twin_key);
}

/// Makes the other half of `flow`, whose key is `key`.
#[inline(always)]
fn mirror<A: Copy>(key: &Tuple<A>, flow: &Flow<A>, twin: &mut Flow<A>) {
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
fn reverse<A: Copy>(of: &Tuple<A>, into: &mut Tuple<A>) {
    into.source = of.destination;
    into.destination = of.source;
    into.source_port = of.destination_port;
    into.destination_port = of.source_port;
    into.protocol = of.protocol;
    into.phase = of.phase;
    into.reserved = 0;
}

/// Fills in the reverse half of `scratch.flow`.
#[inline(always)]
fn set_twin<A: Copy>(scratch: &mut Scratch<A>) {
    let Scratch {
        key,
        flow,
        twin_key,
        twin,
        ..
    } = scratch;
    reverse(&flow.to, twin_key);
    mirror(key, flow, twin);
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

#[inline(always)]
const fn actions(own: Action, twin: Action) -> u8 {
    own as u8 | (twin as u8) << 4
}

/// The frontend a packet is addressed to: an exact one first, then a NodePort.
#[inline(always)]
fn frontend<F: Net, T: Tables<F>>(
    tables: &T,
    scratch: &mut Scratch<F::Addr>,
    address: Address,
    client: Client,
) -> Option<(u32, FrontendKind)> {
    let tuple = &scratch.parsed.tuple;
    scratch.frontend.address = tuple.destination;
    scratch.frontend.port = tuple.destination_port;
    scratch.frontend.protocol = tuple.protocol;
    let mut found = None;
    if address.has(Address::VIP) {
        found = tables.frontend(&scratch.frontend);
    }
    // Another node's NodePort is served at the source: for the clients of this node only.
    let elsewhere = address.has(Address::OTHER_NODE) && matches!(client, Client::Pod | Client::Node);
    if found.is_none() && (elsewhere || address.has(Address::NODE_PORTS)) {
        scratch.frontend.address = F::Addr::default();
        found = tables.frontend(&scratch.frontend);
    }
    found.map(|f| (f.service, FrontendKind::from_number(f.kind)))
}

/// Decides on a new flow: leaves its forward half in `scratch` if the outcome is one of forwarding.
#[inline(never)]
fn plan<F: Net, T: Tables<F>>(
    tables: &T,
    arrival: &Arrival,
    scratch: &mut Scratch<F::Addr>,
    address: Address,
) -> Outcome {
    let client = client(tables.source(&scratch.parsed.tuple.source), arrival.kind);
    let Some((service, kind)) = frontend(tables, scratch, address, client) else {
        return Outcome::PassedNoFrontend;
    };
    if client == Client::Spoofed {
        return Outcome::DroppedSpoofed;
    }
    // A frontend whose service is not there is about to be removed (or not complete yet).
    let Some(set) = tables.set(service) else {
        return Outcome::PassedNoFrontend;
    };
    let flags = scratch.parsed.flags;
    // Not even a refusal answers a RST (RFC 9293, section 3.10.7.1): two nodes would answer each other for ever.
    if flags & RST != 0 {
        return Outcome::DroppedUnknownFlow;
    }
    let (scope, table, rows) = match choose(kind, client, set) {
        Choice::Forward { scope, table, rows } => (scope, table, rows),
        Choice::Refuse(outcome) => return outcome,
    };
    let first = flags & (SYN | ACK) == SYN || scratch.parsed.tuple.protocol != Protocol::Tcp as u8;
    if !first {
        // Any node would have made the same choice; other choices cannot be known again.
        let common = client == Client::Outside && scope == Scope::Cluster && !set.has(Set::AFFINITY);
        if !common {
            return Outcome::RejectedUnknownFlow;
        }
    }
    let Some(node) = tables.node() else {
        return Outcome::DroppedInconsistent;
    };
    let hash = flow_hash::<F>(&scratch.parsed.tuple, node.seed);
    let Some(position) = tables.row(table, rows, hash) else {
        return Outcome::DroppedInconsistent;
    };
    let Some(backend) = tables.backend(set.backends.wrapping_add(position as u32)) else {
        return Outcome::DroppedInconsistent;
    };

    let tick = tables.tick();
    scratch.hash = hash;
    scratch.new_port = 0;
    scratch.hairpin = 0;
    scratch.key = scratch.parsed.tuple;
    scratch.flow.to = scratch.key;
    scratch.flow.to.destination = backend.address;
    scratch.flow.to.destination_port = backend.port;
    scratch.flow.to.phase = Phase::After as u8;
    scratch.flow.seen = tick;
    scratch.flow.created = tick;
    scratch.flow.device = 0;
    scratch.flow.twin_device = 0;
    // Also in the middle of a connection: anybody can send that, an answer proves it.
    scratch.flow.state = State::New as u8;
    scratch.flow.action = actions(Action::Stack, Action::Stack);
    scratch.flow.flags = 0;
    let here = backend.flags & Backend::<F::Addr>::LOCAL != 0;
    let host = backend.flags & Backend::<F::Addr>::HOST != 0;
    match arrival.kind {
        DeviceKind::Pod | DeviceKind::BridgePort => {
            // Back to the client itself: it must not see its own address as its peer.
            scratch.hairpin = (backend.address == scratch.key.source) as u16;
        }
        // To a socket of this node, from this node: received on `lo`.
        DeviceKind::Host | DeviceKind::Loopback if here && host => {
            scratch.flow.to.phase = Phase::Before as u8;
            if arrival.kind == DeviceKind::Host {
                scratch.flow.action = actions(Action::Receive, Action::Receive);
                scratch.flow.device = node.loopback;
                scratch.flow.twin_device = arrival.device;
            }
        }
        // Through the stack; its replies are undone behind the routing decision.
        DeviceKind::Uplink | DeviceKind::Tunnel | DeviceKind::Bridge if here => {}
        _ => {
            let outcome = around(tables, arrival, scratch, here);
            if outcome != Outcome::ForwardedNew {
                return outcome;
            }
        }
    }
    if first {
        Outcome::ForwardedNew
    } else {
        Outcome::ForwardedMidstream
    }
}

/// Around the stack, out of the device that the routes name.
#[inline(always)]
fn around<F: Net, T: Tables<F>>(
    tables: &T,
    arrival: &Arrival,
    scratch: &mut Scratch<F::Addr>,
    here: bool,
) -> Outcome {
    let Some(device) = tables.route(&scratch.flow.to) else {
        return Outcome::DroppedNoRoute;
    };
    let Some(out) = tables.device(device) else {
        return Outcome::DroppedNoRoute;
    };
    let from_node = matches!(arrival.kind, DeviceKind::Host | DeviceKind::Loopback);
    let back = if from_node {
        Action::Receive
    } else {
        Action::Neighbour
    };
    scratch.flow.to.phase = Phase::Before as u8;
    scratch.flow.action = actions(Action::Neighbour, back);
    scratch.flow.device = device;
    scratch.flow.twin_device = arrival.device;
    let tunnel = DeviceKind::from_number(out.kind) == DeviceKind::Tunnel;
    if !from_node || (tunnel && !here) {
        let source = F::snat(out);
        if source == F::Addr::default() {
            return Outcome::DroppedNoRoute;
        }
        scratch.flow.to.source = source;
        scratch.new_port = 1;
    }
    Outcome::ForwardedNew
}

/// Turns `scratch` to the second translation of a flow that goes back to its own client: its source becomes
/// this node's address behind the routing decision, so that the stack sees one tuple in both directions.
#[inline(never)]
fn turn<F: Net, T: Tables<F>>(tables: &T, arrival: &Arrival, scratch: &mut Scratch<F::Addr>) -> Outcome {
    scratch.first_key = scratch.key;
    scratch.first_flow = scratch.flow;
    let Some(device) = tables.device(arrival.device) else {
        return Outcome::DroppedNoRoute;
    };
    let source = F::snat(device);
    if source == F::Addr::default() {
        return Outcome::DroppedNoRoute;
    }
    scratch.key = scratch.flow.to;
    // Left by an earlier flow: its first translation is gone, else this one would have another port.
    if let Some(old) = tables.flow(&scratch.key) {
        forget(tables, &scratch.key, old);
    }
    scratch.flow.to.source = source;
    scratch.flow.to.phase = Phase::Before as u8;
    scratch.new_port = 1;
    Outcome::ForwardedNew
}

/// Turns `scratch` back to the first translation.
#[inline(always)]
fn turn_back<A: Copy>(scratch: &mut Scratch<A>) {
    scratch.key = scratch.first_key;
    scratch.flow = scratch.first_flow;
    scratch.new_port = 0;
}

/// The `n`-th source port to try. The steps differ from flow to flow: neighbours would fill whole stretches of
/// the range, in which all tries of a flow end, long before the range is full.
#[inline(always)]
fn port(node: &Node, hash: u32, n: u32) -> u16 {
    let span = (node.snat_last.wrapping_sub(node.snat_first) as u32).wrapping_add(1) & 0xffff;
    let span = if span == 0 { 1 } else { span };
    let step = hash >> 16 | 1;
    node.snat_first
        .wrapping_add((hash.wrapping_add(n.wrapping_mul(step)) % span) as u16)
}

/// Inserts both halves of `scratch.flow` under `scratch.key`. Unless the source port must be a new one, it is
/// kept if no other flow owns the tuple.
#[inline(never)]
fn install<F: Net, T: Tables<F>>(tables: &T, scratch: &mut Scratch<F::Addr>) -> Outcome {
    let Some(node) = tables.node() else {
        return Outcome::DroppedInconsistent;
    };
    let wanted = scratch.key.source_port;
    if scratch.new_port != 0 && (wanted < node.snat_first || wanted > node.snat_last) {
        scratch.flow.to.source_port = port(node, scratch.hash, 0);
    }
    set_twin(scratch);
    let mut created = Created::Exists;
    if !symmetric(scratch) {
        created = tables.create(&scratch.twin_key, &scratch.twin);
        if created == Created::Exists {
            created = match claim(tables, scratch) {
                Claim::Same => Created::Yes,
                Claim::Freed => tables.create(&scratch.twin_key, &scratch.twin),
                Claim::Foreign => Created::Exists,
            };
        }
    }
    // Another flow owns the tuple: another source port makes a tuple that none owns.
    let mut n = 1;
    while created == Created::Exists && n < PORT_TRIES {
        scratch.flow.to.source_port = port(node, scratch.hash, n);
        scratch.twin_key.destination_port = scratch.flow.to.source_port;
        if !symmetric(scratch) {
            created = tables.create(&scratch.twin_key, &scratch.twin);
        }
        n += 1;
    }
    match created {
        Created::Yes => {}
        Created::Exists => return Outcome::DroppedNoPort,
        Created::Full => return Outcome::DroppedFlowsFull,
    }
    match tables.create(&scratch.key, &scratch.flow) {
        Created::Yes => Outcome::ForwardedNew,
        Created::Full => {
            tables.remove(&scratch.twin_key);
            Outcome::DroppedFlowsFull
        }
        Created::Exists => match tables.flow(&scratch.key) {
            // Another CPU was first: its choice is the flow's.
            Some(first) => {
                if first.to != scratch.flow.to {
                    tables.remove(&scratch.twin_key);
                    scratch.flow = *first;
                }
                Outcome::ForwardedNew
            }
            None => Outcome::DroppedFlowsFull,
        },
    }
}

/// Equal ports would make the tuple of a flow to its own client its own reverse: behind the routing decision the
/// two directions could not be told apart.
#[inline(always)]
fn symmetric<A>(scratch: &Scratch<A>) -> bool {
    scratch.hairpin != 0 && scratch.flow.to.source_port == scratch.flow.to.destination_port
}

/// Who owns a reverse tuple that is taken.
enum Claim {
    /// This very flow: another CPU was first, or the forward half was lost.
    Same,
    /// Nobody any more.
    Freed,
    /// Another flow.
    Foreign,
}

#[inline(always)]
fn claim<F: Net, T: Tables<F>>(tables: &T, scratch: &Scratch<F::Addr>) -> Claim {
    let Some(other) = tables.flow(&scratch.twin_key) else {
        return Claim::Freed;
    };
    let idle = scratch.flow.seen.wrapping_sub(other.seen);
    let over = State::from_number(other.state) == State::Closed && idle >= QUARANTINE;
    if over || sweep(scratch.twin_key.protocol, other, scratch.flow.seen) {
        forget(tables, &scratch.twin_key, other);
        Claim::Freed
    } else if other.to == scratch.twin.to {
        Claim::Same
    } else {
        Claim::Foreign
    }
}

/// Takes a slot among the flows that nobody has confirmed yet: one that is free, of a few that its hash may
/// have. If none is, the flow in the first one is forgotten. So a flood of first packets displaces first packets,
/// never an established flow, and without a flood hardly anything is displaced.
#[inline(never)]
fn displace<F: Net, T: Tables<F>>(tables: &T, scratch: &mut Scratch<F::Addr>, hash: u32) {
    let mut way = 0;
    while way < SLOT_WAYS {
        let place = hash.wrapping_add(way.wrapping_mul(SLOT_SPREAD));
        tables.slot(place, &mut scratch.twin_key);
        if scratch.twin_key == scratch.key {
            return;
        }
        let taken = tables.flow(&scratch.twin_key).is_some_and(is_embryonic);
        if !taken {
            tables.take_slot(place, &scratch.key);
            return;
        }
        way += 1;
    }
    tables.slot(hash, &mut scratch.twin_key);
    tables.take_slot(hash, &scratch.key);
    if let Some(old) = tables.flow(&scratch.twin_key)
        && is_embryonic(old)
    {
        tables.count(Event::FlowDisplaced);
        forget(tables, &scratch.twin_key, old);
    }
}

#[inline(always)]
fn is_embryonic<A>(flow: &Flow<A>) -> bool {
    State::from_number(flow.state).is_embryonic()
}

#[cfg(test)]
mod tests;
