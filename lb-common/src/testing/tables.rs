//! [`Tables`] over plain collections: the decision and the flows, without a kernel.
//!
//! Behaves as the BPF maps do where it matters: a key is inserted once, a full table refuses, an entry that
//! is read stays readable after its removal, sets never change. The clock, the routes and the flow table's
//! capacity are the test's.

use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::vec::Vec;
use std::{format, string::String, vec};

use super::arena::Arena;
use super::packet::Endpoint;
use crate::abi::{
    Address, Affinity, AffinityKey, Backend, Device, Event, Flow, Fragment, FragmentKey, Frontend,
    FrontendKey, FrontendKind, Node, Protocol, ROWS_PER_ELEMENT, RangeKey, Rows, Service, Set, SourceClass,
    State, Tuple,
};
use crate::maglev::{self, Preference};
use crate::net::{self, Created, Fragments, Net, Tables, sweep};

/// Decides by which device packets with a tuple leave.
pub type Route<A> = Box<dyn Fn(&Tuple<A>) -> Option<u32>>;

/// An entry of the flow table.
pub type Entry<A> = (Tuple<A>, Flow<A>);

/// The maps of one node and one family.
pub struct SimTables<F: Net> {
    /// What destination addresses are.
    pub addresses: BTreeMap<F::Addr, Address>,
    /// Prefixes of source addresses (address, length in bits); the longest one that matches counts.
    pub sources: Vec<(F::Addr, usize, SourceClass)>,
    /// Frontends.
    pub frontends: BTreeMap<FrontendKey<F::Addr>, Frontend>,
    /// Services, by index.
    pub services: Vec<Service>,
    /// Sets, by index.
    pub sets: Vec<Set>,
    /// Backends of all sets.
    pub backends: Vec<Backend<F::Addr>>,
    /// Source ranges: number of the table, address, length in bits.
    pub ranges: Vec<(u32, F::Addr, usize)>,
    /// Connections of this node's own, as their packets come in.
    pub connected: Vec<Tuple<F::Addr>>,
    /// Elements of all lookup tables.
    pub maglev: Vec<Rows>,
    /// Node-wide settings.
    pub node: Node,
    /// Devices, by interface index.
    pub devices: BTreeMap<u32, Device>,
    /// The kernel's routes.
    pub route: Route<F::Addr>,
    /// The clock.
    pub tick: Cell<u32>,
    /// How many entries the flow table takes.
    pub capacity: usize,
    /// Whether clients' backends can be noted.
    pub affinity_fails: Cell<bool>,
    affinity: RefCell<BTreeMap<AffinityKey<F::Addr>, u32>>,
    records: Arena<Affinity<F::Addr>>,
    flows: RefCell<BTreeMap<Tuple<F::Addr>, u32>>,
    entries: Arena<Flow<F::Addr>>,
    embryos: RefCell<BTreeMap<u32, Tuple<F::Addr>>>,
    /// What first fragments said.
    pub fragments: RefCell<BTreeMap<FragmentKey<F::Addr>, Fragment>>,
    /// The identification that the next datagram in fragments is given.
    pub next_id: Cell<u16>,
    /// What was counted.
    pub events: RefCell<BTreeMap<Event, u64>>,
}

/// An address of the family `F`.
///
/// # Panics
/// If it is of the other family.
#[track_caller]
pub fn address<F: Net>(ip: IpAddr) -> F::Addr {
    match F::from_ip(ip) {
        Some(address) => address,
        None => panic!("{ip} is of the other family"),
    }
}

