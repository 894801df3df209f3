//! Maps whose writes fail when a test says so: for a while, to see how a real agent fares that cannot write, or now
//! and then.
//!
//! *Not here*: maps in memory that fail at random, see [`super::fake`].

use std::{io, path::PathBuf, sync::Arc};

use lb_common::abi::Family;

use super::{FamilyMaps, MapError, MapStore, Table};

/// Asked before every write whether it fails.
type Condition = Arc<dyn Fn() -> bool + Send + Sync>;

/// A map that refuses to be written on a condition.
struct Faulty<T: ?Sized> {
    name: &'static str,
    fails: Condition,
    inner: Box<T>,
}

impl<T: ?Sized> Faulty<T> {
    fn check(&self) -> Result<(), MapError> {
        if (self.fails)() {
            return Err(MapError {
                map: self.name,
                call: "a test's fault",
                source: io::Error::from_raw_os_error(libc::EIO),
            });
        }
        Ok(())
    }
}

impl<K, V> Table<K, V> for Faulty<dyn Table<K, V>> {
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.check()?;
        self.inner.put(key, value)
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        self.check()?;
        self.inner.remove(key)
    }

    fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        self.inner.entries()
    }
}

/// `store`, but every write of it fails while `file` is there.
#[must_use]
pub fn while_exists(file: PathBuf, store: MapStore) -> MapStore {
    when(move || file.exists(), store)
}

/// `store`, but each write of it fails for which `fails` is true.
#[must_use]
pub fn when(fails: impl Fn() -> bool + Send + Sync + 'static, store: MapStore) -> MapStore {
    use lb_common::abi::names;
    let fails: &Condition = &(Arc::new(fails) as Condition);
    let MapStore {
        node,
        devices,
        maglev,
        v4,
        v6,
        grace,
    } = store;
    MapStore {
        node: faulty(names::NODE, fails, node),
        devices: faulty(names::DEVICES, fails, devices),
        maglev: faulty(names::MAGLEV, fails, maglev),
        v4: family(fails, v4),
        v6: family(fails, v6),
        grace,
    }
}

fn family<F: Family>(fails: &Condition, maps: FamilyMaps<F>) -> FamilyMaps<F> {
    use lb_common::abi::names;
    let FamilyMaps {
        addresses,
        sources,
        frontends,
        ranges,
        services,
        sets,
        backends,
    } = maps;
    FamilyMaps {
        addresses: faulty(names::ADDRESSES[F::INDEX], fails, addresses),
        sources: faulty(names::SOURCES[F::INDEX], fails, sources),
        frontends: faulty(names::FRONTENDS[F::INDEX], fails, frontends),
        ranges: faulty(names::RANGES[F::INDEX], fails, ranges),
        services: faulty(names::SERVICES[F::INDEX], fails, services),
        sets: faulty(names::SETS[F::INDEX], fails, sets),
        backends: faulty(names::BACKENDS[F::INDEX], fails, backends),
    }
}

fn faulty<K: 'static, V: 'static>(
    name: &'static str,
    fails: &Condition,
    inner: Box<dyn Table<K, V>>,
) -> Box<dyn Table<K, V>> {
    Box::new(Faulty {
        name,
        fails: Arc::clone(fails),
        inner,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use lb_common::abi::Device;

    use super::*;
    use crate::maps::fake::Fake;

    #[test]
    fn writes_fail_while_the_file_is_there_and_only_then() {
        let file = std::env::temp_dir().join(format!("lb-faulty-{}", std::process::id()));
        let (_fake, store) = Fake::new();
        let mut store = while_exists(file.clone(), store);
        let device = Device::default();
        store.devices.put(&7, &device).unwrap();
        fs::write(&file, "").unwrap();
        let error = store.devices.put(&8, &device).unwrap_err();
        assert_eq!(error.kind(), ("devices", libc::EIO));
        assert!(store.devices.remove(&7).is_err());
        assert_eq!(store.devices.entries().unwrap().len(), 1, "reading goes on");
        fs::remove_file(&file).unwrap();
        store.devices.remove(&7).unwrap();
        assert_eq!(store.devices.entries().unwrap().len(), 0);
    }
}
