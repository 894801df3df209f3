//! What there is, for operators: Services, backends, flows and clients' backends out of the maps, as lines and as values; and
//! whether a machine can be served at all (`host`).
//!
//! ```text
//! maps (as programs read them) + names (from the agent's status) -> rows -> table, JSON, YAML
//! what was seen of the machine -> findings, each with what to do
//! ```
//!
//! *Invariant*: nothing here writes, and nothing here knows the rules: why a frontend is not served is what
//! `lb_common::net::choose` answers, which the programs ask too. *Not here*: where maps and names come from, and the
//! commands (`cli`).

mod affinity;
mod backends;
mod clock;
mod filter;
mod flows;
mod host;
mod listing;
mod names;
mod ports;
mod proxy;
mod screen;
mod services;
mod summary;
mod table;
#[cfg(test)]
mod tests;
mod top;
mod traffic;

pub use affinity::{AffinityRow, affinities};
pub use backends::{BackendRow, backends};
pub use clock::Clock;
pub use filter::{Filter, UnknownName};
pub use flows::{FlowRow, flows};
pub use host::{Device, Finding, Found, HostFacts, Level, findings};
pub use listing::{Listing, ProblemRow};
pub use names::{Names, ServiceName};
pub use proxy::Proxy;
pub use screen::Screen;
pub use services::{FrontendRow, Refused, services};
pub use summary::{SummaryBy, SummaryRow, summary};
pub use table::{Row, table};
pub use top::{Rates, Reading, SortBy, Tables, TopRow, top};
pub use traffic::{Amount, BackendTraffic, BackendTrafficRow, Exchanged, OutcomeRow, TrafficRow, traffic};
