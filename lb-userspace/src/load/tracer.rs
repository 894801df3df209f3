//! Second instances of the programs, which note every step that a packet takes, and the ring that they write to.
//!
//! While somebody watches, the programs of the devices and sockets hand packets over to them. They work on the same maps, and so
//! do to a packet what the first instance would have done.
//!
//! *Invariant*: whatever becomes of this process, the first instances go on by themselves within seconds: they are told until
//! when somebody watches, and that is moved on only while this process runs.

use std::{fmt, fs, path::PathBuf};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, MapInfo, RingBuf},
    programs::{Program, ProgramError},
};
use lb_common::abi::{End, Record, Trace, Traced, names};

use super::{
    LoadError, PinDirectory,
    loader::{SERVICE_COUNTERS, verify_all},
    object,
    places::{Places, clear},
    tc::PROGRAMS,
    xdp,
};

/// The programs at sockets that have a second instance.
const CONNECT: [&str; 2] = ["connect4", "connect6"];
/// The arrays that have a place for one program, and which.
const ONE_EACH: [(&str, &str); 3] = [
    (names::TRACE_XDP, xdp::PROGRAM),
    (names::TRACE_CONNECT[0], CONNECT[0]),
    (names::TRACE_CONNECT[1], CONNECT[1]),
];

/// Why nothing can be watched.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    /// There is nothing to watch.
    #[error("no agent has run here: there are no maps in {}", .0.display())]
    NoAgent(PathBuf),
    /// There can be one at a time.
    #[error("somebody watches already on this node; there can be one at a time")]
    Busy,
    /// The second instances cannot be had.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A map cannot be used.
    #[error("the map `{name}` cannot be used")]
    Map {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: MapError,
    },
}

/// Second instances in place, and nobody watching yet.
pub struct Tracer {
    // Programs are unloaded with it.
    _ebpf: Ebpf,
    trace: Array<MapData, Trace>,
    ends: HashMap<MapData, End, u32>,
    ring: RingBuf<MapData>,
    places: Vec<Places>,
    at: PathBuf,
    id: u32,
    flags: u32,
    put: Vec<End>,
    /// Programs that have no second instance, and why.
    missing: Vec<(&'static str, ProgramError)>,
}

fn broken(name: &'static str) -> impl Fn(MapError) -> TracerError {
    move |source| TracerError::Map { name, source }
}

/// The kernel's number of the map that is pinned there.
fn id_at(pin: &PathBuf) -> Option<u32> {
    MapInfo::from_pin(pin).ok().map(|info| info.id())
}

impl Tracer {
    /// Loads second instances of all programs over the maps that are pinned. `now`: the tick.
    ///
    /// # Errors
    /// If there are no maps, if somebody watches already, if the kernel refuses a program.
    pub fn load(pins: &PinDirectory, now: u32) -> Result<Self, TracerError> {
        let object = object::embedded().map_err(LoadError::from)?;
        let shapes =
            object::map_shapes(object, &std::collections::BTreeMap::new()).map_err(LoadError::from)?;
        let at = pins.map(names::TRACE);
        let Some(id) = id_at(&at) else {
            return Err(TracerError::NoAgent(at));
        };
        let found = MapData::from_pin(&at).map_err(broken(names::TRACE))?;
        let seen: Array<_, Trace> = Map::Array(found).try_into().map_err(broken(names::TRACE))?;
        let seen = seen.get(&0, 0).map_err(broken(names::TRACE))?;
        if seen.until != 0 && (seen.until.wrapping_sub(now) as i32) > 0 {
            return Err(TracerError::Busy);
        }
        let mut loader = EbpfLoader::new();
        loader.override_global("TRACED", &1u8, true);
        // Services are counted where there is room for it.
        let traffic = MapInfo::from_pin(pins.map(names::TRAFFIC[0]));
        let counted = u8::from(traffic.is_ok_and(|map| map.max_entries() > 1));
        loader.override_global(SERVICE_COUNTERS, &counted, true);
        for name in shapes.keys() {
            let pin = pins.map(name);
            if fs::exists(&pin).unwrap_or(false) {
                loader.map_pin_path(name, pin);
            }
        }
        let mut ebpf = loader.load(object).map_err(LoadError::Maps)?;
        let trace = map(&mut ebpf, names::TRACE)?;
        let missing = verify(&mut ebpf)?;
        let mut tc: Places = map(&mut ebpf, names::TRACE_TC)?;
        for program in Traced::ALL {
            place(&ebpf, names::TRACE_TC, &mut tc, program as u32, program.program())?;
        }
        let mut places = vec![tc];
        for (array, program) in ONE_EACH {
            let mut one: Places = map(&mut ebpf, array)?;
            if missing.iter().all(|(name, _)| *name != program) {
                place(&ebpf, array, &mut one, 0, program)?;
            }
            places.push(one);
        }
        let ends = map(&mut ebpf, names::TRACE_ENDS)?;
        let mut ring: RingBuf<_> = map(&mut ebpf, names::TRACE_RING)?;
        // What somebody left who was killed.
        while ring.next().is_some() {}
        Ok(Self {
            _ebpf: ebpf,
            trace,
            ends,
            ring,
            places,
            at,
            id,
            flags: 0,
            put: Vec::new(),
            missing,
        })
    }

