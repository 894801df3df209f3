// SPDX-License-Identifier: Apache-2.0
//! Runs service-proxy behaviour cases (`lbcase/v1`) against the real agent and the real programs.
//!
//! A case is data: a cluster's objects, changes to them, and what must become of connections at each step. The
//! rooms: `format` (a file to values), `layout` (values to a lab of namespaces), `manifests` and `feed` (the
//! objects to the agent), `plan` and `drive` (a flow to real packets), `judge` (what was seen against what is
//! expected), `scenario` and `run` (all of it in order), `books` (whether what hooks received is what they counted).
//! `format`, `layout`, `plan` and `judge` are pure.

mod address;
mod agent;
mod api;
pub mod apiserver;
mod arrivals;
pub mod books;
mod drive;
mod feed;
pub mod format;
mod http;
mod judge;
mod layout;
mod line;
mod manifests;
mod plan;
mod run;
mod scenario;
mod sctp;
mod seen;
mod site;
mod slots;

pub use agent::Hook;
pub use format::{Case, read_folder};
pub use run::{Objects, Options, Verdict, run};
pub use scenario::Miss;
