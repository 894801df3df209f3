//! [`Tables`] over maps that are only read: every look-up is written down, and what would be written stays here.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
};

use lb_common::{
    abi::{
        Address, Affinity, AffinityKey, Backend, Device, Event, Flow, Frontend, FrontendKey, Node, RangeKey,
        Set, SourceClass, State, Tuple, names,
    },
    maglev,
    net::{self, Created, Net, Tables, range_bits},
};
use serde_json::json;

use super::{
    evidence::{
        Evidence, Row, Shown, affinity_key, bytes, evidence, frontend_key, frontend_name, prefix_key,
        range_key,
    },
    lent::Lent,
};
use crate::maps::{Lookup, MapError};

/// By which device packets to an address leave.
pub(super) type Route<'a> = &'a dyn Fn(IpAddr) -> Option<u32>;

/// An entry of the flow table that would be made, or (`None`) removed.
type Entry<A> = (Tuple<A>, Option<Flow<A>>);

/// The maps, and what was asked of them.
pub(super) struct Recorder<'a, F: Net> {
    maps: &'a dyn Lookup<F>,
    route: Route<'a>,
    /// The position that every row gives, rather than what is in it: to see what becomes of each backend.
    steer: Option<u16>,
    tick: u32,
    /// What was looked up, in order.
    pub(super) evidence: RefCell<Vec<Evidence>>,
    /// The frontend that was found last.
    pub(super) frontend: Cell<Option<(FrontendKey<F::Addr>, Frontend)>>,
    /// The set that was read last.
    pub(super) set: Cell<Option<Set>>,
    failed: RefCell<Option<MapError>>,
    sets: Lent<Set>,
    backends: Lent<Backend<F::Addr>>,
    records: Lent<Affinity<F::Addr>>,
    nodes: Lent<Node>,
    devices: Lent<Device>,
    flows: Lent<Entry<F::Addr>>,
}

impl<'a, F: Net> Recorder<'a, F> {
    pub(super) fn new(maps: &'a dyn Lookup<F>, route: Route<'a>, steer: Option<u16>, tick: u32) -> Self {
        Self {
            maps,
            route,
            steer,
            tick,
            evidence: RefCell::default(),
            frontend: Cell::new(None),
            set: Cell::new(None),
            failed: RefCell::default(),
            sets: Lent::default(),
            backends: Lent::default(),
            records: Lent::default(),
            nodes: Lent::default(),
            devices: Lent::default(),
            flows: Lent::default(),
        }
    }

    /// Why a map could not be read, if one could not.
    pub(super) fn failure(&self) -> Option<MapError> {
        self.failed.borrow_mut().take()
    }

    /// What packets with this tuple come to behind the routing decision, and in front of it.
    pub(super) fn end(&self, mut tuple: Tuple<F::Addr>) -> Tuple<F::Addr> {
        // At most two translations in a row.
        if let Some(second) = Tables::<F>::flow(self, &tuple)
            && second.flags & Flow::<F::Addr>::REVERSE == 0
        {
            tuple = second.to;
        }
        tuple
    }

    fn read<V: Shown>(
        &self,
        map: &'static str,
        key: serde_json::Value,
        asked: String,
        found: Result<Option<V>, MapError>,
    ) -> Option<V> {
        let found = found.unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            None
        });
        let evidence = evidence(map, key, asked, found.as_ref());
        let mut all = self.evidence.borrow_mut();
        if !all.contains(&evidence) {
            all.push(evidence);
        }
        found
    }
}

/// An entry of the flow table that nobody will see.
#[derive(Clone, Copy)]
pub(super) struct Unwritten<'a, A>(&'a Flow<A>);

impl<'a, A: Copy> net::Entry<'a, A> for Unwritten<'a, A> {
    fn flow(self) -> &'a Flow<A> {
        self.0
    }

    fn note(self, _: u32, _: State) {}
}

