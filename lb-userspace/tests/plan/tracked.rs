//! Connections that another proxy has opened, as connection tracking tells: left to it while one of them is a Service's.

use lb_common::abi::{FrontendKind, Node};
use lb_userspace::model::{FrontendAddress, NodeFacts};

use crate::support::{Bench, node, service, settings, state};

/// Facts of a node on which connections to these are translated.
fn translating(to: &[&str]) -> NodeFacts {
    NodeFacts {
        translated: to.iter().map(|to| to.parse().expect("an address")).collect(),
        ..node()
    }
}

fn leaves(bench: &mut Bench) -> bool {
    bench.settle();
    let node = bench
        .contents()
        .node
        .values()
        .next()
        .copied()
        .expect("it is written");
    node.flags & Node::LEAVES_TRACKED != 0
}

#[test]
fn connections_to_frontends_are_left_to_connection_tracking() {
    let mut web = service("web", 1, &[101]);
    web.frontends.push(FrontendAddress {
        address: None,
        port: 30_080,
        kind: FrontendKind::NodePort,
    });
    let cluster = state([web]);
    for (to, left) in [
        (&[][..], false),
        (&["10.96.0.1:80"], true),
        (&["10.96.0.1:81"], false),
        (&["10.96.0.2:80"], false),
        (&["192.0.2.1:30080"], true),
        // No address of the node's.
        (&["192.0.2.2:30080"], false),
        (&["192.0.2.1:8080", "10.96.0.1:80"], true),
    ] {
        let mut bench = Bench::new(settings());
        bench.facts(&translating(to));
        bench.desired(&cluster);
        assert_eq!(leaves(&mut bench), left, "{to:?}");
    }
}

#[test]
fn it_ends_with_the_connections_and_with_the_service() {
    let mut bench = Bench::new(settings());
    let cluster = state([service("web", 1, &[101])]);
    bench.desired(&cluster);
    bench.facts(&translating(&["10.96.0.1:80"]));
    assert!(leaves(&mut bench));
    bench.facts(&node());
    assert!(!leaves(&mut bench));
    bench.facts(&translating(&["10.96.0.1:80"]));
    assert!(leaves(&mut bench));
    bench.desired(&state([]));
    assert!(!leaves(&mut bench));
}

#[test]
fn ports_that_connection_tracking_has_given_away_are_left_out() {
    let mut bench = Bench::new(settings());
    bench.desired(&state([service("web", 1, &[101])]));
    let ports = |bench: &mut Bench, masqueraded: &[u16]| {
        bench.facts(&NodeFacts {
            masqueraded: masqueraded.to_vec(),
            ..node()
        });
        bench.settle();
        let node = bench
            .contents()
            .node
            .values()
            .next()
            .copied()
            .expect("it is written");
        (node.snat_first, node.snat_last)
    };
    let all = ports(&mut bench, &[1024]);
    assert_eq!(ports(&mut bench, &[all.0 + 10]), (all.0 + 11, all.1));
    // Where it has got to it stays, as long as nobody else is there.
    assert_eq!(ports(&mut bench, &[all.0]), (all.0 + 11, all.1));
    assert_eq!(ports(&mut bench, &[]), all);
}
