//! Fragments: what the later ones of a datagram need to know of the first.

/// A datagram that comes in fragments, as one side of the routing decision sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Its identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// IANA number of the protocol.
    pub protocol: u8,
    /// [`super::Phase`] as a number: where the fragments are translated.
    pub phase: u8,
    /// Zero.
    pub reserved: u16,
}

/// What its first fragment said.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Fragment {
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// The identification that all its fragments have afterwards.
    pub id: u32,
}
