//! What must be seen, as a person wrote it down: the types of `deploy/demo/expected.yaml`.
//!
//! *Invariant*: every name in a value made by [`Expected::parse`] refers to something in the topology or in the
//! file itself, so that a typing mistake is an error and not a check that nobody makes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_lab::{Family, Proto, Topology};
use serde::Deserialize;

use super::change::Change;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expected {
    /// Where clients connect to, by name.
    pub(super) addresses: BTreeMap<String, Address>,
    /// Connections that last from the first phase to the last one.
    pub(super) downloads: Vec<Download>,
    /// What happens, in order.
    pub(super) phases: Vec<Phase>,
}

/// An address of a Service, in both families.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Address {
    /// What Kubernetes calls this kind of address.
    pub(super) kind: String,
    /// Spoken there.
    pub(super) proto: Proto,
    /// The IPv4 address and port.
    pub(super) v4: SocketAddr,
    /// The IPv6 address and port.
    pub(super) v6: SocketAddr,
}

impl Address {
    /// The address of one family.
    pub(super) fn of(&self, family: Family) -> SocketAddr {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// A connection that lasts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Download {
    /// Unique among downloads.
    pub(super) id: String,
    /// Who downloads.
    pub(super) from: String,
    /// The node that Service addresses lead to, for a client outside.
    pub(super) via: Option<String>,
    /// Name of the address.
    pub(super) to: String,
    /// In which family.
    pub(super) family: Family,
    /// The pod that is to serve it.
    pub(super) by: String,
}

/// A change, and what is to be seen afterwards.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Phase {
    /// First part of the identity of its checks.
    pub(super) name: String,
    /// For people.
    pub(super) title: String,
    /// What changes before it is looked at.
    pub(super) change: Option<Change>,
    /// What is to be seen.
    pub(super) checks: Vec<Row>,
}

/// One client, one address, in both families.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// Unique in its phase.
    pub(super) id: String,
    /// Who connects.
    pub(super) from: String,
    /// The node that Service addresses lead to, for a client outside.
    pub(super) via: Option<String>,
    /// Name of the address.
    pub(super) to: String,
    /// What comes of it.
    pub(super) answer: Answer,
}

/// What comes of connecting.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Answer {
    /// No answer of a pod.
    Nobody(Nobody),
    /// These pods answer, in equal shares. The value is whose address they see: `own` or a node's name.
    Pods(BTreeMap<String, String>),
}

/// How it shows that nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Nobody {
    /// At once.
    Refused,
    /// Not at all.
    Silent,
}

/// Stands for the client's own address.
pub(super) const OWN: &str = "own";

impl Expected {
    /// From the file's text.
    pub(super) fn parse(text: &str, topology: &Topology) -> Result<Self> {
        let expected: Self = serde_norway::from_str(text)?;
        expected.check(topology)?;
        Ok(expected)
    }

    /// The address of this name.
    pub(super) fn address(&self, name: &str) -> &Address {
        self.addresses
            .get(name)
            .expect("every address that is named was looked for when the file was read")
    }

