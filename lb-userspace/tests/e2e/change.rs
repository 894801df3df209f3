//! Changes other than of scale: policies, claims, clashes of source ports, devices that come at run time.

use std::{net::SocketAddr, time::Duration};

use lb_lab::{Family, Netfilter, Options, PodNetwork, Proto, Topology, wait_for};

use crate::{
    cluster::{Cluster, possible},
    load::Connections,
    reach::Address,
    rows::{Expect, Rows},
    service::{PORT, Service},
};

const NODE_PORT: u16 = 30_080;

#[test]
fn a_switched_policy_shows_outside_and_breaks_no_connection_as_root() {
    if !possible("a_switched_policy_shows_outside_and_breaks_no_connection_as_root") {
        return;
    }
    let cluster = Cluster::with(Topology::cluster(2, 2).netfilter(Netfilter::Iptables), &[]);
    let lab = &cluster.lab;
    let service = Service::new(lab, "shop", 10)
        .load_balancer(lab, 10, NODE_PORT)
        .with(lab, &["pod1-1", "pod2-1"]);
    let elsewhere = Service::new(lab, "elsewhere", 11)
        .load_balancer(lab, 11, NODE_PORT + 1)
        .with(lab, &["pod2-1"]);
    let at = |family, number: u16, address: Address| {
        address.socket(&cluster, family, number, NODE_PORT + number - 10)
    };
    let ways: Vec<_> = Family::BOTH
        .iter()
        .flat_map(|family| [10, 11].map(|number| ("client", at(*family, number, Address::LoadBalancer))))
        .collect();
    let mut held = None;
    for policy in ["Cluster", "Local", "Cluster"] {
        for service in [&service, &elsewhere] {
            cluster.apply(&service.clone().set("externalTrafficPolicy", policy));
        }
        let local = policy == "Local";
        let mut rows = Rows::new(&cluster);
        for family in Family::BOTH {
            for address in [
                Address::LoadBalancer,
                Address::External,
                Address::NodePort("node1"),
            ] {
                let both: &[_] = if local { &["pod1-1"] } else { &["pod1-1", "pod2-1"] };
                rows.both(
                    "client",
                    at(family, 10, address),
                    (policy, address),
                    Expect::From(both),
                );
                let other = if local {
                    Expect::Silent
                } else {
                    Expect::From(&["pod2-1"])
                };
                rows.both("client", at(family, 11, address), (policy, address), other);
            }
            // Under both policies a backend on the node that is asked sees its client's own address.
            let shares = cluster.probe("client", Proto::Tcp, at(family, 10, Address::LoadBalancer), 20);
            let client = lab.at("client").expect("it is there").ip(family);
            let seen: Vec<_> = shares.sources["pod1-1"].iter().copied().collect();
            assert_eq!(seen, [client], "{policy}: {shares}");
        }
        rows.check();
        held.get_or_insert_with(|| Connections::open(&cluster, &ways, 6))
            .assert_alive(&cluster, policy);
    }
}

#[test]
fn of_two_claims_the_older_is_served_and_hands_over_as_root() {
    if !possible("of_two_claims_the_older_is_served_and_hands_over_as_root") {
        return;
    }
    let cluster = Cluster::with(Topology::cluster(2, 2), &[]);
    let lab = &cluster.lab;
    let claim = |name: &str, created, backend: &str| {
        Service::new(lab, name, 10)
            .claiming(lab, 10, created)
            .load_balancer(lab, 10, NODE_PORT)
            .with(lab, &[backend])
    };
    let (younger, older) = (claim("younger", 60, "pod1-1"), claim("older", 30, "pod2-1"));
    let check = |winner: &'static [&'static str]| {
        let mut rows = Rows::new(&cluster);
        for family in Family::BOTH {
            for (from, address) in [
                ("client", Address::LoadBalancer),
                ("client", Address::NodePort("node1")),
                ("pod1-2", Address::ClusterIp),
                ("node1", Address::External),
            ] {
                let to = address.socket(&cluster, family, 10, NODE_PORT);
                rows.both(from, to, address, Expect::From(winner));
            }
        }
        rows.check();
    };
    let problems = || cluster.status(0)["problems"].to_string();
    cluster.apply(&younger);
    check(&["pod1-1"]);
    // The older one comes later, as after a restart of an agent: it wins all the same.
    cluster.apply(&older);
    check(&["pod2-1"]);
    let said = problems();
    assert!(
        said.contains("shop/younger") && said.contains("shop/older") && said.contains("172.30.0.10"),
        "{said}"
    );
    cluster.delete(&older);
    check(&["pod1-1"]);
    assert_eq!(problems(), "[]");
}

#[test]
fn one_source_port_to_two_services_with_one_backend_as_root() {
    if !possible("one_source_port_to_two_services_with_one_backend_as_root") {
        return;
    }
    for (network, netfilter) in [
        (PodNetwork::Routed, Netfilter::Nftables),
        (PodNetwork::Bridge, Netfilter::Iptables),
    ] {
        let cluster = Cluster::with(Topology::cluster(2, 2).network(network).netfilter(netfilter), &[]);
        let lab = &cluster.lab;
        let mut port = 40_000;
        for (number, backend) in [(10, "pod1-1"), (12, "pod2-1")] {
            for (number, name) in [(number, "one"), (number + 1, "two")] {
                let service = Service::new(lab, &format!("{name}-{backend}"), number)
                    .load_balancer(lab, number, NODE_PORT + number)
                    .with(lab, &[backend]);
                cluster.apply(&service);
            }
            for family in Family::BOTH {
                // pod1-1 reaches itself as well.
                for from in ["client", "pod1-1", "pod1-2", "node1"] {
                    port += 1;
                    clash(&cluster, from, family, number, backend, port);
                }
            }
        }
    }
}

