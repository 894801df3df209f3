//! What is not forwarded: not ours, refused by the decision, hostile, or contradicted by the maps.

use std::boxed::Box;

use super::world::*;
use crate::abi::{Device, Outcome, Set};
use crate::net::Net;
use crate::testing::node::{Fate, SimNode};
use crate::testing::packet::{self, Packet};

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
            "another port of a ClusterIP",
            packet::tcp(CLIENT_A, "10.96.0.1:81").syn(),
            DEVICE_A,
            Fate::Sent(UPLINK),
        ),
        (
            "a NodePort number on a ClusterIP",
            packet::udp(CLIENT_A, "10.96.0.1:30080"),
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
    a_source_that_cannot_come_from_its_device_is_dropped_if_it_wants_a_service,
    a_spoofed_source_that_wants_no_service_is_the_stacks_business,
    maps_that_contradict_each_other_drop_new_flows_and_leave_nothing,
    a_pod_that_reaches_itself_by_a_device_without_address_is_dropped,
}
