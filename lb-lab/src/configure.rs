//! Turns a topology into namespaces: the order of steps, with as few processes as possible.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;

use crate::{
    addr::Dual,
    bpf, cgroup, cleanup, links, netfilter,
    netns::{Netns, ip_batch},
    pins,
    place::Place,
    podnet, ready,
    topology::{AddressPlan, FABRIC, Netfilter, Topology},
};

/// For every namespace. IPv6 addresses are usable at once; nobody asks for routers; refusals are not rationed
/// (the kernel's default of one ICMP error a second would turn most refusals of a probe into silence).
pub(crate) const EVERYWHERE: &[(&str, &str)] = &[
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
];

/// For namespaces that route.
pub(crate) const ROUTER: &[(&str, &str)] = &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// Builds everything; returns the places by name. Removing what a failure leaves is the caller's part.
pub(crate) fn build(topology: &Topology, prefix: &str) -> Result<BTreeMap<String, Place>> {
    let full = |name: &str| format!("{prefix}{name}");
    let names = names(topology);
    let mut batch = links::Batch::default();
    for (name, _) in &names {
        links::ip!(batch, "netns add {}", full(name));
    }
    ip_batch(&[], batch.text())?;
    let mut places = BTreeMap::new();
    let folder: Arc<Path> = cleanup::folder(prefix).into();
    let mut cgroups = BTreeMap::new();
    for node in &topology.nodes {
        let cgroup = cgroup::make(&full(&node.name));
        let pods = node.pods.iter().map(|pod| pod.name.as_str());
        cgroups.extend(
            pods.chain([node.name.as_str()])
                .map(|name| (name, cgroup.clone())),
        );
    }
    for (name, addr) in names {
        let cgroup = cgroups.get(name).cloned().flatten();
        let netns = Netns::open(&full(name))?.with_cgroup(cgroup);
        places.insert(name.into(), Place::new(name, addr, netns, Arc::clone(&folder)));
    }
    // Before any device is made: a device takes over the defaults when it appears.
    for place in places.values() {
        place.netns().sysctls(&sysctls(topology, place.name()))?;
    }
    ip_batch(&[], links::pairs(topology, full).text())?;
    let run = |name: &str, options: &[&str], batch: &links::Batch| {
        ip_batch(&[options, &["-n", &full(name)]].concat(), batch.text())
    };
    run(FABRIC, &[], &links::fabric(topology))?;
    for family in ["-4", "-6"] {
        run(FABRIC, &[family], &links::fabric_rules(topology))?;
    }
    for client in &topology.clients {
        run(&client.name, &[], &links::client(topology, client))?;
    }
    for node in &topology.nodes {
        run(&node.name, &[], &links::node(topology, node))?;
        let netns = places[&node.name].netns();
        let forwarding = podnet::forwarding(topology, node);
        if !forwarding.text().is_empty() {
            netns.feed(&["bridge", "-batch", "-"], forwarding.text())?;
        }
        netfilter::apply(topology, node, netns)?;
    }
    for (node, pod) in topology.pods() {
        run(&pod.name, &[], &podnet::pod(topology, node, pod))?;
    }
    offloads(topology, &places)?;
    if topology.xdp {
        accept_xdp(prefix, &places[FABRIC], fabric_ports(topology))?;
    }
    for (name, place) in &places {
        // A bridge without ports never gets a carrier.
        let no_pods = topology
            .nodes
            .iter()
            .any(|n| &n.name == name && n.pods.is_empty());
        let idle = if no_pods {
            "cni0"
        } else if topology.nodes.is_empty() {
            "br0"
        } else {
            ""
        };
        ready::wait(place.netns(), idle)?;
    }
    Ok(places)
}

