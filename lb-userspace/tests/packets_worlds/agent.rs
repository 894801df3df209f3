//! The agent's way from objects to maps: the real conversion, model, planner and writer, without its threads.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lb_userspace::{
    agent::stale::Serving,
    apply::write,
    maps::{MapStore, faulty},
    model::{Index, NodeFacts, NodeIdentity, ObjectKey, ServicePort},
    node::{Hints, Prefix, Snapshot, facts},
    plan::{PlanSettings, Planner},
};

use lb_common::testing::chance::Chance;

use crate::{
    cluster::Event,
    kernel::{CAPACITIES, Kernel},
    node,
    oracle::{self, Settings},
    places,
};

/// Rounds after which nothing will get settled any more.
const ROUNDS: usize = 2000;

/// Which writes fail: one in ten, as its state says; none while it is 0.
#[derive(Clone, Default, Debug)]
pub(crate) struct Faults(Arc<AtomicU64>);

impl Faults {
    /// One in ten writes fails from now on.
    pub(crate) fn start(&self, seed: u64) {
        self.0.store(seed | 1, Ordering::Relaxed);
    }

    pub(crate) fn stop(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn next_fails(&self) -> bool {
        let state = self.0.load(Ordering::Relaxed);
        if state == 0 {
            return false;
        }
        let next = Chance::new(state, 9).number();
        self.0.store(next | 1, Ordering::Relaxed);
        (next >> 1).is_multiple_of(10)
    }

    /// `store`, whose writes fail accordingly. Nothing runs beside the test: no grace period is needed.
    pub(crate) fn injected_into(&self, store: MapStore) -> MapStore {
        let faults = self.clone();
        let mut store = faulty::when(move || faults.next_fails(), store);
        store.grace = Box::new(|| {});
        store
    }
}

/// An agent with empty maps.
pub(crate) struct Agent<'a> {
    index: Index,
    planner: Planner,
    store: &'a mut MapStore,
    snapshot: &'a Snapshot,
    served: BTreeMap<ObjectKey, Vec<ServicePort>>,
    flags: Hints,
    now: Duration,
}

impl<'a> Agent<'a> {
    pub(crate) fn new(
        store: &'a mut MapStore,
        snapshot: &'a Snapshot,
        settings: &Settings,
        linger: Duration,
        seed: u64,
    ) -> Self {
        let ranges = settings.external_ip_ranges.iter();
        let identity = NodeIdentity {
            name: places::NODES[0].to_owned(),
            external_ip_ranges: ranges
                .filter_map(|text| lb_userspace::model::parse_prefix(text))
                .collect(),
        };
        let node_ports = settings.nodeport_addresses.iter();
        let flags = Hints {
            devices: node::overrides(),
            nodeport_addresses: node_ports.filter_map(|text| text.parse().ok()).collect(),
            ..Hints::default()
        };
        let plan = PlanSettings {
            seed: seed as u32,
            masquerade_all: settings.masquerade_all,
            pod_detection: !settings.no_pod_detection,
            service_cidrs: places::SERVICE_CIDRS.to_vec(),
            linger,
            capacities: CAPACITIES,
            ..PlanSettings::default()
        };
        let mut agent = Self {
            index: Index::new(identity),
            planner: Planner::new(plan),
            store,
            snapshot,
            served: BTreeMap::new(),
            flags,
            now: Duration::ZERO,
        };
        agent.facts();
        agent
    }

    /// Takes in one event, without passing it on.
    pub(crate) fn take(&mut self, event: &Event) {
        self.index.apply(event.change());
    }

    /// Passes on what has changed, as the agent does after a batch of events.
    pub(crate) fn pass_on(&mut self, facts_first: bool) {
        let changed = self.index.take_changed();
        if changed.nodes && facts_first {
            self.facts();
        }
        let (mut ports, mut removed) = (Vec::new(), Vec::new());
        for key in changed.services {
            let new = self.index.desired_service(&key);
            let before = match new.is_empty() {
                true => self.served.remove(&key),
                false => self.served.insert(key, new.clone()),
            };
            let gone = before.into_iter().flatten().map(|port| port.id);
            removed.extend(gone.filter(|id| !new.iter().any(|port| port.id == *id)));
            ports.extend(new);
        }
        if changed.nodes {
            self.planner.other_nodes(&self.index.other_nodes(), self.now);
        }
        self.planner.update(ports, &removed, self.now);
        if changed.nodes && !facts_first {
            self.facts();
        }
    }

