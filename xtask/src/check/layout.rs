//! Notices when the types of pinned maps change under the same `LAYOUT_VERSION`.
//!
//! `xtask/layout.lock` holds the version and, for each file of `lb-common/src/abi`, a hash of its definitions:
//! structs, enums, constants, representations and declaring macros, without comments and spaces. Functions
//! and default capacities do not count: they change no byte in a map.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::source;
use crate::child::say;
use crate::workspace::Workspace;

const HEAD: &str = "# The map layout, as hashes of the definitions in lb-common/src/abi. Written by `cargo xtask check --bless`;\n\
                    # when a hash changes, LAYOUT_VERSION has to change with it.\n";

/// A version and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout {
    version: u32,
    files: BTreeMap<String, String>,
}

/// How the lock and the source differ.
pub(super) fn misses(workspace: &Workspace) -> Result<Vec<String>> {
    let found = Layout::of_source(workspace)?;
    let lock = match fs::read_to_string(lock_file(workspace)) {
        Ok(text) => {
            Layout::parse(&text).context("xtask/layout.lock is damaged: restore it from the history")?
        }
        Err(error) => {
            return Ok(vec![format!(
                "xtask/layout.lock: {error}; `cargo xtask check --bless` writes it"
            )]);
        }
    };
    Ok(lock.misses(&found))
}

/// Records the layout as it is.
pub(super) fn bless(workspace: &Workspace) -> Result<()> {
    let found = Layout::of_source(workspace)?;
    let before = fs::read_to_string(lock_file(workspace))
        .ok()
        .and_then(|text| Layout::parse(&text));
    if before.as_ref() == Some(&found) {
        return Ok(());
    }
    if before.is_some_and(|before| before.version == found.version) {
        say(format!(
            "layout.lock: new definitions under the old version {}: right only if no release has it",
            found.version
        ));
    }
    fs::write(lock_file(workspace), found.to_text()).context("cannot write xtask/layout.lock")
}

fn lock_file(workspace: &Workspace) -> PathBuf {
    workspace.root().join("xtask/layout.lock")
}

impl Layout {
    fn of_source(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.root().join("lb-common/src/abi");
        let mut version = None;
        let mut files = BTreeMap::new();
        for path in source::rust_files(&folder)? {
            let text = source::read(&path)?;
            version = version.or_else(|| version_in(&text));
            let definitions = definitions(&text);
            if !definitions.is_empty() {
                let name = path
                    .strip_prefix(&folder)
                    .expect("the file was found in this folder");
                files.insert(
                    name.display().to_string(),
                    format!("{:016x}", fnv1a(&definitions)),
                );
            }
        }
        let version = version.context("lb-common/src/abi has no `pub const LAYOUT_VERSION: u32 = N;`")?;
        Ok(Self { version, files })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let version = lines.next()?.strip_prefix("version ")?.parse().ok()?;
        let files = lines.map(|line| {
            line.split_once(' ')
                .map(|(name, hash)| (name.to_owned(), hash.to_owned()))
        });
        Some(Self {
            version,
            files: files.collect::<Option<_>>()?,
        })
    }

    fn to_text(&self) -> String {
        let mut text = format!("{HEAD}version {}\n", self.version);
        for (name, hash) in &self.files {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name} {hash}");
        }
        text
    }

    fn misses(&self, found: &Self) -> Vec<String> {
        if self == found {
            return Vec::new();
        }
        if self.version != found.version {
            return vec![format!(
                "LAYOUT_VERSION is {}, the lock is of {}: record it with `cargo xtask check --bless`",
                found.version, self.version
            )];
        }
        let names = self
            .files
            .keys()
            .chain(found.files.keys().filter(|name| !self.files.contains_key(*name)));
        let changed = names.filter(|name| self.files.get(*name) != found.files.get(*name));
        changed
            .map(|name| {
                format!("lb-common/src/abi/{name} defines other maps: raise LAYOUT_VERSION, then `cargo xtask check --bless`")
            })
            .collect()
    }
}

fn version_in(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("pub const LAYOUT_VERSION: u32 = ")?;
    rest.split_once(';')?.0.trim().parse().ok()
}

/// All definitions of a file in their order, without comments and spaces.
fn definitions(text: &str) -> String {
    let code = source::without_comments(source::without_tests(text));
    let mut found = String::new();
    let mut rest = code.as_str();
    while !rest.is_empty() {
        let item = item(rest);
        if let Some(item) = item.filter(|item| !item.starts_with("pub const LAYOUT_VERSION")) {
            found.extend(item.chars().filter(|character| !character.is_whitespace()));
            found.push('\n');
        }
        // A module is entered, except the one of capacities; another item is passed over.
        let skipped = if rest.starts_with("pub mod capacity") || rest.starts_with("macro_rules!") {
            through_block(rest)
        } else {
            item.unwrap_or_default()
        };
        rest = &rest[skipped.len()..];
        rest = rest.find('\n').map_or("", |end| rest[end..].trim_start());
    }
    found
}

/// The definition that this text begins with.
fn item(text: &str) -> Option<&str> {
    let is = |starts: &[&str]| starts.iter().any(|start| text.starts_with(start));
    if is(&["pub struct ", "pub enum ", "pub union ", "numbered! ", "pod! "]) {
        Some(through_block(text))
    } else if is(&["pub const fn", "pub const unsafe fn"]) {
        None
    } else if is(&["pub const ", "pub static ", "pub type "]) {
        Some(through_semicolon(text))
    } else if is(&["#[repr("]) {
        text.lines().next()
    } else {
        None
    }
}

/// Up to the end of the first block, or to the semicolon of an item without one.
fn through_block(text: &str) -> &str {
    let block = text.find('{').unwrap_or(text.len());
    let end = text.find(';').unwrap_or(text.len());
    if end < block {
        &text[..=end]
    } else {
        &text[..block + source::bracketed(&text[block..]).len()]
    }
}

/// Up to the semicolon that is in no bracket: `[u8; 4]` has one of its own.
fn through_semicolon(text: &str) -> &str {
    let mut depth = 0_usize;
    for (at, character) in text.char_indices() {
        match character {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth = depth.saturating_sub(1),
            ';' if depth == 0 => return &text[..=at],
            _ => {}
        }
    }
    text
}

/// FNV-1a, 64 bits: against accidents, not against malice.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
