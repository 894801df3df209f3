//! `cargo xtask build`: the programs first, by the compiler for BPF, then the agent that embeds them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::child::{self, say};
use crate::cross::Cross;
use crate::machine::Compiler;
use crate::setup::{self, EbpfToolchain};
use crate::workspace::Workspace;

/// The triple of the programs: BPF, little endian.
const BPF: &str = "bpfel-unknown-none";

/// The variable that tells lb-userspace's build script which object to embed.
pub(crate) const OBJECT_VARIABLE: &str = "LB_EBPF_OBJECT";

/// What is built.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct BuildArgs {
    /// Optimised, for use rather than for development.
    #[arg(long)]
    pub(crate) release: bool,
    /// Let the programs log packets (developers' builds only).
    #[arg(long)]
    pub(crate) log: bool,
    /// Build the agent for another machine, e.g. aarch64-unknown-linux-gnu.
    #[arg(long, value_name = "TRIPLE")]
    pub(crate) target: Option<String>,
}

/// The command: installs what is missing, builds both, names the results.
pub(crate) fn command(workspace: &Workspace, args: &BuildArgs) -> Result<()> {
    let agent = all(workspace, args)?;
    println!("{}", agent.display());
    Ok(())
}

/// Builds the programs and the agent; the result is the agent's path.
pub(crate) fn all(workspace: &Workspace, args: &BuildArgs) -> Result<PathBuf> {
    let toolchain = setup::toolchain(workspace)?;
    let object = object(workspace, &toolchain, args.log)?;
    let cross = match &args.target {
        Some(triple) => Cross::prepare(workspace, &toolchain.machine, triple)?,
        None => Cross::default(),
    };
    agent(workspace, args, &cross, &object)
}

/// Builds the programs; the result is the object's path.
pub(crate) fn object(workspace: &Workspace, toolchain: &EbpfToolchain, log: bool) -> Result<PathBuf> {
    say("building the eBPF programs");
    child::run(&mut object_command(workspace, toolchain, log)).context("the eBPF programs do not build")?;
    let object = object_path(workspace);
    ensure!(
        object.is_file(),
        "the build went well but left no object at {}",
        object.display()
    );
    Ok(object)
}

/// What builds the programs.
pub(crate) fn object_command(workspace: &Workspace, toolchain: &EbpfToolchain, log: bool) -> Command {
    let mut build = ebpf_cargo(workspace, toolchain, "cargo");
    build
        .args(["build", "--profile", "ebpf"])
        .args(ebpf_selection(&toolchain.compiler));
    if log {
        build.args(["--features", "log"]);
    }
    build
}

/// Where the programs are once built.
pub(crate) fn object_path(workspace: &Workspace) -> PathBuf {
    workspace.ebpf_target().join(BPF).join("ebpf/lb-ebpf")
}

/// Builds the bench's own programs; the result is the object's path.
pub(crate) fn bench_object(workspace: &Workspace, toolchain: &EbpfToolchain) -> Result<PathBuf> {
    say("building the bench's eBPF programs");
    let mut build = ebpf_cargo(workspace, toolchain, "cargo");
    build
        .args(["build", "--profile", "ebpf"])
        .args(ebpf_selection(&toolchain.compiler))
        .args(["--features", "bench", "--bin", "lb-ebpf-bench"]);
    child::run(&mut build).context("the bench's eBPF programs do not build")?;
    Ok(workspace.ebpf_target().join(BPF).join("ebpf/lb-ebpf-bench"))
}

/// The command that builds the agent around this object.
pub(crate) fn agent_command(workspace: &Workspace, object: &Path) -> Command {
    let mut build = child::cargo(workspace);
    build.env(OBJECT_VARIABLE, object);
    build.args([
        "build",
        "--locked",
        "--package",
        "lb-userspace",
        "--bin",
        "lb-agent",
    ]);
    build
}

/// Builds the agent around the object.
fn agent(workspace: &Workspace, args: &BuildArgs, cross: &Cross, object: &Path) -> Result<PathBuf> {
    say("building lb-agent");
    let mut build = agent_command(workspace, object);
    let mut folder = cross.apply(&mut build, workspace.target());
    if let Some(triple) = &args.target {
        build.args(["--target", triple]);
        folder.push(triple);
    }
    if args.release {
        build.arg("--release");
    }
    if args.log {
        build.args(["--features", "log"]);
    }
    child::run(&mut build).context("lb-agent does not build")?;
    Ok(folder
        .join(if args.release { "release" } else { "debug" })
        .join("lb-agent"))
}

/// A program of the BPF toolchain that works like cargo: `cargo` itself or `cargo-clippy`.
pub(crate) fn ebpf_cargo(workspace: &Workspace, toolchain: &EbpfToolchain, program: &str) -> Command {
    let mut command = match &toolchain.compiler {
        // The host's cargo drives Debian's compiler, which is a stable one: RUSTC_BOOTSTRAP lets it take
        // the few unstable features (atomics that return a value) that BPF code cannot do without.
        Compiler::Debian { bin } => {
            let mut command = child::cargo(workspace);
            if program != "cargo" {
                command = child::command(bin.join(program), workspace);
            }
            command
                .env("RUSTC", bin.join("rustc"))
                .env("RUSTC_BOOTSTRAP", "1");
            command
        }
        Compiler::Nightly { name, bin } => {
            let mut command = child::command(bin.join(program), workspace);
            command
                .env("CARGO", bin.join("cargo"))
                .env("RUSTC", bin.join("rustc"))
                .env("RUSTUP_TOOLCHAIN", name);
            command
        }
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([toolchain.machine.cargo_bin()]);
    if let Ok(path) = std::env::join_paths(folders) {
        command.env("PATH", path);
    }
    // Increments are many small units: less is inlined, and the programs no longer fit the kernel's stack.
    command.env("CARGO_INCREMENTAL", "0");
    command.env("CARGO_TARGET_DIR", workspace.ebpf_target());
    command
}

/// The arguments that select the programs' crate and target.
pub(crate) fn ebpf_selection(compiler: &Compiler) -> Vec<&'static str> {
    let mut arguments = vec!["--locked", "--package", "lb-ebpf", "--target", BPF];
    if matches!(compiler, Compiler::Nightly { .. }) {
        arguments.extend(["-Z", "build-std=core"]);
    }
    arguments
}
