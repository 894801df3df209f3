//! The memory of a real agent that serves many Services from a folder of manifests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{ENDPOINTS, SERVICES, check, objects, objects::Endpoints, say};
use crate::{
    document::Document,
    namespace::{self, ip},
};

/// Mebibytes.
const MEMORY: f64 = 120.0;
/// Services in one file.
const PER_FILE: u32 = 250;
/// How long the agent may take to serve everything.
const LIMIT: Duration = Duration::from_secs(120);

/// Starts the agent, waits until it serves everything, and reads its memory.
pub(super) fn measure(agent: &Path, document: &mut Document) -> Result<()> {
    say(format!("an agent with {SERVICES} Services"));
    let measured = thread::scope(|scope| scope.spawn(|| in_namespace(agent)).join());
    let memory = measured.map_err(|_| anyhow::anyhow!("the thread has panicked"))??;
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

fn in_namespace(agent: &Path) -> Result<Memory> {
    namespace::enter()?;
    for line in [
        "link set lo up",
        "link add up0 type veth peer name up0x",
        "link set up0x up",
        "link set up0 up",
        "address add 192.0.2.10/24 dev up0",
        "route add default via 192.0.2.1 dev up0",
    ] {
        ip(line)?;
    }
    let instance = format!("lbbench{}", std::process::id());
    let folder = Folder::new(&instance)?;
    let manifests = folder.0.join("manifests");
    fs::create_dir_all(&manifests)?;
    for first in (0..SERVICES).step_by(PER_FILE as usize) {
        let list = objects::manifest(first..SERVICES.min(first + PER_FILE), Endpoints::Each(ENDPOINTS));
        fs::write(
            manifests.join(format!("{first:05}.json")),
            serde_json::to_string(&list)?,
        )?;
    }
    let arguments = [
        "--bpffs".as_ref(),
        "/sys/fs/bpf".as_ref(),
        "--instance".as_ref(),
        instance.as_ref(),
        "--run-dir".as_ref(),
        folder.0.as_os_str(),
        // The machine's own processes are none of the bench's business.
        "--connect-hooks".as_ref(),
        "off".as_ref(),
    ];
    let log = fs::File::create(folder.0.join("log"))?;
    let child = Command::new(agent)
        .args(["run", "--source", "dir", "--node-name", "node-0", "--manifests"])
        .arg(&manifests)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", agent.display()))?;
    let mut running = Running(child);
    let status = folder.0.join(&instance).join("status.json");
    let memory = settled(&mut running.0, &status).with_context(|| {
        let log = fs::read_to_string(folder.0.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        format!(
            "the agent's log ends:\n{}",
            lines[lines.len().saturating_sub(8)..].join("\n")
        )
    });
    drop(running);
    let detached = Command::new(agent).arg("detach").args(arguments).output()?;
    ensure!(
        detached.status.success(),
        "lb-agent detach: {}",
        String::from_utf8_lossy(&detached.stderr)
    );
    memory
}

/// The agent's memory, once it serves everything.
fn settled(child: &mut Child, status: &Path) -> Result<Memory> {
    let start = Instant::now();
    let is_live = || {
        let text = fs::read_to_string(status).ok()?;
        let status: Value = serde_json::from_str(&text).ok()?;
        Some(
            status["services_live"].as_u64()? == u64::from(SERVICES)
                && status["backends_live"].as_u64()? == u64::from(SERVICES * ENDPOINTS)
                && status["generation"] == status["generation_live"],
        )
    };
    while is_live() != Some(true) {
        if let Some(status) = child.try_wait()? {
            bail!("the agent has ended: {status}");
        }
        ensure!(start.elapsed() < LIMIT, "it does not serve everything in time");
        thread::sleep(Duration::from_millis(100));
    }
    let process = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
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

/// Ended and waited for when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder for the agent's files, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A left-over must not hide the figure.
        let _ = fs::remove_dir_all(&self.0);
    }
}
