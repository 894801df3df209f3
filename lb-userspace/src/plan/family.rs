//! One family's Service ports: what was written for each, and what is still to be written.
//!
//! A Service port has a service index for as long as it exists. Its set is immutable: a change makes a
//! draft in places of its own, and once the draft is written the service's word is switched to it.
//!
//! *Invariants*: bookkeeping follows the writes ([`FamilyPlanner::done`]); nothing is written before what
//! it refers to, nor removed before what refers to it ([`FamilyPlanner::is_ready`]). A port that does not
//! fit is left exactly as it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use lb_common::{
    abi::{Family, Frontend, FrontendKey, FrontendKind, Protocol, Service, Source, names},
    maglev::elements_for,
};
use thiserror::Error;

use super::{
    addresses::{Addresses, Moved},
    alloc::{Region, Regions},
    capacities::Capacities,
    entries::Entries,
    layout::{self, Arrangement, Surroundings, TooManyBackends},
    op::FamilyOp,
    port::{Draft, DraftOps, Lease, Port},
    ranges::Ranges,
    settings::PlanSettings,
    tables::{TableRef, Tables},
};
use crate::model::{ServicePort, ServicePortId};

/// Why a Service port does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(super) enum Unplaced {
    #[error("it has {0} endpoints, and a set holds at most 65534: split the Service")]
    Backends(usize),
    #[error(
        "the map `{map}` has no room for {wanted} more entries: restart the agent, which sizes its maps by what it finds; no flow is lost"
    )]
    Full { map: &'static str, wanted: u32 },
}

/// One family's half of the plan.
#[derive(Debug)]
pub(super) struct FamilyPlanner<F: Family> {
    ids: BTreeMap<ServicePortId, u32>,
    /// By service index.
    ports: BTreeMap<u32, Port<F>>,
    /// Service indices of ports with a draft, or that are being removed.
    open: BTreeSet<u32>,
    services: Regions,
    sets: Regions,
    backends: Regions,
    pub(super) frontends: Entries<FrontendKey<F::Addr>, Frontend>,
    pub(super) addresses: Addresses<F>,
    pub(super) sources: Entries<(F::Addr, u8), Source>,
    /// Service ports that are live, and their backends.
    live: (usize, usize),
    pub(super) ranges: Ranges<F>,
    pub(super) capacities: Capacities,
}

impl<F: Family> FamilyPlanner<F> {
    pub(super) fn new(capacities: Capacities) -> Self {
        Self {
            ids: BTreeMap::new(),
            ports: BTreeMap::new(),
            open: BTreeSet::new(),
            services: Regions::new(capacities.services),
            sets: Regions::new(capacities.sets),
            backends: Regions::new(capacities.backends),
            frontends: Entries::default(),
            addresses: Addresses::default(),
            sources: Entries::default(),
            live: (0, 0),
            ranges: Ranges::new(capacities.sets, capacities.ranges),
            capacities,
        }
    }

    /// Plans a Service port as it should be now; nothing happens if it is so already.
    pub(super) fn place(
        &mut self,
        port: &ServicePort,
        tables: &mut Tables,
        settings: &PlanSettings,
        now: Duration,
    ) -> Result<(), Unplaced> {
        let arrangement = Arrangement::new(port, self.addresses.surroundings(), settings.tick())
            .map_err(|TooManyBackends(n)| Unplaced::Backends(n))?;
        self.check_frontends(port)?;
        let known = self.ids.get(&port.id).copied();
        let current = known.and_then(|index| self.ports[&index].newest());
        let draft = if current.is_some_and(|lease| lease.arrangement == arrangement) {
            None
        } else {
            Some(self.lease(arrangement, tables, settings.seed)?)
        };
        let index = match known {
            Some(index) => index,
            None => match self.services.take(1) {
                Some(region) => region.first,
                None => {
                    self.give_back(draft.expect("a new port has a draft"), tables);
                    return Err(full::<F>(names::SERVICES, 1));
                }
            },
        };
        if known.is_none() {
            self.ids.insert(port.id.clone(), index);
            self.ports.insert(index, Port::new(port.id.clone()));
        }
        self.stage(index, draft, tables);
        let frontends = layout::frontends::<F>(port, index).collect();
        self.claim(index, frontends, now + settings.linger);
        Ok(())
    }

