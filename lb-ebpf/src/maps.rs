//! Every map, by the name that bpftool shows. Keys and values are `lb_common::abi`'s.
#![allow(non_upper_case_globals)] // names as operators see them

use aya_ebpf::{
    btf_maps::{
        Array, HashMap, LpmTrie, LruHashMap, LruPerCpuHashMap, PerCpuArray, ProgramArray, RingBuf, SkStorage,
    },
    macros::btf_map,
};
use lb_common::{
    abi::{
        Addr4, Addr6, Address, Affinity, AffinityKey, Backend, COUNTERS, Counter, Device, End, Flow,
        Fragment, FragmentKey, Frontend, FrontendKey, Held, Node, Peer, Range, RangeKey, Rows, Service, Set,
        Source, Traced, TrafficKey, Tuple, V4, V6, Waiting, capacity,
    },
    net::{Look, Quote, Refusal, Scratch, TooBig},
};

use crate::{
    hops::{HOPS, Hop},
    mtu::Whole,
    trace::Tracing,
};

/// `BPF_F_MMAPABLE`: the agent writes tables through memory.
const MMAPABLE: usize = 1 << 10;

type Flows<A> = HashMap<Tuple<A>, Flow<A>, { capacity::FLOWS as usize }>;
type Embryos<A> = Array<Tuple<A>, { capacity::EMBRYOS as usize }>;
type Fragments<A> = LruHashMap<FragmentKey<A>, Fragment, { capacity::FRAGMENTS as usize }>;
type Addresses<A> = HashMap<A, Address, { capacity::ADDRESSES as usize }>;
type Sources<A> = LpmTrie<A, Source, { capacity::SOURCES as usize }>;
type Frontends<A> = HashMap<FrontendKey<A>, Frontend, { capacity::FRONTENDS as usize }>;
type Ranges<A> = LpmTrie<RangeKey<A>, Range, { capacity::RANGES as usize }>;
type Affinities<A> = LruHashMap<AffinityKey<A>, Affinity<A>, { capacity::AFFINITY as usize }>;
type Traffic<A> = LruPerCpuHashMap<TrafficKey<A>, Counter, { capacity::TRAFFIC as usize }>;
/// The other instance of one program.
pub(crate) type TracedOne = ProgramArray<1>;
type Services = Array<Service, { capacity::SERVICES as usize }>;
type Sets = Array<Set, { capacity::SETS as usize }>;
type Backends<A> = Array<Backend<A>, { capacity::BACKENDS as usize }>;

/// Working memory of one CPU: larger than the kernel's stack allows.
#[repr(C)]
pub(crate) struct Workspace<A> {
    /// A flow that is being opened.
    pub(crate) flow: Scratch<A>,
    /// A refusal that is being written.
    pub(crate) refusal: Refusal,
    /// What it quotes.
    pub(crate) quote: Quote,
    /// The MTU that a packet does not fit, see [`crate::mtu`].
    pub(crate) mtu: u32,
    /// A packet that is not plain.
    pub(crate) look: Look<A>,
    /// Whose it is, see [`crate::traffic`].
    pub(crate) traffic: TrafficKey<A>,
}

