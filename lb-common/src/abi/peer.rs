//! Whom a process asked for, and whom its socket is connected to.

use super::Addr6;

/// What a translated `connect` leaves with its socket, for `getpeername`. IPv4 addresses are IPv4-mapped (RFC 4291, section
/// 2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Peer {
    /// The frontend's address, which the process asked for.
    pub frontend: Addr6,
    /// The backend's address.
    pub backend: Addr6,
    /// The frontend's port.
    pub frontend_port: u16,
    /// The backend's port.
    pub backend_port: u16,
}
