//! `cargo xtask demo`: a small cluster of namespaces, real agents, real traffic, and a table of who
//! reached what.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::workspace::Workspace;

/// How the demo runs.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Print one JSON document of all checks instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave the cluster up and say how to look around in it.
    #[arg(long, conflicts_with = "down")]
    pub(crate) keep: bool,
    /// Remove a cluster that was left up.
    #[arg(long)]
    pub(crate) down: bool,
    /// How the nodes connect their pods.
    #[arg(long, value_enum, default_value_t = PodNetwork::Routed)]
    pub(crate) pod_network: PodNetwork,
}

/// How the nodes connect their pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PodNetwork {
    /// A veth per pod and routes between the nodes.
    Routed,
    /// The same, with a VXLAN tunnel between the nodes.
    Tunnel,
    /// A bridge per node.
    Bridge,
}

/// Sets the cluster up, shows it, takes it down.
pub(crate) fn command(_workspace: &Workspace, _args: &DemoArgs) -> Result<ExitCode> {
    bail!("the demo is not built yet")
}
