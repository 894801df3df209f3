//! One network namespace: run code in it, configure it, delete it.
//!
//! Namespaces are entered by short-lived threads: the caller's own thread never changes its namespace, and
//! sockets and child processes stay in the namespace they were created in.

use std::{
    fs::{self, File},
    io::Write as _,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::cgroup;

/// Where `ip netns` keeps its namespaces.
const RUN: &str = "/run/netns";

/// A named network namespace that exists. Dropping the value does not delete it: [`crate::Lab`] does.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
    cgroup: Option<PathBuf>,
}

impl Netns {
    /// Opens the namespace of this full name.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let file =
            File::open(path_of(name)).with_context(|| format!("network namespace {name} is not there"))?;
        Ok(Self {
            name: name.into(),
            file,
            cgroup: None,
        })
    }

    /// What enters the namespace from now on enters this cgroup as well.
    pub(crate) fn with_cgroup(self, cgroup: Option<PathBuf>) -> Self {
        Self { cgroup, ..self }
    }

    /// The full name, as `ip netns` and `nsenter` know it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path for `nsenter --net=`.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// Moves the calling thread into the namespace, for good. For threads that are made for this.
    pub(crate) fn enter(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter network namespace {}: are you root?", self.name))?;
        self.cgroup.as_deref().map_or(Ok(()), cgroup::enter)
    }

    /// Runs `work` inside, on a thread of its own. Sockets opened by it stay inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter()?;
                work()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Runs a program inside to its end and returns what it printed; an exit code other than 0 is an error.
    pub fn output(&self, argv: &[&str]) -> Result<String> {
        self.feed(argv, "")
    }

    /// As [`Netns::output`], with text for the program to read.
    pub fn feed(&self, argv: &[&str], input: &str) -> Result<String> {
        self.run(|| feed(argv, input))
            .with_context(|| format!("in {}", self.name))
    }

    /// Writes sysctls, given as (path below /proc/sys/net, value).
    pub(crate) fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        // /proc/sys/net shows the namespace of the thread that looks.
        self.run(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys/net").join(key);
                fs::write(&path, value)
                    .with_context(|| format!("cannot write {value} to {}", path.display()))?;
            }
            Ok(())
        })
    }
}

fn path_of(name: &str) -> PathBuf {
    Path::new(RUN).join(name)
}

/// Names of all namespaces that start with `prefix`.
pub(crate) fn list(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(RUN) else {
        return Vec::new();
    };
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// Runs a list of `ip` commands in one process; the first failure ends it.
pub(crate) fn ip_batch(options: &[&str], commands: &str) -> Result<()> {
    let argv = [&["ip"], options, &["-batch", "-"]].concat();
    feed(&argv, commands).map(drop)
}

/// Runs a program with text to read, in the namespace of the calling thread.
pub(crate) fn feed(argv: &[&str], input: &str) -> Result<String> {
    let (program, args) = argv.split_first().context("no program given")?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}: is it installed?"))?;
    let mut stdin = child.stdin.take().expect("stdin was asked for");
    // A program that stops reading early says why on stderr: its exit code is the error to report.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{}: {}: {}{}",
            argv.join(" "),
            output.status,
            stderr.trim(),
            quoted_line(&stderr, input)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command a batch failed on: `ip` names only its line number ("Command failed -:3").
fn quoted_line(stderr: &str, input: &str) -> String {
    let number = stderr
        .rsplit_once("-:")
        .and_then(|(_, n)| n.trim().parse::<usize>().ok());
    let line = number.and_then(|n| input.lines().nth(n.checked_sub(1)?));
    line.map(|line| format!(" ({line})")).unwrap_or_default()
}
