//! XDP on uplinks: the decision of [`crate::before`], sent without the stack where that is possible. What is not is
//! left to the TC program of the same device, as it came, and counted under the reason why.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use lb_common::{
    abi::{Action, Address, DeviceKind, Flow, Hook, Kind, Outcome, V4, V6},
    net::{
        Arrival, Before, Cursor, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Odd, Parsed, Tables, before,
        copy_parsed,
    },
};

use crate::{
    before::{open_in, opened_as},
    fib::{self, NextHop, look_up},
    fragment::going,
    hops,
    maps::Maps,
    outcome::conclude,
    packet::{Packet, Xdp},
    rewrite::{age, translate_xdp},
    send,
    tables::{Kernel, workspace},
    trace, traffic,
};

/// A packet at XDP, on an uplink.
#[inline(always)]
pub(crate) fn xdp(ctx: &XdpContext) -> u32 {
    let packet = Xdp::new(ctx);
    let length = packet.length();
    let mut outcome = Outcome::PassedOther;
    let verdict = match packet.load::<u16>(12).map(u16::from_be) {
        Some(ETHERTYPE_IPV4) => {
            let verdict = judge::<V4>(&packet, &mut outcome);
            refuse_if_so::<V4>(&packet, verdict, &mut outcome)
        }
        Some(ETHERTYPE_IPV6) => {
            let verdict = judge::<V6>(&packet, &mut outcome);
            refuse_if_so::<V6>(&packet, verdict, &mut outcome)
        }
        Some(tag) if ETHERTYPE_VLAN.contains(&tag) => {
            outcome = Outcome::PassedVlan;
            xdp_action::XDP_PASS
        }
        _ => xdp_action::XDP_PASS,
    };
    conclude(&packet, Hook::UplinkXdp, outcome, length);
    verdict
}

/// Stands for a verdict while the refusal of the packet in the workspace is still to be written, see
/// [`crate::before`]. No XDP verdict has this value.
const REFUSE: u32 = u32::MAX;

/// The verdict, and before it the refusal if there is to be one.
#[inline(always)]
fn refuse_if_so<F: Maps>(packet: &Xdp, verdict: u32, outcome: &mut Outcome) -> u32 {
    if verdict != REFUSE {
        return verdict;
    }
    if packet.refuse::<F>() != 0 {
        xdp_action::XDP_TX
    } else {
        *outcome = Outcome::PassedToTcRefusal;
        xdp_action::XDP_PASS
    }
}

/// What became of a packet, and what the kernel is told.
type Verdict = (Outcome, u32);

#[inline(always)]
const fn pass(outcome: Outcome) -> Verdict {
    (outcome, xdp_action::XDP_PASS)
}

/// A function for each family: together, their words would crowd the stack.
#[inline(never)]
fn judge<F: Maps>(packet: &Xdp, outcome: &mut Outcome) -> u32 {
    let (decided, verdict) = decide::<F>(packet);
    *outcome = decided;
    verdict
}

#[inline(always)]
fn decide<F: Maps>(packet: &Xdp) -> Verdict {
    let kernel = Kernel {
        ctx: packet.md.cast(),
        device: packet.device(),
    };
    let Some(destination) = F::destination(packet) else {
        return pass(Outcome::PassedMalformed);
    };
    let Some(address) = Tables::<F>::address(&kernel, &destination) else {
        return pass(Outcome::PassedNotOurs);
    };
    let parsed = match F::parse_rest(packet, Some(destination)) {
        Ok(parsed) => parsed,
        Err(Odd::Pass(outcome)) => return pass(outcome),
        Err(Odd::Look) => match Outcome::from_number(packet.odd::<F>()) {
            None => match workspace::<F>() {
                Some(workspace) => workspace.flow.parsed,
                None => return (Outcome::DroppedInconsistent, xdp_action::XDP_DROP),
            },
            Some(outcome) if outcome.kind() as u8 == Kind::Dropped as u8 => {
                return (outcome, xdp_action::XDP_DROP);
            }
            Some(outcome) => return pass(outcome),
        },
    };
    let verdict = handle::<F>(packet, &parsed, address);
    if parsed.first != 0 && verdict.0.kind() as u8 == Kind::Forwarded as u8 {
        packet.first::<F>(going::ON);
    }
    verdict
}

#[inline(always)]
fn handle<F: Maps>(packet: &Xdp, parsed: &Parsed<F::Addr>, address: Address) -> Verdict {
    let device = packet.device();
    let kernel = Kernel {
        ctx: packet.md.cast(),
        device,
    };
    let decided = before::<F, Kernel>(&kernel, parsed);
    trace::flow::<F>(&parsed.tuple, decided.and_then(|decided| decided.flow));
    let decided = match decided {
        Some(decided) => decided,
        None => match workspace::<F>() {
            Some(workspace) => {
                copy_parsed::<F>(parsed, &mut workspace.flow.parsed);
                opened_as::<F>(workspace, packet.open::<F>(address.flags))
            }
            None => Before::leave(Outcome::DroppedInconsistent),
        },
    };
    let outcome = decided.outcome;
    traffic::note::<F>(&parsed.tuple, decided.flow, outcome);
    match (decided.flow, outcome.kind()) {
        (Some(flow), _) => forward::<F>(packet, parsed, flow, outcome),
        (None, Kind::Passed | Kind::Forwarded) => pass(outcome),
        (None, Kind::Dropped) => (outcome, xdp_action::XDP_DROP),
        // Flows are opened, and refused, in the workspace: the packet's headers are there.
        (None, Kind::Rejected) => (outcome, REFUSE),
    }
}

