//! A map of which both is remembered: what should be in it and what was written to it.
//!
//! *Invariant*: only keys whose two sides differ are looked at, so what does not change costs nothing.

use std::collections::{BTreeMap, BTreeSet};

/// Wanted and written entries of one map.
#[derive(Clone, Debug)]
pub(super) struct Entries<K, V> {
    wanted: BTreeMap<K, V>,
    written: BTreeMap<K, V>,
    /// Keys whose two sides differ.
    open: BTreeSet<K>,
}

/// How the written entry becomes the wanted one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change<V> {
    Insert(V),
    Replace(V),
    Remove,
}

impl<K, V> Default for Entries<K, V> {
    fn default() -> Self {
        Self {
            wanted: BTreeMap::new(),
            written: BTreeMap::new(),
            open: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Copy, V: PartialEq + Copy> Entries<K, V> {
    /// Says what should be there; `None`: nothing.
    pub(super) fn want(&mut self, key: K, value: Option<V>) {
        match value {
            Some(value) => self.wanted.insert(key, value),
            None => self.wanted.remove(&key),
        };
        self.compare(key);
    }

    /// Notes what was written; `None`: removed.
    pub(super) fn wrote(&mut self, key: K, value: Option<V>) -> Option<V> {
        let before = match value {
            Some(value) => self.written.insert(key, value),
            None => self.written.remove(&key),
        };
        self.compare(key);
        before
    }

    fn compare(&mut self, key: K) {
        if self.wanted.get(&key) == self.written.get(&key) {
            self.open.remove(&key);
        } else {
            self.open.insert(key);
        }
    }

    /// What should be there.
    pub(super) fn wanted(&self) -> &BTreeMap<K, V> {
        &self.wanted
    }

    /// What was written.
    pub(super) fn written(&self) -> &BTreeMap<K, V> {
        &self.written
    }

    /// What is left to write.
    pub(super) fn changes(&self) -> impl Iterator<Item = (K, Change<V>)> + '_ {
        self.open.iter().map(|key| {
            let change = match (self.wanted.get(key), self.written.contains_key(key)) {
                (Some(value), false) => Change::Insert(*value),
                (Some(value), true) => Change::Replace(*value),
                (None, _) => Change::Remove,
            };
            (*key, change)
        })
    }

    /// Whether nothing is left to write.
    pub(super) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_are_written_and_a_failed_write_stays() {
        let mut entries = Entries::default();
        entries.want(1, Some('a'));
        entries.want(2, Some('b'));
        assert_eq!(
            entries.changes().collect::<Vec<_>>(),
            [(1, Change::Insert('a')), (2, Change::Insert('b'))]
        );
        assert_eq!(entries.wrote(1, Some('a')), None);
        assert_eq!(entries.changes().collect::<Vec<_>>(), [(2, Change::Insert('b'))]);
        entries.want(1, Some('c'));
        entries.want(2, None);
        assert_eq!(entries.changes().collect::<Vec<_>>(), [(1, Change::Replace('c'))]);
        entries.want(1, Some('a'));
        assert!(entries.is_settled());
        entries.want(1, None);
        assert_eq!(entries.changes().collect::<Vec<_>>(), [(1, Change::Remove)]);
        assert_eq!(entries.wrote(1, None), Some('a'));
        assert!(entries.is_settled());
    }
}
