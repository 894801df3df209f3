//! How far a flow has come, and how long it may be idle there.
//!
//! No sequence numbers are followed: a packet that looks out of window to us may be fine to its receiver
//! (kubernetes issue 74839).

use crate::abi::{Protocol, State};

use super::tcp_flag::{ACK, FIN, RST, SYN};

/// The state after a packet. `reverse`: it came from the backend. `flags`: TCP flags, 0 for others.
#[inline(always)]
#[must_use]
pub const fn next_state(state: State, protocol: u8, reverse: bool, flags: u8) -> State {
    if protocol != Protocol::Tcp as u8 {
        // One question and one answer may be all there is: only the client's next packet establishes an exchange.
        return match (state, reverse) {
            (State::New, true) => State::Answered,
            (State::Answered, false) => State::Established,
            _ => state,
        };
    }
    if flags & RST != 0 {
        return State::Closed;
    }
    match (state, reverse) {
        (State::New, true) if flags & SYN != 0 => State::Answered,
        // The handshake was not seen from its start (a flow that was picked up in the middle).
        (State::New, true) => State::Established,
        (State::Answered, false) if flags & ACK != 0 => closing(State::Established, false, flags),
        (State::Established | State::ClosingForward | State::ClosingReverse, _) => {
            closing(state, reverse, flags)
        }
        _ => state,
    }
}

#[inline(always)]
const fn closing(state: State, reverse: bool, flags: u8) -> State {
    if flags & FIN == 0 {
        return state;
    }
    match (state, reverse) {
        (State::ClosingReverse, false) | (State::ClosingForward, true) => State::Closed,
        (_, true) => State::ClosingReverse,
        (_, false) => State::ClosingForward,
    }
}

impl State {
    /// From the number in a map; unknown numbers are closed, the state that is forgotten soonest.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::New,
            1 => Self::Answered,
            2 => Self::Established,
            3 => Self::ClosingForward,
            4 => Self::ClosingReverse,
            _ => Self::Closed,
        }
    }

    /// The flow is not confirmed by its client: it may be part of a flood and is the first to go.
    #[inline(always)]
    #[must_use]
    pub const fn is_embryonic(self) -> bool {
        matches!(self, Self::New | Self::Answered)
    }

    /// At least one side has said good-bye: a new handshake does not belong to this flow.
    #[inline(always)]
    #[must_use]
    pub const fn is_closing(self) -> bool {
        matches!(self, Self::ClosingForward | Self::ClosingReverse | Self::Closed)
    }
}

/// How many ticks (of about a second) a flow may be idle before it is forgotten.
///
/// Established TCP: 6 hours, above the two hours after which keep-alive probes begin (RFC 9293 3.8.4).
/// Half-closed: one hour, as kube-proxy sets it for CLOSE_WAIT. UDP of both sides: 180 s (RFC 4787 REQ-5 asks
/// for at least two minutes); 30 s until the client's second packet, as netfilter has it: one question and its answer
/// are all that most clients of name servers want.
#[inline(always)]
#[must_use]
pub const fn lifetime(protocol: u8, state: State) -> u32 {
    const HOUR: u32 = 3600;
    let tcp = protocol == Protocol::Tcp as u8;
    let udp = protocol == Protocol::Udp as u8;
    match state {
        State::New => 30,
        State::Answered if tcp => 60,
        State::Answered => 30,
        State::Established if tcp => 6 * HOUR,
        State::Established if udp => 180,
        State::Established => HOUR,
        State::ClosingForward | State::ClosingReverse => HOUR,
        State::Closed => 30,
    }
}

#[cfg(test)]
mod tests;
