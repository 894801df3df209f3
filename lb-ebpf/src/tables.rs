//! `lb_common::net::Tables` over the BPF maps, the kernel's clock and its routing table.
#![allow(unsafe_code)]

use aya_ebpf::{Global, bindings::BPF_NOEXIST, btf_maps::lpm_trie, helpers::generated::bpf_jiffies64};
use core::ffi::c_void;
use lb_common::{
    abi::{
        Address, Backend, Device, Event, Flow, Frontend, FrontendKey, Node, Set, SourceClass, State, Tuple,
    },
    maglev,
    net::{self, Created, Tables},
};

use crate::{
    fib::{NextHop, look_up},
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
    fn entry(&self, key: &Tuple<F::Addr>) -> Option<Entry<F::Addr>> {
        F::flows().get_ptr_mut(key).map(Entry)
    }

    #[inline(always)]
    fn create(&self, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>) -> Created {
        if !writes() {
            return Created::Yes;
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
            *key = unsafe { *slot };
        }
    }

    #[inline(always)]
    fn take_slot(&self, hash: u32, key: &Tuple<F::Addr>) {
        if writes()
            && let Some(slot) = F::embryos().get_ptr_mut(hash & embryo_mask())
        {
            // SAFETY: as in `slot`.
            unsafe { *slot = *key };
        }
    }

    #[inline(always)]
    fn count(&self, event: Event) {
        add(event.index(), 0);
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
    fn tick(&self) -> u32 {
        tick()
    }
}
