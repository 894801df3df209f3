//! From the first packet to the last: which backend a flow keeps, what its states are, when it is forgotten.

use super::world::*;
use crate::abi::{Node, Outcome, Set, State};
use crate::net::{Net, lifetime};
use crate::testing::node::{Fate, SimNode};
use crate::testing::packet::flag::{ACK, FIN, PSH, RST, SYN};
use crate::testing::packet::{self, Packet};

/// How much longer than its state allows a flow may stay: its halves tell each other of packets only so often.
const SLACK: u32 = 17;

const PODS: [&str; 5] = [POD_A, POD_B, POD_C, POD_2, POD_3];

/// The states of all entries; they must all be the same.
fn state<F: Net>(node: &SimNode<F>) -> Option<State> {
    let flows = node.tables.flows();
    let (_, first) = flows.first()?;
    assert!(flows.iter().all(|(_, f)| f.state == first.state), "{flows:?}");
    Some(State::from_number(first.state))
}

/// A flow of `OUTSIDE` to pod A, with its handshake done.
fn established<F: Net>(flags: u16) -> SimNode<F> {
    let node = node::<F>(flags, &[POD_A]);
    let _ = node.arrive(UPLINK, &packet::tcp(OUTSIDE, VIP).syn());
    let _ = node.arrive(DEVICE_A, &packet::tcp(POD_A, OUTSIDE).syn_ack());
    let _ = node.arrive(UPLINK, &packet::tcp(OUTSIDE, VIP).flags(ACK));
    assert_eq!(state(&node), Some(State::Established));
    node
}

fn from_client(flags: u8) -> Packet {
    packet::tcp(OUTSIDE, VIP).flags(flags)
}

fn from_backend(flags: u8) -> Packet {
    packet::tcp(POD_A, OUTSIDE).flags(flags)
}

fn both_halves_hold_the_state_of_the_connection<F: Net>() {
    let node = node::<F>(0, &[POD_A]);
    for (client, flags, expected) in [
        (true, SYN, State::New),
        (false, SYN | ACK, State::Answered),
        (true, ACK, State::Established),
        (true, ACK | PSH, State::Established),
        (false, FIN | ACK, State::ClosingReverse),
        (true, ACK | PSH, State::ClosingReverse),
        (true, FIN | ACK, State::Closed),
        (false, ACK, State::Closed),
    ] {
        let journey = if client {
            node.arrive(UPLINK, &from_client(flags))
        } else {
            node.arrive(DEVICE_A, &from_backend(flags))
        };
        assert!(matches!(journey.fate, Fate::Sent(_)), "{journey:?}");
        assert_eq!(state(&node), Some(expected), "{flags:#x}");
        expect_whole(&node);
    }
}

fn a_packet_in_either_direction_keeps_both_halves_alive<F: Net>() {
    for client in [true, false] {
        let node = established::<F>(0);
        for _ in 0..10 {
            node.tables.wait(lifetime(6, State::Established));
            assert_eq!(node.tables.sweep(), 0);
            let _ = if client {
                node.arrive(UPLINK, &from_client(ACK))
            } else {
                node.arrive(DEVICE_A, &from_backend(ACK))
            };
        }
        node.tables.wait(lifetime(6, State::Established) + SLACK);
        assert_eq!(node.tables.sweep(), 2);
    }
}

fn a_half_without_packets_lives_as_long_as_the_other<F: Net>() {
    let node = node::<F>(0, &[POD_A]);
    // The last packet does not reach the other half any more.
    for ticks in [0, 15] {
        node.tables.tick.set(1008 + ticks);
        let _ = node.arrive(UPLINK, &packet::udp(OUTSIDE, VIP));
    }
    node.tables.wait(30);
    assert_eq!(node.tables.sweep(), 0);
}

fn a_flow_is_forgotten_when_its_state_allows_and_not_before<F: Net>() {
    let (c, b) = (true, false);
    type Sent = (bool, u8); // by the client, flags
    let rows: [(&str, &[Sent], u32); 7] = [
        ("new", &[(c, SYN)], 30),
        ("answered", &[(c, SYN), (b, SYN | ACK)], 60),
        ("established", &[(c, SYN), (b, SYN | ACK), (c, ACK)], 21_600),
        (
            "client has closed",
            &[(c, SYN), (b, SYN | ACK), (c, ACK), (c, FIN | ACK)],
            3600,
        ),
        (
            "backend has closed",
            &[(c, SYN), (b, SYN | ACK), (c, ACK), (b, FIN | ACK)],
            3600,
        ),
        (
            "closed",
            &[(c, SYN), (b, SYN | ACK), (c, FIN | ACK), (b, FIN | ACK)],
            30,
        ),
        ("refused", &[(c, SYN), (b, RST | ACK)], 30),
    ];
    for (what, packets, ticks) in rows {
        let node = node::<F>(0, &[POD_A]);
        for (client, flags) in packets {
            let _ = if *client {
                node.arrive(UPLINK, &from_client(*flags))
            } else {
                node.arrive(DEVICE_A, &from_backend(*flags))
            };
        }
        node.tables.wait(ticks);
        assert_eq!(node.tables.sweep(), 0, "{what}");
        node.tables.wait(SLACK);
        assert_eq!(node.tables.sweep(), 2, "{what}");
    }
}

