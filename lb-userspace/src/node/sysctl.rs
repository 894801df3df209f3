//! Kernel settings below `net`, of the network namespace of the calling thread.
//!
//! A container without all privileges has `/proc/sys` read-only, and its runtime lets nothing be mounted over it: there
//! the node's directory is mounted elsewhere. Wherever it is mounted, the kernel shows the caller's own namespace.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Room for the longest value, the list of reserved ports. It has to be read at once: the kernel gives the rest of a
/// list to nobody (`proc_do_large_bitmap`), and `fs::read_to_string` begins with 32 bytes.
const LONGEST: usize = 1 << 16;

/// A setting that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot set {name} to `{value}`: {source}; is it read-only in this container? Mount the node's \
         /proc/sys/net elsewhere, and name that directory with --sysctls"
)]
pub struct SysctlError {
    name: String,
    value: String,
    source: io::Error,
}

/// The directory with the settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sysctls(PathBuf);

impl Sysctls {
    /// Where they are, unless they are mounted elsewhere.
    pub const DEFAULT: &str = "/proc/sys/net";

    /// Those of this directory.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// Its value; `None` if this kernel does not have it (no IPv6, or no such device).
    pub(super) fn read(&self, name: &str) -> Option<String> {
        let mut text = vec![0; LONGEST];
        let length = File::open(self.0.join(name)).and_then(|mut file| file.read(&mut text));
        text.truncate(length.ok()?);
        String::from_utf8(text).ok().map(|text| text.trim().to_owned())
    }

    /// Writes it if it has another value; says whether it did. A setting that does not exist is left out.
    pub(super) fn write(&self, name: &str, value: &str) -> Result<bool, SysctlError> {
        match self.read(name) {
            None => Ok(false),
            Some(current) if current == value => Ok(false),
            Some(_) => fs::write(self.0.join(name), value)
                .map(|()| true)
                .map_err(|source| SysctlError {
                    name: name.to_owned(),
                    value: value.to_owned(),
                    source,
                }),
        }
    }
}

impl Default for Sysctls {
    fn default() -> Self {
        Self::at(Path::new(Self::DEFAULT))
    }
}

/// A setting of a device; names of devices may have dots.
pub(super) fn of_device(family: &str, device: &str, setting: &str) -> String {
    format!("{family}/conf/{device}/{setting}")
}