    /// Plans the removal of a Service port, if there is one of this name.
    pub(super) fn remove(
        &mut self,
        id: &ServicePortId,
        tables: &mut Tables,
        settings: &PlanSettings,
        now: Duration,
    ) {
        let Some(index) = self.ids.get(id).copied() else {
            return;
        };
        self.claim(index, BTreeMap::new(), now + settings.linger);
        let share = self.share(index);
        let port = self.ports.get_mut(&index).expect("an id leads to a port");
        port.removing = true;
        self.open.insert(index);
        if let Some(draft) = port.draft.take() {
            self.give_back(draft.lease, tables);
        }
        self.recount(index, share);
        let port = &self.ports[&index];
        if port.live.is_none() && port.referrers == 0 {
            self.forget(index);
            self.services.give_back(Region {
                first: index,
                length: 1,
            });
        }
    }

    /// Whether a TCP frontend is at this address, or at every address that NodePorts are at.
    pub(super) fn has_frontend(&self, at: SocketAddr, node_port: bool) -> bool {
        let has = |address| {
            let key = FrontendKey {
                address,
                port: at.port(),
                protocol: Protocol::Tcp as u8,
                reserved: 0,
            };
            self.frontends.wanted().contains_key(&key)
        };
        F::from_ip(at.ip()).is_some_and(|ip| has(ip) || node_port && has(F::Addr::default()))
    }

    /// Replaces what is known of the nodes. Returns what Service ports have to be placed anew for.
    pub(super) fn surround(&mut self, surroundings: Surroundings<F>) -> Moved<F> {
        let sources = surroundings.sources();
        let gone: Vec<_> = self
            .sources
            .wanted()
            .keys()
            .filter(|prefix| !sources.contains_key(prefix))
            .copied()
            .collect();
        gone.into_iter()
            .for_each(|prefix| self.sources.want(prefix, None));
        sources
            .into_iter()
            .for_each(|(prefix, source)| self.sources.want(prefix, Some(source)));

        self.addresses.surround(surroundings)
    }

    /// Whether nothing is left to write and no place waits for a grace period.
    pub(super) fn is_settled(&self) -> bool {
        self.open.is_empty()
            && self.frontends.is_settled()
            && self.addresses.entries.is_settled()
            && self.addresses.marks.is_settled()
            && self.sources.is_settled()
            && self.ranges.is_settled()
            && !self.awaits_grace()
    }

    pub(super) fn awaits_grace(&self) -> bool {
        [&self.services, &self.sets, &self.backends]
            .into_iter()
            .any(Regions::awaits_grace)
            || self.ranges.awaits_grace()
    }

    pub(super) fn grace_passed(&mut self) {
        [&mut self.services, &mut self.sets, &mut self.backends]
            .into_iter()
            .for_each(Regions::grace_passed);
        self.ranges.grace_passed();
    }

