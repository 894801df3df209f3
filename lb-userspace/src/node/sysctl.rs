//! Kernel settings below `net`, of the network namespace of the calling thread.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::PathBuf,
};

/// Room for the longest value, the list of reserved ports. It has to be read at once: the kernel gives the rest of a
/// list to nobody (`proc_do_large_bitmap`), and `fs::read_to_string` begins with 32 bytes.
const LONGEST: usize = 1 << 16;

/// A setting that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {name} to `{value}`: {source}; is /proc/sys read-only in this container?")]
pub struct SysctlError {
    name: String,
    value: String,
    source: io::Error,
}

/// Its value; `None` if this kernel does not have it (no IPv6, or no such device).
pub(super) fn read(name: &str) -> Option<String> {
    let mut text = vec![0; LONGEST];
    let length = File::open(path(name)).and_then(|mut file| file.read(&mut text));
    text.truncate(length.ok()?);
    String::from_utf8(text).ok().map(|text| text.trim().to_owned())
}

/// Writes it if it has another value; says whether it did. A setting that does not exist is left out.
pub(super) fn write(name: &str, value: &str) -> Result<bool, SysctlError> {
    match read(name) {
        None => Ok(false),
        Some(current) if current == value => Ok(false),
        Some(_) => fs::write(path(name), value)
            .map(|()| true)
            .map_err(|source| SysctlError {
                name: name.to_owned(),
                value: value.to_owned(),
                source,
            }),
    }
}

/// A setting of a device; names of devices may have dots.
pub(super) fn of_device(family: &str, device: &str, setting: &str) -> String {
    format!("{family}/conf/{device}/{setting}")
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(name)
}
