//! Programs in front of the routing decision: they open flows and follow them.

use aya_ebpf::{
    bindings::xdp_action,
    programs::{TcContext, XdpContext},
};
use lb_common::{
    abi::{Action, DeviceKind, Flow, Hook, Kind, Outcome, Phase, Tuple, V4, V6},
    net::{Arrival, Before, Cursor, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Odd, Scratch, Tables, before, tcp_flag},
};

use crate::{
    fragment,
    maps::{Maps, Workspace},
    odd,
    outcome::{TC_NEXT, TC_SHOT, conclude},
    packet::{Packet, Tc, Xdp},
    refuse::refuse,
    rewrite::{age, translate, translate_tc},
    send,
    tables::{Kernel, workspace},
};

/// A packet at TC, on a device of the given kind.
#[inline(always)]
pub(crate) fn tc(ctx: &TcContext, hook: Hook, kind: DeviceKind) -> i32 {
    let packet = Tc::new(ctx);
    match packet.load::<u16>(12).map(u16::from_be) {
        Some(ETHERTYPE_IPV4) => judge::<V4>(&packet, hook, kind),
        Some(ETHERTYPE_IPV6) => judge::<V6>(&packet, hook, kind),
        _ => leave(&packet, hook, Outcome::PassedOther),
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

#[inline(always)]
fn judge<F: Maps>(packet: &Tc, hook: Hook, kind: DeviceKind) -> i32 {
    let Some(workspace) = workspace::<F>() else {
        return leave(packet, hook, Outcome::DroppedInconsistent);
    };
    match F::parse(packet) {
        Ok(parsed) => workspace.flow.parsed = parsed,
        Err(Odd::Pass(outcome)) => return leave(packet, hook, outcome),
        Err(Odd::Look) => match odd::tc::<F>(packet, workspace, hook, kind, Phase::Before) {
            odd::PORTS => {}
            verdict => return verdict,
        },
    }
    let verdict = open_or_refuse::<F>(packet, workspace, hook, kind);
    if workspace.flow.parsed.first != 0 {
        fragment::tc::<F>(packet, workspace, Phase::Before);
    }
    verdict
}

/// Handles a packet with known headers. Refusing stands beside opening, not inside it: each needs most of
/// the stack.
#[inline(always)]
pub(crate) fn open_or_refuse<F: Maps>(
    packet: &Tc,
    workspace: &mut Workspace<F::Addr>,
    hook: Hook,
    kind: DeviceKind,
) -> i32 {
    let verdict = open::<F>(packet, &mut workspace.flow, hook, kind);
    if verdict != REFUSE {
        return verdict;
    }
    let leaving = matches!(kind, DeviceKind::Host | DeviceKind::Loopback);
    refuse::<F>(packet, workspace, packet.device(), leaving)
}

/// Stands for a verdict while the refusal is still to be written. No TC verdict has this value.
const REFUSE: i32 = i32::MIN;

#[inline(never)]
fn open<F: Maps>(packet: &Tc, scratch: &mut Scratch<F::Addr>, hook: Hook, kind: DeviceKind) -> i32 {
    let device = packet.device();
    let kernel = Kernel {
        ctx: packet.skb.cast(),
        device,
    };
    let length = packet.length();
    match before::<F, Kernel>(&kernel, &Arrival { device, kind }, scratch) {
        Before::Translate(flow, outcome) => {
            let to = Sending {
                action: flow.action(),
                to: flow.device,
                device,
                kind,
            };
            let (outcome, verdict) = forward::<F>(packet, flow, outcome, &to);
            conclude(packet, hook, outcome, length);
            verdict
        }
        Before::Leave(outcome) => {
            let outcome = match (hook, outcome.kind()) {
                // A RST is never answered (RFC 9293, section 3.10.7.1).
                (Hook::HostOut, Kind::Passed) if scratch.parsed.flags & tcp_flag::RST != 0 => {
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
                conclude(packet, hook, outcome, length);
                return REFUSE;
            }
            if kind == DeviceKind::BridgePort {
                scratch.key = scratch.parsed.tuple;
                scratch.key.phase = Phase::After as u8;
                to_the_stack::<F>(packet, &scratch.key, device);
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
fn forward<F: Maps>(packet: &Tc, flow: &Flow<F::Addr>, outcome: Outcome, how: &Sending) -> (Outcome, i32) {
    // Only what comes from elsewhere has been a hop on its way.
    let from_here = matches!(how.kind, DeviceKind::Host | DeviceKind::Loopback);
    if how.action == Action::Neighbour && !from_here && !age::<F, _>(packet) {
        return (Outcome::DroppedExpired, TC_SHOT);
    }
    if !translate_tc::<F>(packet, &flow.to) {
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

/// A packet at XDP, on an uplink.
#[inline(always)]
pub(crate) fn xdp(ctx: &XdpContext) -> u32 {
    let packet = Xdp::new(ctx);
    let outcome = match packet.load::<u16>(12).map(u16::from_be) {
        Some(ETHERTYPE_IPV4) => judge_xdp::<V4>(&packet),
        Some(ETHERTYPE_IPV6) => judge_xdp::<V6>(&packet),
        _ => Outcome::PassedOther,
    };
    conclude(&packet, Hook::UplinkXdp, outcome, packet.length());
    match outcome.kind() {
        Kind::Passed | Kind::Forwarded => xdp_action::XDP_PASS,
        Kind::Rejected | Kind::Dropped => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn judge_xdp<F: Maps>(packet: &Xdp) -> Outcome {
    let Some(workspace) = workspace::<F>() else {
        return Outcome::DroppedInconsistent;
    };
    match F::parse(packet) {
        Ok(parsed) => workspace.flow.parsed = parsed,
        Err(Odd::Pass(outcome)) => return outcome,
        Err(Odd::Look) => match odd::xdp::<F>(packet, workspace) {
            None => {}
            Some(outcome) => return outcome,
        },
    }
    let outcome = open_xdp::<F>(packet, &mut workspace.flow);
    if workspace.flow.parsed.first != 0 && outcome.kind() == Kind::Forwarded {
        fragment::xdp::<F>(packet, workspace);
    }
    outcome
}

#[inline(always)]
fn open_xdp<F: Maps>(packet: &Xdp, scratch: &mut Scratch<F::Addr>) -> Outcome {
    let device = packet.device();
    let kernel = Kernel {
        ctx: packet.md.cast(),
        device,
    };
    let parsed = scratch.parsed;
    match before::<F, Kernel>(
        &kernel,
        &Arrival {
            device,
            kind: DeviceKind::Uplink,
        },
        scratch,
    ) {
        Before::Translate(flow, outcome) if flow.action() == Action::Stack => {
            if translate::<F, _>(packet, &parsed, &flow.to) {
                outcome
            } else {
                Outcome::DroppedRewrite
            }
        }
        // The flow is open; TC finds it and sends.
        Before::Translate(..) => Outcome::PassedToTc,
        Before::Leave(outcome) if outcome.kind() == Kind::Rejected => Outcome::PassedToTc,
        Before::Leave(outcome) => outcome,
    }
}
