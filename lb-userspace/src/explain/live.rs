//! Answers from the maps of a live node: what its programs read now, whoever filled them.
//!
//! *Input*: the maps, and what the maps do not hold: names, from the agent's status, and the kernel's routes. *Not here*:
//! remedies that need the objects (endpoints elsewhere, pass-through), which only a directory of manifests has.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    abi::{Address, Device, DeviceKind, FrontendKind, Protocol, Set, SourceClass, V4, V6},
    net::Net,
};

use super::{
    answer::{Answer, Remedies, Remedy, Verdict},
    cells::{Cell, Party, SOURCE_PORT},
    explainer::{ExplainError, unknown},
    inquiry::{Finding, Node, Packet, inquire},
    named::{Named, wanted},
    overlay::Without,
    position::{Position, Ways},
    probe::Probe,
    question::{Client, Destination, Question},
    socket::is_direct,
    tell::{Basis, Ground, tell},
};
use crate::{
    maps::{Lookup, MapError},
    model::{FrontendAddress, ObjectKey, Problem, is_inside},
};

/// A live node.
pub struct Live<'a> {
    /// Its name.
    pub node: String,
    /// Its maps of IPv4.
    pub v4: &'a dyn Lookup<V4>,
    /// Its maps of IPv6.
    pub v6: &'a dyn Lookup<V6>,
    /// Its devices that packets of ours pass, by interface index.
    pub devices: BTreeMap<u32, Device>,
    /// Its routes.
    pub routes: Vec<LiveRoute>,
    /// The addresses that processes may have, by interface index of the way out; the kernel takes the first one.
    pub sources: Vec<(u32, IpAddr)>,
    /// Whether processes get backends at their sockets, IPv4 and IPv6.
    pub at_sockets: [bool; 2],
    /// What it serves, by name.
    pub services: &'a [Served],
    /// What is wrong with objects.
    pub problems: &'a [Problem],
    /// Who the question names, where that has to be looked up, see [`wanted`].
    pub named: Option<Named>,
    /// The clock of its programs.
    pub tick: u32,
}

/// A route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LiveRoute {
    /// Where it leads: address and length in bits.
    pub prefix: (IpAddr, u8),
    /// Interface index of the way out.
    pub device: u32,
    /// The lowest wins.
    pub metric: u32,
}

/// A Service port that a node serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Served {
    /// Its Service.
    pub key: ObjectKey,
    /// Its name; empty if it has none.
    pub port_name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it is served.
    pub frontends: Vec<FrontendAddress>,
}

/// Answers `question` from the maps of a live node, each with a packet that the program which decides can be asked with.
///
/// # Errors
/// If the node does not know the client or the destination, with where to ask instead; if a map cannot be read.
pub fn explain_live(
    live: &Live<'_>,
    question: &Question,
) -> Result<Vec<(Answer, Option<Probe>)>, ExplainError> {
    let by_name = wanted(question, &live.node)?.is_some();
    let destinations = live.destinations(&question.to)?;
    let mut answers = Vec::new();
    for (to, protocol) in destinations {
        let found = if by_name {
            live.named_client(question, to.is_ipv6())?
        } else {
            live.client(&question.from, to.is_ipv6())?
        };
        let Some((mut client, position)) = found else {
            continue;
        };
        // A process that talks to its own node does so from the very address.
        if position == Position::Node && live.is_own(to.ip())? {
            client.addresses = vec![to.ip()];
        }
        let cell = Cell {
            packet: Packet {
                from: SocketAddr::new(client.addresses[0], SOURCE_PORT),
                to,
                protocol,
                position,
            },
            client,
            node: live.node.clone(),
        };
        let seen = Seen { live, clear: 0 };
        let (mut answer, basis) = tell(&seen, &cell)?;
        answer.remedies = live.remedies(&cell, &answer, &basis)?;
        answers.push((answer, basis.probe));
    }
    if answers.is_empty() {
        return unknown("the client has no address of the destination's family");
    }
    Ok(answers)
}

