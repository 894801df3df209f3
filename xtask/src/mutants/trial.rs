//! Tries mutations one after the other in a tree of its own.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::mutation::{Mutation, Tests};
use super::tree;
use crate::build::{self, OBJECT_VARIABLE};
use crate::child;
use crate::machine::Machine;
use crate::setup::EbpfToolchain;
use crate::test::libtest::{Outcome, Run};
use crate::workspace::Workspace;

/// A mutation can make a test wait for ever: it has this many times as long as without, and a minute.
const PATIENCE: u32 = 5;
const LEAST_PATIENCE: Duration = Duration::from_secs(60);
const BASELINE_LIMIT: Duration = Duration::from_secs(1200);

/// A tree to break, with a build folder.
#[derive(Debug)]
pub(super) struct Bench {
    workspace: Workspace,
    logs: PathBuf,
    name: String,
}

/// The tests without a mutation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Baseline {
    /// They pass in this time.
    Passes(Duration),
    /// They do not run here.
    Skips(String),
}

/// What became of a mutation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// By these tests.
    Caught(String),
    /// No test noticed.
    Survived,
    /// It proves nothing.
    Bad(String),
    /// Its tests do not run here.
    Skipped(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caught(by) => write!(f, "noticed: {by}"),
            Self::Survived => f.write_str("SURVIVED: no test failed"),
            Self::Bad(why) => write!(f, "bad mutation: {why}"),
            Self::Skipped(why) => write!(f, "not tried: {why}"),
        }
    }
}

/// How a step ended.
enum End {
    Exited(ExitStatus),
    TimedOut,
}

impl Bench {
    /// A copy of the workspace's files under `target/mutants`, kept from run to run for its build folder.
    pub(super) fn set_up(workspace: &Workspace, job: usize) -> Result<Self> {
        let home = workspace.target().join("mutants");
        let logs = home.join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let home = home.join(job.to_string());
        let tree = home.join("tree");
        tree::mirror(workspace, &tree)?;
        let name = format!("unmutated-{job}");
        Ok(Self {
            workspace: Workspace::at(tree, home.join("target")),
            logs,
            name,
        })
    }

    /// Runs tests on the unbroken tree.
    pub(super) fn baseline(&self, tests: &Tests) -> Result<Baseline> {
        let log = self.log(&self.name);
        if let Err(fault) = self.compile(tests, &log)? {
            bail!("{fault}; see {}", log.display());
        }
        let started = Instant::now();
        let (end, run, skipped) = self.test(tests, &log, BASELINE_LIMIT)?;
        let well = matches!(end, End::Exited(status) if status.success());
        ensure!(
            well,
            "`cargo test {}` fails without a mutation; see {}",
            tests.arguments.join(" "),
            log.display()
        );
        let passed = run
            .outcomes()
            .values()
            .filter(|outcome| **outcome == Outcome::Passed)
            .count();
        match skipped.into_iter().next() {
            Some(reason) => Ok(Baseline::Skips(reason)),
            None if passed == 0 => bail!("`cargo test {}` runs no test", tests.arguments.join(" ")),
            None => Ok(Baseline::Passes(started.elapsed())),
        }
    }

    /// Breaks the tree, runs the tests, mends the tree.
    pub(super) fn try_mutation(&self, mutation: &Mutation, baseline: &Baseline) -> Result<Verdict> {
        let usual = match baseline {
            Baseline::Skips(reason) => return Ok(Verdict::Skipped(reason.clone())),
            Baseline::Passes(usual) => *usual,
        };
        let file = self.workspace.root().join(&mutation.file);
        let Ok(original) = fs::read_to_string(&file) else {
            return Ok(Verdict::Bad(format!("there is no {}", mutation.file.display())));
        };
        let broken = match mutation.apply(&original) {
            Ok(broken) => broken,
            Err(fault) => return Ok(Verdict::Bad(fault)),
        };
        fs::write(&file, broken).with_context(|| format!("cannot write {}", file.display()))?;
        let verdict = self.judge(mutation, usual);
        fs::write(&file, original).with_context(|| format!("cannot write {}", file.display()))?;
        verdict
    }

