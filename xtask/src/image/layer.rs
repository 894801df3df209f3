//! The image's only layer: a tar of its files, and the same compressed.
//!
//! *Invariants*: nothing of the machine goes in (times, owners, the order of a folder), so that the same files make
//! the same bytes.

use std::io::Write;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

/// A file of the layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File<'a> {
    /// Without the first slash.
    pub(crate) path: &'a str,
    pub(crate) mode: u32,
    pub(crate) content: &'a [u8],
}

/// The tar of these files, in the order of their paths.
pub(crate) fn tar(files: &[File<'_>]) -> Result<Vec<u8>> {
    let mut files = files.to_vec();
    files.sort_by_key(|file| file.path);
    let mut builder = Builder::new(Vec::new());
    for file in files {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_size(file.content.len() as u64);
        header.set_mode(file.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder
            .append_data(&mut header, file.path, file.content)
            .with_context(|| format!("{} does not go into a tar", file.path))?;
    }
    Ok(builder.into_inner()?)
}

/// Compressed, without a name or a time in its header.
pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(6));
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}
