//! `cargo xtask setup`: makes the machine able to build, test and show the load balancer.
//!
//! *Invariants*: does nothing, in milliseconds, when nothing is missing; says in a line what it is about
//! to do; where it may not act it names exactly what a person has to do.

mod deploy_tools;
mod prometheus;

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};

use crate::child::{self, say};
use crate::machine::{Compiler, Machine};
use crate::workspace::Workspace;

/// Debian's compiler and ready-made `core` for BPF.
const COMPILER_PACKAGES: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf", "rust-web-clippy"];

/// What bpf-linker is compiled and linked against.
const LINKER_PACKAGES: &[&str] = &[
    "g++",
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
];

/// The programs that the demo and the tests call, with the packages they are in.
const TOOLS: &[(&str, &str)] = &[
    ("bpftool", "bpftool"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("ping", "iputils-ping"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("tcpdump", "tcpdump"),
    ("socat", "socat"),
    ("python3", "python3"),
    ("curl", "curl"),
    ("jq", "jq"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
];

const LINKER_VERSION: &str = "0.13.0";
const LLVM_BIN: &str = "/usr/lib/llvm-22/bin";
const BPFFS: &str = "/sys/fs/bpf";

/// What `build` needs.
#[derive(Clone, Debug)]
pub(crate) struct EbpfToolchain {
    /// Makes BPF code.
    pub(crate) compiler: Compiler,
    /// The machine it was found on.
    pub(crate) machine: Machine,
}

/// Everything: to build, to test, to demonstrate.
pub(crate) fn all(workspace: &Workspace) -> Result<()> {
    let machine = Machine::from_env()?;
    let mut packages = missing_toolchain_packages(&machine);
    packages.extend(missing_tools(&machine));
    install_packages(workspace, &machine, &packages)?;
    let toolchain = toolchain(workspace)?;
    deploy_tools::ensure(workspace, &machine)?;
    prometheus::ensure(workspace, &machine)?;
    mount_bpffs(workspace, &machine)?;
    let compiler = match &toolchain.compiler {
        Compiler::Debian { .. } => "Debian's rustc-web",
        Compiler::Nightly { name, .. } => name,
    };
    say(format!("everything is in place; the eBPF compiler is {compiler}"));
    Ok(())
}

/// What the tests and the demo call besides the toolchain.
pub(crate) fn runtime(workspace: &Workspace) -> Result<()> {
    let machine = Machine::from_env()?;
    install_packages(workspace, &machine, &missing_tools(&machine))?;
    mount_bpffs(workspace, &machine)
}

/// What the tests of `deploy/` call, where it can be had.
pub(crate) fn deploy_tools(workspace: &Workspace) -> Result<()> {
    let machine = Machine::from_env()?;
    deploy_tools::ensure(workspace, &machine)?;
    prometheus::ensure(workspace, &machine)
}

/// The toolchain for BPF, installed if need be.
pub(crate) fn toolchain(workspace: &Workspace) -> Result<EbpfToolchain> {
    let machine = Machine::from_env()?;
    install_packages(workspace, &machine, &missing_toolchain_packages(&machine))?;
    if machine.linker().is_none() {
        install_linker(workspace, &machine)?;
    }
    let compiler = machine.compiler().context(
        "the packages are installed, but no compiler for BPF is to be found: \
         is /usr/bin/rustc there, and libcore in /usr/lib/rustlib/bpfel-unknown-none/lib?",
    )?;
    Ok(EbpfToolchain { compiler, machine })
}

/// The parts of the host's Rust that only `check` needs.
pub(crate) fn lints(workspace: &Workspace) -> Result<()> {
    let machine = Machine::from_env()?;
    // Rustup's proxies are on the PATH whether or not there is anything behind them: look beside cargo.
    let bin = std::env::var_os("CARGO").and_then(|cargo| Some(Path::new(&cargo).parent()?.to_owned()));
    for (program, component) in [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")] {
        if bin.as_ref().is_some_and(|bin| bin.join(program).exists()) {
            continue;
        }
        let rustup = machine
            .find("rustup")
            .with_context(|| format!("{program} is missing: install {component} for your Rust"))?;
        say(format!("adding rustup's component {component}"));
        child::run(child::command(rustup, workspace).args(["component", "add", component]))?;
    }
    Ok(())
}

/// The part of the compiler for BPF that only `check` needs; Debian's comes with its packages.
pub(crate) fn ebpf_lints(toolchain: &EbpfToolchain) -> Result<()> {
    if let Compiler::Nightly { name, bin } = &toolchain.compiler {
        ensure!(
            bin.join("cargo-clippy").exists(),
            "{name} has no clippy. Run: rustup component add clippy --toolchain {name}"
        );
    }
    Ok(())
}

fn missing_toolchain_packages(machine: &Machine) -> Vec<&'static str> {
    let mut packages = Vec::new();
    match machine.compiler() {
        None => packages.extend(COMPILER_PACKAGES),
        // Not needed to build, but `cargo xtask check` lints the programs with it.
        Some(Compiler::Debian { bin }) if !bin.join("cargo-clippy").exists() => {
            packages.push("rust-web-clippy");
        }
        Some(_) => {}
    }
    if machine.linker().is_none() && !machine.has(LLVM_BIN) {
        packages.extend(LINKER_PACKAGES);
    }
    packages
}

fn missing_tools(machine: &Machine) -> Vec<&'static str> {
    let missing = TOOLS
        .iter()
        .filter(|(program, _)| machine.find(program).is_none());
    missing.map(|(_, package)| *package).collect()
}

/// Installs Debian packages, or says why it cannot and what to do.
pub(crate) fn install_packages(workspace: &Workspace, machine: &Machine, packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    let apt = machine.find("apt-get");
    let (Some(apt), true) = (apt, machine.is_root()) else {
        let toolchain = if packages.iter().any(|package| COMPILER_PACKAGES.contains(package)) {
            "\nAn equivalent for the compiler: `rustup toolchain install nightly --component rust-src` \
             and `cargo install bpf-linker`."
        } else {
            ""
        };
        bail!(
            "missing on this machine, and only root on a Debian can install it from here. \
             Run: apt-get install {list}{toolchain}"
        );
    };
    say(format!("installing Debian packages: {list}"));
    apt_get(&apt, workspace, workspace.root(), &["update"])
        .context("the package lists could not be fetched")?;
    // What a user has installed stays: a conflict is for a person to settle.
    let mut arguments = vec!["install", "--yes", "--no-install-recommends", "--no-remove"];
    arguments.extend(packages);
    apt_get(&apt, workspace, workspace.root(), &arguments)
        .with_context(|| format!("install these packages by hand: {list}"))
}

/// Runs apt-get; what it and the packages' scripts say is of interest only if it fails.
fn apt_get(apt: &Path, workspace: &Workspace, folder: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = child::command(apt, workspace);
    command
        .current_dir(folder)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args([
            "-qq",
            "-o",
            "Dpkg::Use-Pty=0",
            "-o",
            "Acquire::Retries=3",
            "-o",
            "DPkg::Lock::Timeout=120",
        ])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = command
        .output()
        .with_context(|| format!("cannot start `{}`", child::line(&command)))?;
    if !output.status.success() {
        for text in [output.stdout, output.stderr] {
            eprint!("{}", String::from_utf8_lossy(&text));
        }
        bail!(
            "`{}` failed ({}); what it printed is above",
            child::line(&command),
            output.status
        );
    }
    Ok(())
}

fn install_linker(workspace: &Workspace, machine: &Machine) -> Result<()> {
    say(format!(
        "building bpf-linker {LINKER_VERSION} into {} (a minute or two)",
        machine.cargo_bin().display()
    ));
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Its build script asks the first llvm-config on the PATH where LLVM is.
    let folders = std::iter::once(LLVM_BIN.into()).chain(std::env::split_paths(&path));
    let mut install = child::cargo(workspace);
    install
        .env("PATH", std::env::join_paths(folders)?)
        .env_remove("CARGO_TARGET_DIR")
        .args(["install", "bpf-linker", "--version", LINKER_VERSION])
        .args([
            "--locked",
            "--quiet",
            "--no-default-features",
            "--features",
            "llvm-22",
        ]);
    child::run(&mut install).context("bpf-linker could not be built")
}

/// Maps and links are pinned there. A container or a minimal system may come without it.
fn mount_bpffs(workspace: &Workspace, machine: &Machine) -> Result<()> {
    if machine.is_mounted("bpf", BPFFS) {
        return Ok(());
    }
    if !machine.is_root() {
        say(format!(
            "no BPF file system at {BPFFS}; tests that need root will be skipped"
        ));
        return Ok(());
    }
    say(format!("mounting the BPF file system at {BPFFS}"));
    child::run(child::command("mount", workspace).args(["-t", "bpf", "bpf", BPFFS])).with_context(|| {
        format!("cannot mount it: does the kernel have CONFIG_BPF_SYSCALL, and does {BPFFS} exist?")
    })
}
