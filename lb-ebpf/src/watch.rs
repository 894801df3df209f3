//! Whether somebody watches (`lb-agent trace`), and whether a packet is one of those that are watched.
//!
//! While somebody does, programs hand packets over to their other instance at once (see [`crate::trace`]), and that looks
//! whether it is to note anything of this one.
#![allow(unsafe_code)]

use aya_ebpf::{
    helpers::generated::bpf_get_current_pid_tgid,
    programs::{SockAddrContext, TcContext, XdpContext},
};
use lb_common::{
    abi::{End, Entered, FrontendKey, Hook, Trace, Traced, Tuple, V4, V6},
    net::{Cursor, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6},
};

use crate::{
    fib::words,
    maps::{self, Maps},
    packet::{Packet, Tc, Xdp},
    tables::tick,
    trace::{Of, enter, is_traced, is_watchable, stop},
};

/// Who watches; written by whoever does.
// SAFETY: no other symbol has this name, and nothing else is in this section.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.trace")]
static mut TRACE: Trace = Trace { until: 0, flags: 0 };

/// One of its two words.
#[inline(always)]
fn word(number: usize) -> u32 {
    let word = (&raw const TRACE).cast::<u32>().wrapping_add(number);
    // SAFETY: within the value, and aligned; always valid, and the compiler must not think that it knows it.
    unsafe { word.read_volatile() }
}

/// [`Trace::flags`]
#[inline(always)]
fn flags() -> u32 {
    word(1)
}

/// Whether somebody watches.
#[inline(always)]
fn is_watched() -> bool {
    if !is_watchable() {
        return false;
    }
    let until = word(0);
    until != 0 && until.wrapping_sub(tick()) as i32 > 0
}

/// The beginning of a program at TC: its other instance takes over here, if somebody watches.
#[inline(always)]
pub(crate) fn tc(ctx: &TcContext, program: Traced) {
    if is_traced() {
        stop(Of::Packet);
        let packet = Tc::new(ctx);
        let hook = program.hook() as u32;
        match packet.load::<u16>(12).map(u16::from_be) {
            Some(ETHERTYPE_IPV4) => packet.begin::<V4>(hook),
            Some(ETHERTYPE_IPV6) => packet.begin::<V6>(hook),
            _ => 0,
        };
    } else if is_watched() {
        // SAFETY: nothing here needs to be dropped; if the place is empty, this instance goes on.
        unsafe { maps::trace_tc.tail_call(ctx, program as u32) };
    }
}

/// As [`tc`], at XDP.
#[inline(always)]
pub(crate) fn xdp(ctx: &XdpContext) {
    if is_traced() {
        stop(Of::Packet);
        let packet = Xdp::new(ctx);
        match packet.load::<u16>(12).map(u16::from_be) {
            Some(ETHERTYPE_IPV4) => packet.begin::<V4>(),
            Some(ETHERTYPE_IPV6) => packet.begin::<V6>(),
            _ => 0,
        };
    } else if is_watched() {
        // SAFETY: as at TC.
        unsafe { maps::trace_xdp.tail_call(ctx, 0) };
    }
}

/// As [`tc`], at `connect`.
#[inline(always)]
pub(crate) fn connect(ctx: &SockAddrContext, other: &maps::TracedOne) {
    if is_traced() {
        stop(Of::Socket);
    } else if is_watched() {
        // SAFETY: as at TC.
        unsafe { other.tail_call(ctx, 0) };
    }
}

/// A packet has come: 1 if it is one that is watched. `segment`: see [`Entered::segment`].
#[inline(always)]
fn begin<F: Maps, P: Packet>(packet: &P, device: u32, hook: Hook, segment: u32) -> u32 {
    // One after the other: of two at a time the compiler asks the second even if there is no first.
    let header = ETHERNET + F::HEADER;
    let Some(ports) = packet.load::<[u8; 4]>(header) else {
        return 0;
    };
    let Some(protocol) = packet.load::<u8>(F::PROTOCOL) else {
        return 0;
    };
    let Some(source) = F::address(packet, F::ADDRESSES) else {
        return 0;
    };
    let Some(destination) = F::destination(packet) else {
        return 0;
    };
    // Without options, and not a later fragment.
    let is_plain = F::ADDR_LEN != 4
        || packet.load::<u8>(ETHERNET) == Some(0x45)
            && packet.load::<u16>(ETHERNET + 6).map_or(0, u16::from_be) & 0x1fff == 0;
    let has_ports = is_plain && matches!(protocol, 6 | 17 | 132);
    let [a, b, c, d] = if has_ports { ports } else { [0; 4] };
    let tuple = Tuple {
        source,
        destination,
        source_port: u16::from_be_bytes([a, b]),
        destination_port: u16::from_be_bytes([c, d]),
        protocol,
        phase: 0,
        reserved: 0,
    };
    if !is_between::<F>(&tuple, has_ports) {
        return 0;
    }
    let entered = Entered {
        length: packet.length(),
        segment,
        tcp_flags: packet.load::<u8>(header + 13).unwrap_or(0) as u32,
    };
    enter::<F>(Of::Packet, device, hook, &tuple, &entered, has_ports);
    1
}

