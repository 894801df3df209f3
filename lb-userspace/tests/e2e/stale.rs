//! UDP flows whose backend has gone: the next datagram of the same client goes to another one.

use std::{net::SocketAddr, time::Duration};

use lb_lab::{Family, Netfilter, Options, PodNetwork, Proto, wait_for};

use crate::{
    cluster::{Cluster, possible, socket},
    service::{PORT, Service},
};

/// A port that nothing else in this test sends from.
const SOURCE: u16 = 20_053;

#[test]
fn a_udp_client_leaves_a_backend_that_is_gone_as_root() {
    if !possible("a_udp_client_leaves_a_backend_that_is_gone_as_root") {
        return;
    }
    let cluster = Cluster::start(PodNetwork::Routed, Netfilter::None);
    let lab = &cluster.lab;
    let service = |names: &[&str]| Service::new(lab, "dns", 10).node_port(30_053).with(lab, names);
    cluster.apply(&service(&["pod1-1"]));
    let node2 = lab.node("node2").expect("it is there").addr;
    let mut ways: Vec<(&str, SocketAddr)> = Vec::new();
    for family in Family::BOTH {
        ways.push((
            "pod3-1",
            socket(lab.topology().plan.services.nth(10), family, PORT),
        ));
        ways.push((
            "node3",
            socket(lab.topology().plan.services.nth(10), family, PORT),
        ));
        ways.push(("client", socket(node2, family, 30_053)));
    }
    let ask = |from: &str, to: SocketAddr| {
        let place = lab.at(from).expect("it is there");
        let ip = place.ip(if to.is_ipv4() { Family::V4 } else { Family::V6 });
        let options = Options {
            timeout: Duration::from_millis(300),
            ..Options::from(SocketAddr::new(ip, SOURCE))
        };
        place.connect(Proto::Udp, to, &options).expect("the attempt runs")
    };
    for (from, to) in &ways {
        let first = ask(from, *to);
        assert!(first.is_from("pod1-1"), "{from} to {to}: {first}");
    }
    cluster.apply(&service(&["pod2-1"]));
    for (from, to) in &ways {
        let mut last = None;
        let moved = wait_for(Duration::from_secs(3), "another backend answers", || {
            let outcome = ask(from, *to);
            let moved = outcome.is_from("pod2-1");
            last = Some(outcome);
            moved
        });
        assert!(moved.is_ok(), "{from} to {to}: {last:?}\n{}", cluster.diagnosis());
    }
}
