//! Whom and what the flags name.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};

use super::named;
use crate::{
    agent::live::LiveNode,
    explain::{Client, Destination, Wanted},
    source::kubernetes::KubeOptions,
    trace::{Place, Watched},
};

/// The addresses of a client.
pub(super) async fn from(client: &Client, node: &LiveNode, server: KubeOptions) -> Result<Vec<Watched>> {
    let wanted = match client {
        Client::Address(address) => return Ok(vec![Watched::Address(*address)]),
        Client::Node(name) if name == node.name() => {
            return Ok(own(node).map(Watched::Address).collect());
        }
        Client::Node(name) => Wanted::Node(name),
        Client::Pod(key) => Wanted::Pod(key),
    };
    let found = named::look_up(wanted, server, node.source()).await?;
    Ok(found.addresses.into_iter().map(Watched::Address).collect())
}

/// The addresses and ports of a destination.
pub(super) fn to(place: &Place, node: &LiveNode) -> Result<Vec<Watched>> {
    let (key, wanted) = match place {
        Place::Address(address) => return Ok(vec![Watched::Address(*address)]),
        Place::Destination(Destination::Address(to, protocol)) => {
            return Ok(vec![Watched::Port(*to, *protocol)]);
        }
        Place::Destination(Destination::Service(key, port)) => (key, port.as_deref()),
    };
    let mut watched = Vec::new();
    for served in node.services().iter().filter(|served| served.key == *key) {
        for frontend in &served.frontends {
            let is_wanted =
                wanted.is_none_or(|wanted| wanted == served.port_name || wanted == frontend.port.to_string());
            if !is_wanted {
                continue;
            }
            let at = |address| SocketAddr::new(address, frontend.port);
            if let Some(address) = frontend.address {
                watched.push(Watched::Port(at(address), served.protocol));
            } else {
                watched.extend(own(node).map(|address| Watched::NodePort(at(address), served.protocol)));
            }
        }
    }
    if watched.is_empty() {
        let port = wanted.map(|port| format!(" port {port}")).unwrap_or_default();
        bail!(
            "Service {key}{port} is not served on node {}: lb-agent status -o json lists what is",
            node.name()
        );
    }
    Ok(watched)
}

/// This node's own addresses.
fn own(node: &LiveNode) -> impl Iterator<Item = IpAddr> {
    node.network().addresses.iter().map(|address| address.address)
}
