//! `cargo xtask chaos`: traffic of every kind while agents are killed, restarted and upgraded in the middle of changes. The lab
//! itself is a test, see `lb-userspace/tests/e2e/chaos.rs`.
//!
//! *Output*: a check for each thing that must not happen, and for how much was really tried.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::labs::Labs;
use crate::report::Report;
use crate::variants::Variant;
use crate::workspace::Workspace;

/// The test.
const TEST: &str = "chaos::nobody_notices_what_happens_to_agents";

/// How it is told.
#[derive(Args, Debug)]
#[command(after_long_help = "\
A lab of two nodes with 1,000 long-lived TCP connections, 200 new ones a second and numbered datagrams, IPv4 and IPv6, by \
every kind of address, while at least 20 Services or endpoints change a second. Events come at random from a seed: an agent \
gets SIGTERM or SIGKILL, half of these between the first and the last map write of a plan, is started again, with programs \
of another text, with another map layout and back, with another hook, and the API server is killed. Nothing may be reset, \
refused, lost or wrong. Progress is printed on stderr, a line for each event. The same seed gives the same events. Three to five \
seconds for an event. Needs root; see docs/chaos.md.")]
pub(crate) struct ChaosArgs {
    /// How many events.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,
    /// What the events are drawn from; without it, one that is drawn and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print one JSON document of all checks.
    #[arg(long)]
    json: bool,
}

/// The command.
pub(crate) fn command(workspace: &Workspace, args: &ChaosArgs) -> Result<ExitCode> {
    let mut variables = vec![
        ("LB_CHAOS_FULL", "1".to_owned()),
        ("LB_CHAOS_EVENTS", args.events.to_string()),
    ];
    variables.extend(args.seed.map(|seed| ("LB_CHAOS_SEED", seed.to_string())));
    let agents = Variant::build_all(workspace)?.into_iter();
    variables.extend(agents.map(|(name, agent)| (name, agent.to_string_lossy().into_owned())));
    let labs = Labs {
        name: "chaos",
        tests: TEST,
        report: "LB_CHAOS_REPORT",
        variables: &variables,
    };
    let mut report = Report::default();
    let checks = labs.run(workspace, &mut report)?;
    checks.into_iter().for_each(|check| report.check(check));
    Ok(report.finish(args.json)?)
}
