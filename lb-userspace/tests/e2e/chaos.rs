//! Agents are killed, restarted and upgraded in the middle of changes, and no traffic notices.
//!
//! `cargo xtask chaos` runs all of it (`docs/chaos.md`); the test runs a dozen events with less traffic.

mod api;
mod changes;
mod events;
mod judge;
mod random;
mod runner;
mod traffic;
mod ways;

use std::{
    collections::BTreeMap,
    env,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use lb_lab::{Netfilter, Topology};

use self::{
    api::Server,
    changes::{Changes, Changing, Writer},
    judge::{Diary, Outcome},
    random::Random,
    runner::{FOLLOWER, Runner},
    traffic::Traffic,
    ways::Way,
};
use crate::cluster::{Cluster, possible};

/// Services that nobody asks, which come and go.
const BYSTANDERS: u16 = 24;

/// How much there is of everything.
struct Size {
    /// Connections that are held.
    held: usize,
    /// New connections a second.
    connections: u32,
    /// Sockets with numbered datagrams, and how many a second each sends.
    numbered: usize,
    datagrams_a_second: u32,
    /// Exchanges of one datagram a second, each from a new socket.
    datagrams: u32,
    /// Changes a second.
    changes: u32,
    events: usize,
    /// Which part of what is counted by the second must be reached, by a machine that has other things to do.
    part: f64,
}

/// What the issue asks for, and a little more of what is counted by the second.
const FULL: Size = Size {
    held: 1000,
    connections: 220,
    numbered: 64,
    datagrams_a_second: 5,
    datagrams: 40,
    changes: 22,
    events: 200,
    part: 20.0 / 22.0,
};

/// Enough to find what is often wrong.
const SHORT: Size = Size {
    held: 100,
    connections: 50,
    numbered: 16,
    datagrams_a_second: 5,
    datagrams: 16,
    changes: 20,
    events: 12,
    part: 0.25,
};

impl Size {
    fn from_env() -> Self {
        let size = if env::var("LB_CHAOS_FULL").is_ok() {
            FULL
        } else {
            SHORT
        };
        let events = env::var("LB_CHAOS_EVENTS")
            .ok()
            .and_then(|events| events.parse().ok());
        Self {
            events: events.unwrap_or(size.events),
            ..size
        }
    }

    fn least_changes(&self) -> f64 {
        f64::from(self.changes) * self.part
    }

    fn least_connections(&self) -> f64 {
        f64::from(self.connections) * self.part
    }
}

/// The seed that was asked for, or one that nobody knows yet.
fn seed() -> u64 {
    let asked = env::var("LB_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |now| now.as_millis() as u64)
    };
    asked.unwrap_or_else(now)
}

#[test]
fn nobody_notices_what_happens_to_agents_as_root() {
    if !possible("nobody_notices_what_happens_to_agents_as_root") {
        return;
    }
    let (size, seed) = (Size::from_env(), seed());
    eprintln!("chaos: seed {seed}");
    let mut random = Random::new(seed);
    let topology = Topology::cluster(2, 3).netfilter(Netfilter::Iptables).xdp();
    let mut cluster = Cluster::by("tc", topology, &[]);
    let node = cluster.lab.topology().nodes[FOLLOWER].name.clone();
    let server = Server::start(&cluster.lab, &node);
    if server.is_none() {
        lb_lab::skip(&format!(
            "chaos without an API server: {}",
            lb_cases::apiserver::NONE_FOUND
        ));
    }
    let writer = Writer::new(
        cluster.manifests(),
        server.as_ref().map(|server| server.mirror.clone()),
    );
    let mut all: Vec<_> = ways::services(&cluster.lab)
        .into_iter()
        .map(|states| Changing::new(states.into_iter().map(Some).collect()))
        .collect();
    all.iter().for_each(|changing| writer.write(changing));
    all.extend((0..BYSTANDERS).map(|number| Changing::new(ways::bystander(&cluster.lab, number))));
    let mut runner = Runner::new(&mut cluster, server);
    cluster
        .lab
        .steer("client", "node1")
        .expect("the client can be steered");
    let ways = Way::all(&cluster);
    for way in &ways {
        cluster.eventually(way.from, way.proto, way.to, 2, lb_lab::Shares::all_answered);
    }
    let events = events::draw(&mut random, size.events, runner.nodes(), |kind| runner.can(kind));
    let traffic = Traffic::start(&cluster, &ways, &size);
    let changes = Changes::start(all, writer, random, size.changes);

    let (mut diary, mut wanted, mut happened) = (Diary::default(), BTreeMap::new(), BTreeMap::new());
    let began = Instant::now();
    for (number, event) in (1..).zip(&events) {
        diary.note(number, event);
        let made = runner.make(&mut cluster, event);
        *wanted.entry(event.kind).or_insert(0) += 1;
        *happened.entry(event.kind).or_insert(0) += usize::from(made.done);
        eprintln!(
            "{number:>4} of {} at {:4.0} s: {event}{}; away {:.2} s, serving after {:.2} s; {} failures so far",
            events.len(),
            began.elapsed().as_secs_f64(),
            if !made.done { " (could not be done)" } else { "" },
            made.away.as_secs_f64(),
            made.up.as_secs_f64(),
            traffic.failures(),
        );
    }
    let seconds = began.elapsed().as_secs_f64();
    let mirrored = runner.has_server().then(|| runner.taken());
    let changes = changes.stop();
    for node in 0..runner.nodes() {
        cluster.eventually_status(node, "everything is live", |status| {
            status["generation"] == status["generation_live"]
        });
    }
    let (amounts, wrongs, drops) = traffic.stop(&cluster);
    Outcome {
        size: &size,
        seed,
        seconds,
        amounts,
        wrongs,
        drops,
        changes,
        mirrored,
        wanted,
        happened,
        diary,
    }
    .judge();
}
