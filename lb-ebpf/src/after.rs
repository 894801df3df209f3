//! Programs behind the routing decision: they follow flows, and open none but those of this node's own
//! processes to other nodes' ports, which no other program of ours sees.

use aya_ebpf::programs::TcContext;
use lb_common::{
    abi::{Address, DeviceKind, Flow, Hook, Kind, Outcome, Phase, V4, V6},
    net::{Cursor, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Odd, Parsed, Tables, after},
};

use crate::{
    before,
    fragment::going,
    maps::Maps,
    odd,
    outcome::{TC_NEXT, TC_SHOT, conclude},
    packet::{Packet, Tc},
    rewrite::translate_tc,
    tables::{Kernel, workspace},
    trace, traffic,
};

/// A packet that leaves by a device.
#[inline(always)]
pub(crate) fn tc(ctx: &TcContext, hook: Hook) -> i32 {
    let packet = Tc::new(ctx);
    match packet.load::<u16>(12).map(u16::from_be) {
        Some(ETHERTYPE_IPV4) => of_family::<V4>(&packet, hook),
        Some(ETHERTYPE_IPV6) => of_family::<V6>(&packet, hook),
        Some(tag) if ETHERTYPE_VLAN.contains(&tag) => end(&packet, hook, Outcome::PassedVlan),
        _ => end(&packet, hook, Outcome::PassedOther),
    }
}

#[inline(always)]
pub(crate) fn end(packet: &Tc, hook: Hook, outcome: Outcome) -> i32 {
    conclude(packet, hook, outcome, packet.length());
    if matches!(outcome.kind(), Kind::Dropped) {
        TC_SHOT
    } else {
        TC_NEXT
    }
}

/// Stands for a verdict: a process of this node to a port of another node. No TC verdict has this value.
const OPEN: i32 = i32::MIN + 4;

#[inline(always)]
fn of_family<F: Maps>(packet: &Tc, hook: Hook) -> i32 {
    let verdict = judge::<F>(packet, hook);
    if hook as u8 == Hook::UplinkOut as u8 && verdict == OPEN {
        // Beside the other and not inside it: both need much of the stack.
        return before::of_family::<F>(packet, hook, DeviceKind::Host);
    }
    verdict
}

/// A function for each family: together, their words would crowd the stack.
#[inline(never)]
fn judge<F: Maps>(packet: &Tc, hook: Hook) -> i32 {
    let kind = match hook {
        Hook::PodOut => DeviceKind::Pod,
        _ => DeviceKind::Host,
    };
    let mut parsed = match F::parse(packet) {
        Ok(parsed) => parsed,
        Err(Odd::Pass(outcome)) => return end(packet, hook, outcome),
        Err(Odd::Look) => match packet.odd::<F>(hook as u32, kind as u32, Phase::After as u32) as i32 {
            odd::PORTS => match workspace::<F>() {
                Some(workspace) => workspace.flow.parsed,
                None => return end(packet, hook, Outcome::DroppedInconsistent),
            },
            verdict => return verdict,
        },
    };
    let kernel = Kernel {
        ctx: packet.skb.cast(),
        device: packet.device(),
    };
    let found = after::<F, Kernel>(&kernel, &mut parsed);
    trace::flow::<F>(&parsed.tuple, found);
    if let Some(flow) = found {
        traffic::note::<F>(&parsed.tuple, found, Outcome::ForwardedFlow);
        let done = translate_tc::<F>(packet, &parsed, &flow.to);
        // Before others are given to this program that wait for it.
        let verdict = end(
            packet,
            hook,
            if done {
                Outcome::ForwardedFlow
            } else {
                Outcome::DroppedRewrite
            },
        );
        if parsed.first != 0 && packet.first::<F>(Phase::After as u32, going::AHEAD) == 0 {
            return TC_SHOT;
        }
        return verdict;
    }
    if hook as u8 == Hook::UplinkOut as u8 && packet.is_local() {
        parsed.tuple.phase = Phase::Before as u8;
        let address = Tables::<F>::address(&kernel, &parsed.tuple.destination);
        if address.is_some_and(|a| a.has(Address::OTHER_NODE)) && !is_translated::<F>(&kernel, &parsed) {
            return OPEN;
        }
    }
    if parsed.first != 0 {
        packet.first::<F>(Phase::After as u32, going::ON);
    }
    end(packet, hook, Outcome::PassedNotOurs)
}

/// Whether a packet of this node has been translated on its way out of `lb0`: its backend may be a socket of
/// another node, on a port that is also some NodePort.
#[inline(never)]
fn is_translated<F: Maps>(kernel: &Kernel, parsed: &Parsed<F::Addr>) -> bool {
    let reverse = Tables::<F>::flow(kernel, &parsed.tuple.reverse());
    reverse.is_some_and(|flow| flow.flags & Flow::<F::Addr>::REVERSE != 0)
}
