//! The programs in the kernel, over maps that the agent writes: packets in, verdict and packet out.

use std::collections::BTreeMap;

use aya::{
    Ebpf, EbpfLoader, Pod, TestRun, TestRunOptions,
    maps::{Array, HashMap, MapData, PerCpuArray},
    programs::{Program as Loaded, XdpMode},
};
use lb_common::abi::{
    Addr4, Addr6, Affinity, AffinityKey, COUNTERS, Counter, Flow, Hook, Outcome, Tuple, V4, V6, names,
};
use lb_userspace::{
    load::{embedded, verify_one},
    maps::{MapStore, bpf, flows},
    plan::Capacities,
};

use crate::node::Dev;

/// Slots for unanswered flows.
pub(crate) const EMBRYOS: u32 = 256;
/// Entries of each flow table.
const FLOWS: u32 = 4096;
/// Records of affinity, per family.
const RECORDS: u32 = 4096;

/// Room enough for any world.
pub(crate) const CAPACITIES: Capacities = Capacities {
    devices: 64,
    addresses: 512,
    sources: 512,
    frontends: 512,
    services: 256,
    sets: 512,
    backends: 2048,
    ranges: 1024,
    maglev: 8192,
    embryos: EMBRYOS,
};

macro_rules! programs {
    ($($program:ident = $name:literal;)+) => {
        /// A program of the object.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub(crate) enum Program { $($program),+ }

        impl Program {
            const ALL: &[Self] = &[$(Self::$program),+];

            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$program => $name),+ }
            }
        }
    };
}

programs! {
    UplinkXdp = "uplink_xdp";
    UplinkIn = "uplink_in";
    UplinkOut = "uplink_out";
    PodIn = "pod_in";
    BridgePortIn = "bridge_port_in";
    PodOut = "pod_out";
    HostOut = "host_out";
    LoopbackOut = "loopback_out";
}

/// What a program says of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It goes on: to the stack, or out of the device it leaves by.
    On,
    /// It is sent elsewhere.
    Sent,
    /// It ends here.
    Ended,
}

/// Programs and maps in the kernel.
pub(crate) struct Kernel {
    ebpf: Ebpf,
    flows4: FlowTable<Addr4>,
    flows6: FlowTable<Addr6>,
    counters: PerCpuArray<MapData, Counter>,
    devices: BTreeMap<Dev, u32>,
    out: Vec<u8>,
    /// Packets that were run.
    pub(crate) runs: u64,
}

struct FlowTable<A: Pod>
where
    Tuple<A>: Pod,
    Flow<A>: Pod,
    AffinityKey<A>: Pod,
    Affinity<A>: Pod,
{
    flows: HashMap<MapData, Tuple<A>, Flow<A>>,
    records: HashMap<MapData, AffinityKey<A>, Affinity<A>>,
    embryos: Array<MapData, Tuple<A>>,
}

impl Kernel {
    /// Loads everything in the calling thread's namespace, see [`crate::node::enter`].
    pub(crate) fn new() -> (Self, MapStore) {
        let mut loader = EbpfLoader::new();
        for family in 0..2 {
            for (map, size) in [
                (names::ADDRESSES, CAPACITIES.addresses),
                (names::SOURCES, CAPACITIES.sources),
                (names::FRONTENDS, CAPACITIES.frontends),
                (names::SERVICES, CAPACITIES.services),
                (names::SETS, CAPACITIES.sets),
                (names::BACKENDS, CAPACITIES.backends),
                (names::RANGES, CAPACITIES.ranges),
                (names::AFFINITY, RECORDS),
                (names::FLOWS, FLOWS),
                (names::EMBRYOS, EMBRYOS),
            ] {
                loader.map_max_entries(map[family], size);
            }
        }
        loader.map_max_entries(names::DEVICES, CAPACITIES.devices);
        loader.map_max_entries(names::MAGLEV, CAPACITIES.maglev);
        let object = embedded().expect("who calls has looked for the object");
        let mut ebpf = loader.load(object).expect("the kernel takes the maps");
        for program in Program::ALL {
            load(&mut ebpf, *program);
        }
        let store = bpf::open(|name| ebpf.take_map(name)).expect("the object has the agent's maps");
        let counters = ebpf.take_map(names::COUNTERS).expect("the object has counters");
        let kernel = Self {
            flows4: FlowTable::take(&mut ebpf, 0),
            flows6: FlowTable::take(&mut ebpf, 1),
            counters: PerCpuArray::try_from(counters).expect("counters are counters"),
            devices: Dev::ALL.iter().map(|dev| (*dev, dev.index())).collect(),
            out: vec![0; 2048],
            runs: 0,
            ebpf,
        };
        (kernel, store)
    }

