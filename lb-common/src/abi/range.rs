//! `loadBalancerSourceRanges`: who may use a service's LoadBalancer addresses.

/// A source address as seen by a table of ranges; looked up by longest prefix, the table's number first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(C)]
pub struct RangeKey<A> {
    /// Number of the table, see [`super::Set::ranges`].
    pub table: u32,
    /// The address.
    pub address: A,
}

impl<A> RangeKey<A> {
    /// Bits of a key in front of the address.
    pub const TABLE_BITS: u32 = u32::BITS;
}

/// What a table of ranges says of an address. That there is an entry is all that counts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Range {
    /// 1.
    pub accepted: u32,
}
