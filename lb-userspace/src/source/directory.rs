//! The source for machines without a cluster: a directory of manifests, watched.
//!
//! Files `*.yaml`, `*.yml` and `*.json` directly in the directory count; names with a leading dot do not.
//! The directory is looked at ten times a second rather than watched with inotify: that costs microseconds,
//! and sees what inotify does not (links that are switched, as in mounted ConfigMaps; network file systems).
//! A file counts as changed once it has been at rest for a moment, so that no half-written file is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

use super::{Event, Failure, SourceStatus, Unheard, collection::Collection, manifest::parse};
use crate::{
    kubernetes::Annotations,
    model::{Change, Problem},
};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long a file must be at rest: longer than the granularity of time stamps (at most 10 ms).
const REST: Duration = Duration::from_millis(20);

/// Follows a directory until `events` is closed. Never gives up: see [`SourceStatus`] for how it fares.
pub fn spawn(folder: PathBuf, annotations: Annotations, events: mpsc::Sender<Event>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut directory = Directory {
            folder,
            annotations,
            ..Directory::default()
        };
        let mut teller = Teller {
            status: SourceStatus::default(),
            synced: false,
            events,
        };
        loop {
            let told = match directory.look().await {
                Ok(None) => teller.alive().await,
                Ok(Some(marks)) => {
                    // Files may be many and large; other tasks of this thread must not wait for them.
                    let (same, news) = spawn_blocking(move || directory.read(marks))
                        .await
                        .expect("reading manifests does not panic and is not cancelled");
                    directory = same;
                    teller.tell(news).await
                }
                Err(error) => teller.fail(&directory.folder, &error).await,
            };
            if told.is_err() {
                return;
            }
            tokio::select! {
                () = sleep(INTERVAL) => {}
                () = teller.events.closed() => return,
            }
        }
    })
}

/// Reads a directory once, as it is now: what a source would tell of it.
///
/// # Errors
/// If the directory cannot be read. (A file that cannot is told as a problem.)
pub fn read_once(folder: &Path, annotations: Annotations) -> io::Result<Vec<Change>> {
    let marks = marks(folder)?;
    let directory = Directory {
        annotations,
        ..Directory::default()
    };
    let (_, news) = directory.read(marks);
    Ok(news.changes)
}

/// The manifest files of a directory, sorted.
///
/// # Errors
/// If the directory cannot be read.
pub(super) fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(marks(folder)?.into_keys().collect())
}

/// What tells one state of a file from another: device, inode, size, time of change.
type Mark = (u64, u64, u64, i64, i64);
type Marks = BTreeMap<PathBuf, Mark>;

/// What is known of a directory.
#[derive(Default)]
struct Directory {
    folder: PathBuf,
    annotations: Annotations,
    /// The files as they were when last read; `None` before the first time.
    marks: Option<Marks>,
    collection: Collection,
}

/// What reading files brought.
struct News {
    changes: Vec<Change>,
    malformed: u64,
    ignored: u64,
}

impl Directory {
    /// The files as they are now, if that is not as they were.
    async fn look(&self) -> io::Result<Option<Marks>> {
        let first = marks(&self.folder)?;
        if self.marks.as_ref() == Some(&first) {
            return Ok(None);
        }
        sleep(REST).await;
        let second = marks(&self.folder)?;
        let nothing = Marks::new();
        let settled = settle(self.marks.as_ref().unwrap_or(&nothing), &first, &second);
        Ok((self.marks.as_ref() != Some(&settled)).then_some(settled))
    }

    /// Reads the files that are not as they were.
    fn read(mut self, marks: Marks) -> (Self, News) {
        let before = self.marks.take().unwrap_or_default();
        let mut malformed = 0;
        for path in before.keys().filter(|path| !marks.contains_key(*path)) {
            self.collection.remove(&path.display().to_string());
        }
        for (path, _) in marks
            .iter()
            .filter(|(path, mark)| before.get(*path) != Some(mark))
        {
            let name = path.display().to_string();
            let text = fs::read_to_string(path).map_err(|error| Problem {
                object: name.clone(),
                message: format!("cannot be read: {error}; mend or remove it"),
            });
            let manifest = text.and_then(|text| parse(&name, &text, &self.annotations));
            malformed += manifest
                .as_ref()
                .map_or(1, |manifest| manifest.broken.len() as u64);
            self.collection.set(&name, manifest);
        }
        self.marks = Some(marks);
        let news = News {
            changes: self.collection.changes(),
            malformed,
            ignored: self.collection.ignored(),
        };
        (self, news)
    }
}

/// The manifest files of a directory.
fn marks(folder: &Path) -> io::Result<Marks> {
    let mut marks = Marks::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let ours = path
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if hidden || !ours {
            continue;
        }
        // Follows links. A file that vanishes just now is as good as gone.
        if let Ok(meta) = fs::metadata(&path)
            && meta.is_file()
        {
            let mark = (
                meta.dev(),
                meta.ino(),
                meta.size(),
                meta.mtime(),
                meta.mtime_nsec(),
            );
            marks.insert(path, mark);
        }
    }
    Ok(marks)
}

/// Each file as two looks agree on it, or, if they do not (it is being written, or replaced in two steps),
/// as it was before.
fn settle(before: &Marks, first: &Marks, second: &Marks) -> Marks {
    let paths: BTreeSet<_> = before.keys().chain(first.keys()).chain(second.keys()).collect();
    let settled = paths.into_iter().filter_map(|path| {
        let at_rest = first.get(path) == second.get(path);
        let mark = if at_rest {
            second.get(path)
        } else {
            before.get(path)
        };
        Some((path.clone(), *mark?))
    });
    settled.collect()
}

struct Teller {
    status: SourceStatus,
    synced: bool,
    events: mpsc::Sender<Event>,
}

impl Teller {
    async fn tell(&mut self, news: News) -> Result<(), Unheard> {
        let News {
            changes,
            malformed,
            ignored,
        } = news;
        for change in changes {
            self.send(Event::Change(change)).await?;
        }
        if !self.synced {
            self.synced = true;
            self.send(Event::Synced).await?;
        }
        let mut status = self.status.clone();
        status.malformed += malformed;
        status.ignored = ignored;
        status.failures.clear();
        self.set_status(status).await
    }

    async fn alive(&mut self) -> Result<(), Unheard> {
        let mut status = self.status.clone();
        status.failures.clear();
        self.set_status(status).await
    }

    async fn fail(&mut self, folder: &Path, error: &io::Error) -> Result<(), Unheard> {
        let message = format!("cannot be read: {error}; create it, or name another");
        let mut status = self.status.clone();
        match status.failures.first_mut() {
            Some(failure) => failure.message = message,
            None => {
                let what = format!("directory {}", folder.display());
                status.failures.push(Failure {
                    what,
                    since: SystemTime::now(),
                    message,
                });
                // Counted once, not ten times a second.
                status.errors += 1;
            }
        }
        self.set_status(status).await
    }

    async fn set_status(&mut self, status: SourceStatus) -> Result<(), Unheard> {
        if self.status == status {
            return Ok(());
        }
        self.status = status.clone();
        self.send(Event::Status(status)).await
    }

    async fn send(&self, event: Event) -> Result<(), Unheard> {
        self.events.send(event).await.map_err(|_| Unheard)
    }
}

#[cfg(test)]
mod tests;
