//! Floors: the least that a program of a kind must do.
#![allow(unsafe_code)]

use aya_ebpf::{
    bindings::{BPF_NOEXIST, bpf_fib_lookup as FibParams},
    helpers::generated::bpf_fib_lookup,
};
use lb_common::{
    abi::{Flow, FrontendKey, Protocol, Tuple},
    maglev,
    net::{ETHERNET, Net, Sum, apply},
};

use crate::{
    maps::{self, Maps},
    raw::{Head, Raw},
};

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Floor {
    /// Headers are read.
    Parse,
    /// And the destination is looked for among our addresses.
    Address,
    /// And the flow is looked for.
    Reply,
    /// An established flow: frontend, flow, translation.
    Flow,
    /// And the next hop.
    FlowFib,
    /// A first packet: frontend, no flow, a table's row, a backend, so many entries, translation.
    First(u32),
}

const TCP_CHECKSUM: usize = 16;
const TCP: usize = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Runs a floor; `false` if it did not get to its end.
#[inline(always)]
pub(crate) fn run<F: Maps>(packet: Raw, floor: Floor) -> bool {
    let Some(head) = packet.head(ETHERNET + F::HEADER + TCP) else {
        return false;
    };
    let Some(tuple) = parse::<F>(head) else {
        return false;
    };
    match floor {
        Floor::Parse => true,
        // SAFETY: the value is not even read.
        Floor::Address => unsafe { F::addresses().get(tuple.destination) }.is_none(),
        // SAFETY: as above.
        Floor::Reply => unsafe { F::flows().get(tuple) }.is_none(),
        Floor::Flow | Floor::FlowFib => follow::<F>(packet, head, &tuple, floor == Floor::FlowFib),
        Floor::First(entries) => first::<F>(head, &tuple, entries),
    }
}

#[inline(always)]
fn parse<F: Net>(head: Head) -> Option<Tuple<F::Addr>> {
    let protocol = if F::ADDR_LEN == 4 {
        if head.load::<u16>(12) != 0x0800_u16.to_be()
            || head.load::<u8>(ETHERNET) != 0x45
            || head.load::<u16>(ETHERNET + 6) & 0x1fff_u16.to_be() != 0
        {
            return None;
        }
        head.load::<u8>(ETHERNET + 9)
    } else {
        if head.load::<u16>(12) != 0x86dd_u16.to_be() || head.load::<u8>(ETHERNET) >> 4 != 6 {
            return None;
        }
        head.load::<u8>(ETHERNET + 6)
    };
    if protocol != Protocol::Tcp as u8 {
        return None;
    }
    Some(Tuple {
        source: head.load(F::ADDRESSES),
        destination: head.load(F::ADDRESSES + F::ADDR_LEN),
        source_port: u16::from_be(head.load(ETHERNET + F::HEADER)),
        destination_port: u16::from_be(head.load(ETHERNET + F::HEADER + 2)),
        protocol,
        phase: 0,
        reserved: 0,
    })
}

#[inline(always)]
fn has_frontend<F: Maps>(tuple: &Tuple<F::Addr>) -> bool {
    let key = FrontendKey {
        address: tuple.destination,
        port: tuple.destination_port,
        protocol: tuple.protocol,
        reserved: 0,
    };
    // SAFETY: the value is not even read.
    unsafe { F::frontends().get(key) }.is_some()
}

#[inline(always)]
fn follow<F: Maps>(packet: Raw, head: Head, tuple: &Tuple<F::Addr>, fib: bool) -> bool {
    if !has_frontend::<F>(tuple) {
        return false;
    }
    // SAFETY: nobody changes it meanwhile.
    let Some(flow) = (unsafe { F::flows().get(tuple) }) else {
        return false;
    };
    let (address, port) = (flow.to.destination, flow.to.destination_port);
    if fib && !next_hop::<F>(packet, head, tuple.source, address) {
        return false;
    }
    translate::<F>(head, tuple, address, port);
    if !fib {
        head.store(0, [0x0002_u16, 0, 0, 0x0002, 0, 0]);
    }
    true
}

