//! Section 2, the rows about slices, and section 4: which endpoints there are, and which of them may be used.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{Owner, Protocol, address, port_name};
use crate::{cluster::Cluster, places};

/// An endpoint of one service port, as one slice has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Endpoint {
    at: SocketAddr,
    node: Option<String>,
    ready: bool,
    serving: bool,
    terminating: bool,
    zone_hints: Vec<String>,
    node_hints: Vec<String>,
    /// Its node is another one whose object says that it is not ready.
    node_lost: bool,
}

impl Endpoint {
    /// Section 1: its nodeName equals this node's name.
    fn is_local(&self) -> bool {
        self.node.as_deref() == Some(places::NODES[0])
    }

    /// Section 4: never used unless ready, or both serving and terminating.
    fn is_last_resort(&self) -> bool {
        self.serving && self.terminating
    }
}

/// At most so many ways to read objects that contradict each other.
const READINGS: usize = 64;

/// All endpoints of a service port, each once; several ways, where copies of one endpoint differ.
///
/// Section 2: the same ip:port in several slices is one endpoint; if the copies disagree on locality, local wins.
/// On which copy's conditions and hints count, nothing is said: any, but one and the same for all purposes.
pub(super) fn readings(cluster: &Cluster, owner: &Owner<'_>, ipv6: bool) -> Vec<Vec<Endpoint>> {
    let mut copies: BTreeMap<SocketAddr, Vec<Endpoint>> = BTreeMap::new();
    for endpoint in all(cluster, owner, ipv6) {
        let same = copies.entry(endpoint.at).or_default();
        if !same.contains(&endpoint) {
            same.push(endpoint);
        }
    }
    let mut readings = vec![Vec::new()];
    for same in copies.into_values() {
        let any_local = same.iter().any(Endpoint::is_local);
        let candidates: Vec<_> = same
            .into_iter()
            .filter(|copy| copy.is_local() == any_local)
            .collect();
        let longer = readings.iter().flat_map(|reading: &Vec<Endpoint>| {
            let with = |copy: &Endpoint| [reading.clone(), vec![copy.clone()]].concat();
            candidates.iter().map(with)
        });
        readings = longer.take(READINGS).collect();
    }
    // The semantics do not know lost nodes; users know that the terminating pods of one outlive it in the API
    // for ever. Both readings are accepted: with them as a last resort, and without.
    let without_lost: Vec<Vec<Endpoint>> = readings
        .iter()
        .map(|reading| {
            let kept = reading
                .iter()
                .filter(|endpoint| endpoint.ready || !endpoint.node_lost);
            kept.cloned().collect()
        })
        .collect();
    readings.extend(without_lost);
    readings.dedup();
    readings
}

/// The endpoints, so many times as slices have them.
fn all(cluster: &Cluster, owner: &Owner<'_>, ipv6: bool) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for slice in cluster.slices().filter(|slice| belongs(slice, owner, ipv6)) {
        for port in slice.ports.iter().flatten() {
            // A port without name or number is ignored; matching is by name and protocol, never by number.
            let (Some(name), Some(number)) = (&port.name, port.port) else {
                continue;
            };
            let wanted = Protocol::of(owner.port.protocol.as_deref());
            if name != port_name(owner.port) || Protocol::of(port.protocol.as_deref()) != wanted {
                continue;
            }
            let Some(number) = u16::try_from(number).ok().filter(|number| *number != 0) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                // Only the first address is used.
                let Some(ip) = endpoint.addresses.first().and_then(|text| address(text)) else {
                    continue;
                };
                let conditions = endpoint.conditions.clone().unwrap_or_default();
                let hints = endpoint.hints.clone().unwrap_or_default();
                let node = endpoint.node_name.clone();
                let lost = node
                    .as_deref()
                    .is_some_and(|node| node != places::NODES[0] && is_lost(cluster, node));
                all.push(Endpoint {
                    at: SocketAddr::new(ip, number),
                    node,
                    // Section 4: nil means true, true, false.
                    ready: conditions.ready.unwrap_or(true),
                    serving: conditions.serving.unwrap_or(true),
                    terminating: conditions.terminating.unwrap_or(false),
                    zone_hints: hints
                        .for_zones
                        .into_iter()
                        .flatten()
                        .map(|zone| zone.name)
                        .collect(),
                    node_hints: hints
                        .for_nodes
                        .into_iter()
                        .flatten()
                        .map(|node| node.name)
                        .collect(),
                    node_lost: lost,
                });
            }
        }
    }
    all
}

