//! Whether what was seen is what an answer says.

use std::{collections::BTreeSet, net::SocketAddr};

use crate::{
    journey::Seen,
    oracle::{Answer, Source, Verdict},
    probe::{Client, Hook, Probe},
};

impl Answer {
    /// How many endpoints it names.
    pub(super) fn breadth(&self) -> usize {
        match &self.verdict {
            Verdict::Forward { backends, .. } => backends.len(),
            _ => 0,
        }
    }

    pub(super) fn is_sticky(&self) -> bool {
        matches!(self.verdict, Verdict::Forward { sticky: true, .. })
    }
}

/// Whether nothing that was seen contradicts an answer.
pub(super) fn agrees(answer: &Answer, probe: &Probe, told: &[(u16, Seen)]) -> bool {
    let of_source = |rule: Source, seen: SocketAddr| match rule {
        Source::Client => seen.ip() == probe.from(),
        Source::Node => crate::journey::is_own(seen.ip()),
        Source::Either => seen.ip() == probe.from() || crate::journey::is_own(seen.ip()),
    };
    told.iter().all(|(_, seen)| match (&answer.verdict, seen) {
        (Verdict::Forward { backends, .. }, Seen::Forward { backend, source }) => backends
            .get(backend)
            .is_some_and(|rule| of_source(*rule, *source)),
        (Verdict::Reject, Seen::Reject) | (Verdict::Drop, Seen::Drop) | (Verdict::Pass, Seen::Pass) => true,
        _ => false,
    }) && (!answer.is_sticky() || reached(told).len() < 2)
}

/// Whether enough was seen to be sure of it.
pub(super) fn is_complete(answer: &Answer, told: &[(u16, Seen)]) -> bool {
    match &answer.verdict {
        Verdict::Forward { sticky: true, .. } => told.len() > 5,
        Verdict::Forward { backends, .. } => {
            told.len() > 2 * backends.len() && reached(told).len() == backends.len()
        }
        _ => told.len() > 1,
    }
}

pub(super) fn reached(told: &[(u16, Seen)]) -> BTreeSet<SocketAddr> {
    let backends = told.iter().filter_map(|(_, seen)| match seen {
        Seen::Forward { backend, .. } => Some(*backend),
        _ => None,
    });
    backends.collect()
}

/// Which sort of answer it was, for the tally.
pub(super) fn kind(probe: &Probe, answer: &Answer) -> String {
    let verdict = match &answer.verdict {
        Verdict::Forward { backends, .. } if backends.len() == 1 => "forward to one",
        Verdict::Forward { .. } => "forward to several",
        Verdict::Reject => "reject",
        Verdict::Drop => "drop",
        Verdict::Pass => "pass",
    };
    let client = match (probe.client, probe.hook) {
        (Client::Pod(_), _) => "pod",
        (Client::Node, _) => "node",
        (Client::Outside(_), Hook::Xdp) => "outside at XDP",
        (Client::Outside(_), Hook::Tc) => "outside at TC",
    };
    format!("{client}: {verdict}")
}
