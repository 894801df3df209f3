//! Maps whose every write fails for a while, so that tests see how a real agent fares that cannot write.
//!
//! *Not here*: maps in memory that fail at random, see [`super::fake`].

use std::{io, path::PathBuf, sync::Arc};

use lb_common::abi::Family;

use super::{FamilyMaps, MapError, MapStore, Table};

/// A map that refuses to be written while a file exists.
struct Faulty<T: ?Sized> {
    name: &'static str,
    file: Arc<PathBuf>,
    inner: Box<T>,
}

impl<T: ?Sized> Faulty<T> {
    fn check(&self) -> Result<(), MapError> {
        if self.file.exists() {
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
    use lb_common::abi::names;
    let file = &Arc::new(file);
    let MapStore {
        node,
        devices,
        maglev,
        v4,
        v6,
        grace,
    } = store;
    MapStore {
        node: faulty(names::NODE, file, node),
        devices: faulty(names::DEVICES, file, devices),
        maglev: faulty(names::MAGLEV, file, maglev),
        v4: family(file, v4),
        v6: family(file, v6),
        grace,
    }
}

fn family<F: Family>(file: &Arc<PathBuf>, maps: FamilyMaps<F>) -> FamilyMaps<F> {
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
        addresses: faulty(names::ADDRESSES[F::INDEX], file, addresses),
        sources: faulty(names::SOURCES[F::INDEX], file, sources),
        frontends: faulty(names::FRONTENDS[F::INDEX], file, frontends),
        ranges: faulty(names::RANGES[F::INDEX], file, ranges),
        services: faulty(names::SERVICES[F::INDEX], file, services),
        sets: faulty(names::SETS[F::INDEX], file, sets),
        backends: faulty(names::BACKENDS[F::INDEX], file, backends),
    }
}

fn faulty<K: 'static, V: 'static>(
    name: &'static str,
    file: &Arc<PathBuf>,
    inner: Box<dyn Table<K, V>>,
) -> Box<dyn Table<K, V>> {
    Box::new(Faulty {
        name,
        file: Arc::clone(file),
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
