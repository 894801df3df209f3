//! The loaded programs over maps that hold [`crate::site`], in a network namespace: packets in, verdict, packet
//! and counters out.

use std::{collections::BTreeMap, panic, thread};

use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunOptions,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
    programs::{Program as Loaded, SchedClassifier, Xdp, XdpMode},
};
use lb_common::abi::{
    COUNTERS, Counter, Device, Event, Family as _, Held, Hook, Node, Outcome, ROWS_PER_ELEMENT, Record, Rows,
    V4, V6, Waiting, XDP_OUT, names,
};
use lb_lab::skip;
use lb_userspace::load::{embedded, verify_one};

use crate::{
    maps::{FamilyMaps, Traffic, elements, rows, take, typed},
    namespace,
    simulation::Common,
    site::{Dev, Family, Host, Site, Svc},
    tap::Tap,
};

/// Ports for SNAT.
pub(crate) const SNAT_PORTS: [u16; 2] = [60_000, 60_999];
/// Seed of the flow hash.
pub(crate) const SEED: u32 = 0x5eed;
/// A tick is about a second for a kernel of 250 Hz; others do not matter here.
const TICK_SHIFT: u32 = 8;
/// Elements of the map `maglev`.
const MAGLEV: u32 = 256;
/// Slots for unanswered flows.
pub(crate) const EMBRYOS: u32 = 64;

/// `TCX_NEXT`, `TC_ACT_UNSPEC`: the packet goes on.
pub(crate) const NEXT: u32 = u32::MAX;
/// `TC_ACT_SHOT`.
pub(crate) const SHOT: u32 = 2;
/// `TC_ACT_REDIRECT`.
pub(crate) const REDIRECT: u32 = 7;
/// `XDP_DROP`.
pub(crate) const XDP_DROP: u32 = 1;
/// `XDP_PASS`.
pub(crate) const XDP_PASS: u32 = 2;
/// `XDP_TX`.
pub(crate) const XDP_TX: u32 = 3;
/// `XDP_REDIRECT`.
pub(crate) const XDP_REDIRECT: u32 = 4;

/// A program of the object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Program {
    UplinkXdp,
    UplinkIn,
    UplinkOut,
    PodIn,
    BridgePortIn,
    PodOut,
    HostOut,
    LoopbackOut,
    Sweep,
}

impl Program {
    pub(crate) const ALL: [Self; 9] = [
        Self::UplinkXdp,
        Self::UplinkIn,
        Self::UplinkOut,
        Self::PodIn,
        Self::BridgePortIn,
        Self::PodOut,
        Self::HostOut,
        Self::LoopbackOut,
        Self::Sweep,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::UplinkXdp => "uplink_xdp",
            Self::UplinkIn => "uplink_in",
            Self::UplinkOut => "uplink_out",
            Self::PodIn => "pod_in",
            Self::BridgePortIn => "bridge_port_in",
            Self::PodOut => "pod_out",
            Self::HostOut => "host_out",
            Self::LoopbackOut => "loopback_out",
            Self::Sweep => "sweep",
        }
    }

    /// Where it counts.
    pub(crate) const fn hook(self) -> Hook {
        match self {
            Self::UplinkXdp => Hook::UplinkXdp,
            Self::UplinkIn => Hook::UplinkIn,
            Self::UplinkOut | Self::Sweep => Hook::UplinkOut,
            Self::PodIn | Self::BridgePortIn => Hook::PodIn,
            Self::PodOut => Hook::PodOut,
            Self::HostOut => Hook::HostOut,
            Self::LoopbackOut => Hook::LoopbackOut,
        }
    }

    /// The device it runs on unless a test says otherwise.
    pub(crate) const fn device(self) -> Dev {
        match self {
            Self::UplinkXdp | Self::UplinkIn | Self::UplinkOut | Self::Sweep => Dev::Up0,
            Self::PodIn | Self::PodOut => Dev::Pod0,
            Self::BridgePortIn => Dev::Port0,
            Self::HostOut => Dev::Lb0,
            Self::LoopbackOut => Dev::Lo,
        }
    }
}

/// What became of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) verdict: u32,
    pub(crate) frame: Vec<u8>,
    /// Counters that moved, and by how much.
    pub(crate) counted: Vec<(Hook, Outcome, Counter)>,
    /// What was counted beside them.
    pub(crate) events: Vec<Event>,
    /// What was counted for Services, if that is switched on.
    pub(crate) traffic: Traffic,
}

