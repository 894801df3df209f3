//! A box outside the cluster that owns an address and forwards it to NodePorts: a load balancer, or a NAT gateway.
//!
//! It translates with nftables and connection tracking, as a router does, in the place of a lab's client. Where it
//! keeps clients' addresses, the network brings the nodes' answers back to it, as a cloud's does: the fabric takes
//! what comes from the NodePort off the nodes' switch and sends it there, whomever it is for.

use std::{fmt::Write as _, fs, net::IpAddr};

use lb_lab::{Cidr, Dual, FABRIC, Family, Place, wait_for};

use crate::{
    cluster::{Cluster, SETTLED},
    service::PORT,
};

/// The fabric's routing table for answers that go back to the box.
const TABLE: u16 = 300;

/// What becomes of the address of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// Nodes see it.
    Kept,
    /// Nodes see the box.
    Masqueraded,
}

/// The box.
pub(super) struct Hop<'a> {
    cluster: &'a Cluster,
    place: &'a Place,
    address: Dual,
    node_port: u16,
    source: Source,
}

impl<'a> Hop<'a> {
    /// Makes a box of the lab's client `name`. It forwards nothing yet.
    pub(super) fn new(
        cluster: &'a Cluster,
        name: &str,
        address: Dual,
        node_port: u16,
        source: Source,
    ) -> Self {
        let place = cluster.lab.at(name).expect("it is there");
        let hop = Self {
            cluster,
            place,
            address,
            node_port,
            source,
        };
        place
            .netns()
            .run(|| {
                for (key, value) in [
                    ("ipv4/ip_forward", "1"),
                    ("ipv6/conf/all/forwarding", "1"),
                    ("ipv4/conf/all/send_redirects", "0"),
                    ("ipv4/conf/eth0/send_redirects", "0"),
                ] {
                    fs::write(format!("/proc/sys/net/{key}"), value)?;
                }
                Ok(())
            })
            .expect("it can be made a router");
        for ip in address.both() {
            place
                .add_address(ip, "eth0")
                .expect("it can have one address more");
        }
        // What it says itself is from its own address: the network would take answers to this one elsewhere.
        let address6 = Cidr::host(address.of(Family::V6)).to_string();
        let aside = "ip -6 addr change {} dev eth0 preferred_lft 0".replace("{}", &address6);
        place
            .output(&aside.split(' ').collect::<Vec<_>>())
            .expect("an address can be deprecated");
        hop.nft(place, &Family::BOTH.map(|family| hop.counter(family)).concat());
        hop.routes(name);
        hop
    }

