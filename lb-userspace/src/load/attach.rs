//! Keeps every device that matters under the right programs.
//!
//! *Input*: the node's devices. *Output*: links, pinned, so that they outlive this process. *Invariants*: a device
//! that is served stays served while programs are replaced; what fails on one device does not keep another waiting;
//! [`Attachments::sync`] may be repeated at any time and retries what failed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        Link as _, ProgramError, SchedClassifier,
        links::{FdLink, LinkError, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
    sys::SyscallError,
};
use lb_common::abi::DeviceKind;
use tracing::warn;

use super::{
    Direction, PinDirectory, PinDirectoryError,
    handover::{Handover, kept},
    loader::classifier,
    pin::{Place, failed},
    sockets::{AtSockets, Sockets},
    tc::{program_for, turn},
    xdp::{OnUplink, UplinkHook, Uplinks, XdpError},
};

/// Priority and handle of our clsact filters: fixed, so that a restart replaces them in place.
const FILTER_PRIORITY: u16 = 16;
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 0x1b);

/// Our programs on the node's devices.
#[derive(Debug)]
pub struct Attachments {
    ebpf: Ebpf,
    pins: PinDirectory,
    tcx: bool,
    /// What this process has attached, or taken over.
    attached: BTreeMap<Place, Attached>,
    /// Links of the process before, not yet taken over.
    inherited: BTreeMap<Place, PathBuf>,
    xdp: Uplinks,
    sockets: Sockets,
    /// Maps whose pins are replaced after the first `sync`.
    unpublished: Vec<String>,
    /// How the first `sync` begins, if tables of the process before are laid out otherwise.
    handover: Option<Handover>,
    maps: BTreeSet<String>,
}

/// What there is of maps when nothing is attached yet.
#[derive(Debug)]
pub(super) struct Maps {
    /// Names of those that have no pin of their own yet.
    pub(super) unpublished: Vec<String>,
    /// Names of those that are used on.
    pub(super) adopted: BTreeSet<String>,
    /// If there are tables of another layout.
    pub(super) handover: Option<Handover>,
}

/// A device, as far as attaching is concerned.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Target {
    /// Interface index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it leads to: decides on the programs.
    pub kind: DeviceKind,
}

#[derive(Debug)]
struct Attached {
    device: String,
    program: &'static str,
    /// The link's pin, or the note of a filter.
    path: PathBuf,
}

