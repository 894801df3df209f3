//! The agent as one static file.
//!
//! Linked against glibc's static library, which comes with the compiler's own package for linking (libc6-dev): musl
//! would need another standard library, which cannot be had everywhere. What that costs is in docs/image.md.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::build::{self, OBJECT_VARIABLE};
use crate::child::{self, say};
use crate::setup;
use crate::workspace::Workspace;

/// Builds it, in a folder of its own: with other flags everything is built anew, and the ordinary build stays warm.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    let triple = triple()?;
    let object = build::object(workspace, &setup::toolchain(workspace)?, false)?;
    say("building a static lb-agent (some minutes the first time)");
    let folder = workspace.target().join("static");
    // By target, since plain RUSTFLAGS would be those of build scripts and macros too, which cannot be static.
    let flags = format!(
        "CARGO_TARGET_{}_RUSTFLAGS",
        triple.replace('-', "_").to_uppercase()
    );
    let mut build = child::cargo(workspace);
    build
        .env(OBJECT_VARIABLE, object)
        .env("CARGO_TARGET_DIR", &folder)
        .env(flags, remapped(workspace))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        // Names of functions stay for backtraces; lines would be most of the file.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "none")
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
        .args([
            "build",
            "--locked",
            "--release",
            "--package",
            "lb-userspace",
            "--bin",
            "lb-agent",
        ])
        .args(["--target", &triple]);
    child::run(&mut build)
        .context("a static lb-agent does not build: is libc.a there (package libc6-dev)?")?;
    Ok(folder.join(triple).join("release/lb-agent"))
}

/// The flags: static, and without this machine's folders in messages of panics, so that clones make the same binary.
fn remapped(workspace: &Workspace) -> String {
    let mut flags = format!(
        "-Ctarget-feature=+crt-static --remap-path-prefix={}=/src",
        workspace.root().display()
    );
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    if let Some(cargo) = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home) {
        flags.push_str(&format!(" --remap-path-prefix={}=/cargo", cargo.display()));
    }
    flags
}

/// This machine's, with glibc.
fn triple() -> Result<String> {
    let arch = std::env::consts::ARCH;
    ensure!(
        cfg!(target_os = "linux") && ["x86_64", "aarch64"].contains(&arch),
        "images are for Linux on x86_64 or aarch64, and built there"
    );
    Ok(format!("{arch}-unknown-linux-gnu"))
}

/// The program that an ELF file asks the kernel to be loaded by, if any: the dynamic linker. A static one asks for none,
/// and then nobody reads its list of libraries either.
pub(crate) fn interpreter(elf: &[u8]) -> Result<Option<String>> {
    const PT_INTERP: u64 = 3;
    ensure!(
        elf.starts_with(b"\x7fELF\x02\x01"),
        "not an ELF file of a 64-bit little-endian machine"
    );
    let number = |at: usize, bytes: usize| -> Result<u64> {
        let bytes = elf.get(at..at + bytes).context("the ELF file is cut off")?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    // Elf64_Ehdr: e_phoff at 32, e_phentsize at 54, e_phnum at 56.
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for header in (0..count).map(|n| (table + n * size) as usize) {
        // Elf64_Phdr: p_type at 0, p_offset at 8, p_filesz at 32.
        if number(header, 4)? == PT_INTERP {
            let (from, length) = (number(header + 8, 8)? as usize, number(header + 32, 8)? as usize);
            let name = elf.get(from..from + length).context("the ELF file is cut off")?;
            return Ok(Some(
                String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(),
            ));
        }
    }
    Ok(None)
}
