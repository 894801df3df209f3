//! What a question comes to, as plain values.

use std::net::{IpAddr, SocketAddr};

use lb_common::abi::Kind;
use serde::Serialize;

use super::{Evidence, Verified};

/// The answer for one destination, client and node.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Answer {
    /// Who connects.
    pub from: String,
    /// With which address.
    pub source: IpAddr,
    /// To what.
    pub to: SocketAddr,
    /// By which protocol.
    pub protocol: String,
    /// The Service port that has the address, as `namespace/name port`.
    pub service: Option<String>,
    /// The node whose programs decide.
    pub node: String,
    /// What happens.
    pub verdict: Verdict,
    /// The reason, by the name that `lb-agent counters` has.
    pub reason: &'static str,
    /// What that reason means.
    pub help: &'static str,
    /// The rule, in words, of this very case.
    pub rule: String,
    /// What the client notices.
    pub client_sees: String,
    /// Who may be chosen.
    pub backends: Vec<Reached>,
    /// Every step.
    pub hops: Vec<Hop>,
    /// The map entries that were read, in order.
    pub evidence: Vec<Evidence>,
    /// What is wrong with the Service, as `lb-agent status` would say it; what else is to be known of its choice.
    pub notes: Vec<String>,
    /// What it costs although it works.
    pub cost: Option<String>,
    /// What the program itself makes of such a packet, if it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// What would change the answer.
    pub remedies: Remedies,
}

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is translated and reaches a backend.
    Forwarded,
    /// It goes on as if we were not there.
    Passed,
    /// It is refused at once.
    Rejected,
    /// It is discarded in silence.
    Dropped,
}

/// A backend that may be chosen.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Reached {
    /// Its address and port.
    pub backend: SocketAddr,
    /// Who it is.
    pub name: Option<String>,
    /// Where it runs.
    pub node: Option<String>,
    /// Rows of the table that lead to it.
    pub rows: u32,
    /// Of how many.
    pub of: u32,
    /// The address that it sees as its client.
    pub source: IpAddr,
    /// That is the client's own.
    pub keeps_source: bool,
}

/// A step.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Hop {
    /// On which node; `None`: on none.
    pub node: Option<String>,
    /// Which program sees it, by the name that `lb-agent counters` has.
    pub hook: Option<&'static str>,
    /// What happens there.
    pub says: String,
}

/// What would change an answer.
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct Remedies {
    /// Each was tried on the changed objects; the best first.
    pub found: Vec<Remedy>,
    /// Why there is none, if one is wanted.
    pub none: Option<String>,
}

/// A change that turns the answer.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Remedy {
    /// What to do.
    pub what: String,
    /// The command, or the change of a manifest, that does it.
    pub command: String,
    /// What it costs.
    pub cost: String,
    /// What was found when it was tried: one line for each question that was asked then.
    pub tried: Vec<String>,
}

impl std::convert::From<Kind> for Verdict {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Forwarded => Self::Forwarded,
            Kind::Passed => Self::Passed,
            Kind::Rejected => Self::Rejected,
            Kind::Dropped => Self::Dropped,
        }
    }
}

impl Verdict {
    /// In a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Passed => "passed",
            Self::Rejected => "rejected",
            Self::Dropped => "dropped",
        }
    }
}
