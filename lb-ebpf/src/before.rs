//! Programs in front of the routing decision: they open flows and follow them.

use aya_ebpf::programs::TcContext;
use lb_common::{
    abi::{Action, DeviceKind, Flow, Hook, Kind, Outcome, Phase, Tuple, V4, V6},
    net::{
        Arrival, Before, Cursor, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Odd, Parsed, Tables, before,
        tcp_flag,
    },
};

use crate::{
    fragment,
    maps::Maps,
    mtu, odd,
    outcome::{TC_NEXT, TC_SHOT, conclude},
    packet::{Packet, Tc},
    refuse::refuse_tc,
    rewrite::{age, translate_tc},
    send,
    tables::{Kernel, workspace},
};

/// A packet at TC, on a device of the given kind.
#[inline(always)]
pub(crate) fn tc(ctx: &TcContext, hook: Hook, kind: DeviceKind) -> i32 {
    let packet = Tc::new(ctx);
    if packet.is_in_vlan() {
        return leave(&packet, hook, Outcome::PassedVlan);
    }
    match packet.load::<u16>(12).map(u16::from_be) {
        Some(ETHERTYPE_IPV4) => refuse_if_so::<V4>(&packet, judge::<V4>(&packet, hook, kind), kind),
        Some(ETHERTYPE_IPV6) => refuse_if_so::<V6>(&packet, judge::<V6>(&packet, hook, kind), kind),
        Some(tag) if ETHERTYPE_VLAN.contains(&tag) => leave(&packet, hook, Outcome::PassedVlan),
        _ => leave(&packet, hook, Outcome::PassedOther),
    }
}

/// Stands for a verdict while the refusal of the packet in the workspace is still to be written: that needs most of
/// the stack, so it stands beside the rest and not inside it. No TC verdict has this value.
const REFUSE: i32 = i32::MIN;

/// The verdict, and before it the refusal if there is to be one.
#[inline(always)]
pub(crate) fn refuse_if_so<F: Maps>(packet: &Tc, verdict: i32, kind: DeviceKind) -> i32 {
    let leaving = matches!(kind, DeviceKind::Host | DeviceKind::Loopback);
    // (The verifier leaves this out where it is a pod's device, whose packets are never sent by a neighbour.)
    if verdict == mtu::TOO_BIG && !matches!(kind, DeviceKind::Pod | DeviceKind::BridgePort) {
        return mtu::conclude::<F>(packet, packet.device(), leaving);
    }
    if verdict != REFUSE {
        return verdict;
    }
    if refuse_tc::<F>(packet) {
        send::back(packet.device(), leaving)
    } else {
        TC_SHOT
    }
}

/// The end of a packet that is neither translated nor refused.
#[inline(always)]
pub(crate) fn leave(packet: &Tc, hook: Hook, outcome: Outcome) -> i32 {
    // What goes into lb0 has nowhere else to go: its other end leads back to this node's stack.
    let outcome = match (hook, outcome.kind()) {
        (Hook::HostOut, Kind::Passed) => Outcome::DroppedOther,
        _ => outcome,
    };
    conclude(packet, hook, outcome, packet.length());
    if matches!(outcome.kind(), Kind::Passed) {
        TC_NEXT
    } else {
        TC_SHOT
    }
}

/// A function for each family: together, their words would crowd the stack.
#[inline(never)]
fn judge<F: Maps>(packet: &Tc, hook: Hook, kind: DeviceKind) -> i32 {
    let parsed = match F::parse(packet) {
        Ok(parsed) => parsed,
        Err(Odd::Pass(outcome)) => return leave(packet, hook, outcome),
        Err(Odd::Look) => match odd::tc::<F>(packet, hook, kind, Phase::Before) {
            odd::PORTS => match workspace::<F>() {
                Some(workspace) => workspace.flow.parsed,
                None => return leave(packet, hook, Outcome::DroppedInconsistent),
            },
            verdict => return verdict,
        },
    };
    let verdict = handle::<F>(packet, &parsed, hook, kind);
    if parsed.first != 0 {
        fragment::tc::<F>(packet, Phase::Before, verdict != mtu::TOO_BIG);
    }
    verdict
}

