//! `cargo xtask matrix`: every kind of client to every address of every kind of Service, in every pod network, by real
//! packets, which must agree with a table and with what `lb-agent explain` decides. The cells themselves are a test, see
//! `lb-userspace/tests/e2e/matrix.rs`; a sample of them is a part of `cargo xtask test`.
//!
//! *Input*: networks, hooks, how many cells. *Output*: a check for each cell, and for the books of each node.

mod docs;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::child::say;
use crate::labs::Labs;
use crate::report::Report;
use crate::workspace::Workspace;

/// The test with the cells.
const TEST: &str = "matrix::cells_are_as_the_table_says_as_root";

/// What the names of checks begin with that are about a node, rather than a cell.
const BOOKS: &str = "books/";

/// Which cells.
#[derive(Args, Debug)]
#[command(after_long_help = "\
A cell is a kind of client (outside, a node, a pod, a backend itself; on a node with or without backends), an address \
(ClusterIP, NodePort of the own or of another node, load balancer, external IP), both traffic policies, pods or \
hostNetwork backends, a family and a protocol, in a lab of three nodes with one pod network and one hook. Each cell that \
forwards is tried by 20 connections for each backend that must answer; which backends answer, and the source addresses \
that they see, are compared with tests/matrix/expected.yaml, and with what `lb-agent explain` decides about the cell: over the \
live maps of the node that decides, and over maps in memory made of the manifests. Table, decision and packets must agree. A \
check's name is its cell; `expected` has table and decision, `seen` what packets did and what that contradicts. For each node there is one check more, books/NETWORK/HOOK/NODE: what its \
hooks received is what they counted (see `cargo xtask ledger`). Needs root.

  cargo xtask matrix                                      all cells
  cargo xtask matrix --pod-network tunnel --hook xdp      those of one lab
  cargo xtask matrix --sample 500 --seed 7                some of all
  cargo xtask matrix --update-docs                        and write docs/reachability.md")]
pub(crate) struct MatrixArgs {
    /// How pods are joined.
    #[arg(long, value_enum, default_value_t = Network::All)]
    pod_network: Network,
    /// Which programs see the traffic.
    #[arg(long, value_enum, default_value_t = Hook::All)]
    hook: Hook,
    /// Only so many cells, drawn at random.
    #[arg(long, value_name = "N")]
    sample: Option<usize>,
    /// What the draw depends on.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Print one JSON document of all checks.
    #[arg(long)]
    json: bool,
    /// Write docs/reachability.md from what was seen.
    #[arg(long, conflicts_with = "sample")]
    update_docs: bool,
}

/// How pods are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Network {
    /// A route for each pod.
    Routed,
    /// A vxlan device between nodes.
    Tunnel,
    /// A bridge on each node.
    Bridge,
    /// All three.
    All,
}

/// Which programs face the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Hook {
    /// TC.
    Tc,
    /// XDP, with TC for what it leaves.
    Xdp,
    /// TC, and TCP connections of nodes and pods translated at their sockets.
    Connect,
    /// All three, one after the other.
    All,
}

impl Network {
    const fn names(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Tunnel => "tunnel",
            Self::Bridge => "bridge",
            Self::All => "routed,tunnel,bridge",
        }
    }
}

impl Hook {
    const fn names(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Xdp => "xdp",
            Self::Connect => "connect",
            Self::All => "tc,xdp,connect",
        }
    }
}

/// The command.
pub(crate) fn command(workspace: &Workspace, args: &MatrixArgs) -> Result<ExitCode> {
    let labs = Labs {
        name: "matrix",
        tests: TEST,
        report: "LB_MATRIX_REPORT",
        variables: &[
            ("LB_MATRIX_NETWORKS", args.pod_network.names().to_owned()),
            ("LB_MATRIX_HOOKS", args.hook.names().to_owned()),
            (
                "LB_MATRIX_SAMPLE",
                args.sample.map(|n| n.to_string()).unwrap_or_default(),
            ),
            ("LB_MATRIX_SEED", args.seed.to_string()),
        ],
    };
    let mut report = Report::default();
    let checks = labs.run(workspace, &mut report)?;
    let (books, cells): (Vec<_>, Vec<_>) =
        (checks.into_iter()).partition(|check| check.id.starts_with(BOOKS));
    if args.update_docs && !cells.is_empty() {
        let path = workspace.root().join("docs/reachability.md");
        fs::write(&path, docs::page(&cells)?).with_context(|| format!("cannot write {}", path.display()))?;
        say(format!("{} is written", path.display()));
    }
    cells
        .into_iter()
        .chain(books)
        .for_each(|check| report.check(check));
    Ok(report.finish(args.json)?)
}
