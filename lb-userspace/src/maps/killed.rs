//! Maps whose writer is killed when a test says so: between the first and the last write of a plan, for certain.
//!
//! It ends *before* a write that it would have made: so that one was still to come, and others of the plan were made.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracing::warn;

use super::{MapError, MapStore, Table, Wrap};

/// What is written of the plan that is carried out.
#[derive(Clone, Default)]
struct Written(Arc<AtomicU64>);

/// A map that is no longer written once so much of a plan is written as the file says.
struct Killed<T: ?Sized> {
    name: &'static str,
    kills: Kills,
    inner: Box<T>,
}

#[derive(Clone)]
struct Kills {
    file: PathBuf,
    written: Written,
}

/// `store`, but while `file` is there, with a number in it, this process kills itself where so many writes of a plan are made
/// and another would follow. Beside it, what is to be called when a plan begins.
pub fn within_plan(file: PathBuf, store: MapStore) -> (MapStore, impl FnMut() + Send + use<>) {
    let written = Written::default();
    let begin = written.clone();
    let store = store.wrapped(&Kills { file, written });
    (store, move || begin.0.store(0, Ordering::Relaxed))
}

impl Kills {
    fn before_write(&self, map: &str) {
        let written = self.written.0.fetch_add(1, Ordering::Relaxed);
        if wanted(&self.file).is_some_and(|wanted| is_due(written, wanted)) {
            warn!(written, map, "a test's fault: killed within a plan");
            let _ = kill(Pid::this(), Signal::SIGKILL);
        }
    }
}

fn wanted(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Whether the end has come before the next write: never before the first.
fn is_due(written: u64, wanted: u64) -> bool {
    written >= wanted.max(1)
}

impl<K, V> Table<K, V> for Killed<dyn Table<K, V>> {
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.kills.before_write(self.name);
        self.inner.put(key, value)
    }

    fn remove(&mut self, key: &K) -> Result<(), MapError> {
        self.kills.before_write(self.name);
        self.inner.remove(key)
    }

    fn entries(&self) -> Result<Vec<(K, V)>, MapError> {
        self.inner.entries()
    }
}

impl Wrap for Kills {
    fn wrap<K: 'static, V: 'static>(
        &self,
        name: &'static str,
        inner: Box<dyn Table<K, V>>,
    ) -> Box<dyn Table<K, V>> {
        let kills = self.clone();
        Box::new(Killed { name, kills, inner })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_after_the_first_write_and_before_another() {
        for (written, wanted, due) in [
            (0, 0, false),
            (0, 1, false),
            (1, 1, true),
            (6, 7, false),
            (8, 7, true),
        ] {
            assert_eq!(is_due(written, wanted), due, "{written} of {wanted}");
        }
    }

    #[test]
    fn only_a_number_in_the_file_asks_for_it() {
        let file = std::env::temp_dir().join(format!("lb-killed-{}", std::process::id()));
        assert_eq!(wanted(&file), None);
        fs::write(&file, "12\n").unwrap();
        assert_eq!(wanted(&file), Some(12));
        fs::write(&file, "").unwrap();
        assert_eq!(wanted(&file), None);
        fs::remove_file(&file).unwrap();
    }
}
