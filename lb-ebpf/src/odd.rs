//! Packets that are not plain: ICMP, fragments, extension headers. Their beginning is copied into this CPU's
//! workspace, looked at there, changed there and written back; ordinary packets never come here.
#![allow(unsafe_code)]

use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes, bpf_xdp_load_bytes,
    bpf_xdp_store_bytes,
};
use lb_common::{
    abi::{Action, DeviceKind, Flow, Hook, Outcome, Phase, Step},
    net::{
        ETHERNET, HEADERS, Headers, Look, Seen, Tables, copy_tuple, known, later_tuple, look,
        translate_error, translate_later,
    },
};

use crate::{
    after,
    before::{self, Sending},
    global,
    maps::Maps,
    mtu,
    outcome::{TC_SHOT, conclude},
    packet::{Packet, Tc, Xdp},
    rewrite::age,
    tables::{Kernel, workspace},
    trace::{Of, note},
    traffic,
};

/// Stands for a verdict: the packet's ports are in the workspace now, it is to be treated like any other. No TC
/// verdict has this value.
pub(crate) const PORTS: i32 = i32::MIN + 1;

/// Stands for a verdict: the packet is left as it is.
const LEAVE: i32 = i32::MIN + 3;

/// A packet whose beginning can be copied out and written back.
trait Beginning: Packet {
    /// Copies `length` bytes (at most [`HEADERS`]).
    fn copy(&self, to: &mut Headers, length: u32) -> bool;
    /// Writes them back, but for the link header.
    fn write(&self, from: &Headers) -> bool;
}

/// How much of a packet is copied; 0 if it is too short for anything.
#[inline(always)]
fn beginning(length: u32) -> u32 {
    // A difference of pointers: the verifier learns its bounds only where it is compared as a number.
    let length = core::hint::black_box(length);
    if length <= ETHERNET as u32 {
        0
    } else if length < HEADERS as u32 {
        length
    } else {
        HEADERS as u32
    }
}

#[inline(always)]
fn copy<P: Beginning>(packet: &P, headers: &mut Headers) -> bool {
    let length = beginning(packet.length());
    headers.length = length;
    length > ETHERNET as u32 && packet.copy(headers, length)
}

impl Beginning for Tc {
    #[inline(always)]
    fn copy(&self, to: &mut Headers, length: u32) -> bool {
        // The ordinary way may follow: it reaches for headers in place.
        // SAFETY: the context is the program's own; a failure leaves the packet as it is.
        unsafe { bpf_skb_pull_data(self.skb, length) };
        // SAFETY: the buffer is `HEADERS` bytes long, `length` is at most that.
        unsafe { bpf_skb_load_bytes(self.skb.cast(), 0, to.bytes.as_mut_ptr().cast(), length) == 0 }
    }

    #[inline(always)]
    fn write(&self, from: &Headers) -> bool {
        let length = beginning(from.length);
        if length <= ETHERNET as u32 {
            return false;
        }
        // The link header is written back as it was read.
        // SAFETY: the buffer is `HEADERS` bytes long, `length` is at most that; the helper checks the packet's.
        unsafe { bpf_skb_store_bytes(self.skb, 0, from.bytes.as_ptr().cast(), length, 0) == 0 }
    }
}

impl Beginning for Xdp {
    #[inline(always)]
    fn copy(&self, to: &mut Headers, length: u32) -> bool {
        // SAFETY: the buffer is `HEADERS` bytes long, `length` is at most that.
        unsafe { bpf_xdp_load_bytes(self.md, 0, to.bytes.as_mut_ptr().cast(), length) == 0 }
    }

    #[inline(always)]
    fn write(&self, from: &Headers) -> bool {
        let length = beginning(from.length);
        if length <= ETHERNET as u32 {
            return false;
        }
        // SAFETY: the buffer is `HEADERS` bytes long, `length` is at most that; the helper checks the packet's.
        unsafe { bpf_xdp_store_bytes(self.md, 0, from.bytes.as_ptr().cast_mut().cast(), length) == 0 }
    }
}

/// The body of [`Tc::odd`].
#[inline(always)]
pub(crate) fn tc<F: Maps>(packet: &Tc, hook: u32, kind: u32, phase: u32) -> u32 {
    let hook = match Hook::from_number(hook) {
        Some(hook) if !matches!(hook, Hook::Connect | Hook::Bind) => hook,
        _ => Hook::UplinkIn,
    };
    let kind = DeviceKind::from_number(kind as u8);
    let phase = if phase == Phase::Before as u32 {
        Phase::Before
    } else {
        Phase::After
    };
    judge::<F>(packet, hook, kind, phase) as u32
}

