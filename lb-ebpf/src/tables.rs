//! `lb_common::net::Tables` over the BPF maps, the kernel's clock and its routing table.
#![allow(unsafe_code)]

use aya_ebpf::{
    Global,
    bindings::{BPF_NOEXIST, bpf_sock_tuple},
    btf_maps::lpm_trie,
    helpers::generated::{bpf_jiffies64, bpf_loop, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
};
use core::ffi::c_void;
use lb_common::{
    abi::{
        Address, Affinity, AffinityKey, Backend, Device, Event, Flow, Frontend, FrontendKey, Node, Protocol,
        RangeKey, Set, SourceClass, State, Tuple,
    },
    maglev,
    net::{self, Created, Tables, range_bits},
};

use crate::{
    fib::{NextHop, look_up, words},
    maps::{self, Maps, Workspace},
    outcome::add,
};

/// Set when the programs are loaded. 1: flows are not written; 2: nothing is. Decisions, rewrites and verdicts are
/// what they would be; the verifier removes what is switched off.
#[unsafe(no_mangle)]
static DRY_RUN: Global<u8> = Global::new(0);

/// Whether flows are written.
#[inline(always)]
fn writes() -> bool {
    DRY_RUN.load() == 0
}

/// Whether packets are counted.
#[inline(always)]
pub(crate) fn counts() -> bool {
    DRY_RUN.load() < 2
}

/// The maps, seen from a program's context.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// The context, for helpers that want one.
    pub(crate) ctx: *mut c_void,
    /// Interface index of the device the program runs on.
    pub(crate) device: u32,
}

const E2BIG: i32 = -7;
const ENOMEM: i32 = -12;
const EBUSY: i32 = -16;
const EEXIST: i32 = -17;

/// `BPF_F_CURRENT_NETNS`: that of the device.
const OWN_NAMESPACE: u64 = u64::MAX;
/// Length of an IPv4 socket's tuple.
const SOCKET4: u32 = 12;
/// Length of an IPv6 socket's tuple.
const SOCKET6: u32 = 36;

/// This CPU's working memory. Programs do not interrupt each other on a CPU, and none uses it twice.
#[inline(always)]
pub(crate) fn workspace<F: Maps>() -> Option<&'static mut Workspace<F::Addr>> {
    // SAFETY: per-CPU memory; XDP and TC programs run with bottom halves off, one at a time on a CPU, and each
    // asks for it once.
    F::workspace().get_ptr_mut(0).map(|p| unsafe { &mut *p })
}

/// Slots for unconfirmed flows, less one.
#[inline(always)]
fn embryo_mask() -> u32 {
    maps::node.get(0).map_or(0, |node| node.embryo_mask)
}

/// The clock of flows. The verifier puts a load in place of the call.
#[inline(always)]
pub(crate) fn tick() -> u32 {
    let shift = maps::node.get(0).map_or(0, |node| node.tick_shift);
    // SAFETY: no arguments.
    (unsafe { bpf_jiffies64() } >> (shift & 63)) as u32
}

/// A flow entry in its map.
pub(crate) struct Entry<A>(*mut Flow<A>);

impl<A> Copy for Entry<A> {}

impl<A> Clone for Entry<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, A: 'a> net::Entry<'a, A> for Entry<A> {
    #[inline(always)]
    fn flow(self) -> &'a Flow<A> {
        // SAFETY: the pointer is valid until the program ends. The fields that change are single words, and any
        // mixture of their values is a valid flow.
        unsafe { &*self.0 }
    }

    #[inline(always)]
    fn note(self, tick: u32, state: State) {
        if writes() {
            // SAFETY: the pointer is valid until the program ends; each field is one word, and the last writer wins.
            unsafe { (*self.0).seen = tick };
            // SAFETY: as above.
            unsafe { (*self.0).state = state as u8 };
        }
    }
}

/// Has the kernel call `attempt` until it is done. The verifier follows its body once, however often it may run.
#[inline(always)]
fn repeat<T: FnMut(u32) -> bool>(tries: u32, attempt: &mut T) {
    let context: *mut T = attempt;
    // SAFETY: the callback has the signature that the helper asks for; the context outlives the call, and nothing
    // else uses it meanwhile.
    unsafe { bpf_loop(tries, step::<T> as *mut c_void, context.cast(), 0) };
}

extern "C" fn step<T: FnMut(u32) -> bool>(number: u64, attempt: *mut T) -> i64 {
    // SAFETY: the context that `repeat` gave the kernel.
    let attempt = unsafe { &mut *attempt };
    attempt(number as u32) as i64
}

