//! Services and endpoints change all the time, by nothing that traffic may notice.
//!
//! *Input*: the states that each Service may be in. *Output*: manifests in a folder, and the same objects at an API server if there
//! is one.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{api::Mirror, random::Random};
use crate::service::Service;

/// A Service and the states it may be in; `None`: there is none.
pub(super) struct Changing {
    name: String,
    states: Vec<Option<Service>>,
    now: usize,
}

impl Changing {
    pub(super) fn new(states: Vec<Option<Service>>) -> Self {
        let name = states
            .iter()
            .flatten()
            .next()
            .map(|service| service.name().to_owned());
        Self {
            name: name.expect("it is there in some state"),
            states,
            now: 0,
        }
    }
}

/// Where Services are written.
pub(super) struct Writer {
    folder: PathBuf,
    mirror: Option<Arc<Mirror>>,
}

impl Writer {
    pub(super) fn new(folder: &Path, mirror: Option<Arc<Mirror>>) -> Self {
        Self {
            folder: folder.into(),
            mirror,
        }
    }

    /// Writes the state that a Service is in.
    pub(super) fn write(&self, changing: &Changing) {
        let path = self.folder.join(format!("{}.yaml", changing.name));
        let text = changing.states[changing.now].as_ref().map(Service::manifests);
        match &text {
            Some(text) => {
                let new = path.with_extension("new");
                fs::write(&new, text).expect("the lab's folder can be written");
                fs::rename(&new, &path).expect("the lab's folder can be written");
            }
            None => {
                let _ = fs::remove_file(&path);
            }
        }
        if let Some(mirror) = &self.mirror {
            mirror.wants(&changing.name, text);
        }
    }
}

/// Changes in the background; ends when dropped.
pub(super) struct Changes {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    began: Instant,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    made: AtomicU64,
}

impl Changes {
    /// So many changes a second.
    pub(super) fn start(mut all: Vec<Changing>, writer: Writer, mut random: Random, rate: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let began = Instant::now();
        let thread = thread::spawn(move || {
            let mut next = began;
            while !own.stop.load(Ordering::Relaxed) {
                thread::sleep(next.saturating_duration_since(Instant::now()));
                next += Duration::from_secs(1) / rate;
                let which = random.index(all.len());
                let changing = &mut all[which];
                // Another one than now.
                let other = 1 + random.index(changing.states.len() - 1);
                changing.now = (changing.now + other) % changing.states.len();
                writer.write(changing);
                own.made.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            shared,
            thread: Some(thread),
            began,
        }
    }

    /// Ends them: how many there were, and how many a second.
    pub(super) fn stop(mut self) -> (u64, f64) {
        let took = self.began.elapsed().as_secs_f64();
        self.end();
        let made = self.shared.made.load(Ordering::Relaxed);
        (made, made as f64 / took)
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.end();
    }
}
