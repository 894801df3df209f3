//! Next hops that are lost, and nodes with two uplinks: which device a packet comes in by and which it leaves by need
//! not be the same, in either direction.

use std::{net::SocketAddr, time::Duration};

use lb_lab::{Family, Netfilter, Place, Proto, Topology, wait_for};

use crate::{
    cluster::{Cluster, possible},
    load::{Connections, Datagrams},
    reach::Address,
    rows::{Expect, Rows},
    service::Service,
};

const NODE_PORT: u16 = 30_080;
/// Within this the agent has looked at the neighbours again.
const KEPT: Duration = Duration::from_secs(40);
const BYTES: u64 = 20_000_000;
const LIMIT: Duration = Duration::from_secs(30);

fn shop(cluster: &Cluster, backends: &[&str]) {
    let service = Service::new(&cluster.lab, "shop", 10).load_balancer(&cluster.lab, 10, NODE_PORT);
    cluster.apply(&service.with(&cluster.lab, backends));
}

fn outside(cluster: &Cluster) -> Vec<(&'static str, SocketAddr)> {
    let at = |family: &Family| Address::LoadBalancer.socket(cluster, *family, 10, NODE_PORT);
    Family::BOTH.iter().map(|family| ("client", at(family))).collect()
}

/// The neighbour's line, if the kernel keeps it resolved.
fn kept(node: &Place, neighbour: &str) -> Option<String> {
    let lines = node.output(&["ip", "neighbour", "show", neighbour]).ok()?;
    let kept = |line: &&str| line.contains("managed") && line.contains("lladdr");
    lines.lines().find(kept).map(str::to_owned)
}

#[test]
fn a_lost_neighbour_loses_no_flow_and_is_found_again_as_root() {
    if !possible("a_lost_neighbour_loses_no_flow_and_is_found_again_as_root") {
        return;
    }
    for hook in ["xdp-native", "xdp-generic"] {
        let mut cluster = Cluster::by(hook, Topology::cluster(2, 1).netfilter(Netfilter::Iptables), &[]);
        shop(&cluster, &["pod2-1"]);
        let node = cluster.lab.at("node1").expect("it is there").clone();
        let others = Family::BOTH.map(|family| {
            cluster
                .lab
                .node("node2")
                .expect("it is there")
                .addr
                .of(family)
                .to_string()
        });
        let wait_until_kept = |cluster: &Cluster| {
            for other in &others {
                let what = format!("{other} is kept resolved");
                let found = wait_for(KEPT, &what, || kept(&node, other).is_some());
                assert!(found.is_ok(), "{what}: never\n{}", cluster.diagnosis());
            }
        };
        wait_until_kept(&cluster);
        let status = cluster.eventually_status(0, "next hops are told", |status| status["next_hops"] == 2);
        assert_eq!(status["next_hops_reminded"], 0, "{status:#}");
        let ways = outside(&cluster);
        let mut held = Connections::open(&cluster, &ways, 4);
        let datagrams = Datagrams::start(&cluster, &ways, 2, 200);
        let gateways = Family::BOTH.map(|family| {
            cluster
                .lab
                .at(lb_lab::FABRIC)
                .expect("it is there")
                .ip(family)
                .to_string()
        });
        for _ in 0..20 {
            datagrams.wait_for(10, &cluster);
            for neighbour in others.iter().chain(&gateways) {
                // A neighbour may have been lost by itself.
                let _ = node.output(&["ip", "neighbour", "del", neighbour, "dev", "eth0"]);
            }
            held.assert_alive(&cluster, "after neighbours were deleted");
        }
        datagrams.wait_for(10, &cluster);
        datagrams.assert_none_lost(&cluster);
        wait_until_kept(&cluster);

        // Nobody keeps what is not needed: an agent that does not use XDP, and none at all.
        cluster.end_agent(0, lb_lab::Signal::SIGTERM);
        assert!(
            others.iter().all(|other| kept(&node, other).is_some()),
            "programs stay, and so do they"
        );
        cluster.set_hook("tc");
        cluster.start_agent(0);
        cluster.wait_for_agent(0);
        let gone = || others.iter().all(|other| kept(&node, other).is_none());
        assert!(
            wait_for(KEPT, "neighbours to be let go", gone).is_ok(),
            "{}",
            cluster.diagnosis()
        );
        cluster.end_agent(0, lb_lab::Signal::SIGTERM);
        cluster.set_hook(hook);
        cluster.start_agent(0);
        cluster.wait_for_agent(0);
        wait_until_kept(&cluster);
        cluster.end_agent(0, lb_lab::Signal::SIGTERM);
        assert!(cluster.agent(0, &["detach"]).1);
        assert!(gone(), "after detach");
    }
}