impl<F: Net> Default for SimTables<F> {
    fn default() -> Self {
        Self {
            addresses: BTreeMap::new(),
            sources: vec![],
            frontends: BTreeMap::new(),
            services: vec![],
            sets: vec![],
            backends: vec![],
            ranges: vec![],
            connected: vec![],
            maglev: vec![],
            node: Node {
                snat_first: 50_000,
                snat_last: 59_999,
                seed: 0x5eed,
                embryo_mask: 1023,
                ..Node::default()
            },
            devices: BTreeMap::new(),
            route: Box::new(|_| None),
            tick: Cell::new(1000),
            capacity: usize::MAX,
            affinity_fails: Cell::new(false),
            affinity: RefCell::default(),
            records: Arena::default(),
            flows: RefCell::default(),
            entries: Arena::default(),
            embryos: RefCell::default(),
            fragments: RefCell::default(),
            next_id: Cell::new(0),
            events: RefCell::default(),
        }
    }
}

/// Filling the maps.
impl<F: Net> SimTables<F> {
    /// Adds `flags` to what an address is.
    pub fn add_address(&mut self, ip: IpAddr, flags: u32) {
        self.addresses.entry(address::<F>(ip)).or_default().flags |= flags;
    }

    /// Makes a service whose set has `flags`; gives its index. The backends must be in the order of a set:
    /// `scopes` are how many are in the Local scope, and the first one of the Cluster scope.
    pub fn add_service(&mut self, flags: u16, scopes: (u16, u16), backends: &[Backend<F::Addr>]) -> u32 {
        let service = self.services.len() as u32;
        self.services.push(Service::default());
        self.replace(service, flags, scopes, backends);
        service
    }

    /// Gives a service a new set.
    pub fn replace(&mut self, service: u32, flags: u16, scopes: (u16, u16), backends: &[Backend<F::Addr>]) {
        let (local, cluster_from) = scopes;
        let first = self.backends.len() as u32;
        self.backends.extend(backends);
        let (local_table, local_rows) = self.table(&backends[..local.into()], 0);
        let (cluster_table, cluster_rows) = self.table(&backends[cluster_from.into()..], cluster_from);
        self.sets.push(Set {
            backends: first,
            total: backends.len() as u16,
            local,
            cluster_from,
            flags,
            local_table,
            local_rows,
            cluster_table,
            cluster_rows,
            affinity_timeout: 0,
            service,
            identity: [service, 0],
            ranges: 0,
        });
        self.services[service as usize] = Service::new(self.sets.len() as u32 - 1, 0);
    }

    /// Adds a table over `backends`, the first of which is the set's backend `offset`; gives its first element
    /// and its rows.
    fn table(&mut self, backends: &[Backend<F::Addr>], offset: u16) -> (u32, u32) {
        let rows = maglev::size_for(backends.len() as u32);
        let element = self.maglev.len() as u32;
        let mut table = vec![0; rows as usize];
        let mut preferences: Vec<_> = backends
            .iter()
            .map(|b| Preference::new(self.node.seed, b.address.as_ref(), b.port, rows))
            .collect();
        maglev::fill(&mut preferences, &mut table);
        for chunk in table.chunks(ROWS_PER_ELEMENT) {
            let mut rows = [0; ROWS_PER_ELEMENT];
            for (row, position) in rows.iter_mut().zip(chunk) {
                *row = position + offset;
            }
            self.maglev.push(Rows { rows });
        }
        (element, rows)
    }

    /// Adds a frontend. A NodePort's address does not matter.
    pub fn add_frontend(&mut self, at: impl Endpoint, protocol: Protocol, kind: FrontendKind, service: u32) {
        let at = at.socket();
        let address = match kind {
            FrontendKind::NodePort => F::Addr::default(),
            _ => {
                let flag = match kind {
                    FrontendKind::ClusterIp => Address::CLUSTER_IP,
                    _ => Address::EXTERNAL,
                };
                self.add_address(at.ip(), Address::VIP | flag);
                if kind == FrontendKind::ClusterIp {
                    let mark = FrontendKey::mark_of(address::<F>(at.ip()));
                    self.frontends.insert(mark, Frontend::MARK);
                }
                address::<F>(at.ip())
            }
        };
        let key = FrontendKey {
            address,
            port: at.port(),
            protocol: protocol as u8,
            reserved: 0,
        };
        let frontend = Frontend {
            service,
            kind: kind as u8,
            reserved: [0; 3],
        };
        self.frontends.insert(key, frontend);
    }
}