    fn check(&self, topology: &Topology) -> Result<()> {
        let nodes: BTreeSet<_> = topology.nodes.iter().map(|node| node.name.as_str()).collect();
        let pods: BTreeSet<_> = topology.pods().map(|(_, pod)| pod.name.as_str()).collect();
        let clients: BTreeSet<_> = topology.clients.iter().map(|c| c.name.as_str()).collect();
        for (name, Address { v4, v6, .. }) in &self.addresses {
            ensure!(
                v4.is_ipv4() && v6.is_ipv6(),
                "address {name}: v4 and v6 are mixed up"
            );
        }
        let who = |from: &str, via: Option<&str>, to: &str| -> Result<()> {
            let known = [&nodes, &pods, &clients].iter().any(|set| set.contains(from));
            ensure!(known, "from: there is no {from}");
            ensure!(self.addresses.contains_key(to), "to: there is no address {to}");
            if let Some(via) = via {
                ensure!(nodes.contains(via), "via: there is no node {via}");
                ensure!(
                    clients.contains(from),
                    "via is for clients outside; {from} has its own node"
                );
            }
            Ok(())
        };
        for download in &self.downloads {
            who(&download.from, download.via.as_deref(), &download.to)
                .and_then(|()| {
                    ensure!(
                        pods.contains(download.by.as_str()),
                        "by: there is no pod {}",
                        download.by
                    );
                    Ok(())
                })
                .with_context(|| format!("download {}", download.id))?;
        }
        for phase in &self.phases {
            if let Some(Change::Remedy(cell)) = &phase.change {
                who(&cell.from, Some(&cell.via), &cell.to)
                    .with_context(|| format!("phase {}", phase.name))?;
            }
        }
        let mut ids = BTreeSet::new();
        for (phase, row) in self.rows() {
            let subject = || format!("check {} of phase {}", row.id, phase.name);
            who(&row.from, row.via.as_deref(), &row.to).with_context(subject)?;
            ensure!(ids.insert((&phase.name, &row.id)), "{} is there twice", subject());
            let Answer::Pods(answers) = &row.answer else {
                continue;
            };
            ensure!(!answers.is_empty(), "{}: write `silent` or `refused`", subject());
            for (pod, seen) in answers {
                ensure!(
                    pods.contains(pod.as_str()),
                    "{}: there is no pod {pod}",
                    subject()
                );
                ensure!(
                    seen == OWN || nodes.contains(seen.as_str()),
                    "{}: {pod} sees neither `{OWN}` nor a node, but {seen}",
                    subject()
                );
            }
        }
        Ok(())
    }

    fn rows(&self) -> impl Iterator<Item = (&Phase, &Row)> {
        self.phases
            .iter()
            .flat_map(|phase| phase.checks.iter().map(move |row| (phase, row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::cluster::topology;

    const FILE: &str = include_str!("../../../deploy/demo/expected.yaml");

    fn expected() -> Expected {
        Expected::parse(
            FILE,
            &topology(crate::demo::PodNetwork::Routed, crate::demo::Hook::Tc),
        )
        .unwrap()
    }

    #[test]
    fn the_committed_file_is_consistent_and_makes_enough_checks() {
        let expected = expected();
        assert!(expected.rows().count() * Family::BOTH.len() >= 100);
        let used: BTreeSet<_> = expected.rows().map(|(_, row)| row.to.as_str()).collect();
        let defined: BTreeSet<_> = expected.addresses.keys().map(String::as_str).collect();
        assert_eq!(
            used, defined,
            "an address that nobody uses is a check that was forgotten"
        );
    }

    #[test]
    fn every_kind_of_outcome_is_expected_somewhere() {
        let expected = expected();
        let answers: Vec<_> = expected.rows().map(|(_, row)| &row.answer).collect();
        assert!(answers.contains(&&Answer::Nobody(Nobody::Refused)));
        assert!(answers.contains(&&Answer::Nobody(Nobody::Silent)));
        let sees_node =
            |a: &&Answer| matches!(a, Answer::Pods(pods) if pods.values().any(|seen| seen != OWN));
        assert!(answers.iter().any(sees_node));
    }

    #[test]
    fn names_that_nobody_has_are_errors() {
        let topology = topology(crate::demo::PodNetwork::Routed, crate::demo::Hook::Tc);
        for (wrong, right) in [
            ("pod9-9", "from: pod1-2,"),
            ("nowhere", "via: node2,"),
            ("crat", "to: cart,"),
            ("node7", "answer: { pod1-1: node1,"),
        ] {
            let (key, _) = right.rsplit_once(' ').unwrap();
            let end = if right.ends_with(',') { "," } else { "" };
            let text = FILE.replacen(right, &format!("{key} {wrong}{end}"), 1);
            assert_ne!(text, FILE, "{right} is not in the file any more");
            let error = format!("{:#}", Expected::parse(&text, &topology).unwrap_err());
            assert!(error.contains(wrong), "{error}");
        }
    }
}