/// Replaces a route of both families: to `to`, by a neighbour on the second network.
fn by_second_uplink(place: &Place, to: lb_lab::DualCidr, via: lb_lab::Dual) {
    for family in Family::BOTH {
        let (to, via) = (to.of(family).to_string(), via.of(family).to_string());
        place
            .output(&["ip", "route", "replace", &to, "via", &via, "dev", "eth1"])
            .expect("the route can be changed");
    }
}

#[test]
fn two_uplinks_and_asymmetric_routes_serve_clients_outside_as_root() {
    if !possible("two_uplinks_and_asymmetric_routes_serve_clients_outside_as_root") {
        return;
    }
    for hook in ["xdp-native", "xdp-generic", "tc"] {
        let cluster = Cluster::by(hook, Topology::cluster(2, 2).two_uplinks(), &[]);
        shop(&cluster, &["pod1-1", "pod2-1"]);
        let lab = &cluster.lab;
        let plan = lab.topology().plan;
        let [node1, node2] = ["node1", "node2"].map(|name| lab.at(name).expect("it is there"));
        let specs = ["node1", "node2"].map(|name| lab.node(name).expect("it is there"));
        // The nodes reach each other's pods by the second network.
        by_second_uplink(node1, specs[1].pod_cidr, specs[1].second);
        by_second_uplink(node2, specs[0].pod_cidr, specs[0].second);
        for device in ["eth0", "eth1"] {
            let status = cluster.eventually_status(0, "both uplinks are served", |status| {
                status["devices"][device]
                    .as_array()
                    .is_some_and(|programs| programs.len() == 2)
                    && status["xdp"][device].is_object() == (hook != "tc")
                    && status["generation"] == status["generation_live"]
            });
            assert_eq!(status["failures"], serde_json::json!([]), "{hook}: {status:#}");
        }
        let check = |what: &str| {
            let mut rows = Rows::new(&cluster);
            for (from, to) in outside(&cluster) {
                rows.both(from, to, what, Expect::From(&["pod1-1", "pod2-1"]));
            }
            rows.check();
            let client = lab.at("client").expect("it is there");
            for (family, (_, to)) in Family::BOTH.iter().zip(outside(&cluster)) {
                // The node's address on the device that leads to the backend, and the client's own before a backend here.
                let mut seen = [0, 0];
                for _ in 0..20 {
                    let outcome = client
                        .connect(Proto::Tcp, to, &lb_lab::Options::default())
                        .expect("it can be tried");
                    let answer = outcome
                        .answer()
                        .unwrap_or_else(|| panic!("{what}: {outcome}\n{}", cluster.diagnosis()));
                    let (backend, source) = match answer.name.as_str() {
                        "pod1-1" => (0, client.ip(*family)),
                        _ => (1, specs[0].second.of(*family)),
                    };
                    assert_eq!(answer.peer.ip(), source, "{hook}, {what}: {outcome}");
                    seen[backend] += 1;
                }
                assert!(seen.iter().all(|seen| *seen > 0), "{hook}, {what}: {seen:?}");
                for transfer in [client.download(to, BYTES, LIMIT), client.upload(to, BYTES, LIMIT)] {
                    transfer
                        .unwrap_or_else(|e| panic!("{hook}, {what}: {to}: {e:#}\n{}", cluster.diagnosis()));
                }
            }
        };
        check("pods by the second uplink");
        // What goes back to the client leaves by the second uplink, although it asks by the first.
        by_second_uplink(node1, plan.clients, plan.second.nth(254));
        check("answers by the second uplink");
        // Requests by it as well: the node's first uplink has no part in it any more.
        for family in Family::BOTH {
            let fabric = lab.at(lb_lab::FABRIC).expect("it is there");
            let vips = plan.vips.of(family).to_string();
            let via = specs[0].second.of(family).to_string();
            fabric
                .output(&[
                    "ip", "route", "replace", &vips, "via", &via, "dev", "br1", "table", "100",
                ])
                .expect("the route can be changed");
        }
        check("everything by the second uplink");
        if hook != "tc" {
            // The next hops towards the other node's pods are kept as well, not only those towards its address.
            for family in Family::BOTH {
                let second = specs[1].second.of(family).to_string();
                let found = wait_for(KEPT, "the next hop is kept", || kept(node1, &second).is_some());
                assert!(found.is_ok(), "{hook}: {second}\n{}", cluster.diagnosis());
            }
        }
    }
}
