//! Namespaces, devices, addresses and routes of a scenario's lab, as lists of `ip` commands.

use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr};

use anyhow::{Context as _, Result};
use lb_lab::{Cable, Cidr, End, Family, Wired, Wiring};

use super::{FABRIC, Layout, OUTSIDE, Owner, PEERS, SELF, SERVICE_CIDRS, UPLINK, owner, pod_place};
use crate::format::{Case, Node};

/// The gateway of everybody, on whatever link: of pods their node, of nodes and clients the fabric.
const GATEWAY: [&str; 2] = ["169.254.1.1", "fe80::1"];
/// The way from the fabric to addresses that `peers` has besides those of nodes.
const PEERS_LINK: [&str; 2] = ["169.254.1.2", "fe80::2"];
/// Hardware address of the node's end of every pod's pair; pods know it as their gateway's.
const GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";
/// The fabric's routes for what comes from outside.
const FROM_OUTSIDE: u16 = 100;

/// Appends one command.
macro_rules! ip {
    ($commands:expr, $($format:tt)*) => { writeln!($commands, $($format)*).expect("writing to a String succeeds") };
}

/// What all places need to know.
struct Plan<'a> {
    layout: &'a Layout,
    nodes: Vec<Node>,
    /// The primary addresses of `self`, at most one of each family.
    own: Vec<IpAddr>,
}

pub(super) fn wiring(case: &Case, layout: &Layout, tag: &str) -> Result<Wiring> {
    let nodes = owner::nodes(case);
    let own = nodes.first().context("there are no nodes")?;
    let mut primary: Vec<IpAddr> = Vec::new();
    for ip in owner::node_ips(own) {
        if !primary.iter().any(|known| Family::of(*known) == Family::of(ip)) {
            primary.push(ip);
        }
    }
    let plan = Plan {
        layout,
        own: primary,
        nodes,
    };
    let place = |name: &str, router: bool, commands: String| Wired {
        name: name.into(),
        router,
        commands,
        ..Wired::default()
    };
    let mut fabric = place(FABRIC, true, plan.fabric()?);
    fabric.rules = fabric_rules();
    let mut places = vec![
        Wired {
            cgroup: Some(SELF.into()),
            ..place(SELF, true, plan.own_node()?)
        },
        place(PEERS, false, plan.peers()?),
        place(OUTSIDE, false, plan.outside()),
        fabric,
    ];
    let cable = |place: &str, device: &str| Cable {
        ends: [End::new(place, UPLINK), End::new(FABRIC, device)],
    };
    let mut cables = vec![cable(SELF, "n0"), cable(PEERS, "n1"), cable(OUTSIDE, "c0")];
    for (number, ip) in layout.pods.iter().enumerate() {
        let name = pod_place(number);
        places.push(Wired {
            cgroup: Some(SELF.into()),
            ..place(&name, false, pod(*ip))
        });
        let inside = End::new(&name, UPLINK);
        let outside = End {
            mac: Some(GATEWAY_MAC.into()),
            ..End::new(SELF, &pod_device(number))
        };
        cables.push(Cable {
            ends: [inside, outside],
        });
    }
    Ok(Wiring {
        tag: tag.into(),
        places,
        cables,
    })
}

/// What programs at the node's XDP hook need of the devices that they deal with: whole checksums in what comes from
/// the fabric, as from any real network; a fabric that takes frames sent back; pods that take frames sent to them.
pub(super) fn suit_xdp(wiring: &mut Wiring) {
    for place in &mut wiring.places {
        match &*place.name {
            FABRIC => {
                place.offloads = "n0 tx off\n".into();
                place.accept_xdp = vec!["n0".into()];
            }
            PEERS | OUTSIDE => {}
            _ => place.offloads = format!("{UPLINK} gro on\n"),
        }
    }
}

/// The node's device of the pod of this number.
pub(crate) fn pod_device(number: usize) -> String {
    format!("veth{number}")
}

fn by_family(both: [&str; 2], family: Family) -> &str {
    match family {
        Family::V4 => both[0],
        Family::V6 => both[1],
    }
}

fn nodad(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { " nodad" } else { "" }
}

/// Length of the nodes' common range.
fn subnet(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 24 } else { 64 }
}

fn default_routes(commands: &mut String) {
    for gateway in GATEWAY {
        ip!(commands, "route add default via {gateway} dev {UPLINK} onlink");
    }
}

fn pod(ip: IpAddr) -> String {
    let mut commands = String::from("link set lo up\nlink set eth0 up\n");
    ip!(commands, "addr add {} dev eth0{}", Cidr::host(ip), nodad(ip));
    let gateway = by_family(GATEWAY, Family::of(ip));
    ip!(
        commands,
        "neigh add {gateway} lladdr {GATEWAY_MAC} dev eth0 nud permanent"
    );
    ip!(commands, "route add default via {gateway} dev eth0 onlink");
    commands
}

/// What comes from outside is led by a table of its own, before the fabric looks for it among its own addresses.
fn fabric_rules() -> String {
    format!("rule add pref 10 iif c0 lookup {FROM_OUTSIDE}\nrule add pref 20 lookup local\nrule del pref 0\n")
}

