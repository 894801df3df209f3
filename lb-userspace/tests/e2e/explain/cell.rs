//! The cells: who asks for what, in one lab.

use std::{fmt, net::SocketAddr, time::Duration};

use lb_lab::{Family, Options, PodNetwork, Proto, Shares};

use super::told::Told;
use crate::{
    cluster::{Cluster, socket},
    reach::Address,
    rows::MANY,
    service::PORT,
};

/// The first Service's NodePort.
pub(super) const NODE_PORT: u16 = 30_080;
/// The Services, by number from 10.
pub(super) const SERVICES: [&str; 4] = ["local", "wide", "near", "empty"];
/// How long an answer may take on a busy machine, and how long silence is listened to.
const ANSWER: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_millis(400);

/// A client: where it is, the node that decides about it (its number, from 0), and whether that is its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Client {
    pub(super) from: &'static str,
    pub(super) node: usize,
    pub(super) inside: bool,
}

pub(super) const CLIENTS: [Client; 6] = [
    inside("pod1-1", 0),
    inside("pod3-1", 2),
    inside("node1", 0),
    inside("node3", 2),
    outside(0),
    outside(2),
];

const fn inside(from: &'static str, node: usize) -> Client {
    Client {
        from,
        node,
        inside: true,
    }
}

const fn outside(node: usize) -> Client {
    Client {
        from: "client",
        node,
        inside: false,
    }
}

/// Which address of a Service is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    ClusterIp,
    /// A port of it that the Service does not have.
    OtherPort,
    LoadBalancer,
    /// Of the node that decides.
    NodePort,
    /// Of node2.
    NodePortElsewhere,
}

/// A cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cell {
    pub(super) network: PodNetwork,
    pub(super) client: Client,
    /// Number of the Service, from 10.
    pub(super) service: u16,
    pub(super) kind: Kind,
    pub(super) family: Family,
    pub(super) proto: Proto,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            network,
            client: Client { from, node, .. },
            service,
            kind,
            family,
            proto,
        } = self;
        let (service, node) = (SERVICES[usize::from(service - 10)], node + 1);
        write!(
            f,
            "{network:?}/{from}-by-node{node}/{service}/{kind:?}/{family:?}/{proto:?}"
        )
    }
}

impl Cell {
    /// All of them in one network, client by client.
    pub(super) fn all(network: PodNetwork) -> Vec<Self> {
        let places = [
            (11, Kind::ClusterIp),
            (12, Kind::ClusterIp),
            (13, Kind::ClusterIp),
            (10, Kind::LoadBalancer),
            (11, Kind::LoadBalancer),
            (13, Kind::LoadBalancer),
            (10, Kind::NodePort),
            (11, Kind::NodePort),
            (13, Kind::NodePort),
            (10, Kind::NodePortElsewhere),
            (11, Kind::OtherPort),
        ];
        let mut all = Vec::new();
        for client in CLIENTS {
            for family in Family::BOTH {
                for proto in Proto::BOTH {
                    let here = |kind: &Kind| {
                        client.inside || !matches!(kind, Kind::NodePortElsewhere | Kind::OtherPort)
                    };
                    let places = places.iter().filter(|(_, kind)| here(kind));
                    all.extend(places.map(|(service, kind)| Self {
                        network,
                        client,
                        service: *service,
                        kind: *kind,
                        family,
                        proto,
                    }));
                }
            }
        }
        all
    }

    /// The node that decides.
    pub(super) fn node(&self) -> &'static str {
        ["node1", "node2", "node3"][self.client.node]
    }

    /// The destination.
    pub(super) fn to(&self, cluster: &Cluster) -> SocketAddr {
        let Self { service, family, .. } = *self;
        let port = NODE_PORT + service;
        match self.kind {
            Kind::ClusterIp => Address::ClusterIp.socket(cluster, family, service, 0),
            Kind::OtherPort => {
                let addresses = cluster.lab.topology().plan.services.nth(service);
                socket(addresses, family, PORT + 1)
            }
            Kind::LoadBalancer => Address::LoadBalancer.socket(cluster, family, service, 0),
            Kind::NodePort => Address::NodePort(self.node()).socket(cluster, family, service, port),
            Kind::NodePortElsewhere => Address::NodePort("node2").socket(cluster, family, service, port),
        }
    }

    /// Asks on the node that decides, with these arguments more.
    pub(super) fn ask(&self, cluster: &Cluster, more: &[&str]) -> Result<Told, String> {
        let Client { from, node, inside } = self.client;
        let place = cluster.lab.at(from).expect("the client is there");
        let who = match inside && from.starts_with("node") {
            true => format!("node/{from}"),
            false => place.ip(self.family).to_string(),
        };
        let to = self.to(cluster);
        let to = match self.proto {
            Proto::Tcp => to.to_string(),
            Proto::Udp => format!("{to}/udp"),
        };
        let question = [
            "explain",
            "--from",
            &who,
            "--to",
            &to,
            "--via",
            self.node(),
            "-o",
            "json",
        ];
        Told::of(&cluster.agent(node, &[&question[..], more].concat()))
    }

    /// Connects to `to`; `verdict` is what is expected to come of it.
    pub(super) fn probe(&self, cluster: &Cluster, to: SocketAddr, verdict: &str) -> Shares {
        let (n, options) = match verdict {
            "forwarded" => (MANY, Options::within(ANSWER)),
            "rejected" => (4, Options::within(ANSWER)),
            _ => (2, Options::within(SILENCE)),
        };
        let place = cluster.lab.at(self.client.from).expect("the client is there");
        place
            .probe_with(self.proto, to, n, &options)
            .expect("the probe runs")
    }

    /// Sends what the client sends by way of its node.
    pub(super) fn steer(&self, cluster: &Cluster) {
        if !self.client.inside {
            let steered = cluster.lab.steer(self.client.from, self.node());
            steered.expect("the client can be steered");
        }
    }
}
