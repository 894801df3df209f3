//! A connection at its socket comes to what its first packet would have come to, or is left to that.

use std::collections::BTreeSet;
use std::format;
use std::net::SocketAddr;
use std::vec::Vec;

use super::world::*;
use crate::abi::{Backend, FrontendKey, Node, Outcome, Protocol, Set};
use crate::net::{Caller, Net, bind, connect};
use crate::testing::node::{Fate, Journey, SimNode, of_family};
use crate::testing::packet;
use crate::testing::tables::address;

const POD: Caller = Caller {
    of_node: false,
    bound: false,
};
const PROCESS_HERE: Caller = Caller {
    of_node: true,
    bound: false,
};
/// How many choices are tried: more than the tables have rows.
const CHOICES: u32 = 4096;

fn at<F: Net>(text: &str) -> FrontendKey<F::Addr> {
    let at: SocketAddr = text.parse().expect("an address and a port");
    FrontendKey {
        address: address::<F>(of_family::<F>(at.ip())),
        port: at.port(),
        protocol: Protocol::Tcp as u8,
        reserved: 0,
    }
}

fn ask<F: Net>(
    node: &SimNode<F>,
    caller: Caller,
    to: &str,
    random: u32,
) -> Result<Backend<F::Addr>, Outcome> {
    connect(&node.tables, &mut at::<F>(to), caller, random, |_| false).copied()
}

/// Every backend that a socket may get, or why none.
fn backends<F: Net>(
    node: &SimNode<F>,
    caller: Caller,
    to: &str,
) -> Result<BTreeSet<(F::Addr, u16)>, Outcome> {
    (0..CHOICES)
        .map(|n| {
            ask(node, caller, to, n * (u32::MAX / CHOICES)).map(|backend| (backend.address, backend.port))
        })
        .collect()
}

/// What becomes of the first packet of the same connection.
fn first_packet<F: Net>(node: &SimNode<F>, caller: Caller, to: &str, port: u16) -> Journey {
    let from = |client: &str| SocketAddr::new(client.parse().expect("an address"), port);
    if caller.of_node {
        node.emit(LB0, &packet::tcp(from("192.168.1.1"), to).syn())
    } else {
        node.arrive(DEVICE_A, &packet::tcp(from("10.244.1.10"), to).syn())
    }
}

