//! Loads the object: which maps are adopted from the process before, which are made afresh.
//!
//! *Invariant*: nothing that packets pass through is touched here; a load that fails leaves the agent before it
//! working.

use std::{collections::BTreeMap, fs, io::ErrorKind, panic::resume_unwind, path::PathBuf, thread};

use aya::{
    Ebpf, EbpfError, EbpfLoader, TestRun, TestRunOptions,
    maps::Map,
    programs::{Program, ProgramError, SchedClassifier},
};
use lb_common::abi::{capacity, names};

use super::{
    Attachments, ObjectError, PinDirectory, PinDirectoryError, SocketOptions, TcAttach, UplinkHook,
    attach::Maps,
    handover::{Handover, Heritage, kept},
    object,
    pin::failed,
    probe,
    sockets::Sockets,
    tc::PROGRAMS,
    xdp,
};

/// The program that removes expired flows; it is run, never attached.
const SWEEP: &str = "sweep";

/// The global that has programs count for each Service.
pub(super) const SERVICE_COUNTERS: &str = "SERVICE_COUNTERS";

/// What to load, and where to keep it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of pins.
    pub pins: PinDirectory,
    /// Sizes of the maps.
    pub capacities: Capacities,
    /// How programs are attached to devices.
    pub tc_attach: TcAttach,
    /// Where packets from outside are translated.
    pub hook: UplinkHook,
    /// What is to be at sockets.
    pub sockets: SocketOptions,
    /// Packets and connections are counted for each Service.
    pub service_counters: bool,
}

/// Map sizes that differ from [`lb_common::abi::capacity`], by map name.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Capacities {
    max_entries: BTreeMap<&'static str, u32>,
}