/// Handles a packet with known headers; its verdict is for [`refuse_if_so`].
#[inline(always)]
pub(crate) fn handle<F: Maps>(packet: &Tc, parsed: &Parsed<F::Addr>, hook: Hook, kind: DeviceKind) -> i32 {
    let device = packet.device();
    let kernel = Kernel {
        ctx: packet.skb.cast(),
        device,
    };
    let length = packet.length();
    let scratch = || workspace::<F>().map(|workspace| &mut workspace.flow);
    match before::<F, Kernel>(&kernel, &Arrival { device, kind }, parsed, scratch) {
        Before::Translate(flow, outcome) => {
            let to = Sending {
                action: flow.action(),
                to: flow.device,
                device,
                kind,
            };
            let (outcome, verdict) = forward::<F>(packet, parsed, flow, outcome, &to);
            conclude(packet, hook, outcome, length);
            verdict
        }
        Before::Leave(outcome) => {
            let outcome = match (hook, outcome.kind()) {
                // A RST is never answered (RFC 9293, section 3.10.7.1).
                (Hook::HostOut, Kind::Passed) if parsed.flags & tcp_flag::RST != 0 => {
                    Outcome::DroppedUnknownFlow
                }
                // Routed here with the whole range of the Services' addresses.
                (Hook::HostOut, Kind::Passed) if outcome == Outcome::PassedNotOurs => {
                    Outcome::DroppedNoService
                }
                (Hook::HostOut, Kind::Passed) => Outcome::RejectedNoFrontend,
                _ => outcome,
            };
            if outcome.kind() == Kind::Rejected {
                if let Some(workspace) = workspace::<F>() {
                    workspace.flow.parsed = *parsed;
                }
                conclude(packet, hook, outcome, length);
                return REFUSE;
            }
            if kind == DeviceKind::BridgePort {
                route::<F>(packet, parsed, device);
            }
            leave(packet, hook, outcome)
        }
    }
}

/// How a translated packet leaves.
#[derive(Clone, Copy)]
pub(crate) struct Sending {
    pub(crate) action: Action,
    pub(crate) to: u32,
    pub(crate) device: u32,
    pub(crate) kind: DeviceKind,
}

/// Translates and sends: gives the outcome, which the sending may still change, and the verdict.
#[inline(always)]
fn forward<F: Maps>(
    packet: &Tc,
    parsed: &Parsed<F::Addr>,
    flow: &Flow<F::Addr>,
    outcome: Outcome,
    how: &Sending,
) -> (Outcome, i32) {
    if how.action == Action::Neighbour && !matches!(how.kind, DeviceKind::Pod | DeviceKind::BridgePort) {
        let mtu = mtu::exceeded(packet, how.to);
        if mtu != 0 {
            return (mtu::note::<F>(packet, &parsed.tuple, mtu), mtu::TOO_BIG);
        }
    }
    // Only what comes from elsewhere has been a hop on its way.
    let from_here = matches!(how.kind, DeviceKind::Host | DeviceKind::Loopback);
    if how.action == Action::Neighbour && !from_here && !age::<F, _>(packet) {
        return (Outcome::DroppedExpired, TC_SHOT);
    }
    if !translate_tc::<F>(packet, parsed, &flow.to) {
        return (Outcome::DroppedRewrite, TC_SHOT);
    }
    (outcome, depart(packet, how))
}

/// Sends a translated packet: gives the verdict.
#[inline(always)]
pub(crate) fn depart(packet: &Tc, how: &Sending) -> i32 {
    let from_here = matches!(how.kind, DeviceKind::Host | DeviceKind::Loopback);
    match how.action {
        Action::Stack => TC_NEXT,
        Action::Neighbour => send::neighbour(how.to),
        Action::Receive if how.to == how.device && !from_here => TC_NEXT,
        Action::Receive => send::receive(packet, how.to),
    }
}

/// A reply between two pods of one bridge would be switched past the stack, which would then have seen one
/// direction only (and netfilter would call the rest of the connection invalid): it is sent to the bridge
/// itself, which routes it.
#[inline(never)]
fn route<F: Maps>(packet: &Tc, parsed: &Parsed<F::Addr>, device: u32) {
    let mut key = parsed.tuple;
    key.phase = Phase::After as u8;
    to_the_stack::<F>(packet, &key, device);
}

/// See [`route`]; `key` is that of the packet's flow behind the routing decision.
#[inline(always)]
pub(crate) fn to_the_stack<F: Maps>(packet: &Tc, key: &Tuple<F::Addr>, device: u32) {
    let kernel = Kernel {
        ctx: packet.skb.cast(),
        device,
    };
    if Tables::<F>::flow(&kernel, key).is_some()
        && let Some(port) = Tables::<F>::device(&kernel, device)
    {
        packet.store(0, port.bridge_mac);
    }
}