/// Which instances of the programs there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Instances {
    /// Those that run on a node.
    Usual,
    /// Those that note every step.
    Watched,
    /// Those that count for each Service.
    Counting,
}

/// Programs and maps in the kernel.
pub(crate) struct World {
    pub(crate) ebpf: Ebpf,
    four: Box<dyn FamilyMaps>,
    six: Box<dyn FamilyMaps>,
    node: Array<MapData, Node>,
    fragment_id: Array<MapData, u32>,
    held: Array<MapData, Held>,
    waiting: Array<MapData, Waiting>,
    /// Hears what programs send by themselves.
    pub(crate) tap: Tap,
    counters: PerCpuArray<MapData, Counter>,
    counted: Vec<Counter>,
    ring: RingBuf<MapData>,
    devices: BTreeMap<Dev, u32>,
    instances: Instances,
}

/// Runs `test` in a world of its own, or says why it cannot. `flows`: capacity of each flow table.
pub(crate) fn in_world(name: &str, flows: u32, test: impl FnOnce(World) + Send + 'static) {
    in_world_of(name, flows, Instances::Usual, test);
}

/// As [`in_world`], with the instances of the programs that note every step, and somebody who watches all packets.
pub(crate) fn in_watched_world(name: &str, flows: u32, test: impl FnOnce(World) + Send + 'static) {
    in_world_of(name, flows, Instances::Watched, test);
}

/// As [`in_world`], with programs that count for each Service.
pub(crate) fn in_counting_world(name: &str, flows: u32, test: impl FnOnce(World) + Send + 'static) {
    in_world_of(name, flows, Instances::Counting, test);
}

fn in_world_of(name: &str, flows: u32, instances: Instances, test: impl FnOnce(World) + Send + 'static) {
    let object = match embedded() {
        Ok(_) if !nix::unistd::geteuid().is_root() => return skip(&format!("{name}: needs root")),
        Ok(object) => object,
        Err(error) => return skip(&format!("{name}: {error}")),
    };
    // The namespace belongs to the thread and ends with it.
    let thread = thread::spawn(move || {
        namespace::enter();
        test(World::new(object, flows, instances));
    });
    if let Err(failure) = thread.join() {
        panic::resume_unwind(failure);
    }
}

impl World {
    fn new(object: &[u8], flows: u32, instances: Instances) -> Self {
        let mut loader = EbpfLoader::new();
        let traced = u8::from(instances == Instances::Watched);
        loader.override_global("TRACED", &traced, true);
        let counting = u8::from(instances == Instances::Counting);
        loader.override_global("SERVICE_COUNTERS", &counting, true);
        for family in 0..2 {
            for map in [
                names::ADDRESSES,
                names::SOURCES,
                names::FRONTENDS,
                names::SERVICES,
                names::RANGES,
                names::AFFINITY,
                names::TRAFFIC,
            ] {
                loader.map_max_entries(map[family], 1024);
            }
            for map in [names::SETS, names::BACKENDS] {
                loader.map_max_entries(map[family], 1024);
            }
            loader.map_max_entries(names::FLOWS[family], flows);
            loader.map_max_entries(names::EMBRYOS[family], EMBRYOS);
        }
        loader.map_max_entries(names::DEVICES, 64);
        loader.map_max_entries(names::MAGLEV, MAGLEV);
        let mut ebpf = loader.load(object).expect("the kernel takes the maps");
        for program in Program::ALL {
            load(&mut ebpf, program);
        }
        let devices = Dev::ALL
            .iter()
            .map(|dev| (*dev, namespace::index(*dev)))
            .collect();
        let four = take(&mut ebpf, Family::V4);
        let six = take(&mut ebpf, Family::V6);
        let counters = typed(&mut ebpf, names::COUNTERS);
        let mut world = Self {
            node: typed(&mut ebpf, names::NODE),
            fragment_id: typed(&mut ebpf, names::FRAGMENT_ID),
            held: typed(&mut ebpf, names::HELD),
            waiting: typed(&mut ebpf, names::WAITING),
            tap: Tap::new(),
            counters,
            counted: Vec::new(),
            devices,
            ring: typed(&mut ebpf, names::TRACE_RING),
            ebpf,
            four,
            six,
            instances,
        };
        world.fill();
        world.counted = world.count();
        world
    }

