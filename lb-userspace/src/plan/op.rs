//! Operations: the writes that a plan consists of.

use std::sync::Arc;

use lb_common::abi::{
    Address, Backend, Device, Family, Frontend, FrontendKey, Node, Range, RangeKey, Service, Set, Source, V4,
    V6,
};

use super::lookup_table::LookupTable;

/// One write. `None` as a value removes the entry; removing what is absent succeeds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Replace the node-wide settings.
    Node(Node),
    /// Write or remove a device.
    Device {
        /// Interface index.
        index: u32,
        /// What is to be there.
        device: Option<Device>,
    },
    /// Write a whole lookup table.
    Table {
        /// Its first element.
        first: u32,
        /// What it is.
        lookup: LookupTable,
    },
    /// A write to the maps of IPv4.
    V4(FamilyOp<V4>),
    /// A write to the maps of IPv6.
    V6(FamilyOp<V6>),
    /// Wait until every program that started before has ended: what is no longer referenced can be reused.
    Grace,
}

/// One write to the maps of a family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FamilyOp<F: Family> {
    /// Write or remove a source prefix.
    Source {
        /// Address and length in bits.
        prefix: (F::Addr, u8),
        /// What is to be there.
        source: Option<Source>,
    },
    /// Write or remove a source range.
    Range {
        /// Table and address, and length of both in bits.
        prefix: (RangeKey<F::Addr>, u8),
        /// What is to be there.
        range: Option<Range>,
    },
    /// Write all backends of a set.
    Backends {
        /// The service they are for.
        service: u32,
        /// Index of the first.
        first: u32,
        /// All of them.
        backends: Arc<[Backend<F::Addr>]>,
    },
    /// Write a set, which nothing refers to yet.
    Set {
        /// Its index.
        index: u32,
        /// Its contents.
        set: Set,
    },
    /// Switch a service to a set, or (the zero word) to none.
    Service {
        /// Its index.
        index: u32,
        /// The word.
        service: Service,
    },
    /// Write or remove a frontend.
    Frontend {
        /// Which one.
        key: FrontendKey<F::Addr>,
        /// What is to be there.
        frontend: Option<Frontend>,
    },
    /// Mark an address as a ClusterIP, or remove the mark.
    Mark {
        /// Which one.
        address: F::Addr,
        /// It is one.
        is_set: bool,
    },
    /// Write or remove an address.
    Address {
        /// Which one.
        address: F::Addr,
        /// What is to be there.
        value: Option<Address>,
    },
}

/// A family whose operations have a variant of [`Op`].
pub(super) trait Planned: Family {
    /// The operation, with its family.
    fn op(op: FamilyOp<Self>) -> Op;
}

impl Planned for V4 {
    fn op(op: FamilyOp<Self>) -> Op {
        Op::V4(op)
    }
}

impl Planned for V6 {
    fn op(op: FamilyOp<Self>) -> Op {
        Op::V6(op)
    }
}
