//! Two books side by side. Pure: numbers in, lines out.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use lb_common::abi::Hook;
use serde_json::Value;

use super::Runs;

/// The members that `lb-agent counters -o json` gives a hook beside `received`.
const KINDS: [&str; 4] = ["forwarded", "passed", "rejected", "dropped"];

/// What an agent's hooks received, and what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Balance {
    /// Each hook that received or counted something.
    pub hooks: Vec<Received>,
    /// Packets by outcome, on all hooks.
    pub outcomes: BTreeMap<String, u64>,
    /// How many of the programs that the books were opened with are gone. What they ran is lost, and nothing can be compared.
    gone: usize,
}

/// One hook's side of both books.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// The hook's name.
    pub hook: &'static str,
    /// How often its programs ran.
    pub ran: u64,
    /// What was counted, by kind.
    pub counted: [(&'static str, u64); 4],
}

/// One comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// The hook, or `programs` where these have changed.
    pub of: String,
    /// What should be.
    pub expected: String,
    /// What is.
    pub seen: String,
    /// Whether the two agree.
    pub ok: bool,
}

impl Received {
    /// All that was counted.
    fn sum(&self) -> u64 {
        self.counted.iter().map(|(_, packets)| packets).sum()
    }

    /// What was received and not counted; negative: counted and not received.
    #[must_use]
    pub fn residual(&self) -> i128 {
        i128::from(self.ran) - i128::from(self.sum())
    }

    fn line(&self) -> Line {
        let parts = self.counted.map(|(kind, packets)| format!("{kind} {packets}"));
        let (sum, residual) = (self.sum(), self.residual());
        Line {
            of: self.hook.into(),
            expected: format!("received {}, residual 0", self.ran),
            seen: format!("{} = {sum}, residual {residual}", parts.join(" + ")),
            ok: residual == 0,
        }
    }
}

impl Balance {
    /// Compares. `opened` are the programs that the books were opened with.
    pub(super) fn of(runs: &Runs, opened: &BTreeSet<u32>, counters: &Value) -> Result<Self> {
        let list = |name: &str| {
            let list = counters[name].as_array();
            list.with_context(|| format!("`lb-agent counters -o json` has no list {name:?}"))
        };
        let mut hooks = Vec::new();
        let of_hooks = list("hooks")?;
        for hook in Hook::ALL {
            // A hook that has counted nothing is not listed.
            let counted = of_hooks.iter().find(|one| one["hook"] == hook.name());
            let packets = |kind: &str| counted.map_or(Some(0), |counted| counted[kind].as_u64());
            let mut received = Received {
                hook: hook.name(),
                ran: runs.ran.get(hook).copied().unwrap_or_default(),
                counted: KINDS.map(|kind| (kind, 0)),
            };
            for (kind, counted) in &mut received.counted {
                *counted = packets(kind)
                    .with_context(|| format!("no number of packets {kind} at {}", hook.name()))?;
            }
            if received.ran > 0 || received.sum() > 0 {
                hooks.push(received);
            }
        }
        let mut outcomes = BTreeMap::new();
        for one in list("outcomes")? {
            let (name, packets) = (one["outcome"].as_str(), one["packets"].as_u64());
            let (name, packets) = name.zip(packets).context("an outcome has name and packets")?;
            *outcomes.entry(name.to_owned()).or_default() += packets;
        }
        outcomes.retain(|_, packets| *packets > 0);
        Ok(Self {
            hooks,
            outcomes,
            gone: opened.difference(&runs.programs).count(),
        })
    }

