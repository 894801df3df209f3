//! A packet as two addresses, the same at XDP and TC.
#![allow(unsafe_code)]

use aya_ebpf::programs::{TcContext, XdpContext};
use core::ffi::c_void;

/// A packet of which nothing was read yet.
#[derive(Clone, Copy)]
pub(crate) struct Raw {
    /// The program's context.
    pub(crate) ctx: *mut c_void,
    /// Interface index of the device.
    pub(crate) device: u32,
    start: usize,
    end: usize,
}

/// The packet's first bytes, known to be there.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    start: usize,
}

impl Raw {
    #[inline(always)]
    pub(crate) fn xdp(ctx: &XdpContext) -> Self {
        // SAFETY: reads a field of the program's own context.
        let device = unsafe { (*ctx.ctx).ingress_ifindex };
        Self {
            ctx: ctx.ctx.cast(),
            device,
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    #[inline(always)]
    pub(crate) fn tc(ctx: &TcContext) -> Self {
        // SAFETY: reads a field of the program's own context.
        let device = unsafe { (*ctx.skb.skb).ifindex };
        Self {
            ctx: ctx.skb.skb.cast(),
            device,
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    /// The packet, if it has so many bytes.
    #[inline(always)]
    pub(crate) fn head(self, bytes: usize) -> Option<Head> {
        if self.start + bytes > self.end {
            return None;
        }
        Some(Head { start: self.start })
    }
}

impl Head {
    /// Reads at `offset`, below what was asked for.
    #[inline(always)]
    pub(crate) fn load<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the callers read integers below the length that `Raw::head` compared; the verifier checks it.
        unsafe { *((self.start + offset) as *const T) }
    }

    /// Writes at `offset`, below what was asked for.
    #[inline(always)]
    pub(crate) fn store<T: Copy>(self, offset: usize, value: T) {
        // SAFETY: as in `load`.
        unsafe { *((self.start + offset) as *mut T) = value };
    }
}
