//! Whom a packet is addressed to, and whether its sender may use that address.

use crate::abi::{Address, DeviceKind, FrontendKey, FrontendKind, Kind, Outcome, Protocol, RangeKey, Set};

use super::{
    Client, Net, Scratch, Tables,
    tcp_flag::{ACK, RST, SYN},
};

/// The frontend a packet is addressed to: an exact one first, then a NodePort. Gives its service.
#[inline(always)]
pub(super) fn frontend<F: Net, T: Tables<F>>(
    tables: &T,
    scratch: &mut Scratch<F::Addr>,
    address: Address,
    device: DeviceKind,
    client: Client,
) -> Option<(u32, FrontendKind)> {
    let tuple = &scratch.parsed.tuple;
    scratch.frontend.address = tuple.destination;
    scratch.frontend.port = tuple.destination_port;
    scratch.frontend.protocol = tuple.protocol;
    frontend_at(tables, &mut scratch.frontend, address, device, client)
}

/// As [`frontend`], of whom `key` names; it may be written to.
#[inline(always)]
pub(super) fn frontend_at<F: Net, T: Tables<F>>(
    tables: &T,
    key: &mut FrontendKey<F::Addr>,
    address: Address,
    device: DeviceKind,
    client: Client,
) -> Option<(u32, FrontendKind)> {
    let mut found = None;
    if address.has(Address::VIP) {
        found = tables.frontend(key);
    }
    // Another node's NodePort is served at the source: for the clients of this node only.
    let elsewhere = address.has(Address::OTHER_NODE) && matches!(client, Client::Pod | Client::Node);
    // A neighbour on the wire can send to a loopback address, too.
    let localhost = address.has(Address::LOCALHOST) && matches!(device, DeviceKind::Loopback);
    if found.is_none() && (elsewhere || localhost || address.has(Address::NODE_PORTS)) {
        key.address = F::Addr::default();
        found = tables.frontend(key);
    }
    found.map(|f| (f.service, FrontendKind::from_number(f.kind)))
}

/// What becomes of a packet to an address that has no such port.
///
/// A ClusterIP is nobody else's, so it is refused at once. A LoadBalancer address or an externalIP may well be, and
/// a node's own address always is: what no Service serves there is none of our business.
#[inline(never)]
pub(super) fn unserved<F: Net, T: Tables<F>>(
    tables: &T,
    scratch: &mut Scratch<F::Addr>,
    address: Address,
) -> Outcome {
    let others =
        Address::OWN | Address::NODE_PORTS | Address::OTHER_NODE | Address::EXTERNAL | Address::LOCALHOST;
    if address.flags & others != 0 || !address.has(Address::CLUSTER_IP) {
        return Outcome::PassedNoFrontend;
    }
    scratch.frontend = FrontendKey::mark_of(scratch.parsed.tuple.destination);
    if tables.frontend(&scratch.frontend).is_none() {
        // The ClusterIP of a Service that is gone, of which flows may be left.
        Outcome::DroppedNoService
    } else if scratch.parsed.flags & RST != 0 {
        Outcome::DroppedUnknownFlow
    } else {
        Outcome::RejectedNoFrontend
    }
}

/// What becomes of a packet on `lb0` that was `decided` so, with these TCP flags: it is routed there with the whole range
/// of the Services' addresses, and has nowhere else to go.
#[inline(always)]
#[must_use]
pub const fn at_lb0(decided: Outcome, flags: u8) -> Outcome {
    match decided.kind() {
        // A RST is never answered (RFC 9293, section 3.10.7.1).
        Kind::Passed if flags & RST != 0 => Outcome::DroppedUnknownFlow,
        Kind::Passed if matches!(decided, Outcome::PassedNotOurs) => Outcome::DroppedNoService,
        // Connection tracking did not know it either, or it would not have come here.
        Kind::Passed if matches!(decided, Outcome::PassedTracked) => Outcome::RejectedUnknownFlow,
        Kind::Passed => Outcome::RejectedNoFrontend,
        _ => decided,
    }
}

/// Whether a packet that opens no connection belongs to one of this node's own, whose port is a frontend too. (That
/// is not so only by accident: an externalIP can be an address of this node, with any port.) The first segment of a
/// TCP connection never does.
#[inline(always)]
pub(super) fn is_own<F: Net, T: Tables<F>>(tables: &T, scratch: &Scratch<F::Addr>, address: Address) -> bool {
    let parsed = &scratch.parsed;
    address.has(Address::OWN)
        && (parsed.tuple.protocol != Protocol::Tcp as u8 || !is_first(parsed.tuple.protocol, parsed.flags))
        && tables.is_connected(&parsed.tuple)
}

/// Whether a packet opens a flow, rather than being in the middle of one. Only TCP tells.
#[inline(always)]
pub(super) const fn is_first(protocol: u8, flags: u8) -> bool {
    flags & (SYN | ACK) == SYN || protocol != Protocol::Tcp as u8
}

/// Whether the source ranges of `set` let the packet's sender in. They are for LoadBalancer addresses only, and for
/// every client: also for the pods and the processes of this node.
#[inline(always)]
pub(super) fn lets_in<F: Net, T: Tables<F>>(
    tables: &T,
    scratch: &mut Scratch<F::Addr>,
    set: &Set,
    kind: FrontendKind,
) -> bool {
    if kind as u8 != FrontendKind::LoadBalancer as u8 || !set.has(Set::RANGES) {
        return true;
    }
    is_in_ranges(tables, scratch, set)
}

#[inline(never)]
fn is_in_ranges<F: Net, T: Tables<F>>(tables: &T, scratch: &mut Scratch<F::Addr>, set: &Set) -> bool {
    let tuple = &scratch.parsed.tuple;
    // The address is this node's as well, and so its processes use it as their source.
    if set.has(Set::RANGES_WITH_NODE) && tuple.source == tuple.destination {
        return true;
    }
    scratch.range.table = set.ranges;
    scratch.range.address = tuple.source;
    tables.is_in_range(&scratch.range)
}

/// Bits of a whole key of the table of ranges.
#[inline(always)]
#[must_use]
pub const fn range_bits<F: Net>() -> u32 {
    RangeKey::<F::Addr>::TABLE_BITS + 8 * F::ADDR_LEN as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_passes_lb0() {
        for (decided, flags, expected) in [
            (Outcome::PassedNoFrontend, SYN, Outcome::RejectedNoFrontend),
            (Outcome::PassedNotOurs, SYN, Outcome::DroppedNoService),
            (Outcome::PassedNoFrontend, RST, Outcome::DroppedUnknownFlow),
            (Outcome::PassedTracked, ACK, Outcome::RejectedUnknownFlow),
            (Outcome::PassedTracked, RST, Outcome::DroppedUnknownFlow),
            (Outcome::PassedNotOurs, RST | ACK, Outcome::DroppedUnknownFlow),
            (Outcome::ForwardedNew, SYN, Outcome::ForwardedNew),
            (Outcome::RejectedNoEndpoints, 0, Outcome::RejectedNoEndpoints),
            (
                Outcome::DroppedNoLocalEndpoints,
                SYN,
                Outcome::DroppedNoLocalEndpoints,
            ),
        ] {
            assert_eq!(at_lb0(decided, flags), expected, "{decided:?} {flags:#x}");
        }
    }
}