impl<F: Maps> Tables<F> for Kernel {
    type Entry<'a> = Entry<F::Addr>;

    #[inline(always)]
    fn address(&self, address: &F::Addr) -> Option<Address> {
        // SAFETY: the value is one word, read once.
        unsafe { F::addresses().get(address) }.copied()
    }

    #[inline(always)]
    fn source(&self, address: &F::Addr) -> SourceClass {
        let key = lpm_trie::Key::new(8 * F::ADDR_LEN as u32, *address);
        match F::sources().get(&key) {
            Some(source) => SourceClass::from_number(source.class),
            None => SourceClass::Outside,
        }
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey<F::Addr>) -> Option<Frontend> {
        // SAFETY: a frontend's value never changes while it is in the map.
        unsafe { F::frontends().get(key) }.copied()
    }

    #[inline(always)]
    fn set(&self, service: u32) -> Option<&Set> {
        F::sets().get(F::services().get(service)?.set()?)
    }

    #[inline(always)]
    fn row(&self, table: u32, rows: u32, hash: u32) -> Option<u16> {
        let (element, row) = maglev::row(hash, rows);
        maps::maglev
            .get(table.wrapping_add(element))?
            .rows
            .get(row)
            .copied()
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<&Backend<F::Addr>> {
        F::backends().get(index)
    }

    #[inline(always)]
    fn is_in_range(&self, key: &RangeKey<F::Addr>) -> bool {
        F::ranges()
            .get(&lpm_trie::Key::new(range_bits::<F>(), *key))
            .is_some()
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey<F::Addr>) -> Option<&Affinity<F::Addr>> {
        // SAFETY: a record may change into another client's while it is read, since this kind of map uses its elements
        // again at once. Whatever is read is checked against the backends in use.
        unsafe { F::affinities().get(key) }
    }

    #[inline(always)]
    fn refresh_affinity(&self, key: &AffinityKey<F::Addr>, tick: u32, timeout: u32) {
        if writes()
            && let Some(record) = F::affinities().get_ptr_mut(key)
        {
            // SAFETY: the pointer is valid until the program ends; each field is one word, and the last writer wins.
            unsafe { (*record).seen = tick };
            // SAFETY: as above.
            unsafe { (*record).timeout = timeout };
        }
    }

    #[inline(always)]
    fn put_affinity(&self, key: &AffinityKey<F::Addr>, affinity: &Affinity<F::Addr>) -> bool {
        !writes() || F::affinities().insert(key, affinity, 0).is_ok()
    }

    #[inline(always)]
    fn entry(&self, key: &Tuple<F::Addr>) -> Option<Entry<F::Addr>> {
        F::flows().get_ptr_mut(key).map(Entry)
    }

    #[inline(always)]
    fn create(&self, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>) -> Created {
        if !writes() {
            // The reverse half is the one whose place may be taken.
            let reverse = flow.flags & Flow::<F::Addr>::REVERSE != 0;
            return if reverse && F::flows().get_ptr(key).is_some() {
                Created::Exists
            } else {
                Created::Yes
            };
        }
        match F::flows().insert(key, flow, BPF_NOEXIST as u64) {
            Ok(()) => Created::Yes,
            Err(EEXIST) => Created::Exists,
            Err(errno) => {
                let event = match errno {
                    E2BIG => Event::CreateFull,
                    ENOMEM => Event::CreateNoMemory,
                    EBUSY => Event::CreateBusy,
                    _ => Event::CreateFailed,
                };
                add(event.index(), 0);
                Created::Full
            }
        }
    }

    #[inline(always)]
    fn remove(&self, key: &Tuple<F::Addr>) {
        if writes() {
            let _ = F::flows().remove(key); // absent: another CPU has done it
        }
    }

    #[inline(always)]
    fn slot(&self, hash: u32, key: &mut Tuple<F::Addr>) {
        if let Some(slot) = F::embryos().get_ptr(hash & embryo_mask()) {
            // SAFETY: the pointer is valid until the program ends. Two CPUs may tear a key here; a torn key names
            // no flow, or one that is checked to be unconfirmed before it is removed.
            net::copy_tuple::<F>(unsafe { &*slot }, key);
        }
    }

    #[inline(always)]
    fn take_slot(&self, hash: u32, key: &Tuple<F::Addr>) {
        if writes()
            && let Some(slot) = F::embryos().get_ptr_mut(hash & embryo_mask())
        {
            // SAFETY: as in `slot`.
            net::copy_tuple::<F>(key, unsafe { &mut *slot });
        }
    }

    #[inline(always)]
    fn count(&self, event: Event) {
        add(event.index(), 0);
    }

    #[inline(always)]
    fn search(&self, tries: u32, mut attempt: impl FnMut(u32) -> bool) {
        repeat(tries, &mut attempt);
    }

    #[inline(always)]
    fn node(&self) -> Option<&Node> {
        maps::node.get(0)
    }

    #[inline(always)]
    fn device(&self, index: u32) -> Option<&Device> {
        // SAFETY: written as a whole by the agent; a reader sees an old or a new device.
        unsafe { maps::devices.get(index) }
    }

    #[inline(always)]
    fn route(&self, tuple: &Tuple<F::Addr>) -> Option<u32> {
        let mut hop = NextHop::default();
        look_up::<F>(self.ctx, self.device, tuple, 0, &mut hop);
        (hop.device != 0).then_some(hop.device)
    }

    #[inline(always)]
    fn is_connected(&self, tuple: &Tuple<F::Addr>) -> bool {
        let tcp = tuple.protocol == Protocol::Tcp as u8;
        if !tcp && tuple.protocol != Protocol::Udp as u8 {
            return false; // the kernel has no helper for it
        }
        socket::<F>(self.ctx, tcp, tuple) == CONNECTED
    }

    #[inline(always)]
    fn tick(&self) -> u32 {
        tick()
    }
}

/// There is a socket, which is not connected.
const WAITING: u32 = 1;
/// There is a socket that is connected.
const CONNECTED: u32 = 2;

/// Whether the caller's own namespace has a socket that a TCP connection to `at` would come to, if `at` is there.
#[inline(always)]
pub(crate) fn listens<F: Maps>(ctx: *mut c_void, at: &Backend<F::Addr>) -> bool {
    let to = Tuple {
        source: F::Addr::default(),
        destination: at.address,
        source_port: 0,
        destination_port: at.port,
        protocol: Protocol::Tcp as u8,
        phase: 0,
        reserved: 0,
    };
    socket::<F>(ctx, true, &to) == WAITING
}

/// The socket of the packet's own namespace that the packet belongs to: none (0), or whether it is connected. A subprogram
/// of its own: the parameters would not fit into the caller's stack frame.
#[inline(never)]
fn socket<F: Maps>(ctx: *mut c_void, tcp: bool, of: &Tuple<F::Addr>) -> u32 {
    // SAFETY: plain old data, for which all zero is valid.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let (source, destination) = (words::<F>(of.source), words::<F>(of.destination));
    let (sport, dport) = (of.source_port.to_be(), of.destination_port.to_be());
    if F::ADDR_LEN == 4 {
        tuple.__bindgen_anon_1.ipv4.saddr = source[0];
        tuple.__bindgen_anon_1.ipv4.daddr = destination[0];
        tuple.__bindgen_anon_1.ipv4.sport = sport;
        tuple.__bindgen_anon_1.ipv4.dport = dport;
        found(ctx, tcp, &mut tuple, SOCKET4)
    } else {
        tuple.__bindgen_anon_1.ipv6.saddr = source;
        tuple.__bindgen_anon_1.ipv6.daddr = destination;
        tuple.__bindgen_anon_1.ipv6.sport = sport;
        tuple.__bindgen_anon_1.ipv6.dport = dport;
        found(ctx, tcp, &mut tuple, SOCKET6)
    }
}

#[inline(always)]
fn found(ctx: *mut c_void, tcp: bool, tuple: &mut bpf_sock_tuple, length: u32) -> u32 {
    let socket = if tcp {
        // SAFETY: the context is the program's own; the tuple is at least as long as said.
        unsafe { bpf_sk_lookup_tcp(ctx, tuple, length, OWN_NAMESPACE, 0) }
    } else {
        // SAFETY: as above.
        unsafe { bpf_sk_lookup_udp(ctx, tuple, length, OWN_NAMESPACE, 0) }
    };
    if socket.is_null() {
        return 0;
    }
    // A socket that listens, or is not connected, has no peer.
    // SAFETY: the socket is not null and still held; the verifier checks the field.
    let port = unsafe { (*socket).dst_port };
    // SAFETY: it is held, and released once.
    unsafe { bpf_sk_release(socket.cast()) };
    if port == 0 { WAITING } else { CONNECTED }
}
