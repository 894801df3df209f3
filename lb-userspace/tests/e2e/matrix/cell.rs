//! The cells: who connects to what.

use std::fmt;

use lb_lab::{Family, PodNetwork, Proto};
use serde::Deserialize;

/// Where a client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Client {
    /// Outside of the cluster.
    Outside,
    /// A process of a node.
    Node,
    /// A pod that is no backend.
    Pod,
    /// A backend of the Service itself.
    Backend,
}

/// Whether there are backends on the client's node, or on the one that it comes in by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Near {
    /// There are.
    With,
    /// There are none.
    Without,
}

/// What it connects to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Target {
    /// The ClusterIP.
    ClusterIp,
    /// The NodePort of the client's node, or of the one that it comes in by.
    NodePortOwn,
    /// The NodePort of another node, which has backends.
    NodePortWith,
    /// The NodePort of another node, which has none.
    NodePortWithout,
    /// The load balancer's address.
    LoadBalancer,
    /// An external IP.
    ExternalIp,
}

/// A traffic policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Policy {
    /// All endpoints.
    Cluster,
    /// Endpoints of the node.
    Local,
}

/// What the backends are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Backends {
    /// Pods.
    Pods,
    /// Processes in the nodes' own network.
    Hosts,
}

/// A lab: its network, and the hook of its agents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Site {
    pub(super) network: PodNetwork,
    pub(super) hook: &'static str,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = format!("{:?}", self.network).to_lowercase();
        write!(f, "{network}/{}", self.hook)
    }
}

/// A Service: policies and backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kind {
    pub(super) external: Policy,
    pub(super) internal: Policy,
    pub(super) backends: Backends,
}

/// One combination.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) site: Site,
    pub(super) kind: Kind,
    pub(super) client: Client,
    pub(super) near: Near,
    pub(super) target: Target,
    pub(super) family: Family,
    pub(super) proto: Proto,
}

const CLIENTS: [(Client, Near); 7] = [
    (Client::Outside, Near::With),
    (Client::Outside, Near::Without),
    (Client::Node, Near::With),
    (Client::Node, Near::Without),
    (Client::Pod, Near::With),
    (Client::Pod, Near::Without),
    (Client::Backend, Near::With),
];

const TARGETS: [Target; 6] = [
    Target::ClusterIp,
    Target::NodePortOwn,
    Target::NodePortWith,
    Target::NodePortWithout,
    Target::LoadBalancer,
    Target::ExternalIp,
];

const POLICIES: [Policy; 2] = [Policy::Cluster, Policy::Local];

impl Kind {
    /// All of them; their places are their numbers.
    pub(super) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for external in POLICIES {
            for internal in POLICIES {
                for backends in [Backends::Pods, Backends::Hosts] {
                    all.push(Self {
                        external,
                        internal,
                        backends,
                    });
                }
            }
        }
        all
    }

    /// Names of the backends; those on node1 come first. There are none on node3.
    pub(super) fn names(self) -> [&'static str; 2] {
        match self.backends {
            Backends::Pods => ["pod1-1", "pod2-1"],
            Backends::Hosts => ["node1", "node2"],
        }
    }
}

impl Cell {
    /// All cells of a site.
    pub(super) fn all(site: Site) -> Vec<Self> {
        let mut all = Vec::new();
        for kind in Kind::all() {
            for (client, near) in CLIENTS {
                for target in TARGETS {
                    for family in Family::BOTH {
                        for proto in Proto::BOTH {
                            all.push(Self {
                                site,
                                kind,
                                client,
                                near,
                                target,
                                family,
                                proto,
                            });
                        }
                    }
                }
            }
        }
        all.retain(Self::makes_sense);
        all
    }

    /// Sockets are the business of TCP and of the cluster's own clients alone. Nobody outside asks one node by way of another; the third node without backends is the client's own; a process of
    /// the node is a host backend already.
    fn makes_sense(&self) -> bool {
        let other = matches!(self.target, Target::NodePortWith | Target::NodePortWithout);
        let none_left = self.near == Near::Without && self.target == Target::NodePortWithout;
        let at_sockets = self.client != Client::Outside && self.proto == Proto::Tcp;
        !(self.site.hook == super::CONNECT && !at_sockets
            || self.client == Client::Outside && other
            || none_left
            || self.client == Client::Backend && self.kind.backends == Backends::Hosts)
    }

    /// The node that the client is on, or comes in by.
    pub(super) fn node(&self) -> &'static str {
        match self.near {
            Near::With => "node1",
            Near::Without => "node3",
        }
    }

    /// The client's place in the lab.
    pub(super) fn place(&self) -> &'static str {
        match (self.client, self.near) {
            (Client::Outside, Near::With) => "client",
            (Client::Outside, Near::Without) => super::FAR,
            (Client::Node, _) => self.node(),
            (Client::Pod, Near::With) => "pod1-2",
            (Client::Pod, Near::Without) => "pod3-1",
            (Client::Backend, _) => "pod1-1",
        }
    }
}

/// The check's name: what is different between cells, from the largest to the smallest.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            site,
            kind,
            client,
            near,
            target,
            family,
            proto,
        } = self;
        write!(
            f,
            "{:?}/{}/external={:?}/internal={:?}/{:?}/{client:?}/near={near:?}/{target:?}/{family:?}/{proto:?}",
            site.network, site.hook, kind.external, kind.internal, kind.backends
        )
    }
}