impl<F: Net> Tables<F> for Recorder<'_, F> {
    type Entry<'b>
        = Unwritten<'b, F::Addr>
    where
        Self: 'b;

    fn address(&self, address: &F::Addr) -> Option<Address> {
        let asked = (*address).into().to_string();
        self.read(
            names::ADDRESSES[F::INDEX],
            bytes(address),
            asked,
            self.maps.address(address),
        )
    }

    fn source(&self, address: &F::Addr) -> SourceClass {
        let bits = 8 * F::ADDR_LEN as u32;
        let asked: IpAddr = (*address).into();
        let key = prefix_key(bits, &bytes(address));
        let found = self.read(
            names::SOURCES[F::INDEX],
            key,
            format!("{asked}/{bits}"),
            self.maps.source(address),
        );
        found.map_or(SourceClass::Outside, |source| {
            SourceClass::from_number(source.class)
        })
    }

    fn frontend(&self, key: &FrontendKey<F::Addr>) -> Option<Frontend> {
        let found = self.read(
            names::FRONTENDS[F::INDEX],
            frontend_key(key),
            frontend_name(key),
            self.maps.frontend(key),
        )?;
        if !key.is_mark() {
            self.frontend.set(Some((*key, found)));
        }
        Some(found)
    }

    fn set(&self, service: u32) -> Option<&Set> {
        let word = self.read(
            names::SERVICES[F::INDEX],
            json!(service),
            service.to_string(),
            self.maps.service(service),
        );
        let index = word?.set()?;
        let set = self.read(
            names::SETS[F::INDEX],
            json!(index),
            index.to_string(),
            self.maps.set(index),
        )?;
        self.set.set(Some(set));
        Some(self.sets.put(set))
    }

    fn row(&self, table: u32, rows: u32, hash: u32) -> Option<u16> {
        let (element, row) = maglev::row(hash, rows);
        let element = table.wrapping_add(element);
        let found = self
            .maps
            .rows(element)
            .map(|found| found.map(|rows| Row(rows, row)));
        let asked = format!("{element}, row {row}");
        let found = self.read(names::MAGLEV, json!(element), asked, found)?;
        self.steer.or_else(|| found.position())
    }

    fn backend(&self, index: u32) -> Option<&Backend<F::Addr>> {
        let found = self.maps.backend(index);
        let found = self.read(names::BACKENDS[F::INDEX], json!(index), index.to_string(), found)?;
        Some(self.backends.put(found))
    }

    fn is_in_range(&self, key: &RangeKey<F::Addr>) -> bool {
        let address: IpAddr = key.address.into();
        let asked = format!("table {}, {address}", key.table);
        let key_shown = prefix_key(range_bits::<F>(), &range_key(key));
        self.read(names::RANGES[F::INDEX], key_shown, asked, self.maps.range(key))
            .is_some()
    }

    fn affinity(&self, key: &AffinityKey<F::Addr>) -> Option<&Affinity<F::Addr>> {
        let client: IpAddr = key.client.into();
        let asked = format!("client {client}");
        let found = self.read(
            names::AFFINITY[F::INDEX],
            affinity_key(key),
            asked,
            self.maps.affinity(key),
        );
        // Each backend is to be seen, not only the one that the client had.
        found
            .filter(|_| self.steer.is_none())
            .map(|found| self.records.put(found))
    }

    fn refresh_affinity(&self, _: &AffinityKey<F::Addr>, _: u32, _: u32) {}

    fn put_affinity(&self, _: &AffinityKey<F::Addr>, _: &Affinity<F::Addr>) -> bool {
        true
    }

    fn entry(&self, key: &Tuple<F::Addr>) -> Option<Unwritten<'_, F::Addr>> {
        let (_, flow) = self.flows.find(|(known, _)| known == key)?;
        flow.as_ref().map(Unwritten)
    }

    fn create(&self, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>) -> Created {
        if self.entry(key).is_some() {
            return Created::Exists;
        }
        self.flows.put((*key, Some(*flow)));
        Created::Yes
    }

    fn remove(&self, key: &Tuple<F::Addr>) {
        self.flows.put((*key, None));
    }

    fn slot(&self, _: u32, key: &mut Tuple<F::Addr>) {
        *key = Tuple::default();
    }

    fn take_slot(&self, _: u32, _: &Tuple<F::Addr>) {}

    fn count(&self, _: Event) {}

    fn search(&self, tries: u32, attempt: impl FnMut(u32) -> bool) {
        let _ = (0..tries).any(attempt);
    }

    fn node(&self) -> Option<&Node> {
        let found = self.read(names::NODE, json!(0), "0".to_owned(), self.maps.node())?;
        Some(self.nodes.put(found))
    }

    fn device(&self, index: u32) -> Option<&Device> {
        let found = self.maps.device(index);
        let found = self.read(names::DEVICES, json!(index), index.to_string(), found)?;
        Some(self.devices.put(found))
    }

    fn route(&self, tuple: &Tuple<F::Addr>) -> Option<u32> {
        (self.route)(tuple.destination.into())
    }

    fn is_connected(&self, _: &Tuple<F::Addr>) -> bool {
        false
    }

    fn tick(&self) -> u32 {
        self.tick
    }
}
