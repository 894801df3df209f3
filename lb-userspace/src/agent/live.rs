//! A live node as `explain` asks it: the status that its agent has written, the pinned maps, and the kernel's routes.
//!
//! *Invariant*: all of it is only read.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use lb_common::abi::{FrontendKind, Protocol, V4, V6};

use super::report::{Report, ServiceReport};
use crate::{
    config::Instance,
    explain::{Live, LiveRoute, Named, Served},
    load::PinDirectory,
    maps::{Lookup as _, bpf::Pinned},
    model::{FrontendAddress, ObjectKey, Problem},
    node::{self, Snapshot},
};

/// A node, ready to be asked.
pub struct LiveNode {
    /// Where its maps and links are pinned.
    pub pins: PinDirectory,
    report: Report,
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
        let report = fs::read(&file).with_context(|| {
            format!(
                "no agent of instance `{}` has run here: cannot read {}; ask on a node, or with --manifests",
                instance.name,
                file.display()
            )
        })?;
        let report: Report = serde_json::from_slice(&report)
            .with_context(|| format!("{} was written by an agent of another version", file.display()))?;
        let pins = PinDirectory::new(&instance.bpffs, &instance.name)?;
        Ok(Self {
            report,
            v4: Pinned::open(|name| pins.map(name))?,
            v6: Pinned::open(|name| pins.map(name))?,
            snapshot: node::snapshot().await?,
            pins,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.report.node
    }

    /// Where its agent's objects come from: `kubernetes`, or the directory.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.report.source.name
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
        let problems = self.report.problems.iter();
        Ok(Live {
            node: self.report.node.clone(),
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
            services: self.report.services.iter().filter_map(served).collect(),
            problems: problems
                .map(|problem| Problem {
                    object: problem.object.clone(),
                    message: problem.message.clone(),
                })
                .collect(),
            named,
            tick: node::jiffies().map_or(0, |jiffies| (jiffies >> shift) as u32),
        })
    }
}

/// A line of the status; `None`: it is of a later version.
fn served(report: &ServiceReport) -> Option<Served> {
    let (namespace, name) = report.service.split_once('/')?;
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    Some(Served {
        key: ObjectKey::new(namespace, name),
        port_name: report.port_name.clone(),
        protocol: protocols
            .into_iter()
            .find(|protocol| protocol.to_string() == report.protocol)?,
        frontends: report
            .frontends
            .iter()
            .filter_map(|text| frontend(text))
            .collect(),
    })
}

fn frontend(text: &str) -> Option<FrontendAddress> {
    let (kind, place) = text.split_once(' ')?;
    let kinds = [
        FrontendKind::ClusterIp,
        FrontendKind::NodePort,
        FrontendKind::LoadBalancer,
        FrontendKind::ExternalIp,
    ];
    let kind = kinds.into_iter().find(|known| format!("{known:?}") == kind)?;
    let (address, port): (Option<IpAddr>, u16) = match place.strip_prefix("*:") {
        Some(port) => (None, port.parse().ok()?),
        None => {
            let place: SocketAddr = place.parse().ok()?;
            (Some(place.ip()), place.port())
        }
    };
    Some(FrontendAddress { address, port, kind })
}
