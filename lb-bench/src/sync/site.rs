//! The agent's stages without a cluster: objects in, real maps written.

use std::sync::{Arc, mpsc::Receiver};

use anyhow::{Context, Result, ensure};
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::{Addr4, names};
use lb_userspace::{
    apply::{self, Inbox, Reconciler, Update},
    load, maps,
    model::{Change, Index, NodeFacts, NodeIdentity},
    plan::{Capacities, PlanSettings},
};

use super::watched::Account;

/// Elements of the map `maglev`: room for 30,000 Services with ten endpoints.
const MAGLEV: u32 = 1 << 20;

/// Index, planner and maps.
pub(crate) struct Site {
    pub(crate) objects: Objects,
    pub(crate) reconciler: Reconciler,
    pub(crate) account: Account,
    /// The way to the reconciler, if it runs by itself.
    pub(crate) inbox: Inbox,
    pub(crate) changes: Receiver<apply::Change>,
    /// Owns what the programs would use.
    _ebpf: Ebpf,
}

/// All objects, joined.
pub(crate) struct Objects(Index);

impl Site {
    /// Empty maps.
    pub(crate) fn new() -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(names::MAGLEV, MAGLEV);
        for name in names::FLOWS {
            loader.map_max_entries(name, 1024);
        }
        let mut ebpf = loader
            .load(load::embedded()?)
            .context("the kernel refuses the maps: are you root?")?;
        let account = Account::default();
        let store = account.watch(maps::bpf::open(|name| ebpf.take_map(name))?);
        let settings = PlanSettings {
            capacities: Capacities {
                maglev: MAGLEV,
                ..Capacities::default()
            },
            ..PlanSettings::default()
        };
        let (inbox, changes) = apply::channel();
        let mut reconciler = Reconciler::new(settings, store, inbox.backlog());
        let own = std::net::Ipv4Addr::from(Addr4 {
            bytes: [192, 0, 2, 10],
        })
        .into();
        let facts = NodeFacts {
            own: vec![own],
            node_ports: vec![own],
            ..NodeFacts::default()
        };
        reconciler.fill([apply::Change::Facts(Arc::new(facts))]);
        account.take();
        Ok(Self {
            objects: Objects(Index::new(NodeIdentity::new("node-0"))),
            reconciler,
            account,
            inbox,
            changes,
            _ebpf: ebpf,
        })
    }

    /// Takes objects in and writes what they change.
    pub(crate) fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Result<()> {
        let update = self.objects.update(changes);
        self.reconciler.fill([apply::Change::Desired(update)]);
        let status = self.reconciler.status();
        let status = status.borrow();
        ensure!(
            status.live == status.received && status.problems.is_empty(),
            "the maps are not complete: {:?} {:?}",
            status.last_error,
            status.problems.first()
        );
        Ok(())
    }
}

impl Objects {
    /// Takes objects in; gives what they change, as the agent passes it on.
    pub(crate) fn update(&mut self, changes: impl IntoIterator<Item = Change>) -> Update {
        changes.into_iter().for_each(|change| self.0.apply(change));
        let changed = self.0.take_changed();
        let ports = changed
            .services
            .iter()
            .flat_map(|key| self.0.desired_service(key));
        Update {
            services: ports.map(|port| (port.id.clone(), Some(port))).collect(),
            ..Update::default()
        }
    }
}
