//! The maps in memory, for tests: limited capacity, injected failures, a log, and a judge.
//!
//! *Invariants* checked after every write (see [`World::violations`]): the contents fit together
//! ([`super::audit`]); nothing that a program may still be reading is overwritten before a grace period;
//! no element of a hash is refilled within one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lb_common::abi::{Family, Set, capacity, names};

use super::{Dump, FamilyDump, FamilyMaps, MapError, MapStore, Table, audit};

/// A handle to maps in memory.
#[derive(Clone, Debug)]
pub struct Fake(Arc<Mutex<World>>);

/// Everything behind the maps.
#[derive(Default, Debug)]
pub struct World {
    /// What is in the maps.
    pub contents: Dump,
    /// Every write, in order.
    pub log: Vec<String>,
    /// What was done wrong, with the number of the write.
    pub violations: Vec<String>,
    /// How many grace periods have passed.
    pub graces: u64,
    /// How many writes were made to fail.
    pub failures: u64,
    capacities: BTreeMap<&'static str, usize>,
    faults: Option<Faults>,
    /// Elements of arrays that were reachable at some time since the last grace period.
    reachable: BTreeSet<(&'static str, u32)>,
    /// Services that were reachable since the last grace period and then given up.
    given_up: BTreeSet<(&'static str, u32)>,
    /// Hashes with an element that was freed since the last grace period.
    freed: BTreeSet<&'static str>,
    /// Neither log nor judge: see [`Fake::plain`].
    plain: bool,
}

/// Failures at random places, the same for the same seed.
#[derive(Clone, Copy, Debug)]
struct Faults {
    one_in: u64,
    state: u64,
}

impl Fake {
    /// Empty maps of the default capacities, and their writer.
    #[must_use]
    pub fn new() -> (Self, MapStore) {
        let fake = Self(Arc::default());
        let store = fake.store();
        (fake, store)
    }

    /// The same, but nobody keeps a log or judges: for whoever wants the contents only, of however many Services.
    #[must_use]
    pub fn plain() -> (Self, MapStore) {
        let (fake, store) = Self::new();
        fake.world().plain = true;
        (fake, store)
    }

    /// Limits a map to so many entries.
    pub fn limit(&self, map: &'static str, entries: usize) {
        self.world().capacities.insert(map, entries);
    }

    /// Makes one write in `one_in` fail, at places given by the seed. 0: none any more.
    pub fn fail(&self, one_in: u64, seed: u64) {
        self.world().faults = (one_in > 0).then_some(Faults { one_in, state: seed });
    }

    /// What is behind the maps.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self) -> MapStore {
        let grace = self.clone();
        MapStore {
            node: self.table(names::NODE, 1, Kind::Array, |d| &mut d.node),
            devices: self.table(names::DEVICES, capacity::DEVICES, Kind::Hash, |d| &mut d.devices),
            maglev: self.table(names::MAGLEV, capacity::MAGLEV, Kind::Array, |d| &mut d.maglev),
            v4: self.family(|d| &mut d.v4),
            v6: self.family(|d| &mut d.v6),
            grace: Box::new(move || grace.world().grace()),
        }
    }

    fn family<F: Family>(&self, family: fn(&mut Dump) -> &mut FamilyDump<F>) -> FamilyMaps<F> {
        let index = F::INDEX;
        FamilyMaps {
            addresses: self.table(
                names::ADDRESSES[index],
                capacity::ADDRESSES,
                Kind::Hash,
                move |d| &mut family(d).addresses,
            ),
            sources: self.table(names::SOURCES[index], capacity::SOURCES, Kind::Trie, move |d| {
                &mut family(d).sources
            }),
            ranges: self.table(names::RANGES[index], capacity::RANGES, Kind::Trie, move |d| {
                &mut family(d).ranges
            }),
            frontends: self.table(
                names::FRONTENDS[index],
                capacity::FRONTENDS,
                Kind::Hash,
                move |d| &mut family(d).frontends,
            ),
            services: self.table(
                names::SERVICES[index],
                capacity::SERVICES,
                Kind::Words,
                move |d| &mut family(d).services,
            ),
            sets: self.table(names::SETS[index], capacity::SETS, Kind::Array, move |d| {
                &mut family(d).sets
            }),
            backends: self.table(
                names::BACKENDS[index],
                capacity::BACKENDS,
                Kind::Array,
                move |d| &mut family(d).backends,
            ),
        }
    }

    fn table<K, V, S>(&self, name: &'static str, capacity: u32, kind: Kind, select: S) -> Box<dyn Table<K, V>>
    where
        K: Ord + Copy + Debug + 'static,
        V: PartialEq + Copy + Debug + 'static,
        S: Fn(&mut Dump) -> &mut BTreeMap<K, V> + Send + 'static,
    {
        self.world().capacities.insert(name, capacity as usize);
        Box::new(FakeTable {
            fake: self.clone(),
            name,
            kind,
            select,
        })
    }
}

/// How a map treats its elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Freed elements are reused at once.
    Hash,
    /// Freed elements are kept for a grace period by the kernel.
    Trie,
    /// Elements are immutable while they can be reached. (But the node's settings.)
    Array,
    /// Elements are replaced at any time; what they lead to is judged in [`reach_family`].
    Words,
}

struct FakeTable<S> {
    fake: Fake,
    name: &'static str,
    kind: Kind,
    select: S,
}

impl<K, V, S> Table<K, V> for FakeTable<S>
where
    K: Ord + Copy + Debug,
    V: PartialEq + Copy + Debug,
    S: Fn(&mut Dump) -> &mut BTreeMap<K, V> + Send,
{
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        let mut world = self.fake.world();
        let capacity = world.capacities.get(self.name).copied().unwrap_or(0);
        let map = (self.select)(&mut world.contents);
        let before = map.get(key).copied();
        if before.is_none() && map.len() >= capacity {
            return Err(self.failed("update", libc::E2BIG));
        }
        world.inject().map_err(|()| self.failed("update", libc::EBUSY))?;
        if world.plain {
            (self.select)(&mut world.contents).insert(*key, *value);
            return Ok(());
        }
        world
            .log
            .push(format!("{} {key:?} = {}", self.name, short(value)));
        (self.select)(&mut world.contents).insert(*key, *value);
        match self.kind {
            Kind::Hash => {
                if world.freed.contains(self.name) {
                    world.violation("an element is refilled within a grace period");
                }
                if before.is_some() {
                    world.freed.insert(self.name);
                }
            }
            Kind::Array if before.is_some_and(|before| before != *value) => {
                world.judge_overwrite(self.name, key);
            }
            Kind::Trie if before.is_none() => world.judge_range(self.name, key),
            Kind::Trie | Kind::Array | Kind::Words => {}
        }
        world.judge();
        Ok(())
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        let mut world = self.fake.world();
        world.inject().map_err(|()| self.failed("delete", libc::EBUSY))?;
        if world.plain {
            (self.select)(&mut world.contents).remove(key);
            return Ok(());
        }
        world.log.push(format!("{} {key:?} removed", self.name));
        let before = (self.select)(&mut world.contents).remove(key);
        if before.is_some() && self.kind == Kind::Hash {
            world.freed.insert(self.name);
        }
        if before.is_some() && self.kind == Kind::Trie {
            world.judge_range(self.name, key);
        }
        world.judge();
        Ok(())
    }

    fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        let mut world = self.fake.world();
        Ok((self.select)(&mut world.contents)
            .iter()
            .map(|(key, value)| (*key, *value))
            .collect())
    }
}

impl<S> FakeTable<S> {
    fn failed(&self, call: &'static str, errno: i32) -> MapError {
        MapError {
            map: self.name,
            call,
            source: io::Error::from_raw_os_error(errno),
        }
    }
}

impl World {
    fn grace(&mut self) {
        if self.plain {
            return;
        }
        self.log.push("grace period".to_owned());
        self.graces += 1;
        self.freed.clear();
        self.reachable.clear();
        self.given_up.clear();
        self.reach();
    }

    fn inject(&mut self) -> Result<(), ()> {
        let Some(faults) = &mut self.faults else {
            return Ok(());
        };
        // Knuth's constants; the high bits are good enough for this.
        faults.state = faults
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        if (faults.state >> 33).is_multiple_of(faults.one_in) {
            self.failures += 1;
            return Err(());
        }
        Ok(())
    }

    fn judge(&mut self) {
        for contradiction in audit::contradictions(&self.contents) {
            self.violation(&contradiction);
        }
        self.reach();
    }

    fn judge_overwrite(&mut self, map: &'static str, key: &impl Debug) {
        // Keys of arrays are integers; as text they need no conversion.
        if self
            .reachable
            .iter()
            .any(|(name, index)| *name == map && format!("{index:?}") == format!("{key:?}"))
        {
            self.violation("an element is overwritten that a program may still be reading");
        }
    }

    /// A table of ranges neither gains nor loses one while it can be reached.
    fn judge_range(&mut self, map: &'static str, key: &impl Debug) {
        let key = format!("{key:?}");
        let is_of = |table: u32| key.starts_with(&format!("(RangeKey {{ table: {table},"));
        if self
            .reachable
            .iter()
            .any(|(name, table)| *name == map && is_of(*table))
        {
            self.violation("a table of ranges changes that a program may still be reading");
        }
    }

    fn violation(&mut self, what: &str) {
        let last = self.log.last().map_or("", String::as_str);
        self.violations
            .push(format!("write {}, {last}: {what}", self.log.len()));
    }

    /// Notes everything that can be reached now.
    fn reach(&mut self) {
        let Self {
            contents,
            reachable,
            given_up,
            ..
        } = self;
        let reused =
            reach_family(&contents.v4, reachable, given_up) | reach_family(&contents.v6, reachable, given_up);
        if reused {
            self.violation("a service index is used again within a grace period");
        }
    }
}

/// Returns whether a service index is in use that was given up since the last grace period.
fn reach_family<F: Family>(
    family: &FamilyDump<F>,
    reachable: &mut BTreeSet<(&'static str, u32)>,
    given_up: &mut BTreeSet<(&'static str, u32)>,
) -> bool {
    let mut reused = false;
    for (index, service) in &family.services {
        let place = (names::SERVICES[F::INDEX], *index);
        match service.set() {
            Some(_) => {
                reused |= given_up.contains(&place);
                reachable.insert(place);
            }
            None if reachable.contains(&place) => {
                given_up.insert(place);
            }
            None => {}
        }
    }
    for (_, index, set) in family.live_sets() {
        reachable.insert((names::SETS[F::INDEX], index));
        let Some(set) = set else { continue };
        if set.has(Set::RANGES) {
            reachable.insert((names::RANGES[F::INDEX], set.ranges));
        }
        let backends = set.backends..set.backends + u32::from(set.total);
        reachable.extend(backends.map(|backend| (names::BACKENDS[F::INDEX], backend)));
        for (first, rows) in [
            (set.local_table, set.local_rows),
            (set.cluster_table, set.cluster_rows),
        ] {
            let elements = first..first + lb_common::maglev::elements_for(rows);
            reachable.extend(elements.map(|element| (names::MAGLEV, element)));
        }
    }
    reused
}

/// Rows are long: a line of the log shows the beginning.
fn short(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(160) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
