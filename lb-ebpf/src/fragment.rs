//! First fragments are remembered, for those that follow.
#![allow(unsafe_code, internal_features)]

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use lb_common::{
    abi::{Fragment, FragmentKey, Phase},
    net::{ETHERNET, Fragments, Sum, Tables, apply, belongs, remember},
};

use crate::{
    maps::{self, Maps, Workspace},
    packet::{Packet, Tc, Xdp},
    tables::{Kernel, workspace},
};

impl<F: Maps> Fragments<F> for Kernel {
    #[inline(always)]
    fn fragment(&self, key: &FragmentKey<F::Addr>) -> Option<Fragment> {
        // SAFETY: two words that are written as a whole; a reader that sees half of each follows a flow that is not
        // there.
        unsafe { F::fragments().get(key) }.copied()
    }

    #[inline(always)]
    fn remember(&self, key: &FragmentKey<F::Addr>, fragment: &Fragment) {
        // Without it the later fragments are left as they are, and their datagram is lost.
        let _ = F::fragments().insert(key, fragment, 0);
    }

    #[inline(always)]
    fn next_id(&self) -> u16 {
        match maps::fragment_id.get_ptr_mut(0) {
            // SAFETY: aligned memory of the map, which all CPUs add to atomically. A weaker order is compiled to an
            // instruction that gives nothing back.
            Some(id) => unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::SeqCst }>(id, 1) as u16 },
            None => 0,
        }
    }
}

/// Remembers the first fragment in the workspace, which has been treated like any packet. `sent`: it goes on, and
/// gets its new identification now; else it will be seen again.
#[inline(never)]
pub(crate) fn tc<F: Maps>(packet: &Tc, phase: Phase, sent: bool) {
    let Some(workspace) = workspace::<F>() else {
        return;
    };
    let kernel = Kernel {
        ctx: packet.skb.cast(),
        device: packet.device(),
    };
    note::<F, Tc>(&kernel, packet, workspace, phase, sent);
}

/// The same at XDP.
#[inline(never)]
pub(crate) fn xdp<F: Maps>(packet: &Xdp) {
    let Some(workspace) = workspace::<F>() else {
        return;
    };
    let kernel = Kernel {
        ctx: packet.md.cast(),
        device: packet.device(),
    };
    note::<F, Xdp>(&kernel, packet, workspace, Phase::Before, true);
}

#[inline(always)]
fn note<F: Maps, P: Packet>(
    kernel: &Kernel,
    packet: &P,
    workspace: &mut Workspace<F::Addr>,
    phase: Phase,
    sent: bool,
) {
    workspace.look.key = workspace.flow.parsed.tuple;
    workspace.look.key.phase = phase as u8;
    workspace.look.datagram.phase = phase as u8;
    let flow = Tables::<F>::flow(kernel, &workspace.look.key)
        .filter(|flow| belongs(flow, workspace.flow.parsed.flags));
    let new = remember::<F, Kernel>(kernel, &workspace.look.datagram, &workspace.look.key, flow);
    if sent
        && let (Some(id), Some(field), Some(sum)) = (new, F::ID, F::CHECKSUM)
        && let Some(old) = packet.load::<u16>(ETHERNET + field)
        && let Some(checksum) = packet.load::<u16>(sum)
    {
        let by = Sum::default().minus(old as u32).plus(id.to_be() as u32);
        packet.store(ETHERNET + field, id.to_be());
        packet.store(sum, apply(checksum, by.difference()));
    }
}
