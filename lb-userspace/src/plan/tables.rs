//! Lookup tables, shared: sets whose tables are equal have one table between them.

use std::collections::{BTreeSet, HashMap};

use lb_common::maglev;

use super::{
    alloc::{Region, Regions},
    lookup_table::LookupTable,
};

/// All tables that a set refers to.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    regions: Regions,
    known: HashMap<LookupTable, Table>,
    /// What each table is, by its first element.
    by_first: HashMap<u32, LookupTable>,
    /// First elements of tables that were not written yet.
    unwritten: BTreeSet<u32>,
}

#[derive(Clone, Debug)]
struct Table {
    region: Region,
    /// Sets that refer to it.
    users: u32,
}

/// A set's claim on a table.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct TableRef {
    /// First element.
    pub(super) first: u32,
    /// Rows; without rows there is no table.
    pub(super) rows: u32,
}

impl Tables {
    pub(super) fn new(elements: u32) -> Self {
        Self {
            regions: Regions::new(elements),
            known: HashMap::new(),
            by_first: HashMap::new(),
            unwritten: BTreeSet::new(),
        }
    }

    /// A claim on this table; `None` if there is no room for it.
    pub(super) fn claim(&mut self, lookup: LookupTable) -> Option<TableRef> {
        let rows = lookup.size();
        if rows == 0 {
            return Some(TableRef::default());
        }
        let first = match self.known.get_mut(&lookup) {
            Some(table) => {
                table.users += 1;
                table.region.first
            }
            None => {
                let region = self.regions.take(maglev::elements_for(rows))?;
                self.by_first.insert(region.first, lookup.clone());
                self.unwritten.insert(region.first);
                self.known.insert(lookup, Table { region, users: 1 });
                region.first
            }
        };
        Some(TableRef { first, rows })
    }

    /// Gives up a claim. The last one to do so frees the table, after a grace period.
    pub(super) fn release(&mut self, claim: TableRef) {
        if claim.rows == 0 {
            return;
        }
        let lookup = self
            .by_first
            .get(&claim.first)
            .expect("a claimed table exists")
            .clone();
        let table = self
            .known
            .get_mut(&lookup)
            .expect("both indices hold the same tables");
        table.users -= 1;
        if table.users == 0 {
            self.regions.release(table.region);
            self.known.remove(&lookup);
            self.by_first.remove(&claim.first);
            self.unwritten.remove(&claim.first);
        }
    }

    /// Tables that are still to be written.
    pub(super) fn unwritten(&self) -> impl Iterator<Item = (u32, &LookupTable)> + '_ {
        self.unwritten.iter().map(|first| (*first, &self.by_first[first]))
    }

    pub(super) fn wrote(&mut self, first: u32) {
        self.unwritten.remove(&first);
    }

    pub(super) fn is_written(&self, claim: TableRef) -> bool {
        claim.rows == 0 || !self.unwritten.contains(&claim.first)
    }

    /// Elements that are not free.
    pub(super) fn taken(&self) -> u32 {
        self.regions.taken()
    }

    pub(super) fn awaits_grace(&self) -> bool {
        self.regions.awaits_grace()
    }

    pub(super) fn grace_passed(&mut self) {
        self.regions.grace_passed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::layout::tests::arrange;

    #[test]
    fn equal_tables_are_one_and_the_last_user_frees_it() {
        let mut tables = Tables::new(2);
        let apart = arrange(&[(1, true, true, false), (2, false, false, true)]);
        let alone = arrange(&[(7, false, false, true)]);
        let together = arrange(&[(1, false, false, true), (2, false, false, true)]);
        // Whoever it is: a table for one backend has one row.
        let a = tables.claim(apart.local_table(0)).unwrap();
        let b = tables.claim(alone.cluster_table(0)).unwrap();
        assert_eq!(a, b);
        assert_eq!(tables.unwritten().count(), 1);
        tables.wrote(a.first);
        assert!(tables.is_written(b));
        let other = tables.claim(apart.cluster_table(0)).unwrap();
        assert_ne!(other.first, a.first, "its backend is in another position");
        assert_eq!(tables.claim(together.cluster_table(0)), None);
        tables.release(a);
        assert!(!tables.awaits_grace());
        tables.release(b);
        assert!(tables.awaits_grace());
        tables.release(other);
        assert_eq!(
            tables.claim(alone.cluster_table(0)),
            None,
            "not before a grace period"
        );
        tables.grace_passed();
        assert!(tables.claim(alone.cluster_table(0)).is_some());
    }

    #[test]
    fn a_scope_without_backends_has_no_table() {
        let mut tables = Tables::new(0);
        let none = tables.claim(arrange(&[]).local_table(0)).unwrap();
        assert_eq!(none.rows, 0);
        assert!(tables.is_written(none));
        tables.release(none);
    }
}
