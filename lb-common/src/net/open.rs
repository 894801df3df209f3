//! Opening a flow: whom a packet is addressed to, who may use what, and how it gets there.
//!
//! [`plan`] decides on a new flow and leaves its forward half in the scratch memory; [`turn`] makes the second
//! translation of a flow whose source has to change behind the routing decision. Nothing is inserted here: see `install`.

use crate::abi::{
    Action, Address, Backend, DeviceKind, FrontendKind, Node, Outcome, Phase, Set, SourceClass, State,
};

use super::{
    Choice, Client, Net, Scope, Tables,
    affinity::{NONE, keep, recall},
    choose, client,
    flow::{Arrival, Scratch, forget},
    flow_hash,
    frontend::{frontend, is_first, is_own, lets_in, unserved},
    tcp_flag::RST,
};

#[inline(always)]
const fn actions(own: Action, twin: Action) -> u8 {
    own as u8 | (twin as u8) << 4
}

/// Decides on a new flow: leaves its forward half in `scratch` if the outcome is one of forwarding.
#[inline(never)]
pub(super) fn plan<F: Net, T: Tables<F>>(
    tables: &T,
    arrival: &Arrival,
    scratch: &mut Scratch<F::Addr>,
    address: Address,
) -> Outcome {
    let class = tables.source(&scratch.parsed.tuple.source);
    let client = client(class, arrival.kind);
    let flags = scratch.parsed.flags;
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
    // Not even a refusal answers a RST (RFC 9293, section 3.10.7.1): two nodes would answer each other for ever.
    if flags & RST != 0 {
        return Outcome::DroppedUnknownFlow;
    }
    if !lets_in(tables, scratch, set, kind) {
        return Outcome::DroppedSourceRange;
    }
    let (scope, table, rows) = match choose(kind, client, set) {
        Choice::Forward { scope, table, rows } => (scope, table, rows),
        Choice::Refuse(outcome) => return outcome,
    };
    let first = is_first(scratch.parsed.tuple.protocol, flags);
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
    let (mut position, mut row_hash) = (NONE, hash);
    if set.has(Set::AFFINITY) {
        position = recall(tables, scratch, set, scope, node.seed);
        row_hash = scratch.hash_of_client;
    }
    let is_new_choice = position == NONE;
    if is_new_choice {
        let Some(row) = tables.row(table, rows, row_hash) else {
            return Outcome::DroppedInconsistent;
        };
        position = row as u32;
    }
    let Some(backend) = tables.backend(set.backends.wrapping_add(position)) else {
        return Outcome::DroppedInconsistent;
    };

    let tick = tables.tick();
    scratch.hash = hash;
    scratch.new_port = 0;
    scratch.hairpin = 0;
    scratch.second = 0;
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
    if set.has(Set::AFFINITY) && is_new_choice {
        keep(tables, scratch, set);
    }
    let here = backend.flags & Backend::<F::Addr>::LOCAL != 0;
    let host = backend.flags & Backend::<F::Addr>::HOST != 0;
    // What the stack gives to a process of this node does not pass another program of ours.
    let masquerade =
        matches!(kind, FrontendKind::ClusterIp) && node.flags & Node::MASQUERADE_ALL != 0 && !(here && host);
    match arrival.kind {
        DeviceKind::Pod | DeviceKind::BridgePort => {
            // Back to the client itself: it must not see its own address as its peer.
            scratch.hairpin = (backend.address == scratch.key.source) as u16;
            scratch.second = scratch.hairpin | masquerade as u16;
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
        DeviceKind::Uplink | DeviceKind::Tunnel | DeviceKind::Bridge if here => {
            scratch.second = masquerade as u16;
        }
        // Anybody could be a pod, and a pod's source is kept. Where the reply goes then is up to the network.
        DeviceKind::Uplink | DeviceKind::Tunnel | DeviceKind::Bridge
            if matches!(kind, FrontendKind::ClusterIp)
                && node.flags & (Node::MASQUERADE_ALL | Node::PODS_UNKNOWN) == Node::PODS_UNKNOWN => {}
        DeviceKind::Host | DeviceKind::Loopback => {
            // A loopback address, or a Service address that is this node's too: the reply would not come back.
            let source = tables.address(&scratch.key.source);
            let foreign = !matches!(class, SourceClass::Node) || source.is_some_and(|a| a.has(Address::VIP));
            let outcome = around(tables, arrival, scratch, here, foreign);
            if outcome != Outcome::ForwardedNew {
                return outcome;
            }
        }
        _ => {
            let outcome = around(tables, arrival, scratch, here, true);
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

/// Around the stack, out of the device that the routes name. `foreign`: the source is not to be seen by the backend.
#[inline(always)]
fn around<F: Net, T: Tables<F>>(
    tables: &T,
    arrival: &Arrival,
    scratch: &mut Scratch<F::Addr>,
    here: bool,
    foreign: bool,
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
    if foreign || (tunnel && !here) {
        let source = F::snat(out);
        if source == F::Addr::default() {
            return Outcome::DroppedNoRoute;
        }
        scratch.flow.to.source = source;
        scratch.new_port = 1;
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
