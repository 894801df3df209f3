//! A Service, reduced to what decides where its packets go.
//!
//! *Not here*: Services that are not ours to serve (ExternalName, headless, another proxy's). They have no
//! value of this type; see `kubernetes::convert`.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::abi::{FrontendKind, Protocol};

use super::{FrontendAddress, ObjectKey};

/// A Service that this node serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Which one.
    pub key: ObjectKey,
    /// Seconds since 1970 of its creation; `None` if nobody recorded it (manifests in a directory).
    pub created: Option<i64>,
    /// ClusterIPs, at most one of each family. A family without one is not served at all.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Addresses from the status. Empty unless the type is LoadBalancer.
    pub ingress: Vec<Ingress>,
    /// The annotation by which those are left to the load balancer, whatever each of them says itself.
    pub passed_by: Option<String>,
    /// Its ports; names are unique, and so are pairs of port and protocol, and of node port and protocol.
    pub ports: Vec<Port>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Idle timeout in seconds of `sessionAffinity: ClientIP`.
    pub affinity: Option<u32>,
    /// Who may use the addresses from the status.
    pub source_ranges: SourceRanges,
    /// `healthCheckNodePort`. `None` also where it is of no use: unless the type is LoadBalancer and the
    /// external policy Local.
    pub health_check_port: Option<u16>,
}

/// `loadBalancerSourceRanges`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SourceRanges {
    /// Address and length in bits.
    pub ranges: Vec<(IpAddr, u8)>,
    /// There are entries that cannot be read.
    pub unreadable: bool,
}

impl SourceRanges {
    /// The ranges of one family, sorted; `None`: everybody is let in.
    ///
    /// A family without a range is open, as with kube-proxy. But if an entry cannot be read, nobody knows
    /// whom it was to let in, nor of which family: then a family without a range is closed.
    #[must_use]
    pub fn of_family(&self, ipv6: bool) -> Option<Vec<(IpAddr, u8)>> {
        let ranges = self
            .ranges
            .iter()
            .filter(|(address, _)| address.is_ipv6() == ipv6);
        let ranges: BTreeSet<_> = ranges.copied().collect();
        (!ranges.is_empty() || self.unreadable).then(|| ranges.into_iter().collect())
    }
}

/// An address that a load balancer gave to a Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ingress {
    /// The address.
    pub address: IpAddr,
    /// `ipMode: Proxy`, or pass-through by an annotation: packets to it must leave to the real load balancer.
    pub proxied: bool,
}

/// A port of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Its name; empty if it has none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Port on all addresses of the Service.
    pub port: u16,
    /// Port on node addresses; `None` also where the Service's type has no node ports.
    pub node_port: Option<u16>,
}

impl Service {
    /// Whether the family has a ClusterIP, without which nothing of it is served.
    #[must_use]
    pub fn serves(&self, ipv6: bool) -> bool {
        self.cluster_ips.iter().any(|ip| ip.is_ipv6() == ipv6)
    }

    /// The addresses that `port` is to be served on in one family, sorted. An address that the Service has
    /// twice over is listed once, as the first kind of ClusterIP, LoadBalancer, externalIP.
    #[must_use]
    pub fn frontends(&self, port: &Port, ipv6: bool) -> Vec<FrontendAddress> {
        if !self.serves(ipv6) {
            return Vec::new();
        }
        let captured = self
            .ingress
            .iter()
            .filter(|ingress| !ingress.proxied)
            .map(|ingress| ingress.address);
        let addresses = (self.cluster_ips.iter().map(|ip| (*ip, FrontendKind::ClusterIp)))
            .chain(captured.map(|ip| (ip, FrontendKind::LoadBalancer)))
            .chain(self.external_ips.iter().map(|ip| (*ip, FrontendKind::ExternalIp)));
        let mut seen = BTreeSet::new();
        let mut frontends: Vec<_> = addresses
            .filter(|(ip, _)| ip.is_ipv6() == ipv6 && seen.insert(*ip))
            .map(|(ip, kind)| FrontendAddress {
                address: Some(ip),
                port: port.port,
                kind,
            })
            .collect();
        frontends.extend(port.node_port.map(|node_port| FrontendAddress {
            address: None,
            port: node_port,
            kind: FrontendKind::NodePort,
        }));
        frontends.sort_unstable();
        frontends
    }
}
