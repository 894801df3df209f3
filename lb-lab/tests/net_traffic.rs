//! What the lab's traffic proves: digests, refusals, long connections, captures.

#![allow(clippy::unwrap_used)] // a test's helpers fail as the test does

use std::{
    io::Write as _,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use lb_lab::{Family, Lab, Offload, Options, Outcome, PodNetwork, Proto, Topology, require_root, wait_for};

const PORT: u16 = 8080;
const LIMIT: Duration = Duration::from_secs(20);

fn lab(topology: Topology) -> Lab {
    let lab = Lab::build(&Topology {
        tag: "lblabtraffic".into(),
        ..topology
    })
    .unwrap();
    lab.serve_in_pods(PORT).unwrap();
    lab
}

fn pod(lab: &Lab, name: &str, family: Family) -> SocketAddr {
    lab.at(name).unwrap().socket(family, PORT)
}

#[test]
fn root_fifty_megabytes_arrive_unchanged_in_every_network() {
    if !require_root("root_fifty_megabytes_arrive_unchanged_in_every_network") {
        return;
    }
    let software = Offload {
        clients_tx: false,
        pods_tx: false,
        fabric_tx: false,
        gro: true,
    };
    for network in [PodNetwork::Routed, PodNetwork::Tunnel, PodNetwork::Bridge] {
        for offload in [Offload::default(), software] {
            let lab = lab(Topology {
                offload,
                ..Topology::cluster(2, 1).network(network)
            });
            let from = lab.at("pod1-1").unwrap();
            for family in Family::BOTH {
                let dst = pod(&lab, "pod2-1", family);
                let down = from.download(dst, 50_000_000, LIMIT).unwrap();
                let up = from.upload(dst, 50_000_000, LIMIT).unwrap();
                assert_eq!((down.by.name, up.by.name), ("pod2-1".into(), "pod2-1".into()));
                eprintln!(
                    "{network:?} {family:?} {offload:?}: {:?} down, {:?} up",
                    down.elapsed, up.elapsed
                );
            }
        }
    }
}

#[test]
fn root_a_person_with_curl_is_answered() {
    if !require_root("root_a_person_with_curl_is_answered") {
        return;
    }
    let lab = lab(Topology::cluster(1, 1));
    let dst = pod(&lab, "pod1-1", Family::V4);
    let ask = || {
        let mut stream = TcpStream::connect(dst)?;
        stream.write_all(b"GET /any HTTP/1.1\r\nHost: shop\r\n\r\n")?;
        Ok(std::io::read_to_string(stream)?)
    };
    let response = lab.at("client").unwrap().netns().run(ask);
    assert!(
        response.is_err(),
        "a client outside knows no way to pods: {response:?}"
    );
    let response = lab.at("node1").unwrap().netns().run(ask).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 OK"), "{head}");
    assert!(body.contains(r#""name":"pod1-1","peer":"192.168.0.1:"#), "{body}");
}

#[test]
fn root_refused_and_silent_are_told_apart() {
    if !require_root("root_refused_and_silent_are_told_apart") {
        return;
    }
    let lab = lab(Topology::cluster(1, 1));
    let client = lab.at("pod1-1").unwrap();
    let quick = Options::within(Duration::from_millis(300));
    for proto in Proto::BOTH {
        for family in Family::BOTH {
            let node = lab.at("node1").unwrap();
            let shares = client
                .probe_with(proto, node.socket(family, 9), 20, &Options::default())
                .unwrap();
            assert!(
                shares.all_refused(),
                "nobody listens, {proto} {family:?}: {shares}"
            );
        }
        let drop = [
            "iptables",
            "-A",
            "INPUT",
            "-p",
            &proto.to_string().to_lowercase(),
            "--dport",
            "9",
            "-j",
            "DROP",
        ];
        lab.at("node1").unwrap().output(&drop).unwrap();
        let dst = lab.at("node1").unwrap().socket(Family::V4, 9);
        let shares = client.probe_with(proto, dst, 20, &quick).unwrap();
        assert!(shares.all_silent(), "dropped, {proto}: {shares}");
    }
    // The fabric knows no way to a Service: what leaves a node untranslated comes back as an error.
    let nowhere = "192.0.2.1:80".parse().unwrap();
    let outcome = lab
        .at("node1")
        .unwrap()
        .connect(Proto::Tcp, nowhere, &Options::default())
        .unwrap();
    assert!(matches!(outcome, Outcome::Unreachable(_)), "no route: {outcome}");
}

#[test]
fn root_source_addresses_and_ports_can_be_chosen() {
    if !require_root("root_source_addresses_and_ports_can_be_chosen") {
        return;
    }
    let lab = lab(Topology::cluster(1, 1));
    for proto in Proto::BOTH {
        for family in Family::BOTH {
            let from = lab.at("node1").unwrap();
            let source = from.socket(family, 45678);
            let dst = pod(&lab, "pod1-1", family);
            let outcome = from.connect(proto, dst, &Options::from(source)).unwrap();
            assert_eq!(
                outcome.answer().map(|a| (a.peer, a.local)),
                Some((source, dst)),
                "{outcome}"
            );
        }
    }
    let dst = pod(&lab, "pod1-1", Family::V4);
    let options = Options {
        request_len: 4000,
        reply_len: 9000,
        ..Options::default()
    };
    let outcome = lab
        .at("node1")
        .unwrap()
        .connect(Proto::Udp, dst, &options)
        .unwrap();
    assert_eq!(
        outcome.answer().map(|a| a.length),
        Some(4000),
        "fragmented both ways: {outcome}"
    );
}

#[test]
fn root_long_connections_report_their_end() {
    if !require_root("root_long_connections_report_their_end") {
        return;
    }
    let lab = lab(Topology::cluster(1, 2));
    let from = lab.at("pod1-1").unwrap();
    let dst = pod(&lab, "pod1-2", Family::V6);
    let mut held = from.hold(dst, &Options::default()).unwrap();
    held.echo(LIMIT).unwrap();
    held.echo(LIMIT).unwrap();
    assert_eq!(held.by().name, "pod1-2");

    let download = from.stream(dst, 1_000_000).unwrap();
    let datagrams = from.stream_datagrams(dst, 200).unwrap();
    download.wait_for_more(200_000, LIMIT).unwrap();
    datagrams.wait_for_more(20, LIMIT).unwrap();
    let rate_kept = download.report().received < 5_000_000;
    assert!(
        rate_kept,
        "a limited download is not a fast one: {:?}",
        download.report()
    );

    lab.stop_serving("pod1-2");
    assert!(held.echo(LIMIT).is_err());
    wait_for(LIMIT, "the download to break", || {
        download.report().error.is_some()
    })
    .unwrap();
    wait_for(LIMIT, "datagrams to be refused", || {
        datagrams.report().refused > 0
    })
    .unwrap();
    let report = datagrams.stop();
    assert!(
        report.received >= 20 && report.lost() > 0 && report.error.is_none(),
        "{report:?}"
    );
    assert!(download.wait_for_more(1, LIMIT).is_err());
}

#[test]
fn root_packets_can_be_sent_and_recorded() {
    if !require_root("root_packets_can_be_sent_and_recorded") {
        return;
    }
    let lab = lab(Topology::cluster(1, 1));
    // An experimental Ethernet type: nothing else on the wire has it.
    let frame = [
        &[0xff; 6][..],
        &[2; 6],
        &[0x88, 0xb5],
        &b"hello, wire"[..],
        &[0; 40],
    ]
    .concat();
    let capture = lab
        .at("node1")
        .unwrap()
        .capture("veth0", |f| f.get(12..14) == Some(&[0x88, 0xb5]))
        .unwrap();
    lab.at("pod1-1").unwrap().send_raw("eth0", &frame).unwrap();
    let packet = capture.wait_for(LIMIT, "the frame", |_| true).unwrap();
    assert_eq!((packet.bytes, packet.length), (frame.clone(), frame.len()));
    let path = lab.folder().join("test.pcap");
    capture.save(&path).unwrap();
    assert!(std::fs::read(path).unwrap().len() > frame.len());
    assert!(lab.at("node1").unwrap().capture("nosuch0", |_| true).is_err());
}

#[test]
fn root_processes_run_in_their_namespace_and_can_be_read() {
    if !require_root("root_processes_run_in_their_namespace_and_can_be_read") {
        return;
    }
    let lab = lab(Topology::cluster(1, 1));
    let script = "ip -br addr show dev eth0; echo $GREETING; exec sleep 600";
    let child = lab
        .spawn("node1", &["sh", "-c", script], &[("GREETING", "good morning")])
        .unwrap();
    child.wait_for_output("good morning", LIMIT).unwrap();
    assert!(child.tail(10).contains("192.168.0.1/24"), "{}", child.tail(10));
    assert!(child.is_running());
    child.stop(LIMIT).unwrap();
    assert!(!child.is_running());
    let child = lab
        .spawn("node1", &["sh", "-c", "echo sorry; exit 3"], &[])
        .unwrap();
    let error = child.wait_for_output("ready", LIMIT).unwrap_err();
    assert!(
        format!("{error:#}").contains("sorry"),
        "the error quotes the log: {error:#}"
    );
    assert!(lab.spawn("node9", &["true"], &[]).is_err());
}

#[test]
fn root_a_client_is_steered_through_the_node_of_choice() {
    if !require_root("root_a_client_is_steered_through_the_node_of_choice") {
        return;
    }
    let lab = lab(Topology::cluster(2, 1));
    for vip in ["192.0.2.80:80", "[2001:db8:1ba::80]:80"] {
        let vip: SocketAddr = vip.parse().unwrap();
        for node in ["node2", "node1"] {
            // A node that has the address itself, in place of a load balancer.
            lab.steer("client", node).unwrap();
            let place = lab.at(node).unwrap();
            place.add_address(vip.ip(), "lo").unwrap();
            let server = place.serve_on(Proto::Tcp, &[vip.ip()], vip.port()).unwrap();
            let shares = lab.at("client").unwrap().probe(Proto::Tcp, vip, 3).unwrap();
            assert_eq!(shares.answered, [(node.to_owned(), 3)].into(), "{shares}");
            assert_eq!(server.requests(), 3);
            place.remove_address(vip.ip(), "lo").unwrap();
        }
    }
}

#[test]
fn root_a_lab_for_xdp_has_programs_at_the_fabrics_ends_and_carries_traffic() {
    if !require_root("root_a_lab_for_xdp_has_programs_at_the_fabrics_ends_and_carries_traffic") {
        return;
    }
    let lab = lab(Topology {
        mtu: 9000,
        ..Topology::cluster(2, 1).two_uplinks().xdp()
    });
    let fabric = lab.at(lb_lab::FABRIC).unwrap();
    for port in ["n1", "n2", "m1", "m2"] {
        let link = fabric.output(&["ip", "link", "show", "dev", port]).unwrap();
        assert!(link.contains("prog/xdp"), "{link}");
    }
    for family in Family::BOTH {
        let transfer = lab
            .at("pod1-1")
            .unwrap()
            .download(pod(&lab, "pod2-1", family), 20_000_000, LIMIT);
        assert_eq!(transfer.unwrap().by.name, "pod2-1");
        // The second network is one of its own.
        let second = lab.node("node2").unwrap().second.of(family);
        let node = lab.at("node1").unwrap();
        let route = node.output(&["ip", "route", "get", &second.to_string()]).unwrap();
        assert!(route.contains("dev eth1"), "{route}");
        let _server = lab
            .at("node2")
            .unwrap()
            .serve_on(Proto::Tcp, &[second], PORT)
            .unwrap();
        let outcome = node
            .connect(Proto::Tcp, SocketAddr::new(second, PORT), &Options::default())
            .unwrap();
        assert!(outcome.is_from("node2"), "{outcome}");
    }
    let pins = std::path::Path::new("/sys/fs/bpf").join(format!("{}{}", lab.prefix(), lb_lab::FABRIC));
    assert!(pins.exists());
    drop(lab);
    assert!(!pins.exists());
}
