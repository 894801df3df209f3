//! The memory of a real agent that serves many Services.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{SERVICES, agent, check};
use crate::document::Document;

/// Mebibytes.
const MEMORY: f64 = 120.0;

/// Starts the agent, waits until it serves everything, and reads its memory.
pub(super) fn measure(program: &Path, document: &mut Document) -> Result<()> {
    let memory = agent::served(program, &[], |served| of(served.process))?;
    let settled = memory.resident / 1024.0;
    check(
        document,
        format!("sync-agent-memory-{SERVICES}-services"),
        format!("<= {MEMORY} MiB"),
        format!("{settled:.1} MiB (at most {:.1})", memory.peak / 1024.0),
        settled <= MEMORY,
    );
    Ok(())
}

/// Kibibytes.
struct Memory {
    resident: f64,
    peak: f64,
}

fn of(process: u32) -> Result<Memory> {
    let process = fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| -> Result<f64> {
        let line = process.lines().find_map(|line| line.strip_prefix(name));
        let word = line.and_then(|line| line.split_whitespace().next());
        Ok(word.with_context(|| format!("no {name} in /proc"))?.parse()?)
    };
    Ok(Memory {
        resident: field("VmRSS:")?,
        peak: field("VmHWM:")?,
    })
}
