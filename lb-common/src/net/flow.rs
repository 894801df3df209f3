//! Flows: found, opened, followed and forgotten.
//!
//! [`before`] runs in front of the routing decision and opens flows; [`after`] runs behind it and only
//! follows them. Both give back the entry to translate by, or the outcome without one.
//!
//! *Invariants*: the reverse half is inserted first and only where its key is free: who inserts it owns the
//! tuple. A forward half without its reverse half is never used for a new flow. A tuple that another flow
//! owns is left to it: the new flow gets another source port.

use crate::abi::{
    Action, Address, DeviceKind, Flow, FrontendKey, FrontendKind, Node, Outcome, Phase, Protocol, Set, State,
    Tuple,
};

use super::{
    Choice, Client, Created, Net, Parsed, Scope, Tables, choose, client, flow_hash, lifetime, next_state,
    tcp_flag::{ACK, RST, SYN},
};

/// Source ports that are tried before a flow is given up.
const PORT_TRIES: u32 = 16;

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
    /// Key of the forward half.
    pub key: Tuple<A>,
    /// The forward half.
    pub flow: Flow<A>,
    /// Key of the reverse half.
    pub twin_key: Tuple<A>,
    /// The reverse half.
    pub twin: Flow<A>,
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

/// A packet in front of the routing decision.
#[inline(always)]
pub fn before<'a, F: Net, T: Tables<F>>(
    tables: &'a T,
    parsed: &Parsed<F::Addr>,
    arrival: &Arrival,
    scratch: &'a mut Scratch<F::Addr>,
) -> Before<'a, F::Addr> {
    let Some(address) = tables.address(&parsed.tuple.destination) else {
        return Before::Leave(Outcome::PassedNotOurs);
    };
    if let Some(flow) = tables.flow(&parsed.tuple) {
        if belongs(flow, parsed) {
            follow(tables, &parsed.tuple, flow, parsed.flags);
            return Before::Translate(flow, Outcome::ForwardedFlow);
        }
        if flow.flags & Flow::<F::Addr>::REVERSE != 0 {
            return Before::Leave(Outcome::PassedNotOurs);
        }
        forget(tables, &parsed.tuple, flow);
    }
    let outcome = open(tables, parsed, arrival, scratch, address);
    match outcome {
        Outcome::ForwardedNew | Outcome::ForwardedMidstream => Before::Translate(&scratch.flow, outcome),
        _ => Before::Leave(outcome),
    }
}

/// A packet behind the routing decision.
#[inline(always)]
pub fn after<'a, F: Net, T: Tables<F>>(tables: &'a T, parsed: &Parsed<F::Addr>) -> After<'a, F::Addr> {
    let key = Tuple { phase: Phase::After as u8, ..parsed.tuple };
    let flow = tables.flow(&key)?;
    if !belongs(flow, parsed) {
        return None;
    }
    follow(tables, &key, flow, parsed.flags);
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
fn belongs<A>(flow: &Flow<A>, parsed: &Parsed<A>) -> bool {
    parsed.flags & SYN == 0 || !State::from_number(flow.state).is_closing()
}

/// Notes a packet in both halves, once a tick or when the state changes.
#[inline(always)]
fn follow<F: Net, T: Tables<F>>(tables: &T, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>, flags: u8) {
    let state = State::from_number(flow.state);
    let next = next_state(state, key.protocol, flow.flags & Flow::<F::Addr>::REVERSE != 0, flags);
    let tick = tables.tick();
    if next as u8 != flow.state || tick != flow.seen {
        note(tables, key, flow, tick, next);
    }
}

/// Writes tick and state into both halves; makes the other one anew if it was lost.
#[inline(never)]
fn note<F: Net, T: Tables<F>>(tables: &T, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>, tick: u32, state: State) {
    tables.touch(key, tick, state);
    let twin_key = flow.to.reverse();
    if !tables.touch(&twin_key, tick, state) {
        let mut twin = mirror(key, flow);
        twin.seen = tick;
        twin.state = state as u8;
        tables.create(&twin_key, &twin);
    }
}

/// Removes both halves.
#[inline(always)]
fn forget<F: Net, T: Tables<F>>(tables: &T, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>) {
    let twin_key = flow.to.reverse();
    tables.remove(key);
    tables.remove(&twin_key);
}

