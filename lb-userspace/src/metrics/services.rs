//! What is counted for each Service: the only metrics that have names of objects, and only where the agent is told to count.

use super::{
    ServiceTraffic,
    text::{Kind, Text},
};

/// Whose packets they are.
const FROM: [&str; 2] = ["client", "backend"];
/// Where connections got their backend.
const AT: [&str; 2] = ["packet", "socket"];

pub(super) fn services(text: &mut Text, all: &[ServiceTraffic]) {
    let mut by_outcome = |name, help, value: fn(&lb_common::abi::Counter) -> u64| {
        let mut metric = text.metric(Kind::Counter, name, help);
        for one in all {
            for (from, packets) in FROM.iter().zip(&one.packets) {
                for (outcome, counter) in packets {
                    let labels = [("from", *from), ("outcome", outcome)];
                    metric.sample(&[&labels_of(one)[..], &labels].concat(), value(counter));
                }
            }
        }
    };
    by_outcome(
        "lb_service_packets_total",
        "Packets of a Service, by whom they are from and what became of them; not those of connections translated at sockets.",
        |counter| counter.packets,
    );
    by_outcome(
        "lb_service_bytes_total",
        "Bytes of a Service, by whom they are from and what became of them; not those of connections translated at sockets.",
        |counter| counter.bytes,
    );
    let mut metric = text.metric(
        Kind::Counter,
        "lb_service_connections_total",
        "New connections and exchanges of datagrams of a Service, by where they got their backend.",
    );
    for one in all {
        for (at, count) in AT.iter().zip(one.connections) {
            metric.sample(&[&labels_of(one)[..], &[("at", *at)]].concat(), count);
        }
    }
}

fn labels_of(one: &ServiceTraffic) -> [(&'static str, &str); 5] {
    [
        ("namespace", &one.namespace),
        ("service", &one.service),
        ("port", &one.port),
        ("protocol", &one.protocol),
        ("ip_family", one.family),
    ]
}
