//! What a lab consists of, as plain values: nodes, pods, clients, addresses, kind of pod network, packet filter.
//!
//! Names of nodes, pods and clients share one namespace: the name is how everything in the lab is found.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::addr::{Dual, DualCidr};

/// How pods are joined to their node and nodes to each other's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PodNetwork {
    /// Host routes to one veth per pod, plain routes between nodes (as Calico without encapsulation).
    #[default]
    Routed,
    /// Host routes to one veth per pod, one VXLAN device `vxlan0` between nodes; pods have a smaller MTU.
    Tunnel,
    /// A bridge `cni0` per node that holds the pods' gateway address, plain routes between nodes
    /// (as the bridge plug-in, or flannel's host-gw).
    Bridge,
}

/// Which packet filter rules the nodes have, as clusters set them up: FORWARD drops but for pod ranges,
/// `ctstate INVALID` is dropped, pod traffic that leaves the cluster is masqueraded, reverse path filter strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Netfilter {
    /// No rules, no connection tracking, no reverse path filter.
    #[default]
    None,
    /// Rules of the x_tables kind.
    Iptables,
    /// Rules of the nf_tables kind.
    Nftables,
}

/// Whether senders leave TCP and UDP checksums to the device, and whether receivers join segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// Clients outside leave checksums to the device.
    pub clients_tx: bool,
    /// Pods do.
    pub pods_tx: bool,
    /// The fabric does, on its ends of the nodes' uplinks. A real network always delivers complete checksums:
    /// a program at a node's XDP hook needs this off.
    pub fabric_tx: bool,
    /// Generic receive offload at the nodes' and the pods' `eth0`. XDP redirects into a pod's veth need it.
    pub gro: bool,
}

impl Default for Offload {
    fn default() -> Self {
        Self {
            clients_tx: true,
            pods_tx: true,
            fabric_tx: true,
            gro: false,
        }
    }
}

/// Address ranges. The defaults are documentation and private ranges; several labs may share them, since each
/// lab is a world of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPlan {
    /// Nodes: the node with index N has the N-th address, the fabric the 254th.
    pub underlay: DualCidr,
    /// The nodes' second uplinks, likewise.
    pub second: DualCidr,
    /// All pods. Node N has the N-th /24 and /64 of it.
    pub cluster: DualCidr,
    /// Clients outside: client i has address 10 + i, the fabric the 254th.
    pub clients: DualCidr,
    /// ClusterIPs.
    pub services: DualCidr,
    /// Load-balancer addresses.
    pub vips: DualCidr,
    /// External IPs.
    pub external: DualCidr,
}

impl Default for AddressPlan {
    fn default() -> Self {
        Self {
            underlay: DualCidr::literal("192.168.0.0/24", "2001:db8:0:1::/64"),
            second: DualCidr::literal("192.168.1.0/24", "2001:db8:0:2::/64"),
            cluster: DualCidr::literal("10.180.0.0/16", "fd00:10:180::/48"),
            clients: DualCidr::literal("203.0.113.0/24", "2001:db8:c11e:a::/64"),
            services: DualCidr::literal("172.30.0.0/16", "fd00:172:30::/112"),
            vips: DualCidr::literal("192.0.2.0/24", "2001:db8:1ba::/64"),
            external: DualCidr::literal("198.51.100.0/24", "2001:db8:e1b::/64"),
        }
    }
}

impl AddressPlan {
    /// The fabric's place in the underlay and among the clients.
    pub(crate) const FABRIC: u16 = 254;

    /// The pod ranges of node `index`.
    pub fn pod_cidr(&self, index: u8) -> DualCidr {
        let v4 = u32::from(index) << 8;
        let v6 = u128::from(index) << 64;
        let (std::net::IpAddr::V4(a), std::net::IpAddr::V6(b)) = (self.cluster.v4.addr, self.cluster.v6.addr)
        else {
            unreachable!("a DualCidr holds one range of each family");
        };
        DualCidr {
            v4: crate::Cidr {
                addr: std::net::Ipv4Addr::from_bits(a.to_bits() + v4).into(),
                len: 24,
            },
            v6: crate::Cidr {
                addr: std::net::Ipv6Addr::from_bits(b.to_bits() + v6).into(),
                len: 64,
            },
        }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// Its number, from 1: decides its addresses and pod ranges.
    pub index: u8,
    /// Its addresses.
    pub addr: Dual,
    /// The addresses of its second uplink, if the topology has any.
    pub second: Dual,
    /// Its pod ranges.
    pub pod_cidr: DualCidr,
    /// Its pods.
    pub pods: Vec<PodSpec>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addr: Dual,
    /// The name of its device on the node.
    pub host_device: String,
}

/// A client outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSpec {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addr: Dual,
    /// Its number, from 0.
    pub index: u8,
}

