//! The demo's findings as a table that anyone understands.
//!
//! Pure: values in, text out. One line per address and client; both families share a line while both are right.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use lb_lab::{Family, Shares};

use super::expected::{Address, Row};
use super::judge::{Addresses, Judgement};

/// What came of one row in one family.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) family: Family,
    pub(super) shares: Shares,
    pub(super) judgement: Judgement,
}

/// A row with all that was found about it.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) row: &'a Row,
    pub(super) address: &'a Address,
    pub(super) findings: Vec<Finding>,
}

/// A table of lines, in groups of the same address.
pub(super) struct Table<'a> {
    pub(super) lines: &'a [Line<'a>],
    /// For the names of source addresses.
    pub(super) addresses: &'a BTreeMap<Family, Addresses>,
}

const CLIENT_WIDTH: usize = 28;

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut heading = None;
        for line in self.lines {
            if heading != Some(&line.row.to) {
                heading = Some(&line.row.to);
                let Address { kind, proto, v4, v6 } = line.address;
                writeln!(f, "  {} ({kind})  {v4}  {v6}  {proto}", line.row.to)?;
            }
            let client = client(line.row);
            if line.findings.iter().all(|finding| finding.judgement.ok) {
                let outcome = self.outcome(&line.findings, &line.row.from);
                writeln!(f, "    {client:<CLIENT_WIDTH$} {outcome}")?;
                continue;
            }
            for finding in &line.findings {
                let outcome = self.outcome(std::slice::from_ref(finding), &line.row.from);
                let family = match finding.family {
                    Family::V4 => "IPv4",
                    Family::V6 => "IPv6",
                };
                let Judgement { ok, expected, .. } = &finding.judgement;
                let verdict = if *ok {
                    String::new()
                } else {
                    format!("  <-- expected {expected}")
                };
                writeln!(f, "    {client:<CLIENT_WIDTH$} {family}: {outcome}{verdict}")?;
            }
        }
        Ok(())
    }
}

/// Who asks, in words.
fn client(row: &Row) -> String {
    match (&row.from, &row.via) {
        (from, Some(via)) => format!("from {from} by way of {via}"),
        (from, None) => format!("from {from}"),
    }
}

impl Table<'_> {
    /// What came of the connections of `client`, added up.
    fn outcome(&self, findings: &[Finding], client: &str) -> String {
        let total: u32 = findings.iter().map(|finding| finding.shares.attempts).sum();
        let percent = |part: u32| format!("{}%", (part * 100 + total / 2) / total.max(1));
        let mut answered: BTreeMap<&str, u32> = BTreeMap::new();
        let mut sources: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let mut failures: BTreeMap<&str, u32> = BTreeMap::new();
        for Finding { family, shares, .. } in findings {
            for (pod, count) in &shares.answered {
                *answered.entry(pod).or_default() += count;
            }
            for (pod, seen) in &shares.sources {
                let names = seen.iter().map(|ip| match self.addresses.get(family) {
                    Some(addresses) => addresses.name(*ip),
                    None => ip.to_string(),
                });
                sources.entry(pod).or_default().extend(names);
            }
            let unreachable = shares
                .unreachable
                .iter()
                .map(|(why, count)| (why.as_str(), *count));
            let garbled = u32::try_from(shares.garbled.len()).unwrap_or(u32::MAX);
            let failed = [
                ("refused", shares.refused),
                ("silent", shares.silent),
                ("reset", shares.reset),
                ("garbled", garbled),
            ];
            for (what, count) in failed.into_iter().chain(unreachable) {
                *failures.entry(what).or_default() += count;
            }
        }
        failures.retain(|_, count| *count > 0);
        let mut out = String::new();
        for (pod, count) in &answered {
            let _ = write!(out, "{pod} {:<4} ", percent(*count));
        }
        for (what, count) in &failures {
            match *count == total {
                true => out.push_str(what),
                false => _ = write!(out, "{what} {} ", percent(*count)),
            }
        }
        if !answered.is_empty() {
            out.push_str(&seen(&sources, client));
        }
        out.trim_end().to_owned()
    }
}

/// Which source addresses the pods saw: in one word if it is the same for all.
fn seen(sources: &BTreeMap<&str, BTreeSet<String>>, client: &str) -> String {
    let whose = |names: &BTreeSet<String>| {
        let names = names
            .iter()
            .map(|name| if name == client { "the client's own" } else { name });
        names.collect::<Vec<_>>().join("+")
    };
    let all: BTreeSet<_> = sources.values().map(whose).collect();
    match all.iter().next() {
        Some(one) if all.len() == 1 => format!(" source seen: {one}"),
        _ => {
            let each = sources
                .iter()
                .map(|(pod, names)| format!("{pod} {}", whose(names)));
            format!(" source seen: {}", each.collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::judge::judge;
    use lb_lab::{Answer, Outcome, Topology};

    fn check(answer: &str, outcomes: &[(&str, &str)]) -> String {
        let addresses: BTreeMap<_, _> = Family::BOTH
            .map(|family| (family, Addresses::of(&Topology::cluster(3, 2), family)))
            .into();
        let row: Row = serde_norway::from_str(&format!(
            "{{ id: x, from: client, via: node1, to: shop, answer: {answer} }}"
        ))
        .unwrap();
        let address: Address =
            serde_norway::from_str("{ kind: NodePort, proto: TCP, v4: '10.0.0.1:80', v6: '[fd00::1]:80' }")
                .unwrap();
        let mut shares = Shares::default();
        for (pod, source) in outcomes {
            shares.add(&match *source {
                "" => Outcome::Silent,
                source => Outcome::Answered(Answer {
                    name: (*pod).into(),
                    peer: format!("{source}:4000").parse().unwrap(),
                    local: "10.0.0.9:8080".parse().unwrap(),
                    token: String::new(),
                    length: 0,
                }),
            });
        }
        let judgement = judge(&row.answer, &row.from, &shares, &addresses[&Family::V4]);
        let findings = vec![Finding {
            family: Family::V4,
            shares,
            judgement,
        }];
        let lines = [Line {
            row: &row,
            address: &address,
            findings,
        }];
        Table {
            lines: &lines,
            addresses: &addresses,
        }
        .to_string()
    }

    #[test]
    fn a_line_names_shares_and_sources() {
        let (own, node) = ("203.0.113.10", "192.168.0.1");
        let heading = "  shop (NodePort)  10.0.0.1:80  [fd00::1]:80  TCP\n";
        assert_eq!(
            check(
                "{ pod1-1: own, pod2-1: node1 }",
                &[("pod1-1", own), ("pod2-1", node)]
            ),
            format!(
                "{heading}    from client by way of node1  pod1-1 50%  pod2-1 50%   \
                 source seen: pod1-1 the client's own, pod2-1 node1\n"
            )
        );
        assert_eq!(
            check("silent", &[("", ""), ("", "")]),
            format!("{heading}    from client by way of node1  silent\n")
        );
    }

    #[test]
    fn a_wrong_line_says_what_was_expected() {
        let text = check("silent", &[("pod1-1", "203.0.113.10"), ("", "")]);
        assert!(text.contains("IPv4: pod1-1 50%  silent 50%"), "{text}");
        assert!(text.contains("<-- expected silent"), "{text}");
    }
}
