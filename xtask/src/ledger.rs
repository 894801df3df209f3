//! `cargo xtask ledger`: what each hook received, by the kernel's own count, is what `lb-agent counters` says became of it. Over
//! traffic of labs of its own (see `lb-userspace/tests/e2e/ledger.rs`), of the demo, of the cases, and of the matrix. How books are
//! read: `lb_cases::books`.
//!
//! *Output*: a check for each hook of each agent, and whether the traffic was what it is meant to be.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Result;
use clap::{Args, ValueEnum};
use lb_cases::books::{Balance, Line};

use crate::build::{self, BuildArgs};
use crate::child::say;
use crate::demo::{self, PodNetwork, Way};
use crate::labs::Labs;
use crate::report::{Check, Report, Skips};
use crate::workspace::Workspace;
use crate::{cases, setup};

/// The tests, one for each pod network.
const TESTS: &str = "ledger::what_hooks_receive_adds_up";
/// The test with the cells of the matrix.
const MATRIX: &str = "matrix::cells_are_as_the_table_says_as_root";
/// Where tests write down what they found.
const REPORT: &str = "LB_LEDGER_REPORT";

/// How it is told.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The kernel counts how often each program runs (BPF statistics, on for as long as this takes), which is once for a packet, or for \
a call at a socket. From the start of an agent to the end of the traffic that must be what `lb-agent counters` says was \
forwarded, passed, rejected and dropped, at each hook: residual 0. Over:

  labs    three nodes, in each pod network by TC and by XDP, with traffic of every kind: TCP and UDP, IPv4 and IPv6, from \
everywhere to every address, refusals, drops, fragments in any order, ICMP errors
  demo    `cargo xtask demo` by TC and by XDP
  cases   `cargo xtask cases tests/cases` by TC and by XDP
  matrix  some cells of `cargo xtask matrix`, in each pod network by each of its hooks

A check's name is where the traffic was, and the hook: labs/routed/tc/node1/uplink-in, demo/tc/node1/uplink-in, \
cases/tc/basic-clusterip/uplink-in, matrix/routed/xdp/node1/uplink-in. What the traffic itself was is a check too, without a \
hook. The demo, the cases and the matrix compare their books whenever they run; this shows all of it. Of the \
quarter of an hour that it takes on two busy cores, three minutes are the cells. Progress is printed on stderr. Needs root.

  cargo xtask ledger --json                      everything
  cargo xtask ledger --over demo,cases           some of it
  cargo xtask ledger --over matrix --cells all   with every cell of the matrix: an hour and more")]
pub(crate) struct LedgerArgs {
    /// Whose traffic.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "TRAFFIC", default_values_t = Traffic::value_variants().to_vec())]
    over: Vec<Traffic>,
    /// Cells of the matrix, drawn at random; or `all`.
    #[arg(long, value_name = "N", default_value = "360")]
    cells: Cells,
    /// What the draw depends on.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Print one JSON document of all checks.
    #[arg(long)]
    json: bool,
}

/// Whose traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Traffic {
    /// Labs of its own.
    Labs,
    /// The demo.
    Demo,
    /// The cases of the repository.
    Cases,
    /// Cells of the matrix.
    Matrix,
}

/// How many cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cells {
    /// Every one.
    All,
    /// So many.
    Some(NonZeroUsize),
}

impl FromStr for Cells {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            number => number
                .parse()
                .map(Self::Some)
                .map_err(|_| format!("{number:?} is neither a number from 1 nor `all`")),
        }
    }
}

