//! A network namespace of the calling thread: an uplink to other nodes and clients, a pod's device, routes, and a
//! neighbour that is always resolved. It ends with the thread.

use std::net::IpAddr;

use anyhow::Result;
use lb_userspace::{
    model::NodeFacts,
    node::{self, Hints, Prefix},
};
use nix::net::if_::if_nametoindex;
use tokio::sync::watch;

use super::family::Family;
use crate::{
    namespace::{self, ip, sysctl},
    processor,
};

/// The device that clients and other nodes are behind.
pub(crate) const UPLINK: &str = "up0";
const POD: &str = "pod0";
/// MAC address of the other node.
pub(crate) const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
/// MAC address of the uplink.
pub(crate) const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];

const CONFIGURATION: &[&str] = &[
    "link set lo up",
    "link add up0 address 02:00:00:00:00:0a type veth peer name up0x",
    "link add pod0 type veth peer name pod0x",
    "link set up0x up",
    "link set pod0x up",
    "link set up0 up",
    "link set pod0 up",
    "address add 192.0.2.10/24 dev up0",
    "address add 2001:db8:1::10/64 dev up0 nodad",
    "neigh add 192.0.2.11 lladdr 02:00:00:00:00:0b dev up0 nud permanent",
    "neigh add 2001:db8:1::11 lladdr 02:00:00:00:00:0b dev up0 nud permanent",
    "route add default via 192.0.2.11 dev up0",
    "route add default via 2001:db8:1::11 dev up0",
    "route add 10.244.2.0/24 via 192.0.2.11 dev up0",
    "route add fd00:244:2::/64 via 2001:db8:1::11 dev up0",
];

/// This node, as the agent sees it.
pub(crate) struct Place {
    pub(crate) facts: NodeFacts,
    pub(crate) uplink: u32,
    pub(crate) pod: u32,
}

/// Moves the calling thread into a namespace of its own, and onto one processor.
pub(crate) fn enter() -> Result<Place> {
    processor::stay_on_one()?;
    namespace::enter()?;
    // Nobody but the bench sends packets here.
    sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    for line in CONFIGURATION {
        if line.starts_with("address add 192") {
            sysctl("ipv6/conf/up0/disable_ipv6", "0")?;
        }
        ip(line)?;
    }
    for n in 2..12 {
        ip(&format!("route add 10.244.1.{n}/32 dev pod0"))?;
    }
    sysctl("ipv6/conf/pod0/disable_ipv6", "0")?;
    for n in 2..12 {
        ip(&format!("route add fd00:244:1::{n}/128 dev pod0"))?;
    }
    // The FIB helper answers for routers only.
    sysctl("ipv4/conf/all/forwarding", "1")?;
    sysctl("ipv6/conf/all/forwarding", "1")?;
    Ok(Place {
        facts: facts()?,
        uplink: if_nametoindex(UPLINK)?,
        pod: if_nametoindex(POD)?,
    })
}

/// What the agent finds here.
fn facts() -> Result<NodeFacts> {
    let addresses: [IpAddr; 2] = [Family::V4, Family::V6].map(Family::node);
    let pods = [("10.244.1.0", 24), ("fd00:244:1::", 64)];
    let hints = Hints {
        node_addresses: addresses.to_vec(),
        pod_cidrs: pods
            .iter()
            .filter_map(|(address, length)| Prefix::new(address.parse().ok()?, *length))
            .collect(),
        pod_devices: Hints::patterns("pod*"),
        ..Hints::default()
    };
    // Netlink sockets belong to the namespace of the thread that opens them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (_sender, receiver) = watch::channel(hints);
    let facts = runtime.block_on(node::watch(receiver))?.borrow().clone();
    Ok(facts)
}