fn datagrams_live_for_three_minutes_once_the_client_goes_on<F: Net>() {
    for (packets, ticks) in [(1, 30), (2, 30), (3, 180)] {
        let node = node::<F>(0, &[POD_A]);
        for number in 0..packets {
            let _ = if number % 2 == 0 {
                node.arrive(UPLINK, &packet::udp(OUTSIDE, VIP))
            } else {
                node.arrive(DEVICE_A, &packet::udp(POD_A, OUTSIDE))
            };
        }
        node.tables.wait(ticks);
        assert_eq!(node.tables.sweep(), 0);
        node.tables.wait(SLACK);
        assert_eq!(node.tables.sweep(), 2);
    }
}

fn the_clock_may_wrap<F: Net>() {
    let node = node::<F>(0, &[POD_A]);
    node.tables.tick.set(u32::MAX - 5);
    let _ = node.arrive(UPLINK, &from_client(SYN));
    node.tables.wait(30);
    assert_eq!(node.tables.sweep(), 0);
    node.tables.wait(SLACK);
    assert_eq!(node.tables.sweep(), 2);
}

fn an_entry_from_the_future_is_not_idle<F: Net>() {
    let node = node::<F>(0, &[POD_A]);
    let _ = node.arrive(UPLINK, &from_client(SYN));
    node.tables.tick.set(node.tables.tick.get() - 2);
    assert_eq!(node.tables.sweep(), 0);
}

/// Sends the same packet again and again while the set changes; the backend must stay.
fn check_kept<F: Net>(packet: &Packet) {
    let mut node = node::<F>(0, &PODS);
    let first = node.arrive(UPLINK, packet);
    let all = [&PODS[..4], &[POD_B], &[], &PODS[1..], &PODS];
    for backends in all {
        replace(&mut node, 0, backends);
        let again = node.arrive(UPLINK, packet);
        assert_eq!(
            (again.fate, &again.frame),
            (first.fate, &first.frame),
            "{backends:?}"
        );
        assert_eq!(again.outcome(), Outcome::ForwardedFlow);
    }
    node.tables.frontends.clear();
    assert_eq!(
        node.arrive(UPLINK, packet).frame,
        first.frame,
        "the frontend is gone"
    );
}

fn a_flow_keeps_its_backend_whatever_becomes_of_the_set<F: Net>() {
    for port in 0..20 {
        let client = ("198.51.100.7".parse().expect("an address"), 40_000 + port);
        check_kept::<F>(&packet::tcp(client, VIP).syn());
        check_kept::<F>(&packet::udp(client, VIP).payload(b"question"));
        check_kept::<F>(&packet::sctp(client, VIP).payload(&[1, 0, 0, 4]));
    }
}

fn new_flows_are_spread_over_the_backends<F: Net>() {
    let node = node::<F>(0, &PODS);
    let mut counts = [0u32; PODS.len()];
    for port in 0..1000 {
        let client = ("198.51.100.7".parse().expect("an address"), 40_000 + port);
        let (_, to) = ends(&node.arrive(UPLINK, &packet::tcp(client, VIP).syn()));
        let pod = PODS.iter().position(|pod| *pod == std::format!("{to}"));
        counts[pod.expect("one of the pods")] += 1;
    }
    assert!(counts.iter().all(|n| (130..270).contains(n)), "{counts:?}");
}

