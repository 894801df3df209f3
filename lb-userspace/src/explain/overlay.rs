//! The same maps, but for some flags of their sets: as they would be under another policy.

use lb_common::abi::{
    Address, Affinity, AffinityKey, Backend, Device, Family, Frontend, FrontendKey, Node, Range, RangeKey,
    Rows, Service, Set, Source,
};

use crate::maps::{Lookup, MapError};

/// `maps`, whose sets are without `flags`.
pub(super) struct Without<'a, F: Family> {
    pub(super) maps: &'a dyn Lookup<F>,
    pub(super) flags: u16,
}

impl<F: Family> Lookup<F> for Without<'_, F> {
    fn set(&self, index: u32) -> Result<Option<Set>, MapError> {
        let set = self.maps.set(index)?;
        Ok(set.map(|set| Set {
            flags: set.flags & !self.flags,
            ..set
        }))
    }

    fn address(&self, address: &F::Addr) -> Result<Option<Address>, MapError> {
        self.maps.address(address)
    }

    fn source(&self, address: &F::Addr) -> Result<Option<Source>, MapError> {
        self.maps.source(address)
    }

    fn frontend(&self, key: &FrontendKey<F::Addr>) -> Result<Option<Frontend>, MapError> {
        self.maps.frontend(key)
    }

    fn service(&self, index: u32) -> Result<Option<Service>, MapError> {
        self.maps.service(index)
    }

    fn backend(&self, index: u32) -> Result<Option<Backend<F::Addr>>, MapError> {
        self.maps.backend(index)
    }

    fn rows(&self, element: u32) -> Result<Option<Rows>, MapError> {
        self.maps.rows(element)
    }

    fn range(&self, key: &RangeKey<F::Addr>) -> Result<Option<Range>, MapError> {
        self.maps.range(key)
    }

    fn affinity(&self, key: &AffinityKey<F::Addr>) -> Result<Option<Affinity<F::Addr>>, MapError> {
        self.maps.affinity(key)
    }

    fn node(&self) -> Result<Option<Node>, MapError> {
        self.maps.node()
    }

    fn device(&self, index: u32) -> Result<Option<Device>, MapError> {
        self.maps.device(index)
    }
}
