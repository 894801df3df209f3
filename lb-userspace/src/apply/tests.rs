//! The loop itself; what it writes is tested with the plan.

use std::{
    thread,
    time::{Duration, Instant},
};

use lb_common::abi::{FrontendKind, Protocol, names};

use super::*;
use crate::{
    maps::fake::Fake,
    model::{BackendEndpoint, FrontendAddress, ServicePort, ServicePortId},
};

fn service(name: &str, octet: u8) -> ServicePort {
    ServicePort {
        id: ServicePortId {
            namespace: "shop".into(),
            name: name.into(),
            port_name: String::new(),
            protocol: Protocol::Tcp,
            ipv6: false,
        },
        frontends: vec![FrontendAddress {
            address: Some([10, 96, 0, octet].into()),
            port: 80,
            kind: FrontendKind::ClusterIp,
        }],
        internal_local: false,
        external_local: false,
        endpoints_exist: true,
        affinity: None,
        source_ranges: None,
        backends: [BackendEndpoint {
            address: [10, 1, 0, octet].into(),
            port: 8080,
            on_this_node: true,
            in_local: true,
            in_cluster: true,
        }]
        .into(),
        serving: [].into(),
    }
}

fn desired(count: u8) -> Change {
    let services = (1..=count)
        .map(|octet| service(&format!("s{octet:03}"), octet))
        .collect();
    let state = DesiredState {
        services,
        ..Default::default()
    };
    Change::Desired(state.into())
}

/// Runs the reconciler, sends it the changes, and waits until `wanted` holds.
fn run(fake: &Fake, store: MapStore, changes: Vec<Change>, wanted: impl Fn(&Status) -> bool) -> Status {
    let (sender, receiver) = channel();
    let reconciler = Reconciler::new(PlanSettings::default(), store, sender.backlog());
    let status = reconciler.status();
    let thread = thread::spawn(move || reconciler.run(&receiver));
    for change in changes {
        sender.send(change);
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while !wanted(&status.borrow()) {
        assert!(Instant::now() < deadline, "{:?}", *status.borrow());
        thread::yield_now();
    }
    let last = status.borrow().clone();
    drop(sender);
    thread.join().unwrap();
    assert_eq!(fake.world().violations, Vec::<String>::new());
    last
}

#[test]
fn a_change_is_followed_and_a_burst_is_one_round() {
    let (fake, store) = Fake::new();
    let facts = Change::Facts(Arc::new(NodeFacts::default()));
    let changes: Vec<_> = [facts].into_iter().chain((1..=20).map(desired)).collect();
    let status = run(&fake, store, changes, |status| status.live == 21);
    assert_eq!(
        status.counts,
        Counts {
            services: 20,
            frontends: 20,
            backends: 20
        }
    );
    let switches = fake
        .world()
        .log
        .iter()
        .filter(|line| line.starts_with("services4"))
        .count();
    assert!(
        switches <= 40,
        "each of 20 services is written once or twice, not 20 times: {switches}"
    );
}

#[test]
fn failures_are_counted_and_tried_again() {
    let (fake, store) = Fake::new();
    fake.fail(3, 42);
    let status = run(&fake, store, vec![desired(10)], |status| status.live == 1);
    assert_eq!(status.last_error, None);
    assert_eq!(status.failed_writes.values().sum::<u64>(), fake.world().failures);
    assert!(fake.world().failures > 0);
    assert!(
        status
            .failed_writes
            .keys()
            .all(|(_, errno)| *errno == libc::EBUSY)
    );
}

#[test]
fn a_map_that_is_smaller_than_planned_holds_back_only_what_does_not_fit() {
    let (fake, store) = Fake::new();
    // Each ClusterIP takes an entry of its own.
    fake.limit(names::FRONTENDS[0], 3 + 2);
    let status = run(&fake, store, vec![desired(3)], |status| {
        status.last_error.is_some() && status.counts.frontends == 2
    });
    assert_eq!((status.live, status.counts.frontends), (0, 2));
    assert!(
        status.last_error.unwrap().contains("frontends4"),
        "the error names the map"
    );
}

#[test]
fn problems_of_the_model_are_passed_on() {
    let (fake, store) = Fake::new();
    let problem = Problem {
        object: "Service shop/web".into(),
        message: "port 80 is taken".into(),
    };
    let state = DesiredState {
        problems: vec![problem.clone()],
        ..Default::default()
    };
    let status = run(&fake, store, vec![Change::Desired(state.into())], |status| {
        status.live == 1
    });
    assert_eq!(status.problems, [problem]);
}

#[test]
fn what_waits_and_how_long_it_took_is_told_family_by_family() {
    let (fake, store) = Fake::new();
    let (inbox, receiver) = channel();
    let backlog = inbox.backlog();
    let mut reconciler = Reconciler::new(PlanSettings::default(), store, inbox.backlog());
    let status = reconciler.status();
    let change = |octet, triggered| {
        let Change::Desired(mut update) = desired(octet) else {
            panic!("it is one of the cluster")
        };
        update.other_nodes = None;
        update.origins = Origins {
            services: 1,
            endpoints: 2,
            triggered: [triggered, vec![]],
        };
        Change::Desired(update)
    };
    inbox.send(change(1, vec![]));
    reconciler.fill(receiver.try_iter());
    let full = |family: usize| status.borrow().pace[family].full.count();
    assert_eq!((full(0), full(1)), (1, 0), "only IPv4 was concerned");
    assert_eq!(backlog.waits().families[0].since, None);

    fake.fail(1, 0);
    let second_ago = SystemTime::now() - Duration::from_secs(1);
    inbox.send(change(2, vec![second_ago]));
    reconciler.fill(receiver.try_iter());
    let waits = backlog.waits();
    assert!(waits.families[0].since.is_some() && waits.families[1].since.is_none());
    assert_eq!((waits.services.pending, waits.endpoints.pending), (1, 2));
    let programmed = || status.borrow().pace[0].programming.clone();
    assert_eq!(programmed().count(), 0, "it is not live yet");
    assert_eq!(status.borrow().failed_rounds, 1);

    fake.fail(0, 0);
    reconciler.fill([]);
    let waits = backlog.waits();
    assert_eq!(waits.families[0].since, None);
    assert_eq!((waits.services.pending, waits.endpoints.total), (0, 4));
    assert_eq!(programmed().count(), 1);
    assert!(programmed().sum() >= Duration::from_secs(1));
    assert_eq!(status.borrow().pace[0].partial.count(), 2);
}
