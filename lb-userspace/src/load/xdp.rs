//! Keeps the uplinks under the XDP program, beside TC.
//!
//! *Input*: the uplinks, and what the operator wants of XDP. *Output*: links, pinned, so that they outlive this
//! process. *Invariants*: TC serves every device that XDP is on, so nothing that is put on or taken off here
//! interrupts a flow; what others have at a device's XDP hook stays there, and is named.

pub(super) mod query;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    programs::{
        Xdp,
        links::{FdLink, PinnedLink},
        loaded_programs, xdp,
    },
};

use super::{LoadError, PinDirectory};
use query::Seen;

/// The program's name.
pub(super) const PROGRAM: &str = "uplink_xdp";
/// How long the kernel may take to take a program off a device after the last reference to its link is gone.
const GRACE: Duration = Duration::from_secs(2);

/// At which hook of the uplinks packets from outside are translated. TC is always there: for what XDP leaves to it, and
/// where there is no XDP.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum UplinkHook {
    /// TC alone.
    #[default]
    Tc,
    /// XDP in the driver; in the stack where the driver cannot.
    Xdp,
    /// XDP in the driver, or not at all.
    XdpNative,
    /// XDP in the stack: works on every device, and is slower.
    XdpGeneric,
}

/// Where the kernel runs an XDP program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum XdpMode {
    /// In the driver, before there is a socket buffer.
    Native,
    /// In the stack.
    Generic,
}

/// XDP on a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OnUplink {
    /// Name of the device.
    pub device: String,
    /// Where the program runs.
    pub mode: XdpMode,
    /// Why it does not run in the driver, although it was to.
    pub reason: Option<String>,
}