    /// Counts what is sent to its address, before anything else looks at it.
    fn counter(&self, family: Family) -> String {
        let (ip, address) = (word(family), self.address.of(family));
        format!(
            "table {ip} seen {{
  counter heard {{ }}
  chain prerouting {{
    type filter hook prerouting priority raw
    {ip} daddr {address} counter name heard
  }}
}}
"
        )
    }

    /// The network's part: who finds the way to its address, and the way back.
    fn routes(&self, name: &str) {
        let topology = self.cluster.lab.topology();
        let client = topology
            .clients
            .iter()
            .find(|client| client.name == name)
            .expect("a box is a client of the lab");
        let (fabric, port) = (self.fabric(), format!("c{}", client.index));
        let mut batch = String::new();
        for family in Family::BOTH {
            let address = Cidr::host(self.address.of(family));
            let _ = writeln!(batch, "route replace {address} dev {port}");
            // Others than nodes are looked up in tables of their own first: see `Lab::route`.
            for other in &topology.clients {
                let _ = writeln!(
                    batch,
                    "route replace {address} dev {port} table {}",
                    100 + u16::from(other.index)
                );
            }
            if self.source == Source::Kept {
                let gateway = client.addr.of(family);
                let _ = writeln!(
                    batch,
                    "route replace default via {gateway} dev {port} table {TABLE}"
                );
                for node in &topology.nodes {
                    let (pods, node) = (node.pod_cidr.of(family), node.addr.of(family));
                    let _ = writeln!(batch, "route replace {pods} via {node} dev br0");
                }
            }
        }
        self.feed(fabric, &["ip", "-batch", "-"], &batch);
        if self.source == Source::Kept {
            let rules: String = ["tcp", "udp"]
                .map(|proto| {
                    format!(
                        "rule add iif br0 ipproto {proto} sport {} lookup {TABLE} priority 50\n",
                        self.node_port
                    )
                })
                .concat();
            for family in ["-4", "-6"] {
                self.feed(fabric, &["ip", family, "-batch", "-"], &rules);
            }
            self.nft(fabric, &self.taken_off_the_switch());
        }
    }

    /// Has the fabric route what nodes answer from the NodePort, instead of switching it to the node it is for.
    fn taken_off_the_switch(&self) -> String {
        let shown = self.fabric().output(&["ip", "-j", "link", "show", "br0"]);
        let shown = shown.expect("the fabric has its bridge");
        let link: serde_json::Value = serde_json::from_str(&shown).expect("it is JSON");
        let mac = link[0]["address"].as_str().expect("a bridge has an address");
        format!(
            "table bridge answers {{
  chain prerouting {{
    type filter hook prerouting priority dstnat
    meta l4proto {{ tcp, udp }} th sport {} ether daddr set {mac} meta pkttype set host
  }}
}}
",
            self.node_port
        )
    }

    /// From now on forwards to these nodes, in turn.
    pub(super) fn forward(&self, nodes: &[&str]) {
        for family in Family::BOTH {
            self.forward_family(family, nodes);
        }
        // Connection tracking remembers where datagrams of a port went.
        self.cluster.fresh_ports();
    }

    /// Asks the nodes for the Service's health until these are healthy in both families; then forwards to them.
    pub(super) fn balance(&self, check: u16, healthy: &[&str]) {
        for family in Family::BOTH {
            let mut found = Vec::new();
            let what = format!("{healthy:?} are healthy, by {family:?}");
            let settled = wait_for(SETTLED, &what, || {
                let nodes = self.cluster.lab.topology().nodes.iter();
                found = nodes
                    .filter(|node| self.is_healthy(node.addr.of(family), check))
                    .map(|node| node.name.as_str())
                    .collect();
                found == healthy
            });
            assert!(settled.is_ok(), "{what}: {found:?}\n{}", self.cluster.diagnosis());
            self.forward_family(family, &found);
        }
        // Connection tracking remembers where datagrams of a port went.
        self.cluster.fresh_ports();
    }

    fn is_healthy(&self, node: IpAddr, check: u16) -> bool {
        let url = format!("http://{}/healthz", std::net::SocketAddr::new(node, check));
        let asked = self
            .place
            .output(&["curl", "-sgfo", "/dev/null", "--max-time", "5", &url]);
        asked.is_ok()
    }

    fn forward_family(&self, family: Family, nodes: &[&str]) {
        let (ip, address) = (word(family), self.address.of(family));
        let mut rules = String::new();
        for (place, node) in nodes.iter().enumerate() {
            let node = self.cluster.lab.node(node).expect("it is there").addr.of(family);
            let to = std::net::SocketAddr::new(node, self.node_port);
            let turn = match nodes.len() - place {
                1 => String::new(),
                left => format!("numgen inc mod {left} == 0 "),
            };
            let _ = writeln!(
                rules,
                "    {ip} daddr {address} meta l4proto {{ tcp, udp }} th dport {PORT} {turn}dnat to {to}"
            );
        }
        let masquerade = match self.source {
            Source::Kept => "",
            Source::Masqueraded => "    ct status dnat masquerade\n",
        };
        let table = format!(
            "table {ip} hop {{ }}
delete table {ip} hop
table {ip} hop {{
  chain prerouting {{
    type nat hook prerouting priority dstnat
{rules}  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat
{masquerade}  }}
}}
"
        );
        self.nft(self.place, &table);
    }

    /// Packets to its address that have come to it.
    pub(super) fn seen(&self, family: Family) -> u64 {
        let text = self
            .place
            .output(&["nft", "-j", "list", "counter", word(family), "seen", "heard"]);
        let text = text.expect("it counts");
        let list: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let mut items = list["nftables"].as_array().into_iter().flatten();
        items
            .find_map(|item| item["counter"]["packets"].as_u64())
            .expect("it counts packets")
    }

    fn fabric(&self) -> &'a Place {
        self.cluster.lab.at(FABRIC).expect("every lab has it")
    }

    fn nft(&self, place: &Place, text: &str) {
        self.feed(place, &["nft", "-f", "-"], text);
    }

    fn feed(&self, place: &Place, argv: &[&str], text: &str) {
        let done = place.netns().feed(argv, text);
        assert!(done.is_ok(), "{done:?}\n{text}");
    }
}

fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