impl Live<'_> {
    fn destinations(&self, to: &Destination) -> Result<Vec<(SocketAddr, Protocol)>, ExplainError> {
        let (key, wanted) = match to {
            Destination::Address(to, protocol) => return Ok(vec![(*to, *protocol)]),
            Destination::Service(key, port) => (key, port.as_deref()),
        };
        let ports = self.services.iter().filter(|served| served.key == *key);
        let places = ports.flat_map(|served| {
            let frontends = served.frontends.iter();
            let frontends = frontends.filter(|frontend| frontend.kind == FrontendKind::ClusterIp);
            frontends.filter_map(move |frontend| {
                let is_wanted = wanted
                    .is_none_or(|wanted| wanted == served.port_name || wanted == frontend.port.to_string());
                let place = SocketAddr::new(frontend.address?, frontend.port);
                is_wanted.then_some((place, served.protocol))
            })
        });
        let places: Vec<_> = places.collect();
        if places.is_empty() {
            let port = wanted.map(|port| format!(" port {port}")).unwrap_or_default();
            return unknown(format!(
                "Service {key}{port} is not served on node {}: lb-agent status -o json lists what is",
                self.node
            ));
        }
        Ok(places)
    }

    /// The client, and as what the node sees it; `None`: it has no address of the family.
    fn client(&self, client: &Client, ipv6: bool) -> Result<Option<(Party, Position)>, ExplainError> {
        let (name, address) = match client {
            Client::Address(address) => (address.to_string(), Some(*address)),
            // Others are looked up.
            Client::Pod(_) | Client::Node(_) => (format!("node {}", self.node), self.own_address(ipv6)),
        };
        let Some(address) = address.filter(|address| address.is_ipv6() == ipv6) else {
            return Ok(None);
        };
        let position = match (client, self.class(address)?) {
            (Client::Node(_), _) | (_, SourceClass::Node) => Position::Node,
            (_, SourceClass::Pod) => Position::Pod,
            (_, SourceClass::Outside) => Position::Outside,
        };
        let party = Party {
            name,
            addresses: vec![address],
            home: (position != Position::Outside).then(|| (self.node.clone(), position)),
        };
        Ok(Some((party, position)))
    }

    /// The address that the node's processes mostly have.
    pub(super) fn own_address(&self, ipv6: bool) -> Option<IpAddr> {
        let uplinks = self
            .devices
            .values()
            .filter(|device| DeviceKind::from_number(device.kind) == DeviceKind::Uplink);
        let addresses = uplinks.map(|device| match ipv6 {
            false => IpAddr::from(device.snat4),
            true => IpAddr::from(device.snat6),
        });
        addresses.into_iter().find(|address| !address.is_unspecified())
    }

    fn class(&self, address: IpAddr) -> Result<SourceClass, MapError> {
        let found = match address {
            IpAddr::V4(ip) => self.v4.source(&ip.into())?,
            IpAddr::V6(ip) => self.v6.source(&ip.into())?,
        };
        Ok(found.map_or(SourceClass::Outside, |source| {
            SourceClass::from_number(source.class)
        }))
    }

    pub(super) fn is_own(&self, address: IpAddr) -> Result<bool, MapError> {
        let found = match address {
            IpAddr::V4(ip) => self.v4.address(&ip.into())?,
            IpAddr::V6(ip) => self.v6.address(&ip.into())?,
        };
        Ok(found.is_some_and(|address| address.has(Address::OWN)))
    }

    /// The device by which packets to `address` leave.
    fn route(&self, address: IpAddr) -> Option<u32> {
        let routes = self
            .routes
            .iter()
            .filter(|route| is_inside(address, route.prefix));
        let best = routes.max_by_key(|route| (route.prefix.1, std::cmp::Reverse(route.metric)));
        best.map(|route| route.device)
    }

    /// The address that the kernel gives to a connection of a process to `address`, if its way out has one.
    fn source_towards(&self, address: IpAddr) -> Option<IpAddr> {
        let device = self.route(address)?;
        let mut sources = self.sources.iter();
        let (_, source) = sources.find(|(of, ip)| *of == device && ip.is_ipv6() == address.is_ipv6())?;
        Some(*source)
    }

    /// The devices that packets of a client with this address pass.
    fn ways(&self, packet: &Packet, node: Option<lb_common::abi::Node>) -> Ways {
        let of_kind = |kind| {
            let mut all = self.devices.iter();
            let is_it = |(_, device): &(&u32, &Device)| DeviceKind::from_number(device.kind) == kind;
            all.find(is_it).map(|(index, _)| *index)
        };
        let kind = |index: &u32| {
            self.devices
                .get(index)
                .map(|device| DeviceKind::from_number(device.kind))
        };
        let leads_out = |index: &u32| kind(index) == Some(DeviceKind::Uplink);
        let way = |address| self.route(address);
        let to_pod = way(packet.from.ip());
        // Routes lead to the bridge; the port behind it is as good as any other of its ports.
        let bridged = to_pod.as_ref().and_then(kind) == Some(DeviceKind::Bridge);
        let pod = if bridged {
            of_kind(DeviceKind::BridgePort)
        } else {
            to_pod
        };
        let uplink = match packet.position {
            Position::Node => way(packet.to.ip()).filter(leads_out),
            Position::Outside => way(packet.from.ip()).filter(leads_out),
            Position::Pod => None,
        };
        Ways {
            loopback: node.map_or(0, |node| node.loopback),
            lb0: node.map_or(0, |node| node.lb0),
            uplink: uplink.or_else(|| of_kind(DeviceKind::Uplink)).unwrap_or(0),
            pod: pod.unwrap_or(0),
            bridged,
        }
    }

    fn remedies(&self, cell: &Cell, answer: &Answer, basis: &Basis) -> Result<Remedies, ExplainError> {
        if answer.verdict == Verdict::Forwarded && answer.cost.is_none() {
            return Ok(Remedies::default());
        }
        let good = |new: &Answer| {
            new.verdict == Verdict::Forwarded && (answer.verdict != Verdict::Forwarded || new.cost.is_none())
        };
        let mut found = Vec::new();
        if let Some((key, there)) = self.cluster_ip(cell) {
            let mut other = cell.clone();
            other.packet.to = there;
            let (new, _) = tell(&Seen { live: self, clear: 0 }, &other)?;
            if good(&new) {
                found.push(Remedy::cluster_ip(&key, there, &new));
            }
        }
        if let Some(served) = self.served(cell.packet.to, cell.packet.protocol)
            && let Some(kind) = basis.kind
            && answer.verdict != Verdict::Forwarded
        {
            let internal = kind == FrontendKind::ClusterIp;
            let clear = if internal {
                Set::INTERNAL_LOCAL
            } else {
                Set::EXTERNAL_LOCAL
            };
            let (new, _) = tell(&Seen { live: self, clear }, cell)?;
            if good(&new) {
                found.push(Remedy::policy_cluster(&served.key, internal, &new));
            }
        }
        let none = found.is_empty().then(|| {
            "the maps of one node show none; those that change objects (pass-through, endpoints elsewhere) are tried with \
             --manifests"
                .to_owned()
        });
        Ok(Remedies { found, none })
    }

    /// The ClusterIP of the Service port that is asked for, for clients of this node.
    fn cluster_ip(&self, cell: &Cell) -> Option<(ObjectKey, SocketAddr)> {
        cell.client.home.as_ref().filter(|(home, _)| *home == self.node)?;
        let Packet { to, protocol, .. } = cell.packet;
        let served = self.served(to, protocol)?;
        let mut frontends = served.frontends.iter();
        let frontend = frontends.find(|frontend| {
            let same_family = frontend.address.is_some_and(|ip| ip.is_ipv6() == to.is_ipv6());
            frontend.kind == FrontendKind::ClusterIp && same_family
        })?;
        let there = SocketAddr::new(frontend.address?, frontend.port);
        (there != to).then(|| (served.key.clone(), there))
    }

    fn served(&self, to: SocketAddr, protocol: Protocol) -> Option<&Served> {
        let find = |address: Option<IpAddr>| {
            let mut all = self.services.iter().filter(|served| served.protocol == protocol);
            all.find(|served| {
                let mut frontends = served.frontends.iter();
                frontends.any(|frontend| frontend.address == address && frontend.port == to.port())
            })
        };
        find(Some(to.ip())).or_else(|| {
            let found = match to.ip() {
                IpAddr::V4(ip) => self.v4.address(&ip.into()),
                IpAddr::V6(ip) => self.v6.address(&ip.into()),
            };
            let nodes = Address::OWN | Address::NODE_PORTS | Address::OTHER_NODE;
            let is_node = found
                .ok()
                .flatten()
                .is_some_and(|address| address.flags & nodes != 0);
            find(None).filter(|_| is_node)
        })
    }
}

