//! `lb0`, its routes, and that nothing is left of them.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::abi::DeviceKind;
use lb_userspace::{
    model::{DeviceFacts, NodeFacts},
    node::{
        PortSet, Sysctls,
        host::{self, Host, Options},
    },
};

use crate::scratch::Scratch;

const PORTS: &str = "ipv4/ip_local_reserved_ports";

fn options() -> Options {
    Options {
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
        snat_ports: 61000..=65535,
        sysctls: Sysctls::default(),
    }
}

fn facts(bridges: &[&str]) -> NodeFacts {
    let device = |name: &str, kind| DeviceFacts {
        name: name.into(),
        kind,
        mac: [0; 6],
        bridge_mac: [0; 6],
        mtu: 1450,
        snat4: "192.168.0.5".parse().ok(),
        snat6: "2001:db8::5".parse().ok(),
        takes_xdp: false,
    };
    let mut devices = BTreeMap::from([(1000, device("up0", DeviceKind::Uplink))]);
    devices.extend((2000..).zip(bridges.iter().map(|name| device(name, DeviceKind::Bridge))));
    let own: Vec<IpAddr> = vec!["192.168.0.5".parse().unwrap(), "2001:db8::5".parse().unwrap()];
    NodeFacts {
        devices,
        node_ports: own.clone(),
        own,
        pods: Vec::new(),
        translated: Vec::new(),
        masqueraded: Vec::new(),
    }
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

fn namespace(test: &str) -> Option<Scratch> {
    let ns = Scratch::new(test)?;
    ns.ip("link add up0 type veth peer name up1");
    ns.ip("address add 192.168.0.5/24 dev up0");
    ns.ip("address add 2001:db8::5/64 dev up0 nodad");
    ns.ip("link set up0 up");
    ns.ip("link set up1 up");
    Some(ns)
}

#[track_caller]
fn check_routes(ns: &Scratch, expected: &[&str]) {
    let show = |family: &str| ns.ip(&format!("{family} route show table all dev lb0 proto 108"));
    let routes = show("-4") + &show("-6");
    let mut routes: Vec<&str> = routes.lines().map(str::trim).collect();
    routes.sort_unstable();
    assert_eq!(routes, expected);
}

#[test]
fn lb0_carries_service_addresses_and_nothing_remains_of_it_as_root() {
    let Some(ns) = namespace("lb0_carries_service_addresses_and_nothing_remains_of_it_as_root") else {
        return;
    };
    ns.set(PORTS, "8080,61000-61009");
    ns.ip("link add cni0 type bridge");
    ns.set("ipv4/ip_forward", "1");
    ns.ip("route add default via 192.168.0.1");
    let (ports, accept, redirects) = (
        ns.setting(PORTS),
        ns.setting("ipv4/conf/lo/accept_local"),
        ns.setting("ipv4/conf/all/send_redirects"),
    );
    let routes = || {
        let all = [
            "-4 route show table all",
            "-6 route show table all",
            "-4 rule",
            "-6 rule",
        ];
        all.map(|words| ns.ip(words)).concat()
    };
    let before = routes();

    ns.run(async || {
        let mut host = Host::ensure(options()).await.unwrap();
        assert_eq!(host.index(), ns.index("lb0"));
        let errors = host
            .sync(
                addresses(&["10.96.0.1", "192.0.2.10", "2001:db8:1::1"]),
                &facts(&["cni0"]),
            )
            .await;
        assert!(errors.is_empty(), "{errors:?}");
        let link = ns.ip("-d link show lb0");
        assert!(
            link.contains("NOARP") && link.contains(",UP") && link.contains("addrgenmode none"),
            "{link}"
        );
        assert!(link.contains("mtu 1450"), "{link}");
        assert_eq!(
            ns.ip("-6 address show dev lb0"),
            "",
            "no address, so none is ever local"
        );
        check_routes(
            &ns,
            &[
                "10.96.0.0/12 scope link src 192.168.0.5",
                "192.0.2.10 table 108 scope link src 192.168.0.5",
                "2001:db8:1::1 table 108 src 2001:db8::5 metric 1 pref medium",
                "fd00:96::/112 src 2001:db8::5 metric 1 pref medium",
            ],
        );
        assert_eq!(ns.setting(PORTS), "8080,61000-65535");
        assert_eq!(ns.setting("ipv4/conf/lo/accept_local"), "1");
        assert_eq!(ns.setting("ipv4/conf/cni0/send_redirects"), "0");
        let way = ns.ip("route get 10.96.0.1");
        assert!(way.contains("dev lb0 src 192.168.0.5"), "{way}");
        let way = ns.ip("route get 192.0.2.10");
        assert!(way.contains("dev lb0 table 108 src 192.168.0.5"), "{way}");
        let way = ns.ip("route get 192.0.2.10 from 192.168.0.77 iif up0");
        assert!(
            !way.contains("lb0"),
            "what is only forwarded does not see it: {way}"
        );

        // A process after it finds everything, and only the difference is written.
        let mut host = Host::ensure(options()).await.unwrap();
        let errors = host
            .sync(addresses(&["192.0.2.11", "2001:db8::5"]), &facts(&[]))
            .await;
        assert!(errors.is_empty(), "{errors:?}");
        check_routes(
            &ns,
            &[
                "10.96.0.0/12 scope link src 192.168.0.5",
                "192.0.2.11 table 108 scope link src 192.168.0.5",
                "fd00:96::/112 src 2001:db8::5 metric 1 pref medium",
            ],
        );

        host::remove(&Sysctls::default()).await.unwrap();
    });
    assert!(!ns.ip("link show").contains("lb0"));
    assert_eq!(routes(), before);
    assert_eq!(
        (
            ns.setting(PORTS),
            ns.setting("ipv4/conf/lo/accept_local"),
            ns.setting("ipv4/conf/all/send_redirects")
        ),
        (ports, accept, redirects)
    );
    ns.run(async || host::remove(&Sysctls::default()).await.unwrap());
}

#[test]
fn source_of_the_routes_follows_the_nodes_address_as_root() {
    let Some(ns) = namespace("source_of_the_routes_follows_the_nodes_address_as_root") else {
        return;
    };
    ns.ip("address add 192.168.0.6/24 dev up0");
    ns.ip("address add 2001:db8::6/64 dev up0 nodad");
    ns.run(async || {
        let mut host = Host::ensure(options()).await.unwrap();
        assert!(host.sync([], &facts(&[])).await.is_empty());
        let mut moved = facts(&[]);
        moved.own = addresses(&["192.168.0.6", "2001:db8::6"]);
        moved.node_ports = moved.own.clone();
        for device in moved.devices.values_mut() {
            (device.snat4, device.snat6) = ("192.168.0.6".parse().ok(), "2001:db8::6".parse().ok());
        }
        let errors = host.sync([], &moved).await;
        assert!(errors.is_empty(), "{errors:?}");
        check_routes(
            &ns,
            &[
                "10.96.0.0/12 scope link src 192.168.0.6",
                "fd00:96::/112 src 2001:db8::6 metric 1 pref medium",
            ],
        );
    });
}

#[test]
fn routes_and_devices_of_others_are_left_alone_as_root() {
    let Some(ns) = namespace("routes_and_devices_of_others_are_left_alone_as_root") else {
        return;
    };
    ns.ip("route add 10.96.0.0/12 dev up0");
    ns.ip("route add 192.0.2.10/32 dev up0");
    ns.run(async || {
        let mut host = Host::ensure(options()).await.unwrap();
        let errors = host
            .sync(addresses(&["192.0.2.10", "192.0.2.11"]), &facts(&[]))
            .await;
        let [error] = &errors[..] else {
            panic!("{errors:?}")
        };
        assert_eq!(
            error.to_string(),
            "cannot add route 10.96.0.0/12 dev lb0: does another route to it exist?"
        );
        check_routes(
            &ns,
            &[
                "192.0.2.10 table 108 scope link src 192.168.0.5",
                "192.0.2.11 table 108 scope link src 192.168.0.5",
                "fd00:96::/112 src 2001:db8::5 metric 1 pref medium",
            ],
        );
        host::remove(&Sysctls::default()).await.unwrap();
    });
    assert!(ns.ip("route show 192.0.2.10").contains("dev up0"));

    ns.ip("link add lb0 type bridge");
    let error = ns.run(async || Host::ensure(options()).await.unwrap_err().to_string());
    assert_eq!(
        error,
        "a device named lb0 exists and is not the agent's: rename or delete it"
    );
}

#[test]
fn node_ports_are_reserved_where_the_kernel_would_give_them_away_as_root() {
    let Some(ns) = namespace("node_ports_are_reserved_where_the_kernel_would_give_them_away_as_root") else {
        return;
    };
    ns.set("ipv4/ip_local_port_range", "32768\t60999");
    ns.set(PORTS, "8080,40002");
    let reserved = || ns.setting(PORTS).trim().to_owned();
    let ports = |list: &[u16]| list.iter().copied().collect::<PortSet>();
    ns.run(async || {
        let mut host = Host::ensure(options()).await.unwrap();
        assert_eq!(reserved(), "8080,40002,61000-65535");
        host.reserve(&ports(&[30_080, 32_767, 32_768, 40_000, 40_002]))
            .await
            .unwrap();
        assert_eq!(
            reserved(),
            "8080,32768,40000,40002,61000-65535",
            "those outside are not given away"
        );
        host.reserve(&ports(&[40_000])).await.unwrap();
        assert_eq!(reserved(), "8080,40000,40002,61000-65535");

        // A process after this one keeps them until it knows the Services.
        let mut host = Host::ensure(options()).await.unwrap();
        assert_eq!(reserved(), "8080,40000,40002,61000-65535");
        host.reserve(&ports(&[])).await.unwrap();
        assert_eq!(reserved(), "8080,40002,61000-65535");
        host.reserve(&ports(&[50_000])).await.unwrap();
        host::remove(&Sysctls::default()).await.unwrap();
        assert_eq!(reserved(), "8080,40002", "the administrator's stay");
    });
}
