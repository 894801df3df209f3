//! Programs at sockets: connections that get their backend before there is a packet, and NodePorts that nobody else can
//! bind. TC stays right for whatever passes them by.

use std::{
    io::{ErrorKind, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use lb_lab::{Family, Netfilter, Options, PodNetwork, Proto, Signal, Topology};

use crate::{
    cluster::{Cluster, possible, socket},
    reach::Address,
    service::{PORT, Service},
};

const NODE_PORT: u16 = 30_080;
const LIMIT: Duration = Duration::from_secs(5);

fn cluster(network: PodNetwork, hooks: &str) -> Cluster {
    let topology = Topology::cluster(2, 2)
        .network(network)
        .netfilter(Netfilter::Iptables);
    Cluster::with(topology, &["--connect-hooks", hooks])
}

fn shop(cluster: &Cluster) -> Service {
    let lab = &cluster.lab;
    Service::new(lab, "shop", 10)
        .load_balancer(lab, 10, NODE_PORT)
        .set("externalTrafficPolicy", "Local")
        .with(lab, &["pod1-1", "pod2-1", "pod2-2"])
}

/// What a socket in a place is told of its peer once it is connected to `to`, or why it is not.
fn peer(cluster: &Cluster, from: &str, to: SocketAddr) -> std::io::Result<SocketAddr> {
    let place = cluster.lab.at(from).expect("the place is there");
    let asked = || Ok(TcpStream::connect_timeout(&to, LIMIT).and_then(|stream| stream.peer_addr()));
    place.netns().run(asked).expect("the place can be entered")
}

/// The same address for a socket of IPv6.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[test]
fn connections_get_their_backend_at_the_socket_as_root() {
    if !possible("connections_get_their_backend_at_the_socket_as_root") {
        return;
    }
    for network in [PodNetwork::Routed, PodNetwork::Tunnel, PodNetwork::Bridge] {
        let cluster = cluster(network, "all");
        cluster.apply(&shop(&cluster));
        let by_packet = |hook| cluster.counted(0, hook, "forwarded-new");
        let before = [by_packet("pod-in"), by_packet("host-out")];
        let mut connections = 0;
        for family in Family::BOTH {
            for from in ["pod1-2", "node1"] {
                for address in [
                    Address::ClusterIp,
                    Address::LoadBalancer,
                    Address::External,
                    Address::NodePort("node2"),
                ] {
                    let to = address.socket(&cluster, family, 10, NODE_PORT);
                    for to in [to, mapped(to)] {
                        let seen = peer(&cluster, from, to).unwrap_or_else(|error| {
                            panic!("{network:?}: {from} to {to}: {error}\n{}", cluster.diagnosis())
                        });
                        assert_eq!(seen, to, "{network:?}: getpeername of {from}");
                        connections += 1;
                    }
                    let shares = cluster.probe(from, Proto::Tcp, to, 60);
                    connections += 60;
                    assert_eq!(
                        shares.names(),
                        ["pod1-1", "pod2-1", "pod2-2"].into(),
                        "{network:?}: {from} to {to}: {shares}"
                    );
                    if from != "node1" {
                        let own = cluster.lab.at(from).expect("it is there").ip(family);
                        assert_eq!(
                            shares.all_sources(),
                            [own].into(),
                            "{network:?}: {from} to {to}: {shares}"
                        );
                    }
                }
            }
        }
        assert_eq!(
            cluster.counted(0, "connect", "forwarded-new"),
            connections,
            "{network:?}"
        );
        let by_packets = [by_packet("pod-in"), by_packet("host-out")];
        assert_eq!(by_packets, before, "{network:?}: packets were translated");
        // A backend that comes to itself does not see its own address, whatever the Service's policies are.
        let plain =
            Service::new(&cluster.lab, "plain", 14).with(&cluster.lab, &["pod1-1", "pod2-1", "pod2-2"]);
        cluster.apply(&plain);
        for (family, number) in Family::BOTH
            .into_iter()
            .flat_map(|family| [(family, 10), (family, 14)])
        {
            let to = Address::ClusterIp.socket(&cluster, family, number, NODE_PORT);
            let shares = cluster.probe("pod1-1", Proto::Tcp, to, 60);
            let ip = |place| cluster.lab.at(place).expect("it is there").ip(family);
            assert_eq!(shares.names().len(), 3, "{network:?}: {shares}");
            assert!(
                !shares.sources["pod1-1"].contains(&ip("pod1-1")),
                "{network:?}: {shares}"
            );
        }
        let to = Address::ClusterIp.socket(&cluster, Family::V4, 10, NODE_PORT);
        // Datagrams are TC's. (A port that comes again is no new flow.)
        let shares = cluster.probe("pod1-2", Proto::Udp, to, 60);
        assert_eq!(shares.names().len(), 3, "{network:?}: {shares}");
        assert!(by_packet("pod-in") >= by_packets[0] + 30, "{network:?}");
    }
}

#[test]
fn what_a_socket_cannot_decide_is_left_to_tc_as_root() {
    if !possible("what_a_socket_cannot_decide_is_left_to_tc_as_root") {
        return;
    }
    let mut cluster = cluster(PodNetwork::Routed, "all");
    let lab = &cluster.lab;
    let none = Service::new(lab, "none", 11);
    let affine = Service::new(lab, "affine", 12)
        .set("sessionAffinity", "ClientIP")
        .with(lab, &["pod1-1", "pod2-1"]);
    let elsewhere = Service::new(lab, "elsewhere", 13)
        .set("internalTrafficPolicy", "Local")
        .with(lab, &["pod2-1"]);
    let shop = shop(&cluster);
    for service in [&shop, &none, &affine, &elsewhere] {
        cluster.apply(service);
    }
    let lab = &cluster.lab;
    for family in Family::BOTH {
        let at = |number| socket(lab.topology().plan.services.nth(number), family, PORT);
        for from in ["pod1-2", "node1"] {
            // Refused before there is a packet.
            let refused = cluster.counted(0, "connect", "rejected-no-endpoints");
            let error = peer(&cluster, from, at(11)).expect_err("nobody serves it");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{from}: {error}");
            assert_eq!(
                cluster.counted(0, "connect", "rejected-no-endpoints"),
                refused + 1
            );
            // The client's address decides.
            let left = cluster.counted(0, "connect", "passed-to-tc-source");
            let shares = cluster.probe(from, Proto::Tcp, at(12), 20);
            assert_eq!(shares.names().len(), 1, "{from}: {shares}");
            assert_eq!(cluster.counted(0, "connect", "passed-to-tc-source"), left + 20);
            // Silence.
            let outcome = lab
                .at(from)
                .expect("it is there")
                .connect(Proto::Tcp, at(13), &Options::within(Duration::from_millis(600)))
                .expect("it can be tried");
            assert_eq!(outcome, lb_lab::Outcome::Silent, "{from}");
            // A socket that has chosen its address keeps it.
            let own = lab.at(from).expect("it is there").ip(family);
            let bound = Options::from(SocketAddr::new(own, 0));
            let outcome = lab
                .at(from)
                .expect("it is there")
                .connect(Proto::Tcp, at(10), &bound)
                .expect("it can be tried");
            assert!(outcome.answer().is_some(), "{from}: {outcome}");
            assert_eq!(
                cluster.counted(0, "connect", "passed-to-tc-source"),
                left + 22,
                "{from}"
            );
        }
    }
    // What is in no cgroup of the node passes the sockets by.
    let to = socket(lab.topology().plan.services.nth(10), Family::V4, PORT);
    let connect = format!("exec 3<>/dev/tcp/{}/{} && echo connected", to.ip(), to.port());
    let asked = cluster.counted(0, "connect", "");
    let child = lab
        .spawn("pod1-2", &["bash", "-c", &connect], &[])
        .expect("bash starts");
    child.wait_for_output("connected", LIMIT).expect("TC serves it");
    assert_eq!(cluster.counted(0, "connect", ""), asked);

    // Without the programs the same connections go by TC, and those that are there go on.
    let place = cluster.lab.at("pod1-2").expect("it is there").clone();
    let mut open = place
        .netns()
        .run(|| Ok(TcpStream::connect_timeout(&to, LIMIT)?))
        .expect("it connects");
    cluster.end_agent(0, Signal::SIGKILL);
    assert_eq!(peer(&cluster, "pod1-2", to).expect("programs go on"), to);
    cluster.set_connect_hooks("off");
    cluster.start_agent(0);
    cluster.wait_for_agent(0);
    let programs = cluster.status(0)["sockets"]["programs"].clone();
    assert_eq!(programs, serde_json::json!(["post_bind4", "post_bind6"]));
    let asked = cluster.counted(0, "connect", "");
    assert_eq!(peer(&cluster, "pod1-2", to).expect("TC serves it"), to);
    assert_eq!(cluster.counted(0, "connect", ""), asked);
    open.set_read_timeout(Some(Duration::from_millis(200)))
        .expect("a time limit");
    let kind = open.read(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(kind, Err(ErrorKind::WouldBlock), "the connection is there");
}

#[test]
fn of_the_node_alone_if_asked_for_as_root() {
    if !possible("of_the_node_alone_if_asked_for_as_root") {
        return;
    }
    let cluster = cluster(PodNetwork::Tunnel, "host");
    cluster.apply(&shop(&cluster));
    for family in Family::BOTH {
        let to = Address::ClusterIp.socket(&cluster, family, 10, NODE_PORT);
        for (from, hook) in [("pod1-2", "pod-in"), ("node1", "connect")] {
            let new = |hook| cluster.counted(0, hook, "forwarded-new");
            let before = [new("connect") + new("pod-in") + new("host-out"), new(hook)];
            let shares = cluster.probe(from, Proto::Tcp, to, 30);
            assert_eq!(shares.answers(), 30, "{from}: {shares}");
            let after = [new("connect") + new("pod-in") + new("host-out"), new(hook)];
            assert_eq!(after, before.map(|count| count + 30), "{from} by {hook}");
        }
    }
}

#[test]
fn a_node_port_cannot_be_bound_as_root() {
    if !possible("a_node_port_cannot_be_bound_as_root") {
        return;
    }
    let cluster = cluster(PodNetwork::Routed, "off");
    let shop = shop(&cluster);
    let lab = &cluster.lab;
    let bound = |from: &str, on: IpAddr, proto: Proto| {
        let place = lab.at(from).expect("it is there");
        let bind = || {
            let bound = match proto {
                Proto::Tcp => TcpListener::bind((on, NODE_PORT)).map(drop),
                Proto::Udp => UdpSocket::bind((on, NODE_PORT)).map(drop),
            };
            Ok(bound.map_err(|error| error.kind()))
        };
        place.netns().run(bind).expect("the place can be entered")
    };
    let tcp = |from, on| bound(from, on, Proto::Tcp);
    let all = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    let node: Vec<_> = Family::BOTH
        .iter()
        .map(|family| lab.at("node1").expect("it is there").ip(*family))
        .collect();
    for on in all.into_iter().chain(node.iter().copied()) {
        assert_eq!(tcp("node1", on), Ok(()), "{on}: before there is a Service");
    }
    cluster.apply(&shop);
    let taken = Err(ErrorKind::AddrInUse);
    for on in all.into_iter().chain(node) {
        assert_eq!(tcp("node1", on), taken, "{on}");
        assert_eq!(bound("node1", on, Proto::Udp), taken, "{on}");
        if on.is_unspecified() {
            assert_eq!(tcp("pod1-1", on), Ok(()), "{on}: pods have ports of their own");
        }
    }
    // NodePorts are not served there.
    assert_eq!(tcp("node1", Ipv4Addr::LOCALHOST.into()), Ok(()));
    assert_eq!(tcp("node1", Ipv6Addr::LOCALHOST.into()), Ok(()));
    assert_eq!(cluster.counted(0, "bind", "rejected-node-port"), 8);
    cluster.delete(&shop);
    for on in all {
        assert_eq!(tcp("node1", on), Ok(()), "{on}: the Service is gone");
    }
}
