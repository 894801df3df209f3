//! Where a node's programs see a client's packet first.

use lb_common::{
    abi::{Address, DeviceKind, Hook},
    net::Arrival,
};

/// Who a packet comes from, as one node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Position {
    /// A pod of this node, behind a device of its own.
    Pod,
    /// A process of this node: also a pod with `hostNetwork`.
    Node,
    /// Somebody elsewhere, whose packet arrives here.
    Outside,
}

/// The devices of a node that packets of clients pass, by interface index; 0: there is none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Ways {
    /// The loopback device.
    pub(super) loopback: u32,
    /// `lb0`.
    pub(super) lb0: u32,
    /// The uplink.
    pub(super) uplink: u32,
    /// The client's own device, if it is a pod.
    pub(super) pod: u32,
    /// That device is a port of a bridge.
    pub(super) bridged: bool,
}

/// The hook at which a packet of a client to an address is seen, whose entry in `addresses` is `address`, and which the
/// node's routes lead to the device `routed`.
///
/// The routes say that, not the programs: a node's own addresses are local to it, Services' addresses are routed into
/// `lb0`, and another node is reached by the uplink.
pub(super) fn first_hook(
    position: Position,
    address: Option<Address>,
    routed: Option<u32>,
    ways: &Ways,
) -> (Hook, Arrival) {
    let at = |device, kind| Arrival { device, kind };
    match position {
        Position::Pod if ways.bridged => (Hook::PodIn, at(ways.pod, DeviceKind::BridgePort)),
        Position::Pod => (Hook::PodIn, at(ways.pod, DeviceKind::Pod)),
        Position::Outside => (Hook::UplinkIn, at(ways.uplink, DeviceKind::Uplink)),
        Position::Node => match address {
            Some(address) if address.has(Address::OWN) || address.has(Address::LOCALHOST) => {
                (Hook::LoopbackOut, at(ways.loopback, DeviceKind::Loopback))
            }
            _ if ways.lb0 != 0 && routed == Some(ways.lb0) => (Hook::HostOut, at(ways.lb0, DeviceKind::Host)),
            _ => (Hook::UplinkOut, at(ways.uplink, DeviceKind::Host)),
        },
    }
}
