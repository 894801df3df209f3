//! Whose a packet is while one generation of programs follows another.

use super::world::*;
use crate::abi::Phase;
use crate::net::{Net, Tables, is_taken_over};
use crate::testing::node::{SimNode, packet_of_family};
use crate::testing::packet::flag::{ACK, SYN};
use crate::testing::packet::{self, Packet};

/// Before the new generation opens flows, and then.
fn taken_over<F: Net>(node: &SimNode<F>, packet: &Packet, phase: Phase) -> [bool; 2] {
    let mut parsed =
        F::parse(&packet_of_family::<F>(packet).build().as_slice()).expect("a packet with ports");
    parsed.tuple.phase = phase as u8;
    [false, true].map(|opens| is_taken_over::<F, _>(&node.tables, &parsed, opens))
}

fn a_flow_is_taken_over_once_both_halves_are_there<F: Net>() {
    let node = node::<F>(0, &[POD_A]);
    let _ = node.arrive(UPLINK, &packet::tcp(OUTSIDE, VIP).syn());
    let flows = node.tables.flows();
    let asked = packet::tcp(OUTSIDE, VIP).flags(ACK);
    assert_eq!(taken_over(&node, &asked, Phase::Before), [true, true]);
    let of_answers = flows.iter().find(|(key, _)| key.source_port == 8080);
    let (answers, flow) = of_answers.expect("its reverse half is there");
    node.tables.remove(answers);
    assert_eq!(
        taken_over(&node, &asked, Phase::Before),
        [false, false],
        "half of it has moved"
    );
    node.tables.remove(&flow.to.reverse());
    assert_eq!(taken_over(&node, &asked, Phase::Before), [false, false]);
}

fn what_begins_a_flow_is_taken_over_once_flows_are_opened<F: Net>() {
    let node = node::<F>(0, &[POD_A]);
    let begins = [
        packet::tcp(OUTSIDE, VIP).syn(),
        packet::udp(OUTSIDE, VIP),
        packet::udp(OUTSIDE, NODE_PORT),
        packet::sctp(OUTSIDE, LOAD_BALANCER),
    ];
    let goes_on = [
        packet::tcp(OUTSIDE, VIP).flags(ACK),
        packet::tcp(POD_A, OUTSIDE).flags(SYN | ACK),
        // An answer to the client, and one to this node's port for it.
        packet::udp(POD_A, OUTSIDE),
        packet::udp(POD_2, "192.168.1.1:61000"),
    ];
    for phase in [Phase::Before, Phase::After] {
        for packet in &begins {
            assert_eq!(taken_over(&node, packet, phase), [false, true], "{packet:?}");
        }
        for packet in &goes_on {
            assert_eq!(taken_over(&node, packet, phase), [false, false], "{packet:?}");
        }
    }
}

in_both_families! {
    a_flow_is_taken_over_once_both_halves_are_there,
    what_begins_a_flow_is_taken_over_once_flows_are_opened,
}