/// A live node, as it would be without some flags of its sets.
struct Seen<'a> {
    live: &'a Live<'a>,
    clear: u16,
}

impl Seen<'_> {
    fn ask<F: Net>(&self, maps: &dyn Lookup<F>, packet: &Packet) -> Result<Option<Finding>, MapError> {
        let own = self.live.ways(packet, maps.node()?);
        let route = |address: IpAddr| match self.live.is_own(address) {
            Ok(true) => Some(own.loopback),
            _ if address.is_loopback() => Some(own.loopback),
            _ => self.live.route(address),
        };
        let node = Node {
            maps: &Without {
                maps,
                flags: self.clear,
            },
            route: &route,
            ways: own,
            tick: self.live.tick,
        };
        let mut finding = inquire::<F>(node, packet)?;
        if let Some(found) = &mut finding
            && self.live.at_sockets[F::INDEX]
            && is_direct::<F>(node, packet)
        {
            found.direct = true;
            for choice in found
                .choices
                .iter_mut()
                .filter(|choice| choice.here && !choice.host)
            {
                choice.source = self
                    .live
                    .source_towards(choice.backend.ip())
                    .unwrap_or(choice.source);
            }
        }
        Ok(finding)
    }
}

impl Ground for Seen<'_> {
    fn inquire(&self, packet: &Packet) -> Result<Option<Finding>, MapError> {
        if packet.to.is_ipv4() {
            self.ask::<V4>(self.live.v4, packet)
        } else {
            self.ask::<V6>(self.live.v6, packet)
        }
    }

    fn port_at(&self, to: SocketAddr, protocol: Protocol) -> Option<(ObjectKey, String)> {
        let served = self.live.served(to, protocol)?;
        Some((served.key.clone(), served.port_name.clone()))
    }

    fn proxied_by(&self, _: IpAddr) -> Option<ObjectKey> {
        // Such an address is in no map.
        None
    }

    fn name_of(&self, _: IpAddr) -> Option<String> {
        None
    }

    fn node_of(&self, _: IpAddr) -> Option<String> {
        None
    }

    fn notes(&self, object: &str) -> Vec<String> {
        let about = self
            .live
            .problems
            .iter()
            .filter(|problem| problem.object == object);
        about.map(|problem| problem.message.clone()).collect()
    }
}
