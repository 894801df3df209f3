//! Compares the imports of lb-userspace with `xtask/layering.yaml`.
//!
//! A plain scan of the text: it sees `crate::STAGE` wherever it is written, which is how one stage reaches
//! another; it knows nothing of types.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::source;
use crate::workspace::Workspace;

/// The table, as the file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    stages: BTreeMap<String, Allowed>,
    crates: BTreeMap<String, Vec<String>>,
    pure: Pure,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Allowed {
    Some(Vec<String>),
    All(All),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum All {
    All,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pure {
    stages: Vec<String>,
    forbidden: Vec<String>,
}

/// The lines that break the table.
pub(super) fn misses(workspace: &Workspace) -> Result<Vec<String>> {
    let table = workspace.root().join("xtask/layering.yaml");
    let table: Table = serde_norway::from_str(&source::read(&table)?)
        .with_context(|| format!("{} is not a layering table", table.display()))?;
    let folder = workspace.root().join("lb-userspace/src");
    let mut misses = Vec::new();
    for path in source::rust_files(&folder)? {
        let within = path
            .strip_prefix(&folder)
            .expect("the file was found in this folder");
        misses.extend(table.misses_in(within, &source::read(&path)?));
    }
    Ok(misses)
}

impl Table {
    fn misses_in(&self, file: &Path, text: &str) -> Vec<String> {
        let place = file.with_extension("").to_string_lossy().into_owned();
        let stage = place.split('/').next().unwrap_or_default();
        if place.split('/').any(|part| part == "tests") {
            return Vec::new();
        }
        let Some(allowed) = self.stages.get(stage) else {
            return vec![format!(
                "{}: the stage `{stage}` is not in xtask/layering.yaml",
                file.display()
            )];
        };
        let code = source::without_comments(source::without_tests(text));
        let mut misses = Vec::new();
        let mut miss = |at: usize, fault: String| {
            let line = code[..at].matches('\n').count() + 1;
            misses.push(format!("{}:{line}: {fault}", file.display()));
        };
        for (at, used) in stages_used(&code) {
            let permitted = match allowed {
                Allowed::All(_) => true,
                // What is not a stage is an item of the crate's root.
                Allowed::Some(others) => {
                    used == stage
                        || others.iter().any(|other| other == used)
                        || !self.stages.contains_key(used)
                }
            };
            if !permitted {
                miss(at, format!("`{stage}` may not use `{used}`"));
            }
        }
        for (name, places) in &self.crates {
            let home = places
                .iter()
                .any(|home| place == *home || place.starts_with(&format!("{home}/")));
            if !home {
                for at in paths_into(&code, name) {
                    miss(
                        at,
                        format!("only {} may name the crate `{name}`", places.join(", ")),
                    );
                }
            }
        }
        if self.pure.stages.iter().any(|pure| pure == stage) {
            for forbidden in &self.pure.forbidden {
                for (at, _) in code.match_indices(forbidden.as_str()) {
                    miss(at, format!("`{stage}` is pure: `{forbidden}` has no place in it"));
                }
            }
        }
        misses
    }
}

/// Each `crate::NAME`, also those in `crate::{A, B::C}`, with its place.
fn stages_used(code: &str) -> Vec<(usize, &str)> {
    let mut used = Vec::new();
    for at in paths_into(code, "crate") {
        let rest = &code[at + "crate::".len()..];
        if rest.starts_with('{') {
            let group = source::bracketed(rest);
            let inner = group.trim_start_matches('{').trim_end_matches('}');
            used.extend(first_level(inner).map(|name| (at, name)));
        } else {
            used.push((at, identifier(rest)));
        }
    }
    used
}

/// The names at the first level of a group: `a, b::{c, d}` has `a` and `b`.
fn first_level(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    let parts = group.split(move |character| {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    });
    parts
        .map(|part| identifier(part.trim_start()))
        .filter(|name| !name.is_empty())
}

fn identifier(text: &str) -> &str {
    &text[..text.find(|c: char| !is_identifier(c)).unwrap_or(text.len())]
}

fn is_identifier(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Where paths start with this name: `name::`, not `other_name::` nor `other::name::`.
fn paths_into<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(name).map(|(at, _)| at).filter(move |at| {
        let before = code[..*at].chars().next_back();
        let after = &code[at + name.len()..];
        !before.is_some_and(|c| is_identifier(c) || c == ':') && after.starts_with("::")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let text = "stages: {model: [], plan: [model], maps: [], load: [], agent: all}\n\
                    crates: {aya: [load, maps/bpf]}\n\
                    pure: {stages: [model, plan], forbidden: ['std::fs', 'Instant::now']}\n";
        serde_norway::from_str(text).unwrap()
    }

    #[test]
    fn the_committed_table_can_be_read() {
        let text = include_str!("../../layering.yaml");
        serde_norway::from_str::<Table>(text).unwrap();
    }

    #[test]
    fn an_import_is_held_against_the_table() {
        let rows = [
            ("plan/diff.rs", "use crate::model::Service;", None),
            ("plan/diff.rs", "use crate::plan::Op;", None),
            (
                "plan/diff.rs",
                "use crate::maps::Store;",
                Some("plan/diff.rs:1: `plan` may not use `maps`"),
            ),
            (
                "plan.rs",
                "\n\nlet x = crate::maps::open();",
                Some("plan.rs:3: `plan` may not use `maps`"),
            ),
            (
                "plan/a.rs",
                "use crate::{model::X,\n maps::{Y}};",
                Some("plan/a.rs:1: `plan` may not use `maps`"),
            ),
            ("plan/a.rs", "use crate::{model::{X, maps}};", None),
            ("plan/a.rs", "// use crate::maps::X;", None),
            ("plan/a.rs", "use crate::VERSION;", None),
            (
                "plan/a.rs",
                "\n#[cfg(test)]\nmod tests {\n use crate::maps::X;\n}",
                None,
            ),
            ("plan/tests.rs", "use crate::maps::X;", None),
            ("agent.rs", "use crate::{maps, plan};", None),
            (
                "news.rs",
                "",
                Some("news.rs: the stage `news` is not in xtask/layering.yaml"),
            ),
            ("maps/bpf.rs", "use aya::maps::Map;", None),
            ("maps/bpf/batch.rs", "use aya::maps::Map;", None),
            (
                "maps/fake.rs",
                "use aya::maps::Map;",
                Some("maps/fake.rs:1: only load, maps/bpf may name the crate `aya`"),
            ),
            ("maps/fake.rs", "use bataya::X; use x::aya::Y;", None),
            (
                "plan/a.rs",
                "std::fs::read(p)",
                Some("plan/a.rs:1: `plan` is pure: `std::fs` has no place in it"),
            ),
            ("maps/fake.rs", "std::fs::read(p)", None),
        ];
        for (file, code, expected) in rows {
            let misses = table().misses_in(Path::new(file), code);
            assert_eq!(misses.first().map(String::as_str), expected, "{file}: {code}");
            assert!(misses.len() < 2, "{file}: {misses:?}");
        }
    }
}
