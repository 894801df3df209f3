//! Traffic of every kind: from everywhere to every address of Services that forward, refuse and drop; datagrams in fragments,
//! also in another order than they were sent in; ICMP errors.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use lb_lab::{Family, Options, Proto};
use serde_json::json;

use crate::{
    cluster::{Cluster, socket},
    fragment_order,
    reach::Address,
    service::{PORT, Service},
};

/// The first Service's number, and its NodePort.
const FIRST: (u16, u16) = (10, 30_080);
/// The last of them, with one backend.
const SINGLE: u16 = 5;
/// The pod in which nobody listens.
const CLOSED: &str = "pod3-2";
/// A number that no Service has.
const NOBODY: u16 = 99;
/// Attempts of each kind.
const EACH: u32 = 4;
/// Attempts at a time.
const PARALLEL: usize = 6;
/// How long an answer is waited for: a silence adds packets that are sent again, and time.
const ANSWER: Duration = Duration::from_millis(700);

const CLIENTS: [&str; 6] = ["client", "pod1-1", "pod1-2", "pod3-1", "node1", "node3"];
const ADDRESSES: [Address; 5] = [
    Address::ClusterIp,
    Address::LoadBalancer,
    Address::External,
    Address::NodePort("node1"),
    Address::NodePort("node3"),
];

/// Outcomes that this traffic must have had, or it is not what it is meant to be.
pub(super) const WANTED: [&str; 9] = [
    "passed-not-ours",
    "forwarded-new",
    "forwarded-flow",
    "forwarded-fragment",
    "forwarded-held",
    "forwarded-error",
    "rejected-no-endpoints",
    "dropped-no-local-endpoints",
    "dropped-source-range",
];

/// Applies the Services.
pub(super) fn serve(cluster: &Cluster) {
    let lab = &cluster.lab;
    lab.stop_serving(CLOSED);
    let balanced = |place: u16, name: &str| {
        Service::new(lab, name, FIRST.0 + place).load_balancer(lab, FIRST.0 + place, FIRST.1 + place)
    };
    for service in [
        balanced(0, "wide").with(lab, &["pod1-1", "pod1-2", "pod2-1"]),
        balanced(1, "local")
            .set("externalTrafficPolicy", "Local")
            .with(lab, &["pod2-1"]),
        balanced(2, "empty"),
        balanced(3, "ranges")
            .set(
                "loadBalancerSourceRanges",
                json!(["203.0.113.0/24", "2001:db8:f::/48"]),
            )
            .with(lab, &["pod1-1", "pod2-1"]),
        balanced(4, "closed").with(lab, &[CLOSED]),
        balanced(SINGLE, "single").with(lab, &["pod2-1"]),
    ] {
        cluster.apply(&service);
    }
}

/// Sends it; how many attempts were answered.
pub(super) fn send(cluster: &Cluster) -> u32 {
    let attempts = attempts(cluster);
    let (next, answers) = (AtomicUsize::new(0), AtomicU32::new(0));
    let work = || {
        while let Some((from, proto, to, options)) = attempts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let place = cluster.lab.at(from).expect("the place is there");
            let shares = place
                .probe_with(*proto, *to, EACH, options)
                .expect("the probe runs");
            answers.fetch_add(shares.answers(), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(work);
        }
    });
    early_fragments(cluster);
    answers.into_inner()
}

type Attempt = (&'static str, Proto, SocketAddr, Options);

fn attempts(cluster: &Cluster) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let services = &cluster.lab.topology().plan.services;
    for family in Family::BOTH {
        for from in CLIENTS {
            for (place, address) in
                (0..=SINGLE).flat_map(|place| ADDRESSES.into_iter().map(move |address| (place, address)))
            {
                let to = address.socket(cluster, family, FIRST.0 + place, FIRST.1 + place);
                attempts.extend(Proto::BOTH.map(|proto| (from, proto, to, Options::within(ANSWER))));
                if place == 0 {
                    let large = Options {
                        request_len: 3_000,
                        reply_len: 5_000,
                        ..Options::within(ANSWER)
                    };
                    attempts.push((from, Proto::Udp, to, large));
                }
            }
            // A port that a Service does not have, and an address that no Service has.
            for to in [
                socket(services.nth(FIRST.0), family, PORT + 1),
                socket(services.nth(NOBODY), family, PORT),
            ] {
                attempts.extend(Proto::BOTH.map(|proto| (from, proto, to, Options::within(ANSWER))));
            }
        }
    }
    attempts
}

/// Later fragments before the first ones: kept, and seen again.
fn early_fragments(cluster: &Cluster) {
    let mut ids = 1..;
    for family in Family::BOTH {
        for (from, address) in [("client", Address::LoadBalancer), ("pod1-2", Address::ClusterIp)] {
            let to = address.socket(cluster, family, FIRST.0 + SINGLE, FIRST.1 + SINGLE);
            let arrived = fragment_order::by(cluster, from, to, "pod2-1", &mut ids);
            arrived.unwrap_or_else(|error| panic!("{from} to {to}: {error}\n{}", cluster.diagnosis()));
        }
    }
}
