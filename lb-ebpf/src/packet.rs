//! Packets as the kernel lends them: bounded reads and writes through the data pointers.
//!
//! Pointer arithmetic lives only here. The comparison with the end pointer in front of every access is what
//! the verifier looks for.
#![allow(unsafe_code)]

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::{bpf_skb_pull_data, bpf_xdp_get_buff_len},
    programs::{TcContext, XdpContext},
};
use lb_common::net::{Cursor, ETHERNET};

/// Link, network and transport header at their longest (IPv4 with all options, TCP without).
const HEADERS: u32 = (ETHERNET + 60 + 20) as u32;

/// The bits of a VLAN tag that name the VLAN; 0 names none, the tag has a priority only.
const VLAN_ID: u32 = 0xfff;

/// The frame may go on outside of the part that pointers reach if it is at least as long as this.
const LINEAR: u32 = 512;

/// A packet whose bytes can be read and written in place.
pub(crate) trait Packet: Cursor {
    /// Address of the first byte.
    fn start(&self) -> usize;
    /// Address behind the last byte that can be reached.
    fn end(&self) -> usize;
    /// Length of the whole packet in bytes.
    fn length(&self) -> u32;
    /// The kernel's context as the logger wants it.
    #[cfg(feature = "log")]
    fn context(&self) -> impl aya_ebpf::EbpfContext;
    /// Writes `value` at `offset`; `false` if the packet ends before its end.
    #[inline(always)]
    fn store<T: Copy>(&self, offset: usize, value: T) -> bool {
        let at = self.start() + offset;
        if at + size_of::<T>() > self.end() {
            return false;
        }
        // SAFETY: `at..at + size` lies between the packet's start and end, compared above; the target needs
        // no alignment for packet memory.
        unsafe { *(at as *mut T) = value };
        true
    }
}

#[inline(always)]
fn load<T: Copy>(packet: &impl Packet, offset: usize) -> Option<T> {
    let at = packet.start() + offset;
    if at + size_of::<T>() > packet.end() {
        return None;
    }
    // SAFETY: `at..at + size` lies between the packet's start and end, compared above; every bit pattern is a
    // `T` (the callers' bound); the target needs no alignment for packet memory.
    Some(unsafe { *(at as *const T) })
}

/// A packet at TC.
#[derive(Clone, Copy)]
pub(crate) struct Tc {
    /// The kernel's context.
    pub(crate) skb: *mut __sk_buff,
}

/// A packet at XDP.
#[derive(Clone, Copy)]
pub(crate) struct Xdp {
    /// The kernel's context.
    pub(crate) md: *mut xdp_md,
}

impl Tc {
    /// The packet of a program's context, its headers made reachable.
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        let packet = Self { skb: ctx.skb.skb };
        packet.reach();
        packet
    }

    /// Makes the headers reachable.
    #[inline(always)]
    pub(crate) fn reach(&self) {
        let wanted = if self.length() < HEADERS {
            self.length()
        } else {
            HEADERS
        };
        if self.start() + wanted as usize > self.end() {
            // SAFETY: the context is the program's own; a failure leaves the packet as it is, and reads end early.
            unsafe { bpf_skb_pull_data(self.skb, wanted) };
        }
    }

    /// Interface index of the device the program runs on.
    #[inline(always)]
    pub(crate) fn device(&self) -> u32 {
        // SAFETY: reads a field of the program's own context.
        unsafe { (*self.skb).ifindex }
    }

    /// Whether it came in a frame that is tagged for a VLAN (its tag is not among its bytes any more).
    #[inline(always)]
    pub(crate) fn is_in_vlan(&self) -> bool {
        // SAFETY: reads a field of the program's own context.
        let present = unsafe { (*self.skb).vlan_present } != 0;
        // SAFETY: as above.
        present && unsafe { (*self.skb).vlan_tci } & VLAN_ID != 0
    }

    /// Whether a process of this node has sent it, rather than the stack forwarded it.
    #[inline(always)]
    pub(crate) fn is_local(&self) -> bool {
        // SAFETY: reads a field of the program's own context.
        unsafe { (*self.skb).ingress_ifindex == 0 }
    }
}

impl Xdp {
    /// The packet of a program's context.
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        Self { md: ctx.ctx }
    }

    /// Interface index of the device the program runs on.
    #[inline(always)]
    pub(crate) fn device(&self) -> u32 {
        // SAFETY: reads a field of the program's own context.
        unsafe { (*self.md).ingress_ifindex }
    }
}

impl Packet for Tc {
    #[cfg(feature = "log")]
    #[inline(always)]
    fn context(&self) -> impl aya_ebpf::EbpfContext {
        TcContext::new(self.skb)
    }

    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: reads a field of the program's own context.
        unsafe { (*self.skb).data as usize }
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: reads a field of the program's own context.
        unsafe { (*self.skb).data_end as usize }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: reads a field of the program's own context.
        unsafe { (*self.skb).len }
    }
}

impl Packet for Xdp {
    #[cfg(feature = "log")]
    #[inline(always)]
    fn context(&self) -> impl aya_ebpf::EbpfContext {
        XdpContext::new(self.md)
    }

    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: reads a field of the program's own context.
        unsafe { (*self.md).data as usize }
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: reads a field of the program's own context.
        unsafe { (*self.md).data_end as usize }
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        let reached = (self.end() - self.start()) as u32;
        if reached < LINEAR {
            return reached;
        }
        // SAFETY: the context is the program's own.
        (unsafe { bpf_xdp_get_buff_len(self.md) }) as u32
    }
}

impl Cursor for Tc {
    #[inline(always)]
    fn load<T: bytemuck::AnyBitPattern>(&self, offset: usize) -> Option<T> {
        load(self, offset)
    }
}

impl Cursor for Xdp {
    #[inline(always)]
    fn load<T: bytemuck::AnyBitPattern>(&self, offset: usize) -> Option<T> {
        load(self, offset)
    }
}
