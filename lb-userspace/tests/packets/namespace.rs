//! A network namespace of the calling thread, with the devices, addresses and routes that the FIB look-ups of
//! the programs meet.
//!
//! Every device is one end of a veth pair; its peer has neither addresses nor IPv6, so that nothing but the
//! tests sends packets. The namespace ends with the thread.

use std::{fs, process::Command};

use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};

use crate::site::{Dev, GATEWAY, OTHER_NODE};

/// Addresses and routes. IPv6 addresses need no duplicate detection: there is nobody else.
const CONFIGURATION: &[&str] = &[
    "address add 192.0.2.10/24 dev up0",
    "address add 2001:db8:1::10/64 dev up0 nodad",
    "address add 198.18.1.10/24 dev up1",
    "address add 2001:db8:18:1::10/64 dev up1 nodad",
    "address add 198.18.2.10/24 dev up2",
    "address add 2001:db8:18:2::10/64 dev up2 nodad",
    "address add 10.244.3.1/24 dev tun0",
    "address add fd00:244:3::1/64 dev tun0 nodad",
    "route add default via 192.0.2.1 dev up0",
    "route add default via 2001:db8:1::1 dev up0",
    "route add 10.244.1.2/32 dev pod0",
    "route add fd00:244:1::2/128 dev pod0",
    "route add 10.244.1.3/32 dev pod1",
    "route add fd00:244:1::3/128 dev pod1",
    "route add 10.244.2.0/24 via 192.0.2.11 dev up0",
    "route add fd00:244:2::/64 via 2001:db8:1::11 dev up0",
    "route add 10.244.4.0/24 dev bare0",
    "route add fd00:244:4::/64 dev bare0",
    "route add 10.244.5.0/24 dev alien0",
    "route add fd00:244:5::/64 dev alien0",
    "route add 10.244.7.0/24 via 198.18.1.11 dev up1",
    "route add fd00:244:7::/64 via 2001:db8:18:1::11 dev up1",
    "route add 10.244.8.0/24 via 198.18.2.11 dev up2",
    "route add fd00:244:8::/64 via 2001:db8:18:2::11 dev up2",
    "route add 10.244.9.0/24 via 192.0.2.12 dev up0",
    "route add fd00:244:9::/64 via 2001:db8:1::12 dev up0",
    "route add 10.244.10.0/24 via 192.0.2.11 dev up0 mtu lock 1280",
    "route add fd00:244:10::/64 via 2001:db8:1::11 dev up0 mtu lock 1280",
    "route add unreachable 10.244.6.0/24",
    "route add unreachable fd00:244:6::/64",
];

/// Routers whose link addresses are known. There is one without, 192.0.2.12, which the quiet pod is behind.
const NEIGHBOURS: [(Dev, &str, &str, [u8; 6]); 4] = [
    (Dev::Up0, "192.0.2.1", "2001:db8:1::1", GATEWAY),
    (Dev::Up0, "192.0.2.11", "2001:db8:1::11", OTHER_NODE),
    (Dev::Up1, "198.18.1.11", "2001:db8:18:1::11", OTHER_NODE),
    (Dev::Up2, "198.18.2.11", "2001:db8:18:2::11", OTHER_NODE),
];

/// Moves the calling thread into a namespace with all of [`Dev::ALL`].
pub(crate) fn enter() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
    ip("link set lo up");
    for dev in Dev::ALL.iter().filter(|dev| **dev != Dev::Lo) {
        let name = dev.name();
        ip(&format!("link add {name} type veth peer name {name}x"));
        sysctl(&format!("ipv6/conf/{name}x/disable_ipv6"), "1");
        let [a, b, c, d, e, f] = dev.mac();
        ip(&format!(
            "link set {name} address {a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x}"
        ));
        ip(&format!("link set {name}x up"));
        ip(&format!("link set {name} up"));
    }
    // The FIB helper answers for routers only.
    sysctl("ipv4/conf/all/forwarding", "1");
    sysctl("ipv6/conf/all/forwarding", "1");
    for line in CONFIGURATION {
        ip(line);
    }
    for (dev, four, six, mac) in NEIGHBOURS {
        let [a, b, c, d, e, f] = mac;
        for address in [four, six] {
            ip(&format!(
                "neigh add {address} lladdr {a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x} dev {} nud permanent",
                dev.name()
            ));
        }
    }
}

/// Interface index of a device of the calling thread's namespace.
pub(crate) fn index(dev: Dev) -> u32 {
    if_nametoindex(dev.name()).expect("the namespace has this device")
}

fn ip(line: &str) {
    let family: &[&str] = if line.contains("::") { &["-6"] } else { &[] };
    let output = Command::new("ip")
        .args(family)
        .args(line.split(' '))
        .output()
        .expect("iproute2 is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {line}: {error}");
}

/// `/proc/sys/net` is that of the calling thread's namespace.
fn sysctl(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{name}"), value).unwrap_or_else(|error| panic!("{name}: {error}"));
}