/// What [`crate::Lab::build`] builds. Start with [`Topology::new`] or [`Topology::cluster`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Letters at the start of every name the lab gives to a namespace, pin folder or cgroup; says who left it.
    pub tag: String,
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
    /// The clients outside.
    pub clients: Vec<ClientSpec>,
    /// How pods are joined.
    pub network: PodNetwork,
    /// The nodes' packet filter.
    pub netfilter: Netfilter,
    /// Whether frames switched by a node's bridge pass the packet filter (sysctl `bridge-nf-call-*`).
    pub bridge_nf_call: bool,
    /// MTU of the network between nodes and of the clients; pods have it too, less 50 in a tunnel network.
    pub mtu: u16,
    /// Checksum and receive offloads.
    pub offload: Offload,
    /// The fabric's ends of the nodes' uplinks take what a program at a node's native XDP hook sends back (see
    /// [`Topology::xdp`]).
    pub xdp: bool,
    /// Uplinks of each node: one, `eth0`, or `eth1` on a second network as well, which only the fabric joins to the
    /// first. Nothing is routed by `eth1` but its own network: that is a test's business.
    pub uplinks: u8,
    /// The address ranges.
    pub plan: AddressPlan,
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}

impl Topology {
    /// Nothing but an address plan: add nodes and clients.
    pub fn new() -> Self {
        Self {
            tag: "lblab".into(),
            nodes: Vec::new(),
            clients: Vec::new(),
            network: PodNetwork::default(),
            netfilter: Netfilter::default(),
            bridge_nf_call: false,
            mtu: 1500,
            offload: Offload::default(),
            xdp: false,
            uplinks: 1,
            plan: AddressPlan::default(),
        }
    }

    /// `nodes` nodes `node1`, `node2`, … with `pods` pods each (`pod1-1` is node1's first) and one client `client`.
    pub fn cluster(nodes: u8, pods: u8) -> Self {
        let mut topology = Self::new();
        for node in 1..=nodes {
            let names: Vec<_> = (1..=pods).map(|pod| format!("pod{node}-{pod}")).collect();
            topology = topology.node(&format!("node{node}"), &names);
        }
        topology.client("client")
    }

    /// One more node with these pods.
    #[must_use]
    pub fn node(mut self, name: &str, pods: &[impl AsRef<str>]) -> Self {
        let index = u8::try_from(self.nodes.len() + 1).expect("a lab has fewer than 200 nodes");
        let pod_cidr = self.plan.pod_cidr(index);
        let pods = (0u16..).zip(pods).map(|(i, pod)| PodSpec {
            name: pod.as_ref().into(),
            addr: pod_cidr.nth(2 + i),
            host_device: format!("veth{i}"),
        });
        let pods = pods.collect();
        self.nodes.push(NodeSpec {
            name: name.into(),
            index,
            addr: self.plan.underlay.nth(index.into()),
            second: self.plan.second.nth(index.into()),
            pod_cidr,
            pods,
        });
        self
    }

    /// One more client outside.
    #[must_use]
    pub fn client(mut self, name: &str) -> Self {
        let index = u8::try_from(self.clients.len()).expect("a lab has fewer than 200 clients");
        let addr = self.plan.clients.nth(10 + u16::from(index));
        self.clients.push(ClientSpec {
            name: name.into(),
            addr,
            index,
        });
        self
    }

    /// The same with another kind of pod network.
    #[must_use]
    pub fn network(mut self, network: PodNetwork) -> Self {
        self.network = network;
        self
    }

    /// The same with a packet filter on the nodes.
    #[must_use]
    pub fn netfilter(mut self, netfilter: Netfilter) -> Self {
        self.netfilter = netfilter;
        self
    }

    /// The same, ready for programs at the nodes' XDP hooks: complete checksums arrive there, as from a real network,
    /// and what they send back gets through the other end of the veth pair.
    #[must_use]
    pub fn xdp(mut self) -> Self {
        self.xdp = true;
        self.offload.fabric_tx = false;
        self
    }

