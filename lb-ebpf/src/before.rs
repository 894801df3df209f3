//! Programs in front of the routing decision: they open flows and follow them.

use core::hint::black_box;

use aya_ebpf::programs::TcContext;
use lb_common::{
    abi::{Action, Address, DeviceKind, Flow, Hook, Kind, Outcome, Phase, Tuple, V4, V6},
    net::{
        self, Arrival, Before, Cursor, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Odd, Parsed,
        Tables, at_lb0, before, begins, copy_parsed, opened,
    },
};

use crate::{
    fragment::going,
    global, hops,
    maps::{Maps, Workspace},
    mtu, odd,
    outcome::{TC_NEXT, TC_REDIRECT, TC_SHOT, conclude},
    packet::{Packet, Tc},
    rewrite::{age, translate_tc},
    send,
    tables::{Kernel, workspace},
    trace::{self, is_traced},
    traffic,
};

/// A packet at TC, on a device of the given kind.
#[inline(always)]
pub(crate) fn tc(ctx: &TcContext, hook: Hook, kind: DeviceKind) -> i32 {
    let packet = Tc::new(ctx);
    if packet.is_in_vlan() {
        return leave(&packet, hook, Outcome::PassedVlan);
    }
    let mut ethertype = packet.load::<u16>(12).map(u16::from_be);
    if hook as u8 == Hook::UplinkIn as u8
        && !matches!(ethertype, Some(ETHERTYPE_IPV4 | ETHERTYPE_IPV6))
        && packet.find_link() != 0
    {
        packet.reach();
        ethertype = packet.load::<u16>(12).map(u16::from_be);
    }
    match ethertype {
        Some(ETHERTYPE_IPV4) => of_family::<V4>(&packet, hook, kind),
        Some(ETHERTYPE_IPV6) => of_family::<V6>(&packet, hook, kind),
        Some(tag) if ETHERTYPE_VLAN.contains(&tag) => leave(&packet, hook, Outcome::PassedVlan),
        _ => leave(&packet, hook, Outcome::PassedOther),
    }
}

/// Stands for a verdict while the refusal of the packet in the workspace is still to be written: that needs most of
/// the stack, so it stands beside the rest and not inside it. No TC verdict has this value.
const REFUSE: i32 = i32::MIN;

/// Stands for a verdict while the closer look at a packet is still to be taken.
const LOOK: i32 = i32::MIN + 2;

