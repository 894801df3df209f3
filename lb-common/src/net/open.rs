//! Opening a flow: whom a packet is addressed to, who may use what, and how it gets there.
//!
//! [`plan`] decides on a new flow; [`pick`] makes its forward half in the scratch memory; [`direct`] says how it gets there and
//! back; [`turn`] makes the second
//! translation of a flow whose source has to change behind the routing decision. Nothing is inserted here: see `install`.

use core::hint::black_box;

use crate::abi::{
    Action, Address, Backend, DeviceKind, FrontendKind, Node, Outcome, Phase, Set, SourceClass, State,
};

use super::{
    Choice, Client, Net, Scope, Tables,
    affinity::NONE,
    choose, client, copy_tuple,
    flow::{Arrival, Scratch, forget},
    flow_hash,
    frontend::{frontend, is_first, is_own, lets_in, unserved},
    tcp_flag::RST,
};

/// Ports below are for privileged processes (RFC 6335, section 6: the system ports).
const PRIVILEGED: u16 = 1024;

#[inline(always)]
const fn actions(own: Action, twin: Action) -> u8 {
    own as u8 | (twin as u8) << 4
}

/// Decides on a new flow. If the outcome is [`Outcome::ForwardedNew`], `chosen` is the set that its backend is in, and
/// `scratch.scope` says which part of it.
///
/// What later steps need goes through `scratch` rather than registers: the verifier follows every combination of
/// what it knows of registers. And the steps are many small ones, one after the other, because of the stack.
#[inline(never)]
pub(super) fn plan<'a, F: Net, T: Tables<F>>(
    tables: &'a T,
    arrival: &Arrival,
    scratch: &mut Scratch<F::Addr>,
    address: Address,
    chosen: &mut Option<&'a Set>,
) -> Outcome {
    let class = tables.source(&scratch.parsed.tuple.source);
    let client = client(class, arrival.kind);
    let Some((service, kind)) = frontend(tables, scratch, address, arrival.kind, client) else {
        return unserved(tables, scratch, address);
    };
    if is_own(tables, scratch, address) {
        return Outcome::PassedOwnConnection;
    }
    if client == Client::Spoofed {
        return Outcome::DroppedSpoofed;
    }
    // A frontend whose service is not there is about to be removed (or not complete yet).
    let Some(set) = tables.set(service) else {
        return Outcome::PassedNoFrontend;
    };
    let flags = scratch.parsed.flags;
    let first = is_first(scratch.parsed.tuple.protocol, flags);
    // Whatever has become of the Service: who has opened the connection takes care of it, to its end.
    if !first
        && tables
            .node()
            .is_some_and(|node| node.flags & Node::LEAVES_TRACKED != 0)
    {
        return Outcome::PassedTracked;
    }
    // Not even a refusal answers a RST (RFC 9293, section 3.10.7.1): two nodes would answer each other for ever.
    if flags & RST != 0 {
        return Outcome::DroppedUnknownFlow;
    }
    if !lets_in(tables, scratch, set, kind) {
        return Outcome::DroppedSourceRange;
    }
    let scope = match choose(kind, client, set) {
        Choice::Forward { scope, .. } => scope,
        Choice::Refuse(outcome) => return outcome,
    };
    if !first {
        // Any node would have made the same choice; other choices cannot be known again.
        let common = client == Client::Outside && scope == Scope::Cluster && !set.has(Set::AFFINITY);
        if !common {
            return Outcome::RejectedUnknownFlow;
        }
    }
    scratch.scope = scope as u16;
    scratch.source_class = class as u16;
    scratch.frontend_kind = kind as u16;
    scratch.midstream = !first as u16;
    *chosen = Some(set);
    Outcome::ForwardedNew
}

