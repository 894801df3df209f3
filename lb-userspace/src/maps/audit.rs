//! Do the contents of the maps fit together? What the data path relies on, as a pure function.

use std::collections::BTreeMap;

use lb_common::abi::{Family, Set, names};
use lb_common::maglev;

use super::{Dump, FamilyDump};

/// Contradictions in the contents, each in a sentence; none: every packet finds what it is led to.
///
/// Checked: every frontend's service names a set that is there, for this service; every set's backends
/// and rows are there; every row names a backend of its scope; no two live sets share backends, and
/// tables are either the same or apart.
#[must_use]
pub fn contradictions(dump: &Dump) -> Vec<String> {
    let mut found = Vec::new();
    let mut tables = BTreeMap::new();
    family(&dump.v4, dump, &mut tables, &mut found);
    family(&dump.v6, dump, &mut tables, &mut found);
    overlaps(
        names::MAGLEV,
        tables
            .iter()
            .map(|(first, rows)| (*first, maglev::elements_for(*rows))),
        &mut found,
    );
    found
}

fn family<F: Family>(
    family: &FamilyDump<F>,
    dump: &Dump,
    tables: &mut BTreeMap<u32, u32>,
    found: &mut Vec<String>,
) {
    for (key, frontend) in family.frontends.iter().filter(|(key, _)| !key.is_mark()) {
        if family
            .services
            .get(&frontend.service)
            .and_then(|service| service.set())
            .is_none()
        {
            found.push(format!(
                "frontend {key:?} leads to service {}, which names no set",
                frontend.service
            ));
        }
    }
    let mut regions = Vec::new();
    for (service, index, set) in family.live_sets() {
        let Some(set) = set else {
            found.push(format!("service {service} names set {index}, which is absent"));
            continue;
        };
        if set.service != service {
            found.push(format!(
                "service {service} names set {index}, which is service {}'s",
                set.service
            ));
        }
        if set.local > set.total || set.cluster_from > set.total {
            found.push(format!("set {index} has scopes beyond its backends"));
        }
        let last = set.backends + u32::from(set.total);
        if !(set.backends..last).all(|backend| family.backends.contains_key(&backend)) {
            found.push(format!("set {index} lacks some of its backends"));
        }
        regions.push((set.backends, u32::from(set.total)));
        scope(dump, index, set.local_table, set.local_rows, 0..set.local, found);
        scope(
            dump,
            index,
            set.cluster_table,
            set.cluster_rows,
            set.cluster_from..set.total,
            found,
        );
        claim(tables, set, found);
    }
    regions.retain(|(_, length)| *length > 0);
    regions.sort_unstable();
    overlaps(names::BACKENDS[F::INDEX], regions.into_iter(), found);
}

fn scope(
    dump: &Dump,
    set: u32,
    table: u32,
    rows: u32,
    backends: std::ops::Range<u16>,
    found: &mut Vec<String>,
) {
    if (rows == 0) != backends.is_empty() {
        found.push(format!("set {set} has {rows} rows for the backends {backends:?}"));
    }
    if !dump
        .rows(table, rows)
        .all(|row| row.is_some_and(|row| backends.contains(&row)))
    {
        found.push(format!(
            "set {set} has rows that name none of the backends {backends:?}"
        ));
    }
}

fn claim(tables: &mut BTreeMap<u32, u32>, set: &Set, found: &mut Vec<String>) {
    for (first, rows) in [
        (set.local_table, set.local_rows),
        (set.cluster_table, set.cluster_rows),
    ] {
        if rows > 0 && tables.insert(first, rows).is_some_and(|other| other != rows) {
            found.push(format!(
                "two sets take the table at {first} to be of different sizes"
            ));
        }
    }
}

/// `regions` are sorted.
fn overlaps(map: &str, regions: impl Iterator<Item = (u32, u32)>, found: &mut Vec<String>) {
    let mut end = 0;
    for (first, length) in regions {
        if first < end {
            found.push(format!("{map}: two live regions overlap at {first}"));
        }
        end = first + length;
    }
}
