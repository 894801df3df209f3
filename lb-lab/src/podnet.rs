//! The three kinds of pod network, as lists of `ip` commands for a node and for a pod.

use crate::{
    addr::Family,
    links::{Batch, LINK_LOCAL, ip, nodad},
    topology::{NodeSpec, PodNetwork, PodSpec, Topology},
};

/// The gateway that pods with host routes use. It exists nowhere: the pod's neighbour entry names the host device.
const GATEWAY: &str = "169.254.1.1";
/// Hardware address of the host's end of every such pod.
const GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// The hardware address of pods' host devices, as part of a `link add` command.
pub(crate) fn host_device_mac(network: PodNetwork) -> String {
    match network {
        PodNetwork::Routed | PodNetwork::Tunnel => format!("address {GATEWAY_MAC}"),
        // Ports of one bridge must differ.
        PodNetwork::Bridge => String::new(),
    }
}

/// Devices and routes on a node.
pub(crate) fn node(topology: &Topology, node: &NodeSpec, batch: &mut Batch) {
    match topology.network {
        PodNetwork::Routed => {
            host_routes(node, batch);
            direct_routes(topology, node, batch);
        }
        PodNetwork::Tunnel => {
            host_routes(node, batch);
            tunnel(topology, node, batch);
        }
        PodNetwork::Bridge => {
            bridge(node, batch);
            direct_routes(topology, node, batch);
        }
    }
}

/// Device and routes in a pod.
pub(crate) fn pod(topology: &Topology, node: &NodeSpec, pod: &PodSpec) -> Batch {
    let mut batch = Batch::default();
    ip!(batch, "link set lo up");
    ip!(batch, "link set eth0 up");
    match topology.network {
        PodNetwork::Routed | PodNetwork::Tunnel => {
            ip!(batch, "addr add {}/32 dev eth0", pod.addr.v4);
            ip!(batch, "addr add {}/128 dev eth0 nodad", pod.addr.v6);
            ip!(batch, "route add {GATEWAY} dev eth0 scope link");
            for gateway in [GATEWAY, LINK_LOCAL] {
                ip!(
                    batch,
                    "neigh add {gateway} lladdr {GATEWAY_MAC} dev eth0 nud permanent"
                );
                ip!(batch, "route add default via {gateway} dev eth0");
            }
        }
        PodNetwork::Bridge => {
            for family in Family::BOTH {
                let (ip, len) = (pod.addr.of(family), node.pod_cidr.of(family).len);
                ip!(batch, "addr add {ip}/{len} dev eth0{}", nodad(family));
                ip!(
                    batch,
                    "route add default via {} dev eth0",
                    node.pod_cidr.nth(1).of(family)
                );
            }
        }
    }
    batch
}

/// `bridge` commands of a node: where the tunnel finds the other nodes.
pub(crate) fn forwarding(topology: &Topology, node: &NodeSpec) -> Batch {
    let mut batch = Batch::default();
    if topology.network == PodNetwork::Tunnel {
        for other in others(topology, node) {
            let (mac, underlay) = (tunnel_mac(other), other.addr.v4);
            ip!(batch, "fdb append {mac} dev vxlan0 dst {underlay} self permanent");
        }
    }
    batch
}

fn others<'a>(topology: &'a Topology, node: &NodeSpec) -> impl Iterator<Item = &'a NodeSpec> {
    let own = node.index;
    topology.nodes.iter().filter(move |other| other.index != own)
}

fn host_routes(node: &NodeSpec, batch: &mut Batch) {
    for PodSpec {
        host_device, addr, ..
    } in &node.pods
    {
        ip!(batch, "link set {host_device} up");
        ip!(batch, "addr add {LINK_LOCAL}/64 dev {host_device} nodad");
        for family in Family::BOTH {
            let (pod, src) = (addr.of(family), node.addr.of(family));
            ip!(batch, "route add {pod} dev {host_device} src {src}");
        }
    }
}

fn direct_routes(topology: &Topology, node: &NodeSpec, batch: &mut Batch) {
    for other in others(topology, node) {
        for family in Family::BOTH {
            ip!(
                batch,
                "route add {} via {} dev eth0",
                other.pod_cidr.of(family),
                other.addr.of(family)
            );
        }
    }
}

fn bridge(node: &NodeSpec, batch: &mut Batch) {
    // Left to itself a bridge changes its hardware address with its ports.
    ip!(
        batch,
        "link add cni0 address 0a:58:0a:b4:{:02x}:01 type bridge mcast_snooping 0",
        node.index
    );
    for pod in &node.pods {
        ip!(batch, "link set {} master cni0 up", pod.host_device);
    }
    ip!(batch, "link set cni0 up");
    for range in node.pod_cidr.both() {
        ip!(
            batch,
            "addr add {}/{} dev cni0{}",
            range.nth(1),
            range.len,
            nodad(range.family())
        );
    }
}

fn tunnel(topology: &Topology, node: &NodeSpec, batch: &mut Batch) {
    let (mac, mtu, local) = (tunnel_mac(node), topology.pod_mtu(), node.addr.v4);
    ip!(
        batch,
        "link add vxlan0 address {mac} mtu {mtu} type vxlan id 1 local {local} dev eth0 dstport 4789 nolearning"
    );
    ip!(batch, "link set vxlan0 up");
    for ip in node.pod_cidr.nth(0).both() {
        ip!(
            batch,
            "addr add {} dev vxlan0{}",
            crate::Cidr::host(ip),
            nodad(Family::of(ip))
        );
    }
    for other in others(topology, node) {
        for range in other.pod_cidr.both() {
            ip!(
                batch,
                "neigh add {} lladdr {} dev vxlan0 nud permanent",
                range.addr,
                tunnel_mac(other)
            );
            ip!(batch, "route add {range} via {} dev vxlan0 onlink", range.addr);
        }
    }
}

fn tunnel_mac(node: &NodeSpec) -> String {
    format!("02:00:0a:b4:{:02x}:00", node.index)
}
