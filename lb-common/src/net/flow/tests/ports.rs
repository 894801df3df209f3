//! Source ports of the reserved range: found while there are any, and given back.

use super::world::*;
use crate::abi::Outcome;
use crate::net::Net;
use crate::testing::node::{Journey, SimNode};
use crate::testing::packet::{self, Packet};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::vec::Vec;

/// A node whose Service has one backend elsewhere, with `ports` ports for SNAT and room for all unanswered flows.
fn relay<F: Net>(ports: u16) -> SimNode<F> {
    let mut node = node::<F>(0, &[POD_2]);
    node.tables.node.embryo_mask = u32::MAX;
    node.tables.node.snat_last = node.tables.node.snat_first + ports - 1;
    node
}

fn client(n: u16) -> (IpAddr, u16) {
    ("198.51.100.7".parse().expect("an address"), 10_000 + n)
}

fn ask<F: Net>(node: &SimNode<F>, n: u16) -> Journey {
    node.arrive(UPLINK, &packet::udp(client(n), VIP))
}

/// The backend answers what it got from `source`.
fn answer<F: Net>(node: &SimNode<F>, source: SocketAddr) {
    let back: Packet = packet::udp(POD_2, source);
    assert_eq!(node.arrive(UPLINK, &back).outcome(), Outcome::ForwardedFlow);
}

fn ports_are_found_until_hardly_any_is_left<F: Net>() {
    let node = relay::<F>(1000);
    let mut sources = BTreeSet::new();
    for n in 0..940 {
        let there = ask(&node, n);
        assert_eq!(there.outcome(), Outcome::ForwardedNew, "after {n}");
        assert!(sources.insert(ends(&there).0), "{} twice", ends(&there).0);
    }
    expect_whole(&node);
}

fn questions_with_one_answer_make_room_when_ports_run_out<F: Net>() {
    let node = relay::<F>(8);
    let sources: Vec<_> = (0..8).map(|n| ends(&ask(&node, n)).0).collect();
    expect_end("all are taken", &ask(&node, 8), Outcome::DroppedNoPort);
    for source in &sources {
        answer(&node, *source);
    }
    node.tables.wait(4);
    expect_end("just answered", &ask(&node, 8), Outcome::DroppedNoPort);
    node.tables.wait(1);
    for n in 8..16 {
        assert_eq!(ask(&node, n).outcome(), Outcome::ForwardedNew, "{n}");
    }
    expect_end("taken once more", &ask(&node, 16), Outcome::DroppedNoPort);
    assert_eq!(node.tables.flow_count(), 16);
    expect_whole(&node);
}

fn who_asks_again_keeps_its_port<F: Net>() {
    let node = relay::<F>(1);
    let (source, _) = ends(&ask(&node, 0));
    answer(&node, source);
    let _ = ask(&node, 0);
    node.tables.wait(150);
    expect_end("an exchange", &ask(&node, 1), Outcome::DroppedNoPort);
    assert_eq!(ends(&ask(&node, 0)).0, source);
}

fn who_goes_on_without_an_answer_keeps_its_port<F: Net>() {
    let node = relay::<F>(1);
    node.tables.tick.set(1008); // the other half hears of packets every sixteen ticks
    let (source, _) = ends(&ask(&node, 0));
    for _ in 0..3 {
        node.tables.wait(4);
        assert_eq!(ends(&ask(&node, 0)).0, source);
        expect_end("in use", &ask(&node, 1), Outcome::DroppedNoPort);
    }
}

fn a_handshake_without_answer_is_no_question<F: Net>() {
    let node = relay::<F>(1);
    let syn = |n| node.arrive(UPLINK, &packet::tcp(client(n), VIP).syn());
    assert_eq!(syn(0).outcome(), Outcome::ForwardedNew);
    node.tables.wait(20);
    expect_end("unanswered", &syn(1), Outcome::DroppedNoPort);
    node.tables.wait(27);
    assert_eq!(syn(1).outcome(), Outcome::ForwardedNew);
}

in_both_families! {
    ports_are_found_until_hardly_any_is_left,
    questions_with_one_answer_make_room_when_ports_run_out,
    who_asks_again_keeps_its_port,
    who_goes_on_without_an_answer_keeps_its_port,
    a_handshake_without_answer_is_no_question,
}
