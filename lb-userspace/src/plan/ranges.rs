//! Tables of source ranges: sets with equal ranges have one table between them, so a change of endpoints writes none.
//!
//! *Invariants*: a table is complete before a set names it, and never changes; it is taken away after a grace period;
//! its number is given away again once nothing of it is left in the map.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::abi::{Family, Range, RangeKey};

use super::{
    alloc::{Region, Regions},
    entries::Entries,
};

/// A range: address and length in bits.
type Prefix<A> = (A, u8);

/// All tables that a set refers to, and what is left of others.
#[derive(Debug)]
pub(super) struct Ranges<F: Family> {
    pub(super) entries: Entries<Prefix<RangeKey<F::Addr>>, Range>,
    numbers: Regions,
    by_content: BTreeMap<Arc<[Prefix<F::Addr>]>, u32>,
    tables: BTreeMap<u32, Table<F::Addr>>,
    /// Tables without users, which may still be read.
    retired: Vec<u32>,
    /// Tables that are being removed from the map.
    leaving: BTreeSet<u32>,
    /// Ranges of all tables.
    used: usize,
    capacity: u32,
}

#[derive(Debug)]
struct Table<A> {
    content: Arc<[Prefix<A>]>,
    /// Sets that refer to it.
    users: u32,
    /// A set that refers to it could be read, or could be until lately.
    is_read: bool,
}

impl<F: Family> Ranges<F> {
    /// Room for so many tables, with so many ranges together.
    pub(super) fn new(tables: u32, capacity: u32) -> Self {
        Self {
            entries: Entries::default(),
            numbers: Regions::new(tables),
            by_content: BTreeMap::new(),
            tables: BTreeMap::new(),
            retired: Vec::new(),
            leaving: BTreeSet::new(),
            used: 0,
            capacity,
        }
    }

    /// A claim on the table with these ranges; `None` if there is no room for it.
    pub(super) fn claim(&mut self, content: &Arc<[Prefix<F::Addr>]>) -> Option<u32> {
        if let Some(number) = self.by_content.get(content).copied() {
            self.table(number).users += 1;
            return Some(number);
        }
        if self.used + content.len() > self.capacity as usize {
            return None;
        }
        let number = self.numbers.take(1)?.first;
        self.used += content.len();
        for key in keys::<F>(number, content) {
            self.entries.want(key, Some(Range { accepted: 1 }));
        }
        let table = Table {
            content: content.clone(),
            users: 1,
            is_read: false,
        };
        self.by_content.insert(content.clone(), number);
        self.tables.insert(number, table);
        Some(number)
    }

    /// Gives up the claim of a set that could be read. The last one to do so frees the table, after a grace period.
    pub(super) fn release(&mut self, number: u32) {
        self.table(number).is_read = true;
        self.give_back(number);
    }

    /// Gives up the claim of a set that nothing ever referred to.
    pub(super) fn give_back(&mut self, number: u32) {
        let table = self.table(number);
        table.users -= 1;
        if table.users > 0 {
            return;
        }
        let (content, is_read) = (table.content.clone(), table.is_read);
        self.by_content.remove(&content);
        if is_read {
            self.retired.push(number);
        } else {
            self.take_away(number);
            self.forget_what_has_left();
        }
    }

    fn take_away(&mut self, number: u32) {
        for key in keys::<F>(number, &self.tables[&number].content) {
            self.entries.want(key, None);
        }
        self.leaving.insert(number);
    }

    /// Whether all of a table is in the map.
    pub(super) fn is_written(&self, number: u32) -> bool {
        let written = self.entries.written();
        keys::<F>(number, &self.tables[&number].content).all(|key| written.contains_key(&key))
    }

    pub(super) fn wrote(&mut self, key: Prefix<RangeKey<F::Addr>>, range: Option<Range>) {
        self.entries.wrote(key, range);
        self.forget_what_has_left();
    }

    pub(super) fn is_settled(&self) -> bool {
        self.entries.is_settled() && !self.awaits_grace()
    }

    pub(super) fn awaits_grace(&self) -> bool {
        !self.retired.is_empty()
    }

