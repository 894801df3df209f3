// SPDX-License-Identifier: Apache-2.0
//! `lb-agent`: parses the command line and starts the library.

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use lb_userspace::{agent::heap, cli::Cli};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    heap::share();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(execute(cli)),
        Err(error) => {
            eprintln!("lb-agent: cannot start threads: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(cli: Cli) -> ExitCode {
    // LB_LOG=debug, LB_LOG=lb_userspace::apply=trace ...
    let filter = EnvFilter::try_from_env("LB_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .init();
    match cli.execute().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
