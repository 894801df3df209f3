//! The maps of the data path: how they are written and read, in the kernel or in memory.

pub mod audit;
pub mod bpf;
pub mod counted;
pub mod counters;
mod dump;
pub mod fake;
pub mod faulty;
pub mod flows;
pub mod killed;
mod lookup;
mod store;
mod text;
pub mod traffic;

pub use dump::{Dump, FamilyDump};
pub use lookup::{AffinityEntry, FlowEntry, FrontendEntry, InMemory, Lookup, Walk};
pub use store::{FamilyMaps, MapError, MapStore, Prefix, Table, Wrap};
