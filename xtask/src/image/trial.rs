//! Runs the image's program in a root that holds what the image holds, and nothing else.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use flate2::read::GzDecoder;

use crate::child;
use crate::machine::Machine;
use crate::workspace::Workspace;

/// What came of it.
#[derive(Debug)]
pub(crate) enum Tried {
    /// It said this.
    Said(String),
    /// It cannot be tried here: why.
    NotHere(String),
}

/// What `lb-agent --version` says in the layer's files alone.
pub(crate) fn version(workspace: &Workspace, folder: &Path, layer: &[u8]) -> Result<Tried> {
    let machine = Machine::from_env()?;
    let Some(chroot) = machine.find("chroot").filter(|_| machine.is_root()) else {
        return Ok(Tried::NotHere("needs root, and chroot".to_owned()));
    };
    let root = folder.join(format!("root-{}", std::process::id()));
    unpack(layer, &root)?;
    let mut command = child::command(chroot, workspace);
    command
        .arg(&root)
        .args(["/lb-agent", "--version"])
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = command
        .output()
        .with_context(|| format!("cannot start `{}`", child::line(&command)))?;
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Ok(Tried::Said(if output.status.success() {
        said
    } else {
        format!("{} {said}", output.status)
    }))
}

/// Makes a folder of a layer.
pub(crate) fn unpack(layer: &[u8], root: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
    let mut archive = tar::Archive::new(GzDecoder::new(layer));
    archive.set_preserve_permissions(true);
    archive
        .unpack(root)
        .with_context(|| format!("cannot unpack the layer into {}", root.display()))
}
