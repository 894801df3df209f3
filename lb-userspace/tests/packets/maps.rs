//! The maps of one family, filled from [`crate::site`] and read back with general addresses, so that everything
//! above this file is written once for both families.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuHashMap, lpm_trie::Key, lpm_trie::LpmTrie},
};
use lb_common::{
    abi::{
        self, Affinity, AffinityKey, Backend, Counter, Flow, Fragment, FragmentKey, Frontend, FrontendKey,
        Protocol, Range, RangeKey, Service, Set, Source, TrafficKey, Tuple, names,
    },
    net::Net,
    testing::tables::SimTables,
};

use crate::{
    simulation::{Common, Simulation},
    site::{Family, Host, KINDS, Site, Svc},
};

/// Elements of the map `maglev` that each Service has to itself: first the Cluster scope's, then the Local's.
const ELEMENTS: u32 = 8;
const LOCAL_ELEMENTS: u32 = 4;
/// Ticks for which a client keeps its backend.
pub(crate) const AFFINITY_TIMEOUT: u32 = 3600;

/// A flow table's content.
pub(crate) type Flows = BTreeMap<Tuple<IpAddr>, Flow<IpAddr>>;

/// What was counted for Services.
pub(crate) type Traffic = BTreeMap<TrafficKey<IpAddr>, Counter>;

/// One family's maps.
pub(crate) trait FamilyMaps {
    /// Writes everything but flows.
    fn fill(&mut self, site: &Site);
    /// Reads the flow table.
    fn flows(&self) -> Flows;
    /// Writes a flow entry.
    fn put_flow(&mut self, key: &Tuple<IpAddr>, flow: &Flow<IpAddr>);
    /// Removes a flow entry.
    fn remove_flow(&mut self, key: &Tuple<IpAddr>);
    /// Who had which backend: Service, client, backend.
    fn affinity(&self) -> BTreeMap<(u32, IpAddr), (IpAddr, u16)>;
    /// Says that a client had a backend, which holds for very long.
    fn put_affinity(&mut self, svc: Svc, client: IpAddr, backend: SocketAddr);
    /// When each client's last new flow was.
    fn affinity_seen(&self) -> Vec<u32>;
    /// Makes the records of all clients older.
    fn age_affinity(&mut self, ticks: u32);
    /// Makes the first fragments older that are remembered.
    fn age_fragments(&mut self, ticks: u32);
    /// Removes all flows and all clients' records, and forgets who is new, and datagrams in fragments.
    fn forget_flows(&mut self);
    /// What was counted for Services since this was asked last.
    fn take_traffic(&mut self) -> Traffic;
    /// The same contents without a kernel, and without flows.
    fn simulation(&self, site: &Site, common: Common) -> Box<dyn Simulation>;
}

struct Typed<F: Net>
where
    F::Addr: Pod,
    Tuple<F::Addr>: Pod,
    Flow<F::Addr>: Pod,
    FrontendKey<F::Addr>: Pod,
    FragmentKey<F::Addr>: Pod,
    Backend<F::Addr>: Pod,
    RangeKey<F::Addr>: Pod,
    AffinityKey<F::Addr>: Pod,
    Affinity<F::Addr>: Pod,
    TrafficKey<F::Addr>: Pod,
{
    addresses: HashMap<MapData, F::Addr, abi::Address>,
    sources: LpmTrie<MapData, F::Addr, Source>,
    frontends: HashMap<MapData, FrontendKey<F::Addr>, Frontend>,
    services: Array<MapData, Service>,
    sets: Array<MapData, Set>,
    backends: Array<MapData, Backend<F::Addr>>,
    ranges: LpmTrie<MapData, RangeKey<F::Addr>, Range>,
    affinity: HashMap<MapData, AffinityKey<F::Addr>, Affinity<F::Addr>>,
    flows: HashMap<MapData, Tuple<F::Addr>, Flow<F::Addr>>,
    embryos: Array<MapData, Tuple<F::Addr>>,
    fragments: HashMap<MapData, FragmentKey<F::Addr>, Fragment>,
    traffic: PerCpuHashMap<MapData, TrafficKey<F::Addr>, Counter>,
}

/// Takes a family's maps out of a loaded object.
pub(crate) fn take(ebpf: &mut Ebpf, family: Family) -> Box<dyn FamilyMaps> {
    match family {
        Family::V4 => Box::new(Typed::<abi::V4>::take(ebpf)),
        Family::V6 => Box::new(Typed::<abi::V6>::take(ebpf)),
    }
}

