//! Programs that tests of `deploy/` call and that are no part of a usual machine.

use std::{env, path::PathBuf};

/// `cargo xtask test` puts them there (`xtask/src/setup`); otherwise those of the machine. Says loudly what is missing.
pub(crate) fn or_skip(test: &str, name: &str) -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))
        .map(|cache| cache.join("lb-deploy-tools"));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = cache.into_iter().chain(env::split_paths(&path));
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|file| file.is_file()));
    if found.is_none() {
        lb_lab::skip(&format!("{test}: no {name} here: `cargo xtask setup` fetches it"));
    }
    found
}