/// The body of [`Xdp::open`].
#[inline(always)]
pub(crate) fn open<F: Maps>(packet: &Xdp, address: u32) -> u32 {
    let device = packet.device();
    let kernel = Kernel {
        ctx: packet.md.cast(),
        device,
    };
    let arrival = Arrival {
        device,
        kind: DeviceKind::Uplink,
    };
    open_in::<F>(&kernel, &arrival, Address { flags: address }) as u32
}

#[inline(always)]
fn forward<F: Maps>(
    packet: &Xdp,
    parsed: &Parsed<F::Addr>,
    flow: &Flow<F::Addr>,
    outcome: Outcome,
) -> Verdict {
    match flow.action() {
        Action::Neighbour => relay::<F>(packet, parsed, flow, outcome),
        Action::Receive if flow.device != packet.device() => pass(Outcome::PassedToTcHost),
        Action::Stack | Action::Receive if is_awaited::<F>(packet, parsed) => {
            pass(Outcome::PassedToTcFragment)
        }
        Action::Stack | Action::Receive if translate_xdp::<F>(packet, parsed, &flow.to) => pass(outcome),
        Action::Stack | Action::Receive => (Outcome::DroppedRewrite, xdp_action::XDP_DROP),
    }
}

/// Whether other fragments wait at TC for this one. It is remembered before that is asked: see [`crate::held`].
#[inline(always)]
fn is_awaited<F: Maps>(packet: &Xdp, parsed: &Parsed<F::Addr>) -> bool {
    parsed.first != 0 && packet.first::<F>(going::NOT) != 0
}

/// Translates a packet and sends it to the next hop. Before anything is written it must be sure that XDP can send
/// it: with this node's own source address it would be a martian to the stack.
#[inline(always)]
fn relay<F: Maps>(packet: &Xdp, parsed: &Parsed<F::Addr>, flow: &Flow<F::Addr>, outcome: Outcome) -> Verdict {
    if packet.load::<u8>(F::TTL).is_none_or(|ttl| ttl <= 1) {
        return (Outcome::DroppedExpired, xdp_action::XDP_DROP);
    }
    let mut hop = NextHop::default();
    let way = way::<F>(packet, flow, &mut hop);
    if way != Outcome::ForwardedFlow {
        return pass(way);
    }
    if is_awaited::<F>(packet, parsed) {
        return pass(Outcome::PassedToTcFragment);
    }
    if !age::<F, _>(packet) || !translate_xdp::<F>(packet, parsed, &flow.to) {
        return (Outcome::DroppedRewrite, xdp_action::XDP_DROP);
    }
    packet.store(0, hop.destination);
    packet.store(6, hop.source);
    let verdict = if hop.device == packet.device() {
        xdp_action::XDP_TX
    } else {
        send::redirect(hop.device)
    };
    (outcome, verdict)
}

/// Finds the way of a packet of `flow`: `ForwardedFlow` if XDP can send it, else why not.
/// Beside the translation and not around it: each needs much of the stack.
#[inline(never)]
fn way<F: Maps>(packet: &Xdp, flow: &Flow<F::Addr>, hop: &mut NextHop) -> Outcome {
    let kernel = Kernel {
        ctx: packet.md.cast(),
        device: packet.device(),
    };
    let Some(length) = F::length(packet) else {
        return Outcome::PassedToTcRoute;
    };
    if hops::find::<F>(kernel.device, &flow.to, length, hop) {
        return Outcome::ForwardedFlow;
    }
    let result = look_up::<F>(kernel.ctx, kernel.device, &flow.to, length, hop);
    trace::way::<F>(&flow.to, hop);
    if result == fib::TOO_LARGE {
        return Outcome::PassedToTcMtu;
    }
    if hop.device == 0 {
        return Outcome::PassedToTcRoute;
    }
    let node = Tables::<F>::node(&kernel);
    if hop.device != kernel.device && !node.is_some_and(|node| node.sends_by_xdp(hop.device)) {
        let out = Tables::<F>::device(&kernel, hop.device);
        return match out.map(|device| DeviceKind::from_number(device.kind)) {
            Some(DeviceKind::Tunnel) => Outcome::PassedToTcTunnel,
            _ => Outcome::PassedToTcDevice,
        };
    }
    if result == fib::NO_NEIGHBOUR {
        return Outcome::PassedToTcNeighbour;
    }
    hops::keep::<F>(kernel.device, &flow.to, hop);
    Outcome::ForwardedFlow
}