/// Chooses the backend, unless the client has one already, and makes the forward half of the flow, as if the stack
/// routed it both ways.
#[inline(never)]
pub(super) fn pick<F: Net, T: Tables<F>>(tables: &T, scratch: &mut Scratch<F::Addr>, set: &Set) -> Outcome {
    let Some(node) = tables.node() else {
        return Outcome::DroppedInconsistent;
    };
    scratch.hash = flow_hash::<F>(&scratch.parsed.tuple, node.seed);
    if !set.has(Set::AFFINITY) {
        scratch.row_hash = scratch.hash;
        scratch.position = NONE;
    }
    let (table, rows) = if scratch.scope == Scope::Local as u16 {
        (set.local_table, set.local_rows)
    } else {
        (set.cluster_table, set.cluster_rows)
    };
    if scratch.position == NONE {
        let Some(row) = tables.row(table, rows, scratch.row_hash) else {
            return Outcome::DroppedInconsistent;
        };
        scratch.new_choice = 1;
        scratch.position = row as u32;
    } else {
        scratch.new_choice = 0;
    }
    let Some(backend) = tables.backend(set.backends.wrapping_add(scratch.position)) else {
        return Outcome::DroppedInconsistent;
    };

    let tick = tables.tick();
    scratch.backend = backend.flags;
    scratch.new_port = 0;
    scratch.hairpin = 0;
    scratch.second = 0;
    copy_tuple::<F>(&scratch.parsed.tuple, &mut scratch.key);
    copy_tuple::<F>(&scratch.parsed.tuple, &mut scratch.flow.to);
    scratch.flow.to.destination = F::copied(&backend.address);
    scratch.flow.to.destination_port = backend.port;
    scratch.flow.to.phase = Phase::After as u8;
    scratch.flow.seen = tick;
    scratch.flow.created = tick;
    // As many zeros together would become a call of `memset`, see `copy`.
    let none = black_box(0);
    scratch.flow.device = none;
    scratch.flow.twin_device = none;
    // Also in the middle of a connection: anybody can send that, an answer proves it.
    scratch.flow.state = State::New as u8;
    scratch.flow.action = actions(Action::Stack, Action::Stack);
    scratch.flow.flags = 0;
    Outcome::ForwardedNew
}

/// Says how the flow in `scratch` gets to its backend and back.
#[inline(never)]
pub(super) fn direct<F: Net, T: Tables<F>>(
    tables: &T,
    arrival: &Arrival,
    scratch: &mut Scratch<F::Addr>,
) -> Outcome {
    let Some(node) = tables.node() else {
        return Outcome::DroppedInconsistent;
    };
    let here = scratch.backend & Backend::<F::Addr>::LOCAL != 0;
    let host = scratch.backend & Backend::<F::Addr>::HOST != 0;
    let cluster_ip = scratch.frontend_kind == FrontendKind::ClusterIp as u16;
    if cluster_ip && node.flags & Node::MASQUERADE_ALL != 0 {
        let from_here = matches!(arrival.kind, DeviceKind::Host | DeviceKind::Loopback);
        if here && host && !from_here {
            return as_this_node(tables, arrival, scratch, node.loopback);
        }
        scratch.second = !(here && host) as u16;
    }
    match arrival.kind {
        DeviceKind::Pod | DeviceKind::BridgePort => {
            // Back to the client itself: it must not see its own address as its peer.
            if scratch.flow.to.destination == scratch.key.source {
                scratch.hairpin = 1;
                scratch.second = 1;
            }
            Outcome::ForwardedNew
        }
        // To a socket of this node, from this node: received on `lo`.
        DeviceKind::Host | DeviceKind::Loopback if here && host => {
            scratch.flow.to.phase = Phase::Before as u8;
            if arrival.kind == DeviceKind::Host {
                scratch.flow.action = actions(Action::Receive, Action::Receive);
                scratch.flow.device = node.loopback;
                scratch.flow.twin_device = arrival.device;
            }
            Outcome::ForwardedNew
        }
        DeviceKind::Host | DeviceKind::Loopback => {
            // A loopback address, or a Service address that is this node's too: the reply would not come back.
            if scratch.source_class != SourceClass::Node as u16 {
                scratch.new_port = 1;
            } else if let Some(source) = tables.address(&scratch.key.source)
                && source.has(Address::VIP)
            {
                scratch.new_port = 1;
            }
            let outcome = around(tables, arrival, scratch);
            // Its port may be another connection's of this node to the same backend, which passes no program of ours, or
            // one that the stack masquerades. (A port that only root may use is asked for by servers.)
            if scratch.key.source_port >= PRIVILEGED {
                scratch.new_port = 1;
            }
            outcome
        }
        // Through the stack; its replies are undone behind the routing decision.
        DeviceKind::Uplink | DeviceKind::Tunnel | DeviceKind::Bridge if here => Outcome::ForwardedNew,
        // Anybody could be a pod, and a pod's source is kept, but for one that comes back to itself. Where the reply goes
        // then is up to the network.
        DeviceKind::Uplink | DeviceKind::Tunnel | DeviceKind::Bridge
            if cluster_ip
                && scratch.flow.to.destination != scratch.key.source
                && node.flags & (Node::MASQUERADE_ALL | Node::PODS_UNKNOWN) == Node::PODS_UNKNOWN =>
        {
            Outcome::ForwardedNew
        }
        DeviceKind::Uplink | DeviceKind::Tunnel | DeviceKind::Bridge => {
            scratch.new_port = 1;
            around(tables, arrival, scratch)
        }
    }
}

