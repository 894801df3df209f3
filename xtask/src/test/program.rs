//! Runs test programs and turns their results into checks.
//!
//! A test that cannot run says why in a line of the file named by `LB_SKIP_FILE`, and then passes as far as
//! the harness is concerned: `NAME: REASON`, or a reason alone.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::libtest::{Outcome, Run};
use super::{Kind, skip_file};
use crate::build::OBJECT_VARIABLE;
use crate::child::{self, say};
use crate::report::{Report, Skips};
use crate::workspace::Workspace;

/// Tests wait with deadlines of their own, far shorter than this.
const SILENCE_LIMIT: Duration = Duration::from_secs(300);

/// A compiled test program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// `PACKAGE` for unit tests, `PACKAGE/TARGET` for others.
    name: String,
    /// What its tests need.
    pub(crate) kind: Kind,
    executable: PathBuf,
    /// The package's folder: where tests expect to run.
    folder: PathBuf,
}

/// The part of cargo's `compiler-artifact` message that matters.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: PathBuf,
    profile: Profile,
    target: Target,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

impl Program {
    /// From a line of `cargo test --no-run --message-format json`; most lines describe other things.
    pub(crate) fn from_message(line: &str) -> Option<Self> {
        let message: Message = serde_json::from_str(line).ok()?;
        let executable = message.executable.filter(|_| message.profile.test)?;
        let folder = message.manifest_path.parent()?.to_owned();
        let package = folder.file_name()?.to_str()?;
        let is = |kind: &str| message.target.kind.iter().any(|k| k == kind);
        let (name, kind) = if is("test") {
            (
                format!("{package}/{}", message.target.name),
                Kind::of_target(&message.target.name),
            )
        } else if is("bin") && message.target.name != package {
            (format!("{package}/{}", message.target.name), Kind::Host)
        } else {
            (package.to_owned(), Kind::Host)
        };
        Some(Self {
            name,
            kind,
            executable,
            folder,
        })
    }

    /// Runs it to the end, or until it has been silent for too long. `variables`: what its tests are told.
    pub(crate) fn run(
        &self,
        workspace: &Workspace,
        filter: Option<&str>,
        variables: &[(&str, PathBuf)],
        skips: Skips,
        report: &mut Report,
    ) -> Result<()> {
        say(format!("{}: running", self.name));
        let mut command = child::command(&self.executable, workspace);
        command
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .envs(variables.iter().map(|(name, value)| (*name, value)))
            .args(filter)
            .args(["--color", "never", "--test-threads"])
            .arg(self.kind.threads().to_string());
        judge(workspace, &self.name, &mut command, skips, report)
    }
}

/// Runs the examples in the documentation.
pub(crate) fn doctests(
    workspace: &Workspace,
    object: &Path,
    filter: Option<&str>,
    skips: Skips,
    report: &mut Report,
) -> Result<()> {
    say("documentation: running");
    let mut command = child::cargo(workspace);
    command
        .env(OBJECT_VARIABLE, object)
        .args([
            "test",
            "--locked",
            "--doc",
            "--quiet",
            "--no-fail-fast",
            "--",
            "--format",
            "pretty",
        ])
        .args(["--color", "never"])
        .args(filter);
    judge(workspace, "doc", &mut command, skips, report)
}

