//! What the data path asks of its maps: implemented over BPF maps in the kernel and over plain collections
//! in tests.

use crate::abi::{
    Address, Affinity, AffinityKey, Backend, Device, Event, Flow, Frontend, FrontendKey, Node, RangeKey, Set,
    SourceClass, State, Tuple,
};

use super::Net;

/// What became of an attempt to insert a flow entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Created {
    /// It is in the table now.
    Yes,
    /// Another entry has this key.
    Exists,
    /// There is no room, or the table could not be written.
    Full,
}

/// An entry of the flow table, where it lies.
pub trait Entry<'a, A: 'a>: Copy {
    /// What is in it now.
    fn flow(self) -> &'a Flow<A>;
    /// Notes a packet in it.
    fn note(self, tick: u32, state: State);
}

/// The maps of one address family, the clock, and the routing table.
pub trait Tables<F: Net> {
    /// An entry of the flow table.
    type Entry<'a>: Entry<'a, F::Addr>
    where
        Self: 'a;

    /// What a destination address is to this node.
    fn address(&self, address: &F::Addr) -> Option<Address>;
    /// Who a source address belongs to.
    fn source(&self, address: &F::Addr) -> SourceClass;
    /// The frontend with exactly this key.
    fn frontend(&self, key: &FrontendKey<F::Addr>) -> Option<Frontend>;
    /// The current set of a service.
    fn set(&self, service: u32) -> Option<&Set>;
    /// The row that `hash` falls on, in the table of `rows` rows that begins at element `table`.
    fn row(&self, table: u32, rows: u32, hash: u32) -> Option<u16>;
    /// A backend by its index.
    fn backend(&self, index: u32) -> Option<&Backend<F::Addr>>;

    /// Whether a range in the table of `key` has its address.
    fn is_in_range(&self, key: &RangeKey<F::Addr>) -> bool;
    /// The backend that a client had last.
    fn affinity(&self, key: &AffinityKey<F::Addr>) -> Option<&Affinity<F::Addr>>;
    /// Notes a client's new flow in its record, if that is still there.
    fn refresh_affinity(&self, key: &AffinityKey<F::Addr>, tick: u32, timeout: u32);
    /// Notes a client's backend; `false`: the table could not be written.
    fn put_affinity(&self, key: &AffinityKey<F::Addr>, affinity: &Affinity<F::Addr>) -> bool;

    /// The flow entry with this key, to be written to.
    fn entry(&self, key: &Tuple<F::Addr>) -> Option<Self::Entry<'_>>;
    /// The flow entry with this key.
    #[inline(always)]
    fn flow(&self, key: &Tuple<F::Addr>) -> Option<&Flow<F::Addr>> {
        self.entry(key).map(Entry::flow)
    }
    /// Inserts a flow entry, if its key is free.
    fn create(&self, key: &Tuple<F::Addr>, flow: &Flow<F::Addr>) -> Created;
    /// Removes a flow entry if it is there.
    fn remove(&self, key: &Tuple<F::Addr>);
    /// Who is in the slot that `hash` falls on, into `key`: all zero if nobody ever was.
    fn slot(&self, hash: u32, key: &mut Tuple<F::Addr>);
    /// Puts a new flow into the slot that `hash` falls on.
    fn take_slot(&self, hash: u32, key: &Tuple<F::Addr>);
    /// Counts something that happened to the flow table.
    fn count(&self, event: Event);

    /// Calls `attempt` with 0, 1, 2 ... until it says that it is done, but no more than `tries` times.
    fn search(&self, tries: u32, attempt: impl FnMut(u32) -> bool);

    /// Node-wide settings.
    fn node(&self) -> Option<&Node>;
    /// A device by its interface index.
    fn device(&self, index: u32) -> Option<&Device>;
    /// Interface index of the device by which packets from `from` to `to` leave, from the kernel's routes.
    fn route(&self, tuple: &Tuple<F::Addr>) -> Option<u32>;
    /// Whether a process of this node is connected to the packet's sender by the packet's ports.
    fn is_connected(&self, tuple: &Tuple<F::Addr>) -> bool;
    /// The clock: ticks of about a second.
    fn tick(&self) -> u32;
}