    /// One round of writes.
    pub(crate) fn round(&mut self) {
        let store = &mut *self.store;
        self.planner.execute(self.now, |op| write(store, op));
    }

    /// Writes until nothing is left to write; `between` is done after each round.
    pub(crate) fn settle(&mut self, mut between: impl FnMut() -> Result<(), String>) -> Result<(), String> {
        for _ in 0..ROUNDS {
            self.round();
            between()?;
            if self.planner.is_settled() {
                return match &self.planner.problems()[..] {
                    [] => Ok(()),
                    problems => Err(format!("does not fit: {problems:?}")),
                };
            }
        }
        Err("the maps are never complete".to_owned())
    }

    /// What the agent does last: UDP flows whose endpoint no longer serves are forgotten.
    pub(crate) fn forget_stale(&self, kernel: &mut Kernel) {
        let serving = Serving::of(self.served.values().flatten());
        kernel.forget_flows_if(|flow| serving.has_lost(flow));
    }

    /// Time goes by.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// Whether a process' packets to an address are routed into `lb0`.
    pub(crate) fn is_routed(&self, ip: std::net::IpAddr) -> bool {
        let mut cidrs = places::SERVICE_CIDRS.iter();
        let mut frontends = self.served.values().flatten().flat_map(|port| &port.frontends);
        cidrs.any(|(network, bits)| oracle::prefix_contains(*network, *bits, ip))
            || frontends.any(|frontend| frontend.address == Some(ip))
    }

    /// Takes everything back and says what is left in the maps.
    pub(crate) fn end(mut self) -> Result<(), String> {
        let all: Vec<_> = self
            .served
            .values()
            .flatten()
            .map(|port| port.id.clone())
            .collect();
        self.planner.update(Vec::new(), &all, self.now);
        self.planner.other_nodes(&[], self.now);
        self.planner.node_facts(&NodeFacts::default(), self.now);
        self.wait(Duration::from_secs(24 * 3600));
        self.settle(|| Ok(()))?;
        let MapStore { devices, v4, v6, .. } = &*self.store;
        let read =
            |count: Result<usize, lb_userspace::maps::MapError>| count.map_err(|error| error.to_string());
        let left = [
            ("devices", read(devices.entries().map(|all| all.len()))?),
            ("frontends4", read(v4.frontends.entries().map(|all| all.len()))?),
            ("frontends6", read(v6.frontends.entries().map(|all| all.len()))?),
            ("addresses4", read(v4.addresses.entries().map(|all| all.len()))?),
            ("addresses6", read(v6.addresses.entries().map(|all| all.len()))?),
            ("ranges4", read(v4.ranges.entries().map(|all| all.len()))?),
            ("ranges6", read(v6.ranges.entries().map(|all| all.len()))?),
            ("sources4", read(v4.sources.entries().map(|all| all.len()))?),
            ("sources6", read(v6.sources.entries().map(|all| all.len()))?),
        ];
        match left.iter().find(|(_, count)| *count != 0) {
            Some((map, count)) => Err(format!("{map} keeps {count} entries after everything is gone")),
            None => Ok(()),
        }
    }

    /// What the kernel and the Node objects say of this node.
    fn facts(&mut self) {
        let prefixes = |all: Vec<(std::net::IpAddr, u8)>| -> Vec<Prefix> {
            all.iter()
                .filter_map(|(ip, bits)| Prefix::new(*ip, *bits))
                .collect()
        };
        let this = self.index.this_node();
        let hints = Hints {
            node_addresses: this.map(|node| node.addresses.clone()).unwrap_or_default(),
            pod_cidrs: prefixes(this.map(|node| node.pod_prefixes.clone()).unwrap_or_default()),
            other_pod_cidrs: prefixes(self.index.other_pod_prefixes().collect()),
            ..self.flags.clone()
        };
        let facts = facts::reduce(self.snapshot, &hints);
        self.planner.node_facts(&facts, self.now);
    }
}

/// Removes what a failed world has left in the maps.
pub(crate) fn wipe(store: &mut MapStore) -> Result<(), String> {
    macro_rules! wipe {
        ($($map:expr),+) => {
            $(for (key, _) in $map.entries().map_err(|error| error.to_string())? {
                $map.remove(&key).map_err(|error| error.to_string())?;
            })+
        };
    }
    wipe!(
        store.devices,
        store.v4.frontends,
        store.v6.frontends,
        store.v4.addresses,
        store.v6.addresses,
        store.v4.sources,
        store.v6.sources,
        store.v4.ranges,
        store.v6.ranges,
        store.v4.services,
        store.v6.services
    );
    Ok(())
}
