//! What is remembered of one Service port: the set that is live, and the one that is being written.

use std::collections::BTreeMap;

use lb_common::abi::{Family, Frontend, FrontendKey, Set};

use super::{alloc::Region, layout::Arrangement, op::FamilyOp, tables::TableRef};
use crate::model::ServicePortId;

/// A Service port that has a service index.
#[derive(Debug)]
pub(super) struct Port<F: Family> {
    pub(super) id: ServicePortId,
    pub(super) frontends: BTreeMap<FrontendKey<F::Addr>, Frontend>,
    pub(super) generation: u32,
    /// What the service's word names.
    pub(super) live: Option<Lease<F>>,
    pub(super) draft: Option<Draft<F>>,
    /// Frontends in the map that lead here.
    pub(super) referrers: u32,
    pub(super) removing: bool,
}

/// An arrangement and the places it takes.
#[derive(Debug)]
pub(super) struct Lease<F: Family> {
    pub(super) arrangement: Arrangement<F::Addr>,
    pub(super) set: Region,
    pub(super) backends: Region,
    pub(super) local: TableRef,
    pub(super) cluster: TableRef,
    pub(super) ranges: Option<u32>,
}

/// A set that nothing refers to yet.
#[derive(Debug)]
pub(super) struct Draft<F: Family> {
    pub(super) lease: Lease<F>,
    pub(super) backends_written: bool,
    pub(super) set_written: bool,
}

/// What is left to write for one new set.
pub(super) struct DraftOps<F: Family> {
    pub(super) backends: Option<FamilyOp<F>>,
    pub(super) set: Option<FamilyOp<F>>,
    pub(super) switch: FamilyOp<F>,
    /// Another set is live until the switch.
    pub(super) replaces: bool,
}

impl<F: Family> Port<F> {
    pub(super) fn new(id: ServicePortId) -> Self {
        Self {
            id,
            frontends: BTreeMap::new(),
            generation: 0,
            live: None,
            draft: None,
            referrers: 0,
            removing: false,
        }
    }

    /// What the port will be when all is written.
    pub(super) fn newest(&self) -> Option<&Lease<F>> {
        self.draft
            .as_ref()
            .map(|draft| &draft.lease)
            .or(self.live.as_ref())
    }
}

impl<F: Family> Lease<F> {
    pub(super) fn descriptor(&self, service: u32) -> Set {
        Set {
            backends: self.backends.first,
            total: self.arrangement.backends.len() as u16,
            local: self.arrangement.local,
            cluster_from: self.arrangement.cluster_from,
            flags: self.arrangement.flags,
            local_table: self.local.first,
            local_rows: self.local.rows,
            cluster_table: self.cluster.first,
            cluster_rows: self.cluster.rows,
            affinity_timeout: self.arrangement.affinity_timeout,
            service,
            identity: self.arrangement.identity,
            ranges: self.ranges.unwrap_or(0),
        }
    }
}
