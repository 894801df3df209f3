//! Fragments: what the later ones of a datagram need to know of the first, and those that came before it.

use super::capacity;

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
    /// Tick of its arrival.
    pub seen: u32,
}

/// The fragments in the map `held`, which wait for the first one of their datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Waiting {
    /// Turns so far. Each takes the next slot of `held`, whatever waits there.
    pub turn: u32,
    /// Tick of the last turn: a while later nothing waits.
    pub seen: u32,
    /// For each slot whose fragment waits there: the hash of its datagram, or one of the constants below.
    pub datagrams: [u32; capacity::HELD as usize],
}

impl Waiting {
    /// Nothing waits in the slot.
    pub const FREE: u32 = 0;
    /// One CPU reads or writes the slot.
    pub const BUSY: u32 = 1;
}

/// A fragment that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Held {
    /// Bytes of it.
    pub length: u32,
    /// Tick of its arrival.
    pub seen: u32,
    /// 1: this is all that is left of it; 0: a copy, the fragment itself went on.
    pub stopped: u32,
    /// Zero.
    pub reserved: u32,
    /// It, with its link header; what lies behind `length` means nothing.
    pub bytes: [u8; Held::ROOM],
}

impl Held {
    /// The longest fragment that can wait: a packet of 9,000 bytes, and what the link adds.
    pub const ROOM: usize = 9200;
}
