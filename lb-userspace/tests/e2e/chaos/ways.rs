//! The Services that traffic goes to, who asks them by which address, and whom backends must then see.

use std::net::{IpAddr, SocketAddr};

use lb_lab::{Answer, Dual, Family, Lab, Proto};

use crate::{
    cluster::Cluster,
    reach::Address,
    service::{Endpoint, Service},
};

/// Backends that always serve, one on each node.
const STEADY: [&str; 2] = ["pod1-1", "pod2-1"];
/// Backends that come and go, one on each node. The pods live on: what was established with them stays.
const PASSING: [&str; 2] = ["pod1-2", "pod2-2"];

/// A Service that traffic goes to: its number, name, NodePort, and whether clients' addresses are kept.
struct Target {
    number: u16,
    name: &'static str,
    node_port: u16,
    local: bool,
}

/// One for each protocol and policy: datagrams rightly go elsewhere once their backend is gone, connections stay.
const TARGETS: [Target; 4] = [
    Target {
        number: 10,
        name: "shop",
        node_port: 30_080,
        local: false,
    },
    Target {
        number: 11,
        name: "shop-local",
        node_port: 30_081,
        local: true,
    },
    Target {
        number: 12,
        name: "voice",
        node_port: 30_082,
        local: false,
    },
    Target {
        number: 13,
        name: "voice-local",
        node_port: 30_083,
        local: true,
    },
];

fn target(proto: Proto, local: bool) -> &'static Target {
    &TARGETS[usize::from(proto == Proto::Udp) * 2 + usize::from(local)]
}

impl Target {
    fn of(&self, lab: &Lab) -> Service {
        let service =
            Service::new(lab, self.name, self.number).load_balancer(lab, self.number, self.node_port);
        if self.local {
            service.set("externalTrafficPolicy", "Local")
        } else {
            service
        }
    }
}

/// Services that traffic goes to, each in all states that no traffic may notice.
pub(super) fn services(lab: &Lab) -> Vec<Vec<Service>> {
    let states = |target: &Target| {
        let is_udp = target.number >= 12;
        let mut states = Vec::new();
        for which in 0..9 {
            let mut endpoints = STEADY.map(|name| Endpoint::of(lab, name)).to_vec();
            for (name, state) in PASSING.iter().zip([which % 3, which / 3]) {
                let endpoint = Endpoint::of(lab, name);
                match state {
                    0 => endpoints.push(endpoint),
                    1 => endpoints.push(endpoint.draining()),
                    // Gone: established connections stay, datagrams would not.
                    _ if is_udp => endpoints.push(endpoint),
                    _ => {}
                }
            }
            let service = target.of(lab).with_endpoints(endpoints);
            states.push(match which % 4 {
                // Every node has a backend of its own: new connections of the cluster's clients always have one.
                1 => service.set("internalTrafficPolicy", "Local"),
                3 => service.set("sessionAffinity", "ClientIP"),
                _ => service,
            });
        }
        states
    };
    TARGETS.iter().map(states).collect()
}

/// Whom a backend sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    /// The client itself.
    Client,
    /// The client itself if the backend is on this node, else the node.
    ClientOn(&'static str),
    /// This node, by its own address.
    Node(&'static str),
}

/// Who asks whom.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// Who.
    pub(super) from: &'static str,
    /// By which address.
    pub(super) to: SocketAddr,
    pub(super) proto: Proto,
    name: String,
    seen: Seen,
    client: IpAddr,
    nodes: Vec<(String, Dual)>,
}

impl Way {
    /// All of them.
    pub(super) fn all(cluster: &Cluster) -> Vec<Self> {
        use Address::{ClusterIp, LoadBalancer, NodePort};
        let kinds = [
            ("client", LoadBalancer, false, Seen::ClientOn("node1")),
            ("client", NodePort("node2"), false, Seen::ClientOn("node2")),
            ("client", LoadBalancer, true, Seen::Client),
            ("client", NodePort("node2"), true, Seen::Client),
            ("pod1-3", ClusterIp, false, Seen::Client),
            ("pod2-3", ClusterIp, true, Seen::Client),
            ("node1", ClusterIp, false, Seen::Node("node1")),
            ("node2", NodePort("node2"), false, Seen::Node("node2")),
        ];
        let nodes: Vec<_> = cluster
            .lab
            .topology()
            .nodes
            .iter()
            .map(|node| (node.name.clone(), node.addr))
            .collect();
        let mut ways = Vec::new();
        for proto in Proto::BOTH {
            for family in Family::BOTH {
                for (from, address, local, seen) in kinds {
                    let target = target(proto, local);
                    let to = address.socket(cluster, family, target.number, target.node_port);
                    ways.push(Self {
                        from,
                        to,
                        proto,
                        name: format!("{proto} {from} to {} by {address:?} {to}", target.name),
                        seen,
                        client: cluster.lab.at(from).expect("it is there").ip(family),
                        nodes: nodes.clone(),
                    });
                }
            }
        }
        ways
    }

    /// In words.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the backend saw whom it must see. Not by which port: a client may use one port towards two addresses of a Service,
    /// and at the backend that cannot be one connection.
    pub(super) fn judge(&self, answer: &Answer) -> Result<(), String> {
        let family = if self.to.is_ipv4() { Family::V4 } else { Family::V6 };
        let address = |node: &str| {
            let (_, addresses) = self.nodes.iter().find(|(name, _)| name == node)?;
            Some(addresses.of(family))
        };
        let host = answer
            .name
            .strip_prefix("pod")
            .and_then(|rest| rest.split_once('-'))
            .map(|(node, _)| format!("node{node}"));
        let node = match self.seen {
            Seen::Client => None,
            Seen::ClientOn(node) if host.as_deref() == Some(node) => None,
            Seen::ClientOn(node) | Seen::Node(node) => address(node),
        };
        let (seen, wanted) = (answer.peer.ip(), node.unwrap_or(self.client));
        if seen == wanted {
            return Ok(());
        }
        Err(format!(
            "{} at {} saw {seen}, not {wanted}",
            answer.name, answer.local
        ))
    }
}

/// A Service that nobody asks: its addresses are its own.
pub(super) fn bystander(lab: &Lab, number: u16) -> Vec<Option<Service>> {
    let service = |pods: &[&str]| Service::new(lab, &format!("other{number}"), 100 + number).with(lab, pods);
    let port = 30_200 + number;
    vec![
        None,
        Some(service(&["pod1-1"])),
        Some(service(&["pod1-1", "pod2-2", "pod1-2"])),
        Some(service(&[])),
        Some(service(&["pod2-1", "pod2-2"]).set("sessionAffinity", "ClientIP")),
        Some(service(&["pod2-1"]).node_port(port)),
        Some(
            service(&["pod1-2", "pod2-1"])
                .node_port(port)
                .set("externalTrafficPolicy", "Local"),
        ),
        Some(service(&["pod1-2"]).set("internalTrafficPolicy", "Local")),
    ]
}
