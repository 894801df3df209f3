// SPDX-License-Identifier: Apache-2.0
//! Measures what the project promises of its speed. `cargo xtask bench` builds and starts it, and judges nothing
//! itself: it passes on the document that this program prints.

mod connect;
mod document;
mod namespace;
mod packets;
mod processor;
mod settings;
mod sync;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(name = "lb-bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Nanoseconds a packet.
    Packets {
        /// The eBPF object of the bench's own programs.
        #[arg(long)]
        object: PathBuf,
        /// How often everything is measured.
        #[arg(long)]
        rounds: usize,
        /// Only rows with this text in their name.
        #[arg(long)]
        filter: Option<String>,
    },
    /// What a TCP connection costs.
    Connect {
        /// The agent's program.
        #[arg(long)]
        agent: PathBuf,
        /// How often everything is measured.
        #[arg(long)]
        rounds: usize,
    },
    /// What it costs to follow a cluster.
    Sync {
        /// The agent's program.
        #[arg(long)]
        agent: PathBuf,
        /// How often everything is written at once.
        #[arg(long)]
        rounds: usize,
        /// Only this part; may be repeated.
        #[arg(long = "part", value_enum)]
        parts: Vec<sync::Part>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let document = match cli.command {
        Command::Packets {
            object,
            rounds,
            filter,
        } => packets::measure(&object, rounds, filter.as_deref())?,
        Command::Connect { agent, rounds } => connect::measure(&agent, rounds)?,
        Command::Sync { agent, rounds, parts } => {
            let all = sync::Part::value_variants();
            sync::measure(if parts.is_empty() { all } else { &parts }, rounds, &agent)?
        }
    };
    println!("{}", serde_json::to_string(&document)?);
    Ok(())
}
