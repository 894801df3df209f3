//! Two flows that would look the same behind their translation, and halves that got lost.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::world::*;
use crate::abi::{Flow, Outcome};
use crate::net::{Net, Tables};
use crate::testing::node::{Fate, SimNode};
use crate::testing::packet::{self, Endpoint};

/// Opens a flow to each of two services by one client port, and answers both.
fn check_two_services<F: Net>(what: &str, client: &str, device: u32, pod: &str, pod_device: u32) {
    let node = node::<F>(0, &[pod]);
    let mut seen = BTreeSet::new();
    for vip in [VIP, VIP_2] {
        let syn = packet::tcp(client, vip).syn();
        let there = node.arrive(device, &syn);
        let (source, _) = ends(&there);
        let expected = syn.from(source).to(pod).ttl(63);
        expect::<F>(what, &there, Fate::Sent(pod_device), &expected);
        assert!(seen.insert(source), "{what}: both come from {source}");
        assert_ne!(source.ip(), pod.socket().ip(), "{what}: from the pod to itself");
    }
    for (vip, source) in [VIP, VIP_2].into_iter().zip(seen_in_order(&node, client, device)) {
        let answer = packet::tcp(pod, source).syn_ack();
        let back = node.arrive(pod_device, &answer);
        expect::<F>(
            what,
            &back,
            Fate::Sent(device),
            &answer.from(vip).to(client).ttl(63),
        );
    }
    expect_whole(&node);
}

/// The sources that the backend sees, once more: known flows keep them.
fn seen_in_order<F: Net>(node: &SimNode<F>, client: &str, device: u32) -> [SocketAddr; 2] {
    [VIP, VIP_2].map(|vip| {
        let there = node.arrive(device, &packet::tcp(client, vip).syn());
        assert_eq!(there.outcome(), Outcome::ForwardedFlow);
        ends(&there).0
    })
}

fn one_client_port_to_two_services_gets_a_second_port_at_the_same_backend<F: Net>() {
    let node = node::<F>(0, &[POD_B]);
    let mut sources = BTreeSet::new();
    for vip in [VIP, VIP_2] {
        sources.insert(ends(&node.arrive(DEVICE_A, &packet::tcp(CLIENT_A, vip).syn())).0);
    }
    assert_eq!(sources.len(), 2);
    assert!(
        sources.contains(&CLIENT_A.socket()),
        "the first keeps its port: {sources:?}"
    );
    for (vip, source) in [VIP, VIP_2]
        .into_iter()
        .zip(seen_in_order(&node, CLIENT_A, DEVICE_A))
    {
        let answer = packet::tcp(POD_B, source).syn_ack();
        let back = node.arrive(DEVICE_B, &answer);
        expect::<F>(
            "answer",
            &back,
            Fate::Sent(DEVICE_A),
            &answer.from(vip).to(CLIENT_A).ttl(63),
        );
    }
    expect_whole(&node);
}

fn one_pod_port_to_two_services_of_itself_is_told_apart<F: Net>() {
    check_two_services::<F>("routed", CLIENT_A, DEVICE_A, POD_A, DEVICE_A);
    check_two_services::<F>("bridged", "10.244.1.12:40000", PORT_C, POD_C, PORT_C);
    check_two_services::<F>("equal ports", "10.244.1.10:8080", DEVICE_A, POD_A, DEVICE_A);
}

fn a_pod_reaches_itself_again_by_another_service_after_closing<F: Net>() {
    for ending in [packet::flag::RST, packet::flag::FIN] {
        let node = node::<F>(0, &[POD_A]);
        for vip in [VIP, VIP_2, VIP] {
            let syn = packet::tcp(CLIENT_A, vip).syn();
            let there = node.arrive(DEVICE_A, &syn);
            let (source, _) = ends(&there);
            expect::<F>(
                "request",
                &there,
                Fate::Sent(DEVICE_A),
                &syn.from(source).to(POD_A).ttl(63),
            );
            assert_ne!(source.ip(), POD_A.socket().ip());
            let answer = packet::tcp(POD_A, source).syn_ack();
            let back = node.arrive(DEVICE_A, &answer);
            expect::<F>(
                "answer",
                &back,
                Fate::Sent(DEVICE_A),
                &answer.from(vip).to(CLIENT_A).ttl(63),
            );
            for flags in [packet::flag::ACK, ending | packet::flag::ACK] {
                let _ = node.arrive(DEVICE_A, &packet::tcp(CLIENT_A, vip).flags(flags));
            }
            let _ = node.arrive(
                DEVICE_A,
                &packet::tcp(POD_A, source).flags(ending | packet::flag::ACK),
            );
            expect_whole(&node);
        }
    }
}

