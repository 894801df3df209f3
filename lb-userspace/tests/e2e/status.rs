//! What `lb-agent status` says, and that bad objects are named there while the rest is served; the kernel
//! settings under which all of this works.

use lb_lab::{Family, Netfilter, Topology};

use crate::{
    cluster::{Cluster, possible},
    reach::Address,
    rows::{Expect, Rows},
    service::Service,
};

const NODE_PORT: u16 = 30_080;
const BOTH: [&str; 2] = ["pod1-1", "pod2-1"];

/// Every kind of client to every kind of address.
fn everything(cluster: &Cluster) {
    let mut rows = Rows::new(cluster);
    for family in Family::BOTH {
        for from in ["client", "pod1-1", "pod1-2", "node1", "node2"] {
            for address in [
                Address::ClusterIp,
                Address::LoadBalancer,
                Address::External,
                Address::NodePort("node1"),
                Address::NodePort("node2"),
            ] {
                let to = address.socket(cluster, family, 10, NODE_PORT);
                rows.both(from, to, address, Expect::From(&BOTH));
            }
        }
    }
    rows.check();
}

fn shop(cluster: &Cluster) -> Service {
    Service::new(&cluster.lab, "shop", 10)
        .load_balancer(&cluster.lab, 10, NODE_PORT)
        .with(&cluster.lab, &BOTH)
}

#[test]
fn bad_objects_are_named_and_the_rest_is_served_as_root() {
    if !possible("bad_objects_are_named_and_the_rest_is_served_as_root") {
        return;
    }
    let cluster = Cluster::with(Topology::cluster(2, 2), &[]);
    cluster.apply(&shop(&cluster));
    cluster.write_file("not-yaml.yaml", "kind: [Service\n");
    cluster.write_file(
        "bad-address.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad-address, namespace: shop}\n\
         spec: {clusterIP: 300.1.2.3, clusterIPs: [300.1.2.3], ports: [{port: 80, protocol: TCP}]}\n",
    );
    cluster.write_file(
        "bad-port.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad-port, namespace: shop}\n\
         spec: {clusterIP: 172.30.0.77, clusterIPs: [172.30.0.77], ports: [{port: 99999, protocol: TCP}]}\n",
    );
    let status = cluster.eventually_status(0, "bad objects are named", |status| {
        let problems = status["problems"].to_string();
        ["not-yaml.yaml", "bad-address", "bad-port"]
            .iter()
            .all(|name| problems.contains(name))
    });
    for problem in status["problems"].as_array().expect("a list") {
        assert!(
            problem["message"].as_str().is_some_and(|m| m.len() > 20),
            "{problem}"
        );
    }
    everything(&cluster);

    // The same for people.
    let (text, done) = cluster.agent(0, &["status"]);
    assert!(done, "{text}");
    for words in [
        "on node node1: running (pid ",
        "generation live: ",
        "(complete)",
        "devices (tcx, hook ",
        "  eth0: ",
        "ingress uplink_in, egress uplink_out",
        "  veth0: ingress pod_in, egress pod_out",
        "  lb0: egress host_out",
        "shop/shop:tcp TCP: ",
        "ClusterIp 172.30.0.10:80",
        "backends 2 cluster, 0 local",
        "problem: ",
        "bad-address",
    ] {
        assert!(text.contains(words), "{words:?} is missing:\n{text}");
    }
    let status = cluster.status(0);
    assert_eq!(status["alive"], true);
    assert_eq!(status["node"], "node1");
    assert_eq!(status["services"].as_array().map(Vec::len), Some(4), "{status:#}");
    assert_eq!(status["failed_writes"], serde_json::json!([]), "{status:#}");
    assert_eq!(status["failures"], serde_json::json!([]), "{status:#}");
}

#[test]
fn reverse_path_filters_of_any_kind_do_not_hinder_as_root() {
    if !possible("reverse_path_filters_of_any_kind_do_not_hinder_as_root") {
        return;
    }
    let cluster = Cluster::with(Topology::cluster(2, 2).netfilter(Netfilter::None), &[]);
    cluster.apply(&shop(&cluster));
    for mode in ["1", "2", "0"] {
        for node in ["node1", "node2"] {
            let node = cluster.lab.at(node).expect("it is there");
            let setting = format!("net.ipv4.conf.all.rp_filter={mode}");
            node.output(&["sysctl", "-w", &setting]).expect("it can be set");
        }
        everything(&cluster);
    }
}
