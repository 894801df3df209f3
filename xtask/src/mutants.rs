//! `cargo xtask mutants`: breaks the source in small ways and sees whether a test notices.
//!
//! *Input*: `xtask/mutants.yaml`. *Output*: a check per mutation; the ones that no test noticed are named.
//!
//! *Invariants*: works on copies of the tree under `target/mutants`, never on the tree itself. A mutation that
//! does not apply or does not compile proves nothing and is a miss; so is a test that fails unmutated.

mod mutation;
mod tree;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::child::say;
use crate::report::{Report, Skips};
use crate::setup;
use crate::workspace::Workspace;
use mutation::{Mutation, Tests};
use trial::{Baseline, Bench, Verdict};

/// Which mutations are tried.
#[derive(Args, Debug)]
pub(crate) struct MutantsArgs {
    /// Only mutations with this text in their id.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Print one JSON document of all checks.
    #[arg(long)]
    json: bool,
    /// How many mutations to try at a time; each has a tree and a build folder of its own.
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
}

/// The command.
pub(crate) fn command(workspace: &Workspace, args: &MutantsArgs) -> Result<ExitCode> {
    let mut mutations = mutation::read(&workspace.root().join("xtask/mutants.yaml"))?;
    if let Some(filter) = &args.filter {
        mutations.retain(|mutation| mutation.id.contains(filter.as_str()));
    }
    ensure!(
        !mutations.is_empty(),
        "no mutation has this in its id: {}",
        args.filter.as_deref().unwrap_or_default()
    );
    // Loading the programs needs what the tests need.
    if mutations.iter().any(|mutation| mutation.tests.programs) {
        setup::runtime(workspace)?;
        setup::toolchain(workspace)?;
    }
    let jobs = args.jobs.clamp(1, mutations.len());
    let benches: Vec<Bench> = (0..jobs)
        .map(|job| Bench::set_up(workspace, job))
        .collect::<Result<_>>()?;
    let baselines = measure(&benches[0], &mutations)?;
    let report = try_all(&benches, &baselines, mutations)?;
    Ok(report.finish(args.json)?)
}

/// Runs each set of tests on the tree as it is: what fails there cannot notice a mutation.
fn measure(bench: &Bench, mutations: &[Mutation]) -> Result<BTreeMap<Tests, Baseline>> {
    let all: BTreeSet<&Tests> = mutations.iter().map(|mutation| &mutation.tests).collect();
    let mut baselines = BTreeMap::new();
    for tests in all {
        say(format!(
            "without a mutation: cargo test {}",
            tests.arguments.join(" ")
        ));
        let baseline = bench
            .baseline(tests)
            .context("the tests have to pass before mutations can be tried")?;
        baselines.insert(tests.clone(), baseline);
    }
    Ok(baselines)
}

/// Hands the mutations to the benches; results come in the order of the list.
fn try_all(
    benches: &[Bench],
    baselines: &BTreeMap<Tests, Baseline>,
    mutations: Vec<Mutation>,
) -> Result<Report> {
    let queue = Mutex::new(mutations.into_iter().enumerate());
    let results = Mutex::new(Vec::new());
    let work = |bench: &Bench| -> Result<()> {
        loop {
            let next = queue.lock().expect("no bench panics with the queue").next();
            let Some((index, mutation)) = next else {
                return Ok(());
            };
            let baseline = &baselines[&mutation.tests];
            let verdict = bench.try_mutation(&mutation, baseline)?;
            say(format!("{}: {verdict}", mutation.id));
            results
                .lock()
                .expect("no bench panics with the results")
                .push((index, mutation, verdict));
        }
    };
    thread::scope(|scope| {
        let running: Vec<_> = benches.iter().map(|bench| scope.spawn(|| work(bench))).collect();
        running
            .into_iter()
            .try_for_each(|bench| bench.join().expect("a bench reports errors, it does not panic"))
    })?;
    let mut results = results.into_inner().expect("all benches have ended");
    results.sort_by_key(|(index, ..)| *index);
    let mut report = Report::default();
    for (_, mutation, verdict) in results {
        add(&mut report, &mutation, &verdict);
    }
    Ok(report)
}

fn add(report: &mut Report, mutation: &Mutation, verdict: &Verdict) {
    let expected = format!("noticed by `cargo test {}`", mutation.tests.arguments.join(" "));
    match verdict {
        Verdict::Skipped(reason) => report.skip(&mutation.id, reason, Skips::from_env()),
        Verdict::Caught(_) => report.check(crate::report::Check {
            id: mutation.id.clone(),
            expected,
            seen: verdict.to_string(),
            ok: true,
        }),
        Verdict::Survived | Verdict::Bad(_) => report.fail(&mutation.id, expected, verdict.to_string()),
    }
}

#[cfg(test)]
mod tests;
