//! `cargo xtask explain-check`: what `lb-agent explain` says of many cells, against packets; and its first remedy, carried
//! out. The cells themselves are tests, see `lb-userspace/tests/e2e/explain.rs`.
//!
//! *Input*: how many cells. *Output*: a check for each, and one for the remedy of each that has no answer.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::labs::Labs;
use crate::report::Report;
use crate::workspace::Workspace;

/// The tests with the cells, one for each pod network.
const TESTS: &str = "explain::explain_says_what_packets_do";
/// So many there are.
const NETWORKS: usize = 3;

/// Which cells.
#[derive(Args, Debug)]
#[command(after_long_help = "\
A cell is a client (a pod or a process of a node with or without backends, or outside by way of either node), an address of a \
Service (ClusterIP, a port that it does not have, load balancer, NodePort of the own or of another node), of four Services \
(external policy Local, both policies Cluster, internal policy Local, no endpoints), a family, a protocol, and a pod network. \
For each, `lb-agent explain` is asked on the node that decides and from the manifests: its verdict, the backends and the \
address that each sees must be what packets show. Where the answer is no, the first remedy is carried out and the client must \
be answered; or there is none, and it must say why. Needs root.

  cargo xtask explain-check --cells 200 --seed 7")]
pub(crate) struct ExplainArgs {
    /// How many cells, in all three pod networks together.
    #[arg(long, value_name = "N", default_value_t = 200)]
    cells: usize,
    /// What the draw depends on.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Print one JSON document of all checks.
    #[arg(long)]
    json: bool,
}

/// The command.
pub(crate) fn command(workspace: &Workspace, args: &ExplainArgs) -> Result<ExitCode> {
    let labs = Labs {
        name: "explain-check",
        tests: TESTS,
        report: "LB_EXPLAIN_REPORT",
        variables: &[
            ("LB_EXPLAIN_SAMPLE", args.cells.div_ceil(NETWORKS).to_string()),
            ("LB_EXPLAIN_SEED", args.seed.to_string()),
        ],
    };
    let mut report = Report::default();
    let checks = labs.run(workspace, &mut report)?;
    checks.into_iter().for_each(|check| report.check(check));
    Ok(report.finish(args.json)?)
}
