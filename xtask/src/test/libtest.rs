//! Reads what Rust's test harness prints.
//!
//! *Input*: lines of a test program's stdout. *Output*: the tests' names and results, and the program's own
//! summary, by which a lost line or a program that died is noticed.

use std::collections::BTreeMap;

/// What became of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// `ok`
    Passed,
    /// `FAILED`
    Failed,
    /// `ignored`, with the attribute's reason.
    Ignored(String),
}

/// The last line of a test program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    passed: usize,
    failed: usize,
    ignored: usize,
}

/// One run of a test program, as far as it has been read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    outcomes: BTreeMap<String, Outcome>,
    summary: Option<Summary>,
}

impl Run {
    /// Takes one line in; lines that tests print themselves are passed over.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some((name, outcome)) = parse_outcome(line) {
            self.outcomes.insert(name.to_owned(), outcome);
        } else if let Some(summary) = parse_summary(line) {
            // Documentation tests print a summary per way of running them.
            let sum = self.summary.get_or_insert_default();
            sum.passed += summary.passed;
            sum.failed += summary.failed;
            sum.ignored += summary.ignored;
        }
    }

    /// The tests, by name.
    pub(crate) fn outcomes(&self) -> &BTreeMap<String, Outcome> {
        &self.outcomes
    }

    /// What the lines add up to.
    fn counted(&self) -> Summary {
        let mut counted = Summary::default();
        for outcome in self.outcomes.values() {
            match outcome {
                Outcome::Passed => counted.passed += 1,
                Outcome::Failed => counted.failed += 1,
                Outcome::Ignored(_) => counted.ignored += 1,
            }
        }
        counted
    }

    /// Why the outcomes cannot be trusted to be all, if so.
    pub(crate) fn incomplete(&self) -> Option<String> {
        let counted = self.counted();
        match self.summary {
            None => Some("it ended without a summary".to_owned()),
            Some(summary) if summary != counted => Some(format!(
                "its summary says {summary:?}, but it printed {counted:?}"
            )),
            Some(_) => None,
        }
    }
}

/// `test NAME ... ok`, also `FAILED`, `ignored` and `ignored, REASON`.
fn parse_outcome(line: &str) -> Option<(&str, Outcome)> {
    let (name, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    let outcome = match result {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        "ignored" => Outcome::Ignored("marked #[ignore]".to_owned()),
        _ => Outcome::Ignored(result.strip_prefix("ignored, ")?.to_owned()),
    };
    Some((name, outcome))
}

/// `test result: ok. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s`
fn parse_summary(line: &str) -> Option<Summary> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut summary = Summary::default();
    for part in counts.split("; ") {
        let Some((number, what)) = part.split_once(' ') else {
            continue;
        };
        let slot = match what {
            "passed" => &mut summary.passed,
            "failed" => &mut summary.failed,
            "ignored" => &mut summary.ignored,
            _ => continue,
        };
        *slot = number.parse().ok()?;
    }
    Some(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Run {
        let mut run = Run::default();
        text.lines().for_each(|line| run.read(line));
        run
    }

    #[test]
    fn each_form_of_a_result_line_is_understood() {
        let ignored = |reason: &str| Outcome::Ignored(reason.to_owned());
        let rows = [
            ("test a::b ... ok", Some(("a::b", Outcome::Passed))),
            ("test a::b ... FAILED", Some(("a::b", Outcome::Failed))),
            ("test a ... ignored", Some(("a", ignored("marked #[ignore]")))),
            ("test a ... ignored, slow ... very", None),
            (
                "test a ... ignored, needs a cluster",
                Some(("a", ignored("needs a cluster"))),
            ),
            ("test a - should panic ... ok", Some(("a", Outcome::Passed))),
            (
                "test lb-common/src/lib.rs - abi::Addr4 (line 3) ... ok",
                Some(("lb-common/src/lib.rs - abi::Addr4 (line 3)", Outcome::Passed)),
            ),
            ("test a has been running for over 60 seconds", None),
            ("test result: ok. 1 passed; 0 failed; 0 ignored", None),
            ("a test's own words ... ok", None),
        ];
        for (line, expected) in rows {
            assert_eq!(parse_outcome(line), expected, "{line}");
        }
    }

    #[test]
    fn a_run_is_complete_when_its_lines_add_up_to_its_summary() {
        let lines =
            "running 3 tests\ntest a ... ok\nnoise\ntest b ... FAILED\ntest c ... ignored\n\nfailures:\n";
        let summary = "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(run(&format!("{lines}{summary}")).incomplete(), None);
        assert_eq!(
            run(lines).incomplete().as_deref(),
            Some("it ended without a summary")
        );
        let lost = run(&format!("test a ... ok\n{summary}")).incomplete().unwrap();
        assert!(lost.contains("its summary says"), "{lost}");
    }

    #[test]
    fn the_summaries_of_several_runs_in_one_output_are_added() {
        let summary =
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let both = run(&format!("test a ... ok\n{summary}\ntest b ... ok\n{summary}"));
        assert_eq!(both.outcomes().len(), 2);
        assert_eq!(both.incomplete(), None);
    }
}
