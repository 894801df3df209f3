//! A node that packets travel through: the hooks of every kind of device around one routing decision.
//!
//! The joints between hooks are those of the eBPF crate; everything in between is [`crate::net`] itself.
//! Tests are written once, in IPv4 addresses: a node of the other family maps each into IPv6 ([`of_family`]).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::vec;
use std::vec::Vec;

use super::odd::{Odds, later, odd, remember_first};
use super::packet::Packet;
use super::rewrite::{Way, age, translate};
use super::tables::SimTables;
use crate::abi::{Action, Address, Device, DeviceKind, Flow, Kind, Outcome, Phase, Tuple};
use crate::net::{
    Arrival, Before, ETHERNET, Headers, Layers, Net, Odd, Parsed, Scratch, Tables, after, before, begins,
    give_way, open, opened,
};

/// A node.
#[derive(Debug)]
pub struct SimNode<F: Net> {
    /// Its maps, clock and routes.
    pub tables: SimTables<F>,
    /// Which port of a bridge leads to a pod.
    pub bridge_ports: BTreeMap<F::Addr, u32>,
}

/// Where a packet ends up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It left by this device.
    Sent(u32),
    /// A process of the node got it, as received on this device.
    Received(u32),
    /// It was refused or dropped.
    Ended,
}

/// What became of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Journey {
    /// What the hooks made of it, in their order.
    pub outcomes: Vec<Outcome>,
    /// Where it ended up.
    pub fate: Fate,
    /// What it was there.
    pub frame: Vec<u8>,
}

impl Journey {
    /// The first outcome that is not "passed", or the last.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let last = *self.outcomes.last().expect("every way leads through a hook");
        let decided = self.outcomes.iter().find(|o| o.kind() != Kind::Passed);
        *decided.unwrap_or(&last)
    }
}

/// The address of family `F` that stands for an IPv4 address: itself, or the same bytes behind `fd00::`.
#[must_use]
pub fn of_family<F: Net>(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if F::ADDR_LEN == 16 => {
            let bits = (0xfd00 << 112) | u128::from(ip.to_bits());
            Ipv6Addr::from_bits(bits).into()
        }
        ip => ip,
    }
}

/// The same packet in family `F`, see [`of_family`].
#[must_use]
pub fn packet_of_family<F: Net>(packet: &Packet) -> Packet {
    let map = |at: SocketAddr| SocketAddr::from((of_family::<F>(at.ip()), at.port()));
    packet
        .clone()
        .from(map(packet.source))
        .to(map(packet.destination))
}

/// A packet at a hook.
struct Travel {
    outcomes: Vec<Outcome>,
    frame: Vec<u8>,
}

impl Travel {
    fn end(self, fate: Fate) -> Journey {
        Journey {
            outcomes: self.outcomes,
            fate,
            frame: self.frame,
        }
    }
}

impl<F: Net> SimNode<F> {
    /// A packet comes in on `device`.
    #[must_use]
    pub fn arrive(&self, device: u32, packet: &Packet) -> Journey {
        let kind = match self.kind(device) {
            // One program serves both.
            DeviceKind::Tunnel => DeviceKind::Uplink,
            kind => kind,
        };
        self.before(device, kind, self.travel(packet))
    }

    /// A process of the node sends a packet that the routes lead to `device`.
    #[must_use]
    pub fn emit(&self, device: u32, packet: &Packet) -> Journey {
        let travel = self.travel(packet);
        match self.kind(device) {
            kind @ (DeviceKind::Host | DeviceKind::Loopback) => self.before(device, kind, travel),
            _ => self.leave(device, travel, true),
        }
    }

    fn travel(&self, packet: &Packet) -> Travel {
        Travel {
            outcomes: vec![],
            frame: packet_of_family::<F>(packet).build(),
        }
    }

    fn device(&self, index: u32) -> &Device {
        self.tables
            .devices
            .get(&index)
            .expect("a device of the test's node")
    }

    fn kind(&self, index: u32) -> DeviceKind {
        DeviceKind::from_number(self.device(index).kind)
    }

