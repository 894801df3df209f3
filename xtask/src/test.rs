//! `cargo xtask test`: builds everything and runs every test, as checks of one report.
//!
//! The test programs are run one by one rather than by `cargo test`, because each kind needs its own number of
//! threads and because a program that dies has to be a miss of its own.

pub(crate) mod libtest;
mod program;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::build::{self, OBJECT_VARIABLE};
use crate::cases;
use crate::child::{self, say};
use crate::report::{Report, Skips};
use crate::setup;
use crate::variants::Variant;
use crate::workspace::Workspace;
use program::Program;

/// The test that upgrades agents.
const CHAOS: &str = "chaos::nobody_notices_what_happens_to_agents_as_root";

/// Which tests run.
#[derive(Args, Debug)]
pub(crate) struct TestArgs {
    /// Only tests with this text in their name.
    filter: Option<String>,
    /// Print one JSON document of all checks.
    #[arg(long)]
    json: bool,
    /// Only this kind of tests.
    #[arg(long, value_enum)]
    only: Option<Kind>,
}

/// What tests need of the machine, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// Nothing: unit, property and golden tests.
    Host,
    /// Root: packets through the loaded programs (test targets `packets*`).
    Packets,
    /// Root and namespaces: real agents and traffic (test targets `net*`, `e2e*`).
    Net,
    /// An API server (test targets `kube*`).
    Kube,
    /// Root and namespaces: the behaviour cases in `tests/cases`.
    Cases,
}

impl Kind {
    /// By the name of an integration test's target.
    fn of_target(name: &str) -> Self {
        let named = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        if named(&["packets"]) {
            Self::Packets
        } else if named(&["net", "e2e"]) {
            Self::Net
        } else if named(&["kube"]) {
            Self::Kube
        } else {
            Self::Host
        }
    }

    fn threads(self) -> usize {
        match self {
            // With a single thread the harness prints a test's name before its output and the result after
            // it; with two it prints whole lines.
            Self::Host => thread::available_parallelism().map_or(2, usize::from).max(2),
            // Namespaces, agents and transfers share the machine's processors.
            Self::Packets | Self::Net | Self::Kube | Self::Cases => 2,
        }
    }
}

/// The command.
pub(crate) fn command(workspace: &Workspace, args: &TestArgs) -> Result<ExitCode> {
    setup::runtime(workspace)?;
    setup::deploy_tools(workspace)?;
    let variants = if upgrades(args) {
        Variant::build_all(workspace)?
    } else {
        Vec::new()
    };
    let object = build::object(workspace, &setup::toolchain(workspace)?, false)?;
    let mut programs = compile(workspace, &object)?;
    programs.retain(|program| args.only.is_none_or(|only| only == program.kind));
    programs.sort_by_key(|program| program.kind);

    let mut report = Report::default();
    let skips = Skips::from_env();
    for program in &programs {
        program.run(workspace, args.filter.as_deref(), &variants, skips, &mut report)?;
    }
    if args.only.is_none_or(|only| only == Kind::Host) {
        program::doctests(workspace, &object, args.filter.as_deref(), skips, &mut report)?;
    }
    if args.only.is_none_or(|only| only == Kind::Cases) {
        // Built with the tests that call it.
        let agent = workspace.target().join("debug/lb-agent");
        cases::test(workspace, &agent, args.filter.as_deref(), skips, &mut report)?;
    }
    ensure!(
        !report.is_empty(),
        "no test has this in its name: {}",
        args.filter.as_deref().unwrap_or_default()
    );
    Ok(report.finish(args.json)?)
}

/// Whether a test may run that upgrades agents.
fn upgrades(args: &TestArgs) -> bool {
    args.only.is_none_or(|only| only == Kind::Net)
        && args.filter.as_deref().is_none_or(|filter| CHAOS.contains(filter))
}

/// Compiles all test programs around the object.
fn compile(workspace: &Workspace, object: &Path) -> Result<Vec<Program>> {
    say("building the tests");
    let mut cargo = child::cargo(workspace);
    cargo
        .env(OBJECT_VARIABLE, object)
        .args([
            "test",
            "--locked",
            "--no-run",
            "--message-format",
            "json-render-diagnostics",
        ])
        .stdout(Stdio::piped());
    let mut running = cargo
        .spawn()
        .with_context(|| format!("cannot start `{}`", child::line(&cargo)))?;
    let messages = running.stdout.take().expect("stdout was asked to be a pipe");
    let mut programs = Vec::new();
    for line in BufReader::new(messages).lines() {
        programs.extend(Program::from_message(&line?));
    }
    ensure!(
        running.wait()?.success(),
        "the tests do not build; the compiler's messages are above"
    );
    Ok(programs)
}

/// Where tests note that they were skipped (see [`program`]).
fn skip_file(workspace: &Workspace) -> Result<std::path::PathBuf> {
    let folder = workspace.target().join("xtask");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder.join(format!("skips-{}", std::process::id())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_targets_name_says_what_its_tests_need() {
        for (name, kind) in [
            ("packets", Kind::Packets),
            ("packets_icmp", Kind::Packets),
            ("net_tunnel", Kind::Net),
            ("e2e_drain", Kind::Net),
            ("kube", Kind::Kube),
            ("golden", Kind::Host),
        ] {
            assert_eq!(Kind::of_target(name), kind, "{name}");
        }
    }
}
