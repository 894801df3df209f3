//! `cargo xtask ledger`: what each hook received, by the kernel's own count, is what `lb-agent counters` says became of it. The
//! labs themselves are tests, see `lb-userspace/tests/e2e/ledger.rs`.
//!
//! *Output*: a check for each hook of each node of each lab.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::labs::Labs;
use crate::report::Report;
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
    let labs = Labs {
        name: "ledger",
        tests: TESTS,
        report: "LB_LEDGER_REPORT",
        variables: &[("LB_LEDGER_HOOKS", "tc,xdp".to_owned())],
    };
    let mut report = Report::default();
    let checks = labs.run(workspace, &mut report)?;
    checks.into_iter().for_each(|check| report.check(check));
    Ok(report.finish(args.json)?)
}
