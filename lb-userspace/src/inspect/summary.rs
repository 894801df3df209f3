//! How many flows each client, Service or backend has: who is filling the table.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{flows::FlowRow, table::Row};

/// What flows are counted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SummaryBy {
    /// Clients' addresses.
    Client,
    /// Services' ports.
    Service,
    /// Backends' addresses and ports.
    Backend,
}

/// Flows that have something in common.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SummaryRow {
    /// What they have in common: an address, a Service, or a backend's address and port.
    pub name: String,
    /// How many there are.
    pub flows: u64,
    /// How many of them are established.
    pub established: u64,
    /// How many nobody has answered yet.
    pub unanswered: u64,
    /// Seconds since the last packet of any of them.
    pub idle_seconds: u64,
}

/// Counts flows, those with most first.
#[must_use]
pub fn summary(flows: &[FlowRow], by: SummaryBy) -> Vec<SummaryRow> {
    let mut counted: BTreeMap<String, SummaryRow> = BTreeMap::new();
    for flow in flows {
        let name = match by {
            SummaryBy::Client => flow.client.ip().to_string(),
            SummaryBy::Backend => format!("{}/{}", flow.backend, flow.protocol),
            SummaryBy::Service => match &flow.service {
                Some(service) => service.to_string(),
                None => format!("{}/{}", flow.frontend, flow.protocol),
            },
        };
        let row = counted.entry(name.clone()).or_insert(SummaryRow {
            name,
            flows: 0,
            established: 0,
            unanswered: 0,
            idle_seconds: u64::MAX,
        });
        row.flows += 1;
        row.established += u64::from(flow.state == "established");
        row.unanswered += u64::from(flow.state == "new");
        row.idle_seconds = row.idle_seconds.min(flow.idle_seconds);
    }
    let mut rows: Vec<_> = counted.into_values().collect();
    // Those with as many stay in the order of their names.
    rows.sort_by_key(|row| std::cmp::Reverse(row.flows));
    rows
}

impl Row for SummaryRow {
    fn headings(_: bool) -> Vec<&'static str> {
        vec!["NAME", "FLOWS", "ESTABLISHED", "UNANSWERED", "IDLE"]
    }

    fn cells(&self, _: bool) -> Vec<String> {
        vec![
            self.name.clone(),
            self.flows.to_string(),
            self.established.to_string(),
            self.unanswered.to_string(),
            super::clock::duration(self.idle_seconds),
        ]
    }
}
