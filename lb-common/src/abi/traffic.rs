//! What packets and connections of Services are counted under, if the agent is told to count them.

/// Whose packets these are, and what became of them. The value is a [`super::Counter`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(C)]
pub struct TrafficKey<A> {
    /// What the client sends to: the Service's address; a node's, if it is a NodePort.
    pub frontend: A,
    /// Who answers; all zero if nobody was chosen.
    pub backend: A,
    /// The frontend's port.
    pub frontend_port: u16,
    /// The backend's port; 0 if nobody was chosen.
    pub backend_port: u16,
    /// IANA number, see [`super::Protocol`].
    pub protocol: u8,
    /// [`super::Outcome`] as a number.
    pub outcome: u8,
    /// [`Leg`] as a number.
    pub leg: u8,
    /// Zero.
    pub reserved: u8,
}

/// Which part of an exchange is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(u8)]
pub enum Leg {
    /// Packets from clients.
    #[default]
    Asked = 0,
    /// Packets from backends.
    Answered = 1,
    /// Connections that got their backend at their socket, or were refused there: one each, and no bytes. Their packets pass
    /// untranslated and are not counted.
    Connected = 2,
}

impl Leg {
    /// From the number in a map; `None` if there is none of it.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Asked),
            1 => Some(Self::Answered),
            2 => Some(Self::Connected),
            _ => None,
        }
    }
}
