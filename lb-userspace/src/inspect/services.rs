//! One line for each frontend: policies, backends, tables, and what a client gets that is not served.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};

use lb_common::{
    abi::{Backend, Family, FrontendKind, Node, Outcome, RangeKey, Set},
    net::{Choice, Client, choose},
};
use serde::Serialize;

use super::{
    clock::{Clock, duration},
    filter::Filter,
    names::{Names, ServiceName},
    ports::{Port, address, family, place, ports, protocol},
    table::{Row, or_dash},
};
use crate::maps::{MapError, Walk};

/// A frontend: an address and port that is served.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FrontendRow {
    /// Its Service; null if names are not known.
    pub service: Option<ServiceName>,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`.
    pub kind: &'static str,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// Its address; null for a NodePort, which is on all addresses that accept NodePorts.
    pub address: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `internalTrafficPolicy`: `Cluster` or `Local`. For ClusterIPs.
    pub internal_policy: &'static str,
    /// `externalTrafficPolicy`: `Cluster` or `Local`. For all others, and clients outside.
    pub external_policy: &'static str,
    /// Idle timeout of client affinity, in seconds; null: no affinity.
    pub affinity_seconds: Option<u64>,
    /// Backends that policy Cluster may use.
    pub backends: u16,
    /// Backends on this node, whichever policy may use them.
    pub backends_on_this_node: u16,
    /// Rows of the table of policy Cluster.
    pub rows: u32,
    /// Rows of the table of policy Local.
    pub rows_local: u32,
    /// The only sources that are let in; null: all are. For LoadBalancer addresses only.
    pub source_ranges: Option<Vec<String>>,
    /// All clients get this node's address as their source, as `--masquerade-all` says.
    pub masquerade_all: bool,
    /// Index of the service in the maps.
    pub service_index: u32,
    /// Index of its set in the maps; null: it was changed while this was read.
    pub set: Option<u32>,
    /// First element of the table of policy Cluster in the map `maglev`.
    pub element: u32,
    /// First element of the table of policy Local in the map `maglev`.
    pub element_local: u32,
    /// Who is not served, and why. Empty: everybody is.
    pub refused: Vec<Refused>,
}

/// Clients that are not served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Refused {
    /// `all`; `outside`: clients that are not on this node; `here`: pods and processes of this node.
    pub clients: &'static str,
    /// The reason's name, as `lb-agent counters` counts it.
    pub reason: &'static str,
    /// The reason in a sentence.
    pub meaning: &'static str,
}

/// The frontends of one family that `filter` wants, sorted.
///
/// # Errors
/// If a map cannot be read.
pub fn services<F: Family>(
    maps: &dyn Walk<F>,
    names: &Names,
    filter: &Filter,
    clock: &Clock,
) -> Result<Vec<FrontendRow>, MapError> {
    let ranges = maps.ranges()?;
    let masquerade_all = (maps.node()?).is_some_and(|node| node.flags & Node::MASQUERADE_ALL != 0);
    let mut rows = Vec::new();
    // All frontends of a Service port share its backends.
    let mut backends: BTreeMap<u32, Vec<Backend<F::Addr>>> = BTreeMap::new();
    for port in ports(maps, names)? {
        let of_set = match (port.set, backends.entry(port.service)) {
            (_, Entry::Occupied(known)) => known.into_mut(),
            (None, unknown) => unknown.or_default(),
            (Some((_, set)), unknown) => {
                let all = (set.backends..).take(usize::from(set.total));
                let all: Result<Vec<_>, _> = all.map(|index| maps.backend(index)).collect();
                unknown.or_insert(all?.into_iter().flatten().collect())
            }
        };
        let here = of_set
            .iter()
            .filter(|backend| backend.flags & Backend::<()>::LOCAL != 0)
            .count();
        // A Service is about its backends too.
        let about = of_set
            .iter()
            .map(|backend| backend.address.into())
            .chain(address(&port.key));
        if filter.admits(port.name.as_ref(), &about.collect::<Vec<_>>()) {
            rows.push(row(port, here as u16, &ranges, masquerade_all, clock));
        }
    }
    rows.sort_by(|a, b| order(a).cmp(&order(b)));
    Ok(rows)
}

fn order(row: &FrontendRow) -> (bool, &Option<ServiceName>, &str, bool, Option<IpAddr>, u16, &str) {
    let unnamed = row.service.is_none();
    let later = row.family != "IPv4";
    (
        unnamed,
        &row.service,
        row.kind,
        later,
        row.address,
        row.port,
        &row.protocol,
    )
}

fn row<F: Family>(
    port: Port<F>,
    backends_on_this_node: u16,
    ranges: &[(RangeKey<F::Addr>, u8)],
    masquerade_all: bool,
    clock: &Clock,
) -> FrontendRow {
    let set = port.set.map(|(_, set)| set).unwrap_or_default();
    let limited = port.kind == FrontendKind::LoadBalancer && set.has(Set::RANGES);
    let of_set = ranges
        .iter()
        .filter(|(key, _)| key.table == set.ranges)
        .map(|(key, bits)| {
            let ip: IpAddr = key.address.into();
            let length = u32::from(*bits).saturating_sub(RangeKey::<F::Addr>::TABLE_BITS);
            format!("{ip}/{length}")
        });
    FrontendRow {
        kind: kind(port.kind),
        family: family::<F>(),
        address: address(&port.key),
        port: port.key.port,
        protocol: protocol(port.key.protocol),
        internal_policy: policy(set.has(Set::INTERNAL_LOCAL)),
        external_policy: policy(set.has(Set::EXTERNAL_LOCAL)),
        affinity_seconds: (set.has(Set::AFFINITY)).then(|| clock.seconds(set.affinity_timeout)),
        backends: set.total - set.cluster_from.min(set.total),
        backends_on_this_node,
        rows: set.cluster_rows,
        rows_local: set.local_rows,
        source_ranges: limited.then(|| of_set.collect()),
        masquerade_all,
        service_index: port.service,
        set: port.set.map(|(index, _)| index),
        element: set.cluster_table,
        element_local: set.local_table,
        refused: port
            .set
            .map_or_else(Vec::new, |(_, set)| refused(port.kind, &set)),
        service: port.name,
    }
}

/// Asks the decision itself, for a client outside and for one of this node.
fn refused(kind: FrontendKind, set: &Set) -> Vec<Refused> {
    let ask = |client| match choose(kind, client, set) {
        Choice::Forward { .. } => None,
        Choice::Refuse(outcome) => Some(outcome),
    };
    let line = |clients, outcome: Outcome| Refused {
        clients,
        reason: outcome.name(),
        meaning: outcome.help().trim(),
    };
    match (ask(Client::Outside), ask(Client::Pod)) {
        (Some(outside), Some(here)) if outside == here => vec![line("all", outside)],
        (outside, here) => {
            let outside = outside.map(|outcome| line("outside", outcome));
            let here = here.map(|outcome| line("here", outcome));
            outside.into_iter().chain(here).collect()
        }
    }
}

fn policy(local: bool) -> &'static str {
    if local { "Local" } else { "Cluster" }
}

fn kind(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::LoadBalancer => "LoadBalancer",
        FrontendKind::ExternalIp => "ExternalIP",
    }
}

impl FrontendRow {
    /// The policy that applies to it.
    fn policy(&self) -> &'static str {
        match self.kind {
            "ClusterIP" => self.internal_policy,
            _ => self.external_policy,
        }
    }

    fn served(&self) -> String {
        match self.refused.as_slice() {
            _ if self.set.is_none() => "is being changed".to_owned(),
            [] if self.source_ranges.is_some() => "to its ranges".to_owned(),
            [] => "yes".to_owned(),
            [all] if all.clients == "all" => format!("no: {}", all.reason),
            some => {
                let some = some
                    .iter()
                    .map(|refused| format!("not {}: {}", refused.clients, refused.reason));
                some.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

impl Row for FrontendRow {
    fn headings(wide: bool) -> Vec<&'static str> {
        let mut headings = vec![
            "SERVICE", "KIND", "FRONTEND", "POLICY", "AFFINITY", "BACKENDS", "HERE", "ROWS", "SERVED",
        ];
        if wide {
            headings.extend([
                "INTERNAL",
                "EXTERNAL",
                "LOCAL-ROWS",
                "SOURCE-RANGES",
                "MASQUERADE",
                "INDEX",
                "SET",
                "ELEMENT",
                "LOCAL-ELEMENT",
            ]);
        }
        headings
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let all = if self.family == "IPv4" {
            IpAddr::from([0; 4])
        } else {
            IpAddr::from([0; 16])
        };
        let mut cells = vec![
            self.service
                .as_ref()
                .map_or_else(|| "?".to_owned(), ToString::to_string),
            self.kind.to_owned(),
            place(self.address.unwrap_or(all), self.port, &self.protocol),
            self.policy().to_owned(),
            or_dash(self.affinity_seconds.map(duration)),
            self.backends.to_string(),
            self.backends_on_this_node.to_string(),
            self.rows.to_string(),
            self.served(),
        ];
        if wide {
            let ranges = self.source_ranges.as_ref().map(|ranges| match ranges.as_slice() {
                [] => "nobody".to_owned(),
                ranges => ranges.join(","),
            });
            let element = |rows, element: u32| or_dash((rows > 0).then_some(element));
            cells.extend([
                self.internal_policy.to_owned(),
                self.external_policy.to_owned(),
                self.rows_local.to_string(),
                or_dash(ranges),
                if self.masquerade_all && self.kind == "ClusterIP" {
                    "all"
                } else {
                    "-"
                }
                .to_owned(),
                self.service_index.to_string(),
                or_dash(self.set),
                element(self.rows, self.element),
                element(self.rows_local, self.element_local),
            ]);
        }
        cells
    }
}
