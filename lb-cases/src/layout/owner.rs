//! Who has which of a scenario's addresses.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result};
use lb_lab::Cidr;
use serde_json::Value;

use crate::{
    address::lenient,
    format::{Case, ClientKind, Node, Protocol},
};

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// The node with the agent.
    OwnNode,
    /// A pod of that node.
    OwnPod,
    /// Another node, or a pod of one.
    Peer,
    /// A client outside.
    Outside,
    /// A Service, or nobody at all.
    Nobody,
}

/// One address of one endpoint, with one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) ip: IpAddr,
    pub(crate) port: Option<u16>,
    pub(crate) proto: Protocol,
    pub(crate) node: Option<String>,
}

/// Everything that slices of any step name as an endpoint. Lenient: what the agent must make of it is not
/// the lab's concern, only that somebody is there who would notice.
pub(crate) fn endpoints(case: &Case) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for step in case.steps() {
        for slice in &step.state.endpointslices {
            let list = |key: &str| slice[key].as_array().into_iter().flatten();
            let mut ports: Vec<_> = list("ports")
                .map(|port| {
                    let number = port["port"].as_u64().and_then(|port| u16::try_from(port).ok());
                    (number.filter(|port| *port > 0), protocol(port))
                })
                .collect();
            if ports.is_empty() {
                ports.push((None, Protocol::Tcp));
            }
            for endpoint in list("endpoints") {
                let addresses = endpoint["addresses"].as_array().into_iter().flatten();
                for ip in addresses.filter_map(|ip| lenient(ip.as_str()?)) {
                    all.extend(ports.iter().map(|(port, proto)| Endpoint {
                        ip,
                        port: *port,
                        proto: *proto,
                        node: endpoint["nodeName"].as_str().map(Into::into),
                    }));
                }
            }
        }
    }
    all
}

fn protocol(port: &Value) -> Protocol {
    match port["protocol"].as_str() {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

/// A node's own addresses, the primary one first.
pub(crate) fn node_ips(node: &Node) -> impl Iterator<Item = IpAddr> {
    let more = node.ip6.iter().chain(&node.extra_ips);
    std::iter::once(&node.ip).chain(more).map(|ip| ip.0)
}

/// A node's ranges of pod addresses.
pub(crate) fn pod_cidrs(node: &Node) -> Result<Vec<Cidr>> {
    let texts = node.pod_cidr.iter().chain(&node.pod_cidr6);
    texts
        .map(|text| text.parse().with_context(|| format!("node {}", node.name)))
        .collect()
}

/// Every node of every step, once by name; `self` first.
pub(crate) fn nodes(case: &Case) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for node in case.steps().into_iter().flat_map(|step| step.state.nodes) {
        if !nodes.iter().any(|known| known.name == node.name) {
            nodes.push(node);
        }
    }
    nodes.sort_by_key(|node| !node.is_self);
    nodes
}

/// The owner of every address in the scenario.
pub(crate) fn owners(case: &Case) -> Result<BTreeMap<IpAddr, Owner>> {
    let nodes = nodes(case);
    let own_name = case.self_node()?.name.clone();
    let mut owners = BTreeMap::new();
    for node in &nodes {
        let owner = if node.is_self { Owner::OwnNode } else { Owner::Peer };
        for ip in node_ips(node) {
            owners.entry(ip).or_insert(owner);
        }
    }
    let steps = case.steps();
    let flows = || steps.iter().flat_map(|step| step.flows);
    let checks = steps.iter().flat_map(|step| step.http).map(|http| &http.client);
    let clients: Vec<_> = flows().map(|flow| &flow.client).chain(checks).collect();
    let endpoints = endpoints(case);
    // A pod is on the node that it is said to be on, whatever its address looks like; where slices disagree, here.
    let on = |node: &String| {
        if *node == own_name {
            Owner::OwnPod
        } else {
            Owner::Peer
        }
    };
    let said = endpoints
        .iter()
        .filter_map(|end| Some((end.ip, on(end.node.as_ref()?))));
    let pods = clients.iter().filter(|client| client.kind == ClientKind::Pod);
    let said = said.chain(pods.filter_map(|pod| Some((pod.ip.0, on(pod.node.as_ref()?)))));
    let (here, elsewhere): (Vec<_>, Vec<_>) = said.partition(|(_, owner)| *owner == Owner::OwnPod);
    for (ip, owner) in here.into_iter().chain(elsewhere) {
        if !ip.is_loopback() {
            owners.entry(ip).or_insert(owner);
        }
    }
    let mut ranges = Vec::new();
    for node in &nodes {
        let owner = if node.is_self { Owner::OwnPod } else { Owner::Peer };
        ranges.extend(pod_cidrs(node)?.into_iter().map(|cidr| (cidr, owner)));
    }
    let by_range = |ip: IpAddr| {
        let range = ranges.iter().find(|(cidr, _)| cidr.contains(ip));
        range.map(|(_, owner)| *owner)
    };
    let mut add = |ip: IpAddr, otherwise: Owner| {
        if !ip.is_loopback() {
            owners.entry(ip).or_insert(by_range(ip).unwrap_or(otherwise));
        }
    };
    for client in clients {
        match client.kind {
            ClientKind::External => add(client.ip.0, Owner::Outside),
            ClientKind::Pod => add(client.ip.0, Owner::OwnPod),
            // Its own address is known already. Another one (a Service's) is given to it for the flow only.
            ClientKind::Node if client.node.as_ref().is_none_or(|node| *node == own_name) => {}
            ClientKind::Node => add(client.ip.0, Owner::Peer),
        }
    }
    for endpoint in &endpoints {
        add(endpoint.ip, Owner::Peer);
    }
    for flow in flows() {
        for backend in &flow.expect.backends {
            add(backend.ip(), Owner::Peer);
        }
        add(flow.dst.ip.0, Owner::Nobody);
    }
    Ok(owners)
}
