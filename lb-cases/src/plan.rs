//! How often a flow is tried, and what that can prove. Pure.

use std::time::Duration;

use crate::format::{Flow, Outcome};

/// Connections for each backend: with them, a backend is missed by chance once in a billion flows.
const EACH: usize = 20;
/// Connections that are all to be refused, or to pass.
const FEW: usize = 5;
/// Connections that are all to be dropped.
const SILENT: usize = 3;
/// Time for an answer.
const ANSWER: Duration = Duration::from_secs(4);
/// Time in which nothing is heard: a handshake is repeated once in it.
const SILENCE: Duration = Duration::from_millis(1500);

/// What is done for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// How many connections.
    pub(crate) attempts: usize,
    /// Time for each.
    pub(crate) limit: Duration,
    /// They are enough to reach every backend, so that each must be reached.
    pub(crate) all_backends: bool,
}

impl Plan {
    /// What is done for this flow.
    pub(crate) fn of(flow: &Flow) -> Self {
        let expect = &flow.expect;
        let accepted = |outcome| expect.outcome == outcome || expect.also_ok.contains(&outcome);
        let one = flow.client.port.is_some() || flow.continues.is_some();
        let chosen =
            expect.sticky || expect.same_backend_as.is_some() || expect.min_distinct_backends.is_some();
        let attempts = match (flow.repeat, expect.outcome) {
            _ if one => 1,
            (Some(repeat), _) => repeat.count as usize,
            _ if accepted(Outcome::Forward) => EACH * expect.backends.len().max(1),
            (None, Outcome::Drop) => SILENT,
            (None, _) => FEW,
        };
        let quiet = expect.outcome == Outcome::Drop;
        Self {
            attempts,
            limit: if quiet { SILENCE } else { ANSWER },
            all_backends: !one && !chosen && flow.repeat.is_none(),
        }
    }
}