#[inline(always)]
fn first<F: Maps>(head: Head, tuple: &Tuple<F::Addr>, entries: u32) -> bool {
    if !has_frontend::<F>(tuple) {
        return false;
    }
    // SAFETY: the value is not even read.
    if unsafe { F::flows().get(tuple) }.is_some() {
        return false;
    }
    let mut hash = (tuple.source_port as u32) << 16 | tuple.destination_port as u32;
    for word in F::words(tuple.source) {
        hash = (hash ^ word).wrapping_mul(0x9e37_79b1);
    }
    let (element, row) = maglev::row(hash, 16 * 64);
    let Some(position) = maps::rows.get(element).and_then(|rows| rows.rows.get(row)) else {
        return false;
    };
    let Some(backend) = F::backends().get(*position as u32) else {
        return false;
    };
    let mut flow = Flow {
        to: *tuple,
        ..Flow::default()
    };
    flow.to.destination = backend.address;
    flow.to.destination_port = backend.port;
    if entries > 0 && F::flows().insert(tuple, flow, BPF_NOEXIST as u64).is_err() {
        return false;
    }
    if entries > 1 {
        let key = flow.to.reverse();
        flow.to = tuple.reverse();
        if F::flows().insert(key, flow, BPF_NOEXIST as u64).is_err() {
            return false;
        }
    }
    translate::<F>(head, tuple, backend.address, backend.port);
    true
}

/// Another destination, and the checksums that follow from it.
#[inline(always)]
fn translate<F: Net>(head: Head, tuple: &Tuple<F::Addr>, address: F::Addr, port: u16) {
    let mut sum = Sum::default();
    for word in F::words(tuple.destination) {
        sum = sum.minus(word);
    }
    for word in F::words(address) {
        sum = sum.plus(word);
    }
    if let Some(field) = F::CHECKSUM {
        head.store(field, apply(head.load(field), sum.difference()));
    }
    let transport = ETHERNET + F::HEADER;
    sum = sum
        .minus(tuple.destination_port.to_be() as u32)
        .plus(port.to_be() as u32);
    let field = transport + TCP_CHECKSUM;
    head.store(field, apply(head.load(field), sum.difference()));
    head.store(F::ADDRESSES + F::ADDR_LEN, address);
    head.store(transport + 2, port.to_be());
}

/// Asks the kernel's routes, and writes both link addresses.
#[inline(always)]
fn next_hop<F: Net>(packet: Raw, head: Head, source: F::Addr, destination: F::Addr) -> bool {
    // SAFETY: plain old data, for which all zero is valid.
    let mut fib: FibParams = unsafe { core::mem::zeroed() };
    fib.ifindex = packet.device;
    if F::ADDR_LEN == 4 {
        fib.family = AF_INET;
        for word in F::words(source) {
            fib.__bindgen_anon_3.ipv4_src = word;
        }
        for word in F::words(destination) {
            fib.__bindgen_anon_4.ipv4_dst = word;
        }
    } else {
        fib.family = AF_INET6;
        fib.__bindgen_anon_3.ipv6_src = four::<F>(source);
        fib.__bindgen_anon_4.ipv6_dst = four::<F>(destination);
    }
    // SAFETY: the context is the program's own; the parameters are as long as said.
    let result = unsafe { bpf_fib_lookup(packet.ctx, &mut fib, size_of::<FibParams>() as i32, 0) };
    if result != 0 {
        return false;
    }
    head.store(0, fib.dmac);
    head.store(6, fib.smac);
    true
}

#[inline(always)]
fn four<F: Net>(address: F::Addr) -> [u32; 4] {
    let mut words = [0; 4];
    for (slot, word) in words.iter_mut().zip(F::words(address)) {
        *slot = word;
    }
    words
}
