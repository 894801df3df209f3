//! A Node object, reduced to what its neighbours need to know.

use std::net::IpAddr;

/// A Node object. Not to be confused with what this node's kernel says, see [`super::NodeFacts`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeObject {
    /// Its name.
    pub name: String,
    /// Its zone. An empty label is no zone.
    pub zone: Option<String>,
    /// Its condition Ready is neither False nor Unknown. Without that condition (a manifest): true.
    pub ready: bool,
    /// It is about to go: its object is being deleted, or the cluster autoscaler has marked it. Load balancers
    /// are to leave it while it still serves.
    pub leaving: bool,
    /// Addresses of type InternalIP, sorted. ExternalIPs are left out: several nodes may share one that
    /// belongs to a gateway in front of them.
    pub addresses: Vec<IpAddr>,
    /// Prefixes of its pods: address and length in bits, sorted.
    pub pod_prefixes: Vec<(IpAddr, u8)>,
}
