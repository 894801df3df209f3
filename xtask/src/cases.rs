//! `cargo xtask cases`: the scenarios of a folder against the real agent, each a check of the report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use lb_cases::{Miss, Options, Verdict};

use crate::build::{self, BuildArgs};
use crate::child::say;
use crate::report::{Check, Report};
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
    folder: PathBuf,
    /// Only scenarios with this text in their name.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Which programs face the network.
    #[arg(long, value_enum, default_value_t = Hook::Tc)]
    hook: Hook,
    /// An agent that is built already; otherwise this tree's is built.
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Where agents get their objects from.
    #[arg(long, value_enum, default_value_t = Objects::Api)]
    objects: Objects,
    /// Print one JSON document of all checks.
    #[arg(long)]
    json: bool,
    /// Scenarios at work at a time; those that only wait do not count.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
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
    lb_lab::on_signal()?;
    let mut report = Report::default();
    let jobs = args.jobs.unwrap_or_else(default_jobs);
    run(&agent, args, jobs, &mut report)?;
    Ok(report.finish(args.json)?)
}

fn default_jobs() -> usize {
    JOBS_EACH * std::thread::available_parallelism().map_or(2, usize::from)
}

/// Runs the scenarios of a folder into a report.
fn run(agent: &Path, args: &CasesArgs, jobs: usize, report: &mut Report) -> Result<()> {
    let start = Instant::now();
    let mut cases = Vec::new();
    for (name, case) in lb_cases::read_folder(&args.folder)? {
        if args
            .filter
            .as_ref()
            .is_some_and(|filter| !name.contains(filter.as_str()))
        {
            continue;
        }
        match case {
            Ok(case) => cases.push(case),
            Err(error) => report.fail(name, "a scenario that can be read", format!("{error:#}")),
        }
    }
    ensure!(
        !cases.is_empty() || !report.is_empty(),
        "no scenario has this in its name: {}",
        args.filter.as_deref().unwrap_or_default()
    );
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
    lb_cases::run(&cases, &options, |verdict| {
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
        report.check(check(verdict));
    });
    say(format!(
        "the scenarios took {:.0} s",
        start.elapsed().as_secs_f32()
    ));
    Ok(())
}

/// A scenario is one check, however much is wrong in it.
fn check(verdict: Verdict) -> Check {
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
        id: name,
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
            time: std::time::Duration::ZERO,
        };
        let failed = check(verdict(vec![miss("flow a"), miss("flow b")]));
        assert!(!failed.ok && failed.seen.contains("flow a: silent") && failed.seen.contains("flow b"));
        assert!(check(verdict(Vec::new())).ok);
    }
}
