//! What was seen of a flow: plain values, made by `drive`, judged by `judge`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

/// What came of one connection, or one datagram and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Somebody answered.
    Answered {
        /// Its own end, after all translation.
        by: SocketAddr,
        /// The client's address, as it saw it.
        source: IpAddr,
    },
    /// Refused at once.
    Refused,
    /// Nothing was heard in time.
    Silent,
    /// Anything else, in words.
    Other(String),
}

/// All that was seen of one flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    /// One by one.
    pub(crate) attempts: Vec<Seen>,
    /// Packets that arrived at endpoints, where nothing was to arrive.
    pub(crate) arrived: Vec<String>,
}

impl Observation {
    /// All who answered.
    pub(crate) fn answered(&self) -> BTreeSet<SocketAddr> {
        let by = |seen: &Seen| match seen {
            Seen::Answered { by, .. } => Some(*by),
            _ => None,
        };
        self.attempts.iter().filter_map(by).collect()
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { by, source } => write!(f, "{by} saw {source}"),
            Self::Refused => f.write_str("refused"),
            Self::Silent => f.write_str("silent"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for seen in &self.attempts {
            *counts.entry(seen.to_string()).or_default() += 1;
        }
        let counts: Vec<_> = counts.iter().map(|(what, n)| format!("{n} x {what}")).collect();
        f.write_str(&counts.join(", "))?;
        if !self.arrived.is_empty() {
            write!(f, "; arrived at endpoints: {}", self.arrived.join(", "))?;
        }
        Ok(())
    }
}
