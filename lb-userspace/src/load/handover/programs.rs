//! Takes over from a generation of programs whose tables are laid out otherwise.

use std::{collections::BTreeMap, path::PathBuf};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, Map, MapData, MapError},
    programs::{ProgramFd, SchedClassifier, Xdp},
};
use lb_common::abi::{Addr4, Addr6, Family as _, Stage, Traced, V4, names};
use tracing::{info, warn};

use super::{
    carry::{Carried, Carrier, Pass, Round},
    flows::Flows,
    heritage::{Heritage, chain},
    raw::{RawError, RawMap},
};
use crate::{
    load::{
        LoadError, loader,
        places::{Places, clear},
        tc, xdp,
    },
    membarrier,
};

/// Copying is repeated until a round finds more than this part of what the one before found (packets open flows meanwhile), and
/// not more often than [`ROUNDS`].
const PART: u64 = 2;
const ROUNDS: usize = 4;

/// The instances that look whose a packet is, and the tables that are being copied.
///
/// In this order: the programs of every device are replaced by [`Handover::classifier`] and [`Handover::xdp`];
/// [`Handover::copy`]; the programs are replaced by those of the new generation; [`Handover::end`].
pub(in crate::load) struct Handover {
    ebpf: Ebpf,
    stage: Array<MapData, u32>,
    places: Vec<Places>,
    tables: Vec<(&'static str, Box<dyn Pass + Send>)>,
    /// The generation before was at XDP.
    has_xdp: bool,
    carried: Carried,
}

impl std::fmt::Debug for Handover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handover")
            .field("carried", &self.carried)
            .finish_non_exhaustive()
    }
}

impl Handover {
    /// Loads the instances that look. `loader`: with the sizes and settings of the new generation; `pins`: where its maps are.
    pub(in crate::load) fn load(
        object: &[u8],
        mut loader: EbpfLoader<'_>,
        pins: &BTreeMap<String, PathBuf>,
        heritage: Heritage,
    ) -> Result<Self, LoadError> {
        loader.override_global("HANDS_OVER", &1_u8, true);
        // Nobody can watch these.
        loader.override_global("TRACED", &2_u8, true);
        let mut ebpf = loader.load(object).map_err(LoadError::Maps)?;
        let has_xdp = heritage.programs.contains_key(xdp::PROGRAM);
        let wanted: Vec<_> = tc::PROGRAMS
            .into_iter()
            .chain(has_xdp.then_some(xdp::PROGRAM))
            .collect();
        for (name, verified) in loader::verify_all(&mut ebpf, &wanted)? {
            verified.map_err(|source| LoadError::Program { name, source })?;
        }
        let mut tables = Vec::new();
        for table in heritage.tables {
            let made = pins.get(table.name).ok_or_else(|| missing(table.name))?;
            match RawMap::open(made).and_then(|to| between(table.name, table.map, to)) {
                Ok(pass) => tables.push((table.name, pass)),
                Err(why) => warn!(
                    map = table.name,
                    "entries of the agent before are lost: {}",
                    chain(&why)
                ),
            }
        }
        let stage = map(&mut ebpf, names::HANDOVER)?;
        let mut tc_places = map(&mut ebpf, names::HANDOVER_TC)?;
        for program in Traced::ALL {
            place(
                &mut tc_places,
                program as u32,
                heritage.programs.get(program.program()),
            )?;
        }
        let mut xdp_place = map(&mut ebpf, names::HANDOVER_XDP)?;
        place(&mut xdp_place, 0, heritage.programs.get(xdp::PROGRAM))?;
        Ok(Self {
            ebpf,
            stage,
            places: vec![tc_places, xdp_place],
            tables,
            has_xdp,
            carried: Carried::default(),
        })
    }

    /// The instance of a program at TC.
    pub(in crate::load) fn classifier(
        &mut self,
        name: &'static str,
    ) -> Result<&mut SchedClassifier, LoadError> {
        loader::classifier(&mut self.ebpf, name)
    }

    /// The instance of the program at XDP, if the generation before was there.
    pub(in crate::load) fn xdp(&mut self) -> Option<&mut Xdp> {
        self.has_xdp.then(|| xdp::program(&mut self.ebpf).ok()).flatten()
    }

    /// Copies all tables. In the end new flows are opened in the new ones. To be called when every program is one of these.
    pub(in crate::load) fn copy(&mut self) {
        // Old programs that were running when they were replaced come to their end.
        membarrier::grace_period();
        let mut before = u64::MAX;
        for _ in 0..ROUNDS {
            let found = self.pass(Round::Copying);
            if found == 0 || found > before / PART {
                break;
            }
            before = found;
        }
        if let Err(error) = self.stage.set(0, Stage::Opening as u32, 0) {
            warn!("flows that are opened now may be lost: {error}");
        }
        // Programs that have not seen that yet come to their end.
        membarrier::grace_period();
        self.pass(Round::Last);
    }

    /// The last round, when no packet comes to the old programs any more; then they are let go.
    pub(in crate::load) fn end(mut self) -> Carried {
        membarrier::grace_period();
        self.pass(Round::Last);
        self.places.iter_mut().for_each(clear);
        let Carried {
            copied,
            renewed,
            lost,
        } = self.carried;
        info!(
            copied,
            renewed, lost, "the tables of the agent before were laid out otherwise: their entries are copied"
        );
        self.carried
    }

    /// One round over all tables; gives how many entries were new.
    fn pass(&mut self, round: Round) -> u64 {
        let before = self.carried.copied;
        for (name, table) in &mut self.tables {
            match table.pass(round) {
                Ok(carried) => self.carried += carried,
                Err(why) => warn!(
                    map = name,
                    "entries of the agent before are lost: {}",
                    chain(&why)
                ),
            }
        }
        self.carried.copied - before
    }
}

/// What copies from one table into another.
fn between(name: &str, from: RawMap, to: RawMap) -> Result<Box<dyn Pass + Send>, RawError> {
    Ok(match names::FLOWS.iter().position(|flows| *flows == name) {
        Some(V4::INDEX) => Box::new(Flows::<Addr4>::new(from, to)?),
        Some(_) => Box::new(Flows::<Addr6>::new(from, to)?),
        None => Box::new(Carrier::new(from, to)?),
    })
}

/// Puts a program of the old generation in its place; if there is none, nothing.
fn place(places: &mut Places, index: u32, program: Option<&ProgramFd>) -> Result<(), LoadError> {
    let done = match program {
        Some(program) => places.set(index, program, 0),
        None => {
            let _ = places.clear_index(&index);
            Ok(())
        }
    };
    done.map_err(|error| LoadError::Maps(EbpfError::MapError(error)))
}

fn missing(name: &str) -> LoadError {
    LoadError::Maps(EbpfError::MapError(MapError::InvalidName {
        name: name.to_owned(),
    }))
}

fn map<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, LoadError> {
    let map = ebpf.take_map(name).ok_or_else(|| missing(name))?;
    T::try_from(map).map_err(|error| LoadError::Maps(EbpfError::MapError(error)))
}
