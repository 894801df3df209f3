//! Names of what a lab leaves on the machine, and its removal: at the end, on a signal, and after a crash.
//!
//! Everything is named `TAGpid-start-number-name`: pid and start time tell whether the owner still lives, so
//! that labs of other processes are never touched.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::exit,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{lab, netns};

/// Where eBPF objects are pinned.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";
/// The file in a lab's folder that lists processes meant to live on, as `pid start-time` lines.
pub(crate) const PIDS: &str = "pids";

/// A prefix that no other lab on this machine has.
pub(crate) fn new_prefix(tag: &str) -> Result<String> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let start = start_time(pid).context("cannot read /proc/self/stat")?;
    Ok(format!(
        "{tag}{pid}-{start}-{}-",
        COUNTER.fetch_add(1, Ordering::Relaxed)
    ))
}

/// When a process started, in clock ticks since boot; nothing if there is none.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may contain anything: count from behind it. Start time is field 22.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The lab's folder for logs.
pub(crate) fn folder(prefix: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{prefix}files"))
}

/// Mount point of the cgroup v2 hierarchy.
pub(crate) fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|l| {
        l.split_once(" - ")
            .is_some_and(|(_, fs)| fs.starts_with("cgroup2 "))
    })?;
    line.split_whitespace().nth(4).map(PathBuf::from)
}

/// Removes whatever carries this prefix. Never stops at a failure: the rest must go as well.
pub(crate) fn remove(prefix: &str, with_folder: bool) {
    for pins in entries(Path::new(BPFFS), prefix) {
        report(&pins, fs::remove_dir_all(&pins));
    }
    let commands: String = netns::list(prefix)
        .iter()
        .map(|name| format!("netns del {name}\n"))
        .collect();
    if !commands.is_empty()
        && let Err(error) = netns::ip_batch(&["-force"], &commands)
    {
        eprintln!("cannot remove the lab {prefix}*: {error:#}");
    }
    for cgroup in cgroup_root().iter().flat_map(|root| entries(root, prefix)) {
        report(&cgroup, remove_cgroup(&cgroup));
    }
    let folder = folder(prefix);
    if with_folder && folder.exists() {
        report(&folder, fs::remove_dir_all(&folder));
    }
}

/// A cgroup's files cannot be deleted, only the folders, innermost first.
fn remove_cgroup(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    for _ in 0..CGROUP_ATTEMPTS {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                // What a thread of the node has started may outlive the lab; a thread may be on its way out.
                move_out(path);
                thread::sleep(CGROUP_PAUSE);
            }
            done => return done,
        }
    }
    fs::remove_dir(path)
}

/// Has what is in a cgroup be in the root's from now on.
fn move_out(path: &Path) {
    let threads = fs::read_to_string(path.join("cgroup.threads")).unwrap_or_default();
    for (root, thread) in cgroup_root()
        .iter()
        .flat_map(|root| threads.lines().map(move |t| (root, t)))
    {
        let _ = fs::write(root.join("cgroup.threads"), thread); // it may have ended meanwhile
    }
}

const CGROUP_ATTEMPTS: usize = 40;
const CGROUP_PAUSE: Duration = Duration::from_millis(25);

fn report(path: &Path, result: std::io::Result<()>) {
    if let Err(error) = result {
        eprintln!("cannot remove {}: {error}", path.display());
    }
}

fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let named = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with(prefix))
    };
    entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(named)
        .collect()
}

/// Removes the labs with this tag whose process has ended, and processes that were meant to outlive it.
/// Returns how many labs there were.
pub(crate) fn destroy_leftovers(tag: &str) -> usize {
    let paths = entries(Path::new(BPFFS), tag)
        .into_iter()
        .chain(entries(&std::env::temp_dir(), tag));
    let cgroups = cgroup_root().map(|root| entries(&root, tag)).unwrap_or_default();
    let names = paths
        .chain(cgroups)
        .filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    let prefixes: BTreeSet<String> = names
        .chain(netns::list(tag))
        .filter_map(|name| abandoned_prefix(&name, tag))
        .collect();
    for prefix in &prefixes {
        for pid in survivors(prefix) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        remove(prefix, true);
    }
    prefixes.len()
}

/// The prefix part of a name that a lab gave, if the lab's process is gone.
fn abandoned_prefix(name: &str, tag: &str) -> Option<String> {
    let mut parts = name.strip_prefix(tag)?.splitn(4, '-');
    let (pid, start, number) = (parts.next()?, parts.next()?, parts.next()?);
    let (owner, started): (u32, u64) = (pid.parse().ok()?, start.parse().ok()?);
    let _: u32 = number.parse().ok()?;
    (start_time(owner) != Some(started)).then(|| format!("{tag}{pid}-{start}-{number}-"))
}

/// Processes of an abandoned lab that still run; the start time guards against ids given to others since.
fn survivors(prefix: &str) -> Vec<Pid> {
    let list = fs::read_to_string(folder(prefix).join(PIDS)).unwrap_or_default();
    let running = |line: &str| {
        let (pid, start) = line.split_once(' ')?;
        let pid: u32 = pid.parse().ok()?;
        (start_time(pid) == start.parse().ok()).then(|| i32::try_from(pid).ok().map(Pid::from_raw))?
    };
    list.lines().filter_map(running).collect()
}

/// All labs of this process.
static LIVE: Mutex<Vec<Weak<lab::Inner>>> = Mutex::new(Vec::new());

/// Held for reading while a lab is made: a signal waits until it can be removed as a whole.
static BUILDING: RwLock<()> = RwLock::new(());

/// To be held until [`register`] was called.
pub(crate) fn building() -> RwLockReadGuard<'static, ()> {
    BUILDING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers a lab for [`on_signal`].
pub(crate) fn register(lab: &Arc<lab::Inner>) {
    let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    live.retain(|lab| lab.strong_count() > 0);
    live.push(Arc::downgrade(lab));
}

/// From now on Ctrl-C, SIGTERM and SIGHUP remove all labs of this process before it ends.
pub fn on_signal() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot catch signals")?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let _no_more = BUILDING.write().unwrap_or_else(PoisonError::into_inner);
            let labs = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
            labs.iter()
                .filter_map(Weak::upgrade)
                .for_each(|lab| lab.tear_down());
            // What a shell reports for a process that a signal ended.
            exit(128 + signal);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ended_processes_are_abandoned() {
        let pid = std::process::id();
        let start = start_time(pid).unwrap();
        for (name, prefix, what) in [
            (format!("lbx{pid}-{start}-0-node1"), None, "this process lives"),
            (
                format!("lbx{pid}-{}-0-node1", start + 1),
                Some(format!("lbx{pid}-{}-0-", start + 1)),
                "id used again",
            ),
            (
                "lbx4194305-1-7-a-b".into(),
                Some("lbx4194305-1-7-".into()),
                "no such process",
            ),
            ("lbx-something-else".into(), None, "not named by a lab"),
            ("other1-2-3-x".into(), None, "another tag"),
        ] {
            assert_eq!(abandoned_prefix(&name, "lbx"), prefix, "{what}");
        }
    }
}