/// Looking at flows, and ageing them.
impl<F: Net> SimTables<F> {
    /// All entries, ordered by key.
    #[must_use]
    pub fn flows(&self) -> Vec<Entry<F::Addr>> {
        let flows = self.flows.borrow();
        flows
            .iter()
            .map(|(key, n)| (*key, *self.entries.get(*n)))
            .collect()
    }

    /// How many entries there are.
    #[must_use]
    pub fn flow_count(&self) -> usize {
        self.flows.borrow().len()
    }

    /// Lets time pass.
    pub fn wait(&self, ticks: u32) {
        self.tick.set(self.tick.get().wrapping_add(ticks));
    }

    /// Removes what may be forgotten, as the program `sweep` does; gives how many entries that were.
    pub fn sweep(&self) -> usize {
        let before = self.flow_count();
        self.flows
            .borrow_mut()
            .retain(|key, n| !sweep(key.protocol, self.entries.get(*n), self.tick.get()));
        before - self.flow_count()
    }

    /// What is wrong with the flow table, if anything: each half must have its other half, which leads back.
    #[must_use]
    pub fn inconsistency(&self) -> Option<String> {
        for (key, flow) in self.flows() {
            let twin_key = flow.to.reverse();
            let Some(twin) = self.flow(&twin_key) else {
                return Some(format!("{key:?} has no other half at {twin_key:?}"));
            };
            let both = [flow.flags, twin.flags].map(|flags| flags & Flow::<F::Addr>::REVERSE);
            if twin.to.reverse() != key || both[0] == both[1] {
                return Some(format!("{key:?} = {flow:?} but {twin_key:?} = {twin:?}"));
            }
        }
        None
    }
}

/// Whether the first `length` bits of an address are those of `prefix`.
fn begins<F: Net>(address: &F::Addr, prefix: &F::Addr, length: usize) -> bool {
    let bit = |a: &F::Addr, n: usize| a.as_ref()[n / 8] >> (7 - n % 8) & 1;
    (0..length).all(|n| bit(prefix, n) == bit(address, n))
}

/// An entry of the flow table: what it was when it was found, and where to write.
#[derive(Debug)]
pub struct SimEntry<'a, F: Net> {
    tables: &'a SimTables<F>,
    key: Tuple<F::Addr>,
    number: u32,
}

impl<F: Net> Copy for SimEntry<'_, F> {}

impl<F: Net> Clone for SimEntry<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, F: Net> net::Entry<'a, F::Addr> for SimEntry<'a, F> {
    fn flow(self) -> &'a Flow<F::Addr> {
        self.tables.entries.get(self.number)
    }

    fn note(self, tick: u32, state: State) {
        if let Some(number) = self.tables.flows.borrow_mut().get_mut(&self.key) {
            *number = self.tables.entries.push(Flow {
                seen: tick,
                state: state as u8,
                ..*self.tables.entries.get(*number)
            });
        }
    }
}

impl<F: Net> Tables<F> for SimTables<F> {
    type Entry<'a> = SimEntry<'a, F>;

    fn address(&self, address: &F::Addr) -> Option<Address> {
        self.addresses.get(address).copied()
    }

    fn source(&self, address: &F::Addr) -> SourceClass {
        self.sources
            .iter()
            .filter(|(prefix, length, _)| begins::<F>(address, prefix, *length))
            .max_by_key(|(_, length, _)| *length)
            .map_or(SourceClass::Outside, |(_, _, class)| *class)
    }

    fn frontend(&self, key: &FrontendKey<F::Addr>) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    fn set(&self, service: u32) -> Option<&Set> {
        self.sets
            .get(self.services.get(service as usize)?.set()? as usize)
    }

