//! Where things are: the workspace and its build folders, as found at run time.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The checked-out workspace.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Cargo names this crate's folder in the environment of what it runs, so that the program keeps
    /// working when the clone is moved.
    pub(crate) fn from_env() -> Result<Self> {
        let crate_dir = env::var_os("CARGO_MANIFEST_DIR")
            .context("CARGO_MANIFEST_DIR is not set: start this program as `cargo xtask`")?;
        let root = Path::new(&crate_dir)
            .parent()
            .context("CARGO_MANIFEST_DIR has no parent folder: start this program as `cargo xtask`")?
            .to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => std::path::absolute(dir).context("CARGO_TARGET_DIR is not a usable path")?,
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// A workspace elsewhere, with build folders of its own.
    pub(crate) fn at(root: PathBuf, target: PathBuf) -> Self {
        Self { root, target }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What the host's compiler builds.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// What the BPF compiler builds: two compilers must not share a folder.
    pub(crate) fn ebpf_target(&self) -> PathBuf {
        self.target.join("ebpf")
    }
}
