//! Sections 2, 3 and 7: which Services count, and which places they are served on.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort};

use super::{
    Protocol, Settings, address,
    addresses::{prefix, prefix_contains},
    port_name,
};
use crate::{cluster::Cluster, places};

/// Which of a Service's addresses it is. The class of the destination decides which policy applies (section 1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalIp,
}

/// A Service port that a place belongs to.
pub(crate) struct Owner<'a> {
    pub(crate) service: &'a Service,
    pub(crate) port: &'a ServicePort,
    pub(crate) kind: Kind,
}

impl Owner<'_> {
    /// Section 1: identity = namespace, name, port name, protocol.
    pub(crate) fn name(&self) -> String {
        let meta = &self.service.metadata;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        format!(
            "{}/{}:{}/{:?}",
            text(&meta.namespace),
            text(&meta.name),
            port_name(self.port),
            Protocol::of(self.port.protocol.as_deref())
        )
    }
}

/// The Service ports that a place belongs to.
pub(crate) fn owners<'a>(
    cluster: &'a Cluster,
    settings: &Settings,
    to: SocketAddr,
    protocol: Protocol,
) -> Vec<Owner<'a>> {
    let mut found = Vec::new();
    if accepts_node_ports(settings, to.ip()) {
        found = node_port_owners(cluster, to, protocol);
    }
    for service in cluster.services().filter(|service| serves(service, to.is_ipv6())) {
        for (kind, ip) in addresses(service, settings) {
            if ip != to.ip() {
                continue;
            }
            let ports = ports(service, protocol).filter(|port| port.port == i32::from(to.port()));
            found.extend(ports.map(|port| Owner { service, port, kind }));
        }
    }
    found
}

/// Section 3: NodePort match is protocol + port on an accepted local address (see `accepts_node_ports`).
pub(crate) fn node_port_owners(cluster: &Cluster, to: SocketAddr, protocol: Protocol) -> Vec<Owner<'_>> {
    let with_node_ports = cluster
        .services()
        .filter(|service| serves(service, to.is_ipv6()))
        .filter(|service| matches!(type_of(service), "NodePort" | "LoadBalancer"));
    let owners = with_node_ports.flat_map(|service| {
        let ports = ports(service, protocol);
        ports
            .filter(|port| port.node_port == Some(i32::from(to.port())))
            .map(move |port| Owner {
                service,
                port,
                kind: Kind::NodePort,
            })
    });
    owners.collect()
}

/// What an address is to the Services that are served, whatever the port.
pub(crate) fn kinds_of(cluster: &Cluster, settings: &Settings, ip: IpAddr) -> BTreeSet<Kind> {
    let served = cluster.services().filter(|service| serves(service, ip.is_ipv6()));
    // A Service without any port has its address all the same; there is nothing to tell it by.
    let with_ports = served.filter(|service| {
        let spec = service.spec.as_ref();
        spec.is_some_and(|spec| spec.ports.as_ref().is_some_and(|ports| !ports.is_empty()))
    });
    with_ports
        .flat_map(|service| addresses(service, settings))
        .filter(|(_, own)| *own == ip)
        .map(|(kind, _)| kind)
        .collect()
}

/// The entries of the status.
pub(crate) fn ingress(service: &Service) -> impl Iterator<Item = &LoadBalancerIngress> {
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    balancer
        .and_then(|balancer| balancer.ingress.as_ref())
        .into_iter()
        .flatten()
}

fn type_of(service: &Service) -> &str {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.type_.as_deref()).unwrap_or("ClusterIP")
}

/// Section 2, first four rows.
fn is_proxied(service: &Service) -> bool {
    let hidden = [
        "service.kubernetes.io/service-proxy-name",
        "service.kubernetes.io/headless",
    ];
    let labels = service.metadata.labels.as_ref();
    let has_label = |label: &str| labels.is_some_and(|labels| labels.contains_key(label));
    type_of(service) != "ExternalName"
        && !hidden.into_iter().any(has_label)
        && !cluster_ips(service).is_empty()
}

/// Section 2: clusterIP empty or "None": not proxied at all.
fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let one = spec.cluster_ip.as_deref().unwrap_or_default();
    let several = spec.cluster_ips.clone().unwrap_or_default();
    if one == "None" || several.iter().any(|ip| ip == "None") {
        return Vec::new();
    }
    if several.is_empty() {
        return address(one).into_iter().collect();
    }
    several.iter().filter_map(|text| address(text)).collect()
}

/// Section 3: a family without a clusterIP is not served at all.
fn serves(service: &Service, ipv6: bool) -> bool {
    is_proxied(service) && cluster_ips(service).iter().any(|ip| ip.is_ipv6() == ipv6)
}

/// A Service's own addresses. Those of a family that is not served do not count; see `serves`.
fn addresses(service: &Service, settings: &Settings) -> Vec<(Kind, IpAddr)> {
    let mut all: Vec<_> = cluster_ips(service)
        .into_iter()
        .map(|ip| (Kind::ClusterIp, ip))
        .collect();
    // Section 3: the type is cumulative, LoadBalancer adds VIPs; entries without ipMode or with "VIP" are captured.
    if type_of(service) == "LoadBalancer" {
        let captured = ingress(service)
            .filter(|entry| !passes_through(service) && entry.ip_mode.as_deref().unwrap_or("VIP") == "VIP");
        let texts = captured.filter_map(|entry| entry.ip.as_deref());
        all.extend(texts.filter_map(address).map(|ip| (Kind::LoadBalancer, ip)));
    }
    let external = service.spec.as_ref().and_then(|spec| spec.external_ips.as_ref());
    let ranges = &settings.external_ip_ranges;
    let allowed = |ip: &IpAddr| {
        let inside = |text: &String| prefix(text).is_some_and(|(net, bits)| prefix_contains(net, bits, *ip));
        ranges.is_empty() || ranges.iter().any(inside)
    };
    let external = external.into_iter().flatten().filter_map(|text| address(text));
    all.extend(external.filter(allowed).map(|ip| (Kind::ExternalIp, ip)));
    all
}

/// Section 3: the annotation says for all entries what ipMode "Proxy" says for one.
fn passes_through(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let value = annotations.and_then(|annotations| annotations.get("kubernetes.io/elb.pass-through"));
    let spec = service.spec.as_ref();
    let policy = spec.and_then(|spec| spec.external_traffic_policy.as_deref());
    match value.map(String::as_str) {
        Some("true") => true,
        Some("onlyLocal") => policy == Some("Local"),
        _ => false,
    }
}

fn ports(service: &Service, protocol: Protocol) -> impl Iterator<Item = &ServicePort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let ports = ports.into_iter().flatten();
    ports.filter(move |port| Protocol::of(port.protocol.as_deref()) == protocol)
}

/// Section 7. By default the primary addresses; of a family without a CIDR in the list, all of this node.
fn accepts_node_ports(settings: &Settings, ip: IpAddr) -> bool {
    let ipv6 = ip.is_ipv6();
    if !places::own(ipv6).contains(&ip) {
        return false;
    }
    if settings.nodeport_addresses.is_empty() {
        return ip == places::node(0, ipv6);
    }
    let ranges = settings.nodeport_addresses.iter().filter_map(|text| prefix(text));
    let of_family: Vec<_> = ranges.filter(|(network, _)| network.is_ipv6() == ipv6).collect();
    of_family.is_empty()
        || of_family
            .iter()
            .any(|(network, bits)| prefix_contains(*network, *bits, ip))
}
