//! A copy of the workspace that may be broken.
//!
//! *Invariants*: a file that is already the same is not written again, so that its time of change stays and
//! cargo builds only what differs from the last run.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::child;
use crate::workspace::Workspace;

/// Makes `copy` hold the workspace's files, as they are now, and no others.
pub(super) fn mirror(workspace: &Workspace, copy: &Path) -> Result<()> {
    let mut files = listed(workspace)?;
    if copy.starts_with(workspace.root()) {
        // Cargo adds up the settings of all folders above a package: it would give the linker each argument twice.
        files.retain(|file| !file.starts_with(".cargo"));
    }
    for file in &files {
        copy_file(&workspace.root().join(file), &copy.join(file))?;
    }
    remove_others(copy, copy, &files)
}

/// What the version control knows or would take: build folders are not among them.
fn listed(workspace: &Workspace) -> Result<BTreeSet<PathBuf>> {
    let mut git = child::command("git", workspace);
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .stdout(Stdio::piped());
    let output = git
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start git, which names the files to copy")?;
    ensure!(
        output.status.success(),
        "git cannot list the workspace's files: is this a clone?"
    );
    let names = output
        .stdout
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let files = names.map(|name| PathBuf::from(OsStr::from_bytes(name)));
    // Listed but deleted in the tree: the mutants' tree shall not have it either.
    Ok(files
        .filter(|file| workspace.root().join(file).is_file())
        .collect())
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == content) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(to, content).with_context(|| format!("cannot write {}", to.display()))?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())
        .with_context(|| format!("cannot set the mode of {}", to.display()))
}

fn remove_others(copy: &Path, folder: &Path, files: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(copy, &path, files)?;
        } else if !path.strip_prefix(copy).is_ok_and(|file| files.contains(file)) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_copy_follows_the_tree_and_keeps_what_did_not_change() {
        let scratch = Scratch::new();
        let root = scratch.path().join("tree");
        let copy = scratch.path().join("copy");
        let workspace = Workspace::at(root.clone(), scratch.path().join("target"));
        for (file, text) in [
            ("tree/a", "1"),
            ("tree/b/c", "2"),
            ("tree/out", "3"),
            ("tree/.gitignore", "out\n"),
        ] {
            scratch.write(file, text);
        }
        child::run(child::command("git", &workspace).args(["init", "--quiet"])).unwrap();
        mirror(&workspace, &copy).unwrap();
        assert_eq!(fs::read_to_string(copy.join("b/c")).unwrap(), "2");
        assert!(!copy.join("out").exists());
        let written = |file: &str| fs::metadata(copy.join(file)).unwrap().modified().unwrap();
        let before = written("a");

        scratch.write("tree/b/c", "4");
        scratch.write("copy/stray", "5");
        mirror(&workspace, &copy).unwrap();
        assert_eq!(fs::read_to_string(copy.join("b/c")).unwrap(), "4");
        assert!(!copy.join("stray").exists());
        assert_eq!(written("a"), before);
    }
}
