//! A packet's way through the programs, as the kernel would take it: in by a device, routed, out by another; and the
//! answer's way back.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use lb_common::testing::{
    checksum,
    packet::{self, Packet, flag},
};

use crate::{
    kernel::{Kernel, Program, Verdict},
    node::Dev,
    oracle::Protocol,
    places,
    probe::{Client, Far, Hook, Probe},
};

/// What became of a packet.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Seen {
    /// It reached an endpoint, which saw this source.
    Forward {
        backend: SocketAddr,
        source: SocketAddr,
    },
    Reject,
    Drop,
    Pass,
    /// Something that no answer can be.
    Strange(String),
}

/// One connection or exchange of datagrams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange<'a> {
    pub(crate) probe: &'a Probe,
    pub(crate) port: u16,
    /// A process' packets to the destination are routed into `lb0`.
    pub(crate) routed_to_lb0: bool,
}

/// Which packet of an exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    First,
    Later,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward { backend, source } => write!(f, "forward to {backend} as {source}"),
            Self::Strange(what) => write!(f, "strange: {what}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// What the frames of a journey look like, as far as it matters.
struct Looks {
    from: SocketAddr,
    to: SocketAddr,
    /// ICMP, or a TCP segment that ends a connection.
    refusal: bool,
}

impl Exchange<'_> {
    fn from(&self) -> SocketAddr {
        SocketAddr::new(self.probe.from(), self.port)
    }

    fn packet(&self, stage: Stage) -> Packet {
        let (from, to) = (self.from(), self.probe.to);
        match (self.probe.protocol, stage) {
            (Protocol::Tcp, Stage::First) => packet::tcp(from, to).syn().seq(1000),
            (Protocol::Tcp, Stage::Later) => packet::tcp(from, to)
                .flags(flag::ACK | flag::PSH)
                .seq(1001)
                .ack(5001)
                .payload(b"data"),
            (Protocol::Udp, _) => packet::udp(from, to).payload(b"question"),
            // An INIT chunk, a HEARTBEAT chunk.
            (Protocol::Sctp, Stage::First) => packet::sctp(from, to).payload(&[1, 0, 0, 8, 9, 9, 9, 9]),
            (Protocol::Sctp, Stage::Later) => packet::sctp(from, to).payload(&[4, 0, 0, 8, 9, 9, 9, 9]),
        }
    }

    /// The program that sees the packet first, and the device.
    fn start(&self) -> (Program, Dev) {
        match self.probe.client {
            Client::Pod(places::BRIDGED) => (Program::BridgePortIn, Dev::Port0),
            Client::Pod(pod) => (Program::PodIn, Dev::of_pod(pod)),
            Client::Node if is_own(self.probe.to.ip()) => (Program::LoopbackOut, Dev::Lo),
            Client::Node if self.routed_to_lb0 => (Program::HostOut, Dev::Lb0),
            Client::Node => (Program::UplinkOut, Dev::Up0),
            Client::Outside(Far::TunnelledPod(_)) => (Program::UplinkIn, Dev::Tun0),
            Client::Outside(_) if self.probe.hook == Hook::Xdp => (Program::UplinkXdp, Dev::Up0),
            Client::Outside(_) => (Program::UplinkIn, Dev::Up0),
        }
    }

    /// Sends a packet of the client.
    pub(crate) fn send(&self, kernel: &mut Kernel, stage: Stage) -> Seen {
        self.sent(kernel, stage).unwrap_or_else(Seen::Strange)
    }

    fn sent(&self, kernel: &mut Kernel, stage: Stage) -> Result<Seen, String> {
        let frame = self.packet(stage).build();
        let (program, dev) = self.start();
        let (verdict, out) = arrive(kernel, program, dev, &frame);
        if verdict == Verdict::Ended {
            return Ok(Seen::Drop);
        }
        let looks = look(&out)?;
        if verdict == Verdict::Sent && looks.refusal {
            return if looks.to.ip() == self.probe.from() {
                Ok(Seen::Reject)
            } else {
                Err(format!("a refusal sent to {}", looks.to))
            };
        }
        let untouched = looks.from == self.from() && looks.to == self.probe.to;
        if untouched {
            return match verdict {
                Verdict::On => Ok(Seen::Pass),
                _ => Err("sent as it was".to_owned()),
            };
        }
        let from = (self.probe.client != Client::Node).then_some(dev);
        let looks = match leave(kernel, looks.to.ip(), from, &out)? {
            Some(out) => look(&out)?,
            None => return Ok(Seen::Drop),
        };
        Ok(Seen::Forward {
            backend: looks.to,
            source: looks.from,
        })
    }

    /// Sends the endpoint's answer; wrong is anything but its arrival as an answer of the destination.
    pub(crate) fn answer(
        &self,
        kernel: &mut Kernel,
        backend: SocketAddr,
        source: SocketAddr,
    ) -> Result<(), String> {
        let answer = match self.probe.protocol {
            Protocol::Tcp => packet::tcp(backend, source).syn_ack().seq(5000).ack(1001),
            Protocol::Udp => packet::udp(backend, source).payload(b"answer"),
            Protocol::Sctp => packet::sctp(backend, source).payload(&[2, 0, 0, 8, 9, 9, 9, 9]),
        };
        let frame = answer.build();
        let lost = |why: &str| format!("the answer of {backend} to {source} {why}");
        // Where it comes from, and, if it was sent on past the stack, where it is then.
        let (from, arrived) = match place(backend.ip()) {
            Place::Here if is_own(source.ip()) => (None, Some((Program::LoopbackOut, Dev::Lo))),
            Place::Here => (None, None),
            Place::Pod(places::BRIDGED) => (Some(Dev::Port0), Some((Program::BridgePortIn, Dev::Port0))),
            Place::Pod(pod) => (Some(Dev::of_pod(pod)), Some((Program::PodIn, Dev::of_pod(pod)))),
            Place::Tunnel => (Some(Dev::Tun0), Some((Program::UplinkIn, Dev::Tun0))),
            Place::Uplink if self.probe.hook == Hook::Xdp => {
                (Some(Dev::Up0), Some((Program::UplinkXdp, Dev::Up0)))
            }
            Place::Uplink => (Some(Dev::Up0), Some((Program::UplinkIn, Dev::Up0))),
        };
        let mut frame = frame;
        if let Some((program, dev)) = arrived {
            let (verdict, out) = arrive(kernel, program, dev, &frame);
            if verdict == Verdict::Ended {
                return Err(lost("ends"));
            }
            frame = out;
        }
        let to = look(&frame)?.to.ip();
        // What this node sent to itself has arrived; all else leaves by some device.
        if !is_own(to) {
            frame =
                leave(kernel, to, from, &frame)?.ok_or_else(|| lost("ends behind the routing decision"))?;
        }
        let looks = look(&frame)?;
        if (looks.from, looks.to) == (self.probe.to, self.from()) {
            return Ok(());
        }
        Err(lost(&format!("arrives as {} to {}", looks.from, looks.to)))
    }
}