/// Section 2: by label, in the same namespace; filtered by the labels that hide Services; of this family.
fn belongs(slice: &EndpointSlice, owner: &Owner<'_>, ipv6: bool) -> bool {
    let labels = slice.metadata.labels.clone().unwrap_or_default();
    let hidden = labels.contains_key("service.kubernetes.io/service-proxy-name")
        || labels.contains_key("service.kubernetes.io/headless");
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    !hidden
        && labels.get("kubernetes.io/service-name") == owner.service.metadata.name.as_ref()
        && slice.metadata.namespace == owner.service.metadata.namespace
        && slice.address_type == family
}

fn is_lost(cluster: &Cluster, name: &str) -> bool {
    let status = cluster.node(name).and_then(|node| node.status.as_ref());
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let mut ready = conditions.into_iter().flatten().filter(|c| c.type_ == "Ready");
    ready.any(|condition| condition.status != "True")
}

/// Section 4, Cluster set.
pub(super) fn cluster_set(cluster: &Cluster, endpoints: &[Endpoint]) -> BTreeSet<SocketAddr> {
    let ready: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.ready).collect();
    if ready.is_empty() {
        let last = endpoints.iter().filter(|endpoint| endpoint.is_last_resort());
        return last.map(|endpoint| endpoint.at).collect();
    }
    // 2a.
    let this_node = places::NODES[0];
    let for_node = |endpoint: &&&Endpoint| endpoint.node_hints.iter().any(|node| node == this_node);
    let all_have_nodes = ready.iter().all(|endpoint| !endpoint.node_hints.is_empty());
    if all_have_nodes && ready.iter().any(|endpoint| for_node(&endpoint)) {
        return ready
            .iter()
            .filter(for_node)
            .map(|endpoint| endpoint.at)
            .collect();
    }
    // 2b.
    let labels = cluster
        .node(this_node)
        .and_then(|node| node.metadata.labels.as_ref());
    let zone = labels.and_then(|labels| labels.get("topology.kubernetes.io/zone"));
    let zone = zone.filter(|zone| !zone.is_empty());
    let for_zone = |endpoint: &&&Endpoint| zone.is_some_and(|zone| endpoint.zone_hints.contains(zone));
    let all_have_zones = ready.iter().all(|endpoint| !endpoint.zone_hints.is_empty());
    if all_have_zones && ready.iter().any(|endpoint| for_zone(&endpoint)) {
        return ready
            .iter()
            .filter(for_zone)
            .map(|endpoint| endpoint.at)
            .collect();
    }
    // 2c.
    ready.iter().map(|endpoint| endpoint.at).collect()
}

/// Section 4, Local set.
pub(super) fn local_set(endpoints: &[Endpoint]) -> BTreeSet<SocketAddr> {
    let local = || endpoints.iter().filter(|endpoint| endpoint.is_local());
    let ready: BTreeSet<_> = local()
        .filter(|endpoint| endpoint.ready)
        .map(|endpoint| endpoint.at)
        .collect();
    if ready.is_empty() {
        let last = local().filter(|endpoint| endpoint.is_last_resort());
        return last.map(|endpoint| endpoint.at).collect();
    }
    ready
}

/// Section 4, "has any endpoint", where Local is in play.
pub(super) fn exist(endpoints: &[Endpoint]) -> bool {
    endpoints
        .iter()
        .any(|endpoint| endpoint.ready || endpoint.is_last_resort())
}

/// Endpoints that serve, or get new flows, in some reading.
pub(super) fn some_serving(cluster: &Cluster, owner: &Owner<'_>, ipv6: bool) -> BTreeSet<SocketAddr> {
    let endpoints = all(cluster, owner, ipv6);
    let some = endpoints
        .iter()
        .filter(|endpoint| endpoint.serving || endpoint.ready);
    some.map(|endpoint| endpoint.at).collect()
}

/// Endpoints that any reading has (with `serving`: and that serve in any).
pub(super) fn certain(
    cluster: &Cluster,
    owner: &Owner<'_>,
    ipv6: bool,
    serving: bool,
) -> BTreeSet<SocketAddr> {
    let endpoints = all(cluster, owner, ipv6);
    let lasting = |at: &SocketAddr| {
        let mut copies = endpoints.iter().filter(|endpoint| endpoint.at == *at);
        !serving || copies.all(|copy| copy.serving)
    };
    let all: BTreeSet<_> = endpoints.iter().map(|endpoint| endpoint.at).collect();
    all.into_iter().filter(lasting).collect()
}
