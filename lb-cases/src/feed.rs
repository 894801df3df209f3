//! How a state gets to the agent: a folder of manifests, or an API server.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{format::State, manifests};

/// A folder of manifests that the agent follows.
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A new one, in the lab's folder.
    pub(crate) fn new(lab: &Path) -> Result<Self> {
        let path = lab.join("manifests");
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces what is there, all of it at once.
    pub(crate) fn apply(&self, state: &State, marker: &[Value; 2]) -> Result<()> {
        let mut text = String::new();
        for object in manifests::objects(state).iter().chain(marker) {
            // JSON is YAML too.
            text.push_str(&serde_json::to_string(object)?);
            text.push_str("\n---\n");
        }
        let file = self.path.join("state.yaml");
        let new = self.path.join("state.new");
        fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
        fs::rename(&new, &file).with_context(|| format!("cannot write {}", file.display()))
    }
}