    /// The hooks in front of the routing decision, and that of uplinks' egress for this node's own packets.
    fn before(&self, device: u32, kind: DeviceKind, mut travel: Travel) -> Journey {
        let mut scratch = Scratch::default();
        let Some(destination) = F::destination(&travel.frame.as_slice()) else {
            travel.outcomes.push(Outcome::PassedMalformed);
            return self.untouched(device, kind, travel);
        };
        let address = self.tables.address(&destination);
        if address.is_none() && !matches!(kind, DeviceKind::Host | DeviceKind::BridgePort) {
            travel.outcomes.push(Outcome::PassedNotOurs);
            return self.untouched(device, kind, travel);
        }
        let odds = match F::parse(&travel.frame.as_slice()) {
            Ok(parsed) => Odds::Ports(parsed, None),
            Err(Odd::Pass(outcome)) => Odds::Pass(outcome),
            Err(Odd::Look) => odd::<F>(&self.tables, &travel.frame, Phase::Before),
        };
        let (parsed, datagram) = match odds {
            Odds::Ports(parsed, datagram) => (parsed, datagram),
            Odds::Later(known) => {
                let outcome = later(known, Phase::Before, kind, address);
                travel.outcomes.push(outcome);
                if outcome == Outcome::ForwardedHeld {
                    return travel.end(Fate::Ended);
                }
                return self.untouched(device, kind, travel);
            }
            Odds::Pass(outcome) => {
                travel.outcomes.push(outcome);
                return self.untouched(device, kind, travel);
            }
            Odds::Translated(flow, outcome, frame) => {
                travel.outcomes.push(outcome);
                travel.frame = frame;
                return self.depart(device, kind, &flow, travel);
            }
        };
        let from_here = matches!(kind, DeviceKind::Host | DeviceKind::Loopback);
        let decided = match address {
            Some(address) => before::<F, _>(&self.tables, &parsed).unwrap_or_else(|| {
                scratch.parsed = parsed;
                let outcome = open(&self.tables, &Arrival { device, kind }, &mut scratch, address);
                opened(&scratch, outcome)
            }),
            None => Before::leave(Outcome::PassedNotOurs),
        };
        travel.outcomes.push(decided.outcome);
        match decided.flow {
            Some(flow) => {
                if flow.action() == Action::Neighbour && !from_here && !age::<F>(&mut travel.frame) {
                    travel.outcomes.push(Outcome::DroppedExpired);
                    return travel.end(Fate::Ended);
                }
                rewrite::<F>(&mut travel, &parsed, flow);
                if let Some(datagram) = datagram {
                    remember_first(
                        &self.tables,
                        &mut travel.frame,
                        &datagram,
                        &parsed.tuple,
                        parsed.flags,
                    );
                }
                self.send(device, kind, flow, travel)
            }
            None if decided.outcome.kind() == Kind::Passed => self.untouched(device, kind, travel),
            None => travel.end(Fate::Ended),
        }
    }

    /// Sends a packet that is translated but not aged.
    fn depart(&self, device: u32, kind: DeviceKind, flow: &Flow<F::Addr>, mut travel: Travel) -> Journey {
        let from_here = matches!(kind, DeviceKind::Host | DeviceKind::Loopback);
        if flow.action() == Action::Neighbour && !from_here && !age::<F>(&mut travel.frame) {
            travel.outcomes.push(Outcome::DroppedExpired);
            return travel.end(Fate::Ended);
        }
        self.send(device, kind, flow, travel)
    }

    fn send(&self, device: u32, kind: DeviceKind, flow: &Flow<F::Addr>, travel: Travel) -> Journey {
        match flow.action() {
            Action::Stack if kind == DeviceKind::Loopback => travel.end(Fate::Received(device)),
            Action::Stack => self.stack(device, travel),
            Action::Neighbour => {
                let from_here = matches!(kind, DeviceKind::Host | DeviceKind::Loopback);
                self.leave(flow.device, travel, from_here)
            }
            Action::Receive => travel.end(Fate::Received(flow.device)),
        }
    }

