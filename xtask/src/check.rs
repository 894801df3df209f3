//! `cargo xtask check`: everything about the source that a program can judge, exactly as CI does.

mod file_size;
mod layering;
mod layout;
mod source;

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::build::{self, OBJECT_VARIABLE};
use crate::child::{self, say};
use crate::report::Report;
use crate::setup;
use crate::workspace::Workspace;

/// How the checks run.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Only these checks.
    #[arg(value_enum, value_name = "CHECK")]
    only: Vec<Gate>,
    /// Print one JSON document of all checks.
    #[arg(long)]
    json: bool,
    /// Record the map layout as it is now (after a change of LAYOUT_VERSION, or before the first release).
    #[arg(long)]
    bless: bool,
}

/// One check; what `check` does without arguments is all of them, the quick ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Gate {
    /// No file is too long.
    FileSize,
    /// Imports point the right way.
    Layering,
    /// Map types change with their version.
    Layout,
    /// Formatting.
    Fmt,
    /// Lints of the host's crates.
    Clippy,
    /// Lints of the programs.
    ClippyEbpf,
    /// Lints of the programs with their log lines, and of the bench's.
    ClippyEbpfLog,
    /// Documentation.
    Docs,
}

/// The command.
pub(crate) fn command(workspace: &Workspace, args: &CheckArgs) -> Result<ExitCode> {
    if args.bless {
        layout::bless(workspace)?;
    }
    let gates = if args.only.is_empty() {
        Gate::value_variants()
    } else {
        &args.only
    };
    let mut report = Report::default();
    for gate in gates {
        gate.judge(workspace, &mut report)?;
    }
    Ok(report.finish(args.json)?)
}

impl Gate {
    fn judge(self, workspace: &Workspace, report: &mut Report) -> Result<()> {
        match self {
            Self::FileSize => {
                gate(
                    report,
                    "file-size",
                    "no Rust file is over 600 lines",
                    &file_size::misses(workspace)?,
                );
            }
            Self::Layering => {
                gate(
                    report,
                    "layering",
                    "imports follow xtask/layering.yaml",
                    &layering::misses(workspace)?,
                );
            }
            Self::Layout => {
                gate(
                    report,
                    "layout",
                    "xtask/layout.lock is of these map types",
                    &layout::misses(workspace)?,
                );
            }
            Self::Fmt => {
                setup::lints(workspace)?;
                tool(
                    report,
                    "fmt",
                    "rustfmt has nothing to change",
                    &mut format(workspace),
                );
            }
            Self::Clippy => {
                setup::lints(workspace)?;
                tool(report, "clippy", "no warning", &mut clippy(workspace));
            }
            Self::ClippyEbpf => {
                tool(
                    report,
                    "clippy-ebpf",
                    "no warning",
                    &mut clippy_ebpf(workspace, &[])?,
                );
            }
            Self::ClippyEbpfLog => {
                let features = ["--features", "log,bench"];
                tool(
                    report,
                    "clippy-ebpf-log",
                    "no warning",
                    &mut clippy_ebpf(workspace, &features)?,
                );
            }
            Self::Docs => tool(report, "docs", "no warning", &mut docs(workspace)),
        }
        Ok(())
    }
}

/// A judgement of this program's own.
fn gate(report: &mut Report, id: &str, expected: &str, misses: &[String]) {
    say(format!("{id}: {expected}"));
    if misses.is_empty() {
        report.pass(id, expected);
    } else {
        report.fail(id, expected, misses.join("\n            "));
    }
}

/// A judgement by another program, whose words stand above the report.
fn tool(report: &mut Report, id: &str, expected: &str, command: &mut Command) {
    say(format!("{id}: {}", child::line(command)));
    match child::run(command) {
        Ok(()) => report.pass(id, expected),
        Err(error) => report.fail(id, expected, format!("{error:#}")),
    }
}

fn format(workspace: &Workspace) -> Command {
    let mut command = child::cargo(workspace);
    command.args(["fmt", "--all", "--check"]);
    command
}

fn clippy(workspace: &Workspace) -> Command {
    let mut command = child::cargo(workspace);
    command.env_remove(OBJECT_VARIABLE);
    command.args(["clippy", "--locked", "--all-targets", "--", "--deny", "warnings"]);
    command
}

/// The programs are linted by the compiler that builds them: the host's has no `core` for BPF.
fn clippy_ebpf(workspace: &Workspace, features: &[&str]) -> Result<Command> {
    let toolchain = setup::toolchain(workspace)?;
    setup::ebpf_lints(&toolchain)?;
    let mut command = build::ebpf_cargo(workspace, &toolchain, "cargo-clippy");
    command
        .args(["clippy", "--profile", "ebpf"])
        .args(build::ebpf_selection(&toolchain.compiler))
        .args(features)
        .args(["--", "--deny", "warnings"]);
    Ok(command)
}

fn docs(workspace: &Workspace) -> Command {
    let mut command = child::cargo(workspace);
    command
        .env_remove(OBJECT_VARIABLE)
        .env("RUSTDOCFLAGS", "--deny warnings");
    command.args(["doc", "--locked", "--no-deps"]);
    command
}
