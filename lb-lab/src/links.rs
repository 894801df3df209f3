//! Devices, addresses and routes of a topology, as lists of `ip` commands.
//!
//! Pure: topology in, text out. Order matters in two places: sysctls come before devices (see [`crate::Lab`]),
//! and a bridge gets its ports before its addresses, since IPv6 ignores devices without a carrier.
//! Not here: what depends on the kind of pod network (`podnet`).

use std::fmt::Write as _;

use crate::{
    addr::Family,
    podnet,
    topology::{AddressPlan, ClientSpec, FABRIC, NodeSpec, Topology, Underlay},
};

/// First number of the fabric's routing tables, one per client (see [`crate::Lab::route`]).
pub(crate) const CLIENT_TABLE: u16 = 100;
/// Rules of a higher number than this are asked after the main table.
const AFTER_MAIN: u16 = 40_000;

/// A growing list of commands for `ip -batch`.
#[derive(Default)]
pub(crate) struct Batch(String);

impl Batch {
    pub(crate) fn add(&mut self, command: std::fmt::Arguments<'_>) {
        self.0
            .write_fmt(command)
            .expect("writing to a String does not fail");
        self.0.push('\n');
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// Appends one command, written like `println!`.
macro_rules! ip {
    ($batch:expr, $($format:tt)*) => { $batch.add(format_args!($($format)*)) };
}
pub(crate) use ip;

/// All veth pairs, to be made from the namespace the lab was started in. `full` turns a name into a namespace's.
pub(crate) fn pairs(topology: &Topology, full: impl Fn(&str) -> String) -> Batch {
    let mut batch = Batch::default();
    let fabric = full(FABRIC);
    let mtu = topology.mtu;
    for NodeSpec { name, index, .. } in &topology.nodes {
        let node = full(name);
        for Underlay { device, port, .. } in topology.underlays() {
            ip!(
                batch,
                "link add {device} mtu {mtu} netns {node} type veth peer name {port}{index} mtu {mtu} netns {fabric}"
            );
        }
    }
    for ClientSpec { name, index, .. } in &topology.clients {
        let client = full(name);
        ip!(
            batch,
            "link add eth0 mtu {mtu} netns {client} type veth peer name c{index} mtu {mtu} netns {fabric}"
        );
    }
    let mtu = topology.pod_mtu();
    for (node, pod) in topology.pods() {
        let (inside, outside, device) = (full(&pod.name), full(&node.name), &pod.host_device);
        let mac = podnet::host_device_mac(topology.network);
        ip!(
            batch,
            "link add eth0 mtu {mtu} netns {inside} type veth peer name {device} mtu {mtu} {mac} netns {outside}"
        );
    }
    batch
}

/// The fabric: a switch for the nodes, a router for the clients.
pub(crate) fn fabric(topology: &Topology) -> Batch {
    let mut batch = Batch::default();
    let mtu = topology.mtu;
    ip!(batch, "link set lo up");
    for Underlay {
        bridge, port, range, ..
    } in topology.underlays()
    {
        ip!(batch, "link add {bridge} mtu {mtu} type bridge mcast_snooping 0");
        for node in &topology.nodes {
            ip!(batch, "link set {port}{} master {bridge} up", node.index);
        }
        ip!(batch, "link set {bridge} up");
        for (range, ip) in range.both().iter().zip(range.nth(AddressPlan::FABRIC).both()) {
            ip!(
                batch,
                "addr add {ip}/{} dev {bridge}{}",
                range.len,
                nodad(range.family())
            );
        }
    }
    let plan = &topology.plan;
    let gateway = plan.clients.nth(AddressPlan::FABRIC);
    for ClientSpec { addr, index, .. } in &topology.clients {
        ip!(batch, "link set c{index} up");
        ip!(batch, "addr add {}/32 dev c{index}", gateway.v4);
        ip!(batch, "addr add {LINK_LOCAL}/64 dev c{index} nodad");
        ip!(batch, "route add {}/32 dev c{index}", addr.v4);
        ip!(batch, "route add {}/128 dev c{index}", addr.v6);
    }
    batch
}

/// The fabric's routing rules of one family: what comes from a client is looked up in that client's table first. What
/// the fabric itself says to a Service's address (errors about what that has sent) goes the first client's way.
pub(crate) fn fabric_rules(topology: &Topology) -> Batch {
    let mut batch = Batch::default();
    for ClientSpec { index, .. } in &topology.clients {
        let table = CLIENT_TABLE + u16::from(*index);
        ip!(batch, "rule add iif c{index} lookup {table} priority {table}");
        ip!(
            batch,
            "rule add iif lo lookup {table} priority {}",
            AFTER_MAIN + table
        );
    }
    batch
}

/// A client: one address of each family, everything through the fabric.
pub(crate) fn client(topology: &Topology, client: &ClientSpec) -> Batch {
    let mut batch = Batch::default();
    let gateway = topology.plan.clients.nth(AddressPlan::FABRIC).v4;
    ip!(batch, "link set lo up");
    ip!(batch, "link set eth0 up");
    ip!(batch, "addr add {}/32 dev eth0", client.addr.v4);
    ip!(batch, "addr add {}/128 dev eth0 nodad", client.addr.v6);
    ip!(batch, "route add {gateway} dev eth0 scope link");
    ip!(batch, "route add default via {gateway} dev eth0");
    ip!(batch, "route add default via {LINK_LOCAL} dev eth0");
    batch
}

/// A node: its uplink, then its part of the pod network.
pub(crate) fn node(topology: &Topology, node: &NodeSpec) -> Batch {
    let mut batch = Batch::default();
    ip!(batch, "link set lo up");
    for Underlay { device, range, .. } in topology.underlays() {
        ip!(batch, "link set {device} up");
        for family in Family::BOTH {
            let (ip, len) = (range.nth(node.index.into()).of(family), range.of(family).len);
            ip!(batch, "addr add {ip}/{len} dev {device}{}", nodad(family));
        }
    }
    for family in Family::BOTH {
        let gateway = topology.plan.underlay.nth(AddressPlan::FABRIC).of(family);
        ip!(batch, "route add default via {gateway} dev eth0");
    }
    podnet::node(topology, node, &mut batch);
    batch
}

/// The gateway's address on point-to-point links.
pub(crate) const LINK_LOCAL: &str = "fe80::1";

/// Addresses are usable at once: no duplicate address detection.
pub(crate) fn nodad(family: Family) -> &'static str {
    match family {
        Family::V4 => "",
        Family::V6 => " nodad",
    }
}
