//! The agent's own object in the kernel, its maps filled by the agent's own planner.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, MapData, PerCpuArray},
    programs::Program,
};
use lb_common::abi::{COUNTERS, Counter, Family as Typed, Hook, Outcome, Tuple, V4, V6, names};
use lb_userspace::{
    apply, load, maps,
    model::{NodeFacts, ServicePort},
    node,
    plan::{Capacities, PlanSettings, Planner},
};

use super::{
    family::Family,
    flows::{self, FlowTable},
};

/// Elements of the map `maglev`.
const MAGLEV: u32 = 524_288;

/// Programs and maps.
pub(crate) struct Instance {
    ebpf: Ebpf,
    counters: PerCpuArray<MapData, Counter>,
    /// Empties the slots of unanswered flows, by family.
    slots: [Slots; 2],
    v4: Box<dyn FlowTable>,
    v6: Box<dyn FlowTable>,
}

type Slots = Box<dyn FnMut() -> Result<()>>;

/// The programs that are measured.
const PROGRAMS: [&str; 3] = ["uplink_xdp", "uplink_in", "uplink_out"];

/// What an instance does beside its work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Memory {
    /// As in the agent.
    Flows,
    /// Everything is decided, nothing is written.
    Dry,
    /// As in the agent, but nobody can watch (`lb-agent trace`).
    Unwatched,
}

impl Instance {
    /// Loads the object with room for so many flow entries and fills its maps.
    pub(crate) fn load(
        flows: u32,
        memory: Memory,
        services: &[ServicePort],
        facts: &NodeFacts,
    ) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for name in names::FLOWS {
            loader.map_max_entries(name, flows);
        }
        loader.map_max_entries(names::MAGLEV, MAGLEV);
        match memory {
            Memory::Flows => {}
            Memory::Dry => {
                loader.override_global("DRY_RUN", &1u8, true);
            }
            Memory::Unwatched => {
                loader.override_global("TRACED", &2u8, true);
            }
        }
        let mut ebpf = loader
            .load(load::embedded()?)
            .context("the kernel refuses the maps")?;
        for name in PROGRAMS {
            let program = ebpf
                .program_mut(name)
                .with_context(|| format!("the object has no {name}"))?;
            load::verify_one(program).with_context(|| format!("the kernel refuses {name}"))?;
        }
        let slots = [slots::<V4>(&mut ebpf)?, slots::<V6>(&mut ebpf)?];
        let counters = ebpf
            .take_map(names::COUNTERS)
            .context("the object has no counters")?;
        let v4 = flows::take(&mut ebpf, Family::V4)?;
        let v6 = flows::take(&mut ebpf, Family::V6)?;
        fill(&mut ebpf, services, facts)?;
        Ok(Self {
            counters: counters.try_into()?,
            slots,
            v4,
            v6,
            ebpf,
        })
    }

    /// A program.
    pub(crate) fn program(&self, name: &str) -> Result<&Program> {
        self.ebpf
            .program(name)
            .with_context(|| format!("the object has no {name}"))
    }

    /// A family's flow table.
    pub(crate) fn flows(&mut self, family: Family) -> &mut dyn FlowTable {
        match family {
            Family::V4 => &mut *self.v4,
            Family::V6 => &mut *self.v6,
        }
    }

    /// Forgets which flows are unanswered, as after a while without new ones.
    pub(crate) fn rest(&mut self, family: Family) -> Result<()> {
        (self.slots[family as usize])()
    }

    /// Packets that were counted so far, by hook and outcome.
    pub(crate) fn counted(&self) -> Result<Counted> {
        let sum = |index| -> Result<u64> {
            let values = self.counters.get(&index, 0)?;
            Ok(values.iter().map(|counter: &Counter| counter.packets).sum())
        };
        Ok(Counted((0..COUNTERS).map(sum).collect::<Result<_>>()?))
    }
}

/// The counters at one instant.
#[derive(Clone, Debug)]
pub(crate) struct Counted(Vec<u64>);

impl Counted {
    /// What was counted since `before`.
    pub(crate) fn since(&self, before: &Self) -> Vec<(Hook, Outcome, u64)> {
        let mut moved = Vec::new();
        for &hook in Hook::ALL {
            for &outcome in Outcome::ALL {
                let index = outcome.index(hook) as usize;
                let packets = self.0[index] - before.0[index];
                if packets > 0 {
                    moved.push((hook, outcome, packets));
                }
            }
        }
        moved
    }
}

fn slots<F: Typed>(ebpf: &mut Ebpf) -> Result<Slots>
where
    Tuple<F::Addr>: Pod,
{
    let name = names::EMBRYOS[F::INDEX];
    let map = ebpf
        .take_map(name)
        .with_context(|| format!("the object has no map {name}"))?;
    let mut slots: Array<_, Tuple<F::Addr>> = map.try_into()?;
    Ok(Box::new(move || {
        (0..slots.len()).try_for_each(|slot| Ok(slots.set(slot, Tuple::default(), 0)?))
    }))
}

fn fill(ebpf: &mut Ebpf, services: &[ServicePort], facts: &NodeFacts) -> Result<()> {
    let mut store = maps::bpf::open(|name| ebpf.take_map(name))?;
    let settings = PlanSettings {
        hertz: node::hertz().context("cannot learn how fast the kernel's clock ticks")?,
        capacities: Capacities {
            maglev: MAGLEV,
            ..Capacities::default()
        },
        ..PlanSettings::default()
    };
    let mut planner = Planner::new(settings);
    let now = Duration::ZERO;
    planner.node_facts(facts, now);
    planner.update(services.to_vec(), &[], now);
    let mut rounds = 0;
    while !planner.is_settled() {
        let failures = planner.execute(now, |op| apply::write(&mut store, op));
        if let Some(failure) = failures.into_iter().next() {
            return Err(failure.error).context("the maps cannot be filled");
        }
        rounds += 1;
        ensure!(rounds < 16, "the planner does not come to an end: this is a bug");
    }
    ensure!(
        planner.problems().is_empty(),
        "not all fits: {:?}",
        planner.problems()
    );
    Ok(())
}
