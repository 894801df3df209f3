//! The planner: takes changes of the desired state and the node's facts, gives ordered writes, and
//! remembers which of them succeeded.
//!
//! *Invariants*: a Service port that did not change costs nothing; a write that failed is planned again,
//! and until then nothing that relies on it is written; a Service port that does not fit is left as it
//! was and reported.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lb_common::abi::{Device, Family, Node, V4, V6};

use super::{
    capacities::Capacities,
    diff,
    entries::Entries,
    family::FamilyPlanner,
    layout::{self, Surroundings},
    op::Op,
    settings::PlanSettings,
    snat,
    tables::Tables,
};
use crate::model::{DesiredState, NodeFacts, Problem, ServicePort, ServicePortId};

/// What was written and what should be.
#[derive(Debug)]
pub struct Planner {
    settings: PlanSettings,
    node: Entries<(), Node>,
    devices: Entries<u32, Device>,
    tables: Tables,
    v4: FamilyPlanner<V4>,
    v6: FamilyPlanner<V6>,
    /// The Service ports as they were last asked for.
    desired: BTreeMap<ServicePortId, ServicePort>,
    /// Those of them that did not fit, and why.
    unplaced: BTreeMap<ServicePortId, String>,
    facts: NodeFacts,
    other_nodes: Vec<IpAddr>,
}

/// A write that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure<E> {
    /// What was to be written.
    pub op: Op,
    /// Why it was not.
    pub error: E,
}

/// How much is live.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Service ports.
    pub services: usize,
    /// Frontends.
    pub frontends: usize,
    /// Backends of all Service ports.
    pub backends: usize,
}

impl Planner {
    /// A planner for empty maps.
    #[must_use]
    pub fn new(settings: PlanSettings) -> Self {
        let capacities = settings.capacities;
        Self {
            node: Entries::default(),
            devices: Entries::default(),
            tables: Tables::new(capacities.maglev),
            v4: FamilyPlanner::new(capacities),
            v6: FamilyPlanner::new(capacities),
            desired: BTreeMap::new(),
            unplaced: BTreeMap::new(),
            facts: NodeFacts::default(),
            other_nodes: Vec::new(),
            settings,
        }
    }

    /// Takes a complete desired state and finds what changed.
    pub fn desired(&mut self, state: &DesiredState, now: Duration) {
        let names: BTreeSet<_> = state.services.iter().map(|port| &port.id).collect();
        let removed: Vec<_> = self
            .desired
            .keys()
            .filter(|id| !names.contains(id))
            .cloned()
            .collect();
        let changed: Vec<_> = state
            .services
            .iter()
            .filter(|port| self.desired.get(&port.id) != Some(*port))
            .cloned()
            .collect();
        self.other_nodes(&state.other_nodes, now);
        self.update(changed, &removed, now);
    }

    /// Takes the addresses of all other nodes.
    pub fn other_nodes(&mut self, addresses: &[IpAddr], now: Duration) {
        if self.other_nodes != addresses {
            self.other_nodes = addresses.to_vec();
            self.surround(now);
        }
    }

    /// Takes the Service ports that changed, and the names of those that are gone.
    pub fn update(&mut self, changed: Vec<ServicePort>, removed: &[ServicePortId], now: Duration) {
        for id in removed {
            self.desired.remove(id);
            self.unplaced.remove(id);
            if id.ipv6 {
                self.v6.remove(id, &mut self.tables, &self.settings, now);
            } else {
                self.v4.remove(id, &mut self.tables, &self.settings, now);
            }
        }
        for port in changed {
            self.place(&port, now);
            self.desired.insert(port.id.clone(), port);
        }
        if !self.facts.translated.is_empty() {
            self.settings_of_node();
        }
    }

    /// Whether connections to our frontends are left to connection tracking, which knows more of them than we do.
    #[must_use]
    pub fn leaves_tracked(&self) -> bool {
        (self.facts.translated.iter()).any(|to| {
            let node_port = self.facts.node_ports.contains(&to.ip());
            self.v4.has_frontend(*to, node_port) || self.v6.has_frontend(*to, node_port)
        })
    }

    fn settings_of_node(&mut self) {
        let now = self.node.wanted().get(&());
        let now = now.map(|node| node.snat_first..=node.snat_last);
        let ports = snat::part(self.settings.snat_ports.clone(), &self.facts.masqueraded, now);
        let node = layout::node(&self.facts, &self.settings, &ports, self.leaves_tracked());
        self.node.want((), Some(node));
    }

    /// Takes what is known of this node.
    pub fn node_facts(&mut self, facts: &NodeFacts, now: Duration) {
        let same = self.facts == *facts;
        self.facts.clone_from(facts);
        self.settings_of_node();
        if same {
            return;
        }
        let gone: Vec<_> = self
            .devices
            .wanted()
            .keys()
            .filter(|index| !facts.devices.contains_key(index))
            .copied()
            .collect();
        gone.into_iter().for_each(|index| self.devices.want(index, None));
        for (index, device) in &facts.devices {
            self.devices.want(*index, Some(layout::device(device)));
        }
        self.surround(now);
    }

