//! Kernel settings that outlive `lb0`, and the note of how they were before.
//!
//! The note is the alias of `lb0` (`ip link show lb0` prints it): it lives and dies with the network namespace whose
//! settings it is about, and needs no file.

use std::{convert::Infallible, fmt, str::FromStr};

use super::{SysctlError, Sysctls};
use crate::node::PortSet;

/// Ports that the kernel gives to nobody who does not ask for them.
const RESERVED_PORTS: &str = "ipv4/ip_local_reserved_ports";

/// What has to hold while the agent serves.
const SETTINGS: [(&str, &str); 2] = [
    // Replies to a node's own NodePort are redirected into `lo` with a source of this node.
    ("ipv4/conf/lo/accept_local", "1"),
    // The kernel sends redirects if `all` or the device says so; all devices but the pods' bridges keep their own.
    ("ipv4/conf/all/send_redirects", "0"),
];

/// Which ports the kernel gives to those who do not ask for one.
const GIVEN_PORTS: &str = "ipv4/ip_local_port_range";

/// An alias has room for 255 bytes: so many are left for ports beside the settings.
const PORTS_IN_NOTE: usize = 150;

/// The first word of the note.
const MARK: &str = "lb-agent";

/// How it was before us.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Undo {
    /// The reserved ports that we have added.
    ports: PortSet,
    /// Settings that had another value: name and value.
    settings: Vec<(String, String)>,
}

/// What is to be written, and how to undo it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) undo: Undo,
    reserved: PortSet,
}

/// Compares what is with what should be; `before` is the note of a process before. NodePorts are reserved as far as
/// the kernel would give them to connections of its own choice: their replies would be taken for a Service's packets.
pub(super) fn plan(sysctls: &Sysctls, before: &Undo, snat_ports: &PortSet, node_ports: &PortSet) -> Plan {
    let current = reserved_ports(sysctls);
    let (reserved, added) = reserve(
        &current,
        &before.ports,
        snat_ports,
        &node_ports.within(&given_ports(sysctls)),
    );
    let mut undo = Undo {
        ports: added,
        settings: before.settings.clone(),
    };
    for (name, value) in SETTINGS {
        let known = undo.settings.iter().any(|(noted, _)| noted == name);
        if let Some(current) = sysctls.read(name).filter(|current| current != value && !known) {
            undo.settings.push((name.to_owned(), current));
        }
    }
    Plan { undo, reserved }
}

impl Plan {
    pub(super) fn apply(&self, sysctls: &Sysctls) -> Result<(), SysctlError> {
        if self.reserved != reserved_ports(sysctls) {
            sysctls.write(RESERVED_PORTS, &self.reserved.to_string())?;
        }
        SETTINGS
            .iter()
            .try_for_each(|(name, value)| sysctls.write(name, value).map(drop))
    }
}

impl Undo {
    /// The reserved ports that we have added.
    pub(super) fn ports(&self) -> PortSet {
        self.ports.clone()
    }

    /// Puts everything back that nobody else has changed since.
    pub(super) fn apply(&self, sysctls: &Sysctls) -> Result<(), SysctlError> {
        let current = reserved_ports(sysctls);
        let left = current.without(&self.ports);
        if left != current {
            // An empty list is written as a line of its own.
            sysctls.write(RESERVED_PORTS, &format!("{left}\n"))?;
        }
        for (name, value) in &self.settings {
            let ours = SETTINGS
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| *value);
            if sysctls.read(name).as_deref() == ours {
                sysctls.write(name, value)?;
            }
        }
        Ok(())
    }
}

impl FromStr for Undo {
    type Err = Infallible;
    /// What cannot be understood is left out: the note may be someone else's.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let mut undo = Self::default();
        let mut words = text.split(' ');
        if words.next() != Some(MARK) {
            return Ok(undo);
        }
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            match (name, SETTINGS.iter().any(|(known, _)| *known == name)) {
                ("ports", _) => undo.ports = value.parse().unwrap_or_default(),
                (_, true) => undo.settings.push((name.to_owned(), value.to_owned())),
                _ => {}
            }
        }
        Ok(undo)
    }
}

impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK} ports={}", self.ports)?;
        self.settings
            .iter()
            .try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

