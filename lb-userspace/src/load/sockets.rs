//! Keeps the programs at sockets on the node's cgroup.
//!
//! *Input*: a cgroup of version 2, and what the operator wants there. *Output*: links, pinned, so that they outlive this
//! process. *Invariants*: a program is replaced by one more that is put beside it before it goes (to see a call twice
//! changes nothing: what is translated is not asked for again); without a cgroup, or on a kernel that refuses these
//! programs, everything else works the same, by TC.

use std::{
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    str::FromStr,
};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, Program, ProgramError, links::FdLink},
};

use super::{AttachError, PinDirectory, loader::verify_one};

/// The programs that translate connections.
const CONNECT: [&str; 4] = ["connect4", "connect6", "getpeername4", "getpeername6"];
/// The programs that keep processes of the node off the NodePorts.
const BIND: [&str; 2] = ["post_bind4", "post_bind6"];

/// Whose TCP connections are translated at their sockets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ConnectHooks {
    /// Nobody's: TC translates their packets.
    Off,
    /// Those of processes in the node's own network namespace.
    Host,
    /// Those of pods as well.
    #[default]
    All,
}

/// A value of `--connect-hooks` that is none.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` does not say whose connections are translated at their sockets: use off, host or all")]
pub struct UnknownConnectHooks(String);

impl FromStr for ConnectHooks {
    type Err = UnknownConnectHooks;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "host" => Ok(Self::Host),
            "all" => Ok(Self::All),
            _ => Err(UnknownConnectHooks(text.to_owned())),
        }
    }
}

impl fmt::Display for ConnectHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Host => "host",
            Self::All => "all",
        })
    }
}

/// What there is to be at sockets, and where.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SocketOptions {
    /// The directory of a cgroup of version 2; the programs see what its processes ask. `None`: where that file system is
    /// mounted.
    pub cgroup: Option<PathBuf>,
    /// Whose connections are translated.
    pub connect: ConnectHooks,
}

/// What is at sockets.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct AtSockets {
    /// The cgroup.
    pub cgroup: Option<PathBuf>,
    /// Programs on it.
    pub programs: Vec<&'static str>,
    /// Why some are missing.
    pub reason: Option<String>,
}

/// Our programs at sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    wanted: Vec<&'static str>,
    /// Programs that the process before may have left, and that are not wanted.
    unwanted: Vec<&'static str>,
    state: AtSockets,
}

impl Sockets {
    /// Has the programs verified.
    pub(super) fn prepare(ebpf: &mut Ebpf, options: &SocketOptions) -> Self {
        let connect = (options.connect != ConnectHooks::Off).then_some(CONNECT);
        let cgroup = options.cgroup.clone().or_else(cgroup2);
        let mut wanted: Vec<_> = connect.into_iter().flatten().chain(BIND).collect();
        let mut reason = None;
        if cgroup.is_none() {
            wanted.clear();
            reason = Some(
                "no file system of type cgroup2 is mounted here: mount one, or name a directory of it with --cgroup"
                    .to_owned(),
            );
        }
        wanted.retain(|name| match verify(ebpf, name) {
            Ok(()) => true,
            Err(error) => {
                reason = Some(format!(
                    "the kernel refuses program `{name}` ({error}); TC does without"
                ));
                false
            }
        });
        let unwanted = CONNECT
            .into_iter()
            .chain(BIND)
            .filter(|name| !wanted.contains(name));
        Self {
            unwanted: unwanted.collect(),
            wanted,
            state: AtSockets {
                cgroup,
                programs: Vec::new(),
                reason,
            },
        }
    }

    /// What is there.
    pub(super) const fn state(&self) -> &AtSockets {
        &self.state
    }

    /// Attaches what this process has not attached yet, and removes what is not wanted.
    pub(super) fn sync(&mut self, ebpf: &mut Ebpf, pins: &PinDirectory) -> Vec<AttachError> {
        let mut errors = Vec::new();
        if let Some(cgroup) = &self.state.cgroup {
            for name in &self.wanted {
                if self.state.programs.contains(name) {
                    continue;
                }
                match attach(ebpf, cgroup, name, pins) {
                    Ok(()) => self.state.programs.push(name),
                    Err(source) => errors.push(AttachError::Cgroup {
                        cgroup: cgroup.clone(),
                        program: name,
                        source,
                    }),
                }
            }
        }
        self.unwanted
            .retain(|name| match PinDirectory::remove_link(&pins.socket(name)) {
                Ok(()) => false,
                Err(error) => {
                    errors.push(error.into());
                    true
                }
            });
        errors
    }
}

fn verify(ebpf: &mut Ebpf, name: &'static str) -> Result<(), ProgramError> {
    let program = ebpf
        .program_mut(name)
        .ok_or(ProgramError::UnexpectedProgramType)?;
    verify_one(program)
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Attaches a program beside the one of the process before, whose link then goes.
fn attach(ebpf: &mut Ebpf, cgroup: &Path, name: &'static str, pins: &PinDirectory) -> Result<(), BoxError> {
    let directory = File::open(cgroup)?;
    // For links the kernel always takes this for "beside others".
    let mode = CgroupAttachMode::Single;
    let link = match ebpf.program_mut(name) {
        Some(Program::CgroupSockAddr(program)) => {
            let id = program.attach(&directory, mode)?;
            FdLink::try_from(program.take_link(id)?)?
        }
        Some(Program::CgroupSock(program)) => {
            let id = program.attach(&directory, mode)?;
            FdLink::try_from(program.take_link(id)?)?
        }
        _ => return Err(ProgramError::UnexpectedProgramType.into()),
    };
    let beside = pins.socket(&format!("new-{name}"));
    PinDirectory::remove_link(&beside)?;
    link.pin(&beside)?;
    fs::rename(&beside, pins.socket(name))?;
    Ok(())
}

/// Where a file system of type cgroup2 is mounted, according to `/proc/self/mountinfo` (proc(5)).
/// Where the file system of cgroups of version 2 is mounted.
#[must_use]
pub fn cgroup2() -> Option<PathBuf> {
    mount_in(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

fn mount_in(mountinfo: &str) -> Option<PathBuf> {
    let line = mountinfo.lines().find(|line| {
        line.split_once(" - ")
            .is_some_and(|(_, about)| about.starts_with("cgroup2 "))
    })?;
    line.split_whitespace().nth(4).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_version_is_found_beside_the_first() {
        let hybrid = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
                      32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(mount_in(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(
            mount_in("32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"),
            None
        );
    }

    #[test]
    fn names_lead_back() {
        for hooks in [ConnectHooks::Off, ConnectHooks::Host, ConnectHooks::All] {
            assert_eq!(hooks.to_string().parse::<ConnectHooks>().unwrap(), hooks);
        }
        assert!(
            "pods"
                .parse::<ConnectHooks>()
                .unwrap_err()
                .to_string()
                .contains("host")
        );
    }
}
