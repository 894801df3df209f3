//! Single steps: what is written for a change, in which order, and what is not.

use std::{collections::BTreeMap, time::Duration};

use lb_common::abi::names;
use lb_userspace::{
    model::{NodeFacts, ServicePort},
    plan::{Capacities, Counts, PlanSettings},
};

use crate::support::{Bench, LINGER, cluster_ip, node, service, settings, state};

/// Which maps were written since `start`, consecutive repetitions left out.
fn maps(bench: &Bench, start: usize) -> Vec<String> {
    let mut maps: Vec<_> = bench
        .log_from(start)
        .iter()
        .map(|line| {
            let map = line.split(' ').next().unwrap_or_default();
            if line.ends_with("removed") {
                format!("-{map}")
            } else {
                map.to_owned()
            }
        })
        .collect();
    maps.dedup();
    maps
}

#[test]
fn what_is_referred_to_is_written_before_what_refers_to_it_and_removed_after_it() {
    let mut bench = Bench::new(PlanSettings {
        linger: Duration::ZERO,
        ..settings()
    });
    bench.desired(&state([service("web", 1, &[1, 101])]));
    bench.settle();
    assert_eq!(
        maps(&bench, 0),
        [
            "maglev",
            "backends4",
            "sets4",
            "services4",
            "frontends4",
            "addresses4"
        ]
    );

    let start = bench.log_length();
    bench.desired(&state([]));
    bench.settle();
    assert_eq!(
        maps(&bench, start),
        ["-frontends4", "grace", "services4", "-addresses4", "grace"]
    );
    bench.assert_no_violations();
}

#[test]
fn a_change_of_backends_makes_a_new_set_and_switches_one_word() {
    let mut bench = Bench::new(settings());
    let mut before = service("web", 1, &[1, 101]);
    before.frontends.push(cluster_ip(2));
    bench.desired(&state([before.clone()]));
    bench.settle();
    let start = bench.log_length();
    let mut after = service("web", 1, &[1, 102]);
    after.frontends.clone_from(&before.frontends);
    bench.desired(&state([after]));
    bench.settle();
    assert_eq!(
        maps(&bench, start),
        ["maglev", "backends4", "sets4", "services4", "grace"]
    );
    let words = bench
        .log_from(start)
        .iter()
        .filter(|line| line.starts_with("services4"))
        .count();
    assert_eq!(words, 1, "both frontends change at one instant");
    bench.assert_no_violations();
}

#[test]
fn source_ranges_stay_until_nobody_can_read_them() {
    let mut bench = Bench::new(settings());
    let [before, after] = [1, 2].map(|third| ServicePort {
        source_ranges: Some(vec![([203, 0, third, 0].into(), 24)]),
        ..service("web", 1, &[1])
    });
    bench.desired(&state([before]));
    bench.settle();
    let start = bench.log_length();
    bench.desired(&state([after]));
    bench.settle();
    assert_eq!(
        maps(&bench, start),
        [
            "ranges4",
            "backends4",
            "sets4",
            "services4",
            "grace",
            "-ranges4",
            "grace"
        ]
    );
    bench.assert_no_violations();
}

#[test]
fn what_does_not_change_costs_nothing() {
    let mut bench = Bench::new(settings());
    let services: Vec<_> = (1..=50)
        .map(|n| service(&format!("s{n:02}"), n, &[n, 100 + n]))
        .collect();
    bench.facts(&node());
    bench.desired(&state(services.clone()));
    bench.settle();
    let start = bench.log_length();
    bench.facts(&node());
    bench.desired(&state(services.clone()));
    bench.settle();
    assert_eq!(bench.log_from(start), Vec::<String>::new());

    let mut services = services;
    services[7].external_local = true;
    bench.desired(&state(services));
    bench.settle();
    // The backends are the same, but a set is immutable: they are written again, in places of their own.
    assert_eq!(maps(&bench, start), ["backends4", "sets4", "services4", "grace"]);
    assert_eq!(
        bench.planner.counts(),
        Counts {
            services: 50,
            frontends: 50,
            backends: 100
        }
    );
    bench.assert_no_violations();
}

#[test]
fn equal_tables_are_written_once() {
    let mut bench = Bench::new(settings());
    let services: Vec<_> = (1..=20)
        .map(|n| service(&format!("s{n:02}"), n, &[1, 101]))
        .collect();
    bench.desired(&state(services));
    bench.settle();
    let elements = bench.contents().maglev.len();
    assert_eq!(
        elements,
        1 + 4,
        "one row for the local backend, 211 rows for both"
    );
    bench.assert_no_violations();
}

#[test]
fn a_frontend_passes_from_one_service_to_another_without_a_gap() {
    let mut bench = Bench::new(settings());
    bench.desired(&state([service("old", 1, &[1]), service("new", 2, &[2])]));
    bench.settle();
    let start = bench.log_length();
    let mut new = service("new", 2, &[2]);
    new.frontends.push(cluster_ip(1));
    bench.desired(&state([new]));
    bench.settle();
    let log = bench.log_from(start);
    assert!(
        !log.iter()
            .any(|line| line.starts_with("frontends4") && line.ends_with("removed")),
        "{log:#?}"
    );
    assert_eq!(
        bench.planner.counts(),
        Counts {
            services: 1,
            frontends: 2,
            backends: 1
        }
    );
    bench.assert_no_violations();
}