/// Whether packets with these ends are watched, in either direction.
#[inline(always)]
fn is_between<F: Maps>(tuple: &Tuple<F::Addr>, has_ports: bool) -> bool {
    let mut source = end_of::<F>(tuple.source, tuple.source_port, tuple.protocol, has_ports);
    let mut destination = end_of::<F>(
        tuple.destination,
        tuple.destination_port,
        tuple.protocol,
        has_ports,
    );
    let onward = is_end(Trace::FROM, End::FROM, &mut source) && is_end(Trace::TO, End::TO, &mut destination);
    onward || is_end(Trace::FROM, End::FROM, &mut destination) && is_end(Trace::TO, End::TO, &mut source)
}

/// A process connects.
#[inline(always)]
pub(crate) fn connects<F: Maps>(asked: &FrontendKey<F::Addr>) {
    if !is_traced() {
        return;
    }
    let mut to = end_of::<F>(asked.address, asked.port, asked.protocol, true);
    // (Nobody knows its source yet.)
    if !is_end(Trace::TO, End::TO, &mut to) || flags() == Trace::FROM {
        return;
    }
    let tuple = Tuple {
        source: F::Addr::default(),
        destination: asked.address,
        source_port: 0,
        destination_port: asked.port,
        protocol: asked.protocol,
        phase: 0,
        reserved: 0,
    };
    // SAFETY: no arguments.
    let process = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    let entered = Entered {
        length: process,
        segment: 0,
        tcp_flags: 0,
    };
    enter::<F>(Of::Socket, 0, Hook::Connect, &tuple, &entered, true);
}

/// The body of [`Tc::begin`].
#[inline(always)]
pub(crate) fn begin_tc<F: Maps>(packet: &Tc, hook: u32) -> u32 {
    // SAFETY: reads a field of the program's own context.
    let segment = unsafe { (*packet.skb).gso_size };
    let hook = Hook::from_number(hook).unwrap_or(Hook::UplinkIn);
    begin::<F, Tc>(packet, packet.device(), hook, segment)
}

/// The body of [`Xdp::begin`].
#[inline(always)]
pub(crate) fn begin_xdp<F: Maps>(packet: &Xdp) -> u32 {
    begin::<F, Xdp>(packet, packet.device(), Hook::UplinkXdp, 0)
}

#[inline(always)]
fn end_of<F: Maps>(address: F::Addr, port: u16, protocol: u8, has_ports: bool) -> End {
    let words = words::<F>(address);
    let address = if F::ADDR_LEN == 4 {
        [0, 0, 0xffff_u32.to_be(), words[0]]
    } else {
        words
    };
    End {
        address: bytemuck::cast(address),
        port,
        protocol: if has_ports { protocol } else { End::NO_PORTS },
        side: End::FROM,
    }
}

/// Whether it is an end that is watched, if there is anything said of this side.
#[inline(always)]
fn is_end(flag: u32, side: u8, end: &mut End) -> bool {
    if flags() & flag == 0 {
        return true;
    }
    end.side = side;
    // SAFETY: nothing is read of the value.
    if unsafe { maps::trace_ends.get(*end) }.is_some() {
        return true;
    }
    if end.protocol == End::NO_PORTS {
        return false;
    }
    let (port, protocol) = (end.port, end.protocol);
    end.port = 0;
    end.protocol = 0;
    // SAFETY: as above.
    let found = unsafe { maps::trace_ends.get(*end) }.is_some();
    end.port = port;
    end.protocol = protocol;
    found
}
