//! Whether a folder is the layout of an image: read as an importer reads it, from `oci-layout` down to the layer.
//!
//! *Not here*: anything of `layout`, which wrote it, but the way a digest is spelled.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::digest::{digest, hex};

/// What is wrong with it.
pub(crate) fn misses(layout: &Path) -> Result<Vec<String>> {
    let mut misses = Vec::new();
    let mut known = 0;
    if read(layout, "oci-layout")?["imageLayoutVersion"] != "1.0.0" {
        misses.push("oci-layout does not say 1.0.0".to_owned());
    }
    let index = read(layout, "index.json")?;
    for named in list(&index["manifests"]) {
        let manifest: Value = serde_json::from_slice(&blob(layout, named, &mut misses)?)?;
        let config: Value = serde_json::from_slice(&blob(layout, &manifest["config"], &mut misses)?)?;
        known += 2;
        let ids = list(&config["rootfs"]["diff_ids"]);
        let layers = list(&manifest["layers"]);
        if layers.is_empty() || ids.len() != layers.len() {
            misses.push(format!("{} layers and {} diff_ids", layers.len(), ids.len()));
        }
        for (layer, id) in layers.iter().zip(ids) {
            known += 1;
            let mut tar = Vec::new();
            GzDecoder::new(blob(layout, layer, &mut misses)?.as_slice())
                .read_to_end(&mut tar)
                .context("a layer is no gzip")?;
            if *id != digest(&tar) {
                misses.push(format!("a layer is {} unpacked, not {id}", digest(&tar)));
            }
        }
        for member in ["architecture", "os"] {
            if !config[member].is_string() {
                misses.push(format!("the config has no {member}"));
            }
        }
    }
    let folder = layout.join("blobs/sha256");
    let there = fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .count();
    if known == 0 || there != known {
        misses.push(format!("{there} blobs, of which {known} are referred to"));
    }
    Ok(misses)
}

/// The bytes that a descriptor means, which must be as it says.
fn blob(layout: &Path, descriptor: &Value, misses: &mut Vec<String>) -> Result<Vec<u8>> {
    let named = descriptor["digest"]
        .as_str()
        .and_then(|text| text.strip_prefix("sha256:"));
    let named = named.with_context(|| format!("no digest in {descriptor}"))?;
    let path = layout.join("blobs/sha256").join(named);
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if hex(&bytes) != named {
        misses.push(format!("blob {named} has the digest {}", hex(&bytes)));
    }
    if descriptor["size"] != bytes.len() {
        misses.push(format!(
            "blob {named} has {} bytes, not {}",
            bytes.len(),
            descriptor["size"]
        ));
    }
    Ok(bytes)
}

fn read(layout: &Path, name: &str) -> Result<Value> {
    let path = layout.join(name);
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", path.display()))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
