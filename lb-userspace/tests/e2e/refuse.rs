//! What is not served: refused at once where nobody can serve, silent where only another way leads to a
//! backend, and left alone where it is none of ours.

use lb_lab::{Family, Netfilter, PodNetwork};

use crate::{
    cluster::{Cluster, possible, socket},
    reach::Address,
    rows::{Expect, Rows},
    service::{Endpoint, PORT, Service, TARGET},
};

const NODE_PORT: u16 = 30_080;

/// By which addresses a client outside, a pod of node1 and node1 itself reach a Service.
fn everywhere(node: &'static str, other: &'static str) -> Vec<(&'static str, Address)> {
    let mut all = Vec::new();
    for from in ["client", "pod1-1", "node1"] {
        all.extend([
            (from, Address::ClusterIp),
            (from, Address::LoadBalancer),
            (from, Address::External),
            (from, Address::NodePort(node)),
        ]);
        if from != "client" {
            all.push((from, Address::NodePort(other)));
        }
    }
    all
}

#[test]
fn a_service_without_endpoints_refuses_at_once_as_root() {
    for (network, netfilter) in [
        (PodNetwork::Routed, Netfilter::Iptables),
        (PodNetwork::Bridge, Netfilter::Nftables),
    ] {
        if !possible("a_service_without_endpoints_refuses_at_once_as_root") {
            return;
        }
        let cluster = Cluster::start(network, netfilter);
        let lab = &cluster.lab;
        let none = Service::new(lab, "none", 10).load_balancer(lab, 10, NODE_PORT);
        // An endpoint that is not serving is none; policy Local makes no difference then.
        let failing = Service::new(lab, "failing", 11)
            .load_balancer(lab, 11, NODE_PORT + 1)
            .set("externalTrafficPolicy", "Local")
            .set("internalTrafficPolicy", "Local")
            .with_endpoints(vec![Endpoint::of(lab, "pod1-1").failing()]);
        cluster.apply(&none);
        cluster.apply(&failing);
        let mut rows = Rows::new(&cluster);
        for family in Family::BOTH {
            for (from, address) in everywhere("node1", "node2") {
                for (name, number, port) in [("none", 10, NODE_PORT), ("failing", 11, NODE_PORT + 1)] {
                    let to = address.socket(&cluster, family, number, port);
                    rows.both(from, to, (name, address), Expect::Refused);
                }
            }
        }
        rows.check();
    }
}

#[test]
fn policy_local_is_silent_where_only_other_nodes_have_backends_as_root() {
    if !possible("policy_local_is_silent_where_only_other_nodes_have_backends_as_root") {
        return;
    }
    let cluster = Cluster::start(PodNetwork::Routed, Netfilter::Iptables);
    let lab = &cluster.lab;
    let external = Service::new(lab, "external", 10)
        .load_balancer(lab, 10, NODE_PORT)
        .set("externalTrafficPolicy", "Local")
        .with(lab, &["pod2-1"]);
    let internal = Service::new(lab, "internal", 11)
        .load_balancer(lab, 11, NODE_PORT + 1)
        .set("internalTrafficPolicy", "Local")
        .with(lab, &["pod2-1"]);
    cluster.apply(&external);
    cluster.apply(&internal);
    let mut rows = Rows::new(&cluster);
    let served = Expect::From(&["pod2-1"]);
    for family in Family::BOTH {
        for address in [
            Address::LoadBalancer,
            Address::External,
            Address::NodePort("node1"),
        ] {
            let to = address.socket(&cluster, family, 10, NODE_PORT);
            rows.both("client", to, ("external", address), Expect::Silent);
            // The policy is about clients outside, and about these addresses.
            rows.both("pod1-1", to, ("external", address), served);
            rows.both("node1", to, ("external", address), served);
            let to = address.socket(&cluster, family, 11, NODE_PORT + 1);
            rows.both("client", to, ("internal", address), served);
        }
        let to = Address::NodePort("node2").socket(&cluster, family, 10, NODE_PORT);
        rows.both("client", to, "external, on the backend's node", served);
        let to = Address::ClusterIp.socket(&cluster, family, 10, NODE_PORT);
        for from in ["pod1-1", "node1", "pod2-2", "node2"] {
            rows.both(from, to, "external's ClusterIP", served);
        }
        let to = Address::ClusterIp.socket(&cluster, family, 11, NODE_PORT + 1);
        for (from, expect) in [
            ("pod1-1", Expect::Silent),
            ("node1", Expect::Silent),
            ("client", Expect::Silent),
            ("pod2-2", served),
            ("node2", served),
        ] {
            rows.both(from, to, "internal's ClusterIP", expect);
        }
    }
    rows.check();
    // The same from outside by the way of the node that has the backend.
    lab.steer("client", "node2").expect("the client can be steered");
    let mut rows = Rows::new(&cluster);
    for family in Family::BOTH {
        let to = Address::LoadBalancer.socket(&cluster, family, 10, NODE_PORT);
        rows.both("client", to, "external via node2", served);
        let to = Address::ClusterIp.socket(&cluster, family, 11, NODE_PORT + 1);
        rows.both("client", to, "internal's ClusterIP via node2", served);
    }
    rows.check();
}