fn names(topology: &Topology) -> Vec<(&str, Dual)> {
    let fabric = (FABRIC, topology.plan.underlay.nth(AddressPlan::FABRIC));
    let nodes = topology.nodes.iter().map(|n| (n.name.as_str(), n.addr));
    let pods = topology.pods().map(|(_, p)| (p.name.as_str(), p.addr));
    let clients = topology.clients.iter().map(|c| (c.name.as_str(), c.addr));
    std::iter::once(fabric)
        .chain(nodes)
        .chain(pods)
        .chain(clients)
        .collect()
}

/// Whether the kernel has the bridge's netfilter hooks.
pub(crate) fn has_bridge_netfilter() -> bool {
    Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()
}

fn sysctls(topology: &Topology, name: &str) -> Vec<(&'static str, &'static str)> {
    let mut settings = EVERYWHERE.to_vec();
    let node = topology.nodes.iter().any(|node| node.name == name);
    // A namespace starts with a copy of the machine's settings: always say which.
    let strict = node && topology.netfilter != Netfilter::None;
    let rp_filter = if strict { "1" } else { "0" };
    settings.extend([
        ("ipv4/conf/all/rp_filter", rp_filter),
        ("ipv4/conf/default/rp_filter", rp_filter),
    ]);
    if node || name == FABRIC {
        settings.extend_from_slice(ROUTER);
    }
    if has_bridge_netfilter() {
        let call = if node && topology.bridge_nf_call { "1" } else { "0" };
        settings.extend([
            ("bridge/bridge-nf-call-iptables", call),
            ("bridge/bridge-nf-call-ip6tables", call),
        ]);
    }
    settings
}

/// The fabric's ends of the nodes' uplinks.
fn fabric_ports(topology: &Topology) -> impl Iterator<Item = String> + '_ {
    let ports = topology.underlays().map(|underlay| underlay.port);
    ports.flat_map(|port| {
        topology
            .nodes
            .iter()
            .map(move |node| format!("{port}{}", node.index))
    })
}

/// Lets devices of a place take frames that a native XDP program at the other end sends back. The programs are
/// pinned: they go with the lab, not with this process.
pub(crate) fn accept_xdp(prefix: &str, place: &Place, devices: impl Iterator<Item = String>) -> Result<()> {
    let pins = pins::folder(&format!("{prefix}{}", place.name()))?;
    let devices: Vec<_> = devices.collect();
    place.netns().run(|| {
        for device in devices {
            let index = if_nametoindex(device.as_str()).with_context(|| format!("no device {device}"))?;
            bpf::pass_at_xdp(index, &pins.join(&device)).with_context(|| {
                format!(
                    "{device} of {} cannot have a program at its XDP hook",
                    place.name()
                )
            })?;
        }
        Ok(())
    })
}

/// Switches offloads that differ from what veth devices have.
fn offloads(topology: &Topology, places: &BTreeMap<String, Place>) -> Result<()> {
    let wanted = topology.offload;
    let mut changes: Vec<(&str, String, &str)> = Vec::new();
    let mut tx_off = |on: bool, place, device: String| {
        if !on {
            changes.push((place, device, "tx off"));
        }
    };
    for client in &topology.clients {
        tx_off(wanted.clients_tx, client.name.as_str(), "eth0".into());
    }
    for port in fabric_ports(topology) {
        tx_off(wanted.fabric_tx, FABRIC, port);
    }
    for (_, pod) in topology.pods() {
        tx_off(wanted.pods_tx, pod.name.as_str(), "eth0".into());
    }
    if wanted.gro {
        let nodes = topology.nodes.iter().map(|n| n.name.as_str());
        let pods = topology.pods().map(|(_, p)| p.name.as_str());
        changes.extend(
            nodes
                .chain(pods)
                .map(|place| (place, "eth0".to_owned(), "gro on")),
        );
    }
    let mut by_place: BTreeMap<&str, String> = BTreeMap::new();
    for (place, device, change) in changes {
        writeln!(by_place.entry(place).or_default(), "ethtool -K {device} {change}")?;
    }
    for (place, script) in by_place {
        places[place]
            .netns()
            .feed(&["sh", "-e"], &script)
            .context("is ethtool installed?")?;
    }
    Ok(())
}