    /// Writes what is left to write, as far as it can be written; returns what failed.
    ///
    /// What failed, and what relies on it, is left for the next call.
    pub fn execute<E>(
        &mut self,
        now: Duration,
        mut write: impl FnMut(&Op) -> Result<(), E>,
    ) -> Vec<Failure<E>> {
        self.v4.addresses.expire(now);
        self.v6.addresses.expire(now);
        let mut failures = Vec::new();
        let mut room_was_made = false;
        for op in diff::operations(self) {
            if !self.is_ready(&op) {
                continue;
            }
            match write(&op) {
                Ok(()) => {
                    self.done(&op);
                    room_was_made |= op == Op::Grace;
                }
                Err(error) => failures.push(Failure { op, error }),
            }
        }
        if room_was_made {
            self.place_again(now);
        }
        failures
    }

    /// Whether nothing is left to write. Lingering addresses count once they are due, see
    /// [`Planner::next_due`].
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled_families() == [true, true]
    }

    /// The same for each family, IPv4 and IPv6: what they share counts for both.
    #[must_use]
    pub fn settled_families(&self) -> [bool; 2] {
        let shared = self.node.is_settled()
            && self.devices.is_settled()
            && self.tables.unwritten().next().is_none()
            && !self.tables.awaits_grace();
        [shared && self.v4.is_settled(), shared && self.v6.is_settled()]
    }

    /// When there will be something to write even if nothing changes.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        [self.v4.addresses.next_due(), self.v6.addresses.next_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Service ports that do not fit. They are as they were, or absent if they are new.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let problem = |(id, reason): (&ServicePortId, &String)| Problem {
            object: format!("Service {}/{}", id.namespace, id.name),
            message: match id.port_name.as_str() {
                "" => format!("the {} port is left as it was: {reason}", id.protocol),
                name => format!("port {name} ({}) is left as it was: {reason}", id.protocol),
            },
        };
        self.unplaced.iter().map(problem).collect()
    }

    /// Interface indices of the devices that the data path knows.
    #[must_use]
    pub fn devices_written(&self) -> BTreeSet<u32> {
        self.devices.written().keys().copied().collect()
    }

    /// How much is live.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let (v4, v6) = (self.v4.live(), self.v6.live());
        Counts {
            services: v4.0 + v6.0,
            frontends: self.v4.frontends.written().len() + self.v6.frontends.written().len(),
            backends: v4.1 + v6.1,
        }
    }

    pub(super) fn capacities(&self) -> Capacities {
        self.settings.capacities
    }

    /// Elements of `maglev` that are taken.
    pub(super) fn table_elements(&self) -> usize {
        self.tables.taken() as usize
    }

    fn surround(&mut self, now: Duration) {
        let v4 = self
            .v4
            .surround(Surroundings::new(&self.facts, &self.other_nodes, &self.settings));
        let v6 = self
            .v6
            .surround(Surroundings::new(&self.facts, &self.other_nodes, &self.settings));
        let main = v4.main || v6.main;
        if v4.hosts.is_empty() && v6.hosts.is_empty() && !main {
            return;
        }
        // Whether a backend is a host-network pod is part of its entry.
        let is_host = |ip| {
            V4::from_ip(ip).is_some_and(|ip| v4.hosts.contains(&ip))
                || V6::from_ip(ip).is_some_and(|ip| v6.hosts.contains(&ip))
        };
        let ports = self.desired.values();
        let stale: Vec<_> = ports
            .filter(|port| {
                port.backends.iter().any(|b| is_host(b.address)) || (main && port.source_ranges.is_some())
            })
            .cloned()
            .collect();
        stale.iter().for_each(|port| self.place(port, now));
    }

    fn place(&mut self, port: &ServicePort, now: Duration) {
        let placed = if port.id.ipv6 {
            self.v6.place(port, &mut self.tables, &self.settings, now)
        } else {
            self.v4.place(port, &mut self.tables, &self.settings, now)
        };
        match placed {
            Ok(()) => self.unplaced.remove(&port.id),
            Err(reason) => self.unplaced.insert(port.id.clone(), reason.to_string()),
        };
    }

    fn place_again(&mut self, now: Duration) {
        let again: Vec<_> = self
            .unplaced
            .keys()
            .filter_map(|id| self.desired.get(id))
            .cloned()
            .collect();
        again.iter().for_each(|port| self.place(port, now));
    }

    fn is_ready(&self, op: &Op) -> bool {
        match op {
            Op::V4(op) => self.v4.is_ready(op, &self.tables),
            Op::V6(op) => self.v6.is_ready(op, &self.tables),
            Op::Node(_) | Op::Device { .. } | Op::Table { .. } | Op::Grace => true,
        }
    }

    fn done(&mut self, op: &Op) {
        match op {
            Op::Node(node) => {
                self.node.wrote((), Some(*node));
            }
            Op::Device { index, device } => {
                self.devices.wrote(*index, *device);
            }
            Op::Table { first, .. } => self.tables.wrote(*first),
            Op::V4(op) => self.v4.done(op, &mut self.tables),
            Op::V6(op) => self.v6.done(op, &mut self.tables),
            Op::Grace => {
                self.tables.grace_passed();
                self.v4.grace_passed();
                self.v6.grace_passed();
            }
        }
    }

    pub(super) fn node(&self) -> &Entries<(), Node> {
        &self.node
    }

    pub(super) fn devices(&self) -> &Entries<u32, Device> {
        &self.devices
    }

    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    pub(super) fn v4(&self) -> &FamilyPlanner<V4> {
        &self.v4
    }

    pub(super) fn v6(&self) -> &FamilyPlanner<V6> {
        &self.v6
    }
}
