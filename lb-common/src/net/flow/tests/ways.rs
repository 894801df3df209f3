//! Every kind of client to every kind of backend: where the first packet goes and what it looks like there,
//! and what the client sees of the answer.

use std::net::SocketAddr;

use super::world::*;
use crate::abi::Outcome;
use crate::net::Net;
use crate::testing::node::{Fate, Journey, SimNode};
use crate::testing::packet::{self, Endpoint, Packet};

/// How a packet gets to the node.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Start {
    /// It comes in on this device.
    Arrive(u32),
    /// A process of the node sends it by this device.
    Emit(u32),
}
use Start::{Arrive, Emit};

fn start<F: Net>(node: &SimNode<F>, start: Start, packet: &Packet) -> Journey {
    match start {
        Arrive(device) => node.arrive(device, packet),
        Emit(device) => node.emit(device, packet),
    }
}

/// One way through the node.
struct Row {
    what: &'static str,
    backend: &'static str,
    client: &'static str,
    service: &'static str,
    start: Start,
    /// Where the request ends up, and its time to live there.
    there: (Fate, u8),
    /// The source that the backend sees; port 0: one of the reserved range.
    seen: &'static str,
    /// How the answer starts.
    back: Start,
    /// Where the answer ends up, and its time to live there.
    home: (Fate, u8),
}

const SENT: fn(u32) -> Fate = Fate::Sent;
const RECEIVED: fn(u32) -> Fate = Fate::Received;