/// Runs a program and adds a check per test, and one more if it does not end as its tests did.
fn judge(
    workspace: &Workspace,
    name: &str,
    command: &mut Command,
    skips: Skips,
    report: &mut Report,
) -> Result<()> {
    let skip_file = skip_file(workspace)?;
    command.env("LB_SKIP_FILE", &skip_file).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{}`", child::line(command)))?;
    let mut run = Run::default();
    let end = follow(&mut child, &mut run, SILENCE_LIMIT)?;
    let skipped = take_lines(&skip_file);
    add_checks(report, name, &run, &skipped, skips);
    let has_failure = run.outcomes().values().any(|outcome| *outcome == Outcome::Failed);
    let fault = match end {
        End::Silent => Some(format!(
            "killed after {} s without a word",
            SILENCE_LIMIT.as_secs()
        )),
        End::Exited(status) if !status.success() && !has_failure => {
            Some(format!("no test failed, but {status}"))
        }
        End::Exited(_) => run.incomplete(),
    };
    if let Some(fault) = fault {
        report.fail(name, "runs all its tests and ends", fault);
    }
    Ok(())
}

enum End {
    Exited(ExitStatus),
    Silent,
}

/// Shows what the child prints as it comes, and reads it.
fn follow(child: &mut Child, run: &mut Run, silence: Duration) -> Result<End> {
    let output = child.stdout.take().expect("stdout was asked to be a pipe");
    let (sender, lines) = mpsc::channel();
    // Detached: a grandchild may hold the pipe open longer than the child lives.
    thread::spawn(move || send_lines(output, &sender));
    loop {
        match lines.recv_timeout(silence) {
            Ok(line) => {
                if !line.is_empty() {
                    eprintln!("{line}");
                }
                run.read(&line);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(End::Exited(child.wait()?)),
            Err(RecvTimeoutError::Timeout) => {
                // It may have ended while a grandchild keeps the pipe.
                if let Some(status) = child.try_wait()? {
                    return Ok(End::Exited(status));
                }
                child.kill()?;
                child.wait()?;
                return Ok(End::Silent);
            }
        }
    }
}

/// Tests may print anything: what is not UTF-8 must not stop the reading.
fn send_lines(output: impl Read, sender: &mpsc::Sender<String>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while matches!(output.read_until(b'\n', &mut line), Ok(1..)) {
        if sender
            .send(String::from_utf8_lossy(&line).trim_end().to_owned())
            .is_err()
        {
            return;
        }
        line.clear();
    }
}

/// The lines of a file that may not be there; the file is gone afterwards.
fn take_lines(file: impl AsRef<OsStr>) -> Vec<String> {
    let file = Path::new(file.as_ref());
    let text = fs::read_to_string(file).unwrap_or_default();
    // Nothing was skipped if it is not there.
    let _ = fs::remove_file(file);
    text.lines().map(str::to_owned).collect()
}

/// A check or a skip per test.
fn add_checks(report: &mut Report, program: &str, run: &Run, skipped: &[String], skips: Skips) {
    let mut unnamed: Vec<&String> = skipped.iter().collect();
    for (test, outcome) in run.outcomes() {
        let id = format!("{program}::{test}");
        let own = unnamed
            .iter()
            .position(|line| names(line, test))
            .map(|index| unnamed.remove(index));
        match (outcome, own) {
            (Outcome::Failed, _) => report.fail(id, "ok", "FAILED"),
            (Outcome::Passed, Some(line)) => report.skip(id, line, skips),
            (Outcome::Passed, None) => report.pass(id, "ok"),
            (Outcome::Ignored(reason), _) => report.skip(id, reason, skips),
        }
    }
    for (index, line) in unnamed.into_iter().enumerate() {
        report.skip(format!("{program}#{}", index + 1), line, skips);
    }
}

/// Whether a line of the skip file is about this test.
fn names(line: &str, test: &str) -> bool {
    let short = test.rsplit("::").next().unwrap_or(test);
    line.split_once(": ")
        .is_some_and(|(name, _)| name == test || name == short)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, name: &str, test: bool) -> String {
        serde_json::json!({
            "reason": "compiler-artifact",
            "manifest_path": "/src/lb-userspace/Cargo.toml",
            "target": {"kind": [kind], "name": name},
            "profile": {"test": test},
            "executable": "/target/debug/deps/x",
        })
        .to_string()
    }

    #[test]
    fn only_test_programs_are_taken_from_cargos_messages() {
        let found = |line: &str| Program::from_message(line).map(|program| (program.name, program.kind));
        let rows = [
            (
                message("lib", "lb_userspace", true),
                Some(("lb-userspace".to_owned(), Kind::Host)),
            ),
            (
                message("bin", "lb-agent", true),
                Some(("lb-userspace/lb-agent".to_owned(), Kind::Host)),
            ),
            (message("bin", "lb-agent", false), None),
            (
                message("test", "packets", true),
                Some(("lb-userspace/packets".to_owned(), Kind::Packets)),
            ),
            (r#"{"reason":"build-finished","success":true}"#.to_owned(), None),
            ("warning: not json".to_owned(), None),
        ];
        for (line, expected) in rows {
            assert_eq!(found(&line), expected, "{line}");
        }
    }

    #[test]
    fn a_skipped_test_is_not_counted_as_passed() {
        let mut run = Run::default();
        for line in [
            "test net::needs_root ... ok",
            "test plain ... ok",
            "test bad ... FAILED",
            "test off ... ignored",
        ] {
            run.read(line);
        }
        let skipped = ["needs_root: not root".to_owned(), "no API server".to_owned()];
        let mut allowed = Report::default();
        add_checks(&mut allowed, "p", &run, &skipped, Skips::Allowed);
        assert_eq!(allowed.to_string(), "1 passed, 1 failed, 3 skipped");
        let mut denied = Report::default();
        add_checks(&mut denied, "p", &run, &skipped, Skips::Fail);
        assert_eq!(denied.to_string(), "1 passed, 4 failed, 0 skipped");
    }

    fn follow_shell(script: &str, silence: Duration) -> (Run, bool) {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut run = Run::default();
        let end = follow(&mut child, &mut run, silence).unwrap();
        (run, matches!(end, End::Exited(status) if status.success()))
    }

    #[test]
    fn bytes_that_are_not_text_do_not_hide_the_results_after_them() {
        let (run, well) = follow_shell(r"printf '\377\nno newline: \376\ntest a ... ok\n'", SILENCE_LIMIT);
        assert!(well);
        assert_eq!(run.outcomes().len(), 1);
    }

    #[test]
    fn a_program_that_falls_silent_is_ended() {
        let (run, well) = follow_shell(
            "echo 'test a ... ok'; exec sleep 1000",
            Duration::from_millis(200),
        );
        assert!(!well);
        assert_eq!(run.outcomes().len(), 1);
    }
}
