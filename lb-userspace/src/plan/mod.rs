//! From the desired state and the node's facts to exact map contents, as ordered operations.
//!
//! [`Planner`] remembers what was written and what should be there; `layout` says what a Service port looks
//! like in the maps, `alloc` where it goes, `diff` in which order it is written.
//!
//! *Not here*: a clock (the time is passed in), a map (see [`crate::maps`]), a retry (see `crate::apply`).

mod addresses;
mod alloc;
mod capacities;
mod diff;
mod entries;
mod family;
mod fill;
mod layout;
mod lookup_table;
mod op;
mod planner;
mod port;
mod ranges;
mod settings;
mod snat;
mod tables;

pub use capacities::Capacities;
pub use fill::Fill;
pub use lookup_table::LookupTable;
pub use op::{FamilyOp, Op};
pub use planner::{Counts, Failure, Planner};
pub use settings::PlanSettings;