/// A packet at TC that is not plain: a verdict, or [`PORTS`].
#[inline(always)]
fn judge<F: Maps>(packet: &Tc, hook: Hook, kind: DeviceKind, phase: Phase) -> i32 {
    let Some(workspace) = workspace::<F>() else {
        return TC_SHOT;
    };
    let seen = if copy(packet, &mut workspace.look.headers) {
        global::look::<F>(phase as u32)
    } else {
        Outcome::PassedMalformed as u32
    };
    let outcome = match seen {
        PLAIN => return PORTS,
        LATER | ERROR => {
            let verdict = follow::<F>(packet, &mut workspace.look, hook, kind, seen == LATER);
            if verdict == mtu::TOO_BIG && !matches!(kind, DeviceKind::Pod | DeviceKind::BridgePort) {
                let leaving = matches!(kind, DeviceKind::Host | DeviceKind::Loopback);
                return mtu::conclude_later::<F>(packet, packet.device(), leaving);
            }
            if verdict != LEAVE {
                return verdict;
            }
            if seen == LATER {
                passed(packet.hold::<F>(kind as u32, phase as u32))
            } else {
                Outcome::PassedNotOurs
            }
        }
        number => passed(number),
    };
    if outcome as u8 == Outcome::ForwardedHeld as u8 {
        conclude(packet, hook, outcome, packet.length());
        return TC_SHOT;
    }
    match phase {
        Phase::Before => before::leave(packet, hook, outcome),
        Phase::After => after::end(packet, hook, outcome),
    }
}

/// The body of [`global::look`]: a number of an outcome, or what stands for one.
#[inline(always)]
pub(crate) fn look_at<F: Maps>(phase: u32) -> u32 {
    let Some(workspace) = workspace::<F>() else {
        return Outcome::PassedMalformed as u32;
    };
    let phase = if phase == Phase::Before as u32 {
        Phase::Before
    } else {
        Phase::After
    };
    match look::<F>(&mut workspace.look, phase, &mut workspace.flow.parsed) {
        Seen::Ports => PLAIN,
        Seen::Later => LATER,
        Seen::Error => ERROR,
        Seen::Pass(outcome) => outcome as u32,
    }
}

/// An outcome from its number.
#[inline(always)]
fn passed(number: u32) -> Outcome {
    Outcome::from_number(number).unwrap_or(Outcome::PassedMalformed)
}

/// A later fragment or an ICMP error at TC: translates and sends it, or gives [`LEAVE`].
#[inline(never)]
fn follow<F: Maps>(packet: &Tc, look: &mut Look<F::Addr>, hook: Hook, kind: DeviceKind, later: bool) -> i32 {
    let device = packet.device();
    let kernel = Kernel {
        ctx: packet.skb.cast(),
        device,
    };
    let mut found = find::<F>(&kernel, look, later);
    if found.is_none() && hook as u8 == Hook::UplinkOut as u8 && packet.is_local() {
        // This node's own way to other nodes' ports is translated here as in front of the routing decision.
        look.datagram.phase = Phase::Before as u8;
        look.key.phase = Phase::Before as u8;
        found = find::<F>(&kernel, look, later);
    }
    let Some(flow) = found else {
        if kind as u8 == DeviceKind::BridgePort as u8 {
            look.key.phase = Phase::After as u8;
            before::to_the_stack::<F>(packet, &look.key, device);
        }
        return LEAVE;
    };
    traffic::note::<F>(&look.key, found, followed(later));
    let length = packet.length();
    let how = Sending {
        action: flow.action(),
        to: before::way::<F>(&kernel, flow),
        device,
        kind,
    };
    let around = !matches!(kind, DeviceKind::Pod | DeviceKind::BridgePort);
    if later && around && matches!(how.action, Action::Neighbour) {
        let mtu = mtu::exceeded(packet, how.to);
        if mtu != 0 {
            conclude(packet, hook, mtu::note::<F>(packet, &look.key, mtu), length);
            return mtu::TOO_BIG;
        }
    }
    copy_tuple::<F>(&flow.to, &mut look.to);
    note::<F, _, _>(Of::Packet, Step::Rewrite, &look.key, Some(&look.to));
    let sum = global::change::<F>(later as u32);
    let outcome = followed(later);
    let (outcome, verdict) = if !packet.write(&look.headers) {
        (Outcome::DroppedRewrite, TC_SHOT)
    } else {
        // What a device has summed up over the whole packet must follow, where nothing in it balances the addresses.
        if later && F::CHECKSUM.is_none() {
            // SAFETY: the context is the program's own; an error says that no device has summed it up.
            unsafe { bpf_csum_update(packet.skb, sum) };
        }
        let from_here = matches!(kind, DeviceKind::Host | DeviceKind::Loopback);
        if matches!(how.action, Action::Neighbour) && !from_here && !age::<F, _>(packet) {
            (Outcome::DroppedExpired, TC_SHOT)
        } else {
            (outcome, before::depart(packet, &how))
        }
    };
    conclude(packet, hook, outcome, length);
    verdict
}

