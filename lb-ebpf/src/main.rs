// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The programs that are loaded into the kernel: one per hook, a few lines each.
//!
//! What they do is decided in `lb_common::net`; this crate only joins it to packets ([`packet`]), maps
//! ([`maps`], [`tables`]) and the kernel's ways of sending ([`send`], [`refuse`]).
#![no_std]
#![no_main]
// Atomics that give back a value: the compiler has them for this target as intrinsics only.
#![feature(core_intrinsics)]
#![allow(internal_features)]
// The program macros make undocumented, public items of their own.
#![allow(missing_docs, unreachable_pub)]

mod after;
mod before;
mod fib;
mod fragment;
mod global;
mod handover;
mod held;
mod hops;
mod link;
mod maps;
mod mtu;
mod odd;
mod outcome;
mod packet;
mod refuse;
mod rewrite;
mod send;
mod socket;
mod sweep;
mod tables;
mod trace;
mod traffic;
mod watch;
mod xdp;

use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, SockContext, TcContext, XdpContext},
};
use lb_common::abi::{DeviceKind, Hook, Traced};

/// XDP on an uplink: as [`uplink_in`], to which it leaves what XDP cannot send.
#[xdp(frags)]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    handover::xdp(&ctx);
    watch::xdp(&ctx);
    trace::end(xdp::xdp(&ctx))
}

/// TC ingress of uplinks and tunnels: clients outside, and replies from other nodes.
#[classifier]
pub fn uplink_in(ctx: TcContext) -> i32 {
    handover::tc(&ctx, Traced::UplinkIn);
    watch::tc(&ctx, Traced::UplinkIn);
    trace::end(before::tc(&ctx, Hook::UplinkIn, DeviceKind::Uplink))
}

/// TC egress of uplinks and tunnels: replies to clients outside, and this node's way to other nodes' ports.
#[classifier]
pub fn uplink_out(ctx: TcContext) -> i32 {
    handover::tc(&ctx, Traced::UplinkOut);
    watch::tc(&ctx, Traced::UplinkOut);
    trace::end(after::tc(&ctx, Hook::UplinkOut))
}

/// TC ingress of a pod's device: what the pod sends.
#[classifier]
pub fn pod_in(ctx: TcContext) -> i32 {
    handover::tc(&ctx, Traced::PodIn);
    watch::tc(&ctx, Traced::PodIn);
    trace::end(before::tc(&ctx, Hook::PodIn, DeviceKind::Pod))
}

/// TC ingress of a pod's device that is a port of a bridge: as [`pod_in`], and replies must reach the stack.
#[classifier]
pub fn bridge_port_in(ctx: TcContext) -> i32 {
    handover::tc(&ctx, Traced::BridgePortIn);
    watch::tc(&ctx, Traced::BridgePortIn);
    trace::end(before::tc(&ctx, Hook::PodIn, DeviceKind::BridgePort))
}

/// TC egress of a pod's device: what the pod receives.
#[classifier]
pub fn pod_out(ctx: TcContext) -> i32 {
    handover::tc(&ctx, Traced::PodOut);
    watch::tc(&ctx, Traced::PodOut);
    trace::end(after::tc(&ctx, Hook::PodOut))
}

/// TC egress of lb0: node processes to Service addresses.
#[classifier]
pub fn host_out(ctx: TcContext) -> i32 {
    handover::tc(&ctx, Traced::HostOut);
    watch::tc(&ctx, Traced::HostOut);
    trace::end(before::tc(&ctx, Hook::HostOut, DeviceKind::Host))
}

/// TC egress of lo: node processes to their own node's ports, and replies of host-network backends to them.
#[classifier]
pub fn loopback_out(ctx: TcContext) -> i32 {
    handover::tc(&ctx, Traced::LoopbackOut);
    watch::tc(&ctx, Traced::LoopbackOut);
    trace::end(before::tc(&ctx, Hook::LoopbackOut, DeviceKind::Loopback))
}

/// `connect` of an IPv4 socket, in the node's cgroup: a TCP connection to a Service gets its backend at once.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    watch::connect(&ctx, &maps::trace_connect4);
    socket::connect4(&ctx)
}

/// `connect` of an IPv6 socket: as [`connect4`].
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    watch::connect(&ctx, &maps::trace_connect6);
    socket::connect6(&ctx)
}

/// `getpeername` of an IPv4 socket: whom the process asked for.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    socket::getpeername4(&ctx)
}

/// `getpeername` of an IPv6 socket: as [`getpeername4`].
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    socket::getpeername6(&ctx)
}

/// `bind` of an IPv4 socket: not to a NodePort.
#[cgroup_sock(post_bind4)]
pub fn post_bind4(ctx: SockContext) -> i32 {
    socket::post_bind4(&ctx)
}

/// `bind` of an IPv6 socket: not to a NodePort.
#[cgroup_sock(post_bind6)]
pub fn post_bind6(ctx: SockContext) -> i32 {
    socket::post_bind6(&ctx)
}

/// Removes idle flows. Never attached: the agent runs it by `BPF_PROG_TEST_RUN`.
#[classifier]
pub fn sweep(ctx: TcContext) -> i32 {
    sweep::run(&ctx)
}

/// Makes the verifier refuse a program in which a panic can be reached: it never ends.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends its GPL-only helpers to this licence.
#[allow(unsafe_code)]
// SAFETY: the section and symbol names are the ones every BPF loader expects; nothing else defines them.
#[unsafe(link_section = "license")]
// SAFETY: as above.
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
