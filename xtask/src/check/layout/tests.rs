//! What counts as a change of layout.

use super::*;

const SOURCE: &str = "\
//! Doc.

/// A key.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Key {
    /// Port.
    pub port: u16,
    pub rest: [u8; 2],
}

impl Key {
    /// Flag.
    pub const LOCAL: u16 = 1;

    pub const fn has(self, flags: u16) -> bool {
        self.port & flags == flags
    }
}

pub mod names {
    pub const KEYS: [&str; 2] = [\"a\", \"b\"];
}

pub mod capacity {
    pub const KEYS: u32 = 4096;
}

macro_rules! pod { ($a:ident) => { pub struct $a { } } }

pub struct Mark;

pod! {
    Key, 4, [u16, [u8; 2]];
}

#[cfg(test)]
mod tests { pub const X: u32 = 1; }
";

#[test]
fn definitions_are_found_and_nothing_else() {
    let expected = "#[repr(C)]\n\
                    pubstructKey{pubport:u16,pubrest:[u8;2],}\n\
                    pubconstLOCAL:u16=1;\n\
                    pubconstKEYS:[&str;2]=[\"a\",\"b\"];\n\
                    pubstructMark;\n\
                    pod!{Key,4,[u16,[u8;2]];}\n";
    assert_eq!(definitions(SOURCE), expected);
}

#[test]
fn only_what_changes_bytes_in_a_map_changes_the_definitions() {
    let rows = [
        ("a comment", "/// Port.", "/// The port.", false),
        ("a function", "== flags", "!= 0", false),
        ("a derive", "Clone, Copy", "Clone, Copy, Debug", false),
        ("a capacity", "4096", "8192", false),
        ("a test", "X: u32 = 1", "X: u32 = 2", false),
        ("a field's type", "port: u16", "port: u32", true),
        ("a field's name", "pub rest", "pub reserved", true),
        ("a flag's value", "LOCAL: u16 = 1", "LOCAL: u16 = 2", true),
        ("the representation", "#[repr(C)]", "#[repr(C, align(8))]", true),
        ("a map's name", "\"a\"", "\"c\"", true),
        ("the size", "Key, 4", "Key, 8", true),
    ];
    for (what, find, replace, changes) in rows {
        assert!(SOURCE.contains(find), "{what}");
        let changed = definitions(&SOURCE.replacen(find, replace, 1)) != definitions(SOURCE);
        assert_eq!(changed, changes, "{what}");
    }
}

fn layout(version: u32, files: &[(&str, &str)]) -> Layout {
    let files = files
        .iter()
        .map(|(name, hash)| ((*name).to_owned(), (*hash).to_owned()))
        .collect();
    Layout { version, files }
}

#[test]
fn a_layout_survives_its_file() {
    let lock = layout(7, &[("addr.rs", "00ff"), ("flow.rs", "1234")]);
    assert_eq!(Layout::parse(&lock.to_text()), Some(lock));
    assert_eq!(Layout::parse("version x\n"), None);
    assert_eq!(Layout::parse("version 1\naddr.rs\n"), None);
}

#[test]
fn a_change_needs_a_new_version_and_a_new_version_needs_a_record() {
    let lock = layout(1, &[("addr.rs", "00"), ("flow.rs", "11")]);
    let misses = |found: &Layout| lock.misses(found);
    assert!(misses(&lock).is_empty());
    let changed = misses(&layout(
        1,
        &[("addr.rs", "00"), ("flow.rs", "22"), ("set.rs", "33")],
    ));
    assert_eq!(changed.len(), 2, "{changed:?}");
    assert!(
        changed.iter().all(|miss| miss.contains("raise LAYOUT_VERSION")),
        "{changed:?}"
    );
    let raised = misses(&layout(2, &[("addr.rs", "00"), ("flow.rs", "22")]));
    assert!(raised[0].contains("--bless"), "{raised:?}");
}
