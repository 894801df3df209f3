//! Writes an OCI image layout (image-spec 1.1): blobs under their digests, and an index that names the image.
//!
//! *Not here*: whether what was written is right (`verify`), and the single file (`archive`).

use std::env::consts::ARCH;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::digest::{digest, hex};
use super::layer::{self, File};
use super::spec::Spec;

/// The media types of the documents and of the layer.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image in memory.
#[derive(Debug)]
pub(crate) struct Image {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
    index: Vec<u8>,
    docker: Vec<u8>,
}

impl Image {
    /// Of this program, under these names.
    pub(crate) fn new(spec: &Spec, agent: &[u8]) -> Result<Self> {
        let file = File {
            path: "lb-agent",
            mode: 0o755,
            content: agent,
        };
        let tar = layer::tar(&[file])?;
        let layer = layer::gzip(&tar)?;
        let config = document(&config(spec, &digest(&tar)))?;
        let manifest = document(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &layer)],
        }))?;
        let mut named = descriptor(MANIFEST, &manifest);
        named["platform"] = json!({"architecture": architecture(), "os": "linux"});
        // Who imports takes the name from the first (podman, skopeo) or the second (containerd).
        named["annotations"] = json!({
            "org.opencontainers.image.ref.name": spec.version,
            "io.containerd.image.name": spec.reference(),
        });
        let index = document(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]}))?;
        // What `docker load` read before it knew OCI layouts: it finds the same blobs.
        let docker = document(&json!([{
            "Config": blob(&config),
            "RepoTags": [spec.reference()],
            "Layers": [blob(&layer)],
        }]))?;
        Ok(Self {
            layer,
            config,
            manifest,
            index,
            docker,
        })
    }

    /// What identifies it everywhere.
    pub(crate) fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// Its layer, compressed.
    pub(crate) fn layer(&self) -> &[u8] {
        &self.layer
    }

    /// What a node fetches.
    pub(crate) fn size(&self) -> u64 {
        (self.layer.len() + self.config.len() + self.manifest.len()) as u64
    }

    /// Writes it in place of what is there.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", folder.display()));
            }
            _ => {}
        }
        let put = |path: &str, bytes: &[u8]| {
            let path = folder.join(path);
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
        };
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
        for bytes in [&self.layer, &self.config, &self.manifest] {
            put(&blob(bytes), bytes)?;
        }
        put("oci-layout", &document(&json!({"imageLayoutVersion": "1.0.0"}))?)?;
        put("index.json", &self.index)?;
        put("manifest.json", &self.docker)
    }
}

fn config(spec: &Spec, layer: &str) -> Value {
    json!({
        // No clock goes in; some tools do not take a config without a time.
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Env": ["PATH=/"],
            "Entrypoint": ["/lb-agent"],
            "Cmd": ["run"],
            "Labels": spec.labels(),
        },
        "rootfs": {"type": "layers", "diff_ids": [layer]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image"}],
    })
}

/// Go's name of this machine's architecture, which images use.
fn architecture() -> &'static str {
    match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}

/// Where a blob is in a layout.
fn blob(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", hex(bytes))
}

/// Members are sorted: serde_json's maps are.
fn document(value: &Value) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}
