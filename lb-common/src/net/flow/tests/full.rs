//! A flow table that is full, and floods.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::world::*;
use crate::abi::Outcome;
use crate::net::Net;
use crate::testing::node::{Fate, SimNode};
use crate::testing::packet::flag::{ACK, PSH};
use crate::testing::packet::{self, Packet};

fn client(n: u32) -> (IpAddr, u16) {
    let ip = Ipv4Addr::from_bits(0xc633_0000 + n / 1000);
    (ip.into(), 1024 + (n % 1000) as u16)
}

/// Establishes the connection of client `n` to pod A.
fn establish<F: Net>(node: &SimNode<F>, n: u32) {
    let there = node.arrive(UPLINK, &packet::tcp(client(n), VIP).syn());
    assert_eq!(there.outcome(), Outcome::ForwardedNew);
    let _ = node.arrive(DEVICE_A, &packet::tcp(POD_A, client(n)).syn_ack());
    let _ = node.arrive(UPLINK, &packet::tcp(client(n), VIP).flags(ACK));
}

/// Expects the connection of client `n` to work in both directions.
fn expect_established<F: Net>(node: &SimNode<F>, n: u32) {
    let request = packet::tcp(client(n), VIP).flags(ACK | PSH);
    let there = node.arrive(UPLINK, &request);
    expect::<F>(
        "request",
        &there,
        Fate::Sent(DEVICE_A),
        &request.to(POD_A).ttl(63),
    );
    assert_eq!(there.outcome(), Outcome::ForwardedFlow);
    let answer = packet::tcp(POD_A, client(n)).flags(ACK | PSH);
    let back = node.arrive(DEVICE_A, &answer);
    expect::<F>("answer", &back, Fate::Sent(UPLINK), &answer.from(VIP).ttl(63));
}

fn a_full_table_refuses_new_flows_and_keeps_the_others<F: Net>() {
    for (what, backend, capacity) in [("no room", POD_A, 20), ("room for one half", POD_A, 21)] {
        let mut node = node::<F>(0, &[backend]);
        node.tables.capacity = capacity;
        for n in 0..10 {
            establish(&node, n);
        }
        for n in 10..20 {
            let there = node.arrive(UPLINK, &packet::tcp(client(n), VIP).syn());
            expect_end(what, &there, Outcome::DroppedFlowsFull);
        }
        assert_eq!(node.tables.flow_count(), 20, "{what}");
        expect_whole(&node);
        for n in 0..10 {
            expect_established(&node, n);
        }
    }
}

fn a_pod_that_reaches_itself_takes_four_entries_or_none<F: Net>() {
    for room in 0..4 {
        let mut node = node::<F>(0, &[POD_A]);
        node.tables.capacity = room;
        let there = node.arrive(DEVICE_A, &packet::tcp(CLIENT_A, VIP).syn());
        expect_end("no room", &there, Outcome::DroppedFlowsFull);
        assert_eq!(node.tables.flow_count(), 0, "room for {room}");
    }
}

/// Ten times as many first packets as there are slots for unanswered flows.
fn check_flood<F: Net>(what: &str, make: impl Fn(u32) -> Packet, outcome: Outcome) {
    const SLOTS: usize = 64;
    const ESTABLISHED: usize = 50;
    let mut node = node::<F>(0, &[POD_A]);
    node.tables.node.embryo_mask = SLOTS as u32 - 1;
    // A flow is inserted before the one it displaces is removed.
    node.tables.capacity = 2 * (ESTABLISHED + SLOTS + 1);
    for n in 0..ESTABLISHED as u32 {
        establish(&node, n);
    }
    for n in 0..10 * SLOTS as u32 {
        let there = node.arrive(UPLINK, &make(100_000 + n));
        assert_eq!(there.outcome(), outcome, "{what}: packet {n}");
        assert!(node.tables.flow_count() <= 2 * (ESTABLISHED + SLOTS), "{what}");
    }
    expect_whole(&node);
    for n in 0..ESTABLISHED as u32 {
        expect_established(&node, n);
    }
    // What is left of the flood goes by itself.
    node.tables.wait(47);
    for n in 0..ESTABLISHED as u32 {
        expect_established(&node, n);
    }
    node.tables.sweep();
    assert_eq!(node.tables.flow_count(), 2 * ESTABLISHED, "{what}");
}

fn a_flood_of_first_packets_displaces_first_packets_only<F: Net>() {
    check_flood::<F>(
        "SYN",
        |n| packet::tcp(client(n), VIP).syn(),
        Outcome::ForwardedNew,
    );
    check_flood::<F>("UDP", |n| packet::udp(client(n), VIP), Outcome::ForwardedNew);
    check_flood::<F>("SCTP", |n| packet::sctp(client(n), VIP), Outcome::ForwardedNew);
}

fn a_flood_in_the_middle_of_connections_displaces_unanswered_flows_only<F: Net>() {
    let make = |n| packet::tcp(client(n), VIP).flags(ACK | PSH);
    check_flood::<F>("ACK", make, Outcome::ForwardedMidstream);
}

fn a_pod_that_floods_itself_fills_no_more_than_the_slots<F: Net>() {
    let mut node = node::<F>(0, &[POD_A]);
    node.tables.node.embryo_mask = 63;
    for port in 10_000..12_000 {
        let client = ("10.244.1.10".parse().expect("an address"), port);
        let there = node.arrive(DEVICE_A, &packet::tcp(client, VIP).syn());
        // Of its two translations, neither has displaced the other.
        assert_eq!(there.outcomes, [Outcome::ForwardedNew, Outcome::ForwardedFlow]);
        assert!(node.tables.flow_count() <= 2 * 64);
    }
    expect_whole(&node);
}

fn a_first_packet_sent_again_does_not_displace_itself<F: Net>() {
    let node = node::<F>(0, &[POD_A]);
    let syn = packet::tcp(client(1), VIP).syn();
    let mut frames = BTreeSet::new();
    for _ in 0..5 {
        frames.insert(node.arrive(UPLINK, &syn).frame);
        node.tables.wait(31);
    }
    node.tables.sweep();
    frames.insert(node.arrive(UPLINK, &syn).frame);
    assert_eq!((frames.len(), node.tables.flow_count()), (1, 2));
}

in_both_families! {
    a_full_table_refuses_new_flows_and_keeps_the_others,
    a_pod_that_reaches_itself_takes_four_entries_or_none,
    a_flood_of_first_packets_displaces_first_packets_only,
    a_flood_in_the_middle_of_connections_displaces_unanswered_flows_only,
    a_pod_that_floods_itself_fills_no_more_than_the_slots,
    a_first_packet_sent_again_does_not_displace_itself,
}
