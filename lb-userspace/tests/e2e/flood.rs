//! A flood of first packets: it may displace others like it, never an established connection.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::testing::packet;
use lb_lab::{Cidr, Family, Netfilter, Proto, Shares, Topology};

use crate::{
    cluster::{Cluster, possible},
    load::Connections,
    reach::Address,
    service::{PORT, Service},
};

const NODE_PORT: u16 = 30_080;
/// Packets of the flood, for each family.
const FLOOD: u32 = 50_000;
/// Until new connections are all answered again.
const RECOVERY: Duration = Duration::from_secs(30);
/// Entries of a flow table: the flood alone would need twice its packets.
const FLOWS: u32 = 8192;

#[test]
fn established_connections_survive_a_syn_flood_as_root() {
    if !possible("established_connections_survive_a_syn_flood_as_root") {
        return;
    }
    let cluster = Cluster::with(
        Topology::cluster(2, 2).netfilter(Netfilter::None),
        &["--max-flows", &FLOWS.to_string()],
    );
    let lab = &cluster.lab;
    let service = Service::new(lab, "shop", 10)
        .load_balancer(lab, 10, NODE_PORT)
        .with(lab, &["pod1-1", "pod2-1"]);
    cluster.apply(&service);
    let ways: Vec<_> = Family::BOTH
        .iter()
        .flat_map(|family| {
            let at = |address: Address| address.socket(&cluster, *family, 10, NODE_PORT);
            [
                ("client", at(Address::LoadBalancer)),
                ("pod1-2", at(Address::ClusterIp)),
                ("node1", at(Address::ClusterIp)),
            ]
        })
        .collect();
    let mut idle = Connections::open(&cluster, &ways, 20);
    let client = lab.at("client").expect("it is there");
    let downloads: Vec<_> = ways
        .iter()
        .map(|(from, to)| {
            let place = lab.at(from).expect("it is there");
            place.stream(*to, 1_000_000).expect("the download begins")
        })
        .collect();
    for family in Family::BOTH {
        let to = Address::LoadBalancer.socket(&cluster, family, 10, NODE_PORT);
        let sent = client
            .send_all("eth0", frames(&cluster, family, to))
            .expect("frames can be sent");
        assert_eq!(sent, FLOOD);
    }
    let status = cluster.eventually_status(0, "the flood is counted", |status| {
        status["flow_entries"]
            .as_array()
            .is_some_and(|entries| entries.iter().all(|n| n.as_u64() > Some(u64::from(FLOWS) / 8)))
    });
    for entries in status["flow_entries"].as_array().expect("both families") {
        assert!(entries.as_u64() <= Some(FLOWS.into()), "{status:#}");
    }
    idle.assert_alive(&cluster, "after the flood");
    for download in downloads {
        download
            .wait_for_more(500_000, Duration::from_secs(5))
            .expect("the download goes on");
        assert_eq!(download.stop().error, None);
    }
    // The backends send their answers to the flood again for a while, and one machine is all of this network: new
    // connections need not be perfect at once, but soon.
    for (from, to) in &ways {
        for proto in Proto::BOTH {
            cluster.eventually_within(RECOVERY, from, proto, *to, 10, Shares::all_answered);
        }
    }
}

/// First packets from addresses beside the client's own, which nobody has.
fn frames(cluster: &Cluster, family: Family, to: SocketAddr) -> impl Iterator<Item = Vec<u8>> {
    let range: Cidr = cluster.lab.topology().plan.clients.of(family);
    let client = cluster.lab.at("client").expect("it is there");
    let [own, router] = macs(cluster);
    debug_assert!(range.contains(client.ip(family)));
    (0..FLOOD).map(move |number| {
        let number = u16::try_from(number % 50_000).expect("it is less than that");
        let source: IpAddr = range.nth(100 + number % 100);
        let mut syn = packet::tcp(
            SocketAddr::new(source, 1024 + number),
            SocketAddr::new(to.ip(), PORT),
        )
        .syn();
        (syn.source_mac, syn.destination_mac) = (own, router);
        syn.build()
    })
}

/// The client's hardware address, and that of the fabric's end.
fn macs(cluster: &Cluster) -> [[u8; 6]; 2] {
    [("client", "eth0"), (lb_lab::FABRIC, "c0")].map(|(place, device)| {
        let place = cluster.lab.at(place).expect("it is there");
        let text = place
            .output(&["ip", "-br", "link", "show", device])
            .expect("the device is there");
        let mac = text.split_whitespace().nth(2).expect("the third column");
        let bytes: Vec<_> = mac
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).expect("two digits"))
            .collect();
        bytes.try_into().expect("six bytes")
    })
}
