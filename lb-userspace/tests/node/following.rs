//! Facts of a real namespace, while its devices come and go.

use std::time::Duration;

use lb_common::abi::DeviceKind;
use lb_lab::{Lab, PodNetwork, Topology};
use lb_userspace::{
    model::NodeFacts,
    node::{Hints, watch},
};
use tokio::{sync::watch::Receiver, time::timeout};

use crate::scratch::Scratch;

/// The kinds of the devices with these names.
fn kind(facts: &NodeFacts, name: &str) -> Option<DeviceKind> {
    facts
        .devices
        .values()
        .find(|device| device.name == name)
        .map(|device| device.kind)
}

async fn until(
    facts: &mut Receiver<NodeFacts>,
    what: &str,
    condition: impl Fn(&NodeFacts) -> bool,
) -> NodeFacts {
    let found = timeout(Duration::from_secs(10), facts.wait_for(|facts| condition(facts))).await;
    let found = found.map(|found| found.unwrap().clone());
    found.unwrap_or_else(|_| panic!("waited in vain for: {what}; last seen: {:#?}", facts.borrow()))
}

fn hints() -> Hints {
    Hints {
        pod_cidrs: vec![
            "10.244.1.0/24".parse().unwrap(),
            "fd00:244:1::/64".parse().unwrap(),
        ],
        pod_devices: Hints::patterns(Hints::POD_DEVICES),
        ..Hints::default()
    }
}

#[test]
fn devices_are_followed_as_they_come_and_go_as_root() {
    let Some(ns) = Scratch::new("devices_are_followed_as_they_come_and_go_as_root") else {
        return;
    };
    ns.ip("link add up0 type veth peer name up1");
    ns.ip("address add 192.168.0.5/24 dev up0");
    ns.ip("address add 2001:db8::5/64 dev up0 nodad");
    ns.ip("link set up0 up");
    ns.ip("link set up1 up");
    ns.ip("route add default via 192.168.0.1");
    ns.run(async || {
        let (_hints, receiver) = tokio::sync::watch::channel(hints());
        let mut facts = watch(receiver).await.unwrap();
        let first = facts.borrow_and_update().clone();
        assert_eq!(kind(&first, "up0"), Some(DeviceKind::Uplink), "{first:#?}");
        assert_eq!(kind(&first, "lo"), Some(DeviceKind::Loopback));
        assert_eq!(
            first.node_ports,
            [
                "192.168.0.5".parse::<std::net::IpAddr>().unwrap(),
                "2001:db8::5".parse().unwrap()
            ]
        );
        let up0 = &first.devices[&ns.index("up0")];
        assert_eq!(
            (up0.snat4, up0.snat6),
            ("192.168.0.5".parse().ok(), "2001:db8::5".parse().ok())
        );
        assert_ne!(up0.mac, [0; 6]);

        // A pod that is routed to.
        ns.ip("link add p1 type veth peer name p1c");
        ns.ip("link set p1 up");
        ns.ip("route add 10.244.1.2/32 dev p1");
        ns.ip("-6 route add fd00:244:1::2/128 dev p1");
        until(&mut facts, "routed pod", |facts| {
            kind(facts, "p1") == Some(DeviceKind::Pod)
        })
        .await;
        ns.ip("link del p1");
        until(&mut facts, "routed pod gone", |facts| kind(facts, "p1").is_none()).await;

        // A bridge, a port of it, a port leaving it: the message for that is about the bridge, not the device.
        ns.ip("link add cni0 type bridge");
        ns.ip("address add 10.244.1.1/24 dev cni0");
        ns.ip("link set cni0 up");
        ns.ip("link add v1 type veth peer name v1c");
        ns.ip("link set v1 master cni0 up");
        let bridged = until(&mut facts, "bridge and port", |facts| {
            kind(facts, "v1") == Some(DeviceKind::BridgePort)
                && kind(facts, "cni0") == Some(DeviceKind::Bridge)
        })
        .await;
        let (port, bridge) = (
            &bridged.devices[&ns.index("v1")],
            &bridged.devices[&ns.index("cni0")],
        );
        assert_eq!(
            (port.bridge_mac, port.snat4),
            (bridge.mac, "10.244.1.1".parse().ok())
        );
        ns.ip("link set v1 nomaster");
        until(&mut facts, "port left", |facts| kind(facts, "v1").is_none()).await;

        // A tunnel.
        ns.ip("link add flannel.1 type vxlan id 1 dstport 8472 dev up0");
        ns.ip("address add 10.244.1.0/32 dev flannel.1");
        ns.ip("link set flannel.1 mtu 1450 up");
        ns.ip("route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink");
        let tunnelled = until(&mut facts, "tunnel", |facts| {
            kind(facts, "flannel.1") == Some(DeviceKind::Tunnel)
        })
        .await;
        let tunnel = &tunnelled.devices[&ns.index("flannel.1")];
        assert_eq!((tunnel.mtu, tunnel.snat4), (1450, "10.244.1.0".parse().ok()));

        // An address that goes, and with it its routes.
        ns.ip("address del 192.168.0.5/24 dev up0");
        until(&mut facts, "address gone", |facts| {
            !facts.own.contains(&"192.168.0.5".parse().unwrap())
        })
        .await;
    });
}