#[test]
fn what_no_service_serves_is_left_alone_or_refused_as_root() {
    if !possible("what_no_service_serves_is_left_alone_or_refused_as_root") {
        return;
    }
    let cluster = Cluster::start(PodNetwork::Routed, Netfilter::Nftables);
    let lab = &cluster.lab;
    let known = Service::new(lab, "known", 10)
        .load_balancer(lab, 10, NODE_PORT)
        .with(lab, &["pod1-2", "pod2-1"]);
    let headless = Service::new(lab, "headless", 11)
        .headless()
        .with(lab, &["pod2-1"]);
    let name = Service::external_name(lab, "name", 12, "www.example.com");
    cluster.apply(&known);
    // Those two change nothing that is served, so there is no later generation to wait for.
    cluster.write(&headless);
    cluster.write(&name);
    let later = Service::new(lab, "later", 13).with(lab, &["pod1-2"]);
    cluster.apply(&later);
    let status = cluster.status(0);
    let named = status["services"].to_string();
    assert!(
        named.contains("shop/known") && !named.contains("shop/headless") && !named.contains("shop/name"),
        "{status:#}"
    );
    assert_eq!(status["problems"], serde_json::json!([]), "{status:#}");

    let mut rows = Rows::new(&cluster);
    for family in Family::BOTH {
        for (address, what) in [
            (Address::ClusterIp, "a port that the ClusterIP does not have"),
            (
                Address::LoadBalancer,
                "a port that the load balancer's address does not have",
            ),
        ] {
            let mut to = address.socket(&cluster, family, 10, NODE_PORT);
            to.set_port(PORT + 1);
            rows.both("node1", to, what, Expect::Refused);
            rows.both("pod1-1", to, what, Expect::Unserved);
            rows.both("client", to, what, Expect::Unserved);
        }
        // An address in the range of Services that no Service has.
        let to = socket(lab.topology().plan.services.nth(99), family, PORT);
        rows.both("node1", to, "a free ClusterIP", Expect::Unserved);
        rows.both("pod1-1", to, "a free ClusterIP", Expect::Unserved);
        // Pods are reached under their own addresses as ever, headless or not.
        let pod = lab.at("pod2-1").expect("it is there").socket(family, TARGET);
        for from in ["pod1-1", "node1", "node2"] {
            rows.both(from, pod, "a pod's own address", Expect::From(&["pod2-1"]));
        }
    }
    rows.check();
}

#[test]
fn a_deleted_service_is_no_longer_served_as_root() {
    if !possible("a_deleted_service_is_no_longer_served_as_root") {
        return;
    }
    let cluster = Cluster::start(PodNetwork::Routed, Netfilter::Iptables);
    let lab = &cluster.lab;
    let backends = ["pod1-2", "pod2-1"];
    let service = Service::new(lab, "short-lived", 10)
        .load_balancer(lab, 10, NODE_PORT)
        .with(lab, &backends);
    cluster.apply(&service);
    for expect in [Expect::From(&backends), Expect::Unserved] {
        let mut rows = Rows::new(&cluster);
        for family in Family::BOTH {
            for (from, address) in everywhere("node1", "node2") {
                let to = address.socket(&cluster, family, 10, NODE_PORT);
                rows.both(from, to, address, expect);
            }
        }
        rows.check();
        if expect != Expect::Unserved {
            cluster.delete(&service);
        }
    }
}
