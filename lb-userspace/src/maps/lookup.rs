//! Single entries of the maps, read as the programs read them.
//!
//! *Not here*: whole maps as values (`dump`), writing (`store`).

use lb_common::abi::{
    Address, Affinity, AffinityKey, Backend, Device, Family, Flow, Frontend, FrontendKey, Node, Range,
    RangeKey, Rows, Service, Set, Source, Tuple,
};

use super::{Dump, FamilyDump, MapError, Prefix};

/// The maps of one family, entry by entry. `None`: there is no such entry.
pub trait Lookup<F: Family> {
    /// What a destination address is to this node.
    fn address(&self, address: &F::Addr) -> Result<Option<Address>, MapError>;
    /// Who a source address belongs to, by its longest prefix.
    fn source(&self, address: &F::Addr) -> Result<Option<Source>, MapError>;
    /// The frontend with exactly this key.
    fn frontend(&self, key: &FrontendKey<F::Addr>) -> Result<Option<Frontend>, MapError>;
    /// A service's word.
    fn service(&self, index: u32) -> Result<Option<Service>, MapError>;
    /// A set.
    fn set(&self, index: u32) -> Result<Option<Set>, MapError>;
    /// A backend.
    fn backend(&self, index: u32) -> Result<Option<Backend<F::Addr>>, MapError>;
    /// An element of the lookup tables.
    fn rows(&self, element: u32) -> Result<Option<Rows>, MapError>;
    /// What a table of ranges says of an address, by its longest prefix.
    fn range(&self, key: &RangeKey<F::Addr>) -> Result<Option<Range>, MapError>;
    /// The backend that a client had last.
    fn affinity(&self, key: &AffinityKey<F::Addr>) -> Result<Option<Affinity<F::Addr>>, MapError>;
    /// Node-wide settings.
    fn node(&self) -> Result<Option<Node>, MapError>;
    /// A device by its interface index.
    fn device(&self, index: u32) -> Result<Option<Device>, MapError>;
}

/// A frontend, or a mark, and where it leads.
pub type FrontendEntry<F> = (FrontendKey<<F as Family>::Addr>, Frontend);
/// A client and the backend that it had last.
pub type AffinityEntry<F> = (AffinityKey<<F as Family>::Addr>, Affinity<<F as Family>::Addr>);
/// Half of a flow.
pub type FlowEntry<F> = (Tuple<<F as Family>::Addr>, Flow<<F as Family>::Addr>);

/// Whole maps of one family, where there is no other way to know what is in them. Not at one instant, and an entry may
/// be there twice.
pub trait Walk<F: Family>: Lookup<F> {
    /// All frontends, and the marks among them.
    fn frontends(&self) -> Result<Vec<FrontendEntry<F>>, MapError>;
    /// All source ranges, with the length of their table's number in their own.
    fn ranges(&self) -> Result<Vec<Prefix<RangeKey<F::Addr>>>, MapError>;
}

/// The contents of all maps, and one family of them.
#[derive(Clone, Copy, Debug)]
pub struct InMemory<'a, F: Family> {
    /// All of it.
    pub dump: &'a Dump,
    /// The family's part.
    pub family: &'a FamilyDump<F>,
}