#[test]
fn new_hints_change_the_facts_as_root() {
    let Some(ns) = Scratch::new("new_hints_change_the_facts_as_root") else {
        return;
    };
    ns.ip("link add up0 type veth peer name up1");
    ns.ip("address add 192.168.0.5/24 dev up0");
    ns.ip("link add eth1 type veth peer name eth1p");
    ns.ip("address add 192.168.1.5/24 dev eth1");
    ns.run(async || {
        let (sender, receiver) = tokio::sync::watch::channel(hints());
        let mut facts = watch(receiver).await.unwrap();
        until(&mut facts, "both", |facts| {
            kind(facts, "eth1") == Some(DeviceKind::Uplink)
        })
        .await;
        let node_addresses = vec!["192.168.0.5".parse().unwrap()];
        sender
            .send(Hints {
                node_addresses,
                ..hints()
            })
            .unwrap();
        until(&mut facts, "the Node object's", |facts| {
            kind(facts, "eth1").is_none()
        })
        .await;
        assert_eq!(kind(&facts.borrow(), "up0"), Some(DeviceKind::Uplink));
    });
}

#[test]
fn burst_that_overflows_the_socket_loses_nothing_as_root() {
    let Some(ns) = Scratch::new("burst_that_overflows_the_socket_loses_nothing_as_root") else {
        return;
    };
    ns.ip("link add p1 type veth peer name p1c");
    ns.ip("link set p1 up");
    ns.run(async || {
        let (_sender, receiver) = tokio::sync::watch::channel(hints());
        let mut facts = watch(receiver).await.unwrap();
        // Nobody reads meanwhile: this runtime has one thread, and it is here. 4000 changes of some 100 bytes
        // (more than 700 in the kernel's accounting) are far more than a socket's default buffer.
        let commands: String = (0..2000)
            .flat_map(|_| ["route add 10.9.9.0/24 dev p1\n", "route del 10.9.9.0/24 dev p1\n"])
            .chain(["route add 10.244.1.2/32 dev p1\n"])
            .collect();
        let file = ns.directory().with_extension("").file_name().unwrap().to_owned();
        let batch = std::env::temp_dir().join(file);
        std::fs::write(&batch, commands).unwrap();
        ns.ip(&format!("-batch {}", batch.display()));
        std::fs::remove_file(&batch).unwrap();
        until(&mut facts, "pod after the burst", |facts| {
            kind(facts, "p1") == Some(DeviceKind::Pod)
        })
        .await;
    });
}

#[test]
fn pod_networks_of_the_lab_are_understood_as_root() {
    if !lb_lab::require_root("pod_networks_of_the_lab_are_understood_as_root") {
        return;
    }
    for (network, pod, others) in [
        (PodNetwork::Routed, DeviceKind::Pod, None),
        (
            PodNetwork::Tunnel,
            DeviceKind::Pod,
            Some(("vxlan0", DeviceKind::Tunnel)),
        ),
        (
            PodNetwork::Bridge,
            DeviceKind::BridgePort,
            Some(("cni0", DeviceKind::Bridge)),
        ),
    ] {
        let mut topology = Topology::cluster(2, 2);
        topology.tag = "nd".into();
        topology.network = network;
        let lab = Lab::build(&topology).unwrap();
        let node = lab.node("node1").unwrap();
        let pod_cidrs: Vec<_> = node
            .pod_cidr
            .both()
            .map(|range| format!("{}/{}", range.addr, range.len).parse().unwrap())
            .into();
        let node_addresses: Vec<std::net::IpAddr> = vec![node.addr.v4.into(), node.addr.v6.into()];
        for known_addresses in [node_addresses.clone(), Vec::new()] {
            let hints = Hints {
                node_addresses: known_addresses,
                pod_cidrs: pod_cidrs.clone(),
                ..hints()
            };
            let facts = lab.at("node1").unwrap().netns().run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                let (_sender, receiver) = tokio::sync::watch::channel(hints.clone());
                Ok(runtime.block_on(watch(receiver))?.borrow().clone())
            });
            let facts = facts.unwrap();
            assert_eq!(
                kind(&facts, "eth0"),
                Some(DeviceKind::Uplink),
                "{network:?}: {facts:#?}"
            );
            for pod_spec in &node.pods {
                assert_eq!(
                    kind(&facts, &pod_spec.host_device),
                    Some(pod),
                    "{network:?}: {facts:#?}"
                );
            }
            if let Some((name, expected)) = others {
                assert_eq!(kind(&facts, name), Some(expected), "{network:?}: {facts:#?}");
            }
            assert_eq!(
                facts.devices.len(),
                4 + usize::from(others.is_some()),
                "{network:?}: {facts:#?}"
            );
            assert_eq!(facts.node_ports, node_addresses, "{network:?}");
            let ranges: Vec<_> = node.pod_cidr.both().map(|range| (range.addr, range.len)).into();
            assert_eq!(facts.pods, ranges, "{network:?}");
        }
    }
}
