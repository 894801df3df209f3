//! The maps in the kernel, through aya.
//!
//! *Not here*: loading, pinning and resizing of maps (`load`).

mod pinned;

use std::{io, path::PathBuf};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError as AyaError, lpm_trie, lpm_trie::LpmTrie},
};
use bytemuck::Zeroable;
use lb_common::abi::{Backend, Family, FrontendKey, RangeKey, names};
use thiserror::Error;

pub use pinned::Pinned;

use super::{FamilyMaps, MapError, MapStore, Prefix, Table};
use crate::membarrier;

/// The maps are not those that the agent expects.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no map of this name.
    #[error("there is no map `{0}`: is an agent of this very version loaded?")]
    Absent(&'static str),
    /// There is one of another type.
    #[error(
        "the map `{map}` has another type than expected: agent and eBPF object are of different versions"
    )]
    Type {
        /// Its name.
        map: &'static str,
        /// What is wrong.
        source: AyaError,
    },
}

/// All maps, each taken by its name out of a loaded object: pass `|name| ebpf.take_map(name)`.
pub fn open(mut take: impl FnMut(&str) -> Option<Map>) -> Result<MapStore, OpenError> {
    Ok(MapStore {
        node: array(names::NODE, &mut take)?,
        devices: hash(names::DEVICES, &mut take)?,
        maglev: array(names::MAGLEV, &mut take)?,
        v4: family(&mut take)?,
        v6: family(&mut take)?,
        grace: Box::new(membarrier::grace_period),
    })
}

/// All maps, each opened by its pin: what the programs use now, whichever process filled it.
pub fn open_pinned(path: impl Fn(&str) -> PathBuf) -> Result<MapStore, OpenError> {
    open(|name| MapData::from_pin(path(name)).and_then(Map::from_map_data).ok())
}

fn family<F: Family>(take: &mut impl FnMut(&str) -> Option<Map>) -> Result<FamilyMaps<F>, OpenError>
where
    F::Addr: Pod + Send,
    FrontendKey<F::Addr>: Pod,
    Backend<F::Addr>: Pod + Zeroable,
    RangeKey<F::Addr>: Pod,
{
    Ok(FamilyMaps {
        addresses: hash(names::ADDRESSES[F::INDEX], take)?,
        sources: trie(names::SOURCES[F::INDEX], take)?,
        ranges: trie(names::RANGES[F::INDEX], take)?,
        frontends: hash(names::FRONTENDS[F::INDEX], take)?,
        services: array(names::SERVICES[F::INDEX], take)?,
        sets: array(names::SETS[F::INDEX], take)?,
        backends: array(names::BACKENDS[F::INDEX], take)?,
    })
}

fn taken(name: &'static str, take: &mut impl FnMut(&str) -> Option<Map>) -> Result<Map, OpenError> {
    take(name).ok_or(OpenError::Absent(name))
}

fn hash<K: Pod + Send, V: Pod + Send>(
    name: &'static str,
    take: &mut impl FnMut(&str) -> Option<Map>,
) -> Result<Box<dyn Table<K, V>>, OpenError> {
    let map = HashMap::try_from(taken(name, take)?);
    Ok(Box::new(Hash {
        name,
        map: map.map_err(|source| OpenError::Type { map: name, source })?,
    }))
}

fn trie<A: Pod + Send, V: Pod + Send>(
    name: &'static str,
    take: &mut impl FnMut(&str) -> Option<Map>,
) -> Result<Box<dyn Table<Prefix<A>, V>>, OpenError> {
    let map = LpmTrie::try_from(taken(name, take)?);
    Ok(Box::new(Trie {
        name,
        map: map.map_err(|source| OpenError::Type { map: name, source })?,
    }))
}

fn array<V: Pod + Zeroable + Send>(
    name: &'static str,
    take: &mut impl FnMut(&str) -> Option<Map>,
) -> Result<Box<dyn Table<u32, V>>, OpenError> {
    let map = Array::try_from(taken(name, take)?);
    Ok(Box::new(Elements {
        name,
        map: map.map_err(|source| OpenError::Type { map: name, source })?,
    }))
}

struct Hash<K: Pod, V: Pod> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
}

struct Trie<A: Pod, V: Pod> {
    name: &'static str,
    map: LpmTrie<MapData, A, V>,
}

struct Elements<V: Pod> {
    name: &'static str,
    map: Array<MapData, V>,
}

impl<K: Pod + Send, V: Pod + Send> Table<K, V> for Hash<K, V> {
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.map
            .insert(key, value, 0)
            .map_err(|error| failed(self.name, "update", error))
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        absent_is_success(self.map.remove(key)).map_err(|error| failed(self.name, "delete", error))
    }

    fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        self.map
            .iter()
            .collect::<Result<_, _>>()
            .map_err(|error| failed(self.name, "read", error))
    }
}

impl<A: Pod + Send, V: Pod + Send> Table<Prefix<A>, V> for Trie<A, V> {
    fn put(&mut self, (address, length): &Prefix<A>, value: &V) -> Result<(), MapError> {
        let key = lpm_trie::Key::new(u32::from(*length), *address);
        self.map
            .insert(&key, value, 0)
            .map_err(|error| failed(self.name, "update", error))
    }

    fn remove(&mut self, (address, length): &Prefix<A>) -> Result<(), MapError> {
        let key = lpm_trie::Key::new(u32::from(*length), *address);
        absent_is_success(self.map.remove(&key)).map_err(|error| failed(self.name, "delete", error))
    }

    fn entries(&self) -> Result<Vec<(Prefix<A>, V)>, MapError> {
        let entry = |(key, value): (lpm_trie::Key<A>, V)| ((key.data(), key.prefix_len() as u8), value);
        let entries = self.map.iter().map(|entry_or_error| entry_or_error.map(entry));
        entries
            .collect::<Result<_, _>>()
            .map_err(|error| failed(self.name, "read", error))
    }
}

impl<V: Pod + Zeroable + Send> Table<u32, V> for Elements<V> {
    fn put(&mut self, key: &u32, value: &V) -> Result<(), MapError> {
        self.map
            .set(*key, value, 0)
            .map_err(|error| failed(self.name, "update", error))
    }

    fn remove(&mut self, key: &u32) -> Result<(), MapError> {
        self.put(key, &V::zeroed())
    }

    fn entries(&self) -> Result<Vec<(u32, V)>, MapError> {
        let values = self.map.iter().enumerate();
        let entry = |(index, value): (usize, Result<V, AyaError>)| Ok((index as u32, value?));
        values
            .map(entry)
            .collect::<Result<_, _>>()
            .map_err(|error| failed(self.name, "read", error))
    }
}

fn absent_is_success(result: Result<(), AyaError>) -> Result<(), AyaError> {
    match result {
        Err(AyaError::KeyNotFound) => Ok(()),
        Err(AyaError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(super) fn failed(map: &'static str, call: &'static str, error: AyaError) -> MapError {
    let source = match error {
        AyaError::SyscallError(error) => error.io_error,
        AyaError::OutOfBounds { .. } => io::Error::from_raw_os_error(libc::E2BIG),
        other => io::Error::other(other),
    };
    MapError { map, call, source }
}
