//! `cargo xtask check`: everything about the source that a program can judge, exactly as CI does.

mod file_size;
mod layering;
mod layout;
mod source;

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Args;

use crate::build::{self, OBJECT_VARIABLE};
use crate::child::{self, say};
use crate::report::Report;
use crate::setup::{self, EbpfToolchain};
use crate::workspace::Workspace;

/// How the checks run.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Print one JSON document of all checks.
    #[arg(long)]
    json: bool,
    /// Record the map layout as it is now (after a change of LAYOUT_VERSION, or before the first release).
    #[arg(long)]
    bless: bool,
}

/// The command.
pub(crate) fn command(workspace: &Workspace, args: &CheckArgs) -> Result<ExitCode> {
    if args.bless {
        layout::bless(workspace)?;
    }
    let toolchain = setup::toolchain(workspace)?;
    setup::lints(workspace, &toolchain)?;

    let mut report = Report::default();
    gate(
        &mut report,
        "file-size",
        "no Rust file is over 600 lines",
        &file_size::misses(workspace)?,
    );
    gate(
        &mut report,
        "layering",
        "imports follow xtask/layering.yaml",
        &layering::misses(workspace)?,
    );
    gate(
        &mut report,
        "layout",
        "xtask/layout.lock is of these map types",
        &layout::misses(workspace)?,
    );
    tool(
        &mut report,
        "fmt",
        "rustfmt has nothing to change",
        &mut format(workspace),
    );
    tool(&mut report, "clippy", "no warning", &mut clippy(workspace));
    tool(
        &mut report,
        "clippy-ebpf",
        "no warning",
        &mut clippy_ebpf(workspace, &toolchain, &[]),
    );
    tool(
        &mut report,
        "clippy-ebpf-log",
        "no warning",
        &mut clippy_ebpf(workspace, &toolchain, &["--features", "log"]),
    );
    tool(&mut report, "docs", "no warning", &mut docs(workspace));
    Ok(report.finish(args.json)?)
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
fn clippy_ebpf(workspace: &Workspace, toolchain: &EbpfToolchain, features: &[&str]) -> Command {
    let mut command = build::ebpf_cargo(workspace, toolchain, "cargo-clippy");
    command
        .args(["clippy", "--profile", "ebpf"])
        .args(build::ebpf_selection(&toolchain.compiler))
        .args(features)
        .args(["--", "--deny", "warnings"]);
    command
}

fn docs(workspace: &Workspace) -> Command {
    let mut command = child::cargo(workspace);
    command
        .env_remove(OBJECT_VARIABLE)
        .env("RUSTDOCFLAGS", "--deny warnings");
    command.args(["doc", "--locked", "--no-deps"]);
    command
}
