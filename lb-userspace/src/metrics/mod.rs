//! What is measured, in the words that operators' dashboards know.
//!
//! Everything is read when it is asked for: nothing is counted twice, and nobody has to remember to count.
//!
//! *Not here*: where the numbers come from (`agent`), how they are asked for (`http`).

mod names;
mod process;
mod services;
mod snapshot;
mod text;

pub use names::render;
pub use process::Process;
pub use snapshot::{Flows, NoLocal, ServiceTraffic, Snapshot, SourceState, no_local_endpoints};
