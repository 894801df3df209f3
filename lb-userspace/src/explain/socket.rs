//! Whether a connection gets its backend at the socket of the process that asks for it, before there is a packet: then the
//! kernel takes the source address on the way to the backend, not on the way to the Service.
//!
//! *Not here*: pods, whose source is their own either way; what the socket's program leaves to TC is decided there.

use lb_common::{
    abi::{FrontendKey, Protocol},
    net::{CONNECTED, Caller, Net, connect},
};

use super::{
    inquiry::{Node, Packet},
    position::Position,
    recorder::Recorder,
};

/// Whether a process of the node is given a backend by the program at its socket, if there is one.
pub(super) fn is_direct<F: Net>(node: Node<'_, F>, packet: &Packet) -> bool {
    if packet.position != Position::Node || packet.protocol != Protocol::Tcp {
        return false;
    }
    let Some(address) = F::from_ip(packet.to.ip()) else {
        return false;
    };
    let mut asked = FrontendKey {
        address,
        port: packet.to.port(),
        protocol: CONNECTED,
        reserved: 0,
    };
    let caller = Caller {
        of_node: true,
        bound: false,
    };
    let recorder = Recorder::new(node.maps, node.route, None, node.tick);
    // Any row: that there is a backend does not depend on which.
    connect::<F, _>(&recorder, &mut asked, caller, 0, |_| false).is_ok()
}