/// Masqueraded, to a socket of this node: what the stack gives to that passes no other program of ours, so both ends
/// change at once. A packet from this node's own address is received on `lo` only.
#[inline(always)]
fn as_this_node<F: Net, T: Tables<F>>(
    tables: &T,
    arrival: &Arrival,
    scratch: &mut Scratch<F::Addr>,
    loopback: u32,
) -> Outcome {
    let Some(device) = tables.device(arrival.device) else {
        return Outcome::DroppedNoRoute;
    };
    let source = F::snat(device);
    if source == F::Addr::default() {
        return Outcome::DroppedNoRoute;
    }
    scratch.flow.to.source = source;
    scratch.flow.to.phase = Phase::Before as u8;
    scratch.flow.action = actions(Action::Receive, Action::Neighbour);
    scratch.flow.device = loopback;
    scratch.flow.twin_device = arrival.device;
    scratch.new_port = 1;
    Outcome::ForwardedNew
}

/// Around the stack, out of the device that the routes name. If the source port is to be a new one, so is the source.
#[inline(always)]
fn around<F: Net, T: Tables<F>>(tables: &T, arrival: &Arrival, scratch: &mut Scratch<F::Addr>) -> Outcome {
    let Some(device) = tables.route(&scratch.flow.to) else {
        return Outcome::DroppedNoRoute;
    };
    let Some(out) = tables.device(device) else {
        return Outcome::DroppedNoRoute;
    };
    let back = if matches!(arrival.kind, DeviceKind::Host | DeviceKind::Loopback) {
        Action::Receive
    } else {
        Action::Neighbour
    };
    scratch.second = 0;
    scratch.flow.to.phase = Phase::Before as u8;
    scratch.flow.action = actions(Action::Neighbour, back);
    scratch.flow.device = device;
    scratch.flow.twin_device = arrival.device;
    let tunnel = DeviceKind::from_number(out.kind) == DeviceKind::Tunnel;
    if tunnel && scratch.backend & Backend::<F::Addr>::LOCAL == 0 {
        scratch.new_port = 1;
    }
    if scratch.new_port != 0 {
        let source = F::snat(out);
        if source == F::Addr::default() {
            return Outcome::DroppedNoRoute;
        }
        scratch.flow.to.source = source;
    }
    Outcome::ForwardedNew
}

/// Turns `scratch` to the second translation of a flow whose source has to change although the stack routes it (back
/// to its own client, or masqueraded): it becomes this node's address behind the routing decision, so that the
/// stack sees one tuple in both directions.
#[inline(never)]
pub(super) fn turn<F: Net, T: Tables<F>>(
    tables: &T,
    arrival: &Arrival,
    scratch: &mut Scratch<F::Addr>,
) -> Outcome {
    scratch.first_key = scratch.key;
    scratch.first_flow = scratch.flow;
    let way = if scratch.hairpin != 0 {
        Some(arrival.device)
    } else {
        tables.route(&scratch.flow.to)
    };
    let Some(device) = way.and_then(|way| tables.device(way)) else {
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
pub(super) fn turn_back<A: Copy>(scratch: &mut Scratch<A>) {
    scratch.key = scratch.first_key;
    scratch.flow = scratch.first_flow;
    scratch.new_port = 0;
}