/// The flow that a later fragment or an ICMP error belongs to; `look.key` is its key then.
#[inline(always)]
fn find<'a, F: Maps>(kernel: &'a Kernel, look: &mut Look<F::Addr>, later: bool) -> Option<&'a Flow<F::Addr>> {
    if later {
        look.fragment = known::<F, Kernel>(kernel, &look.datagram)?;
        later_tuple(&look.datagram, &look.fragment, &mut look.key);
    }
    Tables::<F>::flow(kernel, &look.key)
}

#[inline(always)]
const fn followed(later: bool) -> Outcome {
    if later {
        Outcome::ForwardedFragment
    } else {
        Outcome::ForwardedError
    }
}

/// The body of [`global::change`].
#[inline(always)]
pub(crate) fn change_in<F: Maps>(later: u32) -> u32 {
    let Some(workspace) = workspace::<F>() else {
        return 0;
    };
    let Look {
        headers,
        outer,
        inner,
        key,
        fragment,
        to,
        ..
    } = &mut workspace.look;
    if later != 0 {
        translate_later::<F>(headers, outer, to, fragment.id)
    } else {
        translate_error::<F>(headers, outer, inner, key, to);
        0
    }
}

/// Stands for an outcome: the packet's ports are in the workspace now, it is to be treated like any other. No outcome
/// has this number.
pub(crate) const PLAIN: u32 = u32::MAX;

/// Stands for an outcome: a later fragment.
const LATER: u32 = u32::MAX - 1;
/// Stands for an outcome: an ICMP error.
const ERROR: u32 = u32::MAX - 2;

/// The body of [`Xdp::odd`]: the outcome of a packet at XDP that is not plain, or [`PLAIN`].
#[inline(always)]
pub(crate) fn xdp<F: Maps>(packet: &Xdp) -> u32 {
    let Some(workspace) = workspace::<F>() else {
        return Outcome::DroppedInconsistent as u32;
    };
    if !copy(packet, &mut workspace.look.headers) {
        return Outcome::PassedMalformed as u32;
    }
    match global::look::<F>(Phase::Before as u32) {
        seen @ (LATER | ERROR) => follow_xdp::<F>(packet, &mut workspace.look, seen) as u32,
        seen => seen,
    }
}

/// A later fragment or an ICMP error at XDP: where another way than up the stack is needed, TC goes it.
#[inline(always)]
fn follow_xdp<F: Maps>(packet: &Xdp, look: &mut Look<F::Addr>, seen: u32) -> Outcome {
    let kernel = Kernel {
        ctx: packet.md.cast(),
        device: packet.device(),
    };
    let later = seen == LATER;
    let flow = match find::<F>(&kernel, look, later) {
        Some(flow) if flow.action() == Action::Stack => flow,
        // One whose first is not known waits for it at TC.
        _ if later => return Outcome::PassedToTcFragment,
        Some(_) => return Outcome::PassedToTcError,
        None => return Outcome::PassedNotOurs,
    };
    traffic::note::<F>(&look.key, Some(flow), followed(later));
    copy_tuple::<F>(&flow.to, &mut look.to);
    note::<F, _, _>(Of::Packet, Step::Rewrite, &look.key, Some(&look.to));
    global::change::<F>(later as u32);
    if packet.write(&look.headers) {
        followed(later)
    } else {
        Outcome::DroppedRewrite
    }
}
