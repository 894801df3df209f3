//! One agent per instance: a file that the running one holds locked.
//!
//! The kernel releases the lock when the process ends, however it ends.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::config::Instance;

/// How long a new agent waits for the one before it to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Held while the agent of an instance runs.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why this process may not act for an instance.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process does.
    #[error("an agent of instance `{0}` is running: stop it first, or choose another name with --instance")]
    Held(String),
    /// The file is unusable.
    #[error("cannot lock {path}: {source}; choose another directory with --run-dir")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock, waiting a little for a process that is about to end.
    pub fn take(instance: &Instance) -> Result<Self, LockError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::try_take(instance) {
                Err(LockError::Held(_)) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(50));
                }
                done => return done,
            }
        }
    }

    /// Takes the lock if nobody holds it.
    pub fn try_take(instance: &Instance) -> Result<Self, LockError> {
        let path = instance.directory().join("lock");
        let failed = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(instance.directory()).map_err(failed)?;
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held(instance.name.clone())),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Whether a process holds the lock.
    #[must_use]
    pub fn is_held(instance: &Instance) -> bool {
        File::open(instance.directory().join("lock"))
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_process_acts_for_an_instance_and_others_can_tell() {
        let run_dir = std::env::temp_dir().join(format!("lb-lock-{}", std::process::id()));
        let instance = Instance {
            name: "lb".into(),
            bpffs: PathBuf::new(),
            run_dir: run_dir.clone(),
        };
        assert!(!Lock::is_held(&instance));
        let lock = Lock::try_take(&instance).unwrap();
        assert!(Lock::is_held(&instance));
        assert!(matches!(Lock::try_take(&instance), Err(LockError::Held(_))));
        drop(lock);
        assert!(!Lock::is_held(&instance));
        Lock::take(&instance).unwrap();
        fs::remove_dir_all(run_dir).unwrap();
    }
}
