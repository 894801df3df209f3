//! Flows: what is remembered about a connection or an exchange of datagrams.
//!
//! A translation turns tuple `o` into tuple `t` at one point of a packet's way, and `reverse(t)` into
//! `reverse(o)` at another. It has two entries, one for each direction, and each carries everything needed
//! to translate: the *forward* entry has the key `o` and `to = t`, the *reverse* entry has the key
//! `reverse(t)` and `to = reverse(o)`. So either half can be made anew from the other. A flow whose source
//! has to change behind the routing decision is two such translations in a row.

/// Addresses, ports and protocol of a packet, and at which side of the routing decision it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(C)]
pub struct Tuple<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// IANA number, see [`super::Protocol`].
    pub protocol: u8,
    /// [`Phase`] as a number. As a key: where a packet with this tuple is translated. In [`Flow::to`]:
    /// where the other half of the flow is found.
    pub phase: u8,
    /// Zero.
    pub reserved: u16,
}

impl<A: Copy> Tuple<A> {
    /// The tuple of the answer, at the same phase.
    #[inline(always)]
    #[must_use]
    pub const fn reverse(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..self
        }
    }
}

/// The side of the routing decision a translation happens on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(u8)]
pub enum Phase {
    /// Before the stack routes the packet: XDP and TC ingress, and TC egress of `lb0` and `lo`.
    #[default]
    Before = 0,
    /// After it: TC egress of uplinks, tunnels and pods' devices.
    After = 1,
}

/// One direction of a translation.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Flow<A> {
    /// The packet's tuple afterwards; its phase is that of the other half's key.
    pub to: Tuple<A>,
    /// Tick of the last packet in either direction (as near as one tick).
    pub seen: u32,
    /// Tick of the first packet.
    pub created: u32,
    /// Nothing: it moves what follows, so that no plain copy from the usual layout is right.
    #[cfg(feature = "other-layout")]
    pub moved: [u32; 2],
    /// Interface index for actions that redirect; 0 otherwise.
    pub device: u32,
    /// Interface index that the other half redirects to; 0 if it does not.
    pub twin_device: u32,
    /// [`State`] as a number.
    pub state: u8,
    /// [`Action`] of this half in the low four bits, of the other half in the high four.
    pub action: u8,
    /// Sum of the constants below.
    pub flags: u16,
}

impl<A> Flow<A> {
    /// This is the reverse half: backend to client.
    pub const REVERSE: u16 = 1;
}

/// What happens to a packet after its translation.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub enum Action {
    /// It goes on its way: up the stack, or out of the device it is on.
    #[default]
    Stack = 0,
    /// It is sent out of [`Flow::device`], which resolves the neighbour.
    Neighbour = 1,
    /// It is received on [`Flow::device`], as if it had arrived there.
    Receive = 2,
}

/// How far a flow has come. Both halves hold the same state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(u8)]
pub enum State {
    /// One packet or several from the client, no answer yet (TCP: SYN seen).
    #[default]
    New = 0,
    /// The backend has answered, the client has not gone on (TCP: not confirmed the handshake).
    Answered = 1,
    /// The client has gone on after an answer: the handshake is complete, or more than one question was asked.
    Established = 2,
    /// TCP: the client has sent a FIN.
    ClosingForward = 3,
    /// TCP: the backend has sent a FIN.
    ClosingReverse = 4,
    /// TCP: both have sent a FIN, or one has sent a RST.
    Closed = 5,
}
