//! Counts what is done to the maps, so that work without need is seen.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{MapError, Table, Wrap};

/// What was done to the maps since the start; shared by those who do and those who ask.
#[derive(Clone, Default, Debug)]
pub struct Writes(Arc<Mutex<BTreeMap<&'static str, Arc<Tally>>>>);

/// What was done to one map.
#[derive(Default, Debug)]
struct Tally {
    puts: AtomicU64,
    removals: AtomicU64,
    /// By error number.
    failed: Mutex<BTreeMap<i32, u64>>,
}

/// How often something was done to a map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapWrites {
    /// Name of the map.
    pub map: &'static str,
    /// Entries written.
    pub puts: u64,
    /// Entries removed.
    pub removals: u64,
    /// Attempts at either that failed, by error number.
    pub failed: BTreeMap<i32, u64>,
}

impl Writes {
    /// Everything so far, by name of the map.
    #[must_use]
    pub fn list(&self) -> Vec<MapWrites> {
        let tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let list = tallies.iter().map(|(map, tally)| MapWrites {
            map,
            puts: tally.puts.load(Ordering::Relaxed),
            removals: tally.removals.load(Ordering::Relaxed),
            failed: tally
                .failed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        });
        list.collect()
    }
}

impl Wrap for Writes {
    fn wrap<K: 'static, V: 'static>(
        &self,
        name: &'static str,
        inner: Box<dyn Table<K, V>>,
    ) -> Box<dyn Table<K, V>> {
        let tally = Arc::default();
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.insert(name, Arc::clone(&tally));
        Box::new(Counted { tally, inner })
    }
}

/// A map whose writes are counted.
struct Counted<T: ?Sized> {
    tally: Arc<Tally>,
    inner: Box<T>,
}

impl Tally {
    fn count(&self, done: &AtomicU64, result: Result<(), MapError>) -> Result<(), MapError> {
        match &result {
            Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                *failed.entry(error.kind().1).or_default() += 1;
            }
        }
        result
    }
}

impl<K, V> Table<K, V> for Counted<dyn Table<K, V>> {
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        let result = self.inner.put(key, value);
        self.tally.count(&self.tally.puts, result)
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        let result = self.inner.remove(key);
        self.tally.count(&self.tally.removals, result)
    }

    fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        self.inner.entries()
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::Device;

    use super::*;
    use crate::maps::fake::Fake;

    #[test]
    fn every_write_is_counted_once_with_its_map_and_its_error() {
        let (fake, store) = Fake::new();
        let writes = Writes::default();
        let mut store = store.wrapped(&writes);
        store.devices.put(&1, &Device::default()).unwrap();
        store.devices.put(&2, &Device::default()).unwrap();
        store.devices.remove(&1).unwrap();
        fake.fail(1, 0);
        assert!(store.devices.put(&3, &Device::default()).is_err());
        let list = writes.list();
        let of = |map| list.iter().find(|writes| writes.map == map).unwrap();
        let (devices, node) = (of("devices"), of("node"));
        assert_eq!((devices.puts, devices.removals), (2, 1));
        assert_eq!(devices.failed, BTreeMap::from([(libc::EBUSY, 1)]));
        assert_eq!((node.puts, node.removals, node.failed.len()), (0, 0, 0));
    }
}