    /// What was given up before can be removed.
    pub(super) fn grace_passed(&mut self) {
        for number in std::mem::take(&mut self.retired) {
            self.take_away(number);
        }
        self.forget_what_has_left();
    }

    fn forget_what_has_left(&mut self) {
        let written = self.entries.written();
        let tables = &self.tables;
        let gone =
            |number: &u32| !keys::<F>(*number, &tables[number].content).any(|key| written.contains_key(&key));
        for number in self.leaving.extract_if(.., gone).collect::<Vec<_>>() {
            self.used -= self.tables.remove(&number).map_or(0, |table| table.content.len());
            self.numbers.give_back(Region {
                first: number,
                length: 1,
            });
        }
    }

    fn table(&mut self, number: u32) -> &mut Table<F::Addr> {
        self.tables.get_mut(&number).expect("a claimed table exists")
    }
}

/// The keys of a table in the map.
fn keys<F: Family>(
    table: u32,
    content: &[Prefix<F::Addr>],
) -> impl Iterator<Item = Prefix<RangeKey<F::Addr>>> + '_ {
    content.iter().map(move |(address, length)| {
        let address = *address;
        (
            RangeKey { table, address },
            RangeKey::<F::Addr>::TABLE_BITS as u8 + length,
        )
    })
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Addr4, V4};

    use super::{super::entries::Change, *};

    fn content(octets: &[u8]) -> Arc<[Prefix<Addr4>]> {
        let prefix = |octet: &u8| {
            let bytes = [10, *octet, 0, 0];
            (Addr4 { bytes }, 16)
        };
        octets.iter().map(prefix).collect()
    }

    /// Writes what is left to write; how much that was.
    fn write(ranges: &mut Ranges<V4>) -> usize {
        let changes: Vec<_> = ranges.entries.changes().collect();
        for (key, change) in &changes {
            let value = match change {
                Change::Remove => None,
                Change::Insert(value) | Change::Replace(value) => Some(*value),
            };
            ranges.wrote(*key, value);
        }
        changes.len()
    }

    #[test]
    fn equal_ranges_are_one_table_which_the_last_user_takes_away_after_a_grace_period() {
        let mut ranges = Ranges::<V4>::new(2, 3);
        let one = ranges.claim(&content(&[1, 2])).unwrap();
        assert!(!ranges.is_written(one));
        assert_eq!(write(&mut ranges), 2);
        assert!(ranges.is_written(one));
        assert_eq!(ranges.claim(&content(&[1, 2])), Some(one));
        assert_eq!(write(&mut ranges), 0, "nothing is written for a second user");
        assert_eq!(ranges.claim(&content(&[3, 4])), None, "no room");
        ranges.release(one);
        assert!(ranges.is_settled());
        ranges.release(one);
        assert!(
            ranges.awaits_grace() && write(&mut ranges) == 0,
            "it may still be read"
        );
        ranges.grace_passed();
        assert_eq!(ranges.claim(&content(&[3, 4])), None, "it is still in the map");
        assert_eq!(write(&mut ranges), 2);
        assert_eq!(ranges.claim(&content(&[3, 4])), Some(one));
        assert!(!ranges.is_written(one));
    }

    #[test]
    fn what_was_never_read_needs_no_grace_period() {
        let mut ranges = Ranges::<V4>::new(1, 2);
        let draft = ranges.claim(&content(&[1])).unwrap();
        ranges.give_back(draft);
        assert!(ranges.is_settled());
        let live = ranges.claim(&content(&[2])).unwrap();
        write(&mut ranges);
        let draft = ranges.claim(&content(&[2])).unwrap();
        ranges.release(live);
        ranges.give_back(draft);
        assert!(ranges.awaits_grace(), "the one before could be read until now");
    }

    #[test]
    fn a_table_without_ranges_is_complete_at_once() {
        let mut ranges = Ranges::<V4>::new(1, 0);
        let none = ranges.claim(&content(&[])).unwrap();
        assert!(ranges.is_written(none));
        ranges.release(none);
        ranges.grace_passed();
        assert!(ranges.is_settled());
        assert_eq!(ranges.claim(&content(&[])), Some(none));
    }
}