fn a_socket_gets_what_the_first_packet_would<F: Net>() {
    let policies = [0, Set::EXTERNAL_LOCAL, Set::INTERNAL_LOCAL];
    let endpoints: [&[&str]; 4] = [&[], &[POD_B], &[POD_2, POD_3], &[POD_B, POD_C, POD_2]];
    let (mut forwarded, mut refused, mut left) = (0, 0, 0);
    for flags in policies {
        for backends_there in endpoints {
            for to in [VIP, LOAD_BALANCER, EXTERNAL_IP, NODE_PORT_2] {
                for caller in [POD, PROCESS_HERE] {
                    let what = format!("{flags} {backends_there:?} {to} {caller:?}");
                    let node = node::<F>(flags, backends_there);
                    let by_socket = backends(&node, caller, to);
                    let journeys: Vec<_> = (10_000..10_200)
                        .map(|port| first_packet(&node, caller, to, port))
                        .collect();
                    match by_socket {
                        Ok(found) => {
                            forwarded += 1;
                            for journey in &journeys {
                                assert_ne!(journey.fate, Fate::Ended, "{what}: {journey:?}");
                            }
                            let by_packet: BTreeSet<_> = journeys
                                .iter()
                                .map(|journey| ends(journey).1)
                                .map(|at| (address::<F>(of_family::<F>(at.ip())), at.port()))
                                .collect();
                            assert_eq!(found, by_packet, "{what}");
                        }
                        Err(Outcome::PassedToTcSource) => {
                            left += 1;
                            for journey in journeys {
                                expect_end(&what, &journey, Outcome::DroppedNoLocalEndpoints);
                            }
                        }
                        Err(outcome) => {
                            refused += 1;
                            assert_eq!(outcome, Outcome::RejectedNoEndpoints, "{what}");
                            for journey in journeys {
                                assert_eq!(journey.outcome(), outcome, "{what}");
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!((forwarded, refused, left), (70, 24, 2));
}

fn what_needs_the_source_is_left_to_tc<F: Net>() {
    let left = Err(Outcome::PassedToTcSource);
    let plain = node::<F>(0, &[POD_B]);
    let found = backends(&plain, POD, VIP);
    assert!(found.is_ok(), "{found:?}");
    // To this node itself, or from an address that was chosen for the frontend.
    assert_eq!(backends(&plain, POD, NODE_PORT), left);
    let bound = Caller { bound: true, ..POD };
    assert_eq!(backends(&plain, bound, VIP), left);
    // Affinity, and ranges where they count.
    assert_eq!(backends(&node::<F>(Set::AFFINITY, &[POD_B]), POD, VIP), left);
    let ranges = node::<F>(Set::RANGES, &[POD_B]);
    assert_eq!(backends(&ranges, PROCESS_HERE, LOAD_BALANCER), left);
    assert_eq!(backends(&ranges, PROCESS_HERE, EXTERNAL_IP), found);
    // A pod that may be one of the backends on its node is left to TC whichever backend is chosen.
    for (own, backends, itself) in [
        (POD_A, &[POD_A, POD_B, POD_2] as &[&str], true),
        (POD_B, &[POD_A, POD_B, POD_2], true),
        (POD_A, &[POD_B, POD_2], false),
        (POD_A, &[POD_2, POD_3], false),
    ] {
        let node = node::<F>(0, backends);
        let own = at::<F>(own);
        for n in 0..64 {
            let ask = |caller| {
                let listens = |backend: &Backend<F::Addr>| backend.address == own.address;
                connect(&node.tables, &mut at::<F>(VIP), caller, n << 26, listens).copied()
            };
            assert_eq!(ask(POD).is_err(), itself, "{backends:?}");
            assert!(ask(PROCESS_HERE).is_ok(), "{backends:?}");
        }
    }
    // Masqueraded, or clients that cannot be told.
    let mut masquerading = node::<F>(0, &[POD_B]);
    masquerading.tables.node.flags = Node::MASQUERADE_ALL;
    assert_eq!(backends(&masquerading, POD, VIP), left);
    assert_eq!(backends(&masquerading, POD, LOAD_BALANCER), found);
    let mut unknown = node::<F>(0, &[POD_B]);
    unknown.tables.node.flags = Node::PODS_UNKNOWN;
    assert_eq!(backends(&unknown, POD, VIP), left);
    assert_eq!(backends(&unknown, PROCESS_HERE, VIP), found);
}

fn what_is_not_ours_stays_as_it_is<F: Net>() {
    let node = node::<F>(0, &[POD_B]);
    for (to, outcome) in [
        ("10.244.1.11:8080", Outcome::PassedNotOurs),
        ("203.0.113.10:81", Outcome::PassedNoFrontend),
        ("192.168.1.2:22", Outcome::PassedNoFrontend),
    ] {
        assert_eq!(backends(&node, POD, to), Err(outcome), "{to}");
    }
}

fn a_node_port_cannot_be_bound<F: Net>() {
    let node = node::<F>(0, &[]);
    let all = "0.0.0.0";
    for (on, port, protocol, outcome) in [
        (all, 30_080, Protocol::Tcp, Outcome::RejectedNodePort),
        (all, 30_080, Protocol::Udp, Outcome::RejectedNodePort),
        (all, 30_080, Protocol::Sctp, Outcome::RejectedNodePort),
        (all, 30_081, Protocol::Tcp, Outcome::PassedNotOurs),
        ("192.168.1.1", 30_080, Protocol::Tcp, Outcome::RejectedNodePort),
        // An address of this node on which NodePorts are not served, and a loopback address.
        ("10.244.1.0", 30_080, Protocol::Tcp, Outcome::PassedNoFrontend),
        ("127.0.0.1", 30_080, Protocol::Tcp, Outcome::PassedNoFrontend),
        // The port of another kind of frontend.
        (all, 80, Protocol::Tcp, Outcome::PassedNotOurs),
    ] {
        let address = if on == all {
            F::Addr::default()
        } else {
            address::<F>(of_family::<F>(on.parse().expect("an address")))
        };
        let found = bind::<F, _>(&node.tables, &address, port, protocol as u8);
        assert_eq!(found, outcome, "{on} {port} {protocol:?}");
    }
}

in_both_families! {
    a_socket_gets_what_the_first_packet_would,
    what_needs_the_source_is_left_to_tc,
    what_is_not_ours_stays_as_it_is,
    a_node_port_cannot_be_bound,
}