    fn fill(&mut self) {
        self.set_node(|_| {});
        let common = self.common();
        let mut devices: HashMap<_, u32, Device> = typed(&mut self.ebpf, names::DEVICES);
        for (index, device) in common.devices {
            devices.insert(index, device, 0).expect("devices has room");
        }
        let mut maglev: Array<_, Rows> = typed(&mut self.ebpf, names::MAGLEV);
        for (rows, element) in common.maglev.into_iter().zip(0..) {
            maglev.set(element, rows, 0).expect("maglev has room");
        }
        for family in Family::BOTH {
            let site = self.site(family);
            self.maps(family).fill(&site);
        }
    }

    /// What the programs have noted since this was asked last.
    pub(crate) fn records(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        while let Some(bytes) = self.ring.next() {
            records.push(bytemuck::pod_read_unaligned(&bytes));
        }
        records
    }

    /// What both families have in common.
    pub(crate) fn common(&self) -> Common {
        let mut maglev = vec![
            Rows {
                rows: [0; ROWS_PER_ELEMENT]
            };
            MAGLEV as usize
        ];
        for &svc in Svc::ALL {
            for (rows, first) in rows(svc).iter().zip(elements(svc)) {
                for (chunk, element) in rows.chunks(ROWS_PER_ELEMENT).zip(first as usize..) {
                    maglev[element].rows[..chunk.len()].copy_from_slice(chunk);
                }
            }
        }
        let known = self.devices.iter().filter(|(dev, _)| **dev != Dev::Alien0);
        Common {
            node: self.node.get(&0, 0).expect("node has one element"),
            devices: known.map(|(dev, index)| (*index, device(*dev))).collect(),
            maglev,
        }
    }

    /// Whether programs count for each Service.
    pub(crate) fn is_counting(&self) -> bool {
        self.instances == Instances::Counting
    }

    /// Writes the node's settings: the usual ones, changed by `change`.
    pub(crate) fn set_node(&mut self, change: impl FnOnce(&mut Node)) {
        let mut node = Node {
            netns: 0,
            lb0: self.devices[&Dev::Lb0],
            loopback: self.devices[&Dev::Lo],
            snat_first: SNAT_PORTS[0],
            snat_last: SNAT_PORTS[1],
            seed: SEED,
            embryo_mask: EMBRYOS - 1,
            flags: 0,
            tick_shift: TICK_SHIFT,
            xdp_out: [0; XDP_OUT],
            reserved: 0,
        };
        for (slot, dev) in node.xdp_out.iter_mut().zip(Dev::OUT_OF_XDP) {
            *slot = self.devices[&dev];
        }
        change(&mut node);
        self.node.set(0, node, 0).expect("node has one element");
    }

    /// From now on datagrams in fragments are given identifications from 0 on.
    pub(crate) fn restart_ids(&mut self) {
        let set = self.fragment_id.set(0, 0, 0);
        set.expect("fragment_id has one element");
    }

    /// From now on no fragment waits for the first one of its datagram.
    pub(crate) fn forget_held(&mut self) {
        let mut waiting = self.waiting.get(&0, 0).expect("waiting has one element");
        waiting.datagrams.fill(Waiting::FREE);
        let set = self.waiting.set(0, waiting, 0);
        set.expect("waiting has one element");
        self.tap.forget();
    }

    /// Makes the fragments older that wait for the first one of their datagram.
    pub(crate) fn age_held(&mut self, ticks: u32) {
        let waiting = self.waiting.get(&0, 0).expect("waiting has one element");
        for (slot, datagram) in (0..).zip(waiting.datagrams) {
            if datagram != Waiting::FREE {
                let mut held = self.held.get(&slot, 0).expect("the slot is there");
                held.seen = held.seen.wrapping_sub(ticks);
                self.held.set(slot, held, 0).expect("the slot is there");
            }
        }
    }

    /// The site as a family sees it.
    pub(crate) fn site(&self, family: Family) -> Site {
        Site {
            family,
            devices: self.devices.clone(),
        }
    }