/// Why there is no XDP on a device. TC serves it alone.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// Something else is there.
    #[error(
        "{device}: another XDP program, `{name}` (id {id}, {mode}), is on the device; TC serves it alone until that is \
         gone: see `bpftool net show dev {device}`, remove it with `ip link set dev {device} xdp off` or by its owner"
    )]
    Foreign {
        /// Name of the device.
        device: String,
        /// Name of the program.
        name: String,
        /// Its number.
        id: u32,
        /// Where it runs.
        mode: &'static str,
    },
    /// It cannot be put there.
    #[error("{device}: cannot attach `{PROGRAM}` by XDP ({mode}); TC serves the device alone")]
    Attach {
        /// Name of the device.
        device: String,
        /// Where it was to run.
        mode: XdpMode,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel does not say what is there.
    #[error("{device}: cannot learn what is at its XDP hook; TC serves the device alone")]
    Query {
        /// Name of the device.
        device: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// What was there does not go.
    #[error("{device}: the XDP program of before does not leave the device; TC serves it beside that")]
    Stuck {
        /// Name of the device.
        device: String,
    },
}

/// A value of `--hook` that is none.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no hook: use tc, xdp, xdp-native or xdp-generic")]
pub struct UnknownHook(String);

/// What is, or should be, at the XDP hooks of the uplinks.
#[derive(Debug)]
pub(super) struct Uplinks {
    hook: UplinkHook,
    /// What this process has attached, or taken over.
    attached: BTreeMap<u32, (OnUplink, PathBuf)>,
    /// Links of the process before, not yet taken over.
    inherited: BTreeMap<(u32, XdpMode), PathBuf>,
}

impl Uplinks {
    pub(super) fn new(hook: UplinkHook, inherited: BTreeMap<(u32, XdpMode), PathBuf>) -> Self {
        Self {
            hook,
            attached: BTreeMap::new(),
            inherited,
        }
    }

    pub(super) const fn hook(&self) -> UplinkHook {
        self.hook
    }

    pub(super) fn list(&self) -> impl Iterator<Item = &OnUplink> {
        self.attached.values().map(|(on, _)| on)
    }

    /// Attaches what is missing, takes over what is of the process before, removes the rest. To be called when TC
    /// serves the devices.
    pub(super) fn sync(
        &mut self,
        ebpf: &mut Ebpf,
        pins: &PinDirectory,
        uplinks: &BTreeMap<u32, String>,
    ) -> Vec<super::AttachError> {
        let wanted = |index: &u32| self.hook != UplinkHook::Tc && uplinks.contains_key(index);
        let mut unwanted = Vec::new();
        self.attached.retain(|index, (_, path)| {
            let keep = wanted(index);
            if !keep {
                unwanted.push(path.clone());
            }
            keep
        });
        self.inherited.retain(|(index, _), path| {
            let keep = wanted(index);
            if !keep {
                unwanted.push(path.clone());
            }
            keep
        });
        let mut errors: Vec<super::AttachError> = unwanted
            .iter()
            .filter_map(|path| PinDirectory::remove_link(path).err())
            .map(super::AttachError::from)
            .collect();
        if self.hook != UplinkHook::Tc {
            for (index, device) in uplinks {
                errors.extend(self.serve(ebpf, pins, *index, device).err());
            }
        }
        errors
    }

    /// Puts a program into the links of the process before, whatever becomes of them then. Gives what failed.
    pub(super) fn hand_over(&self, program: &mut Xdp) -> Vec<String> {
        let mut failures = Vec::new();
        for path in self.inherited.values() {
            let link = PinnedLink::from_pin(path).map_err(BoxError::from);
            let done = link.and_then(|link| take_over(program, FdLink::from(link)));
            failures.extend(done.err().map(|error| format!("{}: {error}", path.display())));
        }
        failures
    }

    /// Brings one device in line.
    fn serve(
        &mut self,
        ebpf: &mut Ebpf,
        pins: &PinDirectory,
        index: u32,
        device: &str,
    ) -> Result<(), super::AttachError> {
        let program = program(ebpf).map_err(|error| attach_error(device, self.hook.modes()[0], error))?;
        let mut seen = seen_on(device, index)?;
        if let Some((on, path)) = self.attached.remove(&index) {
            let own = program.info().map(|info| info.id()).unwrap_or_default();
            if seen == Some(Seen::of(on.mode, own)) {
                self.attached.insert(index, (on, path));
                return Ok(());
            }
            // Somebody has taken it off, or the device is a new one of the same index.
            PinDirectory::remove_link(&path)?;
        }
        let inherited = [XdpMode::Native, XdpMode::Generic]
            .map(|mode| Some((mode, self.inherited.remove(&(index, mode))?)));
        for (mode, path) in inherited.into_iter().flatten() {
            let link = PinnedLink::from_pin(&path).ok().map(FdLink::from);
            let id = link
                .as_ref()
                .and_then(|link| Some(link.info().ok()?.program_id()));
            // A link that is dead, or of a device of the same index elsewhere, is on none that is seen here.
            let here = id.is_some_and(|id| seen == Some(Seen::of(mode, id)));
            // With the driver preferred, one in the stack is tried there once more.
            let link = link.filter(|_| here && mode == self.hook.modes()[0]);
            // (Consumed or dropped here: an open link keeps its program where it is.)
            if link.is_some_and(|link| take_over(program, link).is_ok()) {
                let on = OnUplink {
                    device: device.to_owned(),
                    mode,
                    reason: None,
                };
                self.attached.insert(index, (on, path));
                continue;
            }
            PinDirectory::remove_link(&path)?;
            if here {
                seen = wait_until_free(device, index)?;
            }
        }
        if self.attached.contains_key(&index) {
            return Ok(());
        }
        if let Some(seen) = seen {
            return Err(foreign(device, seen).into());
        }
        let on = self.attach(program, pins, index, device)?;
        self.attached.insert(index, on);
        Ok(())
    }

    /// Puts the program on a device that has none.
    fn attach(
        &self,
        program: &mut Xdp,
        pins: &PinDirectory,
        index: u32,
        device: &str,
    ) -> Result<(OnUplink, PathBuf), super::AttachError> {
        let mut reason = None;
        let mut failure = None;
        for mode in self.hook.modes() {
            let path = pins.xdp(device, index, *mode);
            match attach(program, index, *mode, &path) {
                Ok(()) => {
                    let on = OnUplink {
                        device: device.to_owned(),
                        mode: *mode,
                        reason,
                    };
                    return Ok((on, path));
                }
                Err(error) => {
                    reason.get_or_insert_with(|| innermost(&*error));
                    failure = Some(attach_error(device, *mode, error));
                }
            }
        }
        // Whoever came between the look and the attempt is the reason.
        match seen_on(device, index)? {
            Some(seen) => Err(foreign(device, seen).into()),
            None => Err(failure.expect("a hook that is XDP has a mode").into()),
        }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The program, verified or not.
pub(super) fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, BoxError> {
    ebpf.program_mut(PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| LoadError::MissingProgram(PROGRAM).into())
}

fn take_over(program: &mut Xdp, link: FdLink) -> Result<(), BoxError> {
    let id = program.attach_to_link(link.try_into()?)?;
    // Closes our descriptor only: the pin keeps the link.
    drop(program.take_link(id)?);
    Ok(())
}

fn attach(program: &mut Xdp, index: u32, mode: XdpMode, path: &Path) -> Result<(), BoxError> {
    let mode = match mode {
        XdpMode::Native => xdp::XdpMode::Driver,
        XdpMode::Generic => xdp::XdpMode::Skb,
    };
    let id = program.attach_to_if_index(index, mode)?;
    // A crash before the link is pinned takes it off again: nothing is left that nobody finds.
    FdLink::try_from(program.take_link(id)?)?.pin(path)?;
    Ok(())
}

fn seen_on(device: &str, index: u32) -> Result<Option<Seen>, XdpError> {
    query::on_device(index).map_err(|source| XdpError::Query {
        device: device.to_owned(),
        source,
    })
}

/// The kernel lets go of a link's program only some time after the link's pin is gone, and takes no other until then.
fn wait_until_free(device: &str, index: u32) -> Result<Option<Seen>, XdpError> {
    let start = Instant::now();
    while seen_on(device, index)?.is_some() {
        if start.elapsed() > GRACE {
            return Err(XdpError::Stuck {
                device: device.to_owned(),
            });
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(None)
}

fn foreign(device: &str, seen: Seen) -> XdpError {
    let name = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == seen.program)
        .and_then(|program| Some(program.name_as_str()?.to_owned()));
    XdpError::Foreign {
        device: device.to_owned(),
        name: name.unwrap_or_else(|| "?".to_owned()),
        id: seen.program,
        mode: seen.place,
    }
}

fn attach_error(device: &str, mode: XdpMode, source: BoxError) -> XdpError {
    XdpError::Attach {
        device: device.to_owned(),
        mode,
        source,
    }
}

/// What the kernel said, without who asked it what.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

impl UplinkHook {
    /// The modes to try, the best first.
    const fn modes(self) -> &'static [XdpMode] {
        match self {
            Self::Tc => &[],
            Self::Xdp => &[XdpMode::Native, XdpMode::Generic],
            Self::XdpNative => &[XdpMode::Native],
            Self::XdpGeneric => &[XdpMode::Generic],
        }
    }

    /// Whether the XDP program is to be on uplinks.
    #[must_use]
    pub fn is_xdp(self) -> bool {
        self != Self::Tc
    }
}

impl XdpMode {
    /// Its name in pins and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for UplinkHook {
    type Err = UnknownHook;
    fn from_str(text: &str) -> Result<Self, UnknownHook> {
        [Self::Tc, Self::Xdp, Self::XdpNative, Self::XdpGeneric]
            .into_iter()
            .find(|hook| hook.to_string() == text)
            .ok_or_else(|| UnknownHook(text.to_owned()))
    }
}

impl fmt::Display for UplinkHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
        })
    }
}
