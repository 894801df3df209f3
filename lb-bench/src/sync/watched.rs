//! The real maps, with an account of every write.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use lb_common::abi::names;
use lb_userspace::maps::{MapError, MapStore, Table, Wrap};

/// What was written since it was last asked, in order.
#[derive(Clone, Default, Debug)]
pub(crate) struct Account(Arc<Mutex<Writes>>);

/// Writes, in order.
#[derive(Clone, Default, Debug)]
pub(crate) struct Writes {
    /// Names of the maps.
    pub(crate) maps: Vec<&'static str>,
    /// When the first Service's word was written.
    pub(crate) switched: Option<Instant>,
}

impl Writes {
    /// How many there were into a map.
    pub(crate) fn count_of(&self, map: &str) -> usize {
        self.maps.iter().filter(|name| **name == map).count()
    }

    /// How many there were into each map.
    pub(crate) fn summary(&self) -> String {
        let mut names: Vec<_> = self.maps.clone();
        names.sort_unstable();
        names.dedup();
        let one = |name: &&str| format!("{} {name}", self.count_of(name));
        names.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

impl Account {
    /// What was written since the last call.
    pub(crate) fn take(&self) -> Writes {
        std::mem::take(&mut *self.lock())
    }

    /// When a Service's word was written first, since the last [`Account::take`].
    pub(crate) fn switched(&self) -> Option<Instant> {
        self.lock().switched
    }

    fn lock(&self) -> MutexGuard<'_, Writes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wrote(&self, map: &'static str) {
        let mut writes = self.lock();
        writes.maps.push(map);
        if names::SERVICES.contains(&map) {
            writes.switched.get_or_insert_with(Instant::now);
        }
    }

    /// `store`, every write of which is noted here.
    pub(crate) fn watch(&self, store: MapStore) -> MapStore {
        store.wrapped(self)
    }
}

impl Wrap for Account {
    fn wrap<K: 'static, V: 'static>(
        &self,
        name: &'static str,
        inner: Box<dyn Table<K, V>>,
    ) -> Box<dyn Table<K, V>> {
        Box::new(Watched {
            name,
            inner,
            account: self.clone(),
        })
    }
}

struct Watched<K, V> {
    name: &'static str,
    inner: Box<dyn Table<K, V>>,
    account: Account,
}

impl<K, V> Table<K, V> for Watched<K, V> {
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.inner.put(key, value)?;
        self.account.wrote(self.name);
        Ok(())
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        self.inner.remove(key)?;
        self.account.wrote(self.name);
        Ok(())
    }

    fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        self.inner.entries()
    }
}
