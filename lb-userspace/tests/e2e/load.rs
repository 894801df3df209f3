//! Load that goes on while something changes: connections that are held, and a loop of new ones.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use lb_lab::{Held, Lab, Options, Place, Proto, Shares, Stream};

use crate::{cluster::Cluster, drops::Drops};

/// How long a connection's echo may take.
const ECHO: Duration = Duration::from_secs(10);
/// How long streams may need to go on.
const STALLED: Duration = Duration::from_secs(30);
/// Pause between two attempts of a loop: a few hundred a second are load enough for two cores.
const PAUSE: Duration = Duration::from_millis(3);

/// Established connections, of which none may move or break.
pub(crate) struct Connections(Vec<(String, Held)>);

impl Connections {
    /// Opens `n` connections for each of these clients and destinations.
    pub(crate) fn open(cluster: &Cluster, ways: &[(&str, SocketAddr)], n: usize) -> Self {
        let mut all = Vec::new();
        for (from, to) in ways {
            for number in 0..n {
                let place = cluster.lab.at(from).expect("the place is there");
                let what = format!("connection {number} from {from} to {to}");
                match place.hold(*to, &Options::default()) {
                    Ok(held) => all.push((what, held)),
                    Err(error) => panic!("{what}: {error:#}\n{}", cluster.diagnosis()),
                }
            }
        }
        Self(all)
    }

    /// Each of them still brings bytes there and back.
    #[track_caller]
    pub(crate) fn assert_alive(&mut self, cluster: &Cluster, when: &str) {
        let failures: Vec<_> = self
            .0
            .iter_mut()
            .filter_map(|(what, held)| {
                let error = held.echo(ECHO).err()?;
                Some(format!("{what} at {}: {error}", held.by().name))
            })
            .collect();
        assert!(
            failures.is_empty(),
            "{when}: {} of {} broke:\n{}\n{}",
            failures.len(),
            self.0.len(),
            failures.join("\n"),
            cluster.diagnosis()
        );
    }

    /// Each of them is told at once that it is over: an answer, not silence.
    #[track_caller]
    pub(crate) fn assert_reset(&mut self, cluster: &Cluster, when: &str) {
        for (what, held) in &mut self.0 {
            let echo = held.echo(ECHO);
            let told = echo.as_ref().is_err_and(|error| {
                matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                )
            });
            assert!(told, "{when}: {what}: {echo:?}\n{}", cluster.diagnosis());
        }
    }

    /// How many of them are with a backend.
    pub(crate) fn with(&self, name: &str) -> usize {
        self.0.iter().filter(|(_, held)| held.by().name == name).count()
    }
}

/// Connects again and again until it is stopped.
pub(crate) struct Hammer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    shares: Mutex<Shares>,
}

impl Hammer {
    /// Starts to connect from a place.
    pub(crate) fn start(lab: &Lab, from: &str, proto: Proto, to: SocketAddr) -> Self {
        let place: Place = lab.at(from).expect("the place is there").clone();
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while !own.stop.load(Ordering::Relaxed) {
                let outcome = place
                    .connect(proto, to, &Options::default())
                    .expect("an attempt can be made");
                own.shares
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .add(&outcome);
                thread::park_timeout(PAUSE);
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Waits until so many more have been tried.
    pub(crate) fn wait_for(&self, more: u32) {
        let wanted = self.attempts() + more;
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.attempts() < wanted {
            assert!(
                Instant::now() < deadline,
                "the loop of connections stands still: {}",
                self.shared.shares.lock().unwrap_or_else(PoisonError::into_inner)
            );
            thread::park_timeout(PAUSE);
        }
    }

    fn attempts(&self) -> u32 {
        self.shared
            .shares
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .attempts
    }

    /// Ends the loop: what came of it.
    pub(crate) fn stop(mut self) -> Shares {
        self.end();
        self.shared
            .shares
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        self.end();
    }
}

/// Several loops, of which no connection may fail.
pub(crate) struct Hammers(Vec<(String, Hammer)>);

impl Hammers {
    /// A loop over TCP for each of these clients and destinations.
    pub(crate) fn start(cluster: &Cluster, ways: &[(&str, SocketAddr)]) -> Self {
        let start = |(from, to): &(&str, SocketAddr)| {
            (
                format!("{from} to {to}"),
                Hammer::start(&cluster.lab, from, Proto::Tcp, *to),
            )
        };
        Self(ways.iter().map(start).collect())
    }

    /// Waits until each has tried so many more.
    pub(crate) fn wait_for(&self, more: u32) {
        self.0.iter().for_each(|(_, hammer)| hammer.wait_for(more));
    }

    /// Ends them: every connection was answered. How many there were.
    #[track_caller]
    pub(crate) fn assert_no_failure(self, cluster: &Cluster) -> u32 {
        let mut attempts = 0;
        for (what, hammer) in self.0 {
            let shares = hammer.stop();
            assert!(shares.all_answered(), "{what}: {shares}\n{}", cluster.diagnosis());
            attempts += shares.attempts;
        }
        attempts
    }
}

/// Numbered datagrams from many sockets, of which none may be lost.
pub(crate) struct Datagrams(Vec<(String, Stream)>, Drops);

impl Datagrams {
    /// `n` sockets for each of these clients and destinations, each with so many datagrams a second.
    pub(crate) fn start(cluster: &Cluster, ways: &[(&str, SocketAddr)], n: usize, rate: u32) -> Self {
        let all = ways.iter().flat_map(|(from, to)| {
            let place = cluster.lab.at(from).expect("the place is there");
            (0..n).map(move |number| {
                let stream = place.stream_datagrams(*to, rate).expect("datagrams can be sent");
                (format!("datagrams {number} from {from} to {to}"), stream)
            })
        });
        Self(all.collect(), Drops::now(cluster))
    }

    /// Waits until each stream has got so many more answers.
    #[track_caller]
    pub(crate) fn wait_for(&self, more: u64, cluster: &Cluster) {
        for (what, stream) in &self.0 {
            if let Err(error) = stream.wait_for_more(more, STALLED) {
                panic!("{what}: {error:#}\n{}", cluster.diagnosis());
            }
        }
    }

    /// Ends them: how many were sent. Every one was answered, each socket's by one backend; but for those that the
    /// kernel itself says that it had no room for.
    #[track_caller]
    pub(crate) fn assert_none_lost(self, cluster: &Cluster) -> u64 {
        let Self(streams, drops) = self;
        let (mut sent, mut lost, mut said) = (0, 0, String::new());
        for (what, stream) in streams {
            let report = stream.stop();
            assert!(
                report.refused == 0 && report.by.len() == 1 && report.error.is_none(),
                "{what}: {report:?}\n{}",
                cluster.diagnosis()
            );
            sent += report.sent;
            if report.lost() > 0 {
                lost += report.lost();
                said += &format!("{what}: {} of {} lost\n", report.lost(), report.sent);
            }
        }
        let drops = drops.since(cluster);
        let told = format!("{lost} of {sent} datagrams lost; the kernel dropped {drops}");
        eprintln!("{told}");
        assert!(lost <= drops.total(), "{told}\n{said}{}", cluster.diagnosis());
        sent
    }
}

/// A stream of datagrams from one socket: all were answered, and by one backend only.
#[track_caller]
pub(crate) fn assert_stayed(stream: Stream, what: &str) {
    let report = stream.stop();
    assert!(
        report.lost() == 0 && report.refused == 0 && report.by.len() == 1 && report.error.is_none(),
        "{what}: {report:?}"
    );
}
