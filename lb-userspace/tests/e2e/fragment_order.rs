//! Datagrams whose fragments arrive in another order than they were sent in, on every way that leads through a network:
//! requests, and answers.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use lb_common::testing::packet;
use lb_lab::{Answer, Capture, Family, Netfilter, Packet, Place, PodNetwork, Topology};

use crate::{
    cluster::{Cluster, hook, possible},
    reach::Address,
    service::{Service, TARGET},
};

const NODE_PORT: u16 = 30_080;

/// One with its backend on the node that clients reach, one with it elsewhere.
const SERVICES: [(&str, u16, &str); 2] = [("remote", 10, "pod2-1"), ("near", 11, "pod1-2")];

const WAYS: [(&str, Address); 4] = [
    ("client", Address::LoadBalancer),
    ("client", Address::NodePort("node1")),
    ("pod1-1", Address::ClusterIp),
    ("pod1-1", Address::External),
];

/// Bytes of a datagram.
const SIZES: [usize; 2] = [2_000, 60_000];
/// Bytes of its fragments' content: what fits every link of the lab.
const PIECE: usize = 1352;

const LIMIT: Duration = Duration::from_secs(5);

type Order = fn(usize, usize) -> usize;

/// By what pieces are sorted, of a piece's number and how many there are.
const ORDERS: [(&str, Order); 3] = [
    ("in order", |number, _| number),
    ("in reverse", |number, count| count - number),
    ("shuffled", |number, _| {
        number.wrapping_mul(0x9e37_79b9).wrapping_add(0x3c6e_f372) & 0xffff_ffff
    }),
];

#[test]
fn fragments_make_their_datagram_in_any_order_as_root() {
    check(
        "fragments_make_their_datagram_in_any_order_as_root",
        PodNetwork::Routed,
        Netfilter::None,
        &hook(),
    );
}

#[test]
fn fragments_make_their_datagram_in_any_order_through_a_tunnel_as_root() {
    check(
        "fragments_make_their_datagram_in_any_order_through_a_tunnel_as_root",
        PodNetwork::Tunnel,
        Netfilter::Nftables,
        &hook(),
    );
}

#[test]
fn fragments_make_their_datagram_in_any_order_by_xdp_as_root() {
    check(
        "fragments_make_their_datagram_in_any_order_by_xdp_as_root",
        PodNetwork::Routed,
        Netfilter::Iptables,
        "xdp",
    );
}

fn check(test: &str, network: PodNetwork, netfilter: Netfilter, hook: &str) {
    if !possible(test) {
        return;
    }
    let topology = Topology::cluster(2, 2).network(network).netfilter(netfilter);
    let cluster = Cluster::by(hook, topology, &[]);
    for (name, number, backend) in SERVICES {
        let service = Service::new(&cluster.lab, name, number)
            .load_balancer(&cluster.lab, number, NODE_PORT + number)
            .with(&cluster.lab, &[backend]);
        cluster.apply(&service);
    }
    let mut failures = Vec::new();
    let mut ids = 1..;
    for family in Family::BOTH {
        for (from, address) in WAYS {
            for (_, number, backend) in SERVICES {
                let to = address.socket(&cluster, family, number, NODE_PORT + number);
                if let Err(failure) = by(&cluster, from, to, backend, &mut ids) {
                    failures.push(format!("{from} to {to} {address:?}, {backend}: {failure}"));
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} fail:\n{}\n{}",
        failures.len(),
        failures.join("\n"),
        cluster.diagnosis()
    );
}

/// All orders and sizes, there and back, each on a flow of its own and with an identification of its own.
pub(crate) fn by(
    cluster: &Cluster,
    from: &str,
    to: SocketAddr,
    backend: &str,
    ids: &mut impl Iterator<Item = u16>,
) -> Result<(), String> {
    let at = |name: &str| cluster.lab.at(name).expect("the place is there");
    let (place, server) = (at(from), at(backend));
    let (asked, answered) = links(place, server, to)?;
    for size in SIZES {
        for (order, by) in ORDERS {
            let what = |error| format!("{size} bytes {order}: {error}");
            let id = ids.next().expect("there are enough");
            let client = client(place, to);
            let own = client.local_addr().expect("it is bound");
            let mut request = b"WHO t 0\n".to_vec();
            request.resize(size, b' ');
            let request = packet::udp(own, to).payload(&request);
            let [source, destination] = asked;
            send(place, &request.macs(source, destination).id(id), by);
            let answer = answer(&client).map_err(|error| what(format!("request: {error}")))?;
            if answer.name != backend || answer.length != size {
                return Err(what(format!("{answer:?}")));
            }
            let [source, destination] = answered;
            let body: Vec<u8> = (0..size).map(|byte| (byte % 251) as u8).collect();
            let reply = packet::udp(answer.local, answer.peer).payload(&body);
            send(server, &reply.macs(source, destination).id(id), by);
            let got = receive(&client).map_err(|error| what(format!("answer: {error}")))?;
            if got != body {
                return Err(what(format!("{} other bytes came back", got.len())));
            }
        }
    }
    Ok(())
}

/// A socket at `place` that is connected to `to`.
fn client(place: &Place, to: SocketAddr) -> UdpSocket {
    let any: SocketAddr = if to.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let connected = place.netns().run(|| {
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(socket)
    });
    connected.expect("there is a route")
}

fn receive(client: &UdpSocket) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; 65_536];
    let length = client.recv(&mut bytes).map_err(|error| error.to_string())?;
    bytes.truncate(length);
    Ok(bytes)
}

