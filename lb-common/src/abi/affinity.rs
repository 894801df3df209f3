//! Session affinity: which backend a client had last.

/// Identifies a client of a service port. All addresses of the service port share its records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(C)]
pub struct AffinityKey<A> {
    /// [`super::Set::identity`] of the service port. Not its index: indices are given away again, and another
    /// process of the agent numbers anew.
    pub service: [u32; 2],
    /// The client's own address.
    pub client: A,
}

/// The backend of a client. Whoever reads it has to check that the backend is still in use.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Affinity<A> {
    /// The backend's address.
    pub backend: A,
    /// The backend's port.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
    /// Tick of the client's last new flow.
    pub seen: u32,
    /// Ticks for which the record holds from then on.
    pub timeout: u32,
}

impl<A> Affinity<A> {
    /// Whether the client has been idle for too long at `tick`.
    #[inline(always)]
    #[must_use]
    pub const fn is_over(&self, tick: u32) -> bool {
        // A clock that seems to go back (a flow was noted meanwhile) is no idleness.
        let idle = tick.wrapping_sub(self.seen);
        idle < u32::MAX / 2 && idle > self.timeout
    }
}
