//! Starts other programs.
//!
//! *Invariants*: what a child prints goes to stderr, because stdout belongs to the report; a child never
//! waits for keyboard input; variables that cargo set for this program do not leak into the cargo that
//! this program starts.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// One line of progress.
pub(crate) fn say(line: impl std::fmt::Display) {
    eprintln!("xtask: {line}");
}

/// A program to run in the workspace's root.
pub(crate) fn command(program: impl AsRef<OsStr>, workspace: &Workspace) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(workspace.root())
        .stdin(Stdio::null())
        .env("RUST_BACKTRACE", "0");
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(set_by_cargo) {
            command.env_remove(name);
        }
    }
    if let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() {
        command.stdout(stderr);
    }
    command
}

/// The cargo that started this program, for the host's crates.
pub(crate) fn cargo(workspace: &Workspace) -> Command {
    let mut command = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), workspace);
    command.env("CARGO_TARGET_DIR", workspace.target());
    command
}

/// Runs to the end; anything but success is an error that shows the command line.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status}); what it printed is above", line(command));
    }
    Ok(())
}

/// The command line, as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// `cargo run` describes the package it runs in variables; a build script that asks to be re-run when one
/// changes would see this package's values.
fn set_by_cargo(name: &str) -> bool {
    name == "LD_LIBRARY_PATH"
        || ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
            .iter()
            .any(|p| name.starts_with(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_this_package_are_not_passed_on_but_the_users_are() {
        assert!(set_by_cargo("CARGO_MANIFEST_DIR"));
        assert!(set_by_cargo("CARGO_PKG_NAME"));
        assert!(!set_by_cargo("CARGO_HOME"));
        assert!(!set_by_cargo("CARGO_TARGET_DIR"));
        assert!(!set_by_cargo("CARGO_NET_OFFLINE"));
    }
}
