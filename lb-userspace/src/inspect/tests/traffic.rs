//! What was counted for the Services of the world of these tests, and what is said of it.

use lb_common::abi::{Counter, Leg, Outcome};

use super::{super::*, World, place};
use crate::maps::traffic::Traffic;

/// Packets to (or from) a frontend.
fn packets(frontend: &str, backend: &str, leg: Leg, outcome: Outcome, [packets, bytes]: [u64; 2]) -> Traffic {
    Traffic {
        frontend: place(frontend),
        backend: (!backend.is_empty()).then(|| place(backend)),
        protocol: 6,
        leg,
        outcome,
        counter: Counter { packets, bytes },
    }
}

pub(super) fn counted() -> Vec<Traffic> {
    use Leg::{Answered, Asked, Connected};
    use Outcome::{DroppedExpired, DroppedSourceRange, ForwardedFlow, ForwardedNew, RejectedNoEndpoints};
    let (balanced, pod, far) = ("192.0.2.30:80", "10.1.1.11:8080", "10.1.2.111:8080");
    vec![
        packets(balanced, pod, Asked, ForwardedNew, [12, 888]),
        packets(balanced, pod, Asked, ForwardedFlow, [540, 61_240]),
        packets(balanced, pod, Answered, ForwardedFlow, [498, 2_390_112]),
        packets(balanced, "", Asked, DroppedSourceRange, [7, 518]),
        packets("192.168.0.1:30080", far, Asked, ForwardedNew, [3, 222]),
        packets("192.168.0.1:30080", far, Asked, ForwardedFlow, [20, 1480]),
        packets("192.168.0.1:30080", far, Answered, ForwardedFlow, [17, 1340]),
        packets("192.168.0.1:30080", far, Answered, DroppedExpired, [1, 66]),
        packets("10.96.0.10:80", far, Connected, ForwardedNew, [41, 0]),
        packets("10.96.0.12:80", "", Asked, RejectedNoEndpoints, [4, 296]),
        packets("10.96.0.12:80", "", Connected, RejectedNoEndpoints, [2, 0]),
        packets(
            "[fd00:96::10]:80",
            "[fd00:1:1::11]:8080",
            Connected,
            ForwardedNew,
            [5, 0],
        ),
        packets("10.96.0.99:80", pod, Answered, ForwardedFlow, [1, 66]),
    ]
}

#[test]
fn a_service_has_what_all_its_addresses_have_and_each_packet_is_in_one_sum() {
    let world = World::new();
    let rows = world.traffic(&Filter::default());
    let names: Vec<_> = rows.iter().map(|row| (row.name(), row.family)).collect();
    let expected = [
        ("shop/cart", "IPv4"),
        ("shop/web:http", "IPv4"),
        ("shop/web:http", "IPv6"),
        ("10.96.0.99:80", "IPv4"),
    ];
    assert_eq!(names, expected.map(|(name, family)| (name.to_owned(), family)));
    let web = &rows[1].exchanged;
    assert_eq!(
        (web.flows, web.connections_at_sockets, web.opened()),
        (15, 41, 56)
    );
    let amount = |packets, bytes| Amount { packets, bytes };
    assert_eq!(
        web.received,
        amount(12 + 540 + 7 + 3 + 20, 888 + 61_240 + 518 + 222 + 1480)
    );
    assert_eq!(web.answered, amount(498 + 17 + 1, 2_390_112 + 1340 + 66));
    let backends: Vec<_> = (rows[1].backends.iter())
        .map(|part| {
            (
                part.backend,
                part.exchanged.received.packets,
                part.exchanged.answered.packets,
            )
        })
        .collect();
    let (here, far) = (place("10.1.1.11:8080"), place("10.1.2.111:8080"));
    assert_eq!(
        backends,
        [(None, 7, 0), (Some(here), 552, 498), (Some(far), 23, 18)]
    );
    let cart = &rows[0].exchanged;
    assert_eq!(
        (cart.flows, cart.refused_at_sockets, cart.received.packets),
        (0, 2, 4)
    );
    for row in &rows {
        let all = row.backends.iter().map(|part| part.exchanged.received.packets);
        assert_eq!(all.sum::<u64>(), row.exchanged.received.packets, "{row:?}");
    }
    // What is counted is counted somewhere.
    let packets = rows
        .iter()
        .map(|row| row.exchanged.received.packets + row.exchanged.answered.packets);
    let with_packets = counted().into_iter().filter(|one| one.leg != Leg::Connected);
    assert_eq!(
        packets.sum::<u64>(),
        with_packets.map(|one| one.counter.packets).sum::<u64>()
    );
}

