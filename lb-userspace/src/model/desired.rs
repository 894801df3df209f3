//! The desired state: what this node should serve, ready to be laid out in maps.
//!
//! Input: the joined Services and EndpointSlices. Output: one [`ServicePort`] per Service port and family.
//! Not here: map indices and tables, see `plan`.

use std::{net::IpAddr, sync::Arc};

use lb_common::abi::{FrontendKind, Protocol};

/// Everything that this node should serve.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct DesiredState {
    /// Sorted by [`ServicePort::id`].
    pub services: Vec<ServicePort>,
    /// Addresses of other nodes: NodePorts on them are served at the source. Sorted.
    pub other_nodes: Vec<IpAddr>,
    /// What could not be served, and why.
    pub problems: Vec<Problem>,
}

/// Identity of a Service port in one family.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServicePortId {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port; empty if it has none.
    pub port_name: String,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// IPv6 rather than IPv4.
    pub ipv6: bool,
}

/// A Service port in one family: its addresses, policies and backends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Which one.
    pub id: ServicePortId,
    /// Addresses it is served on; no two Service ports share one. Sorted.
    pub frontends: Vec<FrontendAddress>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Some endpoint could serve, here or elsewhere: tells "refuse" from "be silent".
    pub endpoints_exist: bool,
    /// Idle timeout in seconds of `sessionAffinity: ClientIP`.
    pub affinity: Option<u32>,
    /// Whose connections to the addresses of kind LoadBalancer are accepted: address (of this family) and
    /// length in bits, sorted. `None`: everybody's; an empty list: nobody's. Other kinds are not limited.
    pub source_ranges: Option<Vec<(IpAddr, u8)>>,
    /// Backends that new flows may be sent to, in the canonical order that all nodes agree on: by address,
    /// then port. No duplicates.
    pub backends: Arc<[BackendEndpoint]>,
    /// Endpoints that still serve (and so may keep UDP flows), whether or not new flows go there. Sorted.
    pub serving: Arc<[(IpAddr, u16)]>,
}

/// An address that a Service port is served on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrontendAddress {
    /// `None`: a NodePort, on all addresses that accept NodePorts.
    pub address: Option<IpAddr>,
    /// Port that clients connect to.
    pub port: u16,
    /// Which kind of address it is.
    pub kind: FrontendKind,
}

/// A backend of a Service port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BackendEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// It runs on this node.
    pub on_this_node: bool,
    /// It is selected for the Local scope.
    pub in_local: bool,
    /// It is selected for the Cluster scope.
    pub in_cluster: bool,
}

/// Something in the cluster's objects that cannot be served as it stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Problem {
    /// The object, as `Kind namespace/name`.
    pub object: String,
    /// What is wrong and what would mend it, in one sentence.
    pub message: String,
}