/// Why a program is not on a device, or a pin not in its place.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The program could not be attached.
    #[error("{device} ({direction}): cannot attach `{program}`")]
    Attach {
        /// Name of the device.
        device: String,
        /// Direction.
        direction: Direction,
        /// Name of the program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A program is not on the cgroup.
    #[error("{cgroup}: cannot attach `{program}`: is this a directory of a cgroup2 file system?")]
    Cgroup {
        /// The cgroup.
        cgroup: PathBuf,
        /// Name of the program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no XDP on a device.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// A pin could not be made, replaced or removed.
    #[error(transparent)]
    Pins(#[from] PinDirectoryError),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Attachments {
    pub(super) fn new(
        ebpf: Ebpf,
        pins: PinDirectory,
        tcx: bool,
        hook: UplinkHook,
        sockets: Sockets,
        maps: Maps,
    ) -> Result<Self, PinDirectoryError> {
        let inherited = if tcx {
            pins.pinned_links()?
        } else {
            pins.noted_filters()?
        };
        let xdp = Uplinks::new(hook, pins.pinned_xdp()?);
        let Maps {
            unpublished,
            adopted,
            handover,
        } = maps;
        let maps = adopted.into_iter().chain(unpublished.iter().cloned()).collect();
        Ok(Self {
            ebpf,
            pins,
            tcx,
            attached: BTreeMap::new(),
            inherited,
            xdp,
            sockets,
            unpublished,
            handover,
            maps,
        })
    }

    /// Whether links (rather than clsact filters) are used.
    #[must_use]
    pub const fn uses_tcx(&self) -> bool {
        self.tcx
    }

    /// What is to be at the uplinks' XDP hooks.
    #[must_use]
    pub const fn hook(&self) -> UplinkHook {
        self.xdp.hook()
    }

    /// The devices that have the XDP program.
    pub fn list_xdp(&self) -> impl Iterator<Item = &OnUplink> {
        self.xdp.list()
    }

    /// What is at sockets.
    #[must_use]
    pub const fn at_sockets(&self) -> &AtSockets {
        self.sockets.state()
    }

    /// What is attached by TC: device, direction, program.
    pub fn list(&self) -> impl Iterator<Item = (&str, Direction, &'static str)> {
        self.attached
            .iter()
            .map(|((_, direction), at)| (at.device.as_str(), *direction, at.program))
    }

    /// Attaches what is missing, replaces what is of the process before or of another kind, removes what is on
    /// devices that are gone or no longer concern us. The first call also replaces the pins of the maps.
    pub fn sync(&mut self, devices: impl IntoIterator<Item = Target>) -> Vec<AttachError> {
        let devices: Vec<Target> = devices.into_iter().collect();
        let wanted: BTreeMap<Place, (String, &'static str)> = devices.iter().flat_map(places).collect();
        let mut errors = Vec::new();
        let handover = self.handover.take().and_then(|handover| {
            let begun = self.begin_handover(handover, &wanted);
            begun.map_err(|error| errors.push(error.into())).ok()
        });
        // Removal first: an index or a name may have passed to another device.
        let gone: Vec<Place> = self
            .attached
            .keys()
            .chain(self.inherited.keys())
            .filter(|place| !wanted.contains_key(place))
            .copied()
            .collect();
        for place in gone {
            errors.extend(self.drop_place(place).err().map(AttachError::from));
        }
        let mut wanted: Vec<_> = wanted.into_iter().collect();
        wanted.sort_by_key(|(_, (_, program))| turn(program));
        for (place, (device, program)) in wanted {
            if self.attached.get(&place).is_some_and(|at| at.program == program) {
                continue;
            }
            match self.attach(place, &device, program) {
                Ok(path) => {
                    self.inherited.remove(&place);
                    self.attached.insert(
                        place,
                        Attached {
                            device,
                            program,
                            path,
                        },
                    );
                }
                Err(source) => {
                    errors.push(AttachError::Attach {
                        device,
                        direction: place.1,
                        program,
                        source,
                    });
                }
            }
        }
        let uplinks: BTreeMap<u32, String> = devices
            .into_iter()
            .filter(|device| device.kind == DeviceKind::Uplink)
            // Without TC there is nobody for what XDP leaves.
            .filter(|device| self.attached.contains_key(&(device.index, Direction::Ingress)))
            .map(|device| (device.index, device.name))
            .collect();
        errors.extend(self.xdp.sync(&mut self.ebpf, &self.pins, &uplinks));
        // What a socket leaves to TC, TC serves.
        errors.extend(self.sockets.sync(&mut self.ebpf, &self.pins));
        if let Some(handover) = handover {
            handover.end();
        }
        errors.extend(self.publish().err().map(AttachError::from));
        errors
    }

    /// Puts the instances that look whose a packet is in place of the programs of the process before, and copies the tables that
    /// are laid out otherwise.
    fn begin_handover(
        &mut self,
        mut handover: Handover,
        wanted: &BTreeMap<Place, (String, &'static str)>,
    ) -> Result<Handover, PinDirectoryError> {
        // Whoever comes after this process, however it ends, is to find both.
        for name in kept() {
            if let Some(at) = self.unpublished.iter().position(|other| other == name) {
                self.pins.publish_table(name)?;
                self.unpublished.remove(at);
            }
        }
        let mut failures = Vec::new();
        for (place, path) in &self.inherited {
            let Some((device, program)) = wanted.get(place) else {
                continue;
            };
            let done = handover
                .classifier(program)
                .map_err(BoxError::from)
                .and_then(|classifier| {
                    if self.tcx {
                        take_over(classifier, device, place.1, path).map(drop)
                    } else {
                        attach_filter(classifier, device, place.1)
                    }
                });
            failures.extend(done.err().map(|error| format!("{device} ({}): {error}", place.1)));
        }
        failures.extend(
            handover
                .xdp()
                .into_iter()
                .flat_map(|program| self.xdp.hand_over(program)),
        );
        for failure in failures {
            // What is not replaced here is a few lines on, and flows that are opened until then may be missed.
            warn!("the programs of the agent before are replaced at once: {failure}");
        }
        handover.copy();
        Ok(handover)
    }

    /// From here on, whoever opens a map by its pin sees those of the programs that now run.
    fn publish(&mut self) -> Result<(), PinDirectoryError> {
        if self.unpublished.is_empty() {
            return Ok(());
        }
        while let Some(name) = self.unpublished.last() {
            self.pins.publish_map(name)?;
            self.unpublished.pop();
        }
        self.remove_other_mechanism()?;
        self.pins.remove_other_maps(&self.maps)
    }

    fn attach(&mut self, place: Place, device: &str, program: &'static str) -> Result<PathBuf, BoxError> {
        let old = self
            .attached
            .get(&place)
            .map(|at| &at.path)
            .or_else(|| self.inherited.get(&place))
            .cloned();
        let classifier = classifier(&mut self.ebpf, program)?;
        if !self.tcx {
            let note = old.unwrap_or_else(|| self.pins.filter(device, place));
            // Noted first: a crash in between leaves a note too many, not a filter that nobody finds.
            fs::create_dir_all(&note).map_err(failed("create directory", &note))?;
            attach_filter(classifier, device, place.1)?;
            return Ok(note);
        }
        if let Some(path) = old {
            if take_over(classifier, device, place.1, &path)? {
                return Ok(path);
            }
            PinDirectory::remove_link(&path)?;
        }
        let path = self.pins.link(device, place);
        attach_link(classifier, device, place.1, &path)?;
        Ok(path)
    }

    fn drop_place(&mut self, place: Place) -> Result<(), PinDirectoryError> {
        let paths = [
            self.attached.remove(&place).map(|at| at.path),
            self.inherited.remove(&place),
        ];
        for path in paths.into_iter().flatten() {
            if self.tcx {
                PinDirectory::remove_link(&path)?;
            } else {
                remove_filter(place, &path)?;
            }
        }
        Ok(())
    }

    /// After a change between tcx and clsact, the former one's programs would translate a second time.
    fn remove_other_mechanism(&self) -> Result<(), PinDirectoryError> {
        if self.tcx {
            remove_filters(&self.pins)
        } else {
            self.pins
                .pinned_links()?
                .values()
                .try_for_each(|path| PinDirectory::remove_link(path))
        }
    }
}

fn places(device: &Target) -> impl Iterator<Item = (Place, (String, &'static str))> {
    Direction::ALL.into_iter().filter_map(|direction| {
        let program = program_for(device.kind, direction)?;
        Some(((device.index, direction), (device.name.clone(), program)))
    })
}

/// Puts `program` into a pinned link. `false`: the link is dead (its device is gone, or it is another device).
fn take_over(
    program: &mut SchedClassifier,
    device: &str,
    direction: Direction,
    path: &Path,
) -> Result<bool, BoxError> {
    let link = match PinnedLink::from_pin(path) {
        // A link of another kind is none of ours, whoever put it there.
        Ok(link) => match SchedClassifierLink::try_from(FdLink::from(link)) {
            Ok(link) => link,
            Err(_) => return Ok(false),
        },
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    };
    match program.attach_to_link(link) {
        // Closes our descriptor only: the pin keeps the link.
        Ok(id) => drop(program.take_link(id)?),
        Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
            if io_error.raw_os_error() == Some(libc::ENOLINK) =>
        {
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    }
    // Interface indices repeat across network namespaces and boots: is the link really on this device?
    let id = program.info()?.id();
    let (_, on_device) = SchedClassifier::query_tcx(device, direction.attach_type())?;
    Ok(on_device.iter().any(|program| program.id() == id))
}

fn attach_link(
    program: &mut SchedClassifier,
    device: &str,
    direction: Direction,
    path: &Path,
) -> Result<(), BoxError> {
    let options = TcAttachOptions::TcxOrder(direction.order());
    let id = program.attach_with_options(device, direction.attach_type(), options)?;
    FdLink::try_from(program.take_link(id)?)?.pin(path)?;
    Ok(())
}

fn attach_filter(program: &mut SchedClassifier, device: &str, direction: Direction) -> Result<(), BoxError> {
    // Exists already, or is made now; if neither, attaching says why.
    let _ = tc::qdisc_add_clsact(device);
    let id = match program.attach_to_link(filter_link(device, direction)?) {
        Ok(id) => id,
        Err(_) => {
            let options = NlOptions {
                priority: FILTER_PRIORITY,
                handle: FILTER_HANDLE,
                ..NlOptions::default()
            };
            let options = TcAttachOptions::Netlink(options);
            program.attach_with_options(device, direction.attach_type(), options)?
        }
    };
    // Dropping the link would remove the filter; it has to outlive this process.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn filter_link(device: &str, direction: Direction) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(
        device,
        direction.attach_type(),
        FILTER_PRIORITY,
        FILTER_HANDLE,
        None,
    )
}

/// Removes a filter of ours, and the note of it.
fn remove_filter((index, direction): Place, note: &Path) -> Result<(), PinDirectoryError> {
    // A device that is gone took its filters along.
    let device = nix::net::if_::if_indextoname(index)
        .ok()
        .and_then(|name| name.into_string().ok());
    if let Some(Ok(link)) = device.map(|device| filter_link(&device, direction)) {
        let _ = link.detach();
    }
    match fs::remove_dir(note) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", note)(error)),
        _ => Ok(()),
    }
}

/// Removes all filters of an instance.
pub(super) fn remove_filters(pins: &PinDirectory) -> Result<(), PinDirectoryError> {
    pins.noted_filters()?
        .iter()
        .try_for_each(|(place, note)| remove_filter(*place, note))
}
