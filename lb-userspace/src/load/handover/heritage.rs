//! What there is of the generations before.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use aya::programs::{ProgramFd, loaded_programs};
use lb_common::abi::names;
use tracing::warn;

use super::raw::RawMap;
use crate::load::{
    MapShape, PinDirectory, PinDirectoryError,
    object::{self, MapTypes},
    tc, xdp,
};

/// What becomes of a map when another process takes over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keep {
    /// It is used on. If it is laid out otherwise, its entries are copied.
    Copied,
    /// It is used on, if it is laid out the same.
    Used,
    /// It is used on by the same version: what its places stand for is not in its type.
    ByItsVersion,
}

/// The maps that hold the state of connections: the only ones that outlive the process that filled them.
const KEPT: [(&str, Keep); 15] = [
    (names::FLOWS[0], Keep::Copied),
    (names::FLOWS[1], Keep::Copied),
    (names::EMBRYOS[0], Keep::Used),
    (names::EMBRYOS[1], Keep::Used),
    (names::AFFINITY[0], Keep::Copied),
    (names::AFFINITY[1], Keep::Copied),
    (names::FRAGMENTS[0], Keep::Copied),
    (names::FRAGMENTS[1], Keep::Copied),
    (names::FRAGMENT_ID, Keep::Used),
    (names::PEERS, Keep::Used),
    (names::COUNTERS, Keep::ByItsVersion),
    (names::TRAFFIC[0], Keep::ByItsVersion),
    (names::TRAFFIC[1], Keep::ByItsVersion),
    (names::HANDOVER_TC, Keep::ByItsVersion),
    (names::HANDOVER_XDP, Keep::ByItsVersion),
];

/// The names of these maps.
pub(in crate::load) fn kept() -> impl Iterator<Item = &'static str> {
    KEPT.into_iter().map(|(name, _)| name)
}

/// What there is of the generations before.
#[derive(Debug, Default)]
pub(in crate::load) struct Heritage {
    /// Maps that are used on: where they are pinned.
    adopted: BTreeMap<&'static str, PathBuf>,
    /// Tables that entries are to be copied from.
    pub(super) tables: Vec<Table>,
    /// The programs that work on them, by name.
    pub(super) programs: BTreeMap<&'static str, ProgramFd>,
}

/// A table of a generation before.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) map: RawMap,
}

impl Heritage {
    /// Looks for it. `shapes`: of the maps that this generation will have.
    pub(in crate::load) fn find(
        pins: &PinDirectory,
        shapes: &BTreeMap<String, MapShape>,
        object: &[u8],
    ) -> Result<Self, PinDirectoryError> {
        let others = pins.generations_before()?;
        let mut found = Self::default();
        // Parsed only if there is somebody to be compared with.
        let mut types = None;
        for (name, keep) in KEPT {
            let Some(shape) = shapes.get(name) else { continue };
            let here = pins.map(name);
            if pins.has_map(name, shape) {
                found.adopted.insert(name, here.clone());
            }
            if keep == Keep::ByItsVersion {
                continue;
            }
            let others = others.iter().filter_map(|generation| generation.get(name));
            let open = match keep {
                Keep::Copied => RawMap::open_table,
                _ => RawMap::open,
            };
            for pin in others.chain([&here]) {
                let Ok(map) = open(pin) else { continue };
                let adopted = found.adopted.get(name);
                if adopted.is_some_and(|adopted| is_same(adopted, &map)) {
                    continue;
                }
                let types = types.get_or_insert_with(|| object::map_types(object).unwrap_or_default());
                if adopted.is_none() && map.shape() == *shape && is_laid_out_so(&map, types, name) {
                    found.adopted.insert(name, pin.clone());
                } else if keep == Keep::Copied {
                    found.tables.push(Table { name, map });
                }
            }
        }
        if !found.tables.is_empty() {
            found.programs = programs_over(&found.tables);
        }
        if found.programs.is_empty() {
            // Nobody has served from them lately.
            found.tables.clear();
        }
        Ok(found)
    }

    /// The maps that are used on, in the order of [`kept`], and where they are pinned.
    pub(in crate::load) fn adopted(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        kept().filter_map(|name| Some((name, self.adopted.get(name)?.as_path())))
    }

    /// Whether a map is used on and has its pin already.
    pub(in crate::load) fn is_in_place(&self, name: &str, pins: &PinDirectory) -> bool {
        self.adopted.get(name).is_some_and(|at| *at == pins.map(name))
    }

    /// Whether there are tables to be copied.
    pub(in crate::load) fn has_tables(&self) -> bool {
        !self.tables.is_empty()
    }
}

fn is_same(pin: &Path, map: &RawMap) -> bool {
    RawMap::open(pin).is_ok_and(|other| other.id() == map.id())
}

/// Whether keys and values are laid out as this generation has them.
fn is_laid_out_so(map: &RawMap, types: &MapTypes, name: &str) -> bool {
    match (map.schemas(), types.schemas(name)) {
        (Ok(theirs), Some(ours)) => ours == Ok(theirs),
        (Err(why), _) => {
            warn!(
                map = name,
                "a map of the agent before is not used on: {}",
                chain(&why)
            );
            false
        }
        (_, None) => false,
    }
}

/// Our programs in the kernel that use any of these tables.
fn programs_over(tables: &[Table]) -> BTreeMap<&'static str, ProgramFd> {
    let ids: BTreeSet<u32> = tables.iter().map(|table| table.map.id()).collect();
    let known = |name: &str| {
        tc::PROGRAMS
            .into_iter()
            .chain([xdp::PROGRAM])
            .find(|known| *known == name)
    };
    let mut found = BTreeMap::new();
    for program in loaded_programs().filter_map(Result::ok) {
        let Some(name) = program.name_as_str().and_then(known) else {
            continue;
        };
        let uses = program.map_ids().ok().flatten().unwrap_or_default();
        // The first ones: those that note what they do for a trace are loaded later.
        if uses.iter().any(|id| ids.contains(id))
            && !found.contains_key(name)
            && let Ok(fd) = program.fd()
        {
            found.insert(name, fd);
        }
    }
    found
}

/// An error with everything below it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
