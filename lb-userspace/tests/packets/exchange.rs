//! The packets that rows are made of: first packets, answers, and what a hop does to them.

use std::net::SocketAddr;

use lb_common::{
    abi::Protocol,
    testing::packet::{self, Packet, flag},
};

/// Every protocol that Services can have.
pub(crate) const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// The first packet of an exchange.
pub(crate) fn first(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Packet {
    match protocol {
        Protocol::Tcp => syn(from, to),
        Protocol::Udp => packet::udp(from, to).payload(b"question"),
        Protocol::Sctp => packet::sctp(from, to).payload(&[1, 0, 0, 20, 9, 9, 9, 9]),
    }
}

/// The first segment of a connection.
pub(crate) fn syn(from: SocketAddr, to: SocketAddr) -> Packet {
    packet::tcp(from, to)
        .syn()
        .seq(1000)
        .tcp_options(&[2, 4, 5, 0xb4])
}

/// The answer to a first packet.
pub(crate) fn answer(first: &Packet) -> Packet {
    first.reply().syn_ack().seq(5000).ack(1001)
}

/// Data of a connection's client.
pub(crate) fn data(first: &Packet) -> Packet {
    let segment = first.clone().flags(flag::ACK | flag::PSH).seq(1001).ack(5001);
    segment.tcp_options(&[]).payload(b"some bytes")
}

/// The end of one direction of a connection.
pub(crate) fn fin(packet: &Packet) -> Packet {
    data(packet).flags(flag::ACK | flag::FIN)
}

/// The abrupt end of a connection.
pub(crate) fn rst(packet: &Packet) -> Packet {
    data(packet).flags(flag::RST).payload(&[])
}

/// The packet after a router.
pub(crate) fn hop(packet: &Packet) -> Packet {
    packet.clone().ttl(packet.ttl - 1)
}
