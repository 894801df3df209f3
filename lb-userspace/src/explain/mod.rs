//! Explains one cell of the question who reaches what: from this client to this address, what happens, why, and what
//! would change it.
//!
//! ```text
//! question (who, whom) + cluster (objects) -> world (one node's maps) -> inquiry (the decision) -> answer -> text
//!                                                    ^                                                |
//!                                                    +------ the changed objects ------ remedy <------+
//! ```
//!
//! *Invariant*: nothing here knows the rules. The objects go through the same model and planner as in the agent, and the
//! decision is that of `lb_common::net`, which the programs in the kernel run; here its look-ups are written down.
//! *Not here*: where objects and maps come from (`source`, `maps`), the command (`cli`).

mod answer;
mod cells;
mod cluster;
pub(crate) mod evidence;
mod explainer;
mod facts;
mod inquiry;
mod lent;
mod live;
mod named;
mod overlay;
mod position;
mod probe;
mod question;
mod recorder;
mod remedy;
mod socket;
mod tell;
mod text;
mod words;
mod world;

pub use answer::{Answer, Hop, Reached, Remedies, Remedy, Verdict};
pub use cluster::{Cluster, PodObject};
pub use evidence::Evidence;
pub use explainer::{ExplainError, Worlds, explain};
pub use live::{Live, LiveRoute, Served, explain_live};
pub use named::{Named, Wanted, wanted};
pub use probe::{Probe, Verified};
pub use question::{Client, Destination, Question, QuestionError};
