//! A lab whose places, addresses and routes are given one by one, for networks that no [`crate::Topology`]
//! describes. Plain values; [`crate::Lab::wire`] builds them.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, sync::Arc};

use anyhow::{Context as _, Result, ensure};

use crate::{
    addr::Dual,
    cgroup, cleanup, configure, links,
    netns::{Netns, ip_batch},
    place::Place,
    ready,
};

/// What [`crate::Lab::wire`] builds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Wiring {
    /// Letters at the start of every name, as [`crate::Topology`]'s.
    pub tag: String,
    /// The namespaces.
    pub places: Vec<Wired>,
    /// The pairs of devices between them.
    pub cables: Vec<Cable>,
}

/// One namespace.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Wired {
    /// Its name in the lab.
    pub name: String,
    /// It passes packets on, also those of connections that end in it: routes decide, never a socket it has.
    pub router: bool,
    /// The place whose cgroup it is in; see [`crate::Lab::cgroup`].
    pub cgroup: Option<String>,
    /// Lines for `ip -batch`, run when the cables are there: addresses, routes, bridges.
    pub commands: String,
    /// Lines for `ip -4 -batch` and `ip -6 -batch`: routing rules.
    pub rules: String,
    /// Arguments for `ethtool -K`, one line each: `eth0 tx off`.
    pub offloads: String,
    /// Devices that take what a native XDP program at the other end sends back.
    pub accept_xdp: Vec<String>,
}

/// A pair of devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cable {
    /// Both ends.
    pub ends: [End; 2],
}

/// One end of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The place it is in.
    pub place: String,
    /// The device's name there.
    pub device: String,
    /// Its hardware address, if it matters.
    pub mac: Option<String>,
}

impl End {
    /// An end whose hardware address does not matter.
    pub fn new(place: &str, device: &str) -> Self {
        Self {
            place: place.into(),
            device: device.into(),
            mac: None,
        }
    }
}

impl Wiring {
    /// Whether a lab can be built from it.
    pub(crate) fn check(&self) -> Result<()> {
        let tag_ok = !self.tag.is_empty() && self.tag.bytes().all(|b| b.is_ascii_lowercase());
        ensure!(tag_ok, "tag {:?} must consist of lower-case letters", self.tag);
        for cable in &self.cables {
            for end in &cable.ends {
                ensure!(
                    self.places.iter().any(|place| place.name == end.place),
                    "device {} is in {:?}, which is no place",
                    end.device,
                    end.place
                );
            }
        }
        Ok(())
    }
}

/// Builds everything; returns the places by name. Removing what a failure leaves is the caller's part.
pub(crate) fn build(wiring: &Wiring, prefix: &str) -> Result<BTreeMap<String, Place>> {
    let full = |name: &str| format!("{prefix}{name}");
    let mut batch = links::Batch::default();
    for place in &wiring.places {
        links::ip!(batch, "netns add {}", full(&place.name));
    }
    ip_batch(&[], batch.text())?;
    let folder: Arc<Path> = cleanup::folder(prefix).into();
    let nowhere = Dual {
        v4: std::net::Ipv4Addr::UNSPECIFIED,
        v6: std::net::Ipv6Addr::UNSPECIFIED,
    };
    let mut places = BTreeMap::new();
    for Wired {
        name, router, cgroup, ..
    } in &wiring.places
    {
        let cgroup = cgroup.as_deref().and_then(|of| cgroup::make(&full(of)));
        let netns = Netns::open(&full(name))?.with_cgroup(cgroup);
        // Before any device is made: a device takes over the defaults when it appears.
        netns.sysctls(configure::EVERYWHERE)?;
        netns.sysctls(QUIET)?;
        if *router {
            netns.sysctls(configure::ROUTER)?;
            // What a socket claims before it is routed cannot be passed on any more.
            netns.sysctls(&[("ipv4/ip_early_demux", "0")])?;
        }
        let place = Place::new(name, nowhere, netns, Arc::clone(&folder));
        places.insert(name.clone(), place);
    }
    let mut batch = links::Batch::default();
    for Cable { ends: [a, b] } in &wiring.cables {
        let (one, other) = (device(a, full), device(b, full));
        links::ip!(batch, "link add {one} type veth peer name {other}");
    }
    ip_batch(&[], batch.text())?;
    for place in &wiring.places {
        let run = |family: &[&str], commands: &str| {
            let name = full(&place.name);
            if commands.is_empty() {
                return Ok(());
            }
            ip_batch(&[family, &["-n", &name]].concat(), commands)
                .with_context(|| format!("in {}", place.name))
        };
        run(&[], &place.commands)?;
        run(&["-4"], &place.rules)?;
        run(&["-6"], &place.rules)?;
        let netns = places[&place.name].netns();
        if !place.offloads.is_empty() {
            let mut script = String::new();
            for line in place.offloads.lines() {
                writeln!(script, "ethtool -K {line}")?;
            }
            netns
                .feed(&["sh", "-e"], &script)
                .context("is ethtool installed?")?;
        }
    }
    for place in &wiring.places {
        if !place.accept_xdp.is_empty() {
            configure::accept_xdp(prefix, &places[&place.name], place.accept_xdp.iter().cloned())?;
        }
    }
    for place in places.values() {
        ready::wait(place.netns(), "")?;
    }
    Ok(places)
}

/// No reverse path filter; nobody tells anybody of a shorter way: packets go as the routes say.
const QUIET: &[(&str, &str)] = &[
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv6/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
];

fn device(end: &End, full: impl Fn(&str) -> String) -> String {
    let mac = end.mac.as_ref().map(|mac| format!(" address {mac}"));
    format!(
        "{}{} netns {}",
        end.device,
        mac.unwrap_or_default(),
        full(&end.place)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_must_be_in_a_place() {
        let place = |name: &str| Wired {
            name: name.into(),
            ..Wired::default()
        };
        let cable = |to: &str| Cable {
            ends: [End::new("a", "eth0"), End::new(to, "eth0")],
        };
        for (tag, to, ok) in [("lbc", "b", true), ("lbc", "c", false), ("lb1", "b", false)] {
            let wiring = Wiring {
                tag: tag.into(),
                places: vec![place("a"), place("b")],
                cables: vec![cable(to)],
            };
            assert_eq!(wiring.check().is_ok(), ok, "{tag} {to}");
        }
    }
}
