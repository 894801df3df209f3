//! `cargo xtask explain-check`: what `lb-agent explain` says of many cells, against packets; and its first remedy, carried
//! out. The cells themselves are tests, see `lb-userspace/tests/e2e/explain.rs`.
//!
//! *Input*: how many cells. *Output*: a check for each, and one for the remedy of each that has no answer.

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
    setup::runtime(workspace)?;
    let object = build::object(workspace, &setup::toolchain(workspace)?, false)?;
    let folder = workspace
        .target()
        .join("xtask")
        .join(format!("explain-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut cargo = child::cargo(workspace);
    cargo
        .env(OBJECT_VARIABLE, object)
        .env("LB_EXPLAIN_SAMPLE", args.cells.div_ceil(NETWORKS).to_string())
        .env("LB_EXPLAIN_SEED", args.seed.to_string())
        .env("LB_EXPLAIN_REPORT", &folder)
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
    if files.is_empty() {
        ensure!(
            status.success(),
            "the cells do not build or run; what was printed is above"
        );
        report.skip("explain", "cannot be tried here, see above", Skips::from_env());
    }
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let checks: Vec<Check> = serde_json::from_str(&text)
            .with_context(|| format!("{} is not what it should be", file.display()))?;
        checks.into_iter().for_each(|check| report.check(check));
    }
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    say(format!(
        "explain-check took {:.0} s",
        start.elapsed().as_secs_f32()
    ));
    Ok(report.finish(args.json)?)
}
