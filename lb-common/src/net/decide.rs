//! The decision: which backends a client may use on a frontend, which one it gets, and what happens if
//! there is none. Pure: no flows, no packets.
//!
//! | destination | policy | client | scope |
//! |---|---|---|---|
//! | ClusterIP | internal Cluster | any | Cluster |
//! | ClusterIP | internal Local | any | Local |
//! | NodePort, LoadBalancer, externalIP | external Cluster | any | Cluster |
//! | the same | external Local | pod of this node, this node | Cluster |
//! | the same | external Local | outside | Local |
//!
//! Who the client is follows from its address alone ([`client`]); the device only has to agree with it.

use crate::abi::{DeviceKind, FrontendKind, Outcome, Set, SourceClass};

/// Who a packet of a new flow comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    /// A pod of this node.
    Pod,
    /// This node itself.
    Node,
    /// Everybody else, pods and nodes of the rest of the cluster included.
    Outside,
    /// An address that cannot come from this device.
    Spoofed,
}

/// Which of a set's backends may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Those on this node.
    Local,
    /// Those selected for the whole cluster.
    Cluster,
}

/// What the decision comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// Forward to a backend in the table of `rows` rows that begins at element `table`.
    Forward {
        /// The scope it belongs to.
        scope: Scope,
        /// The table's first element.
        table: u32,
        /// Its rows; never 0.
        rows: u32,
    },
    /// Do not forward; the outcome is a rejection or a drop.
    Refuse(Outcome),
}

/// The client behind a source address of class `class` that sends by a device of kind `device`.
#[inline(always)]
#[must_use]
pub const fn client(class: SourceClass, device: DeviceKind) -> Client {
    match (device, class) {
        // What leaves by these devices was sent by a process of this node, whatever address it chose.
        (DeviceKind::Host | DeviceKind::Loopback, _) => Client::Node,
        (DeviceKind::Pod | DeviceKind::BridgePort, SourceClass::Pod) => Client::Pod,
        // A pod in a range that we do not know: served like a stranger.
        (_, SourceClass::Outside) => Client::Outside,
        // A pod that claims to be the node, or a stranger that claims to be one of them.
        (_, SourceClass::Pod | SourceClass::Node) => Client::Spoofed,
    }
}

/// Which table a client's new flow reads.
#[inline(always)]
#[must_use]
pub const fn choose(kind: FrontendKind, client: Client, set: &Set) -> Choice {
    let local = match (kind, client) {
        (FrontendKind::ClusterIp, _) => set.has(Set::INTERNAL_LOCAL),
        (_, Client::Pod | Client::Node) => false,
        (_, Client::Outside | Client::Spoofed) => set.has(Set::EXTERNAL_LOCAL),
    };
    let (scope, table, rows) = if local {
        (Scope::Local, set.local_table, set.local_rows)
    } else {
        (Scope::Cluster, set.cluster_table, set.cluster_rows)
    };
    if rows != 0 {
        Choice::Forward { scope, table, rows }
    } else if local && set.has(Set::ENDPOINTS_EXIST) {
        Choice::Refuse(Outcome::DroppedNoLocalEndpoints)
    } else {
        Choice::Refuse(Outcome::RejectedNoEndpoints)
    }
}

#[cfg(test)]
mod tests;
