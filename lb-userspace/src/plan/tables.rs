//! Lookup tables, shared: sets whose tables are equal row by row have one table between them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use lb_common::maglev;

use super::alloc::{Region, Regions};

/// All tables that a set refers to.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    regions: Regions,
    by_rows: HashMap<Arc<[u16]>, Table>,
    /// First element of each table, and its rows.
    by_first: HashMap<u32, Arc<[u16]>>,
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
            by_rows: HashMap::new(),
            by_first: HashMap::new(),
            unwritten: BTreeSet::new(),
        }
    }

    /// A claim on the table with these rows; `None` if there is no room for it.
    pub(super) fn claim(&mut self, rows: Arc<[u16]>) -> Option<TableRef> {
        let count = u32::try_from(rows.len()).ok()?;
        if count == 0 {
            return Some(TableRef::default());
        }
        let first = match self.by_rows.get_mut(&rows) {
            Some(table) => {
                table.users += 1;
                table.region.first
            }
            None => {
                let region = self.regions.take(maglev::elements_for(count))?;
                self.by_first.insert(region.first, rows.clone());
                self.unwritten.insert(region.first);
                self.by_rows.insert(rows, Table { region, users: 1 });
                region.first
            }
        };
        Some(TableRef { first, rows: count })
    }

    /// Gives up a claim. The last one to do so frees the table, after a grace period.
    pub(super) fn release(&mut self, claim: TableRef) {
        if claim.rows == 0 {
            return;
        }
        let rows = self
            .by_first
            .get(&claim.first)
            .expect("a claimed table exists")
            .clone();
        let table = self
            .by_rows
            .get_mut(&rows)
            .expect("both indices hold the same tables");
        table.users -= 1;
        if table.users == 0 {
            self.regions.release(table.region);
            self.by_rows.remove(&rows);
            self.by_first.remove(&claim.first);
            self.unwritten.remove(&claim.first);
        }
    }

    /// Tables that are still to be written.
    pub(super) fn unwritten(&self) -> impl Iterator<Item = (u32, Arc<[u16]>)> + '_ {
        self.unwritten
            .iter()
            .map(|first| (*first, self.by_first[first].clone()))
    }

    pub(super) fn wrote(&mut self, first: u32) {
        self.unwritten.remove(&first);
    }

    pub(super) fn is_written(&self, claim: TableRef) -> bool {
        claim.rows == 0 || !self.unwritten.contains(&claim.first)
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

    #[test]
    fn equal_tables_are_one_and_the_last_user_frees_it() {
        let mut tables = Tables::new(2);
        let a = tables.claim([0u16].into()).unwrap();
        let b = tables.claim([0u16].into()).unwrap();
        assert_eq!(a, b);
        assert_eq!(tables.unwritten().count(), 1);
        tables.wrote(a.first);
        assert!(tables.is_written(b));
        let other = tables.claim([1u16].into()).unwrap();
        assert_ne!(other.first, a.first);
        assert_eq!(tables.claim([2u16].into()), None);
        tables.release(a);
        assert!(!tables.awaits_grace());
        tables.release(b);
        assert_eq!(tables.claim([2u16].into()), None, "not before a grace period");
        tables.grace_passed();
        assert!(tables.claim([2u16].into()).is_some());
    }

    #[test]
    fn a_scope_without_backends_has_no_table() {
        let mut tables = Tables::new(0);
        let none = tables.claim([].into()).unwrap();
        assert_eq!(none.rows, 0);
        assert!(tables.is_written(none));
        tables.release(none);
    }
}