/// Why programs or maps could not be put into the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The object itself is unusable.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The pin directory is unusable.
    #[error(transparent)]
    Pins(#[from] PinDirectoryError),
    /// Maps could not be made or programs not be linked to them.
    #[error("the kernel refuses the maps of the eBPF object")]
    Maps(#[source] EbpfError),
    /// The object lacks a program.
    #[error("the embedded eBPF object has no program `{0}`; rebuild it with `cargo xtask build`")]
    MissingProgram(&'static str),
    /// The verifier refused a program.
    #[error("the kernel refuses program `{name}`")]
    Program {
        /// Its name.
        name: &'static str,
        /// The verifier's log, among others.
        #[source]
        source: ProgramError,
    },
}

/// Programs and maps in the kernel, not yet on any device.
#[derive(Debug)]
pub struct Loaded {
    ebpf: Ebpf,
    options: Options,
    /// Names of the maps that have no pin of their own yet.
    unpublished: Vec<String>,
    adopted: Vec<&'static str>,
    /// If there are tables of another layout.
    handover: Option<Handover>,
    sockets: Sockets,
}

/// The handle to program `sweep`.
#[derive(Debug)]
pub struct Sweeper {
    program: SchedClassifier,
}

impl Capacities {
    /// Sizes the flow tables: at most `flows` entries per family, and as many places for unanswered flows as the
    /// default proportion gives (a power of two).
    #[must_use]
    pub fn with_flows(mut self, flows: u32) -> Self {
        let flows = flows.max(1024);
        let embryos = previous_power_of_two(flows / (capacity::FLOWS / capacity::EMBRYOS));
        for family in 0..2 {
            self.max_entries.insert(names::FLOWS[family], flows);
            self.max_entries.insert(names::EMBRYOS[family], embryos);
        }
        self
    }

    /// Leaves no room for counters of Services: nothing is counted there.
    #[must_use]
    pub fn without_traffic(self) -> Self {
        let [four, six] = names::TRAFFIC;
        self.with(four, 1).with(six, 1)
    }

    /// Sizes any map.
    #[must_use]
    pub fn with(mut self, map: &'static str, max_entries: u32) -> Self {
        self.max_entries.insert(map, max_entries);
        self
    }

    /// Slots for unanswered flows per family, for [`lb_common::abi::Node::embryo_mask`].
    #[must_use]
    pub fn embryos(&self) -> u32 {
        self.max_entries
            .get(names::EMBRYOS[0])
            .copied()
            .unwrap_or(capacity::EMBRYOS)
    }
}

impl FromIterator<(&'static str, u32)> for Capacities {
    fn from_iter<T: IntoIterator<Item = (&'static str, u32)>>(sizes: T) -> Self {
        Self {
            max_entries: sizes.into_iter().collect(),
        }
    }
}

const fn previous_power_of_two(number: u32) -> u32 {
    1 << number.ilog2()
}

/// Loads the embedded object. Call [`probe::check`] first: it explains what this would only fail at.
///
/// # Errors
/// If object, maps or programs are refused.
pub fn load(options: Options) -> Result<Loaded, LoadError> {
    let object = object::embedded()?;
    let pins = &options.pins;
    pins.create()?;
    let max_entries = &options.capacities.max_entries;
    let shapes = object::map_shapes(object, max_entries)?;

    let heritage = Heritage::find(pins, &shapes, object)?;
    let mut loader = with(&options);
    for (name, path) in heritage.adopted() {
        loader.map_pin_path(name, path);
    }
    let mut ebpf = loader.load(object).map_err(LoadError::Maps)?;

    verify(&mut ebpf, options.hook)?;
    let sockets = Sockets::prepare(&mut ebpf, &options.sockets);
    #[cfg(feature = "log")]
    super::log::follow(&mut ebpf);
    let mut unpublished = Vec::new();
    for (name, map) in ebpf.maps() {
        // Globals (".rodata" and the like) and logs concern nobody else, but for one.
        let is_pinned = (!name.starts_with('.') || name == names::TRACE) && name != "AYA_LOGS";
        if is_pinned && !heritage.is_in_place(name, pins) {
            pins.prepare_map(name, map)?;
            unpublished.push(name.to_owned());
        }
    }
    let adopted = heritage.adopted().map(|(name, _)| name).collect();
    let handover = if heritage.has_tables() {
        Some(take_over(object, &options, heritage, &ebpf, &unpublished)?)
    } else {
        None
    };
    Ok(Loaded {
        ebpf,
        options,
        unpublished,
        adopted,
        handover,
        sockets,
    })
}

/// A loader that makes maps of these sizes, and programs that count what they are to.
fn with(options: &Options) -> EbpfLoader<'_> {
    let mut loader = EbpfLoader::new();
    let counted = if options.service_counters { &1_u8 } else { &0 };
    loader.override_global(SERVICE_COUNTERS, counted, true);
    for (name, size) in &options.capacities.max_entries {
        loader.map_max_entries(name, *size);
    }
    loader
}

/// Loads what takes over from programs whose tables are laid out otherwise, over the maps of `ebpf`.
fn take_over(
    object: &[u8],
    options: &Options,
    heritage: Heritage,
    ebpf: &Ebpf,
    unpublished: &[String],
) -> Result<Handover, LoadError> {
    let pinned = |name: &str| match unpublished.iter().any(|other| other == name) {
        true => Some(options.pins.replacement(name)),
        false => kept().any(|kept| kept == name).then(|| options.pins.map(name)),
    };
    let pins: BTreeMap<String, PathBuf> = ebpf
        .maps()
        .filter_map(|(name, _)| Some((name.to_owned(), pinned(name)?)))
        .collect();
    let mut loader = with(options);
    for (name, path) in &pins {
        loader.map_pin_path(name, path);
    }
    Handover::load(object, loader, &pins, heritage)
}

impl Loaded {
    /// Takes a map out, to be filled and kept.
    pub fn take_map(&mut self, name: &str) -> Option<Map> {
        self.ebpf.take_map(name)
    }

    /// The maps that hold what a process before this one wrote: flows and counters, if they are laid out the same.
    #[must_use]
    pub fn adopted(&self) -> &[&'static str] {
        &self.adopted
    }

    /// Whether there are flows of a process before this one: used on, or to be copied.
    #[must_use]
    pub fn inherits_flows(&self) -> bool {
        self.handover.is_some() || self.adopted.iter().any(|name| names::FLOWS.contains(name))
    }

    /// A handle of its own to the program that removes expired flows.
    ///
    /// # Errors
    /// If the program cannot be pinned for the moment that this takes.
    pub fn sweeper(&mut self) -> Result<Sweeper, LoadError> {
        // aya gives no second handle to a program, but opens one by its pin.
        let path = self.options.pins.map("new-sweep");
        let error = |source| LoadError::Program { name: SWEEP, source };
        let _ = fs::remove_file(&path);
        let program = classifier(&mut self.ebpf, SWEEP)?;
        program.pin(&path).map_err(|source| PinDirectoryError::Pin {
            path: path.clone(),
            source,
        })?;
        let program = SchedClassifier::from_pin(&path).map_err(error);
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        Ok(Sweeper { program: program? })
    }

    /// What attaches the programs to devices. Fill the maps before its first `sync`.
    ///
    /// # Errors
    /// If the pinned links cannot be listed.
    pub fn into_attachments(self) -> Result<Attachments, LoadError> {
        let Self {
            ebpf,
            options,
            unpublished,
            adopted,
            handover,
            sockets,
        } = self;
        let Options {
            pins,
            capacities: _,
            tc_attach,
            hook,
            sockets: _,
            service_counters: _,
        } = options;
        let maps = Maps {
            unpublished,
            adopted: adopted.into_iter().map(str::to_owned).collect(),
            handover,
        };
        Ok(Attachments::new(
            ebpf,
            pins,
            probe::tcx(tc_attach),
            hook,
            sockets,
            maps,
        )?)
    }
}

impl Sweeper {
    /// Runs the program once on `frame`, which it writes its findings into.
    ///
    /// # Errors
    /// If the kernel refuses to run it.
    pub fn run<const LENGTH: usize>(&self, frame: &mut [u8; LENGTH]) -> Result<(), ProgramError> {
        let input = *frame;
        let options = TestRunOptions {
            data_in: Some(&input),
            data_out: Some(frame),
            ..TestRunOptions::default()
        };
        self.program.test_run(options).map(drop)
    }
}

/// Takes everything of an instance out of the kernel: links, filters, maps. (`lb0` and routes: see `node::host`.)
///
/// # Errors
/// If pins cannot be removed.
pub fn detach(pins: &PinDirectory) -> Result<(), PinDirectoryError> {
    super::attach::remove_filters(pins)?;
    pins.remove()
}

/// Has all programs verified that will be used.
fn verify(ebpf: &mut Ebpf, hook: UplinkHook) -> Result<(), LoadError> {
    let mut names: Vec<_> = PROGRAMS.into_iter().chain([SWEEP]).collect();
    names.extend(hook.is_xdp().then_some(xdp::PROGRAM));
    let verified = verify_all(ebpf, &names)?;
    verified
        .into_iter()
        .try_for_each(|(name, verified)| verified.map_err(|source| LoadError::Program { name, source }))
}

/// What the verifier says of a program.
pub(super) type Verified = (&'static str, Result<(), ProgramError>);

/// Has these programs verified, each by a thread of its own: most of the time that a start takes.
///
/// # Errors
/// If the object lacks one.
pub(super) fn verify_all(ebpf: &mut Ebpf, names: &[&'static str]) -> Result<Vec<Verified>, LoadError> {
    if let Some(missing) = names.iter().find(|name| ebpf.program(name).is_none()) {
        return Err(LoadError::MissingProgram(missing));
    }
    let named = |name: &str| names.iter().find(|known| **known == name).copied();
    Ok(thread::scope(|scope| {
        let threads: Vec<_> = ebpf
            .programs_mut()
            .filter_map(|(name, program)| Some((named(name)?, program)))
            .map(|(name, program)| (name, scope.spawn(|| verify_one(program))))
            .collect();
        let join = |(name, thread): (_, thread::ScopedJoinHandle<'_, _>)| {
            (name, thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
        };
        threads.into_iter().map(join).collect()
    }))
}

/// How often the verifier may be disturbed.
const ATTEMPTS: usize = 5;

/// Has one program verified. The verifier gives up with EAGAIN when its thread gets a signal, and is asked again then.
///
/// # Errors
/// What the kernel has against the program.
pub fn verify_one(program: &mut Program) -> Result<(), ProgramError> {
    let mut attempt = || match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
    attempt()
}

pub(super) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, LoadError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(LoadError::MissingProgram(name))
}
