//! `cargo xtask bench`: measures what the project promises of its speed, and judges the figures by their targets.
//!
//! The measuring is done by lb-bench, which embeds the same object as the agent; this builds it, starts it and
//! reports.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use serde::Deserialize;

use crate::build::{self, BuildArgs, OBJECT_VARIABLE};
use crate::child::{self, say};
use crate::report::{Check, Report};
use crate::setup;
use crate::workspace::Workspace;

/// What is measured.
#[derive(Subcommand, Debug)]
pub(crate) enum BenchCommand {
    /// Nanoseconds a packet of the loaded programs, as ratios to an empty program.
    ///
    /// Each program is run by BPF_PROG_TEST_RUN on packets that a small program restores before each run; what
    /// restoring costs is measured in the same run and taken off. `ratio` is (row - restoring + empty) / empty of
    /// the minima; `floor` is the ratio of a program that does the least that any such program must do, and
    /// `/floor` is how far ours is above it. A row whose program does not do what the row says (verdict,
    /// counters, the packet's bytes) has failed.
    Packets(PacketsArgs),
    /// What a TCP connection costs: to a backend itself, and through a Service.
    ///
    /// A pod connects to a backend on its own node and on another one, in a lab of network namespaces with release
    /// agents: to the backend's own address (`direct`), to the ClusterIP with `--connect-hooks all` (`hook`) and with
    /// `--connect-hooks off` (`tc`), in turn. Then requests and responses on a connection that is there. Client and
    /// server are one thread on one processor, which does the kernel's work for both. `ratio` is of the minima over
    /// all samples. A figure counts only if the programs counted every connection where it belongs.
    Connect(ConnectArgs),
    /// What it costs to follow a cluster: processor time, map writes and memory.
    ///
    /// The agent's stages (join, plan, write) run on objects in memory and write the real maps; every write is
    /// counted. 1,000, 10,000 and 30,000 Services with ten endpoints each: everything at once, the same told again,
    /// one endpoint changed, all endpoints of a Service replaced. Then one change at a time through the
    /// reconciler's thread, the memory of a real agent that serves 10,000 Services from a folder, and how long
    /// `lb-agent explain` takes there.
    Sync(SyncArgs),
}

/// How packets are measured.
#[derive(Args, Debug)]
pub(crate) struct PacketsArgs {
    /// Print one JSON document of all figures that have a target instead of the table.
    #[arg(long)]
    json: bool,
    /// How often every row is measured, all rows in turn.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only rows with this text in their name (`xdp4`, `established`, ...), and what they are compared with.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// How connections are measured.
#[derive(Args, Debug)]
pub(crate) struct ConnectArgs {
    /// Print one JSON document of all figures that have a target instead of the table.
    #[arg(long)]
    json: bool,
    /// How often every row is measured: 5,000 connections of each kind, or 10,000 exchanges.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// How following is measured.
#[derive(Args, Debug)]
pub(crate) struct SyncArgs {
    /// Print one JSON document of all figures that have a target instead of the table.
    #[arg(long)]
    json: bool,
    /// How often everything is written at once; the best counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only this part: cost, tables, events, memory or explain; may be repeated.
    #[arg(long = "part", value_name = "PART")]
    parts: Vec<String>,
}

/// What lb-bench prints.
#[derive(Debug, Deserialize)]
struct Document {
    table: Vec<String>,
    checks: Vec<Check>,
}

/// The command.
pub(crate) fn command(workspace: &Workspace, bench: &BenchCommand) -> Result<ExitCode> {
    setup::runtime(workspace)?;
    let toolchain = setup::toolchain(workspace)?;
    let object = build::object(workspace, &toolchain, false)?;
    let (json, document) = match bench {
        BenchCommand::Packets(args) => {
            let own = build::bench_object(workspace, &toolchain)?;
            let mut run = program(workspace, &object, Profile::Development)?;
            run.arg("packets").arg("--object").arg(own);
            run.args(["--rounds", &args.rounds.to_string()]);
            if let Some(filter) = &args.filter {
                run.args(["--filter", filter]);
            }
            (args.json, measure(&mut run)?)
        }
        BenchCommand::Connect(args) => {
            let agent = release(workspace)?;
            let mut run = program(workspace, &object, Profile::Release)?;
            run.arg("connect").arg("--agent").arg(agent);
            run.args(["--rounds", &args.rounds.to_string()]);
            (args.json, measure(&mut run)?)
        }
        BenchCommand::Sync(args) => {
            let agent = release(workspace)?;
            let mut run = program(workspace, &object, Profile::Release)?;
            run.arg("sync").arg("--agent").arg(agent);
            run.args(["--rounds", &args.rounds.to_string()]);
            run.args(args.parts.iter().flat_map(|part| ["--part", part]));
            (args.json, measure(&mut run)?)
        }
    };
    let mut report = Report::default();
    if !json {
        document.table.iter().for_each(|line| println!("{line}"));
    }
    document.checks.into_iter().for_each(|check| report.check(check));
    Ok(report.finish(json)?)
}

/// Builds the agent as it is released; the result is its path.
fn release(workspace: &Workspace) -> Result<PathBuf> {
    let release = BuildArgs {
        release: true,
        ..BuildArgs::default()
    };
    build::all(workspace, &release)
}

/// How lb-bench is built. The programs in the kernel are always optimised; what only runs them need not be.
#[derive(Clone, Copy)]
enum Profile {
    Development,
    Release,
}

/// Builds lb-bench around the object; the result starts it.
fn program(workspace: &Workspace, object: &Path, profile: Profile) -> Result<Command> {
    say("building lb-bench");
    let mut build = child::cargo(workspace);
    build.env(OBJECT_VARIABLE, object);
    build.args(["build", "--locked", "--package", "lb-bench"]);
    let folder = match profile {
        Profile::Development => "debug",
        Profile::Release => {
            build.arg("--release");
            "release"
        }
    };
    child::run(&mut build).context("lb-bench does not build")?;
    Ok(child::command(
        workspace.target().join(folder).join("lb-bench"),
        workspace,
    ))
}

/// Runs lb-bench and reads its document.
fn measure(command: &mut Command) -> Result<Document> {
    say(format!("measuring: {}", child::line(command)));
    let output = command
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", child::line(command)))?;
    ensure!(
        output.status.success(),
        "lb-bench has failed ({}); what it said is above",
        output.status
    );
    serde_json::from_slice(&output.stdout).context("lb-bench printed no document of this version")
}