    /// Writes of new sets that are left: backends and descriptors, then the words that switch to them.
    pub(super) fn drafts(&self) -> impl Iterator<Item = DraftOps<F>> + '_ {
        self.open.iter().filter_map(|index| {
            let port = &self.ports[index];
            let draft = port.draft.as_ref()?;
            let Lease {
                set,
                backends,
                arrangement,
                ..
            } = &draft.lease;
            Some(DraftOps {
                backends: (!draft.backends_written && !arrangement.backends.is_empty()).then(|| {
                    FamilyOp::Backends {
                        service: *index,
                        first: backends.first,
                        backends: arrangement.backends.clone(),
                    }
                }),
                set: (!draft.set_written).then(|| FamilyOp::Set {
                    index: set.first,
                    set: draft.lease.descriptor(*index),
                }),
                switch: FamilyOp::Service {
                    index: *index,
                    service: Service::new(set.first, port.generation.wrapping_add(1)),
                },
                replaces: port.live.is_some(),
            })
        })
    }

    /// Service indices of ports that are being removed.
    pub(super) fn removals(&self) -> impl Iterator<Item = u32> + '_ {
        self.open
            .iter()
            .filter(|index| self.ports[index].removing)
            .copied()
    }

    /// Whether everything that this write relies on is in place.
    pub(super) fn is_ready(&self, op: &FamilyOp<F>, tables: &Tables) -> bool {
        let draft = |index| self.ports.get(index).and_then(|port| port.draft.as_ref());
        match op {
            FamilyOp::Set { set, .. } => draft(&set.service).is_some_and(|draft| {
                let Lease {
                    local,
                    cluster,
                    arrangement,
                    ranges,
                    ..
                } = &draft.lease;
                ranges.is_none_or(|ranges| self.ranges.is_written(ranges))
                    && (draft.backends_written || arrangement.backends.is_empty())
                    && tables.is_written(*local)
                    && tables.is_written(*cluster)
            }),
            FamilyOp::Service { index, service } if service.set().is_some() => {
                draft(index).is_some_and(|draft| draft.set_written)
            }
            FamilyOp::Service { index, .. } => self.ports.get(index).is_some_and(|port| port.referrers == 0),
            FamilyOp::Frontend {
                frontend: Some(frontend),
                ..
            } => self
                .ports
                .get(&frontend.service)
                .is_some_and(|port| port.live.is_some() && port.draft.is_none()),
            FamilyOp::Frontend { frontend: None, .. }
            | FamilyOp::Source { .. }
            | FamilyOp::Range { .. }
            | FamilyOp::Backends { .. }
            | FamilyOp::Mark { .. }
            | FamilyOp::Address { .. } => true,
        }
    }

    /// Notes that a write has succeeded.
    pub(super) fn done(&mut self, op: &FamilyOp<F>, tables: &mut Tables) {
        match op {
            FamilyOp::Source { prefix, source } => {
                self.sources.wrote(*prefix, *source);
            }
            FamilyOp::Mark { address, is_set } => {
                self.addresses.marks.wrote(*address, is_set.then_some(()));
            }
            FamilyOp::Range { prefix, range } => self.ranges.wrote(*prefix, *range),
            FamilyOp::Address { address, value } => {
                self.addresses.entries.wrote(*address, *value);
            }
            FamilyOp::Frontend { key, frontend } => {
                if let Some(before) = self.frontends.wrote(*key, *frontend) {
                    self.port(before.service).referrers -= 1;
                }
                if let Some(frontend) = frontend {
                    self.port(frontend.service).referrers += 1;
                }
            }
            FamilyOp::Backends { service, .. } => {
                self.port(*service)
                    .draft
                    .as_mut()
                    .expect("backends are a draft's")
                    .backends_written = true;
            }
            FamilyOp::Set { set, .. } => {
                self.port(set.service)
                    .draft
                    .as_mut()
                    .expect("a written set is a draft's")
                    .set_written = true;
            }
            FamilyOp::Service { index, service } if service.set().is_some() => self.switched(*index, tables),
            FamilyOp::Service { index, .. } => {
                let port = self.forget(*index);
                if let Some(live) = port.live {
                    self.release(live, tables);
                }
                self.services.release(Region {
                    first: *index,
                    length: 1,
                });
            }
        }
    }

    /// How many service ports are live, and with how many backends.
    pub(super) fn live(&self) -> (usize, usize) {
        self.live
    }

    /// Places that are not free: of services, sets and backends.
    pub(super) fn places_taken(&self) -> [u32; 3] {
        [&self.services, &self.sets, &self.backends].map(Regions::taken)
    }

    /// A port's share in [`FamilyPlanner::live`].
    fn share(&self, index: u32) -> (usize, usize) {
        let port = self.ports.get(&index).filter(|port| !port.removing);
        port.and_then(|port| port.live.as_ref())
            .map_or((0, 0), |lease| (1, lease.arrangement.backends.len()))
    }

    /// Notes that a port's share was `before`.
    fn recount(&mut self, index: u32, before: (usize, usize)) {
        let now = self.share(index);
        self.live.0 = self.live.0 + now.0 - before.0;
        self.live.1 = self.live.1 + now.1 - before.1;
    }

    /// The word has been switched to the draft.
    fn switched(&mut self, index: u32, tables: &mut Tables) {
        let share = self.share(index);
        let port = self.port(index);
        let draft = port.draft.take().expect("a word is switched to a draft");
        port.generation = port.generation.wrapping_add(1);
        let before = port.live.replace(draft.lease);
        if !port.removing {
            self.open.remove(&index);
        }
        if let Some(before) = before {
            self.release(before, tables);
        }
        self.recount(index, share);
    }

    fn check_frontends(&self, port: &ServicePort) -> Result<(), Unplaced> {
        let room = |map: [&'static str; 2], used: usize, new: usize, capacity: u32| {
            let new = u32::try_from(new).unwrap_or(u32::MAX);
            if new > 0 && u32::try_from(used).unwrap_or(u32::MAX).saturating_add(new) > capacity {
                return Err(full::<F>(map, new));
            }
            Ok(())
        };
        let keys: BTreeSet<_> = layout::frontends::<F>(port, 0).map(|(key, _)| key).collect();
        let frontends = self.frontends.wanted();
        let new = keys.iter().filter(|key| !frontends.contains_key(key)).count();
        let marks = self.addresses.marks.wanted();
        let new_marks: BTreeSet<_> = layout::frontends::<F>(port, 0)
            .filter(|(key, frontend)| {
                kind(frontend) == FrontendKind::ClusterIp && !marks.contains_key(&key.address)
            })
            .map(|(key, _)| key.address)
            .collect();
        let used = frontends.len() + marks.len();
        room(
            names::FRONTENDS,
            used,
            new + new_marks.len(),
            self.capacities.frontends,
        )?;
        let known = self.addresses.entries.wanted();
        let vips: BTreeSet<_> = keys.iter().map(|key| key.address).filter(is_vip::<F>).collect();
        let new = vips.iter().filter(|address| !known.contains_key(address)).count();
        room(names::ADDRESSES, known.len(), new, self.capacities.addresses)
    }

    /// Places for an arrangement: all of them or none.
    fn lease(
        &mut self,
        arrangement: Arrangement<F::Addr>,
        tables: &mut Tables,
        seed: u32,
    ) -> Result<Lease<F>, Unplaced> {
        let count = arrangement.backends.len() as u32;
        let set = self.sets.take(1).ok_or(full::<F>(names::SETS, 1))?;
        let Some(backends) = self.backends.take(count) else {
            self.sets.give_back(set);
            return Err(full::<F>(names::BACKENDS, count));
        };
        let mut lease = Lease {
            set,
            backends,
            local: TableRef::default(),
            cluster: TableRef::default(),
            ranges: None,
            arrangement,
        };
        if let Some(ranges) = &lease.arrangement.ranges {
            lease.ranges = self.ranges.claim(ranges);
            if lease.ranges.is_none() {
                let wanted = ranges.len() as u32;
                self.give_back(lease, tables);
                return Err(full::<F>(names::RANGES, wanted));
            }
        }
        let local = lease.arrangement.local_table(seed);
        let cluster = lease.arrangement.cluster_table(seed);
        let wanted = elements_for(local.size()) + elements_for(cluster.size());
        let claims = tables.claim(local).map(|local| (local, tables.claim(cluster)));
        let Some((local, Some(cluster))) = claims else {
            lease.local = claims.map(|(local, _)| local).unwrap_or_default();
            self.give_back(lease, tables);
            return Err(Unplaced::Full {
                map: names::MAGLEV,
                wanted,
            });
        };
        (lease.local, lease.cluster) = (local, cluster);
        Ok(lease)
    }

    /// Makes `lease` the port's draft; without one, its newest set is already as it should be.
    fn stage(&mut self, index: u32, lease: Option<Lease<F>>, tables: &mut Tables) {
        let share = self.share(index);
        let port = self.port(index);
        port.removing = false;
        let draft = lease.map(|lease| Draft {
            lease,
            backends_written: false,
            set_written: false,
        });
        let before = draft.and_then(|draft| port.draft.replace(draft));
        let open = port.draft.is_some();
        if let Some(before) = before {
            self.give_back(before.lease, tables);
        }
        if open {
            self.open.insert(index);
        } else {
            self.open.remove(&index);
        }
        self.recount(index, share);
    }

    /// Makes exactly these the port's frontends; an address that loses its last one stays `until`.
    fn claim(&mut self, index: u32, frontends: BTreeMap<FrontendKey<F::Addr>, Frontend>, until: Duration) {
        let before = std::mem::replace(&mut self.port(index).frontends, frontends.clone());
        for (key, frontend) in &frontends {
            self.frontends.want(*key, Some(*frontend));
            if is_vip::<F>(&key.address) && before.get(key) != Some(frontend) {
                self.addresses.claim(key.address, kind(frontend));
            }
        }
        for (key, old) in &before {
            match frontends.get(key) {
                Some(new) if new == old => continue,
                Some(_) => {
                    if is_vip::<F>(&key.address) {
                        self.addresses.unclaim(key.address, kind(old), until);
                    }
                    continue;
                }
                None => {}
            }
            // Another Service port may have taken it over in the meantime.
            if self
                .frontends
                .wanted()
                .get(key)
                .is_some_and(|frontend| frontend.service == index)
            {
                self.frontends.want(*key, None);
            }
            if is_vip::<F>(&key.address) {
                self.addresses.unclaim(key.address, kind(old), until);
            }
        }
    }

    /// Takes back places that nothing ever referred to.
    fn give_back(&mut self, lease: Lease<F>, tables: &mut Tables) {
        self.sets.give_back(lease.set);
        self.backends.give_back(lease.backends);
        tables.release(lease.local);
        tables.release(lease.cluster);
        lease
            .ranges
            .into_iter()
            .for_each(|ranges| self.ranges.give_back(ranges));
    }

    /// Takes back places that may still be read until a grace period has passed.
    fn release(&mut self, lease: Lease<F>, tables: &mut Tables) {
        self.sets.release(lease.set);
        self.backends.release(lease.backends);
        tables.release(lease.local);
        tables.release(lease.cluster);
        lease
            .ranges
            .into_iter()
            .for_each(|ranges| self.ranges.release(ranges));
    }

    fn forget(&mut self, index: u32) -> Port<F> {
        let share = self.share(index);
        let port = self.ports.remove(&index).expect("a removed port exists");
        self.ids.remove(&port.id);
        self.open.remove(&index);
        self.recount(index, share);
        port
    }

    fn port(&mut self, index: u32) -> &mut Port<F> {
        self.ports
            .get_mut(&index)
            .expect("operations and frontends name ports that exist")
    }
}

fn kind(frontend: &Frontend) -> FrontendKind {
    FrontendKind::from_number(frontend.kind)
}

fn is_vip<F: Family>(address: &F::Addr) -> bool {
    *address != F::Addr::default()
}

fn full<F: Family>(map: [&'static str; 2], wanted: u32) -> Unplaced {
    Unplaced::Full {
        map: map[F::INDEX],
        wanted,
    }
}
