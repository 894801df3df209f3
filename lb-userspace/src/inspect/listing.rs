//! All that a command has to say: rows, what is left out, what is wrong with objects.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{
    services::FrontendRow,
    table::{Row, table},
};

/// What is printed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Listing<R> {
    /// Name of this node; null if no agent has said it.
    pub node: Option<String>,
    /// An agent is running. (The maps are read without it.)
    pub agent_running: bool,
    /// Names of Services are known. They are what the agent has written last.
    pub names_known: bool,
    /// The rows.
    pub items: Vec<R>,
    /// Rows more that there are, beyond the limit.
    pub omitted: usize,
    /// Objects that cannot be served as they stand. (`services` only.)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problems: Option<Vec<ProblemRow>>,
}

/// An object that cannot be served as it stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ProblemRow {
    /// The object, as `Kind namespace/name`.
    pub object: String,
    /// What is wrong and what would mend it.
    pub message: String,
}

impl<R: Row> Listing<R> {
    /// Keeps so many rows.
    #[must_use]
    pub fn limited(mut self, limit: usize) -> Self {
        self.omitted += self.items.len().saturating_sub(limit);
        self.items.truncate(limit);
        self
    }

    /// As a table for people.
    #[must_use]
    pub fn table(&self, wide: bool) -> String {
        let mut text = table(&self.items, wide);
        if self.omitted > 0 {
            writeln!(text, "... and {} more (--limit 0 shows all)", self.omitted)
                .expect("writing to a string succeeds");
        }
        text
    }
}

impl Listing<FrontendRow> {
    /// Why not everything is served, as lines below the table: what the reasons in it mean, and what is wrong with objects.
    #[must_use]
    pub fn why(&self) -> String {
        let refused = self.items.iter().flat_map(|row| &row.refused);
        let reasons: BTreeMap<_, _> = refused.map(|refused| (refused.reason, refused.meaning)).collect();
        let reasons = reasons
            .iter()
            .map(|(reason, meaning)| format!("{reason}: {meaning}\n"));
        let problems = self.problems.iter().flatten();
        let problems =
            problems.map(|ProblemRow { object, message }| format!("problem: {object}: {message}\n"));
        let lines: String = reasons.chain(problems).collect();
        if lines.is_empty() {
            lines
        } else {
            format!("\n{lines}")
        }
    }
}
