//! First fragments are remembered, for those that follow.
#![allow(unsafe_code, internal_features)]

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use lb_common::{
    abi::{Fragment, FragmentKey, Phase},
    net::{ETHERNET, Fragments, Sum, Tables, apply, belongs, remember},
};

use crate::{
    held,
    maps::{self, Maps, Workspace},
    packet::{Packet, Tc, Xdp},
    tables::{Kernel, workspace},
};

impl<F: Maps> Fragments<F> for Kernel {
    #[inline(always)]
    fn fragment(&self, key: &FragmentKey<F::Addr>) -> Option<Fragment> {
        // SAFETY: a few words, written one by one; a reader that sees some of each follows a flow that is not
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

/// What becomes of a first fragment that has been treated like any packet.
pub(crate) mod going {
    /// It ends here, or is seen again.
    pub(crate) const NOT: u32 = 0;
    /// It goes on, and gets its new identification now.
    pub(crate) const ON: u32 = 1;
    /// As above, and those that wait for it follow.
    pub(crate) const AHEAD: u32 = 2;
}

/// The body of [`Tc::first`].
#[inline(always)]
pub(crate) fn tc<F: Maps>(packet: &Tc, phase: u32, going: u32) -> u32 {
    let Some(workspace) = workspace::<F>() else {
        return 0;
    };
    let kernel = Kernel {
        ctx: packet.skb.cast(),
        device: packet.device(),
    };
    let known = note::<F, Tc>(&kernel, packet, workspace, phase as u8, going != going::NOT);
    if going != going::AHEAD {
        return 1;
    }
    let datagram = held::hash_of::<F>(&workspace.look.datagram);
    held::replay(packet, datagram, phase, known as u32) as u32
}

/// The body of [`Xdp::first`]: called before the packet is translated, and behind that again.
#[inline(always)]
pub(crate) fn xdp<F: Maps>(packet: &Xdp, going: u32) -> u32 {
    let Some(workspace) = workspace::<F>() else {
        return 0;
    };
    let kernel = Kernel {
        ctx: packet.md.cast(),
        device: packet.device(),
    };
    note::<F, Xdp>(
        &kernel,
        packet,
        workspace,
        Phase::Before as u8,
        going != going::NOT,
    );
    (going == going::NOT && held::is_held(held::hash_of::<F>(&workspace.look.datagram))) as u32
}

/// Remembers the fragment; whether it belongs to a flow.
#[inline(always)]
fn note<F: Maps, P: Packet>(
    kernel: &Kernel,
    packet: &P,
    workspace: &mut Workspace<F::Addr>,
    phase: u8,
    sent: bool,
) -> bool {
    workspace.look.key = workspace.flow.parsed.tuple;
    workspace.look.key.phase = phase;
    workspace.look.datagram.phase = phase;
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
    flow.is_some()
}