    /// The same with `eth1` on a second network.
    #[must_use]
    pub fn two_uplinks(mut self) -> Self {
        self.uplinks = 2;
        self
    }

    /// The networks between the nodes: the nodes' device, the fabric's bridge, the letter of the fabric's ports.
    pub(crate) fn underlays(&self) -> impl Iterator<Item = Underlay> + '_ {
        let all = [
            Underlay {
                device: "eth0",
                bridge: "br0",
                port: 'n',
                range: self.plan.underlay,
            },
            Underlay {
                device: "eth1",
                bridge: "br1",
                port: 'm',
                range: self.plan.second,
            },
        ];
        all.into_iter().take(self.uplinks.into())
    }

    /// All pods with their nodes.
    pub fn pods(&self) -> impl Iterator<Item = (&NodeSpec, &PodSpec)> {
        self.nodes
            .iter()
            .flat_map(|node| node.pods.iter().map(move |pod| (node, pod)))
    }

    /// MTU of the pods.
    pub fn pod_mtu(&self) -> u16 {
        // 50 = outer IPv4, UDP and VXLAN headers plus the inner Ethernet header.
        if self.network == PodNetwork::Tunnel {
            self.mtu - 50
        } else {
            self.mtu
        }
    }

    /// Whether a lab can be built from it.
    pub fn check(&self) -> Result<()> {
        let tag_ok = !self.tag.is_empty() && self.tag.bytes().all(|b| b.is_ascii_lowercase());
        ensure!(tag_ok, "tag {:?} must consist of lower-case letters", self.tag);
        ensure!(
            self.mtu >= 1330,
            "MTU {} is too small: IPv6 in a tunnel needs 1330",
            self.mtu
        );
        ensure!(
            matches!(self.uplinks, 1 | 2),
            "{} uplinks: one or two",
            self.uplinks
        );
        ensure!(
            self.nodes.len() < 200 && self.clients.len() < 200,
            "more than 199 nodes or clients"
        );
        let nodes = self.nodes.iter().map(|n| &n.name);
        let pods = self.pods().map(|(_, p)| &p.name);
        let mut seen = BTreeSet::from([FABRIC]);
        for name in nodes.chain(pods).chain(self.clients.iter().map(|c| &c.name)) {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            ensure!(
                !name.is_empty() && name.bytes().all(plain),
                "name {name:?}: letters, digits, - and _ only"
            );
            ensure!(
                seen.insert(name),
                "name {name:?} is given twice (or is the fabric's)"
            );
        }
        Ok(())
    }
}

/// A network between the nodes.
pub(crate) struct Underlay {
    pub(crate) device: &'static str,
    pub(crate) bridge: &'static str,
    pub(crate) port: char,
    pub(crate) range: DualCidr,
}

/// The name of the namespace that joins nodes and clients.
pub const FABRIC: &str = "fabric";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_plan() {
        let topology = Topology::cluster(3, 2);
        let node = &topology.nodes[2];
        assert_eq!(node.addr.v4.to_string(), "192.168.0.3");
        assert_eq!(node.addr.v6.to_string(), "2001:db8:0:1::3");
        assert_eq!(node.pod_cidr.v4.to_string(), "10.180.3.0/24");
        assert_eq!(node.pod_cidr.v6.to_string(), "fd00:10:180:3::/64");
        assert_eq!(node.pods[1].addr.v4.to_string(), "10.180.3.3");
        assert_eq!(node.pods[1].addr.v6.to_string(), "fd00:10:180:3::3");
        assert_eq!(topology.clients[0].addr.v4.to_string(), "203.0.113.10");
        assert_eq!(topology.clients[0].addr.v6.to_string(), "2001:db8:c11e:a::a");
    }

    #[test]
    fn names_that_cannot_be_told_apart_are_refused() {
        let no_pods: [&str; 0] = [];
        for (what, topology) in [
            ("twice", Topology::new().node("a", &["a"])),
            ("the fabric's", Topology::new().client(FABRIC)),
            ("a path", Topology::new().node("../x", &no_pods)),
            (
                "tag with a digit",
                Topology {
                    tag: "lb1".into(),
                    ..Topology::new()
                },
            ),
        ] {
            assert!(topology.check().is_err(), "{what}");
        }
        assert!(Topology::cluster(3, 2).check().is_ok());
    }
}
