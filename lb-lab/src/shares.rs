//! Outcomes of many connections, added up: who answered how often, what they saw, what failed and how.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use serde::Serialize;

use crate::client::Outcome;

/// How many odd answers are kept word by word.
const MAX_GARBLED: usize = 8;

/// A table of outcomes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shares {
    /// Connections tried.
    pub attempts: u32,
    /// Answers, by the name of who answered.
    pub answered: BTreeMap<String, u32>,
    /// The source addresses that each of them saw.
    pub sources: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Refused at once: reset, or port unreachable.
    pub refused: u32,
    /// Established, then reset or closed before the answer.
    pub reset: u32,
    /// No answer in time.
    pub silent: u32,
    /// Other errors reported by the network, by their text.
    pub unreachable: BTreeMap<String, u32>,
    /// Answers that make no sense, the first few.
    pub garbled: Vec<String>,
}

impl Shares {
    /// Adds one outcome.
    pub fn add(&mut self, outcome: &Outcome) {
        self.attempts += 1;
        match outcome {
            Outcome::Answered(answer) => {
                *self.answered.entry(answer.name.clone()).or_default() += 1;
                self.sources
                    .entry(answer.name.clone())
                    .or_default()
                    .insert(answer.peer.ip().to_canonical());
            }
            Outcome::Refused => self.refused += 1,
            Outcome::Reset => self.reset += 1,
            Outcome::Silent => self.silent += 1,
            Outcome::Unreachable(why) => *self.unreachable.entry(why.clone()).or_default() += 1,
            Outcome::Garbled(what) if self.garbled.len() < MAX_GARBLED => self.garbled.push(what.clone()),
            Outcome::Garbled(_) => {}
        }
    }

    /// Number of answers.
    pub fn answers(&self) -> u32 {
        self.answered.values().sum()
    }

    /// Names of those who answered.
    pub fn names(&self) -> BTreeSet<&str> {
        self.answered.keys().map(String::as_str).collect()
    }

    /// All source addresses that were seen.
    pub fn all_sources(&self) -> BTreeSet<IpAddr> {
        self.sources.values().flatten().copied().collect()
    }

    /// Whether something was tried and every attempt was answered.
    pub fn all_answered(&self) -> bool {
        self.attempts > 0 && self.answers() == self.attempts
    }

    /// Whether something was tried and every attempt was refused.
    pub fn all_refused(&self) -> bool {
        self.attempts > 0 && self.refused == self.attempts
    }

    /// Whether something was tried and no attempt was heard of again.
    pub fn all_silent(&self) -> bool {
        self.attempts > 0 && self.silent == self.attempts
    }

    /// The part of all answers that `name` gave, 0 to 1.
    pub fn share(&self, name: &str) -> f64 {
        let own = self.answered.get(name).copied().unwrap_or_default();
        f64::from(own) / f64::from(self.answers().max(1))
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answered = self.answered.iter().map(|(name, n)| {
            let sources: Vec<_> = self.sources[name].iter().map(ToString::to_string).collect();
            format!("{name} {n} (saw {})", sources.join(" "))
        });
        let failed = [
            ("refused", self.refused),
            ("reset", self.reset),
            ("silent", self.silent),
        ];
        let failed = failed
            .iter()
            .filter(|(_, n)| *n > 0)
            .map(|(what, n)| format!("{what} {n}"));
        let unreachable = self.unreachable.iter().map(|(why, n)| format!("{why} {n}"));
        let garbled = self.garbled.iter().map(|what| format!("garbled: {what}"));
        let parts: Vec<_> = answered.chain(failed).chain(unreachable).chain(garbled).collect();
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Answer;

    #[test]
    fn shares_add_up() {
        let answer = |name: &str, peer: &str| {
            Outcome::Answered(Answer {
                name: name.into(),
                peer: peer.parse().unwrap(),
                local: "10.0.0.1:80".parse().unwrap(),
                token: String::new(),
                length: 0,
            })
        };
        let mut shares = Shares::default();
        for outcome in [
            answer("a", "1.1.1.1:5"),
            answer("a", "1.1.1.1:6"),
            answer("b", "[::ffff:2.2.2.2]:5"),
            Outcome::Refused,
            Outcome::Silent,
        ] {
            shares.add(&outcome);
        }
        assert_eq!((shares.attempts, shares.answers()), (5, 3));
        assert_eq!(
            shares.to_string(),
            "a 2 (saw 1.1.1.1), b 1 (saw 2.2.2.2), refused 1, silent 1"
        );
        assert!((shares.share("a") - 2.0 / 3.0).abs() < 1e-9);
        assert!(!shares.all_answered() && !shares.all_refused() && !shares.all_silent());
        assert!(!Shares::default().all_answered(), "nothing tried proves nothing");
    }
}
