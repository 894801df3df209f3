//! One line for each backend of each Service port: where it is, and what part of the new flows it gets.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::abi::{Backend, Family, Set};
use serde::Serialize;

use super::{
    filter::Filter,
    names::{Names, ServiceName},
    ports::{family, place, ports, protocol, row_counts},
    table::{Row, or_dash},
};
use crate::maps::{MapError, Walk};

/// A backend of a Service port.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct BackendRow {
    /// Whose backend it is; null if names are not known.
    pub service: Option<ServiceName>,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// It runs on this node.
    pub on_this_node: bool,
    /// Its address is its node's: a pod in the network of its host.
    pub host_network: bool,
    /// Its rows in the table of policy Cluster; null: that policy does not use it.
    pub rows: Option<u32>,
    /// The same as a share of the table, in per cent.
    pub share: Option<f64>,
    /// Its rows in the table of policy Local; null: that policy does not use it.
    pub rows_local: Option<u32>,
    /// The same as a share of the table, in per cent.
    pub share_local: Option<f64>,
    /// Index of the set in the maps.
    pub set: u32,
    /// Index of the backend in the maps.
    pub backend_index: u32,
}

/// The backends of one family that `filter` wants, sorted.
///
/// # Errors
/// If a map cannot be read.
pub fn backends<F: Family>(
    maps: &dyn Walk<F>,
    names: &Names,
    filter: &Filter,
) -> Result<Vec<BackendRow>, MapError> {
    let mut seen = BTreeSet::new();
    let mut rows = Vec::new();
    for port in ports(maps, names)? {
        let Some((index, set)) = port.set else { continue };
        // All frontends of a Service port share its backends.
        if !filter.admits(port.name.as_ref(), filter.address.as_slice()) || !seen.insert(port.service) {
            continue;
        }
        let cluster = row_counts(maps, set.cluster_table, set.cluster_rows, set.total)?;
        let local = row_counts(maps, set.local_table, set.local_rows, set.total)?;
        for position in 0..set.total {
            let backend_index = set.backends + u32::from(position);
            let Some(Backend {
                address,
                port: to,
                flags,
            }) = maps.backend(backend_index)?
            else {
                continue;
            };
            let address: IpAddr = address.into();
            if !filter.admits(port.name.as_ref(), &[address]) {
                continue;
            }
            let at = usize::from(position);
            let in_cluster = (position >= set.cluster_from).then(|| cluster[at]);
            let in_local = (position < set.local).then(|| local[at]);
            let Set {
                cluster_rows,
                local_rows,
                ..
            } = set;
            rows.push(BackendRow {
                service: port.name.clone(),
                family: family::<F>(),
                address,
                port: to,
                protocol: protocol(port.key.protocol),
                on_this_node: flags & Backend::<()>::LOCAL != 0,
                host_network: flags & Backend::<()>::HOST != 0,
                rows: in_cluster,
                share: in_cluster.map(|rows| share(rows, cluster_rows)),
                rows_local: in_local,
                share_local: in_local.map(|rows| share(rows, local_rows)),
                set: index,
                backend_index,
            });
        }
    }
    let order = |row: &BackendRow| {
        let later = row.family != "IPv4";
        (
            row.service.is_none(),
            row.service.clone(),
            later,
            row.protocol.clone(),
            row.set,
            row.address,
            row.port,
        )
    };
    rows.sort_by_cached_key(order);
    Ok(rows)
}

/// In per cent, to two digits.
fn share(rows: u32, of: u32) -> f64 {
    if of == 0 {
        return 0.0;
    }
    (f64::from(rows) / f64::from(of) * 10_000.0).round() / 100.0
}

impl Row for BackendRow {
    fn headings(wide: bool) -> Vec<&'static str> {
        let mut headings = vec!["SERVICE", "BACKEND", "NODE", "SHARE", "LOCAL-SHARE"];
        if wide {
            headings.extend(["ROWS", "LOCAL-ROWS", "NETWORK", "SET", "INDEX"]);
        }
        headings
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let per_cent = |share: Option<f64>| or_dash(share.map(|share| format!("{share:.1}%")));
        let mut cells = vec![
            self.service
                .as_ref()
                .map_or_else(|| "?".to_owned(), ToString::to_string),
            place(self.address, self.port, &self.protocol),
            if self.on_this_node { "this" } else { "other" }.to_owned(),
            per_cent(self.share),
            per_cent(self.share_local),
        ];
        if wide {
            cells.extend([
                or_dash(self.rows),
                or_dash(self.rows_local),
                if self.host_network { "host" } else { "pod" }.to_owned(),
                self.set.to_string(),
                self.backend_index.to_string(),
            ]);
        }
        cells
    }
}