    fn judge(&self, mutation: &Mutation, usual: Duration) -> Result<Verdict> {
        let log = self.log(&mutation.id);
        if let Err(fault) = self.compile(&mutation.tests, &log)? {
            return Ok(Verdict::Bad(format!("{fault}; see {}", log.display())));
        }
        let limit = (usual * PATIENCE).max(LEAST_PATIENCE);
        let (end, run, _) = self.test(&mutation.tests, &log, limit)?;
        let failed: Vec<&str> = run
            .outcomes()
            .iter()
            .filter(|(_, outcome)| **outcome == Outcome::Failed)
            .map(|(name, _)| name.as_str())
            .collect();
        Ok(match (end, failed.as_slice()) {
            (End::TimedOut, _) => Verdict::Caught(format!("the tests did not end in {} s", limit.as_secs())),
            (End::Exited(status), _) if status.success() => Verdict::Survived,
            (End::Exited(_), [first, rest @ ..]) if !rest.is_empty() => {
                Verdict::Caught(format!("{first} and {} more failed", rest.len()))
            }
            (End::Exited(_), [only]) => Verdict::Caught(format!("{only} failed")),
            (End::Exited(status), _) => Verdict::Caught(format!("the test program died: {status}")),
        })
    }

    /// Builds programs and tests; the inner error is a tree that does not compile.
    fn compile(&self, tests: &Tests, log: &Path) -> Result<Result<(), &'static str>> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        if tests.programs {
            let machine = Machine::from_env()?;
            let compiler = machine
                .compiler()
                .context("the eBPF compiler is gone: run `cargo xtask setup`")?;
            let toolchain = EbpfToolchain { compiler, machine };
            let mut command = build::object_command(&self.workspace, &toolchain, false);
            if !succeeds(&mut command, &file, BASELINE_LIMIT)? {
                return Ok(Err("the programs do not compile"));
            }
        }
        let mut command = self.cargo_test(tests);
        command.arg("--no-run").args(&tests.arguments);
        Ok(if succeeds(&mut command, &file, BASELINE_LIMIT)? {
            Ok(())
        } else {
            Err("it does not compile")
        })
    }

    /// Runs the compiled tests; what they printed is read from the log.
    fn test(&self, tests: &Tests, log: &Path, limit: Duration) -> Result<(End, Run, Vec<String>)> {
        let file = File::options()
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let skip_file = log.with_extension("skips");
        let mut command = self.cargo_test(tests);
        command.env("LB_SKIP_FILE", &skip_file).args(&tests.arguments);
        let end = step(&mut command, &file, limit)?;
        let mut run = Run::default();
        let text = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
        String::from_utf8_lossy(&text)
            .lines()
            .for_each(|line| run.read(line));
        let skipped = fs::read_to_string(&skip_file).unwrap_or_default();
        // It is there only if a test was skipped.
        let _ = fs::remove_file(&skip_file);
        Ok((end, run, skipped.lines().map(str::to_owned).collect()))
    }

    fn cargo_test(&self, tests: &Tests) -> Command {
        let mut command = child::cargo(&self.workspace);
        command.args(["test", "--locked"]);
        if tests.programs {
            command.env(OBJECT_VARIABLE, build::object_path(&self.workspace));
        } else {
            command.env_remove(OBJECT_VARIABLE);
        }
        command
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}

fn succeeds(command: &mut Command, log: &File, limit: Duration) -> Result<bool> {
    Ok(matches!(step(command, log, limit)?, End::Exited(status) if status.success()))
}

/// Runs a command into a log, in a process group of its own that is ended as a whole when time is up.
fn step(command: &mut Command, log: &File, limit: Duration) -> Result<End> {
    let output = || log.try_clone().map(Stdio::from).context("cannot share the log");
    command.stdout(output()?).stderr(output()?).process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{}`", child::line(command)))?;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(End::Exited(status));
        }
        if Instant::now() >= deadline {
            end_group(&mut child)?;
            return Ok(End::TimedOut);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The test program is a child of cargo: killing cargo alone would leave it running.
fn end_group(child: &mut Child) -> Result<()> {
    let group = format!("-{}", child.id());
    Command::new("kill")
        .args(["-KILL", "--", &group])
        .status()
        .context("cannot start kill")?;
    child.wait()?;
    Ok(())
}
