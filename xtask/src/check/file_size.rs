//! No file is longer than a person wants to read.

use anyhow::Result;

use super::source;
use crate::workspace::Workspace;

const MOST_LINES: usize = 600;

/// The files that are too long.
pub(super) fn misses(workspace: &Workspace) -> Result<Vec<String>> {
    let mut misses = Vec::new();
    for path in source::rust_files(workspace.root())? {
        let lines = source::read(&path)?.lines().count();
        if lines > MOST_LINES {
            let path = path.strip_prefix(workspace.root()).unwrap_or(&path).display();
            misses.push(format!("{path} has {lines} lines: split it by responsibility"));
        }
    }
    Ok(misses)
}
