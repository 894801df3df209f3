//! Source files as the gates see them: found in the tree, without comments, without tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// All Rust files below a folder, sorted; build folders and hidden ones are not entered.
pub(super) fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A file's text, with the file named if it cannot be read.
pub(super) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The text without line comments; lines keep their numbers. Rust code here has no block comments, and a
/// `//` in a string only shortens the line.
pub(super) fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The text up to the tests, which stand last in a file.
pub(super) fn without_tests(text: &str) -> &str {
    let tests = text.match_indices("#[cfg(test)]").find(|(at, attribute)| {
        let after = text[at + attribute.len()..].trim_start();
        after.starts_with("mod tests") || after.starts_with("pub(crate) mod tests")
    });
    &text[..tests.map_or(text.len(), |(at, _)| at)]
}

/// Of a text that starts with an opening bracket: the part up to the one that closes it, both included.
pub(super) fn bracketed(text: &str) -> &str {
    let mut depth = 0_usize;
    for (at, character) in text.char_indices() {
        match character {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return &text[..=at];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_go_and_lines_keep_their_numbers() {
        assert_eq!(without_comments("a // b\n//! c\nd"), "a \n\nd");
    }

    #[test]
    fn tests_at_the_end_are_cut_off_but_test_only_items_are_not() {
        assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\n}"), "a\n");
        let item = "#[cfg(test)]\nextern crate std;\nb";
        assert_eq!(without_tests(item), item);
    }

    #[test]
    fn brackets_are_matched_through_their_levels() {
        assert_eq!(bracketed("{a: [u8; 4], b: (c)} d"), "{a: [u8; 4], b: (c)}");
        assert_eq!(bracketed("{a"), "{a");
    }
}
