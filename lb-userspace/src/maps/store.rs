//! A map as seen by its writer, and all maps together.
//!
//! *Not here*: the order of writes (`plan`), what happens after a failure (`apply`).

use std::io;

use lb_common::abi::{
    Address, Backend, Device, Family, Frontend, FrontendKey, Node, Range, RangeKey, Rows, Service, Set,
    Source, V4, V6, names,
};
use thiserror::Error;

/// One map.
pub trait Table<K, V>: Send {
    /// Writes an entry, whether or not there is one.
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError>;

    /// Removes an entry; that there is none is a success. In an array the element becomes zero.
    fn remove(&mut self, key: &K) -> Result<(), MapError>;

    /// All entries.
    fn entries(&self) -> Result<Vec<(K, V)>, MapError>;
}

/// A map operation that failed.
#[derive(Debug, Error)]
#[error("map {map}: {call}: {source}")]
pub struct MapError {
    /// Name of the map.
    pub map: &'static str,
    /// What was tried.
    pub call: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

impl MapError {
    /// The map and the error number, to count failures by.
    #[must_use]
    pub fn kind(&self) -> (&'static str, i32) {
        (self.map, self.source.raw_os_error().unwrap_or(0))
    }
}

/// Address and length in bits.
pub type Prefix<A> = (A, u8);

/// The maps that exist once per family.
pub struct FamilyMaps<F: Family> {
    /// By address.
    pub addresses: Box<dyn Table<F::Addr, Address>>,
    /// By prefix.
    pub sources: Box<dyn Table<Prefix<F::Addr>, Source>>,
    /// By address, port and protocol.
    pub frontends: Box<dyn Table<FrontendKey<F::Addr>, Frontend>>,
    /// By table and prefix.
    pub ranges: Box<dyn Table<Prefix<RangeKey<F::Addr>>, Range>>,
    /// By service index.
    pub services: Box<dyn Table<u32, Service>>,
    /// By set index.
    pub sets: Box<dyn Table<u32, Set>>,
    /// By backend index.
    pub backends: Box<dyn Table<u32, Backend<F::Addr>>>,
}

/// Puts something between a map and its writer.
pub trait Wrap {
    /// The same map, with that in between.
    fn wrap<K: 'static, V: 'static>(
        &self,
        name: &'static str,
        table: Box<dyn Table<K, V>>,
    ) -> Box<dyn Table<K, V>>;
}

/// All maps that the agent writes.
pub struct MapStore {
    /// One element.
    pub node: Box<dyn Table<u32, Node>>,
    /// By interface index.
    pub devices: Box<dyn Table<u32, Device>>,
    /// By element.
    pub maglev: Box<dyn Table<u32, Rows>>,
    /// Maps of IPv4.
    pub v4: FamilyMaps<V4>,
    /// Maps of IPv6.
    pub v6: FamilyMaps<V6>,
    /// Waits for a grace period.
    pub grace: Box<dyn FnMut() + Send>,
}

impl MapStore {
    /// The same maps, each wrapped.
    #[must_use]
    pub fn wrapped(self, wrap: &impl Wrap) -> Self {
        let Self {
            node,
            devices,
            maglev,
            v4,
            v6,
            grace,
        } = self;
        Self {
            node: wrap.wrap(names::NODE, node),
            devices: wrap.wrap(names::DEVICES, devices),
            maglev: wrap.wrap(names::MAGLEV, maglev),
            v4: v4.wrapped(wrap),
            v6: v6.wrapped(wrap),
            grace,
        }
    }
}

impl<F: Family> FamilyMaps<F> {
    fn wrapped(self, wrap: &impl Wrap) -> Self {
        let Self {
            addresses,
            sources,
            frontends,
            ranges,
            services,
            sets,
            backends,
        } = self;
        let index = F::INDEX;
        Self {
            addresses: wrap.wrap(names::ADDRESSES[index], addresses),
            sources: wrap.wrap(names::SOURCES[index], sources),
            frontends: wrap.wrap(names::FRONTENDS[index], frontends),
            ranges: wrap.wrap(names::RANGES[index], ranges),
            services: wrap.wrap(names::SERVICES[index], services),
            sets: wrap.wrap(names::SETS[index], sets),
            backends: wrap.wrap(names::BACKENDS[index], backends),
        }
    }
}
