//! Inserting a flow: who owns a tuple, which source port is free, and which unconfirmed flow makes room.

use crate::abi::{Flow, Node, Outcome, Protocol, SourceClass, State};

use super::{
    Created, Net, Tables, copy_flow,
    flow::{Scratch, forget, mirror, reverse, sweep},
    hash::finish,
};

/// Source ports that are tried before a flow is given up: of a range that is full but for a twentieth, all but one
/// flow in seven hundred get one.
const PORT_TRIES: u32 = 128;

/// What lies between the hashes of two tries (2^32 divided by the golden ratio).
const PORT_SPREAD: u32 = 0x9e37_79b9;

/// So many tries want a port that nobody has. After them the range is crowded, and what is over, or nearly, makes room.
const FREE_TRIES: u32 = 32;

/// Ticks that the tuple of a closed flow is left alone: its backend may still wait for the last acknowledgement, and
/// would not take a handshake for what it is.
const QUARANTINE: u32 = 2;

/// Ticks after which one question and its answer are taken to be all there was, if the range is crowded.
const ONE_SHOT: u32 = 5;

/// Slots that an unconfirmed flow may take.
const SLOT_WAYS: u32 = 4;
/// Hashes of neighbouring slots lie this far apart (2^32 divided by the golden ratio). Even: a hash and its complement,
/// by which the two translations of a flow to its own client go, then never have a slot in common, and neither
/// displaces the other.
const SLOT_SPREAD: u32 = 0x9e37_79b8;

/// Ports for a flow that keeps its source address and cannot keep its port: below what hosts give to their own
/// connections, and below NodePorts. Not the node's range for SNAT: the stack may masquerade such a flow, and keeps its
/// port if it can. That port under this node's address would be one of ours.
pub const KEPT_ADDRESS_PORTS: [u16; 2] = [16_384, 29_999];

/// The `n`-th source port to try: anywhere in the range. Flows that went the same steps would fill whole stretches of
/// it, in which all tries of a flow end, long before the range is full; and any fixed step is bad for some size of it.
#[inline(always)]
fn port<A>(node: &Node, scratch: &Scratch<A>, n: u32) -> u16 {
    let of_this_node = scratch.new_port != 0 || scratch.source_class == SourceClass::Node as u16;
    let [first, last] = if of_this_node {
        [node.snat_first, node.snat_last]
    } else {
        KEPT_ADDRESS_PORTS
    };
    // Both may be about to change, one after the other.
    let span = last.saturating_sub(first) as u32 + 1;
    let place = finish(scratch.hash.wrapping_add(n.wrapping_mul(PORT_SPREAD)));
    first.wrapping_add(((place as u64 * span as u64) >> 32) as u16)
}

/// Inserts both halves of `scratch.flow` under `scratch.key`. Unless the source port must be a new one, it is
/// kept if no other flow owns the tuple.
#[inline(never)]
pub(super) fn install<F: Net, T: Tables<F>>(tables: &T, scratch: &mut Scratch<F::Addr>) -> Outcome {
    let Some(node) = tables.node() else {
        return Outcome::DroppedInconsistent;
    };
    let wanted = scratch.key.source_port;
    if scratch.new_port != 0 && (wanted < node.snat_first || wanted > node.snat_last) {
        scratch.flow.to.source_port = port(node, scratch, 0);
    }
    set_twin(scratch);
    let mut created = Created::Exists;
    tables.search(PORT_TRIES, |n| {
        created = attempt(tables, node, scratch, n);
        created != Created::Exists
    });
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
                    copy_flow::<F>(first, &mut scratch.flow);
                }
                Outcome::ForwardedNew
            }
            None => Outcome::DroppedFlowsFull,
        },
    }
}

