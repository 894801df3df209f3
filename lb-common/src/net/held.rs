//! Later fragments that come before the first one of their datagram.
//!
//! Nobody can tell whose they are. They are kept, and seen again behind the first one as if they had come then. Whether
//! one goes on meanwhile depends on who else may want it: nobody has an address of Services only, but what is to a node,
//! or behind the routing decision, may be no flow's at all. There a copy is kept; a translated datagram gains by it, and
//! no other one can lose.

use crate::abi::{Address, DeviceKind, Phase};

/// Ticks for which a fragment waits. Receivers wait for 30 s at least, but a network that is seconds late has lost it.
const GOOD: u32 = 4;

/// What becomes of a later fragment while the first one of its datagram is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// It goes on as it is.
    No,
    /// It goes on as it is, and a copy waits.
    Copy,
    /// It waits.
    Stop,
}

/// Of a fragment to `address`, if that is one of ours, on a device of kind `device`.
#[inline(always)]
#[must_use]
pub const fn hold(phase: Phase, device: DeviceKind, address: Option<Address>) -> Hold {
    const NODES: u32 = Address::OWN | Address::OTHER_NODE | Address::NODE_PORTS | Address::LOCALHOST;
    match (phase, device, address) {
        // Any address may be a flow's.
        (Phase::After, _, _) => Hold::Copy,
        // Processes of this node: the stack sends the first one first.
        (_, DeviceKind::Host | DeviceKind::Loopback, _) | (_, _, None) => Hold::No,
        (_, _, Some(address)) if address.flags & NODES != 0 => Hold::Copy,
        _ => Hold::Stop,
    }
}

/// Whether a fragment of tick `seen` still waits.
#[inline(always)]
#[must_use]
pub const fn is_good(seen: u32, tick: u32) -> bool {
    is_younger(seen, tick, GOOD)
}

/// Whether what was seen in tick `seen` is at most `ticks` old.
#[inline(always)]
pub(super) const fn is_younger(seen: u32, tick: u32, ticks: u32) -> bool {
    // Another CPU may have read the clock a moment later.
    tick.wrapping_add(1).wrapping_sub(seen) <= ticks + 1
}

#[cfg(test)]
mod tests;