fn a_handshake_opens_a_closing_flow_anew<F: Net>() {
    let endings: [(&str, &[Packet]); 3] = [
        ("the client has closed", &[from_client(FIN | ACK)]),
        (
            "both have closed",
            &[from_client(FIN | ACK), from_backend(FIN | ACK)],
        ),
        ("the client has aborted", &[from_client(RST)]),
    ];
    for (what, ending) in endings {
        let mut node = established::<F>(0);
        for packet in ending {
            let device = if packet.source == from_client(0).source {
                UPLINK
            } else {
                DEVICE_A
            };
            assert_eq!(
                node.arrive(device, packet).outcome(),
                Outcome::ForwardedFlow,
                "{what}"
            );
        }
        replace(&mut node, 0, &[POD_B]);
        let again = node.arrive(UPLINK, &from_client(SYN));
        let expected = from_client(SYN).to(POD_B).ttl(63);
        expect::<F>(what, &again, Fate::Sent(DEVICE_B), &expected);
        assert_eq!(again.outcome(), Outcome::ForwardedNew, "{what}");
        assert_eq!(state(&node), Some(State::New), "{what}");
        assert_eq!(node.tables.flow_count(), 2, "{what}");
        expect_whole(&node);
    }
}

fn the_answer_of_a_handshake_never_belongs_to_a_closing_flow<F: Net>() {
    // A direct connection of the client to the pod that happens to have the ports of an old flow.
    let node = established::<F>(0);
    let _ = node.arrive(UPLINK, &from_client(RST));
    let direct = from_backend(SYN | ACK);
    let journey = node.arrive(DEVICE_A, &direct);
    expect::<F>(
        "behind the routing decision",
        &journey,
        Fate::Sent(UPLINK),
        &direct.ttl(63),
    );
    assert_eq!(
        state(&node),
        None,
        "what follows is not the rest of that flow either"
    );

    // The same in front of it: a process of the node and a pod elsewhere.
    let node = super::world::node::<F>(0, &[POD_2]);
    let process = "192.168.1.1:50007"; // a port of the range for SNAT is kept
    let _ = node.emit(LB0, &packet::tcp(process, VIP).syn());
    let _ = node.arrive(UPLINK, &packet::tcp(POD_2, process).flags(RST | ACK));
    let direct = packet::tcp(POD_2, process).syn_ack();
    let journey = node.arrive(UPLINK, &direct);
    expect::<F>("in front of it", &journey, Fate::Received(UPLINK), &direct);
    assert_eq!(journey.outcomes, [Outcome::PassedNotOurs]);
    assert_eq!(state(&node), Some(State::Closed));
}

fn the_rest_of_a_closing_connection_is_still_translated<F: Net>() {
    let node = established::<F>(0);
    let _ = node.arrive(DEVICE_A, &from_backend(FIN | ACK));
    let _ = node.arrive(UPLINK, &from_client(FIN | ACK));
    let last = from_backend(ACK);
    let journey = node.arrive(DEVICE_A, &last);
    expect::<F>("last ACK", &journey, Fate::Sent(UPLINK), &last.from(VIP).ttl(63));
}

fn a_connection_that_was_not_seen_is_taken_up_where_any_node_would_choose_the_same<F: Net>() {
    use Outcome::{DroppedNoLocalEndpoints, DroppedUnknownFlow, ForwardedMidstream, RejectedUnknownFlow};
    let process = |flags| packet::tcp(PROCESS, VIP).flags(flags);
    let pod = |flags| packet::tcp(CLIENT_A, VIP).flags(flags);
    let outside = |to| move |flags| packet::tcp(OUTSIDE, to).flags(flags);
    let rows: [(&str, u16, &[&str], Packet, Outcome); 13] = [
        ("outside", 0, &PODS, outside(VIP)(ACK), ForwardedMidstream),
        (
            "outside, data",
            0,
            &PODS,
            outside(NODE_PORT)(ACK | PSH),
            ForwardedMidstream,
        ),
        (
            "outside, FIN",
            0,
            &PODS,
            outside(VIP)(FIN | ACK),
            ForwardedMidstream,
        ),
        ("outside, RST", 0, &PODS, outside(VIP)(RST), DroppedUnknownFlow),
        (
            "outside, RST and ACK",
            0,
            &PODS,
            outside(VIP)(RST | ACK),
            DroppedUnknownFlow,
        ),
        (
            "outside, affinity",
            Set::AFFINITY,
            &PODS,
            outside(VIP)(ACK),
            RejectedUnknownFlow,
        ),
        (
            "outside, Local",
            Set::EXTERNAL_LOCAL,
            &PODS,
            outside(NODE_PORT)(ACK),
            RejectedUnknownFlow,
        ),
        (
            "outside, Local without endpoint",
            Set::EXTERNAL_LOCAL,
            &PODS[3..],
            outside(NODE_PORT)(ACK),
            DroppedNoLocalEndpoints,
        ),
        (
            "outside, internal Local",
            Set::INTERNAL_LOCAL,
            &PODS,
            outside(VIP)(ACK),
            RejectedUnknownFlow,
        ),
        ("pod", 0, &PODS, pod(ACK), RejectedUnknownFlow),
        ("pod, RST", 0, &PODS, pod(RST), DroppedUnknownFlow),
        ("process", 0, &PODS, process(ACK), RejectedUnknownFlow),
        ("process, RST", 0, &PODS, process(RST), DroppedUnknownFlow),
    ];
    for (what, flags, backends, packet, outcome) in rows {
        let node = node::<F>(flags, backends);
        let text = std::format!("{}", packet.source);
        let journey = match text.as_str() {
            OUTSIDE => node.arrive(UPLINK, &packet),
            CLIENT_A => node.arrive(DEVICE_A, &packet),
            _ => node.emit(LB0, &packet),
        };
        assert_eq!(journey.outcome(), outcome, "{what}");
        let entries = if outcome == ForwardedMidstream { 2 } else { 0 };
        assert_eq!(node.tables.flow_count(), entries, "{what}");
    }
}

