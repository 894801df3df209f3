//! The real maps, with an account of every write.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use lb_common::abi::{Family, names};
use lb_userspace::maps::{FamilyMaps, MapError, MapStore, Table};

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
        let MapStore {
            node,
            devices,
            maglev,
            v4,
            v6,
            grace,
        } = store;
        MapStore {
            node: self.table(names::NODE, node),
            devices: self.table(names::DEVICES, devices),
            maglev: self.table(names::MAGLEV, maglev),
            v4: self.family(v4),
            v6: self.family(v6),
            grace,
        }
    }

    fn family<F: Family>(&self, maps: FamilyMaps<F>) -> FamilyMaps<F> {
        let FamilyMaps {
            addresses,
            sources,
            frontends,
            services,
            sets,
            backends,
        } = maps;
        FamilyMaps {
            addresses: self.table(names::ADDRESSES[F::INDEX], addresses),
            sources: self.table(names::SOURCES[F::INDEX], sources),
            frontends: self.table(names::FRONTENDS[F::INDEX], frontends),
            services: self.table(names::SERVICES[F::INDEX], services),
            sets: self.table(names::SETS[F::INDEX], sets),
            backends: self.table(names::BACKENDS[F::INDEX], backends),
        }
    }

    fn table<K: 'static, V: 'static>(
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
