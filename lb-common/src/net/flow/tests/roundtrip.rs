//! For random clients, services, backends and ports: the answer to what the backend got is, for the client,
//! the answer to what it sent.

use std::vec::Vec;

use proptest::prelude::*;

use super::world::*;
use crate::abi::{V4, V6};
use crate::net::Net;
use crate::testing::checksum::{Layers, assert_checksums};
use crate::testing::node::{Fate, Journey, SimNode};
use crate::testing::packet::{self, Endpoint, Packet};

/// One exchange of the scenario: who asks which service from which port, with which transport.
#[derive(Clone, Debug)]
struct Exchange {
    client: &'static str,
    service: &'static str,
    port: u16,
    transport: u8,
    payload: Vec<u8>,
}

impl Exchange {
    fn request(&self) -> Packet {
        let mut client = self.client.socket();
        client.set_port(self.port);
        let packet = match self.transport {
            0 => packet::tcp(client, self.service).syn(),
            1 => packet::udp(client, self.service),
            _ => packet::sctp(client, self.service),
        };
        packet.payload(&self.payload)
    }
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let client = prop::sample::select(
        &[
            OUTSIDE,
            CLIENT_A,
            "10.244.1.12:40000",
            PROCESS,
            "10.244.3.9:40000",
        ][..],
    );
    let service = prop::sample::select(&[VIP, VIP_2, LOAD_BALANCER, EXTERNAL_IP, NODE_PORT, NODE_PORT_2][..]);
    // Few ports, so that flows meet; those of services and the reserved range among them. Not the backends' own:
    // two peers that are client and server of each other by one pair of ports are one flow to everybody.
    let ports = [80u16, 30080, 40_000, 40_001, 50_000, 55_555, 59_999, 1, 65_535];
    let port = prop::sample::select(ports.to_vec());
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    (client, service, port, 0u8..3, payload).prop_map(|(client, service, port, transport, payload)| {
        Exchange {
            client,
            service,
            port,
            transport,
            payload,
        }
    })
}

/// Sends the request from the device its client is at.
fn ask<F: Net>(node: &SimNode<F>, exchange: &Exchange, request: &Packet) -> Journey {
    match (exchange.client, exchange.service) {
        (PROCESS, NODE_PORT) => node.emit(LO, request),
        (PROCESS, NODE_PORT_2) => node.emit(UPLINK, request),
        (PROCESS, _) => node.emit(LB0, request),
        (CLIENT_A, _) => node.arrive(DEVICE_A, request),
        ("10.244.1.12:40000", _) => node.arrive(PORT_C, request),
        ("10.244.3.9:40000", _) => node.arrive(TUNNEL, request),
        _ => node.arrive(UPLINK, request),
    }
}

/// Sends the backend's answer from where the request got to.
fn answer<F: Net>(node: &SimNode<F>, there: Fate, answer: &Packet) -> Journey {
    match there {
        Fate::Sent(BRIDGE) => node.arrive(PORT_C, answer),
        Fate::Sent(device) => node.arrive(device, answer),
        // A host-network backend: its answer leaves by the device that leads to the client.
        Fate::Received(LO) => node.emit(LO, answer),
        Fate::Received(device) => node.emit(device, answer),
        Fate::Ended => panic!("nobody got it"),
    }
}

fn home(exchange: &Exchange) -> Fate {
    match (exchange.client, exchange.service) {
        (PROCESS, NODE_PORT) => Fate::Received(LO),
        (PROCESS, NODE_PORT_2) => Fate::Received(UPLINK),
        (PROCESS, _) => Fate::Received(LB0),
        (CLIENT_A, _) => Fate::Sent(DEVICE_A),
        ("10.244.1.12:40000", _) => Fate::Sent(PORT_C),
        ("10.244.3.9:40000", _) => Fate::Sent(TUNNEL),
        _ => Fate::Sent(UPLINK),
    }
}

fn check<F: Net>(backends: &[&str], exchanges: &[Exchange]) -> Result<(), TestCaseError> {
    let node = node::<F>(0, backends);
    for exchange in exchanges {
        // Another node's NodePort is served here for this node's clients only.
        let from_here = [CLIENT_A, "10.244.1.12:40000", PROCESS].contains(&exchange.client);
        if exchange.service == NODE_PORT_2 && !from_here {
            continue;
        }
        let request = exchange.request();
        let there = ask(&node, exchange, &request);
        assert_checksums(&there.frame);
        let (seen, backend) = ends(&there);
        prop_assert!(
            backends.contains(&std::format!("{backend}").as_str()),
            "{:?}",
            there
        );
        let reply = request.reply().from(backend).to(seen);
        let back = answer(&node, there.fate, &reply);
        assert_checksums(&back.frame);
        prop_assert_eq!(back.fate, home(exchange), "{:?} {:?}", exchange, there);
        prop_assert_eq!(
            ends(&back),
            (request.destination, request.source),
            "{:?}",
            exchange
        );
        let transport = |frame: &[u8]| Layers::of(frame).map(|l| frame[l.transport + 4..l.end].len());
        prop_assert_eq!(transport(&back.frame), transport(&there.frame));
        prop_assert!(back.frame.ends_with(&exchange.payload));
        prop_assert_eq!(node.tables.inconsistency(), None);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn answers_come_back_to_whom_they_belong(
        backends in prop::sample::subsequence(&[POD_A, POD_B, POD_C, POD_2, POD_3, HOST_1, HOST_2][..], 1..=7),
        exchanges in prop::collection::vec(exchange(), 1..24),
    ) {
        check::<V4>(&backends, &exchanges)?;
        check::<V6>(&backends, &exchanges)?;
    }
}