fn a_connection_that_another_proxy_has_opened_is_left_to_connection_tracking<F: Net>() {
    for backends in [&PODS[..], &[]] {
        let mut node = node::<F>(0, backends);
        node.tables.node.flags = Node::LEAVES_TRACKED;
        for flags in [ACK, ACK | PSH, FIN | ACK, RST, RST | ACK, SYN | ACK] {
            let journey = node.arrive(UPLINK, &packet::tcp(OUTSIDE, VIP).flags(flags));
            assert_eq!(journey.outcomes.first(), Some(&Outcome::PassedTracked), "{flags}");
            let journey = node.arrive(DEVICE_A, &packet::tcp(CLIENT_A, VIP).flags(flags));
            assert_eq!(journey.outcomes.first(), Some(&Outcome::PassedTracked), "{flags}");
        }
        assert_eq!(node.tables.flow_count(), 0);
    }
    // Its own connections are its own.
    let mut node = established::<F>(0);
    node.tables.node.flags = Node::LEAVES_TRACKED;
    let journey = node.arrive(UPLINK, &from_client(ACK | PSH));
    assert_eq!(journey.outcome(), Outcome::ForwardedFlow);
    let journey = node.arrive(UPLINK, &packet::tcp(OUTSIDE, NODE_PORT).syn());
    assert_eq!(journey.outcome(), Outcome::ForwardedNew);
}

fn a_connection_taken_up_gets_the_backend_that_its_first_node_chose<F: Net>() {
    let (first, second) = (node::<F>(0, &PODS), node::<F>(0, &PODS));
    for port in 0..50 {
        let client = ("198.51.100.7".parse().expect("an address"), 40_000 + port);
        let (_, chosen) = ends(&first.arrive(UPLINK, &packet::tcp(client, VIP).syn()));
        let (_, again) = ends(&second.arrive(UPLINK, &packet::tcp(client, VIP).flags(ACK)));
        assert_eq!(chosen, again, "{client:?}");
    }
}

fn a_connection_taken_up_is_established_when_its_backend_answers<F: Net>() {
    let node = node::<F>(0, &[POD_A]);
    let _ = node.arrive(UPLINK, &from_client(ACK | PSH));
    assert_eq!(state(&node), Some(State::New), "anybody can send this");
    let answer = from_backend(ACK);
    let journey = node.arrive(DEVICE_A, &answer);
    expect::<F>("answer", &journey, Fate::Sent(UPLINK), &answer.from(VIP).ttl(63));
    assert_eq!(state(&node), Some(State::Established));
}

in_both_families! {
    a_half_without_packets_lives_as_long_as_the_other,
    both_halves_hold_the_state_of_the_connection,
    a_packet_in_either_direction_keeps_both_halves_alive,
    a_flow_is_forgotten_when_its_state_allows_and_not_before,
    datagrams_live_for_three_minutes_once_the_client_goes_on,
    the_clock_may_wrap,
    an_entry_from_the_future_is_not_idle,
    a_flow_keeps_its_backend_whatever_becomes_of_the_set,
    new_flows_are_spread_over_the_backends,
    a_handshake_opens_a_closing_flow_anew,
    the_answer_of_a_handshake_never_belongs_to_a_closing_flow,
    the_rest_of_a_closing_connection_is_still_translated,
    a_connection_that_was_not_seen_is_taken_up_where_any_node_would_choose_the_same,
    a_connection_that_another_proxy_has_opened_is_left_to_connection_tracking,
    a_connection_taken_up_gets_the_backend_that_its_first_node_chose,
    a_connection_taken_up_is_established_when_its_backend_answers,
}
