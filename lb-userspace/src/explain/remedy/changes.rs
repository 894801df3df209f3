//! The changes that may help, in the words and commands of an operator.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use lb_common::abi::{FrontendKind, Outcome};

use super::{
    super::{
        cells::{Cell, Party},
        cluster::Cluster,
        inquiry::Packet,
        position::Position,
    },
    Case, Want,
    trial::{Trial, with},
};
use crate::model::{Endpoint, ObjectKey, Port};

impl Case<'_> {
    /// (1) The ClusterIP, by which every client inside the cluster reaches every endpoint.
    pub(super) fn cluster_ip(&self) -> Option<Trial> {
        let to = self.cell.packet.to;
        self.cell.client.home.as_ref()?;
        let port = self.port()?;
        let address = self
            .service
            .cluster_ips
            .iter()
            .find(|ip| ip.is_ipv6() == to.is_ipv6())?;
        if *address == to.ip() {
            return None;
        }
        let there = SocketAddr::new(*address, port.port);
        Some(cluster_ip_of(&self.service.key, there, vec![self.to(there)]))
    }

    /// (1) A port that the Service does have, if it is known by its address only.
    pub(super) fn other_ports(&self) -> Vec<Trial> {
        let to = self.cell.packet.to;
        let asked = self.cell.packet.protocol;
        if self.port().is_some() || self.outcome_is_about_policy() {
            return Vec::new();
        }
        // Those of the protocol that was asked for first.
        let mut ports: Vec<_> = self.service.ports.iter().collect();
        ports.sort_by_key(|port| port.protocol != asked);
        let trials = ports.into_iter().map(|port| Trial {
            what: format!("use a port that Service {} has", self.service.key),
            command: match port.protocol == asked {
                true => format!("connect to {}", SocketAddr::new(to.ip(), port.port)),
                false => format!(
                    "connect to {} by {}, not {asked}",
                    SocketAddr::new(to.ip(), port.port),
                    port.protocol
                ),
            },
            cost: "nothing".to_owned(),
            cluster: None,
            cells: vec![Cell {
                packet: Packet {
                    to: SocketAddr::new(to.ip(), port.port),
                    protocol: port.protocol,
                    ..self.cell.packet
                },
                ..self.cell.clone()
            }],
            passes_first: false,
        });
        trials.collect()
    }

    /// (1) The ClusterIP of the other family, where only that one has endpoints.
    pub(super) fn other_family(&self) -> Option<Trial> {
        let Packet { from, to, .. } = self.cell.packet;
        self.cell.client.home.as_ref()?;
        if self.outcome != Outcome::RejectedNoEndpoints {
            return None;
        }
        let port = self.port()?;
        let is_other = |ip: &&IpAddr| ip.is_ipv6() != to.is_ipv6();
        let there = SocketAddr::new(*self.service.cluster_ips.iter().find(is_other)?, port.port);
        let source = *self.cell.client.addresses.iter().find(is_other)?;
        let mut cell = self.to(there);
        cell.packet.from = SocketAddr::new(source, from.port());
        Some(Trial {
            what: format!(
                "use {}: the Service has endpoints of that family only",
                family(there.is_ipv6())
            ),
            command: format!("connect to {there}"),
            cost: "nothing".to_owned(),
            cluster: None,
            cells: vec![cell],
            passes_first: false,
        })
    }

    /// (5) An agent on the client's own node, if it has none.
    pub(super) fn own_agent(&self) -> Option<Trial> {
        let (home, position) = self.cell.client.home.as_ref()?;
        if *home == self.cell.node {
            return None;
        }
        let mut cell = self.cell.clone();
        cell.node.clone_from(home);
        cell.packet.position = *position;
        Some(Trial {
            what: format!("run the agent on node {home}, too: it translates at the source"),
            command: format!(
                "let the agent's DaemonSet run on node {home} (its tolerations and nodeSelector)"
            ),
            cost: "nothing".to_owned(),
            cluster: None,
            cells: vec![cell],
            passes_first: false,
        })
    }

    /// (2) The policy Cluster; or Local, where it is the policy Cluster that costs the client's address.
    pub(super) fn policy(&self, want: Want) -> Option<Trial> {
        let mut service = self.service.clone();
        let key = &self.service.key;
        let cells = vec![self.cell.clone()];
        match (self.kind?, want) {
            (FrontendKind::ClusterIp, Want::Yes) if service.internal_local => {
                service.internal_local = false;
                let changed = with(self.cluster, service);
                Some(policy_cluster_of(key, true, Some(changed), cells))
            }
            (FrontendKind::ClusterIp, _) => None,
            (_, Want::Yes) if service.external_local => {
                service.external_local = false;
                service.health_check_port = None;
                let changed = with(self.cluster, service);
                Some(policy_cluster_of(key, false, Some(changed), cells))
            }
            (_, Want::NoCost) if !service.external_local => {
                service.external_local = true;
                Some(Trial {
                    what: "set externalTrafficPolicy to Local".to_owned(),
                    command: patch(key, "externalTrafficPolicy", "Local"),
                    cost: "nodes without an endpoint are silent: whoever balances in front has to ask the health check port"
                        .to_owned(),
                    cluster: Some(with(self.cluster, service)),
                    cells,
                    passes_first: false,
                })
            }
            _ => None,
        }
    }

    /// (3) Pass-through: a client inside the cluster goes out to the load balancer, which comes back to a node that has an
    /// endpoint. And the other way round, where it is pass-through that costs the second hop.
    pub(super) fn pass_through(&self) -> Option<Trial> {
        let to = self.cell.packet.to;
        let place = self
            .service
            .ingress
            .iter()
            .position(|ingress| ingress.address == to.ip())?;
        self.cell.client.home.as_ref()?;
        let proxied = self.service.ingress[place].proxied;
        let mut service = self.service.clone();
        service.ingress[place].proxied = !proxied;
        let mode = if proxied { "VIP" } else { "Proxy" };
        let path = format!("/status/loadBalancer/ingress/{place}/ipMode");
        let command = format!(
            "kubectl patch service {} -n {} --subresource=status --type=json -p '[{{\"op\":\"add\",\"path\":\"{path}\",\"value\":\"{mode}\"}}]'",
            self.service.key.name, self.service.key.namespace
        );
        let annotation = service.passed_by.take();
        let cluster = with(self.cluster, service);
        if proxied {
            let (what, command) = match annotation {
                Some(name) => (
                    format!("take pass-through off: remove the annotation {name}"),
                    format!(
                        "kubectl annotate service {} -n {} {name}-",
                        self.service.key.name, self.service.key.namespace
                    ),
                ),
                None => (
                    "take pass-through off: set ipMode of the address to VIP".to_owned(),
                    command,
                ),
            };
            return Some(Trial {
                what,
                command,
                cost: "connections from inside the cluster no longer pass the load balancer, nor what it does for them".to_owned(),
                cells: vec![self.cell.clone()],
                cluster: Some(cluster),
                passes_first: false,
            });
        }
        // The balancer comes back to a NodePort, of any node that may answer.
        let node_port = self.port()?.node_port?;
        let back = self.nodes_with_endpoints().into_iter().find_map(|node| {
            let address = self.cluster.nodes[&node].addresses.iter();
            let address = address.copied().find(|ip| ip.is_ipv6() == to.is_ipv6())?;
            Some(self.outsider_at(node, SocketAddr::new(address, node_port)))
        })?;
        Some(Trial {
            what: "pass through: set ipMode of the address to Proxy, so that the load balancer is really asked".to_owned(),
            command,
            cost: "a second hop, to the load balancer and back; it must be able to reach the nodes, and what writes the \
                   Service's status must leave the mode alone"
                .to_owned(),
            cluster: Some(cluster),
            cells: vec![self.cell.clone(), back],
            passes_first: true,
        })
    }

    /// (4) An endpoint on the node that decides.
    pub(super) fn endpoint_here(&self, want: Want) -> Option<Trial> {
        if self.outcome != Outcome::DroppedNoLocalEndpoints || want != Want::Yes {
            return None;
        }
        let mut cluster = with(self.cluster, self.service.clone());
        let node = &self.cell.node;
        let ipv6 = self.cell.packet.to.is_ipv6();
        let address = free_address(self.cluster, node, ipv6)?;
        let key = &self.service.key;
        let of_service = |slice: &&mut crate::model::EndpointSlice| {
            slice.key.namespace == key.namespace && slice.service == key.name && slice.ipv6 == ipv6
        };
        let slice = cluster.slices.values_mut().find(of_service)?;
        let one_more = Endpoint {
            address,
            node: Some(node.as_str().into()),
            ready: true,
            serving: true,
            terminating: false,
            for_zones: [].into(),
            for_nodes: [].into(),
        };
        slice.endpoints = slice.endpoints.iter().cloned().chain([one_more]).collect();
        let workload = self.workload();
        let unknown = match workload.ends_with("/WORKLOAD") {
            true => "\n(WORKLOAD: what makes the Service's pods; the manifests do not say)",
            false => "",
        };
        Some(Trial {
            what: format!("move or spread the Service's pods, so that node {node} has one of them"),
            command: format!(
                "kubectl patch {workload} -n {} -p '{{\"spec\":{{\"template\":{{\"spec\":{{\"topologySpreadConstraints\":[{{\
                 \"maxSkew\":1,\"topologyKey\":\"kubernetes.io/hostname\",\"whenUnsatisfiable\":\"DoNotSchedule\",\
                 \"labelSelector\":{}}}]}}}}}}}}'\n\
                 kubectl scale {workload} -n {} --replicas={}   (as many as nodes that may run it; or make it a DaemonSet){unknown}",
                key.namespace,
                self.selector(),
                key.namespace,
                self.cluster.nodes.len()
            ),
            cost: "more pods, or pods in other places; a node that loses its pod is silent again".to_owned(),
            cluster: Some(cluster),
            cells: vec![self.cell.clone()],
            passes_first: false,
        })
    }

    /// (4) The other way round: the client comes by a node that has an endpoint.
    pub(super) fn other_nodes(&self, want: Want) -> Option<Trial> {
        if self.outcome != Outcome::DroppedNoLocalEndpoints || want != Want::Yes {
            return None;
        }
        let nodes = self.nodes_with_endpoints();
        let first = nodes.iter().next()?;
        let list = nodes.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let to = self.cell.packet.to;
        let of_node = |node: &str| {
            let mut addresses = self.cluster.nodes.get(node)?.addresses.iter();
            addresses.find(|ip| ip.is_ipv6() == to.is_ipv6()).copied()
        };
        let inside = self.cell.packet.position != Position::Outside;
        let (command, cells): (_, Vec<_>) = if inside {
            let cells = nodes.iter().filter_map(|node| self.client_on(node)).collect();
            (
                format!("give the client's pod a nodeAffinity to the nodes {list}"),
                cells,
            )
        } else if self.cluster.node_of_address(to.ip()).is_some() {
            let places = nodes
                .iter()
                .filter_map(|node| Some(SocketAddr::new(of_node(node)?, to.port())));
            let places: Vec<_> = places.collect();
            let cells = nodes
                .iter()
                .zip(&places)
                .map(|(node, place)| self.outsider_at(node.clone(), *place));
            let cells = cells.collect();
            let places: Vec<_> = places.iter().map(ToString::to_string).collect();
            (format!("connect to {}", places.join(" or ")), cells)
        } else {
            let cells = nodes
                .iter()
                .map(|node| self.outsider_at(node.clone(), to))
                .collect();
            let health = match self.service.health_check_port {
                Some(port) => format!(
                    " (their port {port} says 200 to the load balancer, that of node {} 503)",
                    self.cell.node
                ),
                None => String::new(),
            };
            (
                format!("have packets to {} sent to {list}{health}", to.ip()),
                cells,
            )
        };
        let what = if inside {
            format!("run the client where an endpoint is, as on {first}")
        } else {
            format!("come by a node that has an endpoint, as {first} has")
        };
        Some(Trial {
            what,
            command,
            cost: "nothing here; it holds for as long as the endpoints stay there".to_owned(),
            cluster: None,
            cells,
            passes_first: false,
        })
    }

    /// The Service port that is asked for.
    pub(super) fn port(&self) -> Option<&Port> {
        let Packet { to, protocol, .. } = self.cell.packet;
        let is_node = self.cluster.node_of_address(to.ip()).is_some();
        let mut ports = self.service.ports.iter().filter(|port| port.protocol == protocol);
        let own = super::addresses(self.service).any(|ip| ip == to.ip());
        ports.find(|port| (own && port.port == to.port()) || (is_node && port.node_port == Some(to.port())))
    }

    fn outcome_is_about_policy(&self) -> bool {
        matches!(
            self.outcome,
            Outcome::DroppedNoLocalEndpoints | Outcome::DroppedSourceRange | Outcome::RejectedNoEndpoints
        )
    }

    fn to(&self, to: SocketAddr) -> Cell {
        let mut cell = self.cell.clone();
        cell.packet.to = to;
        cell
    }

    /// The same client's packet, as it arrives on `node` from outside.
    fn outsider_at(&self, node: String, to: SocketAddr) -> Cell {
        let mut cell = self.to(to);
        cell.node = node;
        cell.packet.position = Position::Outside;
        cell.client.home = None;
        cell
    }

    /// The client, if it were on `node`.
    fn client_on(&self, node: &str) -> Option<Cell> {
        let ipv6 = self.cell.packet.to.is_ipv6();
        let position = self.cell.packet.position;
        let address = match position {
            Position::Pod => free_address(self.cluster, node, ipv6)?,
            _ => *self
                .cluster
                .nodes
                .get(node)?
                .addresses
                .iter()
                .find(|ip| ip.is_ipv6() == ipv6)?,
        };
        let mut cell = self.cell.clone();
        cell.node = node.to_owned();
        cell.packet.from.set_ip(address);
        cell.client = Party {
            addresses: vec![address],
            home: Some((node.to_owned(), position)),
            ..cell.client
        };
        Some(cell)
    }

    /// Nodes that have an endpoint of the Service which may be used.
    pub(super) fn nodes_with_endpoints(&self) -> BTreeSet<String> {
        let ipv6 = self.cell.packet.to.is_ipv6();
        let ready = self.endpoints(ipv6).filter(|endpoint| endpoint.ready);
        let nodes = ready.filter_map(|endpoint| endpoint.node.as_deref());
        nodes
            .filter(|node| self.cluster.nodes.contains_key(*node))
            .map(str::to_owned)
            .collect()
    }

    /// The Service's endpoints of one family.
    pub(super) fn endpoints(&self, ipv6: bool) -> impl Iterator<Item = &Endpoint> {
        let key = &self.service.key;
        let slices = self.cluster.slices.values().filter(move |slice| {
            slice.key.namespace == key.namespace && slice.service == key.name && slice.ipv6 == ipv6
        });
        slices.flat_map(|slice| slice.endpoints.iter())
    }

    /// What makes the Service's pods, as kubectl calls it.
    fn workload(&self) -> String {
        let mut pods = self.endpoints(self.cell.packet.to.is_ipv6());
        let owner = pods.find_map(|endpoint| self.cluster.pod_of_address(endpoint.address)?.1.owner.clone());
        owner.unwrap_or_else(|| "deployment/WORKLOAD".to_owned())
    }

    /// What selects the Service's pods.
    fn selector(&self) -> String {
        let labels = self.cluster.selectors.get(&self.service.key);
        match labels {
            Some(labels) if !labels.is_empty() => serde_json::json!({ "matchLabels": labels }).to_string(),
            _ => "{\"matchLabels\":{\"app\":\"LABEL\"}}".to_owned(),
        }
    }
}

