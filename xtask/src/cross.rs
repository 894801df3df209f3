//! Builds for 64-bit ARM on this machine.
//!
//! Where the host's Rust has a standard library for the target, that is used. Otherwise Debian's: the package
//! for arm64 is downloaded and unpacked below `target/cross`, and its twin, Debian's compiler for this
//! machine, builds against it. The system's list of architectures stays as it is.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::child::{self, say};
use crate::machine::{Compiler, Machine};
use crate::setup;
use crate::workspace::Workspace;

/// The one target that Debian's packages are known for here.
const ARM: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const LINKER_PACKAGES: &[&str] = &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];
const LINKER_VARIABLE: &str = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER";
const FLAGS_VARIABLE: &str = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS";

/// How cargo has to be called for another machine.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Cross {
    variables: Vec<(&'static str, OsString)>,
    target: Option<PathBuf>,
}

impl Cross {
    /// What `triple` takes, installed if need be.
    pub(crate) fn prepare(workspace: &Workspace, machine: &Machine, triple: &str) -> Result<Self> {
        let mut cross = Self::default();
        let has_library = host_library(triple).is_some_and(|folder| folder.is_dir());
        if triple != ARM {
            ensure!(
                has_library,
                "no standard library for {triple}. Run: rustup target add {triple}"
            );
            return Ok(cross);
        }
        if std::env::var_os(LINKER_VARIABLE).is_none() {
            if machine.find(LINKER).is_none() {
                setup::install_packages(workspace, machine, LINKER_PACKAGES)?;
            }
            cross.variables.push((LINKER_VARIABLE, LINKER.into()));
        }
        if !has_library {
            let Some(Compiler::Debian { bin }) = machine.compiler() else {
                bail!("no standard library for {triple}. Run: rustup target add {triple}");
            };
            let home = workspace.target().join("cross");
            let sysroot = debian_library(workspace, &home)?;
            let mut flags = OsString::from("--sysroot=");
            flags.push(sysroot);
            cross
                .variables
                .extend([(FLAGS_VARIABLE, flags), ("RUSTC", bin.join("rustc").into())]);
            // Two compilers must not share a folder.
            cross.target = Some(home);
        }
        Ok(cross)
    }

    /// Sets a cargo command up for it; the result is the folder that it builds in.
    pub(crate) fn apply(&self, command: &mut Command, default: &Path) -> PathBuf {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let target = self.target.as_deref().unwrap_or(default);
        command.env("CARGO_TARGET_DIR", target);
        target.to_owned()
    }
}

/// Where the Rust that runs this program has the library of another target.
fn host_library(triple: &str) -> Option<PathBuf> {
    let cargo = PathBuf::from(std::env::var_os("CARGO")?);
    Some(
        cargo
            .parent()?
            .parent()?
            .join("lib/rustlib")
            .join(triple)
            .join("lib"),
    )
}

/// Debian's standard library for arm64, of the very version of Debian's compiler here.
fn debian_library(workspace: &Workspace, home: &Path) -> Result<PathBuf> {
    let version = debian_version(workspace)?;
    let unpacked = home.join(format!("libstd-{version}"));
    let sysroot = unpacked.join("usr");
    if sysroot.join("lib/rustlib").join(ARM).is_dir() {
        return Ok(sysroot);
    }
    say(format!(
        "fetching Debian's Rust standard library for arm64, {version}"
    ));
    let lists = home.join("apt/lists");
    for folder in [
        lists.join("partial"),
        home.join("apt/cache/archives/partial"),
        unpacked.clone(),
    ] {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let apt = || {
        let mut command = child::command("apt-get", workspace);
        command.current_dir(home.join("apt")).arg("-qq");
        let mut option = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            let mut word = OsString::from(format!("{name}="));
            word.push(value);
            command.arg("-o").arg(word);
        };
        // Lists of its own: the system's know nothing of arm64, and a user may not write them.
        option("Dir::State::Lists", &lists);
        option("Dir::Cache", &home.join("apt/cache"));
        option("APT::Architectures::", &"amd64");
        option("APT::Architectures::", &"arm64");
        option("APT::Sandbox::User", &"root");
        option("Acquire::Languages", &"none");
        option("Acquire::Retries", &"3");
        command
    };
    let package = format!("libstd-rust-web-dev:arm64={version}");
    child::run(apt().arg("update")).context("the package lists for arm64 could not be fetched")?;
    child::run(apt().args(["download", &package]))
        .with_context(|| format!("{package} could not be fetched"))?;
    let archive = archive_in(&home.join("apt"))?;
    child::run(
        child::command("dpkg", workspace)
            .arg("--extract")
            .arg(&archive)
            .arg(&unpacked),
    )?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
    Ok(sysroot)
}

fn debian_version(workspace: &Workspace) -> Result<String> {
    let mut query = child::command("dpkg-query", workspace);
    query
        .args(["--show", "--showformat=${Version}", "rustc-web"])
        .stdout(Stdio::piped());
    let output = query.output().context("cannot start dpkg-query")?;
    ensure!(
        output.status.success(),
        "dpkg does not know the package rustc-web, though there is a compiler of it"
    );
    String::from_utf8(output.stdout).context("dpkg's version of rustc-web is not text")
}

/// The one package that was downloaded.
fn archive_in(folder: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "deb") {
            return Ok(path);
        }
    }
    bail!("apt-get downloaded nothing into {}", folder.display())
}