fn a_direct_connection_from_the_port_of_a_closed_flow_is_left_alone<F: Net>() {
    for (client, backend, there, back) in [
        (CLIENT_A, POD_2, (DEVICE_A, UPLINK), UPLINK),
        (CLIENT_A, POD_B, (DEVICE_A, DEVICE_B), DEVICE_B),
        (PROCESS, HOST_1, (LB0, LO), LO),
    ] {
        let node = node::<F>(0, &[backend]);
        let sent = |packet: &packet::Packet| {
            if there.0 == LB0 {
                node.emit(LB0, packet)
            } else {
                node.arrive(there.0, packet)
            }
        };
        let answered = |packet: &packet::Packet| {
            if back == LO {
                node.emit(LO, packet)
            } else {
                node.arrive(back, packet)
            }
        };
        let opened = sent(&packet::tcp(client, VIP).syn());
        assert_eq!(opened.outcome(), Outcome::ForwardedNew, "{client} {backend}");
        let (source, _) = ends(&opened);
        let _ = answered(&packet::tcp(backend, source).syn_ack());
        let _ = sent(&packet::tcp(client, VIP).flags(packet::flag::ACK));
        // While the flow is used, it stays.
        let directly = packet::tcp(client, backend).syn();
        let begin = || {
            if back == LO {
                node.emit(LO, &directly)
            } else {
                node.arrive(there.0, &directly)
            }
        };
        let _ = begin();
        assert_eq!(node.tables.flow_count(), 2, "{client} {backend}");
        let _ = sent(&packet::tcp(client, VIP).flags(packet::flag::FIN | packet::flag::ACK));
        // It need not look closed.
        let rest = answered(&packet::tcp(backend, source).flags(packet::flag::ACK));
        assert_eq!(
            ends(&rest).0,
            VIP.socket(),
            "{client} {backend}: the rest of the flow"
        );
        // The same ports, without the Service. The backend may have to be told first that the old connection is gone.
        let begun = begin();
        assert_eq!(ends(&begun), (client.socket(), backend.socket()), "{begun:?}");
        for packet in [
            packet::tcp(backend, source).flags(packet::flag::ACK),
            packet::tcp(backend, source).syn_ack(),
            packet::tcp(backend, source).flags(packet::flag::ACK),
        ] {
            let answer = answered(&packet);
            assert_eq!(
                ends(&answer).0,
                backend.socket(),
                "{client} {backend}: {answer:?}"
            );
        }
        assert_eq!(node.tables.flow_count(), 0, "{client} {backend}");
        // And with it again.
        let opened = sent(&packet::tcp(client, VIP).syn());
        assert_eq!(opened.outcome(), Outcome::ForwardedNew, "{client} {backend}");
        expect_whole(&node);
    }
}

