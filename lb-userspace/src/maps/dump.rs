//! Contents of all maps as values.

use std::collections::BTreeMap;

use lb_common::abi::{
    Address, Backend, Device, Family, Frontend, FrontendKey, Node, Range, RangeKey, Rows, Service, Set,
    Source, V4, V6,
};

use super::{FamilyMaps, MapError, MapStore, Prefix};

/// Contents of all maps that the agent writes.
#[derive(Clone, Default, Debug)]
pub struct Dump {
    /// One element.
    pub node: BTreeMap<u32, Node>,
    /// By interface index.
    pub devices: BTreeMap<u32, Device>,
    /// By element.
    pub maglev: BTreeMap<u32, Rows>,
    /// Maps of IPv4.
    pub v4: FamilyDump<V4>,
    /// Maps of IPv6.
    pub v6: FamilyDump<V6>,
}

/// Contents of one family's maps.
#[derive(Clone, Default, Debug)]
pub struct FamilyDump<F: Family> {
    /// By address.
    pub addresses: BTreeMap<F::Addr, Address>,
    /// By prefix.
    pub sources: BTreeMap<Prefix<F::Addr>, Source>,
    /// By address, port and protocol.
    pub frontends: BTreeMap<FrontendKey<F::Addr>, Frontend>,
    /// By table and prefix.
    pub ranges: BTreeMap<Prefix<RangeKey<F::Addr>>, Range>,
    /// By service index.
    pub services: BTreeMap<u32, Service>,
    /// By set index.
    pub sets: BTreeMap<u32, Set>,
    /// By backend index.
    pub backends: BTreeMap<u32, Backend<F::Addr>>,
}

impl Dump {
    /// Reads all maps. Not at one instant: writes in between may be seen in part.
    pub fn read(store: &MapStore) -> Result<Self, MapError> {
        Ok(Self {
            node: store.node.entries()?.into_iter().collect(),
            devices: store.devices.entries()?.into_iter().collect(),
            maglev: store.maglev.entries()?.into_iter().collect(),
            v4: FamilyDump::read(&store.v4)?,
            v6: FamilyDump::read(&store.v6)?,
        })
    }

    /// The rows of a table.
    pub fn rows(&self, first: u32, rows: u32) -> impl Iterator<Item = Option<u16>> + '_ {
        (0..rows as usize).map(move |row| {
            let per_element = lb_common::abi::ROWS_PER_ELEMENT;
            let element = self.maglev.get(&(first + (row / per_element) as u32))?;
            Some(element.rows[row % per_element])
        })
    }
}

impl<F: Family> FamilyDump<F> {
    fn read(maps: &FamilyMaps<F>) -> Result<Self, MapError> {
        Ok(Self {
            addresses: maps.addresses.entries()?.into_iter().collect(),
            sources: maps.sources.entries()?.into_iter().collect(),
            frontends: maps.frontends.entries()?.into_iter().collect(),
            ranges: maps.ranges.entries()?.into_iter().collect(),
            services: maps.services.entries()?.into_iter().collect(),
            sets: maps.sets.entries()?.into_iter().collect(),
            backends: maps.backends.entries()?.into_iter().collect(),
        })
    }

    /// Sets that some service names, by service index.
    pub fn live_sets(&self) -> impl Iterator<Item = (u32, u32, Option<&Set>)> + '_ {
        self.services.iter().filter_map(|(index, service)| {
            let set = service.set()?;
            Some((*index, set, self.sets.get(&set)))
        })
    }
}
