//! What this machine has: the compilers and linker for BPF, and the programs that tests call.
//!
//! *Invariants*: looks at files only and runs nothing, so that finding everything in place costs
//! milliseconds.
//!
//! *Not here*: installing what is missing (`setup`).

use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folders that everything is looked for in.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    system: PathBuf,
    rustup_home: PathBuf,
    cargo_home: PathBuf,
    path: Vec<PathBuf>,
}

/// A compiler that makes BPF code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// Debian's rustc-web, with the ready-made `core` of libstd-rust-web-dev-bpf.
    Debian {
        /// The folder of rustc and cargo-clippy.
        bin: PathBuf,
    },
    /// A nightly of rustup, which builds `core` from rust-src.
    Nightly {
        /// The toolchain's name.
        name: String,
        /// The folder of its cargo and rustc.
        bin: PathBuf,
    },
}

impl Machine {
    /// This machine, for this user.
    pub(crate) fn from_env() -> Result<Self> {
        let home = env::var_os("HOME").map(PathBuf::from);
        let folder = |variable: &str, default: &str| {
            env::var_os(variable)
                .map(PathBuf::from)
                .or_else(|| home.as_ref().map(|home| home.join(default)))
                .with_context(|| format!("neither {variable} nor HOME is set: set one of them"))
        };
        let mut path: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
        // An ordinary user's PATH lacks these; bpftool, ip and nft live there.
        path.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
        Ok(Self {
            system: "/".into(),
            rustup_home: folder("RUSTUP_HOME", ".rustup")?,
            cargo_home: folder("CARGO_HOME", ".cargo")?,
            path,
        })
    }

    /// The compiler to use: Debian's first, because its LLVM and the linker's are of one release.
    pub(crate) fn compiler(&self) -> Option<Compiler> {
        self.debian_compiler().or_else(|| self.nightly_compiler())
    }

    fn debian_compiler(&self) -> Option<Compiler> {
        let bin = self.system.join("usr/bin");
        let library = self.system.join("usr/lib/rustlib/bpfel-unknown-none/lib");
        let has_core = names_in(&library).iter().any(|name| {
            name.starts_with("libcore-") && Path::new(name).extension().is_some_and(|e| e == "rlib")
        });
        (is_program(&bin.join("rustc")) && has_core).then_some(Compiler::Debian { bin })
    }

    fn nightly_compiler(&self) -> Option<Compiler> {
        let toolchains = self.rustup_home.join("toolchains");
        // `nightly-HOST` is the one that rustup keeps up to date; it sorts after the dated ones.
        let mut names = names_in(&toolchains);
        names.retain(|name| name.starts_with("nightly"));
        names.sort();
        names.into_iter().rev().find_map(|name| {
            let folder = toolchains.join(&name);
            let bin = folder.join("bin");
            // Without the component rust-src a nightly cannot build `core` for BPF.
            let usable =
                folder.join("lib/rustlib/src/rust/library/core").is_dir() && is_program(&bin.join("cargo"));
            usable.then_some(Compiler::Nightly { name, bin })
        })
    }

    /// The BPF linker.
    pub(crate) fn linker(&self) -> Option<PathBuf> {
        self.find("bpf-linker").or_else(|| {
            let installed = self.cargo_home.join("bin/bpf-linker");
            is_program(&installed).then_some(installed)
        })
    }

    /// Where `cargo install` puts programs.
    pub(crate) fn cargo_bin(&self) -> PathBuf {
        self.cargo_home.join("bin")
    }

    /// A program by its name.
    pub(crate) fn find(&self, program: &str) -> Option<PathBuf> {
        self.path
            .iter()
            .map(|folder| folder.join(program))
            .find(|file| is_program(file))
    }

    /// A file of the system, by its absolute path.
    pub(crate) fn has(&self, file: &str) -> bool {
        self.system.join(file.trim_start_matches('/')).exists()
    }

    /// Whether the user may install packages and load BPF programs.
    pub(crate) fn is_root(&self) -> bool {
        fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
    }

    /// Whether a file system of this type is mounted there.
    pub(crate) fn is_mounted(&self, kind: &str, at: &str) -> bool {
        fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| mounted(&table, kind, at))
    }
}

/// `mountinfo`: the mount point is field 5; the type follows a lone hyphen (proc_pid_mountinfo(5)).
fn mounted(table: &str, kind: &str, at: &str) -> bool {
    table.lines().any(|line| {
        let Some((mount, source)) = line.split_once(" - ") else {
            return false;
        };
        mount.split(' ').nth(4) == Some(at) && source.split(' ').next() == Some(kind)
    })
}

fn is_program(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests;
