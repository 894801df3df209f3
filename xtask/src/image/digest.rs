//! SHA-256 as images name their blobs.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// The hexadecimal digits; a digest in a document has `sha256:` before them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string succeeds");
            text
        })
}

/// As documents name it.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}