impl Plan<'_> {
    fn all(&self, owner: Owner) -> impl Iterator<Item = IpAddr> {
        let owners = self.layout.owners.iter();
        owners.filter(move |(_, o)| **o == owner).map(|(ip, _)| *ip)
    }

    /// The address of `self` in the family of `ip`.
    fn own(&self, ip: IpAddr) -> Option<IpAddr> {
        let same = |own: &&IpAddr| Family::of(**own) == Family::of(ip);
        self.own.iter().find(same).copied()
    }

    /// What others send to `self` because nobody has it, and Services' ranges.
    fn led_to_self(&self) -> Result<BTreeSet<String>> {
        let mut led: BTreeSet<_> = self
            .all(Owner::Nobody)
            .map(|ip| Cidr::host(ip).to_string())
            .collect();
        led.extend(SERVICE_CIDRS.map(str::to_owned));
        Ok(led)
    }

    fn own_node(&self) -> Result<String> {
        let mut commands = String::from("link set lo up\nlink set eth0 up\n");
        for ip in self.all_of_self() {
            ip!(commands, "addr add {ip}/{} dev eth0{}", subnet(ip), nodad(ip));
        }
        default_routes(&mut commands);
        for node in self.nodes.iter().filter(|node| !node.is_self) {
            let ips: Vec<_> = owner::node_ips(node).collect();
            for cidr in owner::pod_cidrs(node)? {
                let via = ips.iter().find(|ip| Family::of(**ip) == cidr.family());
                if let Some(via) = via {
                    ip!(commands, "route add {cidr} via {via} dev eth0 onlink");
                }
            }
        }
        for (number, pod) in self.layout.pods.iter().enumerate() {
            let device = pod_device(number);
            ip!(commands, "link set {device} up");
            ip!(commands, "addr add {}/64 dev {device} nodad", GATEWAY[1]);
            let source = self.own(*pod).map(|own| format!(" src {own}"));
            ip!(
                commands,
                "route add {} dev {device}{}",
                Cidr::host(*pod),
                source.unwrap_or_default()
            );
        }
        Ok(commands)
    }

    /// In the order of the scenario: the first of a family is the primary one.
    fn all_of_self(&self) -> Vec<IpAddr> {
        self.nodes.iter().take(1).flat_map(owner::node_ips).collect()
    }

    fn peers(&self) -> Result<String> {
        let mut commands = String::from("link set lo up\nlink set eth0 up\n");
        let others = self.nodes.iter().skip(1);
        let nodes: BTreeSet<_> = others.flat_map(owner::node_ips).collect();
        for ip in &nodes {
            ip!(commands, "addr add {ip}/{} dev eth0{}", subnet(*ip), nodad(*ip));
        }
        ip!(commands, "addr add {}/32 dev eth0", PEERS_LINK[0]);
        ip!(commands, "addr add {}/64 dev eth0 nodad", PEERS_LINK[1]);
        for pod in self.all(Owner::Peer).filter(|ip| !nodes.contains(ip)) {
            ip!(commands, "addr add {} dev lo{}", Cidr::host(pod), nodad(pod));
        }
        default_routes(&mut commands);
        let pods = self.nodes.iter().take(1).map(owner::pod_cidrs);
        let pods = pods.collect::<Result<Vec<_>>>()?.concat();
        let led = self.led_to_self()?;
        // Answers to clients outside go back the way they came: what is translated on `self` without its address
        // as the source is seen to work, too.
        let outside = self.all(Owner::Outside).map(|ip| Cidr::host(ip).to_string());
        for range in pods.iter().map(ToString::to_string).chain(led).chain(outside) {
            if let Some(own) = self.own(range.parse::<Cidr>()?.addr) {
                ip!(commands, "route add {range} via {own} dev eth0 onlink");
            }
        }
        Ok(commands)
    }

    fn outside(&self) -> String {
        let mut commands = String::from("link set lo up\nlink set eth0 up\n");
        for ip in self.all(Owner::Outside) {
            ip!(commands, "addr add {} dev eth0{}", Cidr::host(ip), nodad(ip));
        }
        default_routes(&mut commands);
        commands
    }

    fn fabric(&self) -> Result<String> {
        let mut commands = String::from("link set lo up\nlink add br0 type bridge mcast_snooping 0\n");
        ip!(commands, "link set n0 master br0 up\nlink set n1 master br0 up");
        ip!(commands, "link set br0 up\nlink set c0 up");
        for device in ["br0", "c0"] {
            ip!(commands, "addr add {}/32 dev {device}", GATEWAY[0]);
            ip!(commands, "addr add {}/64 dev {device} nodad", GATEWAY[1]);
        }
        for ip in self.all(Owner::Outside) {
            ip!(commands, "route add {} dev c0", Cidr::host(ip));
        }
        let nodes: BTreeSet<_> = self.nodes.iter().flat_map(owner::node_ips).collect();
        for ip in &nodes {
            ip!(commands, "route add {} dev br0", Cidr::host(*ip));
        }
        for ip in self.all(Owner::Peer).filter(|ip| !nodes.contains(ip)) {
            let via = by_family(PEERS_LINK, Family::of(ip));
            ip!(commands, "route add {} via {via} dev br0 onlink", Cidr::host(ip));
        }
        for ip in self.all(Owner::OwnPod) {
            if let Some(own) = self.own(ip) {
                ip!(commands, "route add {} via {own} dev br0 onlink", Cidr::host(ip));
            }
        }
        for ip in self.all(Owner::Nobody) {
            ip!(commands, "addr add {} dev lo{}", Cidr::host(ip), nodad(ip));
        }
        for range in self.led_to_self()? {
            if let Some(own) = self.own(range.parse::<Cidr>()?.addr) {
                ip!(
                    commands,
                    "route add {range} via {own} dev br0 onlink table {FROM_OUTSIDE}"
                );
            }
        }
        Ok(commands)
    }
}