/// From one source port to two Services of the same backend, and to the backend itself where there is a way.
fn clash(cluster: &Cluster, from: &str, family: Family, number: u16, backend: &str, port: u16) {
    let place = cluster.lab.at(from).expect("it is there");
    let addresses = if from == "client" {
        [Address::LoadBalancer; 2]
    } else {
        [Address::ClusterIp, Address::LoadBalancer]
    };
    let to: Vec<_> = [number, number + 1]
        .iter()
        .zip(addresses)
        .map(|(number, address)| address.socket(cluster, family, *number, NODE_PORT + number))
        .collect();
    let options = Options::from(place.socket(family, port));
    let mut held: Vec<_> = to
        .iter()
        .map(|to| {
            place
                .hold(*to, &options)
                .unwrap_or_else(|e| panic!("{from}:{port} to {to}: {e:#}\n{}", cluster.diagnosis()))
        })
        .collect();
    for (held, to) in held.iter_mut().zip(&to) {
        assert_eq!(held.by().name, backend);
        let echo = held.echo(Duration::from_secs(2));
        assert!(
            echo.is_ok(),
            "{from}:{port} to {to}: {echo:?}\n{}",
            cluster.diagnosis()
        );
    }
    for round in 0..2 {
        for to in &to {
            let outcome = place
                .connect(Proto::Udp, *to, &options)
                .expect("an attempt can be made");
            assert!(
                outcome.is_from(backend),
                "{from}:{port} to {to} UDP, round {round}: {outcome}\n{}",
                cluster.diagnosis()
            );
        }
    }
}

#[test]
fn a_pod_whose_device_comes_at_run_time_is_served_as_root() {
    if !possible("a_pod_whose_device_comes_at_run_time_is_served_as_root") {
        return;
    }
    for network in [PodNetwork::Routed, PodNetwork::Bridge] {
        let cluster = Cluster::with(
            Topology::cluster(2, 2)
                .network(network)
                .netfilter(Netfilter::Iptables),
            &[],
        );
        let lab = &cluster.lab;
        let service = Service::new(lab, "shop", 10)
            .load_balancer(lab, 10, NODE_PORT)
            .with(lab, &["pod1-2", "pod2-1"]);
        cluster.apply(&service);
        rewire(&cluster);
        let followed = wait_for(Duration::from_secs(5), "the new device has programs", || {
            let devices = &cluster.status(0)["devices"];
            devices["late0"]
                .as_array()
                .is_some_and(|programs| programs.len() == 2)
                && devices["veth1"].is_null()
        });
        assert!(followed.is_ok(), "{}", cluster.diagnosis());
        let mut rows = Rows::new(&cluster);
        for family in Family::BOTH {
            let to = Address::ClusterIp.socket(&cluster, family, 10, NODE_PORT);
            for from in ["pod1-2", "pod1-1", "pod2-2", "node1"] {
                rows.both(from, to, "ClusterIP", Expect::From(&["pod1-2", "pod2-1"]));
            }
            let to: SocketAddr = Address::LoadBalancer.socket(&cluster, family, 10, NODE_PORT);
            assert_eq!(to.port(), PORT);
            rows.both("client", to, "load balancer", Expect::From(&["pod1-2", "pod2-1"]));
        }
        rows.check();
    }
}

/// Takes the second pod of node1 its device, and gives it a new one with another name, as a restarted pod gets.
fn rewire(cluster: &Cluster) {
    let lab = &cluster.lab;
    let topology = lab.topology();
    let node = lab.at("node1").expect("it is there");
    let pod = &topology.nodes[0].pods[1];
    let inside = lab.at(&pod.name).expect("it is there");
    let routed = topology.network == PodNetwork::Routed;
    let mac = "ee:ee:ee:ee:ee:ee";
    let (v4, v6) = (pod.addr.v4, pod.addr.v6);
    let mut on_node = format!(
        "link del veth1\nlink add late0 {} type veth peer name eth0 netns {}\nlink set late0 up\n",
        if routed {
            format!("address {mac}")
        } else {
            String::new()
        },
        inside.netns().name(),
    );
    let mut in_pod = String::from("link set eth0 up\n");
    if routed {
        on_node += &format!(
            "addr add fe80::1/64 dev late0 nodad\nroute add {v4} dev late0\nroute add {v6} dev late0\n"
        );
        in_pod += &format!(
            "addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\nroute add 169.254.1.1 dev eth0 scope link\n"
        );
        for gateway in ["169.254.1.1", "fe80::1"] {
            in_pod += &format!(
                "neigh add {gateway} lladdr {mac} dev eth0 nud permanent\nroute add default via {gateway} dev eth0\n"
            );
        }
    } else {
        let range = topology.nodes[0].pod_cidr;
        on_node += "link set late0 master cni0\n";
        in_pod += &format!(
            "addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\nroute add default via {}\nroute add default via {}\n",
            range.nth(1).v4,
            range.nth(1).v6,
        );
    }
    for (place, commands) in [(node, on_node), (inside, in_pod)] {
        place
            .netns()
            .feed(&["ip", "-batch", "-"], &commands)
            .expect("the devices can be made");
    }
}
