//! Traffic of every kind by every way, and what went wrong with it.
//!
//! Held connections and numbered datagrams are each looked after by one thread (`lb_lab::Crowd`); every way has a thread that makes
//! new connections, or exchanges single datagrams, at a steady pace.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use lb_lab::{Crowd, Echoing, Failure, Fault, Options, Outcome, Place, Proto};

use super::{Size, ways::Way};
use crate::{cluster::Cluster, drops::Drops};

/// How often a held connection, and a socket with numbered datagrams, has its turn.
const TURN: Duration = Duration::from_secs(1);
/// How long a new connection may take: three repetitions of its first segment.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the first answer may take while the lab is filled.
const MEET: Duration = Duration::from_secs(20);

/// What must not happen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Harm {
    /// A held connection broke, or stands still.
    Reset,
    /// A new connection failed.
    Connect,
    /// A datagram was not answered, or was refused.
    Datagram,
    /// A backend saw another client than it must.
    Source,
    /// Something else came back than what was asked for.
    Bytes,
}

/// A harm that was done.
#[derive(Clone, Debug)]
pub(super) struct Wrong {
    pub(super) harm: Harm,
    /// By which way, and between whom.
    pub(super) way: String,
    pub(super) what: String,
    /// Nothing was heard: the kernel may have thrown it away.
    pub(super) silent: bool,
    /// From when on it may have been done.
    pub(super) since: Instant,
    /// When it was noticed.
    pub(super) at: Instant,
}

/// What there was.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Amounts {
    /// Connections held, and numbers that came back on them.
    pub(super) held: usize,
    pub(super) echoes: u64,
    /// New connections.
    pub(super) connections: u64,
    /// Datagrams sent.
    pub(super) datagrams: u64,
}

/// All of it; ends when dropped.
pub(super) struct Traffic {
    held: Crowd,
    held_names: Vec<String>,
    numbered: Crowd,
    numbered_names: Vec<String>,
    new: Arc<New>,
    threads: Vec<JoinHandle<()>>,
    drops: Drops,
}

#[derive(Default)]
struct New {
    stop: AtomicBool,
    connections: AtomicU64,
    datagrams: AtomicU64,
    wrongs: Mutex<Vec<Wrong>>,
}

impl New {
    fn add(&self, wrong: Wrong) {
        self.wrongs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(wrong);
    }
}

impl Traffic {
    /// Opens the connections, and starts.
    pub(super) fn start(cluster: &Cluster, ways: &[Way], size: &Size) -> Self {
        let place = |way: &Way| cluster.lab.at(way.from).expect("it is there");
        let of = |proto| -> Vec<_> { ways.iter().filter(|way| way.proto == proto).cloned().collect() };
        let (tcp, udp) = (of(Proto::Tcp), of(Proto::Udp));
        let new = Arc::new(New::default());
        let met = |way: &Way, answer: &lb_lab::Answer, local| {
            let name = format!("{}, {local:?} at {} {}", way.name(), answer.name, answer.local);
            if let Err(what) = way.judge(answer) {
                new.add(Wrong::now(Harm::Source, &name, what));
            }
            name
        };
        let (mut held, mut held_names) = (Vec::new(), Vec::new());
        for way in tcp.iter().cycle().take(size.held) {
            let one = place(way).hold(way.to, &Options::within(MEET));
            let one =
                one.unwrap_or_else(|error| panic!("{}: {error:#}\n{}", way.name(), cluster.diagnosis()));
            held_names.push(met(way, one.by(), one.local().ok()));
            held.push(Echoing::new(one).expect("a socket can be told not to block"));
        }
        let (mut numbered, mut numbered_names) = (Vec::new(), Vec::new());
        for way in udp.iter().cycle().take(size.numbered) {
            let mut one = place(way).numbered(way.to).expect("a socket can be opened");
            let answer = one.meet(MEET);
            let answer =
                answer.unwrap_or_else(|error| panic!("{}: {error:#}\n{}", way.name(), cluster.diagnosis()));
            numbered_names.push(met(way, &answer, one.local().ok()));
            numbered.push(one);
        }
        let mut threads = Vec::new();
        for (ways, rate) in [(&tcp, size.connections), (&udp, size.datagrams)] {
            let between = Duration::from_secs(ways.len() as u64) / rate;
            for (number, way) in (0..).zip(ways) {
                // Not all at the same moment.
                let first = Instant::now() + between * number / ways.len() as u32;
                let (new, place, way) = (Arc::clone(&new), place(way).clone(), way.clone());
                threads.push(thread::spawn(move || ask(&new, &place, &way, first, between)));
            }
        }
        Self {
            held: Crowd::start(held, TURN),
            held_names,
            numbered: Crowd::start(numbered, TURN / size.datagrams_a_second),
            numbered_names,
            new,
            threads,
            drops: Drops::now(cluster),
        }
    }

