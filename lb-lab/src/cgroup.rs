//! A cgroup (version 2) for each node: what acts for the node or one of its pods is in it, so that programs at its sockets
//! see it, and nothing else on the machine.
//!
//! A lab acts by threads of this process. So the cgroups are threaded ones right below the root, which is the only place
//! where that asks nothing of anybody else; a process that is elsewhere moves to the root first.

use std::{
    fs, io,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Once,
    thread,
};

use anyhow::{Context as _, Result};

use crate::cleanup;

/// Makes the cgroup of this full name. `None`: there are no cgroups of version 2 here, or no threads can be put into one.
pub(crate) fn make(name: &str) -> Option<PathBuf> {
    static AT_THE_ROOT: Once = Once::new();
    let root = cleanup::cgroup_root()?;
    AT_THE_ROOT.call_once(|| {
        // If it is not possible, entering says so.
        let _ = move_to(&root);
    });
    let path = root.join(name);
    if path.is_dir() {
        return Some(path);
    }
    match make_at(&path) {
        Ok(()) => Some(path),
        Err(error) => {
            eprintln!("no cgroup {name}: {error:#}; nothing of the lab is seen at its sockets");
            let _ = fs::remove_dir(&path);
            None
        }
    }
}

fn make_at(path: &Path) -> Result<()> {
    fs::create_dir(path).with_context(|| format!("cannot create {}", path.display()))?;
    fs::write(path.join("cgroup.type"), "threaded")
        .with_context(|| format!("{} cannot be for threads", path.display()))?;
    let tried = thread::scope(|scope| scope.spawn(|| enter(path)).join());
    tried.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Moves this process to the root of the hierarchy, unless it is there.
fn move_to(root: &Path) -> io::Result<()> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    if own.lines().any(|line| line == "0::/") {
        return Ok(());
    }
    fs::write(root.join("cgroup.procs"), "0")
}

/// Moves the calling thread into a cgroup.
pub(crate) fn enter(path: &Path) -> Result<()> {
    fs::write(path.join("cgroup.threads"), "0")
        .with_context(|| format!("cannot enter the cgroup {}", path.display()))
}