impl<F: Family> Lookup<F> for InMemory<'_, F> {
    fn address(&self, address: &F::Addr) -> Result<Option<Address>, MapError> {
        Ok(self.family.addresses.get(address).copied())
    }

    fn source(&self, address: &F::Addr) -> Result<Option<Source>, MapError> {
        let matching =
            (self.family.sources.iter()).filter(|((prefix, bits), _)| begins(address, prefix, *bits));
        Ok(matching
            .max_by_key(|((_, bits), _)| *bits)
            .map(|(_, source)| *source))
    }

    fn frontend(&self, key: &FrontendKey<F::Addr>) -> Result<Option<Frontend>, MapError> {
        Ok(self.family.frontends.get(key).copied())
    }

    fn service(&self, index: u32) -> Result<Option<Service>, MapError> {
        Ok(self.family.services.get(&index).copied())
    }

    fn set(&self, index: u32) -> Result<Option<Set>, MapError> {
        Ok(self.family.sets.get(&index).copied())
    }

    fn backend(&self, index: u32) -> Result<Option<Backend<F::Addr>>, MapError> {
        Ok(self.family.backends.get(&index).copied())
    }

    fn rows(&self, element: u32) -> Result<Option<Rows>, MapError> {
        Ok(self.dump.maglev.get(&element).copied())
    }

    fn range(&self, key: &RangeKey<F::Addr>) -> Result<Option<Range>, MapError> {
        let is_in = |range: &RangeKey<F::Addr>, bits: u8| {
            let bits = u32::from(bits).saturating_sub(RangeKey::<F::Addr>::TABLE_BITS);
            range.table == key.table && begins(&key.address, &range.address, bits as u8)
        };
        let matching = (self.family.ranges.iter()).filter(|((range, bits), _)| is_in(range, *bits));
        Ok(matching
            .max_by_key(|((_, bits), _)| *bits)
            .map(|(_, range)| *range))
    }

    fn affinity(&self, _: &AffinityKey<F::Addr>) -> Result<Option<Affinity<F::Addr>>, MapError> {
        // Clients' records are made by packets, of which maps in memory have seen none.
        Ok(None)
    }

    fn node(&self) -> Result<Option<Node>, MapError> {
        Ok(self.dump.node.get(&0).copied())
    }

    fn device(&self, index: u32) -> Result<Option<Device>, MapError> {
        Ok(self.dump.devices.get(&index).copied())
    }
}

impl<F: Family> Walk<F> for InMemory<'_, F> {
    fn frontends(&self) -> Result<Vec<FrontendEntry<F>>, MapError> {
        Ok(self
            .family
            .frontends
            .iter()
            .map(|(key, value)| (*key, *value))
            .collect())
    }

    fn ranges(&self) -> Result<Vec<Prefix<RangeKey<F::Addr>>>, MapError> {
        Ok(self.family.ranges.keys().copied().collect())
    }
}

/// Whether an address begins with the first `bits` of another.
fn begins<A: AsRef<[u8]>>(address: &A, prefix: &A, bits: u8) -> bool {
    let bit = |a: &A, n: usize| a.as_ref()[n / 8] >> (7 - n % 8) & 1;
    (0..usize::from(bits)).all(|n| bit(address, n) == bit(prefix, n))
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Addr4, SourceClass, V4};

    use super::*;

    #[test]
    fn the_longest_prefix_counts() {
        let address = |bytes| Addr4 { bytes };
        let class = |class: SourceClass| Source { class: class as u32 };
        let mut dump = Dump::default();
        dump.v4
            .sources
            .insert((address([10, 1, 0, 0]), 16), class(SourceClass::Pod));
        dump.v4
            .sources
            .insert((address([10, 1, 2, 3]), 32), class(SourceClass::Node));
        let range = |table, bytes| RangeKey {
            table,
            address: address(bytes),
        };
        let all = RangeKey::<Addr4>::TABLE_BITS as u8;
        let accepted = Range { accepted: 1 };
        dump.v4
            .ranges
            .insert((range(7, [192, 0, 2, 0]), all + 24), accepted);
        let family = &dump.v4;
        let maps: &dyn Lookup<V4> = &InMemory { dump: &dump, family };
        for (bytes, expected) in [
            ([10, 1, 2, 3], Some(SourceClass::Node)),
            ([10, 1, 2, 4], Some(SourceClass::Pod)),
            ([10, 2, 0, 1], None),
        ] {
            let found = maps.source(&address(bytes)).unwrap();
            assert_eq!(found, expected.map(class), "{bytes:?}");
        }
        for (key, expected) in [
            (range(7, [192, 0, 2, 9]), Some(accepted)),
            (range(8, [192, 0, 2, 9]), None),
            (range(7, [192, 0, 3, 9]), None),
        ] {
            assert_eq!(maps.range(&key).unwrap(), expected, "{key:?}");
        }
    }
}
