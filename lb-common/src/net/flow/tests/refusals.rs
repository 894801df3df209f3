//! What is not forwarded: not ours, refused by the decision, hostile, or contradicted by the maps.

use std::boxed::Box;

use super::world::*;
use crate::abi::{Address, Device, Outcome, Set};
use crate::net::Net;
use crate::testing::node::{Fate, SimNode, of_family, packet_of_family};
use crate::testing::packet::{self, Endpoint, Packet};

/// Sends a packet from its usual place: outside, pod A, or a process by lb0.
fn send<F: Net>(node: &SimNode<F>, packet: &Packet) -> crate::testing::node::Journey {
    match std::format!("{}", packet.source).as_str() {
        CLIENT_A => node.arrive(DEVICE_A, packet),
        PROCESS => node.emit(LB0, packet),
        _ => node.arrive(UPLINK, packet),
    }
}

fn every_transport(client: &str, service: &str) -> [Packet; 3] {
    [
        packet::tcp(client, service).syn(),
        packet::udp(client, service),
        packet::sctp(client, service),
    ]
}

fn what_nobody_can_serve_is_rejected_and_what_is_served_elsewhere_is_dropped<F: Net>() {
    use Outcome::{DroppedNoLocalEndpoints as Drop, ForwardedNew as Ok, RejectedNoEndpoints as Reject};
    const LOCAL: u16 = Set::INTERNAL_LOCAL | Set::EXTERNAL_LOCAL;
    let here: &[&str] = &[POD_B, POD_2];
    let elsewhere: &[&str] = &[POD_2];
    let nowhere: &[&str] = &[];
    // Outcomes for clients outside, a pod of this node, and a process of this node.
    let rows = [
        (VIP, 0, here, [Ok, Ok, Ok]),
        (VIP, 0, nowhere, [Reject, Reject, Reject]),
        (VIP, LOCAL, here, [Ok, Ok, Ok]),
        (VIP, LOCAL, elsewhere, [Drop, Drop, Drop]),
        (VIP, LOCAL, nowhere, [Reject, Reject, Reject]),
        (VIP, Set::EXTERNAL_LOCAL, elsewhere, [Ok, Ok, Ok]),
        (LOAD_BALANCER, 0, elsewhere, [Ok, Ok, Ok]),
        (LOAD_BALANCER, LOCAL, here, [Ok, Ok, Ok]),
        (LOAD_BALANCER, LOCAL, elsewhere, [Drop, Ok, Ok]),
        (LOAD_BALANCER, LOCAL, nowhere, [Reject, Reject, Reject]),
        (EXTERNAL_IP, LOCAL, elsewhere, [Drop, Ok, Ok]),
        (EXTERNAL_IP, Set::INTERNAL_LOCAL, elsewhere, [Ok, Ok, Ok]),
        (NODE_PORT, LOCAL, elsewhere, [Drop, Ok, Ok]),
        (NODE_PORT, LOCAL, nowhere, [Reject, Reject, Reject]),
    ];
    for (service, flags, backends, outcomes) in rows {
        for (client, outcome) in [OUTSIDE, CLIENT_A, PROCESS].into_iter().zip(outcomes) {
            for packet in every_transport(client, service) {
                let node = node::<F>(flags, backends);
                let journey = send(&node, &packet);
                let what = std::format!("{client} to {service}, policies {flags}, {backends:?}");
                assert_eq!(journey.outcome(), outcome, "{what}");
                let entries = if outcome == Ok { 2 } else { 0 };
                assert_eq!(node.tables.flow_count(), entries, "{what}");
            }
        }
    }
}

fn under_a_local_policy_outside_clients_get_local_backends_only<F: Net>() {
    let node = node::<F>(Set::EXTERNAL_LOCAL, &[POD_A, POD_2, POD_3]);
    for port in 0..50 {
        let client = ("198.51.100.7".parse().expect("an address"), 40_000 + port);
        let there = node.arrive(UPLINK, &packet::tcp(client, NODE_PORT).syn());
        assert_eq!(there.fate, Fate::Sent(DEVICE_A));
    }
}