    /// How much of it there was so far.
    pub(super) fn amounts(&self) -> Amounts {
        let (_, echoes, _) = self.held.counts();
        let (numbered, _, _) = self.numbered.counts();
        Amounts {
            held: self.held_names.len(),
            echoes,
            connections: self.new.connections.load(Ordering::Relaxed),
            datagrams: numbered + self.new.datagrams.load(Ordering::Relaxed),
        }
    }

    /// How much went wrong so far.
    pub(super) fn failures(&self) -> usize {
        let new = self
            .new
            .wrongs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        new + self.held.counts().2 + self.numbered.counts().2
    }

    /// Ends it: what there was, what went wrong, and what the kernel itself threw away meanwhile.
    pub(super) fn stop(mut self, cluster: &Cluster) -> (Amounts, Vec<Wrong>, Drops) {
        self.new.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| {
            let _ = thread.join();
        });
        let amounts = self.amounts();
        let Self {
            held,
            held_names,
            numbered,
            numbered_names,
            new,
            threads: _,
            drops,
        } = self;
        let mut wrongs = new.wrongs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let of = |failure: Failure, names: &[String], harm| Wrong {
            harm,
            way: names[failure.member].clone(),
            what: format!("{:?}: {}", failure.fault, failure.what),
            silent: failure.fault == Fault::Lost,
            since: failure.since,
            at: failure.at,
        };
        for failure in held.stop().failures {
            let harm = match failure.fault {
                Fault::Wrong => Harm::Bytes,
                _ => Harm::Reset,
            };
            wrongs.push(of(failure, &held_names, harm));
        }
        for failure in numbered.stop().failures {
            let harm = match failure.fault {
                Fault::Wrong => Harm::Bytes,
                _ => Harm::Datagram,
            };
            wrongs.push(of(failure, &numbered_names, harm));
        }
        wrongs.sort_by_key(|wrong| wrong.at);
        (amounts, wrongs, drops.since(cluster))
    }
}

impl Wrong {
    fn now(harm: Harm, way: &str, what: String) -> Self {
        let now = Instant::now();
        Self {
            harm,
            way: way.into(),
            what,
            silent: false,
            since: now,
            at: now,
        }
    }
}

/// Asks at a steady pace until it is over. Behind schedule, one follows the other at once.
fn ask(new: &New, place: &Place, way: &Way, mut next: Instant, between: Duration) {
    let (counter, harm) = match way.proto {
        Proto::Tcp => (&new.connections, Harm::Connect),
        Proto::Udp => (&new.datagrams, Harm::Datagram),
    };
    while !new.stop.load(Ordering::Relaxed) {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        next += between;
        let since = Instant::now();
        let outcome = place
            .connect(way.proto, way.to, &Options::within(CONNECT))
            .expect("an attempt can be made");
        counter.fetch_add(1, Ordering::Relaxed);
        let (harm, what) = match &outcome {
            Outcome::Answered(answer) => match way.judge(answer) {
                Ok(()) => continue,
                Err(what) => (Harm::Source, what),
            },
            Outcome::Garbled(_) => (Harm::Bytes, outcome.to_string()),
            _ => (harm, outcome.to_string()),
        };
        new.add(Wrong {
            since,
            silent: outcome == Outcome::Silent,
            ..Wrong::now(harm, way.name(), what)
        });
    }
}