fn rows() -> [Row; 25] {
    let row = |what, client, service, start, backend, there, seen, back, home| Row {
        what,
        backend,
        client,
        service,
        start,
        there,
        seen,
        back,
        home,
    };
    let (sent, received) = (SENT, RECEIVED);
    [
        row(
            "outside to a local pod",
            OUTSIDE,
            VIP,
            Arrive(UPLINK),
            POD_A,
            (sent(DEVICE_A), 63),
            OUTSIDE,
            Arrive(DEVICE_A),
            (sent(UPLINK), 63),
        ),
        row(
            "outside to a local pod by NodePort",
            OUTSIDE,
            NODE_PORT,
            Arrive(UPLINK),
            POD_A,
            (sent(DEVICE_A), 63),
            OUTSIDE,
            Arrive(DEVICE_A),
            (sent(UPLINK), 63),
        ),
        row(
            "outside to a local pod by LoadBalancer address",
            OUTSIDE,
            LOAD_BALANCER,
            Arrive(UPLINK),
            POD_A,
            (sent(DEVICE_A), 63),
            OUTSIDE,
            Arrive(DEVICE_A),
            (sent(UPLINK), 63),
        ),
        row(
            "outside to a local pod by externalIP",
            OUTSIDE,
            EXTERNAL_IP,
            Arrive(UPLINK),
            POD_A,
            (sent(DEVICE_A), 63),
            OUTSIDE,
            Arrive(DEVICE_A),
            (sent(UPLINK), 63),
        ),
        row(
            "outside to a pod on a bridge",
            OUTSIDE,
            VIP,
            Arrive(UPLINK),
            POD_C,
            (sent(PORT_C), 63),
            OUTSIDE,
            Arrive(PORT_C),
            (sent(UPLINK), 63),
        ),
        row(
            "outside to a host-network pod",
            OUTSIDE,
            NODE_PORT,
            Arrive(UPLINK),
            HOST_1,
            (received(UPLINK), 64),
            OUTSIDE,
            Emit(UPLINK),
            (sent(UPLINK), 64),
        ),
        row(
            "outside to another node's pod",
            OUTSIDE,
            NODE_PORT,
            Arrive(UPLINK),
            POD_2,
            (sent(UPLINK), 63),
            "192.168.1.1:0",
            Arrive(UPLINK),
            (sent(UPLINK), 63),
        ),
        row(
            "outside to another node's pod by tunnel",
            OUTSIDE,
            VIP,
            Arrive(UPLINK),
            POD_3,
            (sent(TUNNEL), 63),
            "10.244.1.0:0",
            Arrive(TUNNEL),
            (sent(UPLINK), 63),
        ),
        row(
            "outside to another node's process",
            OUTSIDE,
            NODE_PORT,
            Arrive(UPLINK),
            HOST_2,
            (sent(UPLINK), 63),
            "192.168.1.1:0",
            Arrive(UPLINK),
            (sent(UPLINK), 63),
        ),
        row(
            "another node's pod to a local pod by tunnel",
            "10.244.3.9:40000",
            VIP,
            Arrive(TUNNEL),
            POD_A,
            (sent(DEVICE_A), 63),
            "10.244.3.9:40000",
            Arrive(DEVICE_A),
            (sent(TUNNEL), 63),
        ),
        row(
            "pod to a local pod",
            CLIENT_A,
            VIP,
            Arrive(DEVICE_A),
            POD_B,
            (sent(DEVICE_B), 63),
            CLIENT_A,
            Arrive(DEVICE_B),
            (sent(DEVICE_A), 63),
        ),
        row(
            "pod to a pod on a bridge",
            CLIENT_A,
            VIP,
            Arrive(DEVICE_A),
            POD_C,
            (sent(PORT_C), 63),
            CLIENT_A,
            Arrive(PORT_C),
            (sent(DEVICE_A), 63),
        ),
        row(
            "pod to another node's pod",
            CLIENT_A,
            VIP,
            Arrive(DEVICE_A),
            POD_2,
            (sent(UPLINK), 63),
            CLIENT_A,
            Arrive(UPLINK),
            (sent(DEVICE_A), 63),
        ),
        row(
            "pod to another node's pod by tunnel",
            CLIENT_A,
            LOAD_BALANCER,
            Arrive(DEVICE_A),
            POD_3,
            (sent(TUNNEL), 63),
            CLIENT_A,
            Arrive(TUNNEL),
            (sent(DEVICE_A), 63),
        ),
        row(
            "pod to a process of its node",
            CLIENT_A,
            VIP,
            Arrive(DEVICE_A),
            HOST_1,
            (received(DEVICE_A), 64),
            CLIENT_A,
            Emit(DEVICE_A),
            (sent(DEVICE_A), 64),
        ),
        row(
            "pod to another node's NodePort",
            CLIENT_A,
            NODE_PORT_2,
            Arrive(DEVICE_A),
            POD_B,
            (sent(DEVICE_B), 63),
            CLIENT_A,
            Arrive(DEVICE_B),
            (sent(DEVICE_A), 63),
        ),
        row(
            "process to a local pod",
            PROCESS,
            VIP,
            Emit(LB0),
            POD_A,
            (sent(DEVICE_A), 64),
            PROCESS_ANEW,
            Arrive(DEVICE_A),
            (received(LB0), 64),
        ),
        row(
            "process to a pod on a bridge",
            PROCESS,
            VIP,
            Emit(LB0),
            POD_C,
            (sent(BRIDGE), 64),
            PROCESS_ANEW,
            Arrive(PORT_C),
            (received(LB0), 64),
        ),
        row(
            "process to another node's pod",
            PROCESS,
            VIP,
            Emit(LB0),
            POD_2,
            (sent(UPLINK), 64),
            PROCESS_ANEW,
            Arrive(UPLINK),
            (received(LB0), 64),
        ),
        row(
            "process to another node's pod by tunnel",
            PROCESS,
            VIP,
            Emit(LB0),
            POD_3,
            (sent(TUNNEL), 64),
            "10.244.1.0:0",
            Arrive(TUNNEL),
            (received(LB0), 64),
        ),
        row(
            "process to a host-network pod",
            PROCESS,
            VIP,
            Emit(LB0),
            HOST_1,
            (received(LO), 64),
            PROCESS,
            Emit(LO),
            (received(LB0), 64),
        ),
        row(
            "process to its own NodePort, local pod",
            PROCESS,
            NODE_PORT,
            Emit(LO),
            POD_A,
            (sent(DEVICE_A), 64),
            PROCESS_ANEW,
            Arrive(DEVICE_A),
            (received(LO), 64),
        ),
        row(
            "process to its own NodePort, host-network pod",
            PROCESS,
            NODE_PORT,
            Emit(LO),
            HOST_1,
            (received(LO), 64),
            PROCESS,
            Emit(LO),
            (received(LO), 64),
        ),
        row(
            "process to another node's NodePort, local pod",
            PROCESS,
            NODE_PORT_2,
            Emit(UPLINK),
            POD_A,
            (sent(DEVICE_A), 64),
            PROCESS_ANEW,
            Arrive(DEVICE_A),
            (received(UPLINK), 64),
        ),
        row(
            "process to another node's NodePort, its pod",
            PROCESS,
            NODE_PORT_2,
            Emit(UPLINK),
            POD_2,
            (sent(UPLINK), 64),
            PROCESS_ANEW,
            Arrive(UPLINK),
            (received(UPLINK), 64),
        ),
    ]
}

fn in_snat_range(port: u16) -> bool {
    (50_000..=59_999).contains(&port)
}

