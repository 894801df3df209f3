//! Whose a packet is while one generation of programs follows another, see [`crate::abi::Stage`].

use crate::abi::{Address, FrontendKey, Protocol};

use super::{Net, Parsed, Tables, begins};

/// Whether the new generation serves a packet: if both halves of its flow are in the new tables (`parsed.tuple.phase` says at which side
/// of the routing decision), and, once it opens flows, if the packet may begin one.
///
/// TCP tells by its flags. Of other protocols every packet to a frontend may be the first one: if it is not, its flow was
/// opened in the old tables an instant ago, and a second one is opened beside it, to the same backend.
#[inline(always)]
pub fn is_taken_over<F: Net, T: Tables<F>>(tables: &T, parsed: &Parsed<F::Addr>, opens: bool) -> bool {
    let tuple = &parsed.tuple;
    if let Some(flow) = tables.flow(tuple)
        && tables.flow(&flow.to.reverse()).is_some()
    {
        return true;
    }
    if !opens {
        return false;
    }
    if tuple.protocol == Protocol::Tcp as u8 {
        return begins(tuple.protocol, parsed.flags);
    }
    let Some(address) = tables.address(&tuple.destination) else {
        return false;
    };
    let mut key = FrontendKey {
        address: tuple.destination,
        port: tuple.destination_port,
        protocol: tuple.protocol,
        reserved: 0,
    };
    if address.has(Address::VIP) && tables.frontend(&key).is_some() {
        return true;
    }
    key.address = F::Addr::default();
    let of_nodes = Address::NODE_PORTS | Address::OTHER_NODE | Address::LOCALHOST;
    address.flags & of_nodes != 0 && tables.frontend(&key).is_some()
}