fn answer(client: &UdpSocket) -> Result<Answer, String> {
    let bytes = receive(client)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    serde_json::from_slice(line).map_err(|error| error.to_string())
}

fn send(place: &Place, datagram: &packet::Packet, order: Order) {
    let pieces = datagram.in_fragments(PIECE);
    let mut numbers: Vec<usize> = (0..pieces.len()).collect();
    numbers.sort_by_key(|number| order(*number, pieces.len()));
    let frames = numbers.into_iter().map(|number| pieces[number].build());
    place.send_all("eth0", frames).expect("frames can be sent");
}

type Macs = [[u8; 6]; 2];

/// Source and destination in the link header of packets from the client, and of answers: as the stacks write them.
fn links(place: &Place, server: &Place, to: SocketAddr) -> Result<(Macs, Macs), String> {
    let heard = |place: &Place, length: usize| {
        let capture = place.capture("eth0", move |frame| frame.len() > length);
        capture.expect("it can be listened")
    };
    let marked = 700;
    let captures = [heard(place, marked), heard(server, marked)];
    let end = Instant::now() + LIMIT;
    let answer = loop {
        let client = client(place, to);
        let mut request = format!("WHO t {marked}\n").into_bytes();
        request.resize(marked, b' ');
        client.send(&request).map_err(|error| error.to_string())?;
        match answer(&client) {
            Ok(answer) => break answer,
            Err(error) if Instant::now() > end => return Err(format!("a small request: {error}")),
            Err(_) => {}
        }
    };
    // Ports of the frame: any of the client's, to the Service's; the backend's, to the client's.
    let of = |capture: &Capture, source: Option<u16>, destination: u16| {
        let ports = 14 + if to.is_ipv4() { 20 } else { 40 };
        let port = |frame: &Packet, at: usize| {
            let bytes = frame.bytes.get(at..at + 2)?;
            Some(u16::from_be_bytes(bytes.try_into().expect("two bytes")))
        };
        let found = capture.wait_for(LIMIT, "the frame", |frame| {
            port(frame, ports + 2) == Some(destination) && (source.is_none() || port(frame, ports) == source)
        });
        let frame = found.map_err(|error| error.to_string())?.bytes;
        let mac = |at: usize| -> [u8; 6] { frame[at..at + 6].try_into().expect("six bytes") };
        Ok::<_, String>([mac(6), mac(0)])
    };
    let [requests, answers] = &captures;
    Ok((
        of(requests, None, to.port())?,
        of(answers, Some(TARGET), answer.peer.port())?,
    ))
}