/// Sends a request and an answer, three times over; the first packet opens the flow.
fn check<F: Net>(row: &Row, request: &Packet, answer: &Packet) {
    let node = node::<F>(0, &[row.backend]);
    for n in 0..3 {
        let what = std::format!("{} ({n})", row.what);
        let there = start(&node, row.start, request);
        let (source, _) = ends(&there);
        let mut seen: SocketAddr = row.seen.socket();
        if seen.port() == 0 {
            assert!(in_snat_range(source.port()), "{what}: {source}");
            seen.set_port(source.port());
        }
        let (fate, ttl) = row.there;
        expect::<F>(
            &what,
            &there,
            fate,
            &request.clone().from(seen).to(row.backend).ttl(ttl),
        );
        let new = if n == 0 {
            Outcome::ForwardedNew
        } else {
            Outcome::ForwardedFlow
        };
        assert_eq!(there.outcome(), new, "{what}");

        let back = start(&node, row.back, &answer.clone().from(row.backend).to(seen));
        let (fate, ttl) = row.home;
        expect::<F>(
            &what,
            &back,
            fate,
            &answer.clone().from(row.service).to(row.client).ttl(ttl),
        );
        assert_eq!(back.outcome(), Outcome::ForwardedFlow, "{what}");
        assert_eq!(node.tables.flow_count(), 2, "{what}");
        expect_whole(&node);
    }
}

fn every_client_reaches_every_backend_and_sees_the_service_answer<F: Net>() {
    for row in rows() {
        let syn = packet::tcp(row.client, row.service).syn().seq(7);
        check::<F>(
            &row,
            &syn,
            &packet::tcp(row.backend, row.client).syn_ack().seq(9).ack(8),
        );
        let udp = packet::udp(row.client, row.service).payload(b"question");
        check::<F>(
            &row,
            &udp,
            &packet::udp(row.backend, row.client).payload(b"answer"),
        );
        let sctp = packet::sctp(row.client, row.service).payload(&[1, 0, 0, 4]);
        check::<F>(
            &row,
            &sctp,
            &packet::sctp(row.backend, row.client).payload(&[2, 0, 0, 4]),
        );
    }
}

fn a_pod_that_reaches_itself_sees_the_node_as_its_client_and_the_service_as_its_server<F: Net>() {
    // The last row: the stack must not see a tuple that is its own reverse.
    for (what, client, device, pod) in [
        ("routed", CLIENT_A, DEVICE_A, POD_A),
        ("on a bridge", "10.244.1.12:40000", PORT_C, POD_C),
        ("with equal ports", "10.244.1.10:8080", DEVICE_A, POD_A),
    ] {
        let node = node::<F>(0, &[pod]);
        for n in 0..3 {
            let what = std::format!("{what} ({n})");
            let syn = packet::tcp(client, VIP).syn();
            let there = node.arrive(device, &syn);
            let (source, _) = ends(&there);
            assert!(in_snat_range(source.port()), "{what}: {source}");
            let seen: SocketAddr = ("192.168.1.1:0".socket().ip(), source.port()).into();
            expect::<F>(
                &what,
                &there,
                Fate::Sent(device),
                &syn.clone().from(seen).to(pod).ttl(63),
            );

            let answer = packet::tcp(pod, seen).syn_ack();
            let back = node.arrive(device, &answer);
            expect::<F>(
                &what,
                &back,
                Fate::Sent(device),
                &answer.clone().from(VIP).to(client).ttl(63),
            );
            assert_eq!(node.tables.flow_count(), 4, "{what}");
            expect_whole(&node);
        }
    }
}

fn a_client_port_inside_the_reserved_range_is_kept<F: Net>() {
    let node = node::<F>(0, &[POD_2]);
    let syn = packet::tcp("198.51.100.7:55555", NODE_PORT).syn();
    let there = node.arrive(UPLINK, &syn);
    let expected = syn.from("192.168.1.1:55555").to(POD_2).ttl(63);
    expect::<F>("kept", &there, Fate::Sent(UPLINK), &expected);
}

fn a_packet_at_the_end_of_its_life_is_not_sent_on<F: Net>() {
    let node = node::<F>(0, &[POD_2]);
    let there = node.arrive(UPLINK, &packet::tcp(OUTSIDE, NODE_PORT).syn().ttl(1));
    assert_eq!(there.fate, Fate::Ended);
    assert_eq!(there.outcomes.last(), Some(&Outcome::DroppedExpired));
}

in_both_families! {
    every_client_reaches_every_backend_and_sees_the_service_answer,
    a_pod_that_reaches_itself_sees_the_node_as_its_client_and_the_service_as_its_server,
    a_client_port_inside_the_reserved_range_is_kept,
    a_packet_at_the_end_of_its_life_is_not_sent_on,
}
