//! The maps in the kernel, entry by entry, as the programs read them: nothing is written.

use std::path::{Path, PathBuf};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError as AyaError, lpm_trie, lpm_trie::LpmTrie},
};
use lb_common::abi::{
    Address, Affinity, AffinityKey, Backend, Device, Family, Flow, Frontend, FrontendKey, Node, Range,
    RangeKey, Rows, Service, Set, Source, Tuple, names,
};

use super::{OpenError, failed, taken};
use crate::maps::{AffinityEntry, FlowEntry, FrontendEntry, Lookup, MapError, Prefix, Walk};

/// Entries after which a walk ends. The kernel begins again at the first entry where the one that a walk has come to is
/// removed meanwhile; where so many are that it never ends, a part of the table is better than nothing.
const LONGEST_WALK: usize = 1 << 22;

/// The maps of one family.
pub struct Pinned<F: Family>
where
    F::Addr: Pod,
    FrontendKey<F::Addr>: Pod,
    Backend<F::Addr>: Pod,
    RangeKey<F::Addr>: Pod,
    AffinityKey<F::Addr>: Pod,
    Affinity<F::Addr>: Pod,
    Tuple<F::Addr>: Pod,
    Flow<F::Addr>: Pod,
{
    addresses: HashMap<MapData, F::Addr, Address>,
    sources: LpmTrie<MapData, F::Addr, Source>,
    frontends: HashMap<MapData, FrontendKey<F::Addr>, Frontend>,
    ranges: LpmTrie<MapData, RangeKey<F::Addr>, Range>,
    services: Array<MapData, Service>,
    sets: Array<MapData, Set>,
    backends: Array<MapData, Backend<F::Addr>>,
    affinity: HashMap<MapData, AffinityKey<F::Addr>, Affinity<F::Addr>>,
    flows: HashMap<MapData, Tuple<F::Addr>, Flow<F::Addr>>,
    maglev: Array<MapData, Rows>,
    node: Array<MapData, Node>,
    devices: HashMap<MapData, u32, Device>,
}

fn map<M: TryFrom<Map, Error = AyaError>>(
    name: &'static str,
    path: &impl Fn(&str) -> PathBuf,
) -> Result<M, OpenError> {
    let mut open = |name: &str| open(&path(name));
    M::try_from(taken(name, &mut open)?).map_err(|source| OpenError::Type { map: name, source })
}

fn open(path: &Path) -> Option<Map> {
    MapData::from_pin(path).and_then(Map::from_map_data).ok()
}

impl<F: Family> Pinned<F>
where
    F::Addr: Pod,
    FrontendKey<F::Addr>: Pod,
    Backend<F::Addr>: Pod,
    RangeKey<F::Addr>: Pod,
    AffinityKey<F::Addr>: Pod,
    Affinity<F::Addr>: Pod,
    Tuple<F::Addr>: Pod,
    Flow<F::Addr>: Pod,
{
    /// The maps, each opened by its pin.
    ///
    /// # Errors
    /// If one is not there, or is another than it should be.
    pub fn open(path: impl Fn(&str) -> PathBuf) -> Result<Self, OpenError> {
        let family = F::INDEX;
        Ok(Self {
            addresses: map(names::ADDRESSES[family], &path)?,
            sources: map(names::SOURCES[family], &path)?,
            frontends: map(names::FRONTENDS[family], &path)?,
            ranges: map(names::RANGES[family], &path)?,
            services: map(names::SERVICES[family], &path)?,
            sets: map(names::SETS[family], &path)?,
            backends: map(names::BACKENDS[family], &path)?,
            affinity: map(names::AFFINITY[family], &path)?,
            flows: map(names::FLOWS[family], &path)?,
            maglev: map(names::MAGLEV, &path)?,
            node: map(names::NODE, &path)?,
            devices: map(names::DEVICES, &path)?,
        })
    }

    /// All devices, by interface index.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn devices(&self) -> Result<Vec<(u32, Device)>, MapError> {
        let all = self.devices.iter().collect::<Result<_, _>>();
        all.map_err(|error| failed(names::DEVICES, "read", error))
    }

    /// All clients' backends.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn affinities(&self) -> Result<Vec<AffinityEntry<F>>, MapError> {
        walked(names::AFFINITY[F::INDEX], self.affinity.iter())
    }

    /// All halves of flows. One may be there twice: they come and go meanwhile.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn flows(&self) -> Result<Vec<FlowEntry<F>>, MapError> {
        walked(names::FLOWS[F::INDEX], self.flows.iter())
    }
}