#[btf_map]
pub(crate) static node: Array<Node, 1> = Array::new();
#[btf_map]
pub(crate) static devices: HashMap<u32, Device, { capacity::DEVICES as usize }> = HashMap::new();
#[btf_map]
pub(crate) static maglev: Array<Rows, { capacity::MAGLEV as usize }, MMAPABLE> = Array::new();
#[btf_map]
pub(crate) static counters: PerCpuArray<Counter, { COUNTERS as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static addresses4: Addresses<Addr4> = HashMap::new();
#[btf_map]
pub(crate) static addresses6: Addresses<Addr6> = HashMap::new();
#[btf_map]
pub(crate) static sources4: Sources<Addr4> = LpmTrie::new();
#[btf_map]
pub(crate) static sources6: Sources<Addr6> = LpmTrie::new();
#[btf_map]
pub(crate) static frontends4: Frontends<Addr4> = HashMap::new();
#[btf_map]
pub(crate) static frontends6: Frontends<Addr6> = HashMap::new();
#[btf_map]
pub(crate) static services4: Services = Array::new();
#[btf_map]
pub(crate) static services6: Services = Array::new();
#[btf_map]
pub(crate) static sets4: Sets = Array::new();
#[btf_map]
pub(crate) static sets6: Sets = Array::new();
#[btf_map]
pub(crate) static backends4: Backends<Addr4> = Array::new();
#[btf_map]
pub(crate) static backends6: Backends<Addr6> = Array::new();
#[btf_map]
pub(crate) static ranges4: Ranges<Addr4> = LpmTrie::new();
#[btf_map]
pub(crate) static ranges6: Ranges<Addr6> = LpmTrie::new();
#[btf_map]
pub(crate) static affinity4: Affinities<Addr4> = LruHashMap::new();
#[btf_map]
pub(crate) static affinity6: Affinities<Addr6> = LruHashMap::new();
#[btf_map]
pub(crate) static flows4: Flows<Addr4> = HashMap::new();
#[btf_map]
pub(crate) static flows6: Flows<Addr6> = HashMap::new();
#[btf_map]
pub(crate) static embryos4: Embryos<Addr4> = Array::new();
#[btf_map]
pub(crate) static embryos6: Embryos<Addr6> = Array::new();
#[btf_map]
pub(crate) static fragments4: Fragments<Addr4> = LruHashMap::new();
#[btf_map]
pub(crate) static fragments6: Fragments<Addr6> = LruHashMap::new();
#[btf_map]
pub(crate) static fragment_id: Array<u32, 1> = Array::new();
#[btf_map]
pub(crate) static held: Array<Held, { capacity::HELD as usize }> = Array::new();
#[btf_map]
pub(crate) static waiting: Array<Waiting, 1> = Array::new();
#[btf_map]
pub(crate) static peers: SkStorage<Peer> = SkStorage::new();
#[btf_map]
pub(crate) static trace_ends: HashMap<End, u32, { capacity::TRACE_ENDS as usize }> = HashMap::new();
#[btf_map]
pub(crate) static trace_ring: RingBuf<(), { capacity::TRACE_RING as usize }> = RingBuf::new();
#[btf_map]
pub(crate) static trace_tc: ProgramArray<{ Traced::ALL.len() }> = ProgramArray::new();
#[btf_map]
pub(crate) static trace_xdp: TracedOne = ProgramArray::new();
#[btf_map]
pub(crate) static trace_connect4: TracedOne = ProgramArray::new();
#[btf_map]
pub(crate) static trace_connect6: TracedOne = ProgramArray::new();
#[btf_map]
pub(crate) static handover_tc: ProgramArray<{ Traced::ALL.len() }> = ProgramArray::new();
#[btf_map]
pub(crate) static handover_xdp: ProgramArray<1> = ProgramArray::new();
#[btf_map]
pub(crate) static tracing: PerCpuArray<Tracing, 2> = PerCpuArray::new();
#[btf_map]
pub(crate) static traffic4: Traffic<Addr4> = LruPerCpuHashMap::new();
#[btf_map]
pub(crate) static traffic6: Traffic<Addr6> = LruPerCpuHashMap::new();
#[btf_map]
pub(crate) static noted: PerCpuArray<u32, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static whole: PerCpuArray<Whole, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static workspace4: PerCpuArray<Workspace<Addr4>, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static workspace6: PerCpuArray<Workspace<Addr6>, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static hops4: PerCpuArray<Hop<Addr4>, HOPS> = PerCpuArray::new();
#[btf_map]
pub(crate) static hops6: PerCpuArray<Hop<Addr6>, HOPS> = PerCpuArray::new();

/// The maps of one address family.
pub(crate) trait Maps: TooBig {
    /// `flows4` or `flows6`.
    fn flows() -> &'static Flows<Self::Addr>;
    /// `embryos4` or `embryos6`.
    fn embryos() -> &'static Embryos<Self::Addr>;
    /// `fragments4` or `fragments6`.
    fn fragments() -> &'static Fragments<Self::Addr>;
    /// `addresses4` or `addresses6`.
    fn addresses() -> &'static Addresses<Self::Addr>;
    /// `sources4` or `sources6`.
    fn sources() -> &'static Sources<Self::Addr>;
    /// `frontends4` or `frontends6`.
    fn frontends() -> &'static Frontends<Self::Addr>;
    /// `services4` or `services6`.
    fn services() -> &'static Services;
    /// `sets4` or `sets6`.
    fn sets() -> &'static Sets;
    /// `backends4` or `backends6`.
    fn backends() -> &'static Backends<Self::Addr>;
    /// `ranges4` or `ranges6`.
    fn ranges() -> &'static Ranges<Self::Addr>;
    /// `affinity4` or `affinity6`.
    fn affinities() -> &'static Affinities<Self::Addr>;
    /// `traffic4` or `traffic6`.
    fn traffic() -> &'static Traffic<Self::Addr>;
    /// `workspace4` or `workspace6`.
    fn workspace() -> &'static PerCpuArray<Workspace<Self::Addr>, 1>;
    /// `hops4` or `hops6`.
    fn hops() -> &'static PerCpuArray<Hop<Self::Addr>, HOPS>;
}

macro_rules! family {
    ($family:ty, $addr:ty: $($name:ident = $map:ident: $ty:ty),+ $(,)?) => {
        impl Maps for $family {
            $(#[inline(always)] fn $name() -> &'static $ty { &$map })+
        }
    };
}

family! { V4, Addr4:
    flows = flows4: Flows<Addr4>,
    embryos = embryos4: Embryos<Addr4>,
    fragments = fragments4: Fragments<Addr4>,
    addresses = addresses4: Addresses<Addr4>,
    sources = sources4: Sources<Addr4>,
    frontends = frontends4: Frontends<Addr4>,
    services = services4: Services,
    sets = sets4: Sets,
    backends = backends4: Backends<Addr4>,
    ranges = ranges4: Ranges<Addr4>,
    affinities = affinity4: Affinities<Addr4>,
    traffic = traffic4: Traffic<Addr4>,
    workspace = workspace4: PerCpuArray<Workspace<Addr4>, 1>,
    hops = hops4: PerCpuArray<Hop<Addr4>, HOPS>,
}

family! { V6, Addr6:
    flows = flows6: Flows<Addr6>,
    embryos = embryos6: Embryos<Addr6>,
    fragments = fragments6: Fragments<Addr6>,
    addresses = addresses6: Addresses<Addr6>,
    sources = sources6: Sources<Addr6>,
    frontends = frontends6: Frontends<Addr6>,
    services = services6: Services,
    sets = sets6: Sets,
    backends = backends6: Backends<Addr6>,
    ranges = ranges6: Ranges<Addr6>,
    affinities = affinity6: Affinities<Addr6>,
    traffic = traffic6: Traffic<Addr6>,
    workspace = workspace6: PerCpuArray<Workspace<Addr6>, 1>,
    hops = hops6: PerCpuArray<Hop<Addr6>, HOPS>,
}
