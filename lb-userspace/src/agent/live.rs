//! A live node as `explain` asks it: the status that its agent has written, the pinned maps, and the kernel's routes.
//!
//! *Invariant*: all of it is only read.

use std::fs;

use anyhow::{Context, Result};
use lb_common::abi::{V4, V6};
use tokio::task::spawn_blocking;

use super::told::Told;
use crate::{
    config::Instance,
    explain::{Live, LiveRoute, Named, Served},
    load::PinDirectory,
    maps::{Lookup as _, bpf::Pinned},
    node::{self, Snapshot},
};

/// A node, ready to be asked.
pub struct LiveNode {
    /// Where its maps and links are pinned.
    pub pins: PinDirectory,
    told: Told,
    v4: Pinned<V4>,
    v6: Pinned<V6>,
    snapshot: Snapshot,
}

impl LiveNode {
    /// The node whose network namespace this is, as its agent of this instance serves it.
    ///
    /// # Errors
    /// If no agent has run here, or the maps are of another version.
    pub async fn open(instance: &Instance) -> Result<Self> {
        let file = instance.status_file();
        let status = fs::read(&file).with_context(|| {
            format!(
                "no agent of instance `{}` has run here: cannot read {}; ask on a node, or with --manifests",
                instance.name,
                file.display()
            )
        })?;
        // A long status is understood while the kernel tells of as many routes.
        let told = spawn_blocking(move || Told::parse(&status));
        let snapshot = node::snapshot().await?;
        let told = told
            .await?
            .with_context(|| format!("{} was written by an agent of another version", file.display()))?;
        let pins = PinDirectory::new(&instance.bpffs, &instance.name)?;
        Ok(Self {
            told,
            v4: Pinned::open(|name| pins.map(name))?,
            v6: Pinned::open(|name| pins.map(name))?,
            snapshot,
            pins,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.told.node
    }

    /// Where its agent's objects come from: `kubernetes`, or the directory.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.told.source
    }

    /// What is served there.
    #[must_use]
    pub fn services(&self) -> &[Served] {
        &self.told.services
    }

    /// Its maps.
    #[must_use]
    pub fn maps(&self) -> (&Pinned<V4>, &Pinned<V6>) {
        (&self.v4, &self.v6)
    }

    /// Its devices, addresses and routes.
    #[must_use]
    pub fn network(&self) -> &Snapshot {
        &self.snapshot
    }

    /// It, for questions; `named` is who such a question names, where that has to be looked up.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn live(&self, named: Option<Named>) -> Result<Live<'_>> {
        let (shift, lb0) = self.v4.node()?.map_or((0, 0), |node| (node.tick_shift, node.lb0));
        // Those to lb0 that are only for the node's own processes are in a table of the agent's.
        let routes = self.snapshot.routes.iter();
        let routes = routes.filter(|route| route.main || (lb0 != 0 && route.device == lb0));
        let sources = self.snapshot.addresses.iter();
        let sources = sources.filter(|address| address.global && address.usable && address.preferred);
        Ok(Live {
            node: self.told.node.clone(),
            devices: self.v4.devices()?.into_iter().collect(),
            v4: &self.v4,
            v6: &self.v6,
            routes: routes
                .map(|route| LiveRoute {
                    prefix: (route.destination.address(), route.destination.length()),
                    device: route.device,
                    metric: route.metric,
                })
                .collect(),
            sources: sources.map(|address| (address.device, address.address)).collect(),
            at_sockets: ["connect4", "connect6"]
                .map(|name| self.told.sockets.iter().any(|known| known == name)),
            services: &self.told.services,
            problems: &self.told.problems,
            named,
            tick: node::jiffies().map_or(0, |jiffies| (jiffies >> shift) as u32),
        })
    }
}
