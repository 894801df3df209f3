//! Inserting a flow: who owns a tuple, which source port is free, and which unconfirmed flow makes room.

use crate::abi::{Event, Flow, Node, Outcome, State};

use super::{
    Created, Net, Tables,
    flow::{Scratch, forget, mirror, reverse, sweep},
};

/// Source ports that are tried before a flow is given up.
const PORT_TRIES: u32 = 16;

/// Ticks that the tuple of a closed flow is left alone: its backend may still wait for the last acknowledgement, and
/// would not take a handshake for what it is.
const QUARANTINE: u32 = 2;
/// Slots that an unconfirmed flow may take.
const SLOT_WAYS: u32 = 4;
/// Hashes of neighbouring slots lie this far apart (2^32 divided by the golden ratio). Even: a hash and its complement,
/// by which the two translations of a flow to its own client go, then never have a slot in common, and neither
/// displaces the other.
const SLOT_SPREAD: u32 = 0x9e37_79b8;

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
pub(super) fn install<F: Net, T: Tables<F>>(tables: &T, scratch: &mut Scratch<F::Addr>) -> Outcome {
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
pub(super) fn displace<F: Net, T: Tables<F>>(tables: &T, scratch: &mut Scratch<F::Addr>, hash: u32) {
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