/// What a family is called.
pub(super) const fn family(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}

/// (1) The ClusterIP `there` of a Service.
pub(super) fn cluster_ip_of(key: &ObjectKey, there: SocketAddr, cells: Vec<Cell>) -> Trial {
    Trial {
        what: "use the Service's DNS name, or its ClusterIP".to_owned(),
        command: format!(
            "connect to {}.{}.svc:{}, which is {there}",
            key.name,
            key.namespace,
            there.port()
        ),
        cost: "nothing; it is meant for clients inside the cluster".to_owned(),
        cluster: None,
        cells,
        passes_first: false,
    }
}

/// (2) The policy Cluster of a Service, the internal or the external one.
pub(super) fn policy_cluster_of(
    key: &ObjectKey,
    internal: bool,
    changed: Option<Cluster>,
    cells: Vec<Cell>,
) -> Trial {
    let (field, cost) = if internal {
        (
            "internalTrafficPolicy",
            "clients are also sent to endpoints on other nodes",
        )
    } else {
        let cost = "the client's address: backends on other nodes see the address of the node that forwards";
        ("externalTrafficPolicy", cost)
    };
    Trial {
        what: format!("set {field} to Cluster"),
        command: patch(key, field, "Cluster"),
        cost: cost.to_owned(),
        cluster: changed,
        cells,
        passes_first: false,
    }
}

