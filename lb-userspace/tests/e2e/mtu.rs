//! Path MTU discovery through Services: a link of every size at every place of the path, connections and datagrams,
//! both directions, both families.

use std::time::Duration;

use lb_lab::{Cidr, FABRIC, Family, Netfilter, Options, PodNetwork, Proto, Topology, wait_for};

use crate::{
    cluster::{Cluster, possible},
    reach::Address,
    service::Service,
};

const NODE_PORT: u16 = 30_080;
/// The MTU of all other links.
const LARGE: u16 = 9000;
const BYTES: u64 = 300_000;
const LIMIT: Duration = Duration::from_secs(8);

const SERVICES: [(&str, u16, &str); 2] = [("remote", 10, "pod2-1"), ("near", 11, "pod1-2")];

const WAYS: [(&str, usize, Address); 6] = [
    ("client", 0, Address::LoadBalancer),
    ("client", 1, Address::NodePort("node1")),
    ("pod1-1", 0, Address::ClusterIp),
    ("pod1-1", 1, Address::ClusterIp),
    ("node1", 0, Address::ClusterIp),
    ("node1", 0, Address::NodePort("node1")),
];

/// A link of the path: the devices at its ends.
#[derive(Clone, Copy, Debug)]
enum Link {
    /// Between the client and its router.
    Client,
    /// Between the nodes.
    Fabric,
    /// To the backends' pods.
    Pods,
    /// Between the nodes' tunnel devices.
    Tunnel,
}

impl Link {
    fn devices(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Client => &[("client", "eth0"), (FABRIC, "c0")],
            Self::Fabric => &[
                ("node1", "eth0"),
                ("node2", "eth0"),
                (FABRIC, "n1"),
                (FABRIC, "n2"),
                (FABRIC, "br0"),
            ],
            Self::Pods => &[
                ("node1", "veth1"),
                ("pod1-2", "eth0"),
                ("node2", "veth0"),
                ("pod2-1", "eth0"),
            ],
            Self::Tunnel => &[("node1", "vxlan0"), ("node2", "vxlan0")],
        }
    }

    fn set(self, cluster: &Cluster, mtu: u16) {
        for (place, device) in self.devices() {
            let place = cluster.lab.at(place).expect("the place is there");
            place.set_mtu(device, mtu).expect("the device takes any MTU");
        }
    }
}

#[test]
fn paths_of_every_size_are_discovered_in_a_routed_network_as_root() {
    let test = "paths_of_every_size_are_discovered_in_a_routed_network_as_root";
    sweep(
        test,
        PodNetwork::Routed,
        Netfilter::Nftables,
        &[
            (Link::Client, &[1280, 1500, 4000]),
            (Link::Fabric, &[1280, 1500, 4000]),
            (Link::Pods, &[1280, 1500, 4000, LARGE]),
        ],
    );
}

#[test]
fn paths_of_every_size_are_discovered_through_a_tunnel_as_root() {
    let test = "paths_of_every_size_are_discovered_through_a_tunnel_as_root";
    sweep(
        test,
        PodNetwork::Tunnel,
        Netfilter::Iptables,
        &[
            (Link::Client, &[1280]),
            (Link::Tunnel, &[1280, 1450, 8950]),
            (Link::Pods, &[1400]),
        ],
    );
}

fn sweep(test: &str, network: PodNetwork, netfilter: Netfilter, links: &[(Link, &[u16])]) {
    if !possible(test) {
        return;
    }
    let topology = Topology {
        mtu: LARGE,
        ..Topology::cluster(2, 2).network(network).netfilter(netfilter)
    };
    let usual = topology.pod_mtu();
    let cluster = Cluster::with(topology, &[]);
    for (name, number, backend) in SERVICES {
        let service = Service::new(&cluster.lab, name, number)
            .load_balancer(&cluster.lab, number, NODE_PORT + number)
            .with(&cluster.lab, &[backend]);
        cluster.apply(&service);
    }
    let mut failures = Vec::new();
    for (link, sizes) in links {
        for mtu in *sizes {
            link.set(&cluster, *mtu);
            for place in cluster.lab.places() {
                place.forget_paths().expect("routes can be flushed");
            }
            failures.extend(check(&cluster, &format!("{link:?} {mtu}")));
        }
        let before = match link {
            Link::Client | Link::Fabric => LARGE,
            Link::Pods | Link::Tunnel => usual,
        };
        link.set(&cluster, before);
    }
    assert!(
        failures.is_empty(),
        "{} fail:\n{}\n{}",
        failures.len(),
        failures.join("\n"),
        cluster.diagnosis()
    );
}

fn check(cluster: &Cluster, what: &str) -> Vec<String> {
    let mut failures = Vec::new();
    for family in Family::BOTH {
        for (from, service, address) in WAYS {
            let (_, number, backend) = SERVICES[service];
            let to = address.socket(cluster, family, number, NODE_PORT + number);
            let place = cluster.lab.at(from).expect("the place is there");
            for (way, transfer) in [
                ("down", place.download(to, BYTES, LIMIT)),
                ("up", place.upload(to, BYTES, LIMIT)),
            ] {
                if let Err(error) = transfer {
                    failures.push(format!("{what}: {from} to {address:?} {to} {way}: {error:#}"));
                }
            }
            // The kernel learns no path MTU for IPv6 addresses of its own, and so keeps to that of `lo`.
            if family == Family::V6 && matches!(address, Address::NodePort(node) if node == from) {
                continue;
            }
            // A datagram that fits the first link is sent as one packet that must not be fragmented.
            let options = Options {
                request_len: 3500,
                reply_len: 3500,
                ..Options::within(Duration::from_millis(300))
            };
            let answered = wait_for(LIMIT, "an answer", || {
                let shares = place
                    .probe_with(Proto::Udp, to, 1, &options)
                    .expect("the probe runs");
                shares.all_answered() && shares.names().contains(backend)
            });
            if answered.is_err() {
                failures.push(format!(
                    "{what}: {from} to {address:?} {to} by datagrams: nothing"
                ));
            }
        }
    }
    failures
}

/// A sender that is told keeps it in mind: its kernel sends no larger packets to the Service's address.
#[test]
fn the_path_mtu_is_kept_for_the_services_address_as_root() {
    let test = "the_path_mtu_is_kept_for_the_services_address_as_root";
    if !possible(test) {
        return;
    }
    let topology = Topology::cluster(2, 2).network(PodNetwork::Tunnel);
    let cluster = Cluster::with(topology, &[]);
    let service = Service::new(&cluster.lab, "remote", 10)
        .load_balancer(&cluster.lab, 10, NODE_PORT)
        .with(&cluster.lab, &["pod2-1"]);
    cluster.apply(&service);
    for family in Family::BOTH {
        let to = Address::LoadBalancer.socket(&cluster, family, 10, NODE_PORT);
        let place = cluster.lab.at("client").expect("it is there");
        // Fits the client's link, not the tunnel; a TCP connection's ends would have told each other.
        let options = Options {
            request_len: 1440,
            ..Options::within(Duration::from_millis(300))
        };
        let answered = wait_for(LIMIT, "an answer", || {
            let shares = place
                .probe_with(Proto::Udp, to, 1, &options)
                .expect("the probe runs");
            shares.all_answered()
        });
        assert!(answered.is_ok(), "{to}: no answer\n{}", cluster.diagnosis());
        let route = place.output(&["ip", "route", "get", &Cidr::host(to.ip()).addr.to_string()]);
        let route = route.expect("there is a route");
        assert!(route.contains("mtu 1450"), "{route}");
    }
}