/// The command.
pub(crate) fn command(workspace: &Workspace, args: &LedgerArgs) -> Result<ExitCode> {
    let LedgerArgs {
        over,
        cells,
        seed,
        json,
    } = args;
    let mut report = Report::default();
    let mut over = over.clone();
    over.sort();
    over.dedup();
    for traffic in over {
        match traffic {
            Traffic::Labs => labs(
                workspace,
                TESTS,
                &[("LB_LEDGER_HOOKS", "tc,xdp".to_owned())],
                &mut report,
            )?,
            Traffic::Demo => over_demo(workspace, &mut report)?,
            Traffic::Cases => over_cases(workspace, &mut report)?,
            Traffic::Matrix => {
                let cells = match cells {
                    Cells::All => "all".to_owned(),
                    Cells::Some(number) => number.to_string(),
                };
                let variables = [
                    ("LB_MATRIX_NETWORKS", "routed,tunnel,bridge".to_owned()),
                    ("LB_MATRIX_HOOKS", "tc,xdp,connect".to_owned()),
                    ("LB_MATRIX_SAMPLE", cells),
                    ("LB_MATRIX_SEED", seed.to_string()),
                ];
                labs(workspace, MATRIX, &variables, &mut report)?;
            }
        }
    }
    Ok(report.finish(*json)?)
}

/// Over the traffic of tests.
fn labs(workspace: &Workspace, tests: &str, variables: &[(&str, String)], report: &mut Report) -> Result<()> {
    let labs = Labs {
        name: "ledger",
        tests,
        report: REPORT,
        variables,
    };
    let checks = labs.run(workspace, report)?;
    checks.into_iter().for_each(|check| report.check(check));
    Ok(())
}

/// Over the demo's traffic.
fn over_demo(workspace: &Workspace, report: &mut Report) -> Result<()> {
    if !can_be_tried("demo", report) {
        return Ok(());
    }
    setup::runtime(workspace)?;
    let program = build::all(workspace, &BuildArgs::default())?;
    for (name, hook) in [("tc", demo::Hook::Tc), ("xdp", demo::Hook::Xdp)] {
        let way = Way {
            pod_network: PodNetwork::Routed,
            hook,
            keep: false,
        };
        let mut of_demo = Report::default();
        let played = demo::run(workspace, &program, way, &mut of_demo, &mut |text| {
            eprintln!("{text}");
        })?;
        let (passed, all) = of_demo.passed();
        report.check(Check {
            id: format!("demo/{name}"),
            expected: format!("{all} checks of the demo hold"),
            seen: format!("{passed} hold"),
            ok: passed == all,
        });
        for (node, balance) in played.balances {
            note(&format!("demo/{name}/{node}"), &balance, report);
        }
    }
    Ok(())
}

/// Over the cases' traffic.
fn over_cases(workspace: &Workspace, report: &mut Report) -> Result<()> {
    if !can_be_tried("cases", report) {
        return Ok(());
    }
    setup::runtime(workspace)?;
    let agent = build::all(workspace, &BuildArgs::default())?;
    for (name, hook) in [("tc", cases::Hook::Tc), ("xdp", cases::Hook::Xdp)] {
        let prefix = format!("cases/{name}/");
        let mut balances = Vec::new();
        let mut tell = |case: &str, balance| balances.push((format!("{prefix}{case}"), balance));
        cases::traffic(workspace, &agent, hook, &prefix, report, &mut tell)?;
        for (case, balance) in balances {
            note(&case, &balance, report);
        }
    }
    Ok(())
}

/// A check for each hook.
fn note(of: &str, balance: &Balance, report: &mut Report) {
    for line in balance.lines() {
        report.check(Check::from(Line {
            of: format!("{of}/{}", line.of),
            ..line
        }));
    }
    let residual = if balance.adds_up() {
        "residual 0"
    } else {
        "NOT residual 0"
    };
    say(format!("{of}: {} received, {residual}", balance.received()));
}

/// Whether there can be labs; says why not.
fn can_be_tried(what: &str, report: &mut Report) -> bool {
    let root = lb_lab::is_root();
    if !root {
        report.skip(what, "needs root, for network namespaces", Skips::from_env());
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_a_number_or_all() {
        assert_eq!("all".parse(), Ok(Cells::All));
        assert_eq!("9".parse(), Ok(Cells::Some(NonZeroUsize::new(9).unwrap())));
        for text in ["0", "-1", "many", ""] {
            assert!(text.parse::<Cells>().unwrap_err().contains("`all`"), "{text}");
        }
    }
}