/// The other half of a flow.
#[inline(always)]
fn mirror<A: Copy>(key: &Tuple<A>, flow: &Flow<A>) -> Flow<A> {
    Flow {
        to: key.reverse(),
        seen: flow.seen,
        created: flow.created,
        device: flow.twin_device,
        twin_device: flow.device,
        state: flow.state,
        action: flow.action.rotate_left(4),
        flags: flow.flags ^ Flow::<A>::REVERSE,
    }
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
    tuple: &Tuple<F::Addr>,
    address: Address,
    client: Client,
) -> Option<(u32, FrontendKind)> {
    let mut key = FrontendKey {
        address: tuple.destination,
        port: tuple.destination_port,
        protocol: tuple.protocol,
        reserved: 0,
    };
    let mut found = None;
    if address.has(Address::VIP) {
        found = tables.frontend(&key);
    }
    // Another node's NodePort is served at the source: for the clients of this node only.
    let elsewhere = address.has(Address::OTHER_NODE) && matches!(client, Client::Pod | Client::Node);
    if found.is_none() && (elsewhere || address.has(Address::NODE_PORTS)) {
        key.address = F::Addr::default();
        found = tables.frontend(&key);
    }
    found.map(|f| (f.service, FrontendKind::from_number(f.kind)))
}

/// Opens a flow: leaves its forward half in `scratch.flow` if the outcome is one of forwarding.
#[inline(never)]
fn open<F: Net, T: Tables<F>>(
    tables: &T,
    parsed: &Parsed<F::Addr>,
    arrival: &Arrival,
    scratch: &mut Scratch<F::Addr>,
    address: Address,
) -> Outcome {
    let tuple = &parsed.tuple;
    let client = client(tables.source(&tuple.source), arrival.kind);
    let Some((service, kind)) = frontend(tables, tuple, address, client) else {
        return Outcome::PassedNoFrontend;
    };
    if client == Client::Spoofed {
        return Outcome::DroppedSpoofed;
    }
    // A frontend whose service is not there is about to be removed (or not complete yet).
    let Some(set) = tables.set(service) else { return Outcome::PassedNoFrontend };
    let (scope, table, rows) = match choose(kind, client, set) {
        Choice::Forward { scope, table, rows } => (scope, table, rows),
        Choice::Refuse(outcome) => return outcome,
    };
    let first = parsed.flags & (SYN | ACK | RST) == SYN || tuple.protocol != Protocol::Tcp as u8;
    if !first {
        if parsed.flags & RST != 0 {
            return Outcome::DroppedUnknownFlow;
        }
        // Any node would have made the same choice; other choices cannot be known again.
        let common = client == Client::Outside && scope == Scope::Cluster && !set.has(Set::AFFINITY);
        if !common {
            return Outcome::RejectedUnknownFlow;
        }
    }
    let Some(node) = tables.node() else { return Outcome::DroppedInconsistent };
    let hash = flow_hash::<F>(tuple, node.seed);
    let Some(position) = tables.row(table, rows, hash) else { return Outcome::DroppedInconsistent };
    let Some(backend) = tables.backend(set.backends.wrapping_add(position as u32)) else {
        return Outcome::DroppedInconsistent;
    };

    let tick = tables.tick();
    let state = if first { State::New } else { State::Established };
    scratch.key = *tuple;
    scratch.flow = Flow {
        to: Tuple {
            destination: backend.address,
            destination_port: backend.port,
            phase: Phase::After as u8,
            ..*tuple
        },
        seen: tick,
        created: tick,
        device: 0,
        twin_device: 0,
        state: state as u8,
        action: actions(Action::Stack, Action::Stack),
        flags: 0,
    };
    let here = backend.flags & crate::abi::Backend::<F::Addr>::LOCAL != 0;
    let host = backend.flags & crate::abi::Backend::<F::Addr>::HOST != 0;
    let mut new_port = false;
    let way = match arrival.kind {
        // Back to the client itself: it must not see its own address as its peer.
        DeviceKind::Pod | DeviceKind::BridgePort if backend.address == tuple.source => {
            let outcome = hairpin(tables, arrival, scratch, hash, node);
            if outcome != Outcome::ForwardedNew {
                return outcome;
            }
            Way::Stack
        }
        DeviceKind::Pod | DeviceKind::BridgePort => Way::Stack,
        DeviceKind::Host | DeviceKind::Loopback if here && host => Way::Loopback,
        DeviceKind::Host | DeviceKind::Loopback => Way::Around,
        _ if here => Way::Stack,
        _ => Way::Around,
    };
    match way {
        Way::Stack => {}
        Way::Loopback => {
            scratch.flow.to.phase = Phase::Before as u8;
            if arrival.kind == DeviceKind::Host {
                scratch.flow.action = actions(Action::Receive, Action::Receive);
                scratch.flow.device = node.loopback;
                scratch.flow.twin_device = arrival.device;
            }
        }
        Way::Around => {
            let Some(device) = tables.route(&scratch.flow.to) else { return Outcome::DroppedNoRoute };
            let from_node = matches!(arrival.kind, DeviceKind::Host | DeviceKind::Loopback);
            let back = if from_node { Action::Receive } else { Action::Neighbour };
            scratch.flow.to.phase = Phase::Before as u8;
            scratch.flow.action = actions(Action::Neighbour, back);
            scratch.flow.device = device;
            scratch.flow.twin_device = arrival.device;
            let Some(out) = tables.device(device) else { return Outcome::DroppedNoRoute };
            let tunnel = DeviceKind::from_number(out.kind) == DeviceKind::Tunnel;
            if !from_node || (tunnel && !here) {
                let source = F::snat(out);
                if source == F::Addr::default() {
                    return Outcome::DroppedNoRoute;
                }
                scratch.flow.to.source = source;
                new_port = true;
            }
        }
    }
    let outcome = install(tables, scratch, hash, node, new_port);
    if outcome != Outcome::ForwardedNew {
        return outcome;
    }
    if first {
        displace(tables, scratch, hash);
        Outcome::ForwardedNew
    } else {
        Outcome::ForwardedMidstream
    }
}

