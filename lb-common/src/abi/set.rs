//! Services and the immutable sets they point to.

/// Rows in one element of the map `maglev`.
pub const ROWS_PER_ELEMENT: usize = 64;

/// One element of the map `maglev`: part of a lookup table. Each row is the position of a backend within
/// its set (0 is the set's first backend).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Rows {
    /// The rows.
    pub rows: [u16; ROWS_PER_ELEMENT],
}

/// A service port of one family: the single word that is replaced when anything about it changes, so that
/// all its frontends change at one instant.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Service {
    /// Index of the current set plus one, in the low 32 bits; generation in the high 32. Zero: no service.
    pub word: u64,
}

impl Service {
    /// The word that names `set`.
    #[must_use]
    pub const fn new(set: u32, generation: u32) -> Self {
        Self {
            word: ((generation as u64) << 32) | (set as u64 + 1),
        }
    }

    /// Index of the current set.
    #[inline(always)]
    #[must_use]
    pub const fn set(self) -> Option<u32> {
        match self.word as u32 {
            0 => None,
            n => Some(n - 1),
        }
    }
}

/// The policies, backends and tables of a service port. Immutable once a [`Service`] names it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Set {
    /// Index of the set's first backend.
    pub backends: u32,
    /// How many backends there are.
    pub total: u16,
    /// The Local scope is the backends `0..local`.
    pub local: u16,
    /// The Cluster scope is the backends `cluster_from..total`.
    pub cluster_from: u16,
    /// Sum of the constants below.
    pub flags: u16,
    /// First element of the Local scope's table in `maglev`.
    pub local_table: u32,
    /// Rows of the Local scope's table; 0: the scope is empty.
    pub local_rows: u32,
    /// First element of the Cluster scope's table in `maglev`.
    pub cluster_table: u32,
    /// Rows of the Cluster scope's table; 0: the scope is empty.
    pub cluster_rows: u32,
    /// Idle timeout of client affinity in ticks, with [`Set::AFFINITY`].
    pub affinity_timeout: u32,
    /// The service this set was made for.
    pub service: u32,
    /// What the service port is called, as a number: the same for as long as it has its name, whichever process
    /// writes the maps. Records of client affinity are kept under it.
    pub identity: [u32; 2],
    /// Number of the table of source ranges, with [`Set::RANGES`].
    pub ranges: u32,
}

impl Set {
    /// `internalTrafficPolicy: Local`.
    pub const INTERNAL_LOCAL: u16 = 1;
    /// `externalTrafficPolicy: Local`.
    pub const EXTERNAL_LOCAL: u16 = 2;
    /// Some endpoint could serve somewhere, even if none is in the scope: be silent rather than refuse.
    pub const ENDPOINTS_EXIST: u16 = 4;
    /// `sessionAffinity: ClientIP`.
    pub const AFFINITY: u16 = 8;

    /// `loadBalancerSourceRanges`: LoadBalancer addresses are for the sources in a table of ranges only.
    pub const RANGES: u16 = 16;
    /// The node's own address is inside the ranges. So is, then, a client that has taken the LoadBalancer address
    /// itself as its source: that address is the node's too.
    pub const RANGES_WITH_NODE: u16 = 32;

    /// Whether all bits of `flags` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, flags: u16) -> bool {
        self.flags & flags == flags
    }
}