/// Takes one map out of a loaded object.
pub(crate) fn typed<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> M {
    let map = ebpf
        .take_map(name)
        .unwrap_or_else(|| panic!("the object has no map {name}"));
    M::try_from(map).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Rows of a Service's tables: of the Cluster scope and of the Local scope.
pub(crate) fn rows(svc: Svc) -> [Vec<u16>; 2] {
    let mixed = |rows: u16, of: u16| (0..rows).map(|row| (row * 7 + row / 3) % of).collect();
    match svc {
        Svc::Many => [mixed(211, 5), mixed(101, 2)],
        // The scopes lead to different backends.
        Svc::Affine | Svc::AffineLocal => [mixed(211, 3), mixed(101, 2)],
        Svc::ExternalLocalHere | Svc::InternalLocalHere => [vec![1], vec![0]],
        _ => [vec![0; svc.backends().len().min(1)], vec![0; svc.local().min(1)]],
    }
}

/// Where the tables of [`rows`] begin in the map `maglev`.
pub(crate) fn elements(svc: Svc) -> [u32; 2] {
    let first = svc as u32 * ELEMENTS;
    [first, first + LOCAL_ELEMENTS]
}

/// The Service's set; its index is the Service's number.
fn set(svc: Svc) -> Set {
    let [cluster, local] = rows(svc);
    let [cluster_table, local_table] = elements(svc);
    let total = svc.backends().len() as u16;
    Set {
        backends: if svc == Svc::NoBackend {
            u32::MAX
        } else {
            first_backend(svc)
        },
        total,
        local: svc.local() as u16,
        cluster_from: 0,
        flags: svc.flags(),
        local_table,
        local_rows: local.len() as u32,
        cluster_table: if svc == Svc::NoRow {
            u32::MAX
        } else {
            cluster_table
        },
        cluster_rows: cluster.len() as u32,
        affinity_timeout: AFFINITY_TIMEOUT,
        service: svc as u32,
        identity: [svc as u32, 0x1d],
        ranges: svc as u32,
    }
}

/// Room for eight backends each.
fn first_backend(svc: Svc) -> u32 {
    svc as u32 * 8
}

impl<F: Net> Typed<F>
where
    F::Addr: Pod,
    Tuple<F::Addr>: Pod,
    Flow<F::Addr>: Pod,
    FrontendKey<F::Addr>: Pod,
    FragmentKey<F::Addr>: Pod,
    Backend<F::Addr>: Pod,
    RangeKey<F::Addr>: Pod,
    AffinityKey<F::Addr>: Pod,
    Affinity<F::Addr>: Pod,
    TrafficKey<F::Addr>: Pod,
{
    fn take(ebpf: &mut Ebpf) -> Self {
        Self {
            addresses: typed(ebpf, names::ADDRESSES[F::INDEX]),
            sources: typed(ebpf, names::SOURCES[F::INDEX]),
            frontends: typed(ebpf, names::FRONTENDS[F::INDEX]),
            services: typed(ebpf, names::SERVICES[F::INDEX]),
            sets: typed(ebpf, names::SETS[F::INDEX]),
            backends: typed(ebpf, names::BACKENDS[F::INDEX]),
            ranges: typed(ebpf, names::RANGES[F::INDEX]),
            affinity: typed(ebpf, names::AFFINITY[F::INDEX]),
            flows: typed(ebpf, names::FLOWS[F::INDEX]),
            embryos: typed(ebpf, names::EMBRYOS[F::INDEX]),
            fragments: typed(ebpf, names::FRAGMENTS[F::INDEX]),
            traffic: typed(ebpf, names::TRAFFIC[F::INDEX]),
        }
    }

    fn address(ip: IpAddr) -> F::Addr {
        F::from_ip(ip).expect("an address of this family")
    }

    fn key(tuple: &Tuple<IpAddr>) -> Tuple<F::Addr> {
        with_addresses(tuple, Self::address)
    }
}

impl<F: Net> FamilyMaps for Typed<F>
where
    F::Addr: Pod,
    Tuple<F::Addr>: Pod,
    Flow<F::Addr>: Pod,
    FrontendKey<F::Addr>: Pod,
    FragmentKey<F::Addr>: Pod,
    Backend<F::Addr>: Pod,
    RangeKey<F::Addr>: Pod,
    AffinityKey<F::Addr>: Pod,
    Affinity<F::Addr>: Pod,
    TrafficKey<F::Addr>: Pod,
{
    fn fill(&mut self, site: &Site) {
        for (host, flags) in Host::DESTINATIONS {
            let value = abi::Address { flags };
            let written = self.addresses.insert(Self::address(site.ip(host)), value, 0);
            written.expect("addresses has room");
        }
        for (host, class) in Host::SOURCES {
            let key = Key::new(8 * F::ADDR_LEN as u32, Self::address(site.ip(host)));
            let value = Source { class: class as u32 };
            self.sources.insert(&key, value, 0).expect("sources has room");
        }
        let mark = FrontendKey::mark_of(Self::address(site.ip(Host::Vip)));
        self.frontends
            .insert(mark, Frontend::MARK, 0)
            .expect("frontends has room");
        for svc in [Svc::Ranged, Svc::RangedWithNode, Svc::RangedEmpty] {
            for (host, bits) in Host::IN_RANGES {
                let address = Self::address(site.ip(host));
                let table = svc as u32;
                let bits = RangeKey::<F::Addr>::TABLE_BITS + 8 * F::ADDR_LEN as u32 - bits;
                let key = Key::new(bits, RangeKey { table, address });
                let value = Range { accepted: 1 };
                self.ranges.insert(&key, value, 0).expect("ranges has room");
            }
        }
        for &svc in Svc::ALL {
            for kind in KINDS {
                self.put_frontends(site, svc, kind);
            }
            for ((host, flags), index) in svc.backends().into_iter().zip(first_backend(svc)..) {
                let backend = Backend {
                    address: Self::address(site.ip(host)),
                    port: svc.target(),
                    flags,
                };
                self.backends.set(index, backend, 0).expect("backends has room");
            }
            self.sets.set(svc as u32, set(svc), 0).expect("sets has room");
            if svc != Svc::NoService {
                let word = Service::new(svc as u32, 7);
                self.services.set(svc as u32, word, 0).expect("services has room");
            }
        }
    }

    fn flows(&self) -> Flows {
        let entries = self
            .flows
            .iter()
            .map(|entry| entry.expect("the flow table can be read"));
        let general = |(key, flow): (Tuple<F::Addr>, Flow<F::Addr>)| {
            let to = with_addresses(&flow.to, Into::into);
            (with_addresses(&key, Into::into), with_target(&flow, to))
        };
        entries.map(general).collect()
    }

    fn put_flow(&mut self, key: &Tuple<IpAddr>, flow: &Flow<IpAddr>) {
        let value = with_target(flow, Self::key(&flow.to));
        self.flows
            .insert(Self::key(key), value, 0)
            .expect("flows has room");
    }

    fn remove_flow(&mut self, key: &Tuple<IpAddr>) {
        self.flows.remove(&Self::key(key)).expect("the entry is there");
    }

    fn affinity(&self) -> BTreeMap<(u32, IpAddr), (IpAddr, u16)> {
        let records = self
            .affinity
            .iter()
            .map(|entry| entry.expect("affinity can be read"));
        records
            .map(|(key, value)| {
                let backend = (value.backend.into(), value.port);
                ((key.service[0], key.client.into()), backend)
            })
            .collect()
    }

    fn affinity_seen(&self) -> Vec<u32> {
        let records = self
            .affinity
            .iter()
            .map(|entry| entry.expect("affinity can be read"));
        records.map(|(_, record)| record.seen).collect()
    }

    fn put_affinity(&mut self, svc: Svc, client: IpAddr, backend: SocketAddr) {
        let client = Self::address(client);
        let key = AffinityKey {
            service: set(svc).identity,
            client,
        };
        let value = Affinity {
            backend: Self::address(backend.ip()),
            port: backend.port(),
            reserved: 0,
            seen: 0,
            timeout: u32::MAX / 2 - 1,
        };
        self.affinity.insert(key, value, 0).expect("affinity has room");
    }

    fn age_affinity(&mut self, ticks: u32) {
        let records: Vec<_> = self
            .affinity
            .iter()
            .map(|entry| entry.expect("affinity can be read"))
            .collect();
        for (key, mut value) in records {
            value.seen = value.seen.wrapping_sub(ticks);
            self.affinity.insert(key, value, 0).expect("affinity has room");
        }
    }

    fn age_fragments(&mut self, ticks: u32) {
        let all: Vec<_> = self.fragments.iter().flatten().collect();
        for (key, mut fragment) in all {
            fragment.seen = fragment.seen.wrapping_sub(ticks);
            self.fragments
                .insert(key, fragment, 0)
                .expect("fragments has room");
        }
    }

    fn forget_flows(&mut self) {
        for key in self.flows().keys() {
            self.remove_flow(key);
        }
        let clients: Vec<_> = self
            .affinity
            .keys()
            .map(|key| key.expect("affinity can be read"))
            .collect();
        for client in clients {
            self.affinity.remove(&client).expect("the record is there");
        }
        for slot in 0..self.embryos.len() {
            let none = Tuple::default();
            self.embryos.set(slot, none, 0).expect("the slot is there");
        }
        let datagrams: Vec<_> = self.fragments.keys().flatten().collect();
        for datagram in datagrams {
            self.fragments.remove(&datagram).expect("the entry is there");
        }
    }

    fn take_traffic(&mut self) -> Traffic {
        let keys: Vec<_> = self
            .traffic
            .keys()
            .map(|key| key.expect("traffic can be read"))
            .collect();
        let mut taken = Traffic::new();
        for key in keys {
            let values = self.traffic.get(&key, 0).expect("nothing makes way here");
            self.traffic.remove(&key).expect("it is there");
            let general = TrafficKey {
                frontend: key.frontend.into(),
                backend: key.backend.into(),
                frontend_port: key.frontend_port,
                backend_port: key.backend_port,
                protocol: key.protocol,
                outcome: key.outcome,
                leg: key.leg,
                reserved: key.reserved,
            };
            let sum = |sum: Counter, cpu: &Counter| Counter {
                packets: sum.packets + cpu.packets,
                bytes: sum.bytes + cpu.bytes,
            };
            taken.insert(general, values.iter().fold(Counter::default(), sum));
        }
        taken
    }

    fn simulation(&self, site: &Site, common: Common) -> Box<dyn Simulation> {
        fn all<K: Pod + Ord, V: Pod>(map: &HashMap<MapData, K, V>) -> BTreeMap<K, V> {
            map.iter()
                .map(|entry| entry.expect("the map can be read"))
                .collect()
        }
        fn elements<V: Pod>(map: &Array<MapData, V>) -> Vec<V> {
            map.iter()
                .map(|value| value.expect("the map can be read"))
                .collect()
        }
        let route = site.clone();
        let source = |(host, class): (Host, _)| {
            let bits = 8 * F::ADDR_LEN;
            (Self::address(site.ip(host)), bits, class)
        };
        let mut tables = SimTables::<F>::default();
        tables.addresses = all(&self.addresses);
        tables.sources = Host::SOURCES.map(source).to_vec();
        tables.frontends = all(&self.frontends);
        tables.services = elements(&self.services);
        tables.sets = elements(&self.sets);
        tables.backends = elements(&self.backends);
        tables.ranges = (self.ranges.iter())
            .map(|entry| entry.expect("ranges can be read").0)
            .map(|key| (key.data(), key.prefix_len() - RangeKey::<F::Addr>::TABLE_BITS))
            .map(|(key, bits)| (key.table, key.address, bits as usize))
            .collect();
        tables.maglev = common.maglev;
        tables.node = common.node;
        tables.devices = common.devices;
        tables.route = Box::new(move |tuple| route.route(tuple.destination.into()));
        Box::new(tables)
    }
}

impl<F: Net> Typed<F>
where
    F::Addr: Pod,
    Tuple<F::Addr>: Pod,
    Flow<F::Addr>: Pod,
    FrontendKey<F::Addr>: Pod,
    FragmentKey<F::Addr>: Pod,
    Backend<F::Addr>: Pod,
    RangeKey<F::Addr>: Pod,
    AffinityKey<F::Addr>: Pod,
    Affinity<F::Addr>: Pod,
    TrafficKey<F::Addr>: Pod,
{
    fn put_frontends(&mut self, site: &Site, svc: Svc, kind: abi::FrontendKind) {
        let frontend = site.frontend(svc, kind);
        let address = match kind {
            abi::FrontendKind::NodePort => F::Addr::default(),
            _ => Self::address(frontend.ip()),
        };
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            let key = FrontendKey {
                address,
                port: frontend.port(),
                protocol: protocol as u8,
                reserved: 0,
            };
            let value = Frontend {
                service: svc as u32,
                kind: kind as u8,
                reserved: [0; 3],
            };
            self.frontends.insert(key, value, 0).expect("frontends has room");
        }
    }
}

pub(crate) fn with_addresses<A: Copy, B>(tuple: &Tuple<A>, convert: impl Fn(A) -> B) -> Tuple<B> {
    Tuple {
        source: convert(tuple.source),
        destination: convert(tuple.destination),
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        protocol: tuple.protocol,
        phase: tuple.phase,
        reserved: tuple.reserved,
    }
}

pub(crate) fn with_target<A, B>(flow: &Flow<A>, to: Tuple<B>) -> Flow<B> {
    Flow {
        to,
        seen: flow.seen,
        created: flow.created,
        device: flow.device,
        twin_device: flow.twin_device,
        state: flow.state,
        action: flow.action,
        flags: flow.flags,
    }
}
