//! One question to one node's maps: the decision of [`lb_common::net`] on a client's first packet, its look-ups, and
//! what each backend that it may choose would see.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::{
    abi::{
        Action, Address, Backend, FrontendKind, Hook, Kind, Outcome, Protocol, ROWS_PER_ELEMENT, Set, Tuple,
    },
    net::{Arrival, Net, Parsed, Scope, Scratch, Tables, at_lb0, open, tcp_flag},
};

use super::{
    evidence::Evidence,
    position::{Position, Ways, first_hook},
    recorder::{Recorder, Route},
};
use crate::maps::{Lookup, MapError};

/// A client's first packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packet {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) position: Position,
}

/// What a node makes of it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Finding {
    pub(super) hook: Hook,
    /// Where it is seen there.
    pub(super) arrival: Arrival,
    pub(super) outcome: Outcome,
    pub(super) evidence: Vec<Evidence>,
    /// The frontend that it was found to be addressed to; its address is `None` for a NodePort.
    pub(super) frontend: Option<FrontendKind>,
    pub(super) set: Option<Set>,
    /// What the destination is to the node.
    pub(super) address: Option<Address>,
    /// The backends are those of this scope.
    pub(super) scope: Option<Scope>,
    /// All that may be chosen, in the order of the set.
    pub(super) choices: Vec<Choice>,
    /// The backend that this very client had before (`sessionAffinity`).
    pub(super) had: Option<SocketAddr>,
    /// A process gets its backend at its socket: no program at TC sees a packet to translate.
    pub(super) direct: bool,
}

/// A backend that may be chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    pub(super) backend: SocketAddr,
    /// Rows of the table that are its own.
    pub(super) rows: u32,
    /// It runs on this node.
    pub(super) here: bool,
    /// Its address is its node's.
    pub(super) host: bool,
    /// The address that it takes for its client.
    pub(super) source: std::net::IpAddr,
    pub(super) action: Action,
    /// What becomes of a packet that this backend is chosen for: mostly that it is forwarded.
    pub(super) outcome: Outcome,
}

/// What the maps, the routes and the clock are.
#[derive(Clone, Copy)]
pub(super) struct Node<'a, F: Net> {
    pub(super) maps: &'a dyn Lookup<F>,
    pub(super) route: Route<'a>,
    pub(super) ways: Ways,
    pub(super) tick: u32,
}

/// Asks a node.
pub(super) fn inquire<F: Net>(node: Node<'_, F>, packet: &Packet) -> Result<Option<Finding>, MapError> {
    let recorder = Recorder::new(node.maps, node.route, None, node.tick);
    let Some(Decided {
        hook,
        arrival,
        address,
        outcome,
        scratch,
    }) = decide::<F>(&node, &recorder, packet)
    else {
        return Ok(None);
    };
    let set = recorder.set.get();
    let forwarded = outcome.kind() == Kind::Forwarded;
    let scope = forwarded.then_some(if scratch.scope == Scope::Local as u16 {
        Scope::Local
    } else {
        Scope::Cluster
    });
    let mut choices = Vec::new();
    if let (Some(set), Some(scope)) = (set, scope) {
        for (position, rows) in shares(node.maps, &set, scope)? {
            choices.extend(choice::<F>(&node, packet, position, rows));
        }
    }
    let had = (forwarded && scratch.new_choice == 0).then(|| {
        SocketAddr::new(
            scratch.flow.to.destination.into(),
            scratch.flow.to.destination_port,
        )
    });
    match recorder.failure() {
        Some(error) => Err(error),
        None => Ok(Some(Finding {
            hook,
            arrival,
            outcome,
            evidence: recorder.evidence.take(),
            frontend: recorder
                .frontend
                .get()
                .map(|(_, found)| FrontendKind::from_number(found.kind)),
            set,
            address,
            scope,
            choices,
            had,
            direct: false,
        })),
    }
}

/// What the programs make of a packet.
struct Decided<A> {
    hook: Hook,
    arrival: Arrival,
    address: Option<Address>,
    outcome: Outcome,
    scratch: Scratch<A>,
}

/// The decision; `None`: the addresses are not of this family.
fn decide<F: Net>(
    node: &Node<'_, F>,
    recorder: &Recorder<'_, F>,
    packet: &Packet,
) -> Option<Decided<F::Addr>> {
    let tuple = Tuple {
        source: F::from_ip(packet.from.ip())?,
        destination: F::from_ip(packet.to.ip())?,
        source_port: packet.from.port(),
        destination_port: packet.to.port(),
        protocol: packet.protocol as u8,
        ..Tuple::default()
    };
    let flags = if packet.protocol == Protocol::Tcp {
        tcp_flag::SYN
    } else {
        0
    };
    let address = Tables::<F>::address(recorder, &tuple.destination);
    let (hook, arrival) = first_hook(packet.position, address, (node.route)(packet.to.ip()), &node.ways);
    let mut scratch = Scratch {
        parsed: Parsed {
            tuple,
            flags,
            ..Parsed::default()
        },
        ..Scratch::default()
    };
    // What leaves by an uplink is asked about only if it goes to another node.
    let asked = address.filter(|address| hook != Hook::UplinkOut || address.has(Address::OTHER_NODE));
    let outcome = match asked {
        Some(address) => open(recorder, &arrival, &mut scratch, address),
        None => Outcome::PassedNotOurs,
    };
    let outcome = if hook == Hook::HostOut {
        at_lb0(outcome, flags)
    } else {
        outcome
    };
    Some(Decided {
        hook,
        arrival,
        address,
        outcome,
        scratch,
    })
}

/// Positions of the scope's backends, and how many rows lead to each.
fn shares<F: Net>(maps: &dyn Lookup<F>, set: &Set, scope: Scope) -> Result<BTreeMap<u16, u32>, MapError> {
    let (table, rows) = match scope {
        Scope::Local => (set.local_table, set.local_rows),
        Scope::Cluster => (set.cluster_table, set.cluster_rows),
    };
    let mut shares = BTreeMap::new();
    for element in 0..rows.div_ceil(ROWS_PER_ELEMENT as u32) {
        let Some(found) = maps.rows(table + element)? else {
            continue;
        };
        let left = (rows - element * ROWS_PER_ELEMENT as u32) as usize;
        for position in found.rows.iter().take(left) {
            *shares.entry(*position).or_default() += 1;
        }
    }
    Ok(shares)
}

/// The same decision, but for the backend, which is given.
fn choice<F: Net>(node: &Node<'_, F>, packet: &Packet, position: u16, rows: u32) -> Option<Choice> {
    let recorder = Recorder::new(node.maps, node.route, Some(position), node.tick);
    let Decided { outcome, scratch, .. } = decide::<F>(node, &recorder, packet)?;
    let end = recorder.end(scratch.flow.to);
    Some(Choice {
        backend: SocketAddr::new(
            scratch.flow.to.destination.into(),
            scratch.flow.to.destination_port,
        ),
        rows,
        here: scratch.backend & Backend::<F::Addr>::LOCAL != 0,
        host: scratch.backend & Backend::<F::Addr>::HOST != 0,
        source: end.source.into(),
        action: scratch.flow.action(),
        outcome,
    })
}
