//! Agents that differ from the usual one as the next version would: for tests of upgrades.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::build;
use crate::child::{self, say};
use crate::setup;
use crate::workspace::Workspace;

/// How a variant differs: a feature of the programs and of the agent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Variant {
    /// The programs have other instructions.
    Text,
    /// The maps have another layout.
    Layout,
}

impl Variant {
    /// All of them.
    const ALL: [Self; 2] = [Self::Text, Self::Layout];

    fn feature(self) -> &'static str {
        match self {
            Self::Text => "other-text",
            Self::Layout => "other-layout",
        }
    }

    /// The variable that tells tests where this agent is.
    fn variable(self) -> &'static str {
        match self {
            Self::Text => "LB_AGENT_TEXT",
            Self::Layout => "LB_AGENT_LAYOUT",
        }
    }

    /// Builds all of them. Gives what tests are told: a variable each. Before the usual agent, which is then built last.
    pub(crate) fn build_all(workspace: &Workspace) -> Result<Vec<(&'static str, PathBuf)>> {
        let told = |variant: Self| Ok((variant.variable(), variant.build(workspace)?));
        Self::ALL.into_iter().map(told).collect()
    }

    /// Builds the programs and the agent around them; the result is the agent's path. What is built for use stays as it is.
    fn build(self, workspace: &Workspace) -> Result<PathBuf> {
        let feature = self.feature();
        say(format!("building an agent with {feature}"));
        let folder = workspace.target().join("xtask").join(feature);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let toolchain = setup::toolchain(workspace)?;
        let mut programs = build::object_command(workspace, &toolchain, false);
        child::run(programs.args(["--features", feature]))
            .with_context(|| format!("the eBPF programs do not build with {feature}"))?;
        let object = folder.join("lb-ebpf.o");
        copy(&build::object_path(workspace), &object)?;
        let mut agent = build::agent_command(workspace, &object);
        child::run(agent.args(["--features", feature]))
            .with_context(|| format!("lb-agent does not build with {feature}"))?;
        let own = folder.join("lb-agent");
        copy(&workspace.target().join("debug/lb-agent"), &own)?;
        Ok(own)
    }
}

/// Copies a file, unless that is there already: a newer file would be built around once more.
fn copy(from: &PathBuf, to: &PathBuf) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    // Not over the old one: an agent may be running from it.
    let _ = fs::remove_file(to);
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot write {}", to.display()))
}