    /// All that was received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.hooks.iter().map(|hook| hook.ran).sum()
    }

    /// Whether something was received, and all of it counted once.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.gone == 0 && self.received() > 0 && self.hooks.iter().all(|hook| hook.residual() == 0)
    }

    /// A line for each hook.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        if self.gone == 0 && !self.hooks.is_empty() {
            return self.hooks.iter().map(Received::line).collect();
        }
        vec![Line {
            of: "programs".into(),
            expected: "the same programs all the time, which receive something".into(),
            seen: format!("{} of them are gone; received {}", self.gone, self.received()),
            ok: false,
        }]
    }

    /// All hooks in one line; `of` names the agent.
    #[must_use]
    pub fn summary(&self, of: impl Into<String>) -> Line {
        let hooks = self.hooks.iter().map(|hook| match hook.residual() {
            0 => format!("{} {}", hook.hook, hook.ran),
            residual => format!("{} {} (residual {residual})", hook.hook, hook.ran),
        });
        let mut seen = hooks.collect::<Vec<_>>().join(", ");
        if self.gone > 0 {
            seen = format!("{} programs are gone; {seen}", self.gone);
        }
        let residual: u128 = (self.hooks.iter())
            .map(|hook| hook.residual().unsigned_abs())
            .sum();
        Line {
            of: of.into(),
            expected: format!(
                "received {} packets and calls on {} hooks, residual 0",
                self.received(),
                self.hooks.len()
            ),
            seen: format!("residual {residual}: {seen}"),
            ok: self.adds_up(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn balance(ran: &[(Hook, u64)], programs: &[u32], counted: &[(&str, u64, u64)]) -> Balance {
        let runs = Runs {
            programs: programs.iter().copied().collect(),
            ran: ran.iter().copied().collect(),
        };
        let hooks: Vec<_> = (counted.iter())
            .map(|(hook, forwarded, passed)| {
                json!({"hook": hook, "received": 99, "forwarded": forwarded, "passed": passed, "rejected": 0, "dropped": 0})
            })
            .collect();
        let outcomes = json!([
            {"hook": "pod-in", "outcome": "forwarded-new", "packets": 2},
            {"hook": "pod-out", "outcome": "forwarded-new", "packets": 3},
            {"hook": "pod-out", "outcome": "passed-other", "packets": 0},
        ]);
        let counters = json!({"hooks": hooks, "outcomes": outcomes});
        Balance::of(&runs, &BTreeSet::from([1, 2]), &counters).unwrap()
    }

    #[test]
    fn books_that_differ_on_any_hook_do_not_add_up() {
        let ran = [(Hook::UplinkIn, 5), (Hook::PodIn, 3), (Hook::Bind, 0)];
        let good = [("uplink-in", 4, 1), ("pod-in", 3, 0)];
        for (what, ran, programs, counted, seen) in [
            ("equal", &ran[..], &[1, 2][..], &good[..], None),
            ("programs came", &ran, &[1, 2, 3], &good, None),
            (
                "a packet was not counted",
                &ran,
                &[1, 2],
                &[("uplink-in", 3, 1), ("pod-in", 3, 0)],
                Some("residual 1: uplink-in 5 (residual 1), pod-in 3"),
            ),
            (
                "one hook's lack is another's excess",
                &ran,
                &[1, 2],
                &[("uplink-in", 3, 1), ("pod-in", 3, 1)],
                Some("residual 2: uplink-in 5 (residual 1), pod-in 3 (residual -1)"),
            ),
            (
                "counted where nothing ran",
                &ran,
                &[1, 2],
                &[good[0], good[1], ("pod-out", 1, 0)],
                Some("residual 1: uplink-in 5, pod-in 3, pod-out 0 (residual -1)"),
            ),
            (
                "a program is gone",
                &ran,
                &[2, 3],
                &good,
                Some("residual 0: 1 programs are gone; uplink-in 5, pod-in 3"),
            ),
            ("nothing was received", &[], &[1, 2], &[], Some("residual 0: ")),
        ] {
            let balance = balance(ran, programs, counted);
            let (summary, ok) = (balance.summary("node1"), seen.is_none());
            assert_eq!(balance.adds_up(), ok, "{what}");
            assert_eq!(balance.lines().iter().all(|line| line.ok), ok, "{what}");
            assert_eq!(summary.ok, ok, "{what}");
            if let Some(seen) = seen {
                assert_eq!(summary.seen, seen, "{what}");
            }
        }
    }

    #[test]
    fn a_hook_s_line_says_how_it_adds_up() {
        let balance = balance(&[(Hook::PodIn, 3)], &[1, 2], &[("pod-in", 2, 1)]);
        let line = Line {
            of: "pod-in".into(),
            expected: "received 3, residual 0".into(),
            seen: "forwarded 2 + passed 1 + rejected 0 + dropped 0 = 3, residual 0".into(),
            ok: true,
        };
        assert_eq!(balance.lines(), [line]);
        assert_eq!(
            balance.outcomes,
            BTreeMap::from([("forwarded-new".to_owned(), 5)])
        );
    }

    #[test]
    fn what_does_not_say_numbers_is_an_error() {
        let (runs, opened) = (Runs::default(), BTreeSet::new());
        for counters in [
            json!({}),
            json!({"hooks": [{"hook": "pod-in"}], "outcomes": []}),
            json!({"hooks": [], "outcomes": [{"outcome": "passed-other"}]}),
        ] {
            assert!(Balance::of(&runs, &opened, &counters).is_err(), "{counters}");
        }
    }
}
