//! A backend: one endpoint of a Service port.

/// A backend of a set. The backends of one set are contiguous and ordered
/// `[local only | local and cluster | cluster only]`, see [`super::Set`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(C)]
pub struct Backend<A> {
    /// Pod or node address.
    pub address: A,
    /// Target port.
    pub port: u16,
    /// Sum of the constants below.
    pub flags: u16,
}

impl<A> Backend<A> {
    /// It runs on this node.
    pub const LOCAL: u16 = 1;
    /// Its address is an address of its node (a host-network pod).
    pub const HOST: u16 = 2;
}