/// How a new flow reaches its backend.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The stack routes it; its replies are undone behind the routing decision.
    Stack,
    /// To a socket of this node, from this node: received on `lo`.
    Loopback,
    /// Around the stack, out of the device that the routes name.
    Around,
}

/// The second translation of a flow that goes back to its own client: its source becomes this node's
/// address behind the routing decision, so that the stack sees one tuple in both directions.
#[inline(always)]
fn hairpin<F: Net, T: Tables<F>>(
    tables: &T,
    arrival: &Arrival,
    scratch: &mut Scratch<F::Addr>,
    hash: u32,
    node: &Node,
) -> Outcome {
    let Some(device) = tables.device(arrival.device) else { return Outcome::DroppedNoRoute };
    let source = F::snat(device);
    if source == F::Addr::default() {
        return Outcome::DroppedNoRoute;
    }
    let (key, flow) = (scratch.key, scratch.flow);
    // Equal ports would make the stack's tuple its own reverse: behind the routing decision the two
    // directions could not be told apart.
    let same = flow.to.source_port == flow.to.destination_port;
    scratch.key = flow.to;
    if same {
        scratch.key.source_port = port(node, hash, 0);
    }
    scratch.flow.to = Tuple { source, phase: Phase::Before as u8, ..scratch.key };
    let between = scratch.key.source_port;
    let outcome = install(tables, scratch, hash, node, true);
    scratch.key = key;
    scratch.flow = flow;
    scratch.flow.to.source_port = between;
    outcome
}

/// The `n`-th source port to try.
#[inline(always)]
fn port(node: &Node, hash: u32, n: u32) -> u16 {
    let span = (node.snat_last.wrapping_sub(node.snat_first) as u32).wrapping_add(1) & 0xffff;
    let span = if span == 0 { 1 } else { span };
    node.snat_first.wrapping_add((hash.wrapping_add(n) % span) as u16)
}

/// Inserts both halves of `scratch.flow` under `scratch.key`. `new_port`: the source port must come from the
/// reserved range; otherwise it is kept unless another flow owns the tuple.
#[inline(never)]
fn install<F: Net, T: Tables<F>>(
    tables: &T,
    scratch: &mut Scratch<F::Addr>,
    hash: u32,
    node: &Node,
    new_port: bool,
) -> Outcome {
    let wanted = scratch.key.source_port;
    if new_port && (wanted < node.snat_first || wanted > node.snat_last) {
        scratch.flow.to.source_port = port(node, hash, 0);
    }
    let mut owned = false;
    let mut n = 1;
    while n <= PORT_TRIES {
        scratch.twin_key = scratch.flow.to.reverse();
        scratch.twin = mirror(&scratch.key, &scratch.flow);
        match tables.create(&scratch.twin_key, &scratch.twin) {
            Created::Yes => {
                owned = true;
                break;
            }
            Created::Full => return Outcome::DroppedFlowsFull,
            Created::Exists => {}
        }
        if let Some(other) = tables.flow(&scratch.twin_key) {
            let state = State::from_number(other.state);
            if state == State::Closed || sweep(scratch.twin_key.protocol, other, scratch.flow.seen) {
                // Its owner is gone: the tuple is free.
                forget(tables, &scratch.twin_key, other);
                n += 1;
                continue;
            }
            if other.to == scratch.twin.to {
                // The same flow: another CPU was first, or its forward half was lost.
                owned = true;
                break;
            }
        }
        scratch.flow.to.source_port = port(node, hash, n);
        n += 1;
    }
    if !owned {
        return Outcome::DroppedNoPort;
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

/// Takes a slot among the flows that nobody has confirmed yet; who had it before is forgotten if it is still
/// unconfirmed. So a flood of first packets displaces first packets, and never an established flow.
#[inline(always)]
fn displace<F: Net, T: Tables<F>>(tables: &T, scratch: &mut Scratch<F::Addr>, hash: u32) {
    scratch.twin_key = tables.displace(hash, &scratch.key);
    if scratch.twin_key == scratch.key {
        return;
    }
    if let Some(old) = tables.flow(&scratch.twin_key)
        && State::from_number(old.state).is_embryonic()
    {
        forget(tables, &scratch.twin_key, old);
    }
}
