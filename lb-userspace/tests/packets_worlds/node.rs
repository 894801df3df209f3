//! This node's devices: a network namespace for the look-ups of the programs, and the same as the agent's
//! snapshot of it.

use std::{fs, net::IpAddr, process::Command};

use lb_userspace::node::{Address, DeviceOverride, Link, LinkKind, Prefix, Route, Snapshot};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};

use crate::places;

/// A device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Dev {
    Lo,
    Up0,
    Tun0,
    Lb0,
    /// A pod's, by number.
    Pod(u8),
    /// The bridge.
    Br0,
    /// Its port, behind which a pod is.
    Port0,
}

impl Dev {
    pub(crate) const ALL: [Self; 9] = [
        Self::Lo,
        Self::Up0,
        Self::Tun0,
        Self::Lb0,
        Self::Pod(1),
        Self::Pod(2),
        Self::Pod(3),
        Self::Br0,
        Self::Port0,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lo => "lo",
            Self::Up0 => "up0",
            Self::Tun0 => "tun0",
            Self::Lb0 => "lb0",
            Self::Pod(1) => "pod1",
            Self::Pod(2) => "pod2",
            Self::Pod(_) => "pod3",
            Self::Br0 => "br0",
            Self::Port0 => "port0",
        }
    }

    /// The device of a pod of this node.
    pub(crate) const fn of_pod(pod: u8) -> Self {
        if pod == places::BRIDGED {
            Self::Port0
        } else {
            Self::Pod(pod)
        }
    }

    const fn kind(self) -> LinkKind {
        match self {
            Self::Lo => LinkKind::Loopback,
            Self::Up0 => LinkKind::Other,
            Self::Tun0 => LinkKind::Tunnel,
            Self::Br0 => LinkKind::Bridge,
            Self::Lb0 | Self::Pod(_) | Self::Port0 => LinkKind::Pair,
        }
    }

    const fn mac(self) -> [u8; 6] {
        match self {
            Self::Lo => [0; 6],
            Self::Up0 => [2, 0xde, 0, 0, 0, 1],
            Self::Tun0 => [2, 0xde, 0, 0, 0, 2],
            Self::Lb0 => [2, 0xde, 0, 0, 0, 3],
            Self::Br0 => [2, 0xde, 0, 0, 0, 4],
            Self::Port0 => [2, 0xde, 0, 0, 0, 5],
            Self::Pod(pod) => [2, 0xde, 0, 0, 1, pod],
        }
    }

    /// Interface index in the calling thread's namespace.
    pub(crate) fn index(self) -> u32 {
        if_nametoindex(self.name()).expect("the namespace has this device")
    }
}

/// Addresses of devices, with the length of what is on the link.
fn addresses() -> Vec<(Dev, IpAddr, u8)> {
    let mut all = Vec::new();
    for ipv6 in [false, true] {
        let (link, host) = if ipv6 { (64, 128) } else { (24, 32) };
        all.push((Dev::Up0, places::node(0, ipv6), link));
        all.push((Dev::Up0, places::secondary(ipv6), link));
        all.push((Dev::Tun0, places::tunnel_end(ipv6), host));
        all.push((Dev::Br0, places::bridge(ipv6), host));
    }
    all
}

/// Routes: destination, router, device.
fn routes() -> Vec<(String, Option<IpAddr>, Dev)> {
    let mut all = Vec::new();
    for ipv6 in [false, true] {
        let everything = if ipv6 { "::/0" } else { "0.0.0.0/0" };
        let host = if ipv6 { 128 } else { 32 };
        let gateway = if ipv6 { "2001:db8:0:1::ff" } else { "192.168.0.254" };
        all.push((everything.to_owned(), gateway.parse().ok(), Dev::Up0));
        for pod in places::PODS {
            let dev = if pod == places::BRIDGED {
                Dev::Br0
            } else {
                Dev::of_pod(pod)
            };
            all.push((format!("{}/{host}", places::pod(0, pod, ipv6)), None, dev));
        }
        all.push((places::pod_cidr(1, ipv6), Some(places::node(1, ipv6)), Dev::Up0));
        all.push((places::pod_cidr(2, ipv6), None, Dev::Tun0));
    }
    all
}

/// Moves the calling thread into a namespace with all of [`Dev::ALL`]; it ends with the thread.
pub(crate) fn enter() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
    ip("link set lo up");
    for dev in Dev::ALL.iter().filter(|dev| **dev != Dev::Lo) {
        let name = dev.name();
        ip(&format!("link add {name} type veth peer name {name}x"));
        sysctl(&format!("ipv6/conf/{name}x/disable_ipv6"), "1");
        ip(&format!("link set {name}x up"));
        ip(&format!("link set {name} up"));
    }
    // The FIB helper answers for routers only.
    sysctl("ipv4/conf/all/forwarding", "1");
    sysctl("ipv6/conf/all/forwarding", "1");
    for (dev, address, length) in addresses() {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        ip(&format!(
            "address add {address}/{length} dev {}{nodad}",
            dev.name()
        ));
    }
    for (to, router, dev) in routes() {
        let via = router.map(|router| format!(" via {router}")).unwrap_or_default();
        ip(&format!("route add {to}{via} dev {}", dev.name()));
    }
    // XDP sends only to neighbours that are known.
    for ipv6 in [false, true] {
        let gateway = if ipv6 { "2001:db8:0:1::ff" } else { "192.168.0.254" };
        let neighbours = [gateway.to_owned(), places::node(1, ipv6).to_string()];
        for neighbour in neighbours {
            ip(&format!(
                "neighbour replace {neighbour} lladdr 02:00:00:00:00:fe dev up0 nud permanent"
            ));
        }
    }
}

/// What the agent would have read of it.
pub(crate) fn snapshot() -> Snapshot {
    let links = Dev::ALL.iter().map(|dev| Link {
        index: dev.index(),
        name: dev.name().to_owned(),
        kind: dev.kind(),
        mac: dev.mac(),
        mtu: 1500,
        controller: (*dev == Dev::Port0).then(|| Dev::Br0.index()),
    });
    let mut seen = Vec::new();
    let addresses = addresses().into_iter().map(|(dev, address, prefix_length)| {
        let first = !seen.contains(&(dev, address.is_ipv6()));
        seen.push((dev, address.is_ipv6()));
        Address {
            device: dev.index(),
            address,
            prefix_length,
            global: true,
            usable: true,
            preferred: first,
        }
    });
    let addresses: Vec<Address> = addresses.collect();
    let routes = routes().into_iter().map(|(to, router, dev)| Route {
        destination: to.parse::<Prefix>().expect("the table of routes has prefixes"),
        device: dev.index(),
        gateway: router.is_some(),
        metric: 0,
        main: true,
    });
    Snapshot {
        links: links.collect(),
        addresses,
        routes: routes.collect(),
        ..Snapshot::default()
    }
}

/// What the operator says of the devices.
pub(crate) fn overrides() -> Vec<DeviceOverride> {
    let texts = [
        "up0=uplink",
        "tun0=tunnel",
        "pod*=pod",
        "br0=bridge",
        "port0=bridge-port",
    ];
    let parsed = texts.map(|text| text.parse().expect("the list of devices is right"));
    parsed.to_vec()
}

fn ip(line: &str) {
    let family: &[&str] = if line.contains(':') && !line.contains("lladdr") || line.contains("2001:") {
        &["-6"]
    } else {
        &[]
    };
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
