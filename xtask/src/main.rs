// SPDX-License-Identifier: Apache-2.0
//! Set-up, build, demo, tests and checks: which command does what.

mod bench;
mod build;
mod cases;
mod chaos;
mod check;
mod child;
mod cross;
mod demo;
mod explain;
mod image;
mod labs;
mod ledger;
mod machine;
mod matrix;
mod mutants;
mod report;
mod run;
#[cfg(test)]
mod scratch;
mod setup;
mod test;
mod variants;
mod workspace;
mod worlds;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Everything a developer does with this workspace. Each command installs what it lacks and says so.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the eBPF toolchain and the programs that the tests and the demo call.
    Setup,
    /// Build the eBPF programs and the agent that embeds them.
    Build(build::BuildArgs),
    /// Judge the source: format, lints, documentation, layering, map layout, file sizes.
    Check(check::CheckArgs),
    /// Build everything and run every test.
    Test(test::TestArgs),
    /// Ask random worlds what becomes of packets, and compare with the semantics.
    Worlds(worlds::WorldsArgs),
    /// Run a folder of behaviour cases against the real agent.
    Cases(cases::CasesArgs),
    /// Every kind of client to every address of every kind of Service.
    Matrix(matrix::MatrixArgs),
    /// What `lb-agent explain` says of many cells, and its remedies, against real packets.
    ExplainCheck(explain::ExplainArgs),
    /// What hooks received, by the kernel's count, against what their counters say.
    Ledger(ledger::LedgerArgs),
    /// Traffic of every kind while agents are killed, restarted and upgraded in the middle of changes.
    Chaos(chaos::ChaosArgs),
    /// A container image with nothing in it but a static agent.
    Image(image::ImageArgs),
    /// Break the source in small ways and see whether a test notices.
    Mutants(mutants::MutantsArgs),
    /// Build the agent and run it on devices of this machine.
    Run(run::RunArgs),
    /// Measure: nanoseconds a packet, what a connection costs, what it costs to follow a cluster.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Set up a small cluster and show Services being load-balanced.
    Demo(demo::DemoArgs),
}

fn main() -> ExitCode {
    dispatch(Cli::parse()).unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    let workspace = Workspace::from_env()?;
    match cli.command {
        Command::Setup => setup::all(&workspace)?,
        Command::Build(args) => build::command(&workspace, &args)?,
        Command::Check(args) => return check::command(&workspace, &args),
        Command::Test(args) => return test::command(&workspace, &args),
        Command::Worlds(args) => return worlds::command(&workspace, &args),
        Command::Cases(args) => return cases::command(&workspace, &args),
        Command::Matrix(args) => return matrix::command(&workspace, &args),
        Command::ExplainCheck(args) => return explain::command(&workspace, &args),
        Command::Ledger(args) => return ledger::command(&workspace, &args),
        Command::Chaos(args) => return chaos::command(&workspace, &args),
        Command::Image(args) => return image::command(&workspace, &args),
        Command::Mutants(args) => return mutants::command(&workspace, &args),
        Command::Run(args) => run::command(&workspace, &args)?,
        Command::Bench(bench) => return bench::command(&workspace, &bench),
        Command::Demo(args) => return demo::command(&workspace, &args),
    }
    Ok(ExitCode::SUCCESS)
}
