//! Folders on the BPF file system, named as everything of a lab is: removed with it (`cleanup`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{cleanup::BPFFS, netns::feed};

/// Makes the folder of this name, and mounts the file system if need be.
pub(crate) fn folder(name: &str) -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let bpffs = |line: &str| line.contains(&format!(" {BPFFS} ")) && line.contains(" - bpf ");
    if !mounts.lines().any(bpffs) {
        feed(&["mount", "-t", "bpf", "bpf", BPFFS], "")?;
    }
    let path = Path::new(BPFFS).join(name);
    fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(path)
}
