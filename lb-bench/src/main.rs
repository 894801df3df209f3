// SPDX-License-Identifier: Apache-2.0
//! Measures what the project promises of its speed. `cargo xtask bench` builds and starts it, and judges nothing
//! itself: it passes on the document that this program prints.

mod document;
mod packets;
mod settings;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

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
    };
    println!("{}", serde_json::to_string(&document)?);
    Ok(())
}
