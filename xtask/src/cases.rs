//! `cargo xtask cases`: the scenarios of a folder against the real agent, each a check of the report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use lb_cases::{Miss, Options, Verdict, books::Balance};

use crate::build::{self, BuildArgs};
use crate::child::say;
use crate::report::{Check, Report, Skips};
use crate::setup;
use crate::workspace::Workspace;

/// At the start of every name that labs give on this machine.
const TAG: &str = "lbcase";
/// Scenarios at work at a time on each processor: much of one is waiting for the agent.
const JOBS_EACH: usize = 3;

/// Which scenarios run, and how.
#[derive(Args, Debug)]
pub(crate) struct CasesArgs {
    /// The folder of scenarios (`lbcase/v1`, *.yaml).
    pub(crate) folder: PathBuf,
    /// Only scenarios with this text in their name; may be repeated.
    #[arg(long = "filter", value_name = "TEXT")]
    pub(crate) filters: Vec<String>,
    /// Which programs face the network.
    #[arg(long, value_enum, default_value_t = Hook::Tc)]
    pub(crate) hook: Hook,
    /// An agent that is built already; otherwise this tree's is built.
    #[arg(long, value_name = "FILE")]
    pub(crate) agent: Option<PathBuf>,
    /// Where agents get their objects from.
    #[arg(long, value_enum, default_value_t = Objects::Api)]
    pub(crate) objects: Objects,
    /// Print one JSON document of all checks.
    #[arg(long)]
    pub(crate) json: bool,
    /// Scenarios at work at a time; those that only wait do not count.
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
}

/// Which programs face the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hook {
    /// TC.
    Tc,
    /// XDP, with TC for what it leaves.
    Xdp,
}

/// Where agents get their objects from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Objects {
    /// An API server, where one can be had and takes them; a folder otherwise.
    Api,
    /// A folder.
    Folder,
}

/// The command.
pub(crate) fn command(workspace: &Workspace, args: &CasesArgs) -> Result<ExitCode> {
    setup::runtime(workspace)?;
    let agent = match &args.agent {
        Some(agent) => agent.clone(),
        None => build::all(workspace, &BuildArgs::default())?,
    };
    let mut report = Report::default();
    run(&agent, args, "", Skips::from_env(), &mut report, |_, _| ())?;
    ensure!(
        !report.is_empty(),
        "no scenario has this in its name: {}",
        args.filters.join(", ")
    );
    Ok(report.finish(args.json)?)
}

/// The open cases, as a part of `cargo xtask test`: those with `filter` in their name, checks named after them.
pub(crate) fn test(
    workspace: &Workspace,
    agent: &Path,
    filter: Option<&str>,
    skips: Skips,
    report: &mut Report,
) -> Result<()> {
    let args = CasesArgs {
        filters: filter.map(str::to_owned).into_iter().collect(),
        ..CasesArgs::open(workspace)
    };
    run(agent, &args, "cases::", skips, report, |_, _| ())
}

/// The open cases as traffic, checks named `prefix` and a scenario; `tell` gets what the hooks of each received.
pub(crate) fn traffic(
    workspace: &Workspace,
    agent: &Path,
    hook: Hook,
    prefix: &str,
    report: &mut Report,
    tell: impl FnMut(&str, Balance),
) -> Result<()> {
    let args = CasesArgs {
        hook,
        ..CasesArgs::open(workspace)
    };
    run(agent, &args, prefix, Skips::from_env(), report, tell)
}

impl CasesArgs {
    /// All cases of the repository, as they are run without further flags.
    fn open(workspace: &Workspace) -> Self {
        Self {
            folder: workspace.root().join("tests/cases"),
            filters: Vec::new(),
            hook: Hook::Tc,
            agent: None,
            objects: Objects::Api,
            json: false,
            jobs: None,
        }
    }
}

fn default_jobs() -> usize {
    JOBS_EACH * std::thread::available_parallelism().map_or(2, usize::from)
}

/// Runs the scenarios of a folder into a report; the checks' names start with `prefix`. `tell` gets what the hooks of each
/// received.
fn run(
    agent: &Path,
    args: &CasesArgs,
    prefix: &str,
    skips: Skips,
    report: &mut Report,
    mut tell: impl FnMut(&str, Balance),
) -> Result<()> {
    let start = Instant::now();
    let mut cases = Vec::new();
    for (name, case) in lb_cases::read_folder(&args.folder)? {
        if !args.filters.is_empty() && !args.filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let id = format!("{prefix}{name}");
        match case {
            Ok(_) if !lb_lab::is_root() => report.skip(id, "needs root, for network namespaces", skips),
            Ok(case) => cases.push(case),
            Err(error) => report.fail(id, "a scenario that can be read", format!("{error:#}")),
        }
    }
    if cases.is_empty() {
        return Ok(());
    }
    lb_lab::on_signal()?;
    let jobs = args.jobs.unwrap_or_else(default_jobs);
    let options = Options {
        agent: std::path::absolute(agent).context("the agent's path")?,
        hook: match args.hook {
            Hook::Tc => lb_cases::Hook::Tc,
            Hook::Xdp => lb_cases::Hook::Xdp,
        },
        objects: match args.objects {
            Objects::Api => lb_cases::Objects::Api,
            Objects::Folder => lb_cases::Objects::Folder,
        },
        jobs,
        tag: TAG.into(),
    };
    say(format!("running {} scenarios, {jobs} at a time", cases.len()));
    lb_cases::run(&cases, &options, |mut verdict| {
        say(format!(
            "{} {} ({:.1} s)",
            if verdict.misses.is_empty() {
                "ok    "
            } else {
                "FAILED"
            },
            verdict.name,
            verdict.time.as_secs_f32()
        ));
        if let Some(balance) = verdict.balance.take() {
            tell(&verdict.name, balance);
        }
        report.check(check(prefix, verdict));
    });
    say(format!(
        "the scenarios took {:.0} s",
        start.elapsed().as_secs_f32()
    ));
    Ok(())
}

/// A scenario is one check, however much is wrong in it.
fn check(prefix: &str, verdict: Verdict) -> Check {
    let Verdict {
        name, tried, misses, ..
    } = verdict;
    let lines = |of: fn(&Miss) -> &String| {
        let lines = misses.iter().map(|miss| format!("{}: {}", miss.at, of(miss)));
        lines.collect::<Vec<_>>().join("\n            ")
    };
    let ok = misses.is_empty();
    let (expected, seen) = match ok {
        true => (tried.clone(), tried),
        false => (lines(|miss| &miss.expected), lines(|miss| &miss.seen)),
    };
    Check {
        id: format!("{prefix}{name}"),
        expected,
        seen,
        ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_one_check_that_names_all_that_is_wrong() {
        let miss = |at: &str| Miss {
            at: at.into(),
            expected: "reject".into(),
            seen: "silent".into(),
        };
        let verdict = |misses| Verdict {
            name: "basic".into(),
            tried: "2 flows".into(),
            misses,
            balance: None,
            time: std::time::Duration::ZERO,
        };
        let failed = check("", verdict(vec![miss("flow a"), miss("flow b")]));
        assert!(!failed.ok && failed.seen.contains("flow a: silent") && failed.seen.contains("flow b"));
        assert!(check("", verdict(Vec::new())).ok);
    }
}
