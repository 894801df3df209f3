//! The node that the scenarios play on, and what they ask of it.
//!
//! | index | device | leads to |
//! |---|---|---|
//! | 1 | lo | |
//! | 2 | uplink | node 2 and its pods (10.244.2.0/24), the rest of the world |
//! | 3 | tunnel | pods of node 3 (10.244.3.0/24) |
//! | 4 | lb0 | |
//! | 10, 11 | pods' devices | 10.244.1.10, 10.244.1.11 |
//! | 12 | port of bridge 13 | 10.244.1.12 |
//!
//! Service addresses: ClusterIP 10.96.0.1:80, LoadBalancer 203.0.113.10:80, externalIP 203.0.113.11:80,
//! NodePort 30080, and a second ClusterIP 10.96.0.2:80 of the same backends; TCP, UDP and SCTP each.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::vec::Vec;

use crate::abi::{
    Address, Backend, Device, DeviceKind, FrontendKind, Outcome, Protocol, Set, SourceClass, Tuple,
};
use crate::net::Net;
use crate::testing::checksum::{Layers, assert_checksums};
use crate::testing::dump::assert_same;
use crate::testing::node::{Fate, Journey, SimNode, of_family, packet_of_family};
use crate::testing::packet::{Endpoint, Packet};
use crate::testing::tables::{SimTables, address};

pub(super) const LO: u32 = 1;
pub(super) const UPLINK: u32 = 2;
pub(super) const TUNNEL: u32 = 3;
pub(super) const LB0: u32 = 4;
pub(super) const DEVICE_A: u32 = 10;
pub(super) const DEVICE_B: u32 = 11;
pub(super) const PORT_C: u32 = 12;
pub(super) const BRIDGE: u32 = 13;

pub(super) const POD_A: &str = "10.244.1.10:8080";
pub(super) const POD_B: &str = "10.244.1.11:8080";
pub(super) const POD_C: &str = "10.244.1.12:8080";
pub(super) const POD_2: &str = "10.244.2.10:8080";
pub(super) const POD_3: &str = "10.244.3.10:8080";
pub(super) const HOST_1: &str = "192.168.1.1:8080";
pub(super) const HOST_2: &str = "192.168.1.2:8080";

pub(super) const VIP: &str = "10.96.0.1:80";
pub(super) const VIP_2: &str = "10.96.0.2:80";
pub(super) const LOAD_BALANCER: &str = "203.0.113.10:80";
pub(super) const EXTERNAL_IP: &str = "203.0.113.11:80";
pub(super) const NODE_PORT: &str = "192.168.1.1:30080";
pub(super) const NODE_PORT_2: &str = "192.168.1.2:30080";

/// A client in the world.
pub(super) const OUTSIDE: &str = "198.51.100.7:40000";
/// A process of the node.
pub(super) const PROCESS: &str = "192.168.1.1:40000";
/// Its address, and a port of the range for SNAT: processes of nodes share their address with the node's flows.
pub(super) const PROCESS_ANEW: &str = "192.168.1.1:0";
/// A process in pod A.
pub(super) const CLIENT_A: &str = "10.244.1.10:40000";

/// The service that all frontends lead to.
pub(super) const SERVICE: u32 = 0;

const NODE_1: &str = "192.168.1.1";
const TUNNEL_1: &str = "10.244.1.0";

fn ip<F: Net>(text: &str) -> IpAddr {
    of_family::<F>(text.parse().expect("an IPv4 address"))
}

fn socket<F: Net>(text: &str) -> SocketAddr {
    let at = text.socket();
    (of_family::<F>(at.ip()), at.port()).into()
}

/// A backend; where it is and whether it is a host's follows from its address.
fn backend<F: Net>(text: &str) -> Backend<F::Addr> {
    let local = text.starts_with("10.244.1.") || text.starts_with("192.168.1.1:");
    let host = text.starts_with("192.168.");
    let at = socket::<F>(text);
    Backend {
        address: address::<F>(at.ip()),
        port: at.port(),
        flags: if local { Backend::<F::Addr>::LOCAL } else { 0 }
            | if host { Backend::<F::Addr>::HOST } else { 0 },
    }
}

/// Gives the service these backends, local ones first.
pub(super) fn replace<F: Net>(node: &mut SimNode<F>, flags: u16, backends: &[&str]) {
    let (local, remote): (Vec<_>, Vec<_>) = backends
        .iter()
        .map(|text| backend::<F>(text))
        .partition(|b| b.flags & Backend::<F::Addr>::LOCAL != 0);
    let exist = if backends.is_empty() {
        0
    } else {
        Set::ENDPOINTS_EXIST
    };
    let scopes = (local.len() as u16, 0);
    node.tables
        .replace(SERVICE, flags | exist, scopes, &[local, remote].concat());
}