/// Tries to make the reverse half `scratch.twin` the owner of its tuple: as it is the first time, later by another
/// source port, which makes another tuple.
#[inline(always)]
fn attempt<F: Net, T: Tables<F>>(tables: &T, node: &Node, scratch: &mut Scratch<F::Addr>, n: u32) -> Created {
    if n != 0 {
        scratch.flow.to.source_port = port(node, scratch, n);
        scratch.twin_key.destination_port = scratch.flow.to.source_port;
    }
    if symmetric(scratch) {
        return Created::Exists;
    }
    // Mostly nobody has it: asked by trying.
    match tables.create(&scratch.twin_key, &scratch.twin) {
        Created::Exists => {}
        done => return done,
    }
    match claim(tables, scratch, n) {
        Claim::Same => Created::Yes,
        Claim::Free => tables.create(&scratch.twin_key, &scratch.twin),
        Claim::Foreign => Created::Exists,
    }
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

/// Equal ports would make the tuple of a flow to its own client its own reverse: behind the routing decision the
/// two directions could not be told apart.
#[inline(always)]
fn symmetric<A>(scratch: &Scratch<A>) -> bool {
    scratch.hairpin != 0 && scratch.flow.to.source_port == scratch.flow.to.destination_port
}

/// Who owns a reverse tuple.
enum Claim {
    /// This very flow: another CPU was first, or the forward half was lost.
    Same,
    /// Nobody, or nobody any more.
    Free,
    /// Another flow.
    Foreign,
}

#[inline(always)]
fn claim<F: Net, T: Tables<F>>(tables: &T, scratch: &Scratch<F::Addr>, n: u32) -> Claim {
    let Some(other) = tables.flow(&scratch.twin_key) else {
        return Claim::Free;
    };
    let tick = scratch.flow.seen;
    if !is_over(scratch.key.protocol, other, tick, n) {
        return if other.to == scratch.twin.to {
            Claim::Same
        } else {
            Claim::Foreign
        };
    }
    // The halves tell each other of packets only so often: both must agree.
    let forward = other.to.reverse();
    if let Some(first) = tables.flow(&forward)
        && first.to == scratch.twin_key.reverse()
    {
        if !is_over(scratch.key.protocol, first, tick, n) {
            return Claim::Foreign;
        }
        tables.remove(&forward);
    }
    tables.remove(&scratch.twin_key);
    Claim::Free
}

/// Whether a flow gives up its tuple to a new one that has tried `n` others.
#[inline(always)]
fn is_over<A>(protocol: u8, flow: &Flow<A>, tick: u32, n: u32) -> bool {
    if sweep(protocol, flow, tick) {
        return true;
    }
    let idle = tick.wrapping_sub(flow.seen);
    // A clock that seems to go back is no idleness.
    if idle > u32::MAX / 2 {
        return false;
    }
    match State::from_number(flow.state) {
        // A client that asks for just this port gets it as soon as it can be had.
        State::Closed => idle >= QUARANTINE && (n == 0 || n >= FREE_TRIES),
        State::New | State::Answered if protocol == Protocol::Udp as u8 => {
            idle >= ONE_SHOT && n >= FREE_TRIES
        }
        _ => false,
    }
}

/// Takes a slot among the flows that nobody has confirmed yet: one that is free, of a few that its hash may
/// have. If none is, the flow in the first one is forgotten. So a flood of first packets displaces first packets,
/// never an established flow, and without a flood hardly anything is displaced. Says whether something was.
#[inline(never)]
#[must_use]
pub(super) fn displace<F: Net, T: Tables<F>>(tables: &T, scratch: &mut Scratch<F::Addr>, hash: u32) -> bool {
    let mut way = 0;
    while way < SLOT_WAYS {
        let place = hash.wrapping_add(way.wrapping_mul(SLOT_SPREAD));
        tables.slot(place, &mut scratch.twin_key);
        if scratch.twin_key == scratch.key {
            return false;
        }
        // Nobody's yet (a flow has a protocol), or that of a flow that is gone or confirmed.
        let free =
            scratch.twin_key.protocol == 0 || !tables.flow(&scratch.twin_key).is_some_and(is_embryonic);
        if free {
            tables.take_slot(place, &scratch.key);
            return false;
        }
        way += 1;
    }
    tables.slot(hash, &mut scratch.twin_key);
    tables.take_slot(hash, &scratch.key);
    if let Some(old) = tables.flow(&scratch.twin_key)
        && is_embryonic(old)
    {
        forget(tables, &scratch.twin_key, old);
        return true;
    }
    false
}

#[inline(always)]
fn is_embryonic<A>(flow: &Flow<A>) -> bool {
    State::from_number(flow.state).is_embryonic()
}
