//! What this program prints: a table for people, and checks.

use serde::Serialize;

/// The result of a bench.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Document {
    /// Lines for people.
    pub(crate) table: Vec<String>,
    /// Figures and their targets.
    pub(crate) checks: Vec<Check>,
}

/// A figure and its target.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    /// Unique in the document.
    pub(crate) id: String,
    /// The target.
    pub(crate) expected: String,
    /// The figure.
    pub(crate) seen: String,
    /// Whether the target is reached.
    pub(crate) ok: bool,
}
