//! The contract between the programs in the kernel and everything that reads or writes their maps.
//!
//! A change to any type below changes [`LAYOUT_VERSION`] in the same commit. Of maps of another layout the agent reads the
//! entries field by field, by the names in their type information: a field of the same name means the same in every
//! version, in the same unit.

mod addr;
mod affinity;
mod backend;
mod counter;
mod flow;
mod fragment;
mod frontend;
mod handover;
mod node;
mod peer;
mod pod;
mod range;
mod set;
mod trace;
mod traffic;

pub use addr::{Addr4, Addr6, Family, Protocol, V4, V6};
pub use affinity::{Affinity, AffinityKey};
pub use backend::Backend;
pub use counter::{COUNTERS, Counter, Event, Hook, Kind, Outcome};
pub use flow::{Action, Flow, Phase, State, Tuple};
pub use fragment::{Fragment, FragmentKey, Held, Waiting};
pub use frontend::{Address, Frontend, FrontendKey, FrontendKind};
pub use handover::Stage;
pub use node::{Device, DeviceKind, Node, Source, SourceClass, XDP_OUT};
pub use peer::Peer;
pub use range::{Range, RangeKey};
pub use set::{ROWS_PER_ELEMENT, Rows, Service, Set};
pub use trace::{End, Entered, Record, Step, Trace, Traced, VALUE, Way};
pub use traffic::{Leg, TrafficKey};

/// Version of the map layout. Part of the pin directory's name.
#[cfg(not(feature = "other-layout"))]
pub const LAYOUT_VERSION: u32 = 10;
/// Version of a layout for tests of upgrades: one that no agent that is used will come to.
#[cfg(feature = "other-layout")]
pub const LAYOUT_VERSION: u32 = 1010;

/// Map names, at most 15 characters (the kernel's limit). A map that exists once per family has a name
/// for each: `[IPv4, IPv6]`.
pub mod names {
    /// Node-wide settings: one [`super::Node`].
    pub const NODE: &str = "node";
    /// Interface index to [`super::Device`].
    pub const DEVICES: &str = "devices";
    /// Destination address to [`super::Address`].
    pub const ADDRESSES: [&str; 2] = ["addresses4", "addresses6"];
    /// Longest prefix of a source address to [`super::Source`].
    pub const SOURCES: [&str; 2] = ["sources4", "sources6"];
    /// [`super::FrontendKey`] to [`super::Frontend`].
    pub const FRONTENDS: [&str; 2] = ["frontends4", "frontends6"];
    /// Service index to [`super::Service`].
    pub const SERVICES: [&str; 2] = ["services4", "services6"];
    /// Set index to [`super::Set`].
    pub const SETS: [&str; 2] = ["sets4", "sets6"];
    /// Backend index to [`super::Backend`].
    pub const BACKENDS: [&str; 2] = ["backends4", "backends6"];
    /// Element index to [`super::Rows`], shared by both families.
    pub const MAGLEV: &str = "maglev";
    /// Longest prefix of [`super::RangeKey`] to [`super::Range`].
    pub const RANGES: [&str; 2] = ["ranges4", "ranges6"];
    /// [`super::AffinityKey`] to [`super::Affinity`].
    pub const AFFINITY: [&str; 2] = ["affinity4", "affinity6"];
    /// [`super::Tuple`] to [`super::Flow`].
    pub const FLOWS: [&str; 2] = ["flows4", "flows6"];
    /// Slot to the [`super::Tuple`] of a flow that nobody has answered yet.
    pub const EMBRYOS: [&str; 2] = ["embryos4", "embryos6"];
    /// [`super::FragmentKey`] to [`super::Fragment`]; the oldest make way.
    pub const FRAGMENTS: [&str; 2] = ["fragments4", "fragments6"];
    /// The identification that the last datagram in fragments was given: one `u32`.
    pub const FRAGMENT_ID: &str = "fragment_id";
    /// Slot to a [`super::Held`] fragment, which came before the first one of its datagram.
    pub const HELD: &str = "held";
    /// Whose fragments these are: one [`super::Waiting`].
    pub const WAITING: &str = "waiting";
    /// Socket to [`super::Peer`], for those that a `connect` was translated for.
    pub const PEERS: &str = "peers";
    /// Hook and outcome, or event, to [`super::Counter`], per CPU.
    pub const COUNTERS: &str = "counters";
    /// [`super::TrafficKey`] to [`super::Counter`], per CPU; what was not counted for longest makes way. With one place: Services
    /// are not counted.
    pub const TRAFFIC: [&str; 2] = ["traffic4", "traffic6"];
    /// Whether somebody watches: one [`super::Trace`]. A section of the object rather than a map that programs ask: a load
    /// instead of a look-up, for every packet. It is pinned as `trace`: a BPF file system takes no dots.
    pub const TRACE: &str = ".data.trace";
    /// The [`super::End`]s of what is watched.
    pub const TRACE_ENDS: &str = "trace_ends";
    /// The ring of [`super::Record`]s.
    pub const TRACE_RING: &str = "trace_ring";
    /// [`super::Traced`] to the instance at TC that notes every step.
    pub const TRACE_TC: &str = "trace_tc";
    /// As above, at XDP.
    pub const TRACE_XDP: &str = "trace_xdp";
    /// As above, at the sockets: `[connect4, connect6]`.
    pub const TRACE_CONNECT: [&str; 2] = ["trace_connect4", "trace_connect6"];
    /// How far a change of generations has come: one [`super::Stage`]. Of the instance that looks; no pin.
    pub const HANDOVER: &str = ".data.handover";
    /// [`super::Traced`] to the program at TC of the generation before, while flows are copied from its tables.
    pub const HANDOVER_TC: &str = "handover_tc";
    /// As above, at XDP.
    pub const HANDOVER_XDP: &str = "handover_xdp";
}

