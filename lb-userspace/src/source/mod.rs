//! Where objects come from: a Kubernetes API server, or a directory of manifests. Both yield the same events.

mod collection;
pub mod directory;
pub mod events;
pub mod kubernetes;
mod manifest;
pub mod named;
pub mod pods;
mod remembered;
mod servers;
mod watch;

use std::time::{Duration, SystemTime};

use crate::model::Change;

/// What a source tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// One object changed. Before [`Event::Synced`] these add up to the first complete state.
    Change(Change),
    /// All objects have been told once: from now on, what is not there does not exist. Sent once.
    Synced,
    /// What has been told is remembered from before the start: the Service of the API servers, so that they can be
    /// reached. The first complete state replaces it.
    Remembered,
    /// The source's own state changed. What it told before stands, however long it fails.
    Status(SourceStatus),
}

/// How a source is doing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SourceStatus {
    /// What it cannot do at present; empty if all is well.
    pub failures: Vec<Failure>,
    /// Failures since the start, including those that are over.
    pub errors: u64,
    /// Objects or files that could not be understood, since the start.
    pub malformed: u64,
    /// Objects of kinds that are no concern of ours (directory only), now.
    pub ignored: u64,
    /// The API server that answered last; `None` if none does.
    pub server: Option<String>,
    /// Nothing is known but what is remembered from before the start.
    pub remembered: bool,
    /// While something fails: when the server was last heard. `None` also if it never was.
    pub heard: Option<SystemTime>,
}

impl SourceStatus {
    /// Since when something fails.
    #[must_use]
    pub fn failing_since(&self) -> Option<SystemTime> {
        self.failures.iter().map(|failure| failure.since).min()
    }
}

impl SourceStatus {
    /// How long ago the oldest of its present failures began; zero if there is none.
    #[must_use]
    pub fn failing_for(&self, now: SystemTime) -> Duration {
        let oldest = self.failures.iter().map(|failure| failure.since).min();
        // A clock that was set back tells nothing.
        oldest
            .and_then(|since| now.duration_since(since).ok())
            .unwrap_or_default()
    }
}

/// Something a source cannot do at present.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What it concerns: a kind of object, or the directory.
    pub what: String,
    /// When it began to fail.
    pub since: SystemTime,
    /// How it failed last, and what would mend it.
    pub message: String,
}

/// Nobody receives any more: time to end.
struct Unheard;
