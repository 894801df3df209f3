//! A real agent that serves many Services from a folder of manifests. *Not here*: what is measured of it (`memory`,
//! `explain`).

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{ENDPOINTS, SERVICES, objects, objects::Endpoints, say};
use crate::namespace::{self, ip};

/// Services in one file.
const PER_FILE: u32 = 250;
/// How long the agent may take to serve everything.
const LIMIT: Duration = Duration::from_secs(120);

/// An agent that serves everything.
pub(super) struct Served<'a> {
    /// Its program.
    pub(super) program: &'a Path,
    /// The arguments that name its instance.
    pub(super) instance: Vec<OsString>,
    /// Its process.
    pub(super) process: u32,
}

/// Starts the agent on [`SERVICES`] and `more` objects, of which so many are Services, waits until it serves them all, and
/// does `work` in its network namespace.
pub(super) fn served<T: Send>(
    agent: &Path,
    more: &[Value],
    work: impl FnOnce(&Served<'_>) -> Result<T> + Send,
) -> Result<T> {
    say(format!("an agent with {SERVICES} Services"));
    let inside = thread::scope(|scope| scope.spawn(|| in_namespace(agent, more, work)).join());
    inside.map_err(|_| anyhow::anyhow!("the thread has panicked"))?
}

fn in_namespace<T>(agent: &Path, more: &[Value], work: impl FnOnce(&Served<'_>) -> Result<T>) -> Result<T> {
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
    let list = json!({"apiVersion": "v1", "kind": "List", "items": more});
    fs::write(manifests.join("more.json"), serde_json::to_string(&list)?)?;
    let named = [
        "--bpffs".into(),
        "/sys/fs/bpf".into(),
        "--instance".into(),
        OsString::from(&instance),
        "--run-dir".into(),
        folder.0.clone().into_os_string(),
    ];
    let log = fs::File::create(folder.0.join("log"))?;
    let child = Command::new(agent)
        .args(["run", "--source", "dir", "--node-name", "node-0", "--manifests"])
        .arg(&manifests)
        // The machine's own processes are none of the bench's business.
        .args(["--connect-hooks", "off"])
        .args(&named)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", agent.display()))?;
    let mut running = Running(child);
    let status = folder.0.join(&instance).join("status.json");
    let services = more.iter().filter(|object| object["kind"] == "Service").count();
    let settled = settled(&mut running.0, &status, SERVICES + services as u32).with_context(|| {
        let log = fs::read_to_string(folder.0.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        format!(
            "the agent's log ends:\n{}",
            lines[lines.len().saturating_sub(8)..].join("\n")
        )
    });
    let done = settled.and_then(|()| {
        work(&Served {
            program: agent,
            instance: named.to_vec(),
            process: running.0.id(),
        })
    });
    drop(running);
    let detached = Command::new(agent).arg("detach").args(&named).output()?;
    ensure!(
        detached.status.success(),
        "lb-agent detach: {}",
        String::from_utf8_lossy(&detached.stderr)
    );
    done
}

/// Waits until the agent serves so many Services.
fn settled(child: &mut Child, status: &Path, services: u32) -> Result<()> {
    let start = Instant::now();
    let is_live = || {
        let text = fs::read_to_string(status).ok()?;
        let status: Value = serde_json::from_str(&text).ok()?;
        Some(
            status["services_live"].as_u64()? == u64::from(services)
                && status["backends_live"].as_u64()? >= u64::from(SERVICES * ENDPOINTS)
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
    Ok(())
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
