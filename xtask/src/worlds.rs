//! `cargo xtask worlds`: as many random worlds as it is told, each asked what becomes of packets and compared with an
//! independent reading of the semantics. The worlds themselves are a test program, see
//! `lb-userspace/tests/packets_worlds`; some hundred of them are a part of `cargo xtask test`.
//!
//! *Input*: a number and a seed. *Output*: a check for all worlds together and one for each that fails.

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;

use crate::build::{self, OBJECT_VARIABLE};
use crate::child::{self, say};
use crate::report::{Report, Skips};
use crate::setup;
use crate::workspace::Workspace;

/// The test target with the worlds.
const TARGET: &str = "packets_worlds";

/// Which worlds.
#[derive(Args, Debug)]
#[command(after_long_help = "\
A world is a node with its settings, and Nodes, Services and EndpointSlices that change a few times. They go through \
the agent's conversion, model, planner and map writer into the maps of the loaded programs, in a random order and \
with one map write in ten failing. After each change packets of pods, node processes and outside clients are run \
through the programs (BPF_PROG_TEST_RUN) on the way the kernel would take them, XDP and TC; where they end must be an \
answer that the semantics allow, every endpoint must be reached, the endpoint's answer must come back, established \
flows must stay. Then all events come once more in another order, and every answer must be the same.

World SEED + n is made from the number SEED + n alone: what fails is shrunk, printed as manifests with the probe, the \
right answers and what was seen, and tried again by `--count 1 --seed THAT`. Needs root.

  cargo xtask worlds                            a thousand worlds that nobody has seen
  cargo xtask worlds --count 1 --seed 4711      one world again")]
pub(crate) struct WorldsArgs {
    /// How many worlds.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    count: u64,
    /// Seed of the first one; the others follow by number [default: from the clock].
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Print one JSON document of all checks.
    #[arg(long)]
    json: bool,
}

/// What the test program leaves behind.
#[derive(Deserialize)]
struct Outcome {
    worlds: u64,
    probes: u64,
    packets: u64,
    seconds: f64,
    answers: BTreeMap<String, u64>,
    never_asked: Vec<String>,
    failures: Vec<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    seed: u64,
    text: String,
}

/// The command.
pub(crate) fn command(workspace: &Workspace, args: &WorldsArgs) -> Result<ExitCode> {
    setup::runtime(workspace)?;
    let object = build::object(workspace, &setup::toolchain(workspace)?, false)?;
    let seed = args.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_secs() % 1_000_000_000 * 1000
    });
    say(format!("{} worlds from seed {seed}", args.count));
    let folder = workspace.target().join("xtask");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join(format!("worlds-{}.json", std::process::id()));
    let mut cargo = child::cargo(workspace);
    cargo
        .env(OBJECT_VARIABLE, object)
        .env("LB_WORLDS_COUNT", args.count.to_string())
        .env("LB_WORLDS_SEED", seed.to_string())
        .env("LB_WORLDS_REPORT", &file)
        .args(["test", "--locked", "--package", "lb-userspace", "--test", TARGET])
        .args(["--", "--nocapture"]);
    let status = cargo
        .status()
        .with_context(|| format!("cannot start `{}`", child::line(&cargo)))?;
    let Ok(text) = fs::read_to_string(&file) else {
        ensure!(
            status.success(),
            "the worlds do not build or run; what was printed is above"
        );
        let mut report = Report::default();
        report.skip("worlds", "cannot be tried here, see above", Skips::from_env());
        return Ok(report.finish(args.json)?);
    };
    fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    let outcome: Outcome = serde_json::from_str(&text)
        .with_context(|| format!("{} is not what it should be", file.display()))?;
    Ok(judge(&outcome, seed).finish(args.json)?)
}

/// The checks of an outcome.
fn judge(outcome: &Outcome, seed: u64) -> Report {
    let mut report = Report::default();
    for failure in &outcome.failures {
        report.fail(
            format!("worlds/{}", failure.seed),
            "every probe is answered as the semantics say",
            &failure.text,
        );
    }
    let Outcome {
        worlds,
        probes,
        packets,
        seconds,
        ..
    } = outcome;
    let figures =
        format!("{worlds} worlds from seed {seed}: {probes} probes, {packets} packets, {seconds:.0} s");
    let answers = outcome
        .answers
        .iter()
        .map(|(sort, count)| format!("{sort} {count}"));
    say(format!("{figures}; {}", answers.collect::<Vec<_>>().join(", ")));
    if outcome.failures.is_empty() {
        report.pass("worlds", figures);
    }
    if outcome.never_asked.is_empty() {
        report.pass(
            "worlds/coverage",
            "every sort of client has had every sort of answer",
        );
    } else {
        let missing = outcome.never_asked.join(", ");
        report.fail(
            "worlds/coverage",
            "every sort of client has had every sort of answer",
            missing,
        );
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(failures: serde_json::Value, never_asked: serde_json::Value) -> Outcome {
        let document = serde_json::json!({
            "first_seed": 7, "worlds": 2, "probes": 30, "packets": 400, "seconds": 1.5,
            "answers": {"pod: drop": 30}, "never_asked": never_asked, "failures": failures,
        });
        serde_json::from_value(document).expect("what the test program writes")
    }

    #[test]
    fn a_world_that_fails_and_an_answer_that_nobody_had_are_misses() {
        let none = serde_json::json!([]);
        let good = judge(&outcome(none.clone(), none.clone()), 7);
        assert_eq!(good.to_string(), "2 passed, 0 failed, 0 skipped");
        let failed = serde_json::json!([{"seed": 8, "text": "pod: drop"}]);
        assert_eq!(
            judge(&outcome(failed, none.clone()), 7).to_string(),
            "1 passed, 1 failed, 0 skipped"
        );
        let missing = serde_json::json!(["pod: reject"]);
        assert_eq!(
            judge(&outcome(none, missing), 7).to_string(),
            "1 passed, 1 failed, 0 skipped"
        );
    }
}
