//! The list of mutations, and what it means to apply one to a text.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::{Deserializer, Error};

/// One small fault.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mutation {
    /// Names it in reports.
    pub(super) id: String,
    /// The file to break, from the workspace's root.
    pub(super) file: PathBuf,
    find: String,
    replace: String,
    /// What should notice it.
    #[serde(flatten)]
    pub(super) tests: Tests,
}

/// The tests that should notice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct Tests {
    /// What follows `cargo test`.
    #[serde(rename = "tests", deserialize_with = "words")]
    pub(super) arguments: Vec<String>,
    /// Whether these tests load the programs.
    #[serde(default)]
    pub(super) programs: bool,
}

fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let line = String::deserialize(deserializer)?;
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    if words.is_empty() {
        Err(D::Error::custom("`tests` is empty: name a package and a filter"))
    } else {
        Ok(words)
    }
}

/// Reads the list; ids are unique and name a log file each.
pub(super) fn read(path: &Path) -> Result<Vec<Mutation>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not a list of mutations", path.display()))
}

fn parse(text: &str) -> Result<Vec<Mutation>> {
    let mutations: Vec<Mutation> = serde_norway::from_str(text)?;
    let mut ids = BTreeSet::new();
    for mutation in &mutations {
        let id = mutation.id.as_str();
        let plain = id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        ensure!(
            plain && !id.is_empty(),
            "the id `{id}` has other characters than letters, digits and hyphens"
        );
        ensure!(ids.insert(id), "two mutations have the id `{id}`");
    }
    Ok(mutations)
}

impl Mutation {
    /// The text with the fault, or why it cannot be made.
    pub(super) fn apply(&self, text: &str) -> Result<String, String> {
        if self.find.is_empty() || self.find == self.replace {
            return Err("it changes nothing: `find` and `replace` have to differ".to_owned());
        }
        match text.matches(&self.find).count() {
            1 => Ok(text.replacen(&self.find, &self.replace, 1)),
            found => Err(format!(
                "its text is {found} times in {}, it has to be there exactly once",
                self.file.display()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutation(find: &str, replace: &str) -> Mutation {
        let tests = Tests {
            arguments: vec!["--all".to_owned()],
            programs: false,
        };
        let (find, replace) = (find.to_owned(), replace.to_owned());
        Mutation {
            id: "m".to_owned(),
            file: "a.rs".into(),
            find,
            replace,
            tests,
        }
    }

    #[test]
    fn the_text_to_replace_is_there_exactly_once() {
        let rows = [
            ("once", "a + b", "+", "-", Some("a - b")),
            ("not at all", "a * b", "+", "-", None),
            ("twice", "a + b + c", "+", "-", None),
            (
                "over several lines",
                "a\n  + b\n",
                "a\n  +",
                "a\n  -",
                Some("a\n  - b\n"),
            ),
            ("no change", "a + b", "+", "+", None),
            ("nothing to find", "a", "", "b", None),
        ];
        for (what, text, find, replace, expected) in rows {
            assert_eq!(
                mutation(find, replace).apply(text).ok().as_deref(),
                expected,
                "{what}"
            );
        }
        assert!(
            mutation("+", "-")
                .apply("+ +")
                .unwrap_err()
                .contains("2 times in a.rs")
        );
    }

    #[test]
    fn the_list_is_strict_about_its_form() {
        let entry = |id: &str, tests: &str, more: &str| {
            format!("- {{id: {id}, file: a.rs, find: x, replace: y, tests: '{tests}'{more}}}\n")
        };
        let good =
            parse(&(entry("a-1", "-p lb-common maglev", "") + &entry("b", "-p x", ", programs: true")))
                .unwrap();
        assert_eq!(good[0].tests.arguments, ["-p", "lb-common", "maglev"]);
        assert!(!good[0].tests.programs && good[1].tests.programs);
        for (what, text) in [
            ("an id twice", entry("a", "-p x", "") + &entry("a", "-p y", "")),
            ("an id that is a path", entry("../a", "-p x", "")),
            ("no tests", entry("a", " ", "")),
            ("an unknown key", entry("a", "-p x", ", test: z")),
        ] {
            assert!(parse(&text).is_err(), "{what}");
        }
    }

    #[test]
    fn the_committed_mutations_apply_to_this_tree() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for mutation in read(&root.join("xtask/mutants.yaml")).unwrap() {
            let text = fs::read_to_string(root.join(&mutation.file)).unwrap();
            assert!(
                mutation.apply(&text).is_ok(),
                "{}: {:?}",
                mutation.id,
                mutation.apply(&text)
            );
        }
    }
}
