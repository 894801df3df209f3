//! Which cells a question is about: who the client is, to which addresses, and which node decides.

use std::net::{IpAddr, SocketAddr};

use lb_common::abi::Protocol;

use super::{
    cluster::Cluster,
    explainer::{ExplainError, unknown},
    inquiry::Packet,
    position::Position,
    question::{Client, Destination, Question},
};
use crate::model::{NodeObject, ObjectKey, Service};

/// The source port that a client is taken to have: any will do.
pub(super) const SOURCE_PORT: u16 = 40_000;

/// A client, as the objects tell.
#[derive(Clone, Debug)]
pub(super) struct Party {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    /// Where it is, if it is on a node, and as what that node sees it.
    pub(super) home: Option<(String, Position)>,
}

/// One cell: a client, a destination, and the node that decides.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) client: Party,
    pub(super) node: String,
    pub(super) packet: Packet,
}

/// Everything that `question` is about.
pub(super) fn cells(cluster: &Cluster, question: &Question) -> Result<Vec<Cell>, ExplainError> {
    if cluster.nodes.is_empty() {
        return unknown(
            "there is no Node among the objects, so nobody decides; add the nodes' manifests (kubectl get nodes -o yaml)",
        );
    }
    let client = party(cluster, &question.from)?;
    let destinations = destinations(cluster, &question.to)?;
    let mut cells = Vec::new();
    for (to, protocol) in &destinations {
        let Some(own) = client.addresses.iter().find(|ip| ip.is_ipv6() == to.is_ipv6()) else {
            continue;
        };
        for (node, position) in deciders(cluster, question.via.as_deref(), &client, to.ip())? {
            // A process that talks to its own node does so from the very address.
            let object = node_object(cluster, &node)?;
            let own_address = position == Position::Node && object.addresses.contains(&to.ip());
            let source = if own_address { to.ip() } else { *own };
            cells.push(Cell {
                client: client.clone(),
                packet: Packet {
                    from: SocketAddr::new(source, SOURCE_PORT),
                    to: *to,
                    protocol: *protocol,
                    position,
                },
                node,
            });
        }
    }
    if cells.is_empty() {
        let (family, other) = match destinations.first() {
            Some((to, _)) if to.is_ipv4() => ("IPv4", "IPv6"),
            _ => ("IPv6", "IPv4"),
        };
        return unknown(format!(
            "{} has no {family} address, and the destination has no {other} one",
            client.name
        ));
    }
    Ok(cells)
}

fn party(cluster: &Cluster, client: &Client) -> Result<Party, ExplainError> {
    match client {
        Client::Pod(key) => pod(cluster, key),
        Client::Node(name) => {
            let node = node_object(cluster, name)?;
            if node.addresses.is_empty() {
                return unknown(format!(
                    "Node {name} has no address of type InternalIP; add it to its status"
                ));
            }
            Ok(Party {
                name: format!("node {name}"),
                addresses: node.addresses.clone(),
                home: Some((name.clone(), Position::Node)),
            })
        }
        Client::Address(address) => {
            let home = match cluster.node_of_address(*address) {
                Some(node) => Some((node.name.clone(), Position::Node)),
                None => cluster
                    .node_of_pod_address(*address)
                    .map(|node| (node.to_owned(), Position::Pod)),
            };
            Ok(Party {
                name: cluster.name_of(*address).unwrap_or_else(|| address.to_string()),
                addresses: vec![*address],
                home,
            })
        }
    }
}

fn pod(cluster: &Cluster, key: &ObjectKey) -> Result<Party, ExplainError> {
    let Some(pod) = cluster.pods.get(key) else {
        return unknown(format!(
            "Pod {key} is not known: neither its manifest is there nor an endpoint whose targetRef names it; add its manifest, \
             or give its address, and its node as --via"
        ));
    };
    let Some(node) = &pod.node else {
        return unknown(format!(
            "Pod {key} has no node: its manifest has no spec.nodeName; add that, or give its address, and its node as --via"
        ));
    };
    let object = node_object(cluster, node)?;
    let shares = pod.host_network || pod.addresses.iter().any(|ip| object.addresses.contains(ip));
    let (addresses, position) = if shares {
        (object.addresses.clone(), Position::Node)
    } else {
        (pod.addresses.iter().copied().collect(), Position::Pod)
    };
    if addresses.is_empty() {
        return unknown(format!(
            "Pod {key} has no address yet: add status.podIPs to its manifest"
        ));
    }
    Ok(Party {
        name: format!("pod {key}"),
        addresses,
        home: Some((node.clone(), position)),
    })
}

pub(super) fn node_object<'a>(cluster: &'a Cluster, name: &str) -> Result<&'a NodeObject, ExplainError> {
    match cluster.nodes.get(name) {
        Some(node) => Ok(node),
        None => {
            let known: Vec<_> = cluster.nodes.keys().map(String::as_str).collect();
            unknown(format!(
                "Node {name} is not known; there are {}: name one of them, or add its manifest",
                known.join(", ")
            ))
        }
    }
}

fn destinations(cluster: &Cluster, to: &Destination) -> Result<Vec<(SocketAddr, Protocol)>, ExplainError> {
    let (key, wanted) = match to {
        Destination::Address(to, protocol) => return Ok(vec![(*to, *protocol)]),
        Destination::Service(key, port) => (key, port.as_deref()),
    };
    let Some(service) = cluster.services.get(key) else {
        return unknown(if cluster.unserved.contains(key) {
            format!(
                "Service {key} is not served: it is headless, an ExternalName, another proxy's, or without a clusterIP; \
                 connect to its pods by DNS, or give it a clusterIP"
            )
        } else {
            format!("Service {key} is not known; add its manifest, or name another")
        });
    };
    let is_wanted =
        |name: &str, number: u16| wanted.is_none_or(|wanted| wanted == name || wanted == number.to_string());
    let ports: Vec<_> = service
        .ports
        .iter()
        .filter(|port| is_wanted(&port.name, port.port))
        .collect();
    if ports.is_empty() {
        return unknown(format!(
            "Service {key} has no port `{}`; it has {}",
            wanted.unwrap_or_default(),
            ports_of(service)
        ));
    }
    let all = service.cluster_ips.iter().flat_map(|ip| {
        let ports = ports.iter();
        ports.map(|port| (SocketAddr::new(*ip, port.port), port.protocol))
    });
    Ok(all.collect())
}

fn ports_of(service: &Service) -> String {
    let ports = service.ports.iter().map(|port| match port.name.as_str() {
        "" => format!("{}/{}", port.port, port.protocol),
        name => format!("{name} ({}/{})", port.port, port.protocol),
    });
    ports.collect::<Vec<_>>().join(", ")
}

/// The nodes whose programs decide first, and as what each sees the client.
fn deciders(
    cluster: &Cluster,
    via: Option<&str>,
    client: &Party,
    to: IpAddr,
) -> Result<Vec<(String, Position)>, ExplainError> {
    match (via, &client.home) {
        (Some(via), Some((home, position))) if via == home => Ok(vec![(home.clone(), *position)]),
        (Some(via), _) => Ok(vec![(node_object(cluster, via)?.name.clone(), Position::Outside)]),
        (None, Some((home, position))) => Ok(vec![(home.clone(), *position)]),
        (None, None) => Ok(match cluster.node_of_address(to) {
            Some(node) => vec![(node.name.clone(), Position::Outside)],
            // Whoever routes to the address chooses the node.
            None => cluster
                .nodes
                .keys()
                .map(|node| (node.clone(), Position::Outside))
                .collect(),
        }),
    }
}