/// Default capacities (elements). The agent can make maps larger or smaller when it loads them.
pub mod capacity {
    /// Interfaces with one of our programs.
    pub const DEVICES: u32 = 4096;
    /// Service and node addresses, per family.
    pub const ADDRESSES: u32 = 131_072;
    /// Source prefixes, per family.
    pub const SOURCES: u32 = 16_384;
    /// Frontends, per family.
    pub const FRONTENDS: u32 = 131_072;
    /// Service ports, per family.
    pub const SERVICES: u32 = 65_536;
    /// Sets, per family: every service port has one, and a second one while it changes.
    pub const SETS: u32 = 131_072;
    /// Backends of all sets, per family.
    pub const BACKENDS: u32 = 524_288;
    /// Maglev elements of [`super::ROWS_PER_ELEMENT`] rows each.
    pub const MAGLEV: u32 = 262_144;
    /// Source ranges of all services, per family.
    pub const RANGES: u32 = 131_072;
    /// Clients with a backend of their own, per family; the one that was away for longest makes room.
    pub const AFFINITY: u32 = 65_536;
    /// Flow entries, per family; a flow has two.
    pub const FLOWS: u32 = 262_144;
    /// Slots for flows that nobody has answered yet, per family; a power of two. Each stands for at most two
    /// entries of the flow table, so unanswered flows can never fill more than half of it.
    pub const EMBRYOS: u32 = 65_536;
    /// Datagrams in fragments that are remembered, per family.
    pub const FRAGMENTS: u32 = 8192;
    /// Fragments that wait for the first one of their datagram, of both families: a power of two. (The programs' own
    /// number: the agent cannot change it.) A datagram of 64 KiB has 45.
    pub const HELD: u32 = 256;
    /// Counters of Services, per family, while they are counted: one for each address, outcome, backend and direction.
    pub const TRAFFIC: u32 = 65_536;
    /// Ends that can be watched at a time.
    pub const TRACE_ENDS: u32 = 16_384;
    /// Bytes of the ring that records wait in: some 7,700.
    pub const TRACE_RING: u32 = 1024 * 1024;
}