    /// Programs of which there is no second instance: this kernel does not take them. (They are not on anything then.)
    #[must_use]
    pub fn missing(&self) -> &[(&'static str, ProgramError)] {
        &self.missing
    }

    /// What is watched from now on: packets between any of these ends at [`End::FROM`] and any at [`End::TO`]; of a side of
    /// which there is none, all.
    ///
    /// # Errors
    /// If there are too many.
    pub fn watch(&mut self, ends: &[End]) -> Result<(), TracerError> {
        // What somebody left who was killed.
        let left: Vec<End> = self.ends.keys().flatten().collect();
        for end in left {
            let _ = self.ends.remove(&end);
        }
        for end in ends {
            self.ends.insert(end, 1, 0).map_err(broken(names::TRACE_ENDS))?;
        }
        let has = |side, flag| {
            if ends.iter().any(|end| end.side == side) {
                flag
            } else {
                0
            }
        };
        self.flags = has(End::FROM, Trace::FROM) | has(End::TO, Trace::TO);
        self.put = ends.to_vec();
        Ok(())
    }

    /// Watches one more end.
    ///
    /// # Errors
    /// If there are too many.
    pub fn also(&mut self, end: End) -> Result<(), TracerError> {
        self.put.push(end);
        self.ends.insert(end, 1, 0).map_err(broken(names::TRACE_ENDS))
    }

    /// Somebody watches until this tick.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn until(&mut self, tick: u32) -> Result<(), TracerError> {
        let trace = Trace {
            until: tick,
            flags: self.flags,
        };
        self.trace.set(0, trace, 0).map_err(broken(names::TRACE))
    }

    /// Whether another agent has put maps of its own in place of these: nothing comes any more.
    #[must_use]
    pub fn is_left_behind(&self) -> bool {
        id_at(&self.at) != Some(self.id)
    }

    /// The next record, if there is one. (Waiting for the ring itself would need `unsafe`: look every few milliseconds.)
    pub fn record(&mut self) -> Option<Record> {
        let bytes = self.ring.next()?;
        (bytes.len() == size_of::<Record>()).then(|| bytemuck::pod_read_unaligned(&bytes))
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.trace.set(0, Trace::default(), 0);
        for end in &self.put {
            let _ = self.ends.remove(end);
        }
        self.places.iter_mut().for_each(clear);
    }
}

/// Has all programs verified. Gives those at sockets that the kernel does not take.
fn verify(ebpf: &mut Ebpf) -> Result<Vec<(&'static str, ProgramError)>, LoadError> {
    let packets = PROGRAMS.into_iter().chain([xdp::PROGRAM]);
    let names: Vec<_> = packets.chain(CONNECT).collect();
    let mut missing = Vec::new();
    for (name, verified) in verify_all(ebpf, &names)? {
        match verified {
            Err(why) if CONNECT.contains(&name) => missing.push((name, why)),
            verified => verified.map_err(|source| LoadError::Program { name, source })?,
        }
    }
    Ok(missing)
}

/// Puts a program into an array.
fn place(
    ebpf: &Ebpf,
    array: &'static str,
    places: &mut Places,
    index: u32,
    name: &'static str,
) -> Result<(), TracerError> {
    let program: &Program = ebpf.program(name).ok_or(LoadError::MissingProgram(name))?;
    let program = program
        .fd()
        .map_err(|source| LoadError::Program { name, source })?;
    places.set(index, program, 0).map_err(broken(array))
}

fn map<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, TracerError> {
    let map = ebpf
        .take_map(name)
        .ok_or(LoadError::Maps(EbpfError::MapError(MapError::InvalidName {
            name: name.to_owned(),
        })))?;
    T::try_from(map).map_err(broken(name))
}
