//! The layout as one file, which `docker load`, `podman load` and `ctr images import` take.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};

use super::layer;

/// Writes all files of a layout into a tar.
pub(crate) fn write(layout: &Path, file: &Path) -> Result<()> {
    let files = files(layout)?;
    let entries: Vec<_> = files
        .iter()
        .map(|(path, content)| layer::File {
            path,
            mode: 0o644,
            content,
        })
        .collect();
    let tar = layer::tar(&entries)?;
    fs::write(file, tar).with_context(|| format!("cannot write {}", file.display()))
}

/// What the tar has otherwise than the layout.
pub(crate) fn misses(layout: &Path, file: &Path) -> Result<Vec<String>> {
    let mut wanted = files(layout)?;
    let mut misses = Vec::new();
    let open = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    for entry in tar::Archive::new(open).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        if wanted.remove(&path).as_ref() != Some(&content) {
            misses.push(format!("{path} is not the layout's"));
        }
    }
    misses.extend(wanted.into_keys().map(|path| format!("{path} is missing")));
    Ok(misses)
}

/// All files of a layout by their paths in it.
fn files(layout: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![layout.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.strip_prefix(layout)?.to_string_lossy().into_owned();
            files.insert(name, content);
        }
    }
    Ok(files)
}