fn reserved_ports(sysctls: &Sysctls) -> PortSet {
    sysctls
        .read(RESERVED_PORTS)
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

/// Ports that the kernel gives to those who do not ask for one.
fn given_ports(sysctls: &Sysctls) -> PortSet {
    let range = sysctls.read(GIVEN_PORTS).unwrap_or_default();
    let mut words = range.split_whitespace().filter_map(|word| word.parse().ok());
    match (words.next(), words.next()) {
        (Some(first), Some(last)) => PortSet::from(first..=last),
        _ => PortSet::default(),
    }
}

/// The same as [`merge`], with as few ports more as it takes to have the note fit into an alias.
fn reserve(
    current: &PortSet,
    added_before: &PortSet,
    snat_ports: &PortSet,
    node_ports: &PortSet,
) -> (PortSet, PortSet) {
    let gaps = std::iter::once(0).chain((0..16).map(|power| (1_u32 << power) as u16));
    let plans = gaps.map(|gap| merge(current, added_before, &snat_ports.union(&node_ports.bridged(gap))));
    let fits = |(_, added): &(PortSet, PortSet)| added.to_string().len() <= PORTS_IN_NOTE;
    // Others may have reserved every second port: then what we add cannot be noted, and nothing is added.
    plans
        .into_iter()
        .find(fits)
        .unwrap_or_else(|| merge(current, added_before, snat_ports))
}

/// The ports to reserve, and which of them we have to give back: those that nobody else has reserved.
fn merge(current: &PortSet, added_before: &PortSet, wanted: &PortSet) -> (PortSet, PortSet) {
    let others = current.without(added_before);
    (others.union(wanted), wanted.without(&others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ports_that_we_added_are_given_back() {
        for (what, current, before, wanted, reserved, added) in [
            (
                "first start",
                "8080",
                "",
                "61000-65535",
                "8080,61000-65535",
                "61000-65535",
            ),
            (
                "restart",
                "8080,61000-65535",
                "61000-65535",
                "61000-65535",
                "8080,61000-65535",
                "61000-65535",
            ),
            (
                "another range",
                "8080,61000-65535",
                "61000-65535",
                "50000-50999",
                "8080,50000-50999",
                "50000-50999",
            ),
            (
                "the administrator's own",
                "61000-61999",
                "",
                "61000-65535",
                "61000-65535",
                "62000-65535",
            ),
            (
                "all the administrator's",
                "60000-65535",
                "",
                "61000-65535",
                "60000-65535",
                "",
            ),
        ] {
            let ports = |text: &str| text.parse::<PortSet>().unwrap();
            let merged = merge(&ports(current), &ports(before), &ports(wanted));
            assert_eq!(merged, (ports(reserved), ports(added)), "{what}");
        }
    }

    #[test]
    fn node_ports_are_reserved_one_by_one_as_long_as_they_can_be_noted() {
        let ports = |text: &str| text.parse::<PortSet>().unwrap();
        let (snat, none) = (ports("61000-65535"), PortSet::default());
        let few = ports("32768,40000-40001");
        let (reserved, added) = reserve(&ports("8080"), &none, &snat, &few);
        assert_eq!(reserved.to_string(), "8080,32768,40000-40001,61000-65535");
        assert_eq!(added, few.union(&snat));

        let many: PortSet = (33_000..60_000).step_by(50).collect();
        let (reserved, added) = reserve(&ports("8080"), &none, &snat, &many);
        assert!(added.to_string().len() <= PORTS_IN_NOTE, "{added}");
        assert_eq!(many.without(&reserved), none, "all of them are reserved");
        assert_eq!(
            reserved.without(&added),
            ports("8080"),
            "and all can be given back"
        );
        // They go when they are no NodePorts any more.
        assert_eq!(
            reserve(&reserved, &added, &snat, &none),
            (ports("8080,61000-65535"), snat)
        );
    }

    #[test]
    fn note_survives_the_way_through_the_alias() {
        let undo = Undo {
            ports: "61000-65535".parse().unwrap(),
            settings: vec![("ipv4/conf/lo/accept_local".into(), "0".into())],
        };
        assert_eq!(undo.to_string().parse(), Ok(undo));
        for foreign in [
            "",
            "uplink to rack 7",
            "lb-agentx ports=1-2",
            "lb-agent ../evil=1",
        ] {
            assert_eq!(foreign.parse(), Ok(Undo::default()), "{foreign}");
        }
    }

    #[test]
    fn note_fits_into_an_alias() {
        let settings = SETTINGS
            .iter()
            .map(|(name, _)| ((*name).to_owned(), "0".to_owned()))
            .collect();
        let undo = Undo {
            ports: "61000-65535".parse().unwrap(),
            settings,
        };
        assert!(undo.to_string().len() < 256);
    }
}