#[test]
fn an_address_outlives_its_frontends_and_is_forgotten_in_time() {
    let mut bench = Bench::new(settings());
    bench.desired(&state([service("web", 1, &[1])]));
    bench.settle();
    bench.now = Duration::from_secs(10);
    bench.desired(&state([]));
    bench.settle();
    let contents = bench.contents();
    assert_eq!((contents.v4.frontends.len(), contents.v4.addresses.len()), (0, 1));
    assert_eq!(bench.planner.next_due(), Some(bench.now + LINGER));
    bench.now += LINGER;
    bench.settle();
    assert_eq!(bench.contents().v4.addresses.len(), 0);
    assert_eq!(bench.planner.next_due(), None);
    bench.assert_no_violations();
}

#[test]
fn a_failure_holds_back_only_what_relies_on_it() {
    let mut bench = Bench::new(settings());
    bench.fake.limit(names::BACKENDS[0], 1);
    bench.desired(&state([
        service("a", 1, &[1]),
        service("b", 2, &[2]),
        service("c", 3, &[]),
    ]));
    assert_eq!(bench.round(), 1, "the second backend finds no place");
    assert_eq!(
        bench.planner.counts(),
        Counts {
            services: 2,
            frontends: 2,
            backends: 1
        }
    );
    assert!(!bench.planner.is_settled());
    bench.fake.limit(names::BACKENDS[0], 10);
    bench.settle();
    assert_eq!(
        bench.planner.counts(),
        Counts {
            services: 3,
            frontends: 3,
            backends: 2
        }
    );
    bench.assert_no_violations();
}

#[test]
fn what_does_not_fit_is_reported_left_as_it_was_and_served_as_soon_as_it_fits() {
    for (capacities, map) in [
        (
            Capacities {
                // Each is a ClusterIP, which takes a mark, too.
                frontends: 4,
                ..Capacities::default()
            },
            "frontends4",
        ),
        (
            Capacities {
                addresses: 2,
                ..Capacities::default()
            },
            "addresses4",
        ),
        (
            Capacities {
                services: 2,
                ..Capacities::default()
            },
            "services4",
        ),
        (
            Capacities {
                sets: 2,
                ..Capacities::default()
            },
            "sets4",
        ),
        (
            Capacities {
                backends: 2,
                ..Capacities::default()
            },
            "backends4",
        ),
        (
            Capacities {
                ranges: 2,
                ..Capacities::default()
            },
            "ranges4",
        ),
    ] {
        let mut bench = Bench::new(PlanSettings {
            capacities,
            linger: Duration::ZERO,
            ..settings()
        });
        let [a, b, c] = [("a", 1), ("b", 2), ("c", 3)].map(|(name, n)| ServicePort {
            source_ranges: Some(vec![([203, 0, n, 0].into(), 24)]),
            ..service(name, n, &[n])
        });
        bench.desired(&state([a.clone(), b.clone(), c.clone()]));
        bench.settle();
        let problems = bench.planner.problems();
        assert_eq!(problems.len(), 1, "{map}");
        assert_eq!(problems[0].object, "Service shop/c");
        assert!(problems[0].message.contains(map), "{}", problems[0].message);
        assert_eq!(bench.planner.counts().services, 2, "{map}: the others are served");

        bench.desired(&state([a, c]));
        bench.settle();
        assert_eq!(bench.planner.problems(), [], "{map}");
        assert_eq!(
            bench.planner.counts().services,
            2,
            "{map}: the third one has its place now"
        );
        bench.assert_no_violations();
    }
}

#[test]
fn tables_that_do_not_fit_leave_the_service_as_it_was() {
    let capacities = Capacities {
        maglev: 6,
        ..Capacities::default()
    };
    let mut bench = Bench::new(PlanSettings {
        capacities,
        ..settings()
    });
    bench.desired(&state([service("a", 1, &[101, 102])]));
    bench.settle();
    let before = bench.text();
    bench.desired(&state([service("a", 1, &[101, 102, 103])]));
    bench.settle();
    assert_eq!(bench.text(), before);
    assert!(bench.planner.problems()[0].message.contains("maglev"));
    bench.assert_no_violations();
}

#[test]
fn more_backends_than_a_set_holds_are_a_problem_not_a_panic() {
    let mut bench = Bench::new(settings());
    let mut port = service("a", 1, &[]);
    let endpoint = service("b", 2, &[101]).backends[0];
    port.backends = (0..65_535u32)
        .map(|n| {
            let address = std::net::Ipv4Addr::from(0x0a02_0000 + n).into();
            lb_userspace::model::BackendEndpoint { address, ..endpoint }
        })
        .collect();
    bench.desired(&state([port]));
    bench.settle();
    assert!(bench.planner.problems()[0].message.contains("65535 endpoints"));
}

#[test]
fn the_nodes_of_a_cluster_are_followed() {
    let mut bench = Bench::new(settings());
    bench.facts(&node());
    let mut cluster = state([service("web", 1, &[101])]);
    bench.desired(&cluster);
    bench.settle();
    assert!(!bench.text().contains("HOST"));
    // The endpoint turns out to be a pod in its node's own network.
    cluster.other_nodes = vec![[10, 1, 2, 101].into()];
    bench.desired(&cluster);
    bench.settle();
    let text = bench.text();
    assert!(text.contains("address 10.1.2.101: OTHER_NODE"), "{text}");
    assert!(text.contains("backend 10.1.2.101:8080: Cluster; HOST"), "{text}");

    let moved = NodeFacts {
        own: vec![[192, 0, 2, 7].into()],
        pods: vec![],
        devices: BTreeMap::new(),
        ..node()
    };
    bench.facts(&moved);
    bench.settle();
    let text = bench.text();
    assert!(
        text.contains("address 192.0.2.7: OWN") && text.contains("source 192.0.2.7/32: Node"),
        "{text}"
    );
    assert!(!text.contains("device") && !text.contains("Pod"), "{text}");
    bench.assert_no_violations();
}