    /// A family's maps.
    pub(crate) fn maps(&mut self, family: Family) -> &mut dyn FamilyMaps {
        match family {
            Family::V4 => &mut *self.four,
            Family::V6 => &mut *self.six,
        }
    }

    /// Runs a program once on `frame`, on `device`; `from`: the device the packet came in by, 0 if it was sent by
    /// this node itself.
    pub(crate) fn run(&mut self, program: Program, device: u32, from: u32, frame: &[u8]) -> Run {
        let mut out = vec![0; frame.len() + 256];
        let result = match program {
            Program::UplinkXdp => {
                // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
                let ctx = words(&[0, frame.len() as u32, 0, device, 0, 0]);
                let xdp: &Xdp = self.program(program);
                xdp.test_run(options(frame, &mut out, &ctx))
            }
            _ => {
                // `struct __sk_buff`: ingress_ifindex is its tenth word, ifindex the next.
                let mut skb = [0; 48];
                skb[9] = from;
                skb[10] = device;
                let tc: &SchedClassifier = self.program(program);
                tc.test_run(options(frame, &mut out, &words(&skb)))
            }
        };
        let result = result.unwrap_or_else(|error| panic!("{}: {error:?}", program.name()));
        out.truncate(result.data_size_out as usize);
        let mut traffic = self.four.take_traffic();
        traffic.extend(self.six.take_traffic());
        let before = std::mem::take(&mut self.counted);
        self.counted = self.count();
        Run {
            verdict: result.return_value,
            frame: out,
            counted: difference(&before, &self.counted),
            events: events(&before, &self.counted),
            traffic,
        }
    }

    /// A loaded program.
    pub(crate) fn program<'a, P>(&'a self, program: Program) -> &'a P
    where
        &'a P: TryFrom<&'a Loaded>,
    {
        let loaded = self
            .ebpf
            .program(program.name())
            .expect("the object has this program");
        loaded.try_into().ok().expect("a program of this type")
    }

    fn count(&self) -> Vec<Counter> {
        let read = |index| {
            let values = self.counters.get(&index, 0).expect("counters can be read");
            Counter {
                packets: values.iter().map(|counter: &Counter| counter.packets).sum(),
                bytes: values.iter().map(|counter| counter.bytes).sum(),
            }
        };
        (0..COUNTERS).map(read).collect()
    }
}

/// What the map `devices` says of a device.
fn device(dev: Dev) -> Device {
    let snat = match dev {
        Dev::Bare0 => None,
        Dev::Tun0 => Some(Host::TunnelEnd),
        Dev::Up1 => Some(Host::NodeAtUp1),
        Dev::Up2 => Some(Host::NodeAtUp2),
        _ => Some(Host::Node),
    };
    let address = |family| snat.map(|host| host.ip(family));
    Device {
        kind: dev.kind() as u8,
        mac: dev.mac(),
        bridge_mac: dev.bridge_mac(),
        mtu: 1500,
        snat4: address(Family::V4).and_then(V4::from_ip).unwrap_or_default(),
        snat6: address(Family::V6).and_then(V6::from_ip).unwrap_or_default(),
        ..Device::default()
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

fn options<'a>(frame: &'a [u8], out: &'a mut [u8], ctx: &'a [u8]) -> TestRunOptions<'a> {
    TestRunOptions {
        data_in: Some(frame),
        data_out: Some(out),
        ctx_in: Some(ctx),
        ..TestRunOptions::default()
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn difference(before: &[Counter], after: &[Counter]) -> Vec<(Hook, Outcome, Counter)> {
    let mut moved = Vec::new();
    for &hook in Hook::ALL {
        for &outcome in Outcome::ALL {
            let index = outcome.index(hook) as usize;
            let (before, after) = (before[index], after[index]);
            if before != after {
                let by = Counter {
                    packets: after.packets - before.packets,
                    bytes: after.bytes - before.bytes,
                };
                moved.push((hook, outcome, by));
            }
        }
    }
    moved
}

/// Each as often as it was counted.
fn events(before: &[Counter], after: &[Counter]) -> Vec<Event> {
    let times = |event: &Event| {
        let index = event.index() as usize;
        (after[index].packets - before[index].packets) as usize
    };
    Event::ALL
        .iter()
        .flat_map(|event| std::iter::repeat_n(*event, times(event)))
        .collect()
}
