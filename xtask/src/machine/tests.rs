//! Detection, against invented machines.

use super::*;
use crate::scratch::Scratch;

/// A machine with exactly these files, all of them executable.
fn machine(scratch: &Scratch, files: &[&str]) -> Machine {
    for file in files {
        scratch.program(file);
    }
    let at = |folder: &str| scratch.path().join(folder);
    Machine {
        system: at(""),
        rustup_home: at("rustup"),
        cargo_home: at("cargo"),
        path: vec![at("usr/bin"), at("usr/sbin")],
    }
}

const DEBIAN: [&str; 2] = [
    "usr/bin/rustc",
    "usr/lib/rustlib/bpfel-unknown-none/lib/libcore-1234.rlib",
];
const NIGHTLY: &str = "rustup/toolchains/nightly-x86_64-unknown-linux-gnu/bin/cargo";
const NIGHTLY_CORE: &str =
    "rustup/toolchains/nightly-x86_64-unknown-linux-gnu/lib/rustlib/src/rust/library/core/Cargo.toml";
const DATED: &str = "rustup/toolchains/nightly-2026-01-01-x86_64-unknown-linux-gnu/bin/cargo";
const DATED_CORE: &str = "rustup/toolchains/nightly-2026-01-01-x86_64-unknown-linux-gnu/lib/rustlib/src/rust/library/core/Cargo.toml";

#[test]
fn the_compiler_is_the_one_that_has_a_core_for_bpf() {
    let rows: &[(&str, &[&str], Option<&str>)] = &[
        ("an empty machine", &[], None),
        ("rustc without the BPF library", &DEBIAN[..1], None),
        ("the BPF library without rustc", &DEBIAN[1..], None),
        ("Debian's pair", &DEBIAN, Some("debian")),
        ("a nightly without rust-src", &[NIGHTLY], None),
        (
            "a nightly with rust-src",
            &[NIGHTLY, NIGHTLY_CORE],
            Some("nightly-x86_64-unknown-linux-gnu"),
        ),
        ("rust-src without cargo", &[NIGHTLY_CORE], None),
        (
            "a dated nightly with rust-src beside one without",
            &[NIGHTLY, DATED, DATED_CORE],
            Some("nightly-2026-01-01-x86_64-unknown-linux-gnu"),
        ),
        (
            "two usable nightlies: the one that rustup updates",
            &[NIGHTLY, NIGHTLY_CORE, DATED, DATED_CORE],
            Some("nightly-x86_64-unknown-linux-gnu"),
        ),
        (
            "both ways: Debian's",
            &[DEBIAN[0], DEBIAN[1], NIGHTLY, NIGHTLY_CORE],
            Some("debian"),
        ),
    ];
    for (what, files, expected) in rows {
        let scratch = Scratch::new();
        let found = machine(&scratch, files)
            .compiler()
            .map(|compiler| match compiler {
                Compiler::Debian { .. } => "debian".to_owned(),
                Compiler::Nightly { name, .. } => name,
            });
        assert_eq!(found.as_deref(), *expected, "{what}");
    }
}

#[test]
fn the_linker_is_found_on_the_path_or_where_cargo_installs() {
    for file in ["usr/bin/bpf-linker", "cargo/bin/bpf-linker"] {
        let scratch = Scratch::new();
        assert_eq!(
            machine(&scratch, &[file]).linker(),
            Some(scratch.path().join(file))
        );
    }
    let scratch = Scratch::new();
    assert_eq!(machine(&scratch, &[]).linker(), None);
}

#[test]
fn a_file_that_cannot_be_executed_is_not_a_program() {
    let scratch = Scratch::new();
    scratch.write("usr/bin/bpftool", "");
    assert_eq!(machine(&scratch, &["usr/sbin/nft"]).find("bpftool"), None);
}

#[test]
fn a_mount_counts_only_with_its_type_and_place() {
    let table = "23 28 0:21 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700\n\
                 24 28 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n";
    assert!(mounted(table, "bpf", "/sys/fs/bpf"));
    assert!(!mounted(table, "bpf", "/sys/fs/cgroup"));
    assert!(!mounted(table, "cgroup2", "/sys/fs/bpf"));
    assert!(!mounted("", "bpf", "/sys/fs/bpf"));
}