/// What is there, if anything is.
fn found<V>(map: &'static str, result: Result<V, AyaError>) -> Result<Option<V>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(AyaError::KeyNotFound | AyaError::OutOfBounds { .. }) => Ok(None),
        Err(error) => Err(failed(map, "read", error)),
    }
}

impl<F: Family> Lookup<F> for Pinned<F>
where
    F::Addr: Pod,
    FrontendKey<F::Addr>: Pod,
    Backend<F::Addr>: Pod,
    RangeKey<F::Addr>: Pod,
    AffinityKey<F::Addr>: Pod,
    Affinity<F::Addr>: Pod,
    Tuple<F::Addr>: Pod,
    Flow<F::Addr>: Pod,
{
    fn address(&self, address: &F::Addr) -> Result<Option<Address>, MapError> {
        found(names::ADDRESSES[F::INDEX], self.addresses.get(address, 0))
    }

    fn source(&self, address: &F::Addr) -> Result<Option<Source>, MapError> {
        let key = lpm_trie::Key::new(8 * F::ADDR_LEN as u32, *address);
        found(names::SOURCES[F::INDEX], self.sources.get(&key, 0))
    }

    fn frontend(&self, key: &FrontendKey<F::Addr>) -> Result<Option<Frontend>, MapError> {
        found(names::FRONTENDS[F::INDEX], self.frontends.get(key, 0))
    }

    fn service(&self, index: u32) -> Result<Option<Service>, MapError> {
        found(names::SERVICES[F::INDEX], self.services.get(&index, 0))
    }

    fn set(&self, index: u32) -> Result<Option<Set>, MapError> {
        found(names::SETS[F::INDEX], self.sets.get(&index, 0))
    }

    fn backend(&self, index: u32) -> Result<Option<Backend<F::Addr>>, MapError> {
        found(names::BACKENDS[F::INDEX], self.backends.get(&index, 0))
    }

    fn rows(&self, element: u32) -> Result<Option<Rows>, MapError> {
        found(names::MAGLEV, self.maglev.get(&element, 0))
    }

    fn range(&self, key: &RangeKey<F::Addr>) -> Result<Option<Range>, MapError> {
        let bits = RangeKey::<F::Addr>::TABLE_BITS + 8 * F::ADDR_LEN as u32;
        let key = lpm_trie::Key::new(bits, *key);
        found(names::RANGES[F::INDEX], self.ranges.get(&key, 0))
    }

    fn affinity(&self, key: &AffinityKey<F::Addr>) -> Result<Option<Affinity<F::Addr>>, MapError> {
        found(names::AFFINITY[F::INDEX], self.affinity.get(key, 0))
    }

    fn node(&self) -> Result<Option<Node>, MapError> {
        found(names::NODE, self.node.get(&0, 0))
    }

    fn device(&self, index: u32) -> Result<Option<Device>, MapError> {
        found(names::DEVICES, self.devices.get(&index, 0))
    }
}

impl<F: Family> Walk<F> for Pinned<F>
where
    F::Addr: Pod,
    FrontendKey<F::Addr>: Pod,
    Backend<F::Addr>: Pod,
    RangeKey<F::Addr>: Pod,
    AffinityKey<F::Addr>: Pod,
    Affinity<F::Addr>: Pod,
    Tuple<F::Addr>: Pod,
    Flow<F::Addr>: Pod,
{
    fn frontends(&self) -> Result<Vec<FrontendEntry<F>>, MapError> {
        walked(names::FRONTENDS[F::INDEX], self.frontends.iter())
    }

    fn ranges(&self) -> Result<Vec<Prefix<RangeKey<F::Addr>>>, MapError> {
        let keys = self.ranges.keys();
        let prefix = |key: lpm_trie::Key<RangeKey<F::Addr>>| (key.data(), key.prefix_len() as u8);
        walked(names::RANGES[F::INDEX], keys.map(|key| key.map(prefix)))
    }
}

fn walked<T>(
    map: &'static str,
    entries: impl Iterator<Item = Result<T, AyaError>>,
) -> Result<Vec<T>, MapError> {
    let entries = entries.take(LONGEST_WALK).collect::<Result<_, _>>();
    entries.map_err(|error| failed(map, "read", error))
}
