//! `cargo xtask run`: the agent of this tree, on devices of this machine, for a developer.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use clap::Args;

use crate::build::{self, BuildArgs};
use crate::child::{self, say};
use crate::setup;
use crate::workspace::Workspace;

/// What the agent is started with.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    build: BuildArgs,
    /// A device to load the programs onto; may be repeated.
    #[arg(long = "device", value_name = "DEV")]
    devices: Vec<String>,
    /// The folder of manifests to serve instead of a cluster's.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Passed to `lb-agent run` as they stand.
    #[arg(last = true, value_name = "ARGS")]
    agent: Vec<String>,
}

/// Builds, then becomes the agent, so that signals reach it and its exit status is ours.
pub(crate) fn command(workspace: &Workspace, args: &RunArgs) -> Result<()> {
    setup::runtime(workspace)?;
    let agent = build::all(workspace, &args.build)?;
    let mut command: Command = child::command(agent, workspace);
    command
        .stdin(Stdio::inherit())
        .stdout(Stdio::inherit())
        .arg("run");
    for device in &args.devices {
        command.args(["--device", device]);
    }
    if let Some(folder) = &args.manifests {
        // The child runs in the workspace's root; the path was typed elsewhere.
        let folder = std::path::absolute(folder).context("--manifests is not a usable path")?;
        command.args(["--source", "dir"]).arg("--manifests").arg(folder);
    }
    command.args(&args.agent);
    say(format!("starting {}", child::line(&command)));
    Err(command.exec()).context("lb-agent does not start")
}
