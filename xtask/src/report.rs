//! The result of a command that checks or measures: a document for programs, a last line for people.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use lb_cases::books::Line;
use serde::{Deserialize, Serialize};

/// One thing that was judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Check {
    /// Unique in the report.
    pub(crate) id: String,
    /// What should be.
    pub(crate) expected: String,
    /// What is.
    pub(crate) seen: String,
    /// Whether the two agree.
    pub(crate) ok: bool,
}

impl From<Line> for Check {
    fn from(line: Line) -> Self {
        let Line {
            of,
            expected,
            seen,
            ok,
        } = line;
        Self {
            id: of,
            expected,
            seen,
            ok,
        }
    }
}

/// One thing that could not be judged here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Skip {
    /// Unique in the report.
    pub(crate) id: String,
    /// Why not.
    pub(crate) reason: String,
}

/// All of a command's checks.
///
/// *Invariant*: `passed + failed` is the number of checks; what was skipped was not judged, so it stands
/// apart from them.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    checks: Vec<Check>,
    passed: usize,
    failed: usize,
    skipped: usize,
    skips: Vec<Skip>,
}

/// Whether a skip is allowed: in continuous integration everything a test needs must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skips {
    /// Count them.
    Allowed,
    /// Each is a failure.
    Fail,
}

impl Skips {
    /// `CI=true`, as the usual services set it.
    pub(crate) fn from_env() -> Self {
        match std::env::var("CI") {
            Ok(value) if value == "true" || value == "1" => Self::Fail,
            _ => Self::Allowed,
        }
    }
}

impl Report {
    /// Adds a judgement.
    pub(crate) fn check(&mut self, check: Check) {
        if check.ok {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        self.checks.push(check);
    }

    /// Adds something that holds.
    pub(crate) fn pass(&mut self, id: impl Into<String>, expected: impl Into<String>) {
        let expected = expected.into();
        self.check(Check {
            id: id.into(),
            seen: expected.clone(),
            expected,
            ok: true,
        });
    }

    /// Adds a miss.
    pub(crate) fn fail(
        &mut self,
        id: impl Into<String>,
        expected: impl Into<String>,
        seen: impl Into<String>,
    ) {
        self.check(Check {
            id: id.into(),
            expected: expected.into(),
            seen: seen.into(),
            ok: false,
        });
    }

    /// Adds something that could not be judged.
    pub(crate) fn skip(&mut self, id: impl Into<String>, reason: impl Into<String>, skips: Skips) {
        let (id, reason) = (id.into(), reason.into());
        match skips {
            Skips::Allowed => {
                self.skipped += 1;
                self.skips.push(Skip { id, reason });
            }
            Skips::Fail => self.fail(id, "runs here, because CI is set", format!("skipped: {reason}")),
        }
    }

    /// Whether nothing was judged and nothing skipped.
    pub(crate) fn is_empty(&self) -> bool {
        self.checks.is_empty() && self.skips.is_empty()
    }

    /// Of all checks those that hold.
    pub(crate) fn passed(&self) -> (usize, usize) {
        (self.passed, self.checks.len())
    }

    /// Whether something was judged to be wrong.
    pub(crate) fn has_misses(&self) -> bool {
        self.failed > 0
    }

    /// Prints it (misses and skips again for people, so that they need not search) and says how to exit.
    pub(crate) fn finish(&self, json: bool) -> io::Result<ExitCode> {
        for miss in self.checks.iter().filter(|check| !check.ok) {
            eprintln!(
                "FAILED {}\n  expected: {}\n  seen:     {}",
                miss.id, miss.expected, miss.seen
            );
        }
        for skip in &self.skips {
            eprintln!("SKIPPED {}: {}", skip.id, skip.reason);
        }
        let mut out = io::stdout().lock();
        if json {
            serde_json::to_writer_pretty(&mut out, self)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{self}")?;
        }
        Ok(if self.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_promised_members() {
        let mut report = Report::default();
        report.pass("a", "1");
        report.fail("b", "1", "2");
        report.skip("c", "not root", Skips::Allowed);
        let document = serde_json::to_value(&report).unwrap();
        assert_eq!(
            document,
            serde_json::json!({
                "checks": [
                    {"id": "a", "expected": "1", "seen": "1", "ok": true},
                    {"id": "b", "expected": "1", "seen": "2", "ok": false},
                ],
                "passed": 1, "failed": 1, "skipped": 1,
                "skips": [{"id": "c", "reason": "not root"}],
            })
        );
        assert_eq!(report.to_string(), "1 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn a_skip_in_continuous_integration_is_a_failure() {
        let mut report = Report::default();
        report.skip("a", "no API server", Skips::Fail);
        assert_eq!(report.to_string(), "0 passed, 1 failed, 0 skipped");
        assert_eq!(report.checks[0].seen, "skipped: no API server");
    }
}