    /// Runs a program on `frame`, on a device; `from`: the device it came in by, `None` if this node sent it.
    pub(crate) fn run(
        &mut self,
        program: Program,
        dev: Dev,
        from: Option<Dev>,
        frame: &[u8],
    ) -> (Verdict, Vec<u8>) {
        let index = self.devices[&dev];
        let from = from.map_or(0, |from| self.devices[&from]);
        self.runs += 1;
        let mut context = [0_u32; 48];
        let context: &[u32] = if program == Program::UplinkXdp {
            // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
            (context[1], context[3]) = (frame.len() as u32, index);
            &context[..6]
        } else {
            // `struct __sk_buff`: ingress_ifindex is its tenth word, ifindex the next.
            (context[9], context[10]) = (from, index);
            &context
        };
        let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut self.out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let loaded = self
            .ebpf
            .program(program.name())
            .expect("the object has this program");
        let result = match loaded {
            Loaded::Xdp(xdp) => xdp.test_run(options),
            Loaded::SchedClassifier(tc) => tc.test_run(options),
            _ => unreachable!("the object has programs of two types"),
        };
        let result = result.unwrap_or_else(|error| panic!("{}: {error:?}", program.name()));
        let verdict = match (program, result.return_value) {
            (Program::UplinkXdp, 2) | (_, u32::MAX) => Verdict::On,
            // XDP_TX, XDP_REDIRECT; TC_ACT_REDIRECT.
            (Program::UplinkXdp, 3 | 4) => Verdict::Sent,
            (Program::UplinkXdp, 1) => Verdict::Ended,
            (Program::UplinkXdp, other) => panic!("XDP gives {other}"),
            (_, 7) => Verdict::Sent,
            (_, 2) => Verdict::Ended,
            (_, other) => panic!("{} gives {other}", program.name()),
        };
        (verdict, self.out[..result.data_size_out as usize].to_vec())
    }

    /// Forgets all flows and records.
    pub(crate) fn forget_flows(&mut self) {
        self.flows4.clear();
        self.flows6.clear();
    }

    /// Forgets the flows that `stale` says so of, as the agent does.
    pub(crate) fn forget_flows_if(&mut self, mut stale: impl FnMut(&flows::Forward) -> bool) {
        flows::remove_from::<V4>(&mut self.flows4.flows, &mut stale);
        flows::remove_from::<V6>(&mut self.flows6.flows, &mut stale);
    }

    /// Packets with each outcome so far.
    pub(crate) fn counted(&self) -> BTreeMap<(Hook, Outcome), u64> {
        let mut all = BTreeMap::new();
        for &hook in Hook::ALL {
            for &outcome in Outcome::ALL {
                let index = outcome.index(hook);
                debug_assert!(index < COUNTERS);
                let values = self.counters.get(&index, 0).expect("counters can be read");
                let packets: u64 = values.iter().map(|counter: &Counter| counter.packets).sum();
                if packets != 0 {
                    all.insert((hook, outcome), packets);
                }
            }
        }
        all
    }
}

impl<A: Pod + Default> FlowTable<A>
where
    Tuple<A>: Pod,
    Flow<A>: Pod,
    AffinityKey<A>: Pod,
    Affinity<A>: Pod,
{
    fn take(ebpf: &mut Ebpf, family: usize) -> Self {
        let mut map = |name| ebpf.take_map(name).expect("the object has flow tables");
        Self {
            flows: HashMap::try_from(map(names::FLOWS[family])).expect("flows are a hash"),
            records: HashMap::try_from(map(names::AFFINITY[family])).expect("records are a hash"),
            embryos: Array::try_from(map(names::EMBRYOS[family])).expect("embryos are an array"),
        }
    }

    fn clear(&mut self) {
        let records: Vec<AffinityKey<A>> = self.records.keys().filter_map(Result::ok).collect();
        for key in records {
            let _ = self.records.remove(&key);
        }
        let keys: Vec<Tuple<A>> = self.flows.keys().filter_map(Result::ok).collect();
        if keys.is_empty() {
            return;
        }
        for key in keys {
            // It was there; nobody else removes any.
            let _ = self.flows.remove(&key);
        }
        for slot in 0..self.embryos.len() {
            let none = Tuple::default();
            self.embryos.set(slot, none, 0).expect("the slot is there");
        }
    }
}

fn load(ebpf: &mut Ebpf, program: Program) {
    let name = program.name();
    let loaded = ebpf
        .program_mut(name)
        .unwrap_or_else(|| panic!("the object has no program {name}"));
    verify_one(loaded).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    // A queue can be named in the context of a run only while the device has a program.
    if let Loaded::Xdp(xdp) = loaded {
        xdp.attach(Dev::Up0.name(), XdpMode::Driver)
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
}