/// The verdict, and before it the refusal if there is to be one.
#[inline(always)]
fn refuse_if_so<F: Maps>(packet: &Tc, verdict: i32, kind: DeviceKind) -> i32 {
    let leaving = matches!(kind, DeviceKind::Host | DeviceKind::Loopback);
    // (The verifier leaves this out where it is a pod's device, whose packets are never sent by a neighbour.)
    if verdict == mtu::TOO_BIG && !matches!(kind, DeviceKind::Pod | DeviceKind::BridgePort) {
        return packet.too_big::<F>(leaving as u32) as i32;
    }
    if verdict != REFUSE {
        return verdict;
    }
    if packet.refuse::<F>() != 0 {
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

/// A packet of one family. What needs much of the stack stands one beside the other here.
#[inline(always)]
pub(crate) fn of_family<F: Maps>(packet: &Tc, hook: Hook, kind: DeviceKind) -> i32 {
    let mut verdict = judge::<F>(packet, hook, kind, false);
    if verdict == LOOK {
        verdict = packet.odd::<F>(hook as u32, kind as u32, Phase::Before as u32) as i32;
        if verdict == odd::PORTS {
            verdict = judge::<F>(packet, hook, kind, true);
        }
    }
    refuse_if_so::<F>(packet, verdict, kind)
}

/// A function for each family: together, their words would crowd the stack. `looked`: the packet's ports are in the
/// workspace.
#[inline(never)]
fn judge<F: Maps>(packet: &Tc, hook: Hook, kind: DeviceKind, looked: bool) -> i32 {
    let kernel = Kernel {
        ctx: packet.skb.cast(),
        device: packet.device(),
    };
    let Some(destination) = F::destination(packet) else {
        return leave(packet, hook, Outcome::PassedMalformed);
    };
    let address = Tables::<F>::address(&kernel, &destination);
    // What else these two see must be known more exactly.
    if address.is_none() && !matches!(kind, DeviceKind::Host | DeviceKind::BridgePort) {
        if kind == DeviceKind::Pod && may_begin::<F>(packet) {
            packet.give_way::<F>(Phase::After as u32);
        }
        return leave(packet, hook, Outcome::PassedNotOurs);
    }
    let parsed = if looked {
        match workspace::<F>() {
            Some(workspace) => workspace.flow.parsed,
            None => return leave(packet, hook, Outcome::DroppedInconsistent),
        }
    } else {
        match F::parse_rest(packet, Some(destination)) {
            Ok(parsed) => parsed,
            Err(Odd::Pass(outcome)) => return leave(packet, hook, outcome),
            Err(Odd::Look) => return LOOK,
        }
    };
    let verdict = handle::<F>(packet, &parsed, hook, kind, address);
    if parsed.first != 0 {
        let going = match verdict {
            TC_NEXT | TC_REDIRECT if matches!(kind, DeviceKind::Host | DeviceKind::Loopback) => going::ON,
            TC_NEXT | TC_REDIRECT => going::AHEAD,
            _ => going::NOT,
        };
        if packet.first::<F>(Phase::Before as u32, going) == 0 {
            return TC_SHOT;
        }
    }
    verdict
}

/// Handles a packet with known headers; its verdict is for [`refuse_if_so`].
#[inline(always)]
fn handle<F: Maps>(
    packet: &Tc,
    parsed: &Parsed<F::Addr>,
    hook: Hook,
    kind: DeviceKind,
    address: Option<Address>,
) -> i32 {
    let device = packet.device();
    let kernel = Kernel {
        ctx: packet.skb.cast(),
        device,
    };
    let length = packet.length();
    let decided = match address {
        Some(address) => decide::<F>(packet, &kernel, parsed, kind, address),
        None => Before::leave(Outcome::PassedNotOurs),
    };
    traffic::note::<F>(&parsed.tuple, decided.flow, decided.outcome);
    if let Some(flow) = decided.flow {
        let to = Sending {
            action: flow.action(),
            to: way::<F>(&kernel, flow),
            device,
            kind,
        };
        let (outcome, verdict) = forward::<F>(packet, parsed, flow, decided.outcome, &to);
        conclude(packet, hook, outcome, length);
        return verdict;
    }
    let outcome = match hook {
        Hook::HostOut => at_lb0(decided.outcome, parsed.flags),
        _ => decided.outcome,
    };
    if outcome.kind() == Kind::Rejected {
        if let Some(workspace) = workspace::<F>() {
            copy_parsed::<F>(parsed, &mut workspace.flow.parsed);
        }
        conclude(packet, hook, outcome, length);
        return REFUSE;
    }
    if matches!(
        kind,
        DeviceKind::Pod | DeviceKind::BridgePort | DeviceKind::Loopback
    ) && begins(parsed.tuple.protocol, parsed.flags)
    {
        let phase = match kind {
            DeviceKind::Loopback => Phase::Before,
            _ => Phase::After,
        };
        packet.give_way::<F>(phase as u32);
    }
    if kind == DeviceKind::BridgePort {
        route::<F>(packet, parsed, device);
    }
    leave(packet, hook, outcome)
}

/// Whether a packet that was not parsed looks as if it began a TCP connection. (One with options or extension headers does
/// not: those few are answered for by `after`.)
#[inline(always)]
fn may_begin<F: Maps>(packet: &Tc) -> bool {
    let (protocol, tcp) = if F::ADDR_LEN == 4 {
        (ETHERNET + 9, ETHERNET + 20)
    } else {
        (ETHERNET + 6, ETHERNET + 40)
    };
    match packet.load::<u8>(protocol) {
        Some(protocol) => begins(protocol, packet.load::<u8>(tcp + 13).unwrap_or(0)),
        None => false,
    }
}

/// The body of [`Tc::give_way`].
#[inline(always)]
pub(crate) fn give_way<F: Maps>(packet: &Tc, phase: u32) -> u32 {
    let kernel = Kernel {
        ctx: packet.skb.cast(),
        device: packet.device(),
    };
    if let Ok(parsed) = F::parse(packet)
        && begins(parsed.tuple.protocol, parsed.flags)
    {
        let phase = if phase == Phase::After as u32 {
            Phase::After
        } else {
            Phase::Before
        };
        net::give_way::<F, Kernel>(&kernel, &parsed.tuple, phase);
    }
    0
}

/// What becomes of a packet to one of our addresses.
#[inline(always)]
fn decide<'a, F: Maps>(
    packet: &Tc,
    kernel: &'a Kernel,
    parsed: &Parsed<F::Addr>,
    kind: DeviceKind,
    address: Address,
) -> Before<'a, F::Addr> {
    let decided = before::<F, Kernel>(kernel, parsed);
    trace::flow::<F>(&parsed.tuple, decided.and_then(|decided| decided.flow));
    if let Some(decided) = decided {
        return decided;
    }
    let Some(workspace) = workspace::<F>() else {
        return Before::leave(Outcome::DroppedInconsistent);
    };
    copy_parsed::<F>(parsed, &mut workspace.flow.parsed);
    opened_as::<F>(workspace, packet.open::<F>(kind as u32, address.flags))
}

/// The body of [`Tc::open`].
#[inline(always)]
pub(crate) fn open<F: Maps>(packet: &Tc, kind: u32, address: u32) -> u32 {
    let device = packet.device();
    let kernel = Kernel {
        ctx: packet.skb.cast(),
        device,
    };
    let kind = DeviceKind::from_number(kind as u8);
    open_in::<F>(&kernel, &Arrival { device, kind }, Address { flags: address }) as u32
}

/// Opens a flow in the workspace, where the packet is.
#[inline(always)]
pub(crate) fn open_in<F: Maps>(kernel: &Kernel, arrival: &Arrival, address: Address) -> Outcome {
    match workspace::<F>() {
        Some(workspace) => net::open::<F, Kernel>(kernel, arrival, &mut workspace.flow, address),
        None => Outcome::DroppedInconsistent,
    }
}

/// What a flow that was opened in the workspace comes to.
#[inline(always)]
pub(crate) fn opened_as<F: Maps>(workspace: &Workspace<F::Addr>, outcome: u32) -> Before<'_, F::Addr> {
    if is_traced() {
        global::notes::<F>(outcome);
    }
    opened(
        &workspace.flow,
        Outcome::from_number(outcome).unwrap_or(Outcome::DroppedInconsistent),
    )
}

/// The device that a packet of `flow` is sent to. Routes may have changed since it was opened, and the way back need not
/// be the way here.
#[inline(always)]
pub(crate) fn way<F: Maps>(kernel: &Kernel, flow: &Flow<F::Addr>) -> u32 {
    if matches!(flow.action(), Action::Neighbour) {
        hops::device::<F>(kernel, &flow.to, flow.device)
    } else {
        flow.device
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
    // Read anew: what the verifier knew of the action before, it would take through all of the translation, once for
    // each of them (a quarter of all its steps).
    let how = Sending {
        action: black_box(flow).action(),
        ..*how
    };
    (outcome, depart(packet, &how))
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