/// The node, whose service has these policies and backends.
pub(super) fn node<F: Net>(flags: u16, backends: &[&str]) -> SimNode<F> {
    let mut tables = SimTables::default();
    tables.node.lb0 = LB0;
    tables.node.loopback = LO;
    let service = tables.add_service(0, (0, 0), &[]);
    assert_eq!(service, SERVICE);
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        for (at, kind) in [
            (VIP, FrontendKind::ClusterIp),
            (VIP_2, FrontendKind::ClusterIp),
            (LOAD_BALANCER, FrontendKind::LoadBalancer),
            (EXTERNAL_IP, FrontendKind::ExternalIp),
            (NODE_PORT, FrontendKind::NodePort),
        ] {
            tables.add_frontend(socket::<F>(at), protocol, kind, service);
        }
    }
    tables.add_address(ip::<F>(NODE_1), Address::OWN | Address::NODE_PORTS);
    tables.add_address(ip::<F>(TUNNEL_1), Address::OWN);
    tables.add_address(ip::<F>("192.168.1.2"), Address::OTHER_NODE);

    let prefix = 8 * (F::ADDR_LEN - 4);
    for (text, length, class) in [
        ("10.244.1.0", 24, SourceClass::Pod),
        (NODE_1, 32, SourceClass::Node),
        (TUNNEL_1, 32, SourceClass::Node),
    ] {
        tables
            .sources
            .push((address::<F>(ip::<F>(text)), prefix + length, class));
    }
    for (index, kind, snat) in [
        (LO, DeviceKind::Loopback, None),
        (UPLINK, DeviceKind::Uplink, Some(NODE_1)),
        (TUNNEL, DeviceKind::Tunnel, Some(TUNNEL_1)),
        (LB0, DeviceKind::Host, None),
        (DEVICE_A, DeviceKind::Pod, Some(NODE_1)),
        (DEVICE_B, DeviceKind::Pod, Some(NODE_1)),
        (PORT_C, DeviceKind::BridgePort, Some(NODE_1)),
        (BRIDGE, DeviceKind::Bridge, Some(NODE_1)),
    ] {
        let mut device = Device {
            kind: kind as u8,
            ..Device::default()
        };
        match snat.map(ip::<F>) {
            Some(IpAddr::V4(source)) => device.snat4 = source.into(),
            Some(IpAddr::V6(source)) => device.snat6 = source.into(),
            None => {}
        }
        tables.devices.insert(index, device);
    }
    tables.route = Box::new(|tuple: &Tuple<F::Addr>| {
        let bytes = tuple.destination.as_ref();
        match bytes[bytes.len() - 4..] {
            [10, 244, 1, 10] => Some(DEVICE_A),
            [10, 244, 1, 11] => Some(DEVICE_B),
            [10, 244, 1, 12] => Some(BRIDGE),
            [10, 244, 1, _] => None,
            [10, 244, 3, _] => Some(TUNNEL),
            _ => Some(UPLINK),
        }
    });
    let bridge_ports = BTreeMap::from([(address::<F>(ip::<F>("10.244.1.12")), PORT_C)]);
    let mut node = SimNode { tables, bridge_ports };
    replace(&mut node, flags, backends);
    node
}

/// Expects a packet to have ended up somewhere as `expected`.
#[track_caller]
pub(super) fn expect<F: Net>(what: &str, journey: &Journey, fate: Fate, expected: &Packet) {
    assert_eq!(journey.fate, fate, "{what}: {journey:?}");
    assert_checksums(&journey.frame);
    assert_same(what, &journey.frame, &packet_of_family::<F>(expected).build());
}

/// Expects a packet to have ended with an outcome.
#[track_caller]
pub(super) fn expect_end(what: &str, journey: &Journey, outcome: Outcome) {
    assert_eq!(
        (journey.fate, journey.outcome()),
        (Fate::Ended, outcome),
        "{what}"
    );
}

/// Source and destination of a packet where it ended up, as the IPv4 text of the scenarios.
pub(super) fn ends(journey: &Journey) -> (SocketAddr, SocketAddr) {
    let layers = Layers::of(&journey.frame).expect("a frame that was translated");
    let plain = |ip: IpAddr| match ip {
        IpAddr::V6(ip) => IpAddr::from(<[u8; 4]>::try_from(&ip.octets()[12..]).expect("four bytes")),
        ip => ip,
    };
    let port = |at: usize| u16::from_be_bytes([journey.frame[at], journey.frame[at + 1]]);
    let at = layers.transport;
    (
        (plain(layers.source), port(at)).into(),
        (plain(layers.destination), port(at + 2)).into(),
    )
}

/// Expects every entry of the flow table to have its other half.
#[track_caller]
pub(super) fn expect_whole<F: Net>(node: &SimNode<F>) {
    assert_eq!(node.tables.inconsistency(), None);
}
