//! What becomes of a connection at the socket of a process of this node, before it has a source address or a packet: the
//! same decision as for its first packet, wherever that does not need the source.
//!
//! What is left to TC is decided there, with the same result: an accelerator decides nothing of its own.

use crate::abi::{Address, Backend, DeviceKind, FrontendKey, FrontendKind, Node, Outcome, Protocol, Set};

use super::{Choice, Client, Net, Tables, choose, frontend::frontend_at};

/// Who asks for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// A process in this node's own network namespace, rather than in that of a pod.
    pub of_node: bool,
    /// Its socket is bound to an address already.
    pub bound: bool,
}

/// Whom a TCP connection to `asked` goes to, for a process of this node: the backend, or why its packets stay as they are
/// (kind Passed) or there are none (kind Rejected). `random` chooses among backends; `asked` may be written to. `listens` says
/// whether the caller's own namespace has somebody who would answer at a backend's address, if that were its own: a pod that
/// comes back to itself must not see its own address, which takes another source.
///
/// # Errors
/// The outcome, if it is not a backend.
#[inline(always)]
pub fn connect<'a, F: Net, T: Tables<F>>(
    tables: &'a T,
    asked: &mut FrontendKey<F::Addr>,
    caller: Caller,
    random: u32,
    listens: impl Fn(&Backend<F::Addr>) -> bool,
) -> Result<&'a Backend<F::Addr>, Outcome> {
    let Some(address) = tables.address(&asked.address) else {
        return Err(Outcome::PassedNotOurs);
    };
    let Some(node) = tables.node() else {
        return Err(Outcome::PassedNotOurs);
    };
    let (client, device) = if caller.of_node {
        (Client::Node, DeviceKind::Host)
    } else {
        (Client::Pod, DeviceKind::Pod)
    };
    // To this node itself: some of its ports are its own.
    if address.flags & (Address::OWN | Address::NODE_PORTS | Address::LOCALHOST) != 0 {
        return Err(Outcome::PassedToTcSource);
    }
    let Some((service, kind)) = frontend_at(tables, asked, address, device, client) else {
        return Err(Outcome::PassedNoFrontend);
    };
    let Some(set) = tables.set(service) else {
        return Err(Outcome::PassedNoFrontend);
    };
    if needs_source(node, set, kind, caller) {
        return Err(Outcome::PassedToTcSource);
    }
    let (table, rows) = match choose(kind, client, set) {
        Choice::Forward { table, rows, .. } => (table, rows),
        Choice::Refuse(Outcome::RejectedNoEndpoints) => return Err(Outcome::RejectedNoEndpoints),
        // Silence: a connection that times out rather than one that fails.
        Choice::Refuse(_) => return Err(Outcome::PassedToTcSource),
    };
    // Whichever would be chosen: if some of a client's connections to a backend were direct ones and some translated by TC,
    // they could get one source port, and be one connection to the backend.
    if !caller.of_node && may_be_itself(tables, set, listens) {
        return Err(Outcome::PassedToTcSource);
    }
    let Some(row) = tables.row(table, rows, random) else {
        return Err(Outcome::PassedToTcSource);
    };
    let Some(backend) = tables.backend(set.backends.wrapping_add(row as u32)) else {
        return Err(Outcome::PassedToTcSource);
    };
    Ok(backend)
}

/// Whether the decision depends on the source address, or has to change it.
#[inline(always)]
fn needs_source(node: &Node, set: &Set, kind: FrontendKind, caller: Caller) -> bool {
    let pods_unknown = node.flags & Node::PODS_UNKNOWN != 0 && !caller.of_node;
    let masqueraded = node.flags & Node::MASQUERADE_ALL != 0 && kind as u8 == FrontendKind::ClusterIp as u8;
    let ranges = set.has(Set::RANGES) && kind as u8 == FrontendKind::LoadBalancer as u8;
    // An address that fits the frontend need not fit the backend (127.0.0.1 does not).
    caller.bound || pods_unknown || masqueraded || ranges || set.has(Set::AFFINITY)
}

/// Whether the caller may be one of the backends on this node, which are the first ones of a set without affinity. More of
/// them than are looked at may always be.
#[inline(always)]
fn may_be_itself<F: Net, T: Tables<F>>(
    tables: &T,
    set: &Set,
    listens: impl Fn(&Backend<F::Addr>) -> bool,
) -> bool {
    for place in 0..LOCAL_LOOKED_AT {
        if place >= set.total {
            return false;
        }
        let Some(backend) = tables.backend(set.backends.wrapping_add(place as u32)) else {
            return false;
        };
        if backend.flags & Backend::<F::Addr>::LOCAL == 0 {
            return false;
        }
        if listens(backend) {
            return true;
        }
    }
    true
}

/// How many backends of this node are looked at to tell whether a caller is one of them.
const LOCAL_LOOKED_AT: u16 = 16;

/// Whether a process of this node may bind a socket to `port` of `address` (all zero: of every address): not where a
/// Service has a NodePort, whose packets would never reach it.
#[inline(always)]
pub fn bind<F: Net, T: Tables<F>>(tables: &T, address: &F::Addr, port: u16, protocol: u8) -> Outcome {
    let key = FrontendKey {
        address: F::Addr::default(),
        port,
        protocol,
        reserved: 0,
    };
    if tables.frontend(&key).is_none() {
        return Outcome::PassedNotOurs;
    }
    let served = |address: Address| address.has(Address::NODE_PORTS);
    if *address == F::Addr::default() || tables.address(address).is_some_and(served) {
        Outcome::RejectedNodePort
    } else {
        Outcome::PassedNoFrontend
    }
}

/// The protocol of connections: the only one that is translated at the socket. A datagram socket would stay with a backend
/// that is gone.
pub const CONNECTED: u8 = Protocol::Tcp as u8;
