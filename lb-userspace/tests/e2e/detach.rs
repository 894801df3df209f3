//! After `lb-agent detach` nothing of it is left, and nothing is served.

use std::{collections::BTreeMap, fs};

use aya::programs::{SchedClassifier, TcAttachType};
use lb_lab::{Family, Netfilter, Proto, Signal, Topology};

use crate::{
    cluster::{Cluster, possible},
    reach::Address,
    rows::{Expect, Rows},
    service::Service,
};

const NODE_PORT: u16 = 30_080;

/// What is set on a node that the agent might change: devices, rules, routes, filters, settings.
fn state(cluster: &Cluster) -> BTreeMap<&'static str, String> {
    let node = cluster.lab.at("node1").expect("it is there");
    let commands: [(&str, &[&str]); 6] = [
        ("links", &["ip", "-br", "link"]),
        ("addresses", &["ip", "-br", "address"]),
        ("IPv4 routes", &["ip", "-4", "route", "show", "table", "all"]),
        ("IPv6 routes", &["ip", "-6", "route", "show", "table", "all"]),
        ("disciplines", &["tc", "qdisc"]),
        (
            "settings",
            &[
                "sysctl",
                "net.ipv4.ip_local_reserved_ports",
                "net.ipv4.conf.lo.accept_local",
                "net.ipv4.conf.all.send_redirects",
                "net.ipv4.conf.all.rp_filter",
            ],
        ),
    ];
    commands
        .into_iter()
        .map(|(what, argv)| (what, node.output(argv).expect("the command runs")))
        .collect()
}

/// How many programs hang on the devices of node1 by tcx.
pub(crate) fn programs(cluster: &Cluster) -> usize {
    let node = cluster.lab.at("node1").expect("it is there");
    let links = node.output(&["ip", "-br", "link"]).expect("ip runs");
    let devices: Vec<_> = links
        .lines()
        .filter_map(|line| line.split([' ', '@']).next())
        .collect();
    let count = |device: &str| -> anyhow::Result<usize> {
        let mut count = 0;
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            count += SchedClassifier::query_tcx(device, direction)?.1.len();
        }
        Ok(count)
    };
    node.netns()
        .run(|| devices.iter().map(|device| count(device)).sum())
        .expect("devices can be asked for their programs")
}

fn detaches(arguments: &[&str]) {
    // As the node was before any agent, but for what the kernel itself adds to a lab that is running.
    let topology = || Topology::cluster(2, 2).netfilter(Netfilter::Iptables);
    let mut cluster = Cluster::with(topology(), arguments);
    cluster.end_agent(0, Signal::SIGTERM);
    assert!(cluster.agent(0, &["detach"]).1);
    let before = state(&cluster);
    assert!(!before["links"].contains("lb0"), "{before:#?}");
    cluster.start_agent(0);
    cluster.wait_for_agent(0);

    let lab = &cluster.lab;
    let service = Service::new(lab, "shop", 10)
        .load_balancer(lab, 10, NODE_PORT)
        .with(lab, &["pod1-1", "pod2-1"]);
    cluster.apply(&service);
    let addresses = [Address::ClusterIp, Address::LoadBalancer, Address::External];
    let check = |cluster: &Cluster, expect: Expect<'static>| {
        let mut rows = Rows::new(cluster);
        for family in Family::BOTH {
            for address in addresses {
                let to = address.socket(cluster, family, 10, NODE_PORT);
                for from in ["client", "pod1-2", "node1"] {
                    rows.both(from, to, address, expect);
                }
            }
        }
        rows.check();
    };
    check(&cluster, Expect::From(&["pod1-1", "pod2-1"]));
    let during = state(&cluster);
    for what in ["links", "IPv4 routes", "IPv6 routes", "settings"] {
        assert_ne!(before[what], during[what], "{what}");
    }
    assert!(cluster.pins(0).exists());

    // A running agent is not detached under its own feet.
    let (said, done) = cluster.agent(0, &["detach"]);
    assert!(!done && said.contains("stop it first"), "{said}");
    cluster.end_agent(0, Signal::SIGTERM);
    check(&cluster, Expect::From(&["pod1-1", "pod2-1"]));
    let (said, done) = cluster.agent(0, &["detach"]);
    assert!(done, "{said}");
    assert_eq!(state(&cluster), before);
    assert_eq!(programs(&cluster), 0);
    assert!(!cluster.pins(0).exists(), "{}", cluster.pins(0).display());
    let left = cluster.lab.folder().join("node1-run");
    let left: Vec<_> = fs::read_dir(left).expect("the lab's folder is there").collect();
    assert!(left.is_empty(), "{left:?}");
    check(&cluster, Expect::Unserved);
    // Twice does no harm, and what is not the agent's still works.
    assert!(cluster.agent(0, &["detach"]).1);
    let pod = cluster
        .lab
        .at("pod2-1")
        .expect("it is there")
        .socket(Family::V4, crate::service::TARGET);
    assert!(cluster.probe("pod1-1", Proto::Tcp, pod, 4).all_answered());
}

#[test]
fn detach_leaves_nothing_behind_as_root() {
    if possible("detach_leaves_nothing_behind_as_root") {
        detaches(&[]);
    }
}

#[test]
fn detach_removes_clsact_filters_as_root() {
    if possible("detach_removes_clsact_filters_as_root") {
        detaches(&["--tc-attach", "clsact"]);
    }
}
