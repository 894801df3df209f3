//! Packets that are not plain: ICMP, fragments, extension headers. Their beginning is copied into this CPU's
//! workspace, looked at there, changed there and written back; ordinary packets never come here.
#![allow(unsafe_code)]

use aya_ebpf::helpers::generated::{
    bpf_csum_update, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes, bpf_xdp_load_bytes,
    bpf_xdp_store_bytes,
};
use lb_common::{
    abi::{Action, DeviceKind, Flow, Hook, Outcome, Phase, Tuple},
    net::{
        ETHERNET, Fragments, HEADERS, Headers, Look, Seen, Tables, later_tuple, look, translate_error,
        translate_later,
    },
};

use crate::{
    after,
    before::{self, Sending},
    maps::{Maps, Workspace},
    mtu,
    outcome::{TC_SHOT, conclude},
    packet::{Packet, Tc, Xdp},
    rewrite::age,
    tables::{Kernel, workspace},
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

/// A packet at TC that is not plain: a verdict, or [`PORTS`].
#[inline(never)]
pub(crate) fn tc<F: Maps>(packet: &Tc, hook: Hook, kind: DeviceKind, phase: Phase) -> i32 {
    let Some(workspace) = workspace::<F>() else {
        return TC_SHOT;
    };
    // One after the other: each needs much of the stack.
    let seen = look_tc::<F>(packet, workspace, phase);
    let outcome = match seen {
        Seen::Ports => return PORTS,
        Seen::Pass(outcome) => outcome,
        Seen::Later | Seen::Error => {
            let verdict = follow::<F>(packet, &mut workspace.look, hook, kind, seen == Seen::Later);
            if verdict == mtu::TOO_BIG && !matches!(kind, DeviceKind::Pod | DeviceKind::BridgePort) {
                let leaving = matches!(kind, DeviceKind::Host | DeviceKind::Loopback);
                return mtu::conclude_later::<F>(packet, packet.device(), leaving);
            }
            if verdict != LEAVE {
                return verdict;
            }
            not_found(seen)
        }
    };
    match phase {
        Phase::Before => before::leave(packet, hook, outcome),
        Phase::After => after::end(packet, hook, outcome),
    }
}

#[inline(never)]
fn look_tc<F: Maps>(packet: &Tc, workspace: &mut Workspace<F::Addr>, phase: Phase) -> Seen {
    if copy(packet, &mut workspace.look.headers) {
        look::<F>(&mut workspace.look, phase, &mut workspace.flow.parsed)
    } else {
        Seen::Pass(Outcome::PassedMalformed)
    }
}

/// The outcome of what belongs to no flow.
#[inline(always)]
const fn not_found(seen: Seen) -> Outcome {
    match seen {
        Seen::Error => Outcome::PassedNotOurs,
        _ => Outcome::PassedFragment,
    }
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
    let length = packet.length();
    let how = Sending {
        action: flow.action(),
        to: flow.device,
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
    let (outcome, sum) = change::<F>(look, &flow.to, later);
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
        look.fragment = Fragments::<F>::fragment(kernel, &look.datagram)?;
        later_tuple(&look.datagram, &look.fragment, &mut look.key);
    }
    Tables::<F>::flow(kernel, &look.key)
}

/// Translates the copy; gives the outcome, and by how much the addresses change a sum over the packet. A function
/// of its own: it is all arithmetic, and needs much of the stack.
#[inline(always)]
fn change<F: Maps>(look: &mut Look<F::Addr>, to: &Tuple<F::Addr>, later: bool) -> (Outcome, u32) {
    if later {
        (Outcome::ForwardedFragment, change_fragment::<F>(look, to))
    } else {
        change_error::<F>(look, to);
        (Outcome::ForwardedError, 0)
    }
}

#[inline(never)]
fn change_fragment<F: Maps>(look: &mut Look<F::Addr>, to: &Tuple<F::Addr>) -> u32 {
    translate_later::<F>(&mut look.headers, &look.outer, to, look.fragment.id)
}

#[inline(never)]
fn change_error<F: Maps>(look: &mut Look<F::Addr>, to: &Tuple<F::Addr>) {
    let Look {
        headers,
        outer,
        inner,
        key,
        ..
    } = look;
    translate_error::<F>(headers, outer, inner, key, to);
}

/// A packet at XDP that is not plain: its outcome; `None`: its ports are in the workspace now, it is to be treated
/// like any other.
#[inline(always)]
pub(crate) fn xdp<F: Maps>(packet: &Xdp) -> Option<Outcome> {
    let Some(workspace) = workspace::<F>() else {
        return Some(Outcome::DroppedInconsistent);
    };
    match look_xdp::<F>(packet, workspace) {
        Seen::Ports => None,
        Seen::Pass(outcome) => Some(outcome),
        seen => Some(follow_xdp::<F>(packet, &mut workspace.look, seen == Seen::Later)),
    }
}

#[inline(never)]
fn look_xdp<F: Maps>(packet: &Xdp, workspace: &mut Workspace<F::Addr>) -> Seen {
    if copy(packet, &mut workspace.look.headers) {
        look::<F>(&mut workspace.look, Phase::Before, &mut workspace.flow.parsed)
    } else {
        Seen::Pass(Outcome::PassedMalformed)
    }
}

/// A later fragment or an ICMP error at XDP: where another way than up the stack is needed, TC goes it.
#[inline(never)]
fn follow_xdp<F: Maps>(packet: &Xdp, look: &mut Look<F::Addr>, later: bool) -> Outcome {
    let kernel = Kernel {
        ctx: packet.md.cast(),
        device: packet.device(),
    };
    let Some(flow) = find::<F>(&kernel, look, later) else {
        return not_found(if later { Seen::Later } else { Seen::Error });
    };
    if flow.action() != Action::Stack {
        return if later {
            Outcome::PassedToTcFragment
        } else {
            Outcome::PassedToTcError
        };
    }
    let (outcome, _) = change::<F>(look, &flow.to, later);
    if packet.write(&look.headers) {
        outcome
    } else {
        Outcome::DroppedRewrite
    }
}
