//! What load balancers are told of Services, and what made Services change.

use std::time::{Duration, SystemTime};

use super::{
    super::*,
    tests::{endpoint, ip, port, service, slice},
    *,
};

fn balanced() -> Service {
    Service {
        ingress: vec![Ingress {
            address: ip("192.0.2.1"),
            proxied: false,
        }],
        external_local: true,
        health_check_port: Some(31_000),
        ..service("web")
    }
}

fn web() -> ObjectKey {
    ObjectKey::new("shop", "web")
}

#[test]
fn a_health_check_counts_ready_endpoints_here_each_address_once() {
    let unready = |address| Endpoint {
        ready: false,
        ..endpoint(address, "node-a")
    };
    let terminating = |address| Endpoint {
        terminating: true,
        ..unready(address)
    };
    let here = |address| endpoint(address, "node-a");
    for (what, endpoints, expected) in [
        ("none", vec![], 0),
        ("two here", vec![here("10.1.0.1"), here("10.1.0.2")], 2),
        (
            "elsewhere, nowhere",
            vec![endpoint("10.1.0.1", "node-b"), endpoint("10.1.0.2", "")],
            0,
        ),
        ("not ready", vec![unready("10.1.0.1")], 0),
        (
            "terminating, though it still serves",
            vec![terminating("10.1.0.1")],
            0,
        ),
        (
            "one of each",
            vec![here("10.1.0.1"), terminating("10.1.0.2"), unready("10.1.0.3")],
            1,
        ),
    ] {
        let mut index = Index::new(NodeIdentity::new("node-a"));
        let mut balanced = balanced();
        balanced.ports.push(port("metrics", 9090));
        index.apply(Change::ServiceApplied(balanced));
        // The same endpoints behind two ports, in two slices.
        let mut second = slice("web-2", endpoints.clone());
        second.ports[0].name = "metrics".into();
        index.apply(Change::SliceApplied(slice("web-1", endpoints)));
        index.apply(Change::SliceApplied(second));
        let check = HealthCheck {
            port: 31_000,
            ready_here: expected,
        };
        assert_eq!(index.health_check(&web()), Some(check), "{what}");
    }
}

#[test]
fn a_health_check_adds_up_both_families_and_counts_only_those_that_are_served() {
    let mut index = Index::new(NodeIdentity::new("node-a"));
    index.apply(Change::ServiceApplied(balanced()));
    index.apply(Change::SliceApplied(slice(
        "web-4",
        vec![endpoint("10.1.0.1", "node-a")],
    )));
    index.apply(Change::SliceApplied(EndpointSlice {
        ipv6: true,
        ..slice("web-6", vec![endpoint("fd00::1", "node-a")])
    }));
    let ready = |index: &Index| index.health_check(&web()).map(|check| check.ready_here);
    assert_eq!(ready(&index), Some(1), "the Service has no IPv6 address");
    index.apply(Change::ServiceApplied(Service {
        cluster_ips: vec![ip("172.30.0.1"), ip("fd00:172:30::1")],
        ..balanced()
    }));
    assert_eq!(ready(&index), Some(2));
    index.apply(Change::ServiceApplied(service("web")));
    assert_eq!(ready(&index), None, "there is nothing to ask any more");
}

#[test]
fn what_made_services_change_is_told_once() {
    let second = |n| SystemTime::UNIX_EPOCH + Duration::from_secs(n);
    let triggered = |name: &str, at| EndpointSlice {
        triggered: Some(second(at)),
        ..slice(name, vec![endpoint("10.1.0.1", "node-a")])
    };
    let mut index = Index::new(NodeIdentity::new("node-a"));
    index.apply(Change::SliceApplied(triggered("web-1", 1)));
    assert!(index.take_changed().is_empty(), "no Service has changed by it");
    index.apply(Change::ServiceApplied(service("web")));
    index.apply(Change::ServiceApplied(service("web")));
    index.apply(Change::SliceApplied(triggered("web-1", 2)));
    index.apply(Change::SliceApplied(triggered("web-1", 2)));
    index.apply(Change::SliceApplied(EndpointSlice {
        ipv6: true,
        ..triggered("web-2", 3)
    }));
    index.apply(Change::SliceDeleted(ObjectKey::new("shop", "web-1")));
    let expected = Origins {
        services: 1,
        endpoints: 3,
        triggered: [vec![second(2)], vec![second(3)]],
    };
    assert_eq!(index.take_changed().origins, expected);
    assert_eq!(index.take_changed().origins, Origins::default());
}