/// In by a device: XDP, then TC.
fn arrive(kernel: &mut Kernel, program: Program, dev: Dev, frame: &[u8]) -> (Verdict, Vec<u8>) {
    let from = match program {
        Program::HostOut | Program::LoopbackOut | Program::UplinkOut => None,
        _ => Some(dev),
    };
    let (verdict, out) = kernel.run(program, dev, from, frame);
    match (program, verdict) {
        (Program::UplinkXdp, Verdict::On) => kernel.run(Program::UplinkIn, dev, Some(dev), &out),
        _ => (verdict, out),
    }
}

/// Out by the device that leads to `to`; nothing comes out if a program ends it.
fn leave(
    kernel: &mut Kernel,
    to: IpAddr,
    from: Option<Dev>,
    frame: &[u8],
) -> Result<Option<Vec<u8>>, String> {
    let (program, dev) = match place(to) {
        Place::Here => return Ok(Some(frame.to_vec())),
        Place::Pod(pod) => (Program::PodOut, Dev::of_pod(pod)),
        Place::Tunnel => (Program::UplinkOut, Dev::Tun0),
        Place::Uplink => (Program::UplinkOut, Dev::Up0),
    };
    match kernel.run(program, dev, from, frame) {
        (Verdict::On, out) => Ok(Some(out)),
        (Verdict::Ended, _) => Ok(None),
        (Verdict::Sent, out) => {
            let looks = look(&out)?;
            Err(format!("{} sends it on, to {}", program.name(), looks.to))
        }
    }
}

/// Where an address is.
enum Place {
    Here,
    Pod(u8),
    Tunnel,
    Uplink,
}

fn place(ip: IpAddr) -> Place {
    let ipv6 = ip.is_ipv6();
    if is_own(ip) {
        return Place::Here;
    }
    if let Some(pod) = places::PODS
        .into_iter()
        .find(|pod| places::pod(0, *pod, ipv6) == ip)
    {
        return Place::Pod(pod);
    }
    if (1..=9).any(|pod| places::pod(2, pod, ipv6) == ip) {
        return Place::Tunnel;
    }
    Place::Uplink
}

/// Whether an address is this node's.
pub(crate) fn is_own(ip: IpAddr) -> bool {
    places::own(ip.is_ipv6()).contains(&ip)
}

/// A frame's addresses; wrong is one with a checksum or a length that is.
fn look(frame: &[u8]) -> Result<Looks, String> {
    checksum::verify(frame)?;
    let layers = checksum::Layers::of(frame)?;
    let icmp = matches!(layers.protocol, 1 | 58);
    let port = |offset: usize| match frame.get(layers.transport + offset..layers.transport + offset + 2) {
        Some(&[high, low]) if !icmp => u16::from_be_bytes([high, low]),
        _ => 0,
    };
    let reset = layers.protocol == 6
        && frame
            .get(layers.transport + 13)
            .is_some_and(|flags| flags & flag::RST != 0);
    Ok(Looks {
        from: SocketAddr::new(layers.source, port(0)),
        to: SocketAddr::new(layers.destination, port(2)),
        refusal: icmp || reset,
    })
}
