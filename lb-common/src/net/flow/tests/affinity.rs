//! Session affinity over the whole node: the record is made, honoured, refused and forgotten.

use std::collections::BTreeSet;
use std::format;
use std::net::SocketAddr;
use std::vec::Vec;

use super::world::*;
use crate::abi::{Affinity, Backend, Event, Set};
use crate::net::affinity::position;
use crate::net::{Net, Scope};
use crate::testing::node::{Fate, SimNode, of_family};
use crate::testing::packet;
use crate::testing::tables::{SimTables, address};

const TIMEOUT: u32 = 100;
const ALL: [&str; 4] = [POD_A, POD_B, POD_2, POD_3];

fn affine<F: Net>(flags: u16, backends: &[&str]) -> SimNode<F> {
    let mut node = node::<F>(Set::AFFINITY | flags, backends);
    limit(&mut node);
    node
}

fn limit<F: Net>(node: &mut SimNode<F>) {
    node.tables.sets.last_mut().expect("a set").affinity_timeout = TIMEOUT;
}

/// The backend of a new connection from this port of the client.
fn backend<F: Net>(node: &SimNode<F>, device: u32, client: &str, port: u16, to: &str) -> SocketAddr {
    let journey = node.arrive(device, &packet::tcp(from(client, port), to).syn());
    assert_ne!(journey.fate, Fate::Ended, "{client} to {to}: {journey:?}");
    ends(&journey).1
}

fn outside<F: Net>(node: &SimNode<F>, port: u16, to: &str) -> SocketAddr {
    backend(node, UPLINK, "198.51.100.7", port, to)
}

fn from(client: &str, port: u16) -> SocketAddr {
    (client.parse::<std::net::IpAddr>().expect("an address"), port).into()
}

fn record<A: Copy>(backend: &Backend<A>) -> Affinity<A> {
    Affinity {
        backend: backend.address,
        port: backend.port,
        reserved: 0,
        seen: 0,
        timeout: 0,
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

fn all_addresses_of_a_service_share_the_record<F: Net>() {
    let node = affine::<F>(0, &ALL);
    let first = outside(&node, 1000, VIP);
    for (port, to) in (1001..1041).zip([VIP, LOAD_BALANCER, EXTERNAL_IP, NODE_PORT, VIP_2].iter().cycle()) {
        assert_eq!(outside(&node, port, to), first, "{to} from port {port}");
    }
    // Without affinity the same client is spread.
    let node = super::world::node::<F>(0, &ALL);
    let seen: BTreeSet<_> = (1000..1040).map(|port| outside(&node, port, VIP)).collect();
    assert_eq!(seen.len(), ALL.len());
}

fn a_record_ends_when_no_connection_comes_in_for_the_timeout<F: Net>() {
    let node = affine::<F>(0, &ALL);
    let first = outside(&node, 1000, VIP);
    for port in 1001..1010 {
        node.tables.wait(TIMEOUT);
        assert_eq!(
            outside(&node, port, VIP),
            first,
            "each connection begins the time anew"
        );
    }
    let mut seen = BTreeSet::from([first]);
    for port in 1010..1060 {
        node.tables.wait(TIMEOUT + 1);
        seen.insert(outside(&node, port, VIP));
    }
    assert_eq!(seen.len(), ALL.len(), "a client that comes back is balanced anew");
}

fn packets_of_an_old_connection_do_not_keep_the_record<F: Net>() {
    let node = affine::<F>(0, &ALL);
    outside(&node, 1000, VIP);
    let mut moved = BTreeSet::new();
    for port in 1001..1050 {
        let last = outside(&node, port, VIP);
        for _ in 0..4 {
            node.tables.wait(TIMEOUT / 3);
            let more = packet::tcp(from("198.51.100.7", port), VIP).flags(packet::flag::ACK);
            assert_eq!(ends(&node.arrive(UPLINK, &more)).1, last);
        }
        moved.insert(last);
    }
    assert!(moved.len() > 1, "only {moved:?}");
}

fn a_backend_that_is_gone_or_out_of_scope_is_not_used<F: Net>() {
    let mut node = affine::<F>(0, &ALL);
    let first = outside(&node, 1000, VIP);
    let others: Vec<&str> = ALL.iter().copied().filter(|text| at(text) != first).collect();
    replace(&mut node, Set::AFFINITY, &others);
    limit(&mut node);
    let second = outside(&node, 1001, VIP);
    assert_ne!(second, first);
    // It is back, but the client has moved on.
    replace(&mut node, Set::AFFINITY, &ALL);
    limit(&mut node);
    for port in 1002..1020 {
        assert_eq!(outside(&node, port, VIP), second);
    }
    replace(&mut node, Set::AFFINITY | Set::EXTERNAL_LOCAL, &ALL);
    limit(&mut node);
    for port in 1020..1060 {
        let local = outside(&node, port, NODE_PORT);
        assert!(
            [at(POD_A), at(POD_B)].contains(&local),
            "{local} is not of this node"
        );
    }
}

fn switching_affinity_off_and_on_takes_effect_with_the_next_connection<F: Net>() {
    let mut node = affine::<F>(0, &ALL);
    let first = outside(&node, 1000, VIP);
    replace(&mut node, 0, &ALL);
    let seen: BTreeSet<_> = (1001..1040).map(|port| outside(&node, port, VIP)).collect();
    assert_eq!(seen.len(), ALL.len());
    replace(&mut node, Set::AFFINITY, &ALL);
    limit(&mut node);
    let again: BTreeSet<_> = (1040..1080).map(|port| outside(&node, port, VIP)).collect();
    assert_eq!(again.len(), 1);
    assert_eq!(again.first(), Some(&first), "the record is not over yet");
}

fn clients_and_services_are_independent<F: Net>() {
    let mut node = affine::<F>(0, &ALL);
    let clients: Vec<_> = (1..=60).map(|n| format!("198.51.100.{n}")).collect();
    let of = |node: &SimNode<F>, port| -> Vec<_> {
        clients
            .iter()
            .map(|client| backend(node, UPLINK, client, port, VIP))
            .collect()
    };
    let before = of(&node, 1000);
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), ALL.len());
    assert_eq!(of(&node, 1001), before);
    // Another service port that uses the same index later on.
    node.tables.sets.last_mut().expect("a set").identity = [7, 7];
    assert_ne!(of(&node, 1002), before);
}