    fn untouched(&self, device: u32, kind: DeviceKind, travel: Travel) -> Journey {
        let phase = match kind {
            DeviceKind::Pod | DeviceKind::BridgePort => Some(Phase::After),
            DeviceKind::Loopback => Some(Phase::Before),
            _ => None,
        };
        if let (Some(phase), Ok(parsed)) = (phase, F::parse(&travel.frame.as_slice()))
            && begins(parsed.tuple.protocol, parsed.flags)
        {
            give_way(&self.tables, &parsed.tuple, phase);
        }
        match (kind, self.kind(device)) {
            (DeviceKind::Host, DeviceKind::Host) => travel.end(Fate::Ended),
            (DeviceKind::Host, _) => travel.end(Fate::Sent(device)),
            (DeviceKind::Loopback, _) => travel.end(Fate::Received(device)),
            _ => self.stack(device, travel),
        }
    }

    /// The routing decision.
    fn stack(&self, device: u32, mut travel: Travel) -> Journey {
        let mut layers = Layers::default();
        if F::layers(&Headers::of(&travel.frame), ETHERNET as u32, &mut layers).is_err() {
            return travel.end(Fate::Ended);
        }
        let destination = layers.destination;
        let tuple = Tuple {
            source: layers.source,
            destination,
            ..Tuple::default()
        };
        let address = self.tables.address(&destination);
        if address.is_some_and(|a| a.has(Address::OWN)) {
            return travel.end(Fate::Received(device));
        }
        match self.tables.route(&tuple) {
            Some(out) if age::<F>(&mut travel.frame) => {
                let port = self.bridge_ports.get(&destination).copied().unwrap_or(out);
                self.leave(port, travel, false)
            }
            _ => travel.end(Fate::Ended),
        }
    }

    /// The hooks behind the routing decision.
    fn leave(&self, device: u32, mut travel: Travel, local: bool) -> Journey {
        let odds = match F::parse(&travel.frame.as_slice()) {
            Ok(parsed) => Odds::Ports(parsed, None),
            Err(Odd::Pass(outcome)) => Odds::Pass(outcome),
            Err(Odd::Look) => odd::<F>(&self.tables, &travel.frame, Phase::After),
        };
        let (mut parsed, datagram) = match odds {
            Odds::Ports(parsed, datagram) => (parsed, datagram),
            // It may be this node's own, to another node's port.
            Odds::Pass(_) | Odds::Later(_)
                if local && matches!(self.kind(device), DeviceKind::Uplink | DeviceKind::Tunnel) =>
            {
                return self.before(device, DeviceKind::Host, travel);
            }
            Odds::Later(_) => {
                travel.outcomes.push(Outcome::PassedFragment);
                return travel.end(Fate::Sent(device));
            }
            Odds::Pass(outcome) => {
                travel.outcomes.push(outcome);
                return travel.end(Fate::Sent(device));
            }
            Odds::Translated(_, outcome, frame) => {
                travel.outcomes.push(outcome);
                travel.frame = frame;
                return travel.end(Fate::Sent(device));
            }
        };
        if let Some(flow) = after::<F, _>(&self.tables, &mut parsed) {
            travel.outcomes.push(Outcome::ForwardedFlow);
            rewrite::<F>(&mut travel, &parsed, flow);
            if let Some(datagram) = datagram {
                let tuple = Tuple {
                    phase: Phase::After as u8,
                    ..parsed.tuple
                };
                remember_first(&self.tables, &mut travel.frame, &datagram, &tuple, parsed.flags);
            }
            return travel.end(Fate::Sent(device));
        }
        let uplink = matches!(self.kind(device), DeviceKind::Uplink | DeviceKind::Tunnel);
        let address = self.tables.address(&parsed.tuple.destination);
        if uplink && local && address.is_some_and(|a| a.has(Address::OTHER_NODE)) {
            return self.before(device, DeviceKind::Host, travel);
        }
        travel.outcomes.push(Outcome::PassedNotOurs);
        travel.end(Fate::Sent(device))
    }
}

fn rewrite<F: Net>(travel: &mut Travel, parsed: &Parsed<F::Addr>, flow: &Flow<F::Addr>) {
    travel.frame =
        translate::<F>(&travel.frame, parsed, &flow.to, Way::Tc).expect("a parsed packet is long enough");
}
