//! A packet for the program that decides, and what it has made of it: whether an explanation says what the kernel does.
//!
//! *Input*: a cell as the explainer has asked it. *Output*: a frame, and a judgement of what came out. *Not here*: loading
//! and running programs (`load::dry_run`).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use etherparse::{
    IpNumber, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice,
    err::packet::BuildWriteError,
};
use lb_common::{
    abi::{DeviceKind, Hook, Protocol},
    net::{Arrival, crc32c},
};
use serde::Serialize;

use super::{
    answer::{Answer, Verdict},
    inquiry::Packet,
};

/// The kernel's verdicts of TC programs (`linux/pkt_cls.h`, tcx): go on, end here.
const NEXT: u32 = u32::MAX;
const SHOT: u32 = 2;
/// A MAC address of nobody (locally administered).
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Hops that a packet has left.
const HOPS: u8 = 64;

/// A client's first packet, for one program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Name of the program.
    pub program: &'static str,
    /// Interface index of the device that it is on.
    pub device: u32,
    /// Interface index of the device that the packet came in by; 0: a process of this node has sent it.
    pub came_in: u32,
    /// The packet, with link header.
    pub frame: Vec<u8>,
    from: SocketAddr,
    to: SocketAddr,
}

/// What a program has made of a [`Probe`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Verified {
    /// Name of the program.
    pub program: &'static str,
    /// What happened.
    pub verdict: Verdict,
    /// The source and the destination of what came out.
    pub left_as: Option<(SocketAddr, SocketAddr)>,
    /// It is what was explained.
    pub agrees: bool,
}

impl Probe {
    /// The first packet of a cell; `None`: it cannot be written.
    pub(super) fn of(packet: &Packet, hook: Hook, arrival: Arrival) -> Option<Self> {
        let program = match (hook, arrival.kind) {
            (Hook::PodIn, DeviceKind::BridgePort) => "bridge_port_in",
            (Hook::PodIn, _) => "pod_in",
            (Hook::UplinkIn, _) => "uplink_in",
            (Hook::UplinkOut, _) => "uplink_out",
            (Hook::HostOut, _) => "host_out",
            (Hook::LoopbackOut, _) => "loopback_out",
            _ => return None,
        };
        let local = matches!(arrival.kind, DeviceKind::Host | DeviceKind::Loopback);
        Some(Self {
            program,
            device: arrival.device,
            came_in: if local { 0 } else { arrival.device },
            frame: frame(packet).ok()?,
            from: packet.from,
            to: packet.to,
        })
    }

    /// Judges what the program has made of it: its verdict, and the frame that came out.
    #[must_use]
    pub fn judge(&self, answer: &Answer, verdict: u32, frame: &[u8]) -> Verified {
        let left_as = ends(frame);
        let verdict = match (verdict, left_as) {
            (SHOT, _) => Verdict::Dropped,
            // A refusal goes back to the client, from the address that it asked. (A client can be its own backend.)
            (_, Some((from, to))) if (from.ip(), to.ip()) == (self.to.ip(), self.from.ip()) => {
                Verdict::Rejected
            }
            (_, Some((from, to))) if (from, to) != (self.from, self.to) => Verdict::Forwarded,
            (NEXT, _) => Verdict::Passed,
            _ => Verdict::Forwarded,
        };
        // A source that changes behind the routing decision is still the client's here.
        let is_it = |(from, to): (SocketAddr, SocketAddr)| {
            let mut backends = answer.backends.iter();
            backends.any(|one| one.backend == to && (one.source == from.ip() || from == self.from))
        };
        Verified {
            program: self.program,
            verdict,
            left_as: left_as.filter(|_| verdict == Verdict::Forwarded),
            agrees: verdict == answer.verdict
                && (verdict != Verdict::Forwarded || left_as.is_some_and(is_it)),
        }
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            program,
            verdict,
            left_as,
            agrees,
        } = self;
        let judged = if *agrees {
            "as explained"
        } else {
            "NOT as explained"
        };
        write!(f, "{judged}: {program}, run on the live maps without writing, ")?;
        match left_as {
            Some((from, to)) => write!(f, "has made it {from} -> {to}"),
            None => write!(f, "has {} it", verdict.name()),
        }
    }
}

/// A client's first packet: a SYN, a short datagram, or an INIT (RFC 9260).
fn frame(packet: &Packet) -> Result<Vec<u8>, BuildWriteError> {
    let Packet {
        from, to, protocol, ..
    } = *packet;
    let link = PacketBuilder::ethernet2(NOBODY, NOBODY);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), HOPS),
        (from, to) => link.ipv6(general(from).octets(), general(to).octets(), HOPS),
    };
    let (sport, dport) = (from.port(), to.port());
    let mut frame = Vec::new();
    match protocol {
        Protocol::Tcp => ip.tcp(sport, dport, 1, u16::MAX).syn().write(&mut frame, &[]),
        Protocol::Udp => ip.udp(sport, dport).write(&mut frame, b"explain"),
        Protocol::Sctp => write_init(ip, &mut frame, sport, dport),
    }?;
    Ok(frame)
}

fn write_init(
    ip: PacketBuilderStep<etherparse::IpHeaders>,
    frame: &mut Vec<u8>,
    sport: u16,
    dport: u16,
) -> Result<(), BuildWriteError> {
    let mut packet = [&sport.to_be_bytes()[..], &dport.to_be_bytes(), &[0; 8]].concat();
    // INIT, without flags, of 20 bytes: tag, window, streams out and in, sequence number.
    packet.extend([1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    ip.write(frame, IpNumber::SCTP, &packet)
}

fn general(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Source and destination of a frame; ports are 0 if it has none.
fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (from, to, payload): (IpAddr, IpAddr, _) = match packet.net? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let pair: (Ipv4Addr, Ipv4Addr) = (header.source_addr(), header.destination_addr());
            (pair.0.into(), pair.1.into(), ip.payload().clone())
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let pair: (Ipv6Addr, Ipv6Addr) = (header.source_addr(), header.destination_addr());
            (pair.0.into(), pair.1.into(), ip.payload().clone())
        }
        _ => return None,
    };
    let word = |at: usize| {
        Some(u16::from_be_bytes([
            *payload.payload.get(at)?,
            *payload.payload.get(at + 1)?,
        ]))
    };
    let ports = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        _ if payload.ip_number == IpNumber::SCTP => (word(0)?, word(2)?),
        _ => (0, 0),
    };
    Some((SocketAddr::new(from, ports.0), SocketAddr::new(to, ports.1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::position::Position;

    #[test]
    fn a_frame_says_who_asks_whom() {
        for (from, to) in [
            ("10.0.0.1:4000", "10.96.0.1:80"),
            ("[fd00::1]:4000", "[fd00:96::1]:80"),
        ] {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                let packet = Packet {
                    from: from.parse().unwrap(),
                    to: to.parse().unwrap(),
                    protocol,
                    position: Position::Pod,
                };
                let frame = frame(&packet).unwrap();
                assert_eq!(ends(&frame), Some((packet.from, packet.to)), "{protocol}");
            }
        }
    }
}