fn what_is_not_ours_goes_on_untouched<F: Net>() {
    for (what, packet, device, fate) in [
        (
            "through the node",
            packet::tcp(OUTSIDE, POD_A).syn(),
            UPLINK,
            Fate::Sent(DEVICE_A),
        ),
        (
            "a port that no service has",
            packet::tcp(OUTSIDE, "192.168.1.1:22").syn(),
            UPLINK,
            Fate::Received(UPLINK),
        ),
        (
            "another node's NodePort, not from here",
            packet::tcp(OUTSIDE, NODE_PORT_2).syn(),
            UPLINK,
            Fate::Sent(UPLINK),
        ),
        (
            "another port of a LoadBalancer address",
            packet::tcp(CLIENT_A, "203.0.113.10:81").syn(),
            DEVICE_A,
            Fate::Sent(UPLINK),
        ),
        (
            "a NodePort number on an externalIP",
            packet::udp(CLIENT_A, "203.0.113.11:30080"),
            DEVICE_A,
            Fate::Sent(UPLINK),
        ),
        (
            "a NodePort number on an address without NodePorts",
            packet::udp(OUTSIDE, "10.244.1.0:30080"),
            UPLINK,
            Fate::Received(UPLINK),
        ),
        (
            "ping",
            packet::icmp(
                "198.51.100.7".parse().expect("valid"),
                "10.96.0.1".parse().expect("valid"),
                8,
                0,
            ),
            UPLINK,
            Fate::Sent(UPLINK),
        ),
    ] {
        let node = node::<F>(0, &[POD_A]);
        let journey = node.arrive(device, &packet);
        let ttl = if matches!(fate, Fate::Sent(_)) { 63 } else { 64 };
        expect::<F>(what, &journey, fate, &packet.ttl(ttl));
        assert_eq!(node.tables.flow_count(), 0, "{what}");
    }
}

fn a_cluster_ip_refuses_the_ports_that_it_does_not_have_until_its_service_is_gone<F: Net>() {
    let mut node = node::<F>(0, &[POD_A]);
    let cases = [(CLIENT_A, DEVICE_A), (OUTSIDE, UPLINK)];
    for (client, device) in cases {
        for packet in every_transport(client, "10.96.0.1:81") {
            expect_end(
                "unknown port",
                &node.arrive(device, &packet),
                Outcome::RejectedNoFrontend,
            );
        }
        let reset = packet::tcp(client, "10.96.0.1:81").flags(packet::flag::RST);
        expect_end("a RST", &node.arrive(device, &reset), Outcome::DroppedUnknownFlow);
    }
    node.tables.frontends.clear();
    for (client, device) in cases {
        for packet in every_transport(client, VIP) {
            expect_end(
                "no Service",
                &node.arrive(device, &packet),
                Outcome::DroppedNoService,
            );
        }
    }
    assert_eq!(node.tables.flow_count(), 0);
}

fn an_address_of_the_node_that_is_also_a_services_is_not_taken_away<F: Net>() {
    let mut node = node::<F>(0, &[POD_A]);
    // As if the node had the externalIP, too.
    let external = of_family::<F>(EXTERNAL_IP.socket().ip());
    node.tables.add_address(external, Address::OWN);
    let other = packet::tcp(OUTSIDE, "203.0.113.11:22").syn();
    let journey = node.arrive(UPLINK, &other);
    expect::<F>("another port", &journey, Fate::Received(UPLINK), &other);
    let answer = packet::tcp(OUTSIDE, EXTERNAL_IP).syn_ack();
    let parsed = F::parse(&packet_of_family::<F>(&answer).build().as_slice()).expect("a segment");
    node.tables.connected.push(parsed.tuple);
    let journey = node.arrive(UPLINK, &answer);
    assert_eq!(journey.outcome(), Outcome::PassedOwnConnection);
    expect::<F>("its own connection", &journey, Fate::Received(UPLINK), &answer);
    let first = node.arrive(UPLINK, &packet::tcp(OUTSIDE, EXTERNAL_IP).syn());
    assert_eq!(first.outcome(), Outcome::ForwardedNew);
}

fn source_ranges_are_for_load_balancer_addresses_and_come_before_everything_else<F: Net>() {
    let cases = [
        (OUTSIDE, UPLINK, true),
        ("198.51.100.200:40000", UPLINK, false),
        (CLIENT_A, DEVICE_A, false),
        ("10.244.1.11:40000", DEVICE_B, true),
    ];
    for backends in [&[POD_C][..], &[]] {
        let mut node = node::<F>(Set::RANGES, backends);
        node.tables.sets.last_mut().expect("a set").ranges = 3;
        let bits = 8 * (F::ADDR_LEN - 4);
        for (text, length) in [("198.51.100.0", 25), ("10.244.1.11", 32)] {
            let range = crate::testing::tables::address::<F>(of_family::<F>(text.parse().expect("valid")));
            node.tables.ranges.push((3, range, bits + length));
        }
        // Somebody else's.
        let all = crate::testing::tables::address::<F>(of_family::<F>("0.0.0.0".parse().expect("valid")));
        node.tables.ranges.push((4, all, 0));
        let served = if backends.is_empty() {
            Outcome::RejectedNoEndpoints
        } else {
            Outcome::ForwardedNew
        };
        for (client, device, is_inside) in cases {
            for service in [VIP, EXTERNAL_IP, NODE_PORT, LOAD_BALANCER] {
                let expected = if service == LOAD_BALANCER && !is_inside {
                    Outcome::DroppedSourceRange
                } else {
                    served
                };
                for packet in every_transport(client, service) {
                    let outcome = node.arrive(device, &packet).outcomes[0];
                    assert_eq!(outcome, expected, "{client} to {service}");
                }
            }
        }
    }
}