fn snat_ports_of_many_clients_never_clash<F: Net>() {
    let mut node = node::<F>(0, &[POD_2]);
    node.tables.node.embryo_mask = u32::MAX; // none is displaced by another
    let mut sources = BTreeSet::new();
    let mut refused = 0;
    for port in 1..=3000 {
        let client = ("198.51.100.7".parse().expect("an address"), 10_000 + port);
        let there = node.arrive(UPLINK, &packet::tcp(client, VIP).syn());
        match there.outcome() {
            Outcome::ForwardedNew => assert!(sources.insert(ends(&there).0), "{}", ends(&there).0),
            Outcome::DroppedNoPort => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    // Three tenths of the range are taken in the end: sixteen tries all but always find a port.
    assert_eq!(refused, 0);
}

fn a_client_without_a_free_port_is_dropped_and_leaves_nothing_behind<F: Net>() {
    let mut node = node::<F>(0, &[POD_2]);
    node.tables.node.snat_last = node.tables.node.snat_first + 3;
    for n in 0..4 {
        let client = ("198.51.100.7".parse().expect("an address"), 40_000 + n);
        let there = node.arrive(UPLINK, &packet::tcp(client, VIP).syn());
        assert_eq!(there.outcome(), Outcome::ForwardedNew);
    }
    let entries = node.tables.flow_count();
    let there = node.arrive(UPLINK, &packet::tcp("198.51.100.7:50", VIP).syn());
    expect_end("the fifth", &there, Outcome::DroppedNoPort);
    assert_eq!(node.tables.flow_count(), entries);
    expect_whole(&node);
}

fn the_port_of_a_closed_flow_is_free_after_a_while<F: Net>() {
    let mut node = node::<F>(0, &[POD_2]);
    node.tables.node.snat_last = node.tables.node.snat_first;
    let _ = node.arrive(UPLINK, &packet::tcp(OUTSIDE, VIP).syn());
    let other = packet::tcp("198.51.100.8:40000", VIP).syn();
    expect_end("still open", &node.arrive(UPLINK, &other), Outcome::DroppedNoPort);
    let reset =
        packet::tcp(POD_2, ("192.168.1.1".parse().expect("an address"), 50_000)).flags(packet::flag::RST);
    assert_eq!(node.arrive(UPLINK, &reset).outcome(), Outcome::ForwardedFlow);
    // The backend may still wait for a last acknowledgement, and would answer a handshake with that.
    let there = node.arrive(UPLINK, &other);
    expect_end("just closed", &there, Outcome::DroppedNoPort);
    node.tables.wait(2);
    let there = node.arrive(UPLINK, &other);
    assert_eq!(there.outcome(), Outcome::ForwardedNew);
    assert_eq!(node.tables.flow_count(), 2);
    expect_whole(&node);
}

/// Removes one half of the only flow; gives it.
fn lose<F: Net>(node: &SimNode<F>, reverse: bool) -> Flow<F::Addr> {
    let wanted = u16::from(reverse);
    let flows = node.tables.flows();
    let (key, flow) = flows.iter().find(|(_, f)| f.flags == wanted).expect("a flow");
    node.tables.remove(key);
    *flow
}

fn a_lost_half_is_made_anew_by_a_packet_of_the_other<F: Net>() {
    for (client, start, backend, back) in [
        (OUTSIDE, UPLINK, POD_A, DEVICE_A),
        (OUTSIDE, UPLINK, POD_2, UPLINK),
        (OUTSIDE, UPLINK, POD_3, TUNNEL),
        (CLIENT_A, DEVICE_A, POD_B, DEVICE_B),
    ] {
        for lost in [false, true] {
            let what = std::format!("{client} to {backend}, lost {lost}");
            let node = node::<F>(0, &[backend]);
            let request = packet::tcp(client, VIP);
            let (source, _) = ends(&node.arrive(start, &request.clone().syn()));
            let answer = packet::tcp(backend, source);
            let _ = node.arrive(back, &answer.clone().syn_ack());
            let _ = node.arrive(start, &request.clone().ack(1));
            let before = node.tables.flows();
            let half = lose(&node, lost);
            node.tables.wait(16);
            // A packet of the half that is left.
            let journey = if lost {
                node.arrive(start, &request.clone().ack(1))
            } else {
                node.arrive(back, &answer.clone().ack(1))
            };
            assert_eq!(journey.outcome(), Outcome::ForwardedFlow, "{what}");
            expect_whole(&node);
            let mut after = node.tables.flows();
            for (_, flow) in &mut after {
                assert_eq!(flow.seen, half.seen + 16, "{what}");
                flow.seen = half.seen;
            }
            assert_eq!(after, before, "{what}");
        }
    }
}

fn a_lost_first_half_of_an_unconnected_flow_finds_its_other_half<F: Net>() {
    let node = node::<F>(0, &[POD_A, POD_B, POD_2, POD_3]);
    for port in 0..40 {
        let client = ("198.51.100.7".parse().expect("an address"), 40_000 + port);
        let request = packet::udp(client, VIP);
        let first = node.arrive(UPLINK, &request);
        let count = node.tables.flow_count();
        let flows = node.tables.flows();
        let (key, _) = flows
            .iter()
            .find(|(k, f)| f.flags == 0 && k.source_port == client.1)
            .expect("a flow");
        node.tables.remove(key);
        let again = node.arrive(UPLINK, &request);
        assert_eq!(
            (again.outcome(), again.fate, &again.frame),
            (Outcome::ForwardedNew, first.fate, &first.frame)
        );
        assert_eq!(node.tables.flow_count(), count);
        expect_whole(&node);
    }
}

in_both_families! {
    one_client_port_to_two_services_gets_a_second_port_at_the_same_backend,
    one_pod_port_to_two_services_of_itself_is_told_apart,
    a_pod_reaches_itself_again_by_another_service_after_closing,
    a_direct_connection_from_the_port_of_a_closed_flow_is_left_alone,
    snat_ports_of_many_clients_never_clash,
    a_client_without_a_free_port_is_dropped_and_leaves_nothing_behind,
    the_port_of_a_closed_flow_is_free_after_a_while,
    a_lost_half_is_made_anew_by_a_packet_of_the_other,
    a_lost_first_half_of_an_unconnected_flow_finds_its_other_half,
}
