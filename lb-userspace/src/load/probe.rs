//! Asks the kernel, before anything is touched, whether it can do what the programs need.
//!
//! Features are probed, not versions: distributions backport. Each failure is one sentence that names the remedy.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::{
    maps::MapType,
    programs::{ProgramType, SchedClassifier, TcAttachType},
    sys::{is_map_supported, is_program_supported},
};
use nix::mount::{MsFlags, mount};

use super::TcAttach;

/// Capability numbers of `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// What is missing, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The process may not do what it has to.
    #[error("{0} is missing: run the agent as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Capability(&'static str),
    /// The BPF file system is not there and cannot be mounted.
    #[error("no BPF file system at {path} and none can be mounted ({source}): run `mount -t bpf bpf {path}`")]
    BpfFileSystem {
        /// Where it was looked for.
        path: PathBuf,
        /// Why it could not be mounted.
        source: std::io::Error,
    },
    /// The kernel has no type information for maps.
    #[error(
        "the kernel has no BTF (/sys/kernel/btf/vmlinux): it needs CONFIG_DEBUG_INFO_BTF=y, as kernels of current \
         distributions have"
    )]
    Btf,
    /// A program type is missing.
    #[error(
        "the kernel cannot load TC programs ({0}): it needs CONFIG_BPF_SYSCALL=y and CONFIG_NET_CLS_ACT=y"
    )]
    Program(String),
    /// A map type is missing.
    #[error("the kernel has no BPF maps of type {0}: it needs Linux 5.15 or newer")]
    Map(&'static str),
    /// `--tc-attach tcx` on a kernel without it.
    #[error("the kernel has no tcx links (Linux 6.6 and newer have): use --tc-attach clsact or auto")]
    Tcx,
}

/// Checks everything; mounts the BPF file system if it is missing.
///
/// # Errors
/// The first thing that is missing.
pub fn check(bpffs: &Path, tc_attach: TcAttach) -> Result<(), ProbeError> {
    match missing(tc_attach).into_iter().next() {
        Some(first) => Err(first),
        None => file_system(bpffs),
    }
}

/// Everything that is missing but for the file system; nothing is touched.
#[must_use]
pub fn missing(tc_attach: TcAttach) -> Vec<ProbeError> {
    let mut missing = Vec::new();
    missing.extend(capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default()).err());
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        missing.push(ProbeError::Btf);
    }
    match is_program_supported(ProgramType::SchedClassifier) {
        Ok(true) => {}
        Ok(false) => missing.push(ProbeError::Program("the type is unknown".into())),
        Err(error) => missing.push(ProbeError::Program(error.to_string())),
    }
    for (map_type, name) in [
        (MapType::Hash, "hash"),
        (MapType::PerCpuArray, "per-CPU array"),
        (MapType::LpmTrie, "longest-prefix trie"),
    ] {
        // Not being able to ask is no reason to refuse: loading will tell.
        if let Ok(false) = is_map_supported(map_type) {
            missing.push(ProbeError::Map(name));
        }
    }
    if tc_attach == TcAttach::Tcx && !has_tcx() {
        missing.push(ProbeError::Tcx);
    }
    missing
}

/// Whether there is a BPF file system at `path`, for the calling thread.
#[must_use]
pub fn is_bpf_file_system(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    is_below(&mounts, "bpf", path)
}

/// Whether tcx is to be used.
pub(super) fn tcx(tc_attach: TcAttach) -> bool {
    match tc_attach {
        TcAttach::Auto => has_tcx(),
        TcAttach::Tcx => true,
        TcAttach::Clsact => false,
    }
}

/// Kernels without tcx do not know the attach type.
#[must_use]
pub fn has_tcx() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

/// From the text of `/proc/self/status`.
fn capabilities(status: &str) -> Result<(), ProbeError> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    // A kernel that does not say is asked by doing.
    let Some(effective) = effective else { return Ok(()) };
    let has = |capability: u32| effective & (1 << capability) != 0;
    for (capability, name) in [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")] {
        if !has(capability) && !has(CAP_SYS_ADMIN) {
            return Err(ProbeError::Capability(name));
        }
    }
    if has(CAP_NET_ADMIN) {
        Ok(())
    } else {
        Err(ProbeError::Capability("CAP_NET_ADMIN"))
    }
}

fn file_system(path: &Path) -> Result<(), ProbeError> {
    // The calling thread's: what counts is where it will pin.
    if is_bpf_file_system(path) {
        return Ok(());
    }
    let error = |source| ProbeError::BpfFileSystem {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(path).map_err(error)?;
    let error = |errno: nix::Error| ProbeError::BpfFileSystem {
        path: path.to_owned(),
        source: errno.into(),
    };
    mount(
        Some("bpf"),
        path,
        Some("bpf"),
        MsFlags::empty(),
        Some("mode=0700"),
    )
    .map_err(error)
}

/// Whether `path` is on a file system of type `kind`, by the text of `mountinfo`: what is mounted
/// last at the longest matching point counts.
fn is_below(mounts: &str, kind: &str, path: &Path) -> bool {
    let mut longest = (0, false);
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = before.split(' ').nth(4) else {
            continue;
        };
        if path.starts_with(point) && point.len() >= longest.0 {
            longest = (point.len(), after.split(' ').next() == Some(kind));
        }
    }
    longest.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capability_is_named() {
        let status = |bits: u64| format!("Name:\tx\nCapEff:\t{bits:016x}\n");
        let all = 1 << CAP_BPF | 1 << CAP_PERFMON | 1 << CAP_NET_ADMIN;
        for (bits, missing) in [
            (all, None),
            (1 << CAP_SYS_ADMIN | 1 << CAP_NET_ADMIN, None),
            (all & !(1 << CAP_BPF), Some("CAP_BPF")),
            (all & !(1 << CAP_PERFMON), Some("CAP_PERFMON")),
            (all & !(1 << CAP_NET_ADMIN), Some("CAP_NET_ADMIN")),
            (1 << CAP_SYS_ADMIN, Some("CAP_NET_ADMIN")),
        ] {
            match (capabilities(&status(bits)), missing) {
                (Ok(()), None) => {}
                (Err(error), Some(name)) => {
                    assert!(error.to_string().starts_with(name), "{bits:x}: {error}");
                    assert!(error.to_string().contains("run the agent as root"), "{error}");
                }
                (result, expected) => panic!("{bits:x}: {result:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn file_system_is_recognised_by_its_innermost_mount() {
        let mounts = "22 1 0:20 / / rw - ext4 /dev/vda rw\n\
                      23 22 0:21 / /sys rw shared:7 - sysfs sysfs rw\n\
                      24 23 0:22 / /sys/fs/bpf rw,nosuid shared:8 - bpf bpf rw,mode=700\n\
                      25 22 0:23 / /covered rw - bpf bpf rw\n\
                      26 22 0:24 / /covered rw - tmpfs tmpfs rw\n";
        for (path, expected) in [
            ("/sys/fs/bpf", true),
            ("/sys/fs/bpf/lb", true),
            ("/sys/fs", false),
            ("/sys/fs/bpfx", false),
            ("/covered", false),
            ("/elsewhere", false),
        ] {
            assert_eq!(is_below(mounts, "bpf", Path::new(path)), expected, "{path}");
        }
    }
}