fn patch(key: &ObjectKey, field: &str, value: &str) -> String {
    format!(
        "kubectl patch service {} -n {} --type=merge -p '{{\"spec\":{{\"{field}\":\"{value}\"}}}}'",
        key.name, key.namespace
    )
}

/// An address of a node's pods that nobody has: the last one of the prefix.
fn free_address(cluster: &Cluster, node: &str, ipv6: bool) -> Option<IpAddr> {
    let node = cluster.nodes.get(node)?;
    let of_family = node
        .pod_prefixes
        .iter()
        .find(|(prefix, _)| prefix.is_ipv6() == ipv6);
    // A node without a prefix: any address does, the node learns its pods' from routes.
    let fallback: IpAddr = match ipv6 {
        false => Ipv4Addr::new(198, 18, 0, 1).into(),
        true => "2001:2::1".parse().unwrap_or(Ipv6Addr::UNSPECIFIED.into()),
    };
    let Some((prefix, bits)) = of_family else {
        return Some(fallback);
    };
    Some(match prefix {
        IpAddr::V4(prefix) => {
            Ipv4Addr::from_bits(prefix.to_bits() | (u32::MAX.checked_shr((*bits).into()).unwrap_or(0) & !1))
                .into()
        }
        IpAddr::V6(prefix) => {
            Ipv6Addr::from_bits(prefix.to_bits() | (u128::MAX.checked_shr((*bits).into()).unwrap_or(0) & !1))
                .into()
        }
    })
}
