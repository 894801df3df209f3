//! Random worlds: a node's settings, and what happens to the objects of its cluster, step by step.

mod changes;
mod nodes;
mod services;
mod slices;

use std::net::IpAddr;

use lb_common::testing::chance::Chance;

use crate::{
    cluster::{Cluster, Event, Object},
    oracle::Settings,
    places,
};

/// A world.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// What it was made from, and what decides on batches, failures and questions.
    pub(crate) seed: u64,
    pub(crate) settings: Settings,
    /// How long addresses linger, in seconds.
    pub(crate) linger: u64,
    /// What happens before the first questions, before the second ones, and so on.
    pub(crate) steps: Vec<Vec<Event>>,
}

/// What worlds are made of. Everything is on, but for what the data path cannot do yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Switches {
    pub(crate) affinity: bool,
    pub(crate) source_ranges: bool,
    pub(crate) masquerade_all: bool,
    pub(crate) no_pod_detection: bool,
    pub(crate) external_ip_ranges: bool,
    /// Several Services claim the same place.
    pub(crate) conflicts: bool,
}

/// What is on.
pub(crate) const SWITCHES: Switches = Switches {
    affinity: true,
    source_ranges: true,
    masquerade_all: true,
    no_pod_detection: true,
    external_ip_ranges: true,
    conflicts: true,
};

/// What all objects of one world have in common.
pub(crate) struct Traits {
    /// Ports of different Services have the same numbers, so that they clash on shared addresses.
    pub(crate) clashing: bool,
}

/// How many Services there can be.
pub(crate) const SERVICES: u8 = 4;
/// How many slices a Service can have.
pub(crate) const SLICES: u8 = 4;

/// The world of a seed.
pub(crate) fn world(seed: u64) -> World {
    let chance = &mut Chance::new(seed, 1);
    let settings = settings(chance);
    let traits = Traits {
        clashing: SWITCHES.conflicts && chance.one_in(10),
    };
    let mut cluster = Cluster::default();
    let mut first = Vec::new();
    for node in 0..3 {
        if !chance.one_in(15) {
            first.push(Event::Put(nodes::node(chance, node)));
        }
    }
    for number in 0..=chance.below(usize::from(SERVICES)) as u8 {
        if !chance.one_in(12) {
            first.push(Event::Put(services::service(chance, &traits, number)));
        }
        for slice in 0..SLICES {
            if !chance.one_in(3) {
                first.push(Event::Put(slices::slice(chance, &first, number, slice)));
            }
        }
    }
    first.iter().for_each(|event| cluster.apply(event));
    let mut steps = vec![first];
    for _ in 0..chance.below(4) {
        let step = changes::changes(chance, &traits, &cluster);
        step.iter().for_each(|event| cluster.apply(event));
        steps.push(step);
    }
    for step in &mut steps {
        changes::repeat(chance, &traits, step);
    }
    World {
        seed,
        settings,
        linger: *chance.pick(&[0, 3600, 3600]),
        steps,
    }
}

fn settings(chance: &mut Chance) -> Settings {
    let lists: [&[&str]; 8] = [
        &[],
        &[],
        &[],
        &["192.168.1.0/24"],
        &["192.168.0.0/16", "2001:db8:0:2::/64"],
        &["10.0.0.0/8", "fd00::/8"],
        &["172.16.0.0/12", "2001:db8:ffff::/48"],
        &["2001:db8:0:1::2/128"],
    ];
    let nodeport_addresses = chance.pick(&lists).iter().map(ToString::to_string).collect();
    let ranges: [&[&str]; 2] = [&["198.51.100.1/32"], &["198.51.100.0/30", "2001:db8:e1b::/126"]];
    let limited = SWITCHES.external_ip_ranges && chance.one_in(6);
    let external_ip_ranges = if limited {
        chance.pick(&ranges).iter().map(ToString::to_string).collect()
    } else {
        Vec::new()
    };
    Settings {
        nodeport_addresses,
        external_ip_ranges,
        masquerade_all: SWITCHES.masquerade_all && chance.one_in(6),
        no_pod_detection: SWITCHES.no_pod_detection && chance.one_in(6),
    }
}

/// An address in any of the spellings that old objects may have.
fn spelled(chance: &mut Chance, ip: IpAddr) -> String {
    match ip {
        _ if !chance.one_in(6) => ip.to_string(),
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            match chance.below(3) {
                0 => format!("{a}.{b}.{c}.{d:03}"),
                1 => format!("{a:03}.{b:04}.{c}.{d}"),
                _ => format!("{a}.{b}.0{c}.{d}"),
            }
        }
        IpAddr::V6(v6) => {
            let words: Vec<String> = v6.segments().iter().map(|word| format!("{word:04X}")).collect();
            words.join(":")
        }
    }
}

fn label(chance: &mut Chance, one_in: usize, labels: &mut Vec<(String, String)>, name: &str) {
    if chance.one_in(one_in) {
        let value = if chance.one_in(2) { "" } else { "other" };
        labels.push((name.to_owned(), value.to_owned()));
    }
}

/// The last version of an object in `events`, if it has not been deleted since.
fn latest(events: &[Event], wanted: impl Fn(&Object) -> bool) -> Option<&Object> {
    events.iter().rev().find_map(|event| match event {
        Event::Put(object) if wanted(object) => Some(object),
        _ => None,
    })
}

/// The namespace of a Service.
fn namespace(service: u8) -> String {
    format!("ns{}", service % 2 + 1)
}

fn service_name(service: u8) -> String {
    // Same names in different namespaces are different Services.
    format!("svc{}", service / 2)
}

/// Where the endpoints of a slice are.
#[derive(Clone, Copy)]
enum Whereabouts {
    Any,
    Here,
    Elsewhere,
}

/// Any endpoint address of a family, and the node it is on.
fn endpoint_place(
    chance: &mut Chance,
    ipv6: bool,
    whereabouts: Whereabouts,
) -> (IpAddr, Option<&'static str>) {
    let pod = |chance: &mut Chance, n| chance.below(n) as u8 + 1;
    let roll = match whereabouts {
        Whereabouts::Any => chance.below(16),
        Whereabouts::Here => *chance.pick(&[0, 0, 0, 0, 0, 0, 14]),
        Whereabouts::Elsewhere => *chance.pick(&[7, 7, 7, 11, 11, 15]),
    };
    match roll {
        0..7 => (places::pod(0, pod(chance, 4), ipv6), Some(places::NODES[0])),
        7..11 => (places::pod(1, pod(chance, 3), ipv6), Some(places::NODES[1])),
        11..14 => (places::pod(2, pod(chance, 2), ipv6), Some(places::NODES[2])),
        14 => (places::node(0, ipv6), Some(places::NODES[0])),
        _ => (places::node(1, ipv6), Some(places::NODES[1])),
    }
}
