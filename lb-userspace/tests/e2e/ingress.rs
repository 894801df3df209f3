//! An ingress controller behind a load balancer's address, with policy Local: reached from its own node and from the pods
//! beside it too, and told who asks.

mod relay;

use std::{collections::BTreeSet, net::IpAddr};

use lb_lab::{Family, Netfilter, PodNetwork, Proto};
use relay::Relay;

use crate::{
    cluster::{Cluster, possible, socket},
    rows::{Expect, Rows},
    service::{PORT, Service, TARGET},
};

/// The controller's pod, and the pod that it relays to.
const CONTROLLER: &str = "pod1-1";
const BACKEND: &str = "pod2-1";

#[test]
fn an_ingress_controller_on_a_routed_network_as_root() {
    check(
        "an_ingress_controller_on_a_routed_network_as_root",
        PodNetwork::Routed,
        Netfilter::None,
    );
}

#[test]
fn an_ingress_controller_on_a_tunnel_network_as_root() {
    check(
        "an_ingress_controller_on_a_tunnel_network_as_root",
        PodNetwork::Tunnel,
        Netfilter::Nftables,
    );
}

#[test]
fn an_ingress_controller_on_a_bridge_network_as_root() {
    check(
        "an_ingress_controller_on_a_bridge_network_as_root",
        PodNetwork::Bridge,
        Netfilter::Iptables,
    );
}

fn check(test: &str, network: PodNetwork, netfilter: Netfilter) {
    if !possible(test) {
        return;
    }
    let cluster = Cluster::start(network, netfilter);
    let lab = &cluster.lab;
    let plan = &lab.topology().plan;
    cluster.apply(&Service::new(lab, "shop", 21).with(lab, &[BACKEND]));
    let ingress = Service::new(lab, "ingress", 20)
        .load_balancer(lab, 20, 30_080)
        .set("externalTrafficPolicy", "Local")
        .with(lab, &[CONTROLLER]);
    cluster.apply(&ingress);
    lab.stop_serving(CONTROLLER);

    let inside = ["node1", "pod1-2", "node2", "pod2-1", "node3", "pod3-1"];
    for family in Family::BOTH {
        let at = lab.at(CONTROLLER).expect("it is there").socket(family, TARGET);
        let shop = socket(plan.services.nth(21), family, PORT);
        let relay = Relay::start(lab.at(CONTROLLER).expect("it is there"), at, shop);
        let to = socket(plan.vips.nth(20), family, PORT);
        let mut rows = Rows::new(&cluster);
        // The controller reaches itself by its own public address, as its health and hairpin requests do.
        for from in inside.iter().chain([&CONTROLLER, &"client"]) {
            rows.row(from, Proto::Tcp, to, "the controller", Expect::From(&[BACKEND]));
        }
        rows.check();
        let asked: BTreeSet<IpAddr> = relay.clients();
        for from in ["pod1-2", "pod2-1", "pod3-1", "client"] {
            let client = lab.at(from).expect("it is there").ip(family);
            assert!(asked.contains(&client), "{from} {client} is not in {asked:?}");
        }
    }
}