    fn row(&self, table: u32, rows: u32, hash: u32) -> Option<u16> {
        let (element, row) = maglev::row(hash, rows);
        self.maglev
            .get((table + element) as usize)?
            .rows
            .get(row)
            .copied()
    }

    fn backend(&self, index: u32) -> Option<&Backend<F::Addr>> {
        self.backends.get(index as usize)
    }

    fn is_in_range(&self, key: &RangeKey<F::Addr>) -> bool {
        self.ranges
            .iter()
            .any(|(table, prefix, length)| *table == key.table && begins::<F>(&key.address, prefix, *length))
    }

    fn affinity(&self, key: &AffinityKey<F::Addr>) -> Option<&Affinity<F::Addr>> {
        let number = *self.affinity.borrow().get(key)?;
        Some(self.records.get(number))
    }

    fn refresh_affinity(&self, key: &AffinityKey<F::Addr>, tick: u32, timeout: u32) {
        if let Some(number) = self.affinity.borrow_mut().get_mut(key) {
            *number = self.records.push(Affinity {
                seen: tick,
                timeout,
                ..*self.records.get(*number)
            });
        }
    }

    fn put_affinity(&self, key: &AffinityKey<F::Addr>, affinity: &Affinity<F::Addr>) -> bool {
        if self.affinity_fails.get() {
            return false;
        }
        let number = self.records.push(*affinity);
        self.affinity.borrow_mut().insert(*key, number);
        true
    }

    fn entry(&self, key: &Tuple<F::Addr>) -> Option<SimEntry<'_, F>> {
        let number = *self.flows.borrow().get(key)?;
        Some(SimEntry {
            tables: self,
            key: *key,
            number,
        })
    }

    fn create(&self, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>) -> Created {
        let mut flows = self.flows.borrow_mut();
        if flows.contains_key(key) {
            return Created::Exists;
        }
        if flows.len() >= self.capacity {
            return Created::Full;
        }
        flows.insert(*key, self.entries.push(*flow));
        Created::Yes
    }

    fn remove(&self, key: &Tuple<F::Addr>) {
        self.flows.borrow_mut().remove(key);
    }

    fn slot(&self, hash: u32, key: &mut Tuple<F::Addr>) {
        // An unused slot of the map is all zero, which is no flow's key.
        let embryos = self.embryos.borrow();
        *key = embryos
            .get(&(hash & self.node.embryo_mask))
            .copied()
            .unwrap_or_default();
    }

    fn take_slot(&self, hash: u32, key: &Tuple<F::Addr>) {
        self.embryos
            .borrow_mut()
            .insert(hash & self.node.embryo_mask, *key);
    }

    fn count(&self, event: Event) {
        *self.events.borrow_mut().entry(event).or_default() += 1;
    }

    fn search(&self, tries: u32, attempt: impl FnMut(u32) -> bool) {
        let _ = (0..tries).any(attempt);
    }

    fn node(&self) -> Option<&Node> {
        Some(&self.node)
    }

    fn device(&self, index: u32) -> Option<&Device> {
        self.devices.get(&index)
    }

    fn route(&self, tuple: &Tuple<F::Addr>) -> Option<u32> {
        (self.route)(tuple)
    }

    fn is_connected(&self, tuple: &Tuple<F::Addr>) -> bool {
        self.connected.contains(tuple)
    }

    fn tick(&self) -> u32 {
        self.tick.get()
    }
}

impl<F: Net> Fragments<F> for SimTables<F> {
    fn fragment(&self, key: &FragmentKey<F::Addr>) -> Option<Fragment> {
        self.fragments.borrow().get(key).copied()
    }

    fn remember(&self, key: &FragmentKey<F::Addr>, fragment: &Fragment) {
        self.fragments.borrow_mut().insert(*key, *fragment);
    }

    fn next_id(&self) -> u16 {
        self.next_id.replace(self.next_id.get().wrapping_add(1))
    }
}

impl<F: Net> fmt::Debug for SimTables<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.flows()).finish()
    }
}
