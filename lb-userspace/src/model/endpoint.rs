//! Endpoints: who can answer for a Service.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use lb_common::abi::Protocol;

use super::ObjectKey;

/// An EndpointSlice: some of a Service's endpoints of one family, with the ports they share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointSlice {
    /// Which one.
    pub key: ObjectKey,
    /// Name of the Service it belongs to, in the same namespace.
    pub service: String,
    /// Its family. All addresses are of it.
    pub ipv6: bool,
    /// Where its endpoints listen.
    pub ports: Vec<EndpointPort>,
    /// Its endpoints.
    pub endpoints: Arc<[Endpoint]>,
    /// When that changed in the cluster which last made it change.
    pub triggered: Option<SystemTime>,
}

/// A port that all endpoints of a slice listen on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointPort {
    /// Name of the Service port it answers for.
    pub name: String,
    /// Its protocol, which must be the Service port's.
    pub protocol: Protocol,
    /// The number, which need not be the Service port's.
    pub port: u16,
}

/// One endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Name of its node. `None`: it is local nowhere.
    pub node: Option<Box<str>>,
    /// It wants new connections.
    pub ready: bool,
    /// It can answer.
    pub serving: bool,
    /// It is shutting down.
    pub terminating: bool,
    /// Zones whose clients should use it.
    pub for_zones: Box<[String]>,
    /// Nodes whose clients should use it.
    pub for_nodes: Box<[String]>,
}