fn pods_and_processes_have_affinity_too<F: Net>() {
    for (device, client) in [(DEVICE_A, "10.244.1.10"), (PORT_C, "10.244.1.12")] {
        let node = affine::<F>(0, &ALL);
        let seen: BTreeSet<_> = (1000..1040)
            .map(|port| backend(&node, device, client, port, LOAD_BALANCER))
            .collect();
        assert_eq!(seen.len(), 1, "{client}");
    }
    let node = affine::<F>(0, &ALL);
    let process = |port| ends(&node.emit(LB0, &packet::tcp(from("192.168.1.1", port), VIP).syn())).1;
    let seen: BTreeSet<_> = (1000..1040).map(process).collect();
    assert_eq!(seen.len(), 1);
}

fn without_room_for_records_connections_go_on<F: Net>() {
    let node = affine::<F>(0, &ALL);
    node.tables.affinity_fails.set(true);
    for port in 1000..1020 {
        outside(&node, port, VIP);
    }
    let failures = node.tables.events.borrow().get(&Event::AffinityFailed).copied();
    assert_eq!(failures, Some(20));
}

/// Every backend of every scope is found again, in sets of any shape.
fn every_backend_is_found_in_a_set_of_any_size<F: Net>() {
    for (local_only, both, cluster_only) in [
        (0, 1, 0),
        (1, 0, 1),
        (3, 4, 5),
        (0, 0, 300),
        (255, 2, 0),
        (7, 300, 64),
    ] {
        let mut number = 0u32;
        let mut part = |length: u32, flags| -> Vec<Backend<F::Addr>> {
            let mut part: Vec<_> = (0..length)
                .map(|_| {
                    number += 1;
                    // Neighbours in one octet and in another, two ports each.
                    let octets = [
                        10,
                        (number % 3) as u8,
                        (number / 2 % 251) as u8,
                        (number / 502) as u8,
                    ];
                    let ip = of_family::<F>(octets.into());
                    Backend {
                        address: address::<F>(ip),
                        port: 80 + (number % 2) as u16,
                        flags,
                    }
                })
                .collect();
            part.sort_unstable();
            part
        };
        let here = Backend::<F::Addr>::LOCAL;
        let parts = [part(local_only, here), part(both, here), part(cluster_only, 0)];
        let backends = parts.concat();
        let scopes = ((local_only + both) as u16, local_only as u16);
        let mut tables = SimTables::<F>::default();
        let service = tables.add_service(Set::AFFINITY, scopes, &backends);
        let set = tables.sets[service as usize];
        for (index, backend) in backends.iter().enumerate() {
            for scope in [Scope::Local, Scope::Cluster] {
                let inside = match scope {
                    Scope::Local => index < usize::from(scopes.0),
                    Scope::Cluster => index >= usize::from(scopes.1),
                };
                let expected = if inside { index as u32 } else { u32::MAX };
                let found = position(&tables, &record(backend), &set, scope);
                assert_eq!(
                    found, expected,
                    "{index} of {local_only}+{both}+{cluster_only}, {scope:?}"
                );
            }
        }
    }
}

in_both_families! {
    all_addresses_of_a_service_share_the_record,
    a_record_ends_when_no_connection_comes_in_for_the_timeout,
    packets_of_an_old_connection_do_not_keep_the_record,
    a_backend_that_is_gone_or_out_of_scope_is_not_used,
    switching_affinity_off_and_on_takes_effect_with_the_next_connection,
    clients_and_services_are_independent,
    pods_and_processes_have_affinity_too,
    without_room_for_records_connections_go_on,
    every_backend_is_found_in_a_set_of_any_size,
}
