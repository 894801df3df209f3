//! Network namespaces of a thread, and how they are set up.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};

/// Moves the calling thread, and what it starts, into a new network namespace, which ends with them.
pub(crate) fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace: are you root?")
}

/// `ip LINE` in the calling thread's namespace.
pub(crate) fn ip(line: &str) -> Result<()> {
    let family: &[&str] = if line.contains("::") { &["-6"] } else { &[] };
    let output = Command::new("ip")
        .args(family)
        .args(line.split(' '))
        .output()
        .context("cannot start `ip`: is iproute2 installed?")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {line}: {error}");
    Ok(())
}

/// `/proc/sys/net` is that of the calling thread's namespace.
pub(crate) fn sysctl(name: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/net/{name}"), value).with_context(|| format!("cannot set net/{name}"))
}