fn a_source_that_cannot_come_from_its_device_is_dropped_if_it_wants_a_service<F: Net>() {
    let rows = [
        ("a pod of this node, from the world", CLIENT_A, UPLINK),
        ("this node, from the world", PROCESS, UPLINK),
        ("a pod of this node, from a tunnel", CLIENT_A, TUNNEL),
        ("this node, from a pod", PROCESS, DEVICE_A),
        ("this node, from a pod on a bridge", PROCESS, PORT_C),
    ];
    for (what, client, device) in rows {
        for service in [VIP, LOAD_BALANCER, EXTERNAL_IP, NODE_PORT] {
            for packet in every_transport(client, service) {
                let node = node::<F>(0, &[POD_B]);
                expect_end(what, &node.arrive(device, &packet), Outcome::DroppedSpoofed);
                assert_eq!(node.tables.flow_count(), 0, "{what}");
            }
        }
    }
}

fn a_spoofed_source_that_wants_no_service_is_the_stacks_business<F: Net>() {
    let node = node::<F>(0, &[POD_B]);
    let packet = packet::tcp(CLIENT_A, "192.168.1.1:22").syn();
    let journey = node.arrive(UPLINK, &packet);
    expect::<F>("ssh", &journey, Fate::Received(UPLINK), &packet);
    assert_eq!(journey.outcomes, [Outcome::PassedNoFrontend]);
}

type Break<F> = fn(&mut SimNode<F>);

fn maps_that_contradict_each_other_drop_new_flows_and_leave_nothing<F: Net>() {
    let rows: [(&str, Break<F>, &str, Outcome); 7] = [
        (
            "no such row",
            |n| n.tables.maglev.clear(),
            OUTSIDE,
            Outcome::DroppedInconsistent,
        ),
        (
            "no such backend",
            |n| n.tables.backends.clear(),
            OUTSIDE,
            Outcome::DroppedInconsistent,
        ),
        (
            "no route",
            |n| n.tables.route = Box::new(|_| None),
            OUTSIDE,
            Outcome::DroppedNoRoute,
        ),
        (
            "no route, from a process",
            |n| n.tables.route = Box::new(|_| None),
            PROCESS,
            Outcome::DroppedNoRoute,
        ),
        (
            "a route by an unknown device",
            |n| n.tables.route = Box::new(|_| Some(99)),
            OUTSIDE,
            Outcome::DroppedNoRoute,
        ),
        (
            "no address for SNAT",
            |n| {
                n.tables.devices.insert(UPLINK, Device::default());
            },
            OUTSIDE,
            Outcome::DroppedNoRoute,
        ),
        (
            "no service behind a frontend",
            |n| n.tables.services.clear(),
            OUTSIDE,
            Outcome::PassedNoFrontend,
        ),
    ];
    for (what, break_it, client, outcome) in rows {
        let mut node = node::<F>(0, &[POD_2]);
        break_it(&mut node);
        let journey = send(&node, &packet::tcp(client, VIP).syn());
        assert_eq!(journey.outcomes.first(), Some(&outcome), "{what}");
        assert_eq!(node.tables.flow_count(), 0, "{what}");
    }
}

fn a_pod_that_reaches_itself_by_a_device_without_address_is_dropped<F: Net>() {
    let mut node = node::<F>(0, &[POD_A]);
    let device = node.tables.devices.get_mut(&DEVICE_A).expect("pod A's device");
    (device.snat4, device.snat6) = Default::default();
    let journey = node.arrive(DEVICE_A, &packet::tcp(CLIENT_A, VIP).syn());
    expect_end("no address", &journey, Outcome::DroppedNoRoute);
    assert_eq!(node.tables.flow_count(), 0);
}

in_both_families! {
    what_nobody_can_serve_is_rejected_and_what_is_served_elsewhere_is_dropped,
    under_a_local_policy_outside_clients_get_local_backends_only,
    what_is_not_ours_goes_on_untouched,
    a_cluster_ip_refuses_the_ports_that_it_does_not_have_until_its_service_is_gone,
    an_address_of_the_node_that_is_also_a_services_is_not_taken_away,
    source_ranges_are_for_load_balancer_addresses_and_come_before_everything_else,
    a_source_that_cannot_come_from_its_device_is_dropped_if_it_wants_a_service,
    a_spoofed_source_that_wants_no_service_is_the_stacks_business,
    maps_that_contradict_each_other_drop_new_flows_and_leave_nothing,
    a_pod_that_reaches_itself_by_a_device_without_address_is_dropped,
}