#[test]
fn counters_are_asked_for_by_service_and_address() {
    let world = World::new();
    let about = |service: Option<&str>, address: Option<&str>| {
        let filter = Filter {
            service: service.map(Into::into),
            address: address.map(super::ip),
            ..Filter::default()
        };
        let rows = world.traffic(&filter);
        rows.iter().map(|row| row.exchanged.received.packets).sum::<u64>()
    };
    assert_eq!(about(Some("shop/cart"), None), 4);
    assert_eq!(about(Some("web"), Some("10.1.2.111")), 23);
    assert_eq!(about(None, Some("192.0.2.30")), 559);
}

/// What `lb-agent top` draws: of the two seconds in which half of everything was counted, or where nothing is.
pub(super) fn screen(world: &World, is_counted: bool) -> Screen {
    let half = |one: &Traffic| Traffic {
        counter: Counter {
            packets: one.counter.packets / 2,
            bytes: one.counter.bytes / 2,
        },
        ..*one
    };
    let rows =
        |all: &[Traffic]| is_counted.then(|| super::super::traffic(all, &world.names, &Filter::default()));
    let before = Reading {
        at: 1.0,
        traffic: rows(&counted().iter().map(half).collect::<Vec<_>>()),
    };
    let now = Reading {
        at: 3.0,
        traffic: rows(&counted()),
    };
    let tables = Tables {
        frontends: world.services(&Filter::default()),
        flows: world.flows(&Filter::default()),
    };
    let sort = if is_counted {
        SortBy::Connections
    } else {
        SortBy::Flows
    };
    Screen {
        node: Some("n1".into()),
        agent_running: is_counted,
        counted: is_counted,
        flows_read: [4.0, 0.21],
        since: if is_counted { now.at - before.at } else { 0.0 },
        sort,
        rows: top(Some(&before), &now, &tables, sort),
        selected: 0,
    }
}

#[test]
fn rates_are_what_two_readings_differ_by() {
    let screen = screen(&World::new(), true);
    let web = screen
        .rows
        .iter()
        .find(|row| row.name == "shop/web:http")
        .unwrap();
    // IPv4: 41 + 15 and 20 + 7 before; IPv6: 5 and 2 before. In two seconds.
    assert_eq!(web.rates.opened, Some((56.0 - 27.0 + 5.0 - 2.0) / 2.0));
    let received = (582 - (6 + 270 + 3 + 1 + 10)) as f64 / 2.0;
    assert_eq!(web.rates.received.map(|[packets, _]| packets), Some(received));
    assert_eq!(web.rates.refused, Some((7.0 - 3.0 + 1.0) / 2.0));
    assert_eq!(
        (web.rates.flows, web.rates.established, web.rates.unanswered),
        (4, 2, 1)
    );
    assert_eq!(web.endpoints, 3);
    let by_backend: f64 = web.backends.iter().filter_map(|(_, rates)| rates.opened).sum();
    assert_eq!(Some(by_backend), web.rates.opened, "{:?}", web.backends);
    // Busy ones first, and those that nobody asks for are there too.
    assert_eq!(screen.rows[0].name, "shop/web:http");
    assert!(
        screen
            .rows
            .iter()
            .any(|row| row.name == "shop/sticky:http" && row.rates.flows == 0)
    );
}

#[test]
fn without_counters_there_are_flows_and_no_packets() {
    let screen = screen(&World::new(), false);
    let web = &screen.rows[0];
    assert_eq!((web.name.as_str(), web.rates.flows), ("shop/web:http", 4));
    assert_eq!((web.rates.received, web.rates.refused), (None, None));
    assert_eq!(web.rates.opened, Some(0.1), "one is five seconds old");
    let text = screen.text(200);
    assert!(
        text.contains("the agent runs without --service-counters"),
        "{text}"
    );
    assert!(text.contains("the agent is not running"), "{text}");
}
