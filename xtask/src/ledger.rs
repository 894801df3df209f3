//! `cargo xtask ledger`: what each hook received, by the kernel's own count, is what `lb-agent counters` says became of it. The
//! labs themselves are tests, see `lb-userspace/tests/e2e/ledger.rs`.
//!
//! *Output*: a check for each hook of each node of each lab.

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::build::{self, OBJECT_VARIABLE};
use crate::child::{self, say};
use crate::report::{Check, Report, Skips};
use crate::setup;
use crate::workspace::Workspace;

/// The tests, one for each pod network.
const TESTS: &str = "ledger::what_hooks_receive_adds_up";

/// How it is told.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Labs of three nodes, in each pod network by TC and by XDP, with traffic of every kind: TCP and UDP, IPv4 and IPv6, from \
everywhere to every address, refusals, drops, fragments in any order, ICMP errors. The kernel counts how often each program \
runs (BPF statistics, on for as long as this takes), which is once for a packet. For each hook that must be what \
`lb-agent counters` says was forwarded, passed, rejected and dropped there: residual 0. A check's name is \
network/hook/node/hook. Needs root.")]
pub(crate) struct LedgerArgs {
    /// Print one JSON document of all checks.
    #[arg(long)]
    json: bool,
}

/// The command.
pub(crate) fn command(workspace: &Workspace, args: &LedgerArgs) -> Result<ExitCode> {
    setup::runtime(workspace)?;
    let object = build::object(workspace, &setup::toolchain(workspace)?, false)?;
    let folder = workspace
        .target()
        .join("xtask")
        .join(format!("ledger-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut cargo = child::cargo(workspace);
    cargo
        .env(OBJECT_VARIABLE, object)
        .env("LB_LEDGER_HOOKS", "tc,xdp")
        .env("LB_LEDGER_REPORT", &folder)
        .args(["test", "--locked", "--package", "lb-userspace", "--test", "e2e"])
        .args(["--", "--nocapture", "--test-threads", "1", TESTS])
        .stdout(std::io::stderr());
    let start = Instant::now();
    let status = cargo
        .status()
        .with_context(|| format!("cannot start `{}`", child::line(&cargo)))?;
    let mut files: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    let mut report = Report::default();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let checks: Vec<Check> = serde_json::from_str(&text)
            .with_context(|| format!("{} is not what it should be", file.display()))?;
        checks.into_iter().for_each(|check| report.check(check));
    }
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    if files.is_empty() && status.success() {
        report.skip("ledger", "cannot be tried here, see above", Skips::from_env());
    }
    // A lab that fell over before it wrote anything is no lab that adds up.
    ensure!(
        status.success() || report.has_misses(),
        "not all labs came to an end; what was printed is above"
    );
    say(format!("ledger took {:.0} s", start.elapsed().as_secs_f32()));
    Ok(report.finish(args.json)?)
}
