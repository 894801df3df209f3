//! Random worlds: Kubernetes objects through the real conversion, model, planner and map writer into the real maps of
//! the loaded programs; packets through the programs by `BPF_PROG_TEST_RUN`; what becomes of them is
//! compared with an independent reading of what a service proxy must do.
//!
//! [`generate`] makes worlds, [`agent`] serves them, [`journey`] sends packets, [`oracle`] knows the right answers,
//! [`trial`] compares, [`shrink`] makes a failing world small. `cargo xtask worlds` runs as many as it is told.

mod agent;
mod cluster;
mod generate;
mod journey;
mod kernel;
mod node;
mod oracle;
mod places;
mod probe;
mod report;
mod shrink;
mod trial;

use std::{
    env, panic,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use lb_lab::skip;
use lb_userspace::load::embedded;

use crate::{
    report::Report,
    trial::{Bench, Questions},
};

/// Worlds, unless the environment says otherwise.
const COUNT: u64 = 300;
/// A failure is shown in full, and the rest would look alike.
const FAILURES: usize = 3;

fn setting(name: &str, default: u64) -> u64 {
    match env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|error| panic!("{name}={text}: {error}")),
        Err(_) => default,
    }
}

#[test]
fn random_worlds_are_served_as_the_semantics_say() {
    match embedded() {
        Ok(_) if !nix::unistd::geteuid().is_root() => return skip("random worlds: needs root"),
        Ok(_) => {}
        Err(error) => return skip(&format!("random worlds: {error}")),
    }
    let (count, first) = (setting("LB_WORLDS_COUNT", COUNT), setting("LB_WORLDS_SEED", 1));
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let threads = threads.min(count.div_ceil(100)).max(1);
    eprintln!(
        "worlds {first} to {} (each is its seed)",
        first + count.max(1) - 1
    );
    let report = Mutex::new(Report::new(first, count));
    // Namespaces belong to threads and end with them.
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn({
                    let report = &report;
                    move || work(report, (first + thread..first + count).step_by(threads as usize))
                })
            })
            .collect();
        for thread in running {
            if let Err(failure) = thread.join() {
                panic::resume_unwind(failure);
            }
        }
    });
    let report = report.into_inner().expect("threads that panic end the test");
    report.finish();
}

fn work(report: &Mutex<Report>, seeds: impl Iterator<Item = u64>) {
    let mut bench = Bench::new();
    let mut shown = Instant::now();
    for seed in seeds {
        let world = generate::world(seed);
        let mut tally = trial::Tally::new();
        let result = bench.try_world(&world, &Questions::Sample, &mut tally);
        let failure = result
            .err()
            .map(|failure| shrink::shrink(&mut bench, world, failure));
        let mut report = report.lock().expect("threads that panic end the test");
        report.add(seed, tally, failure);
        report.packets += bench.take_packets();
        if report.failures() >= FAILURES {
            return;
        }
        if shown.elapsed() > Duration::from_secs(10) {
            shown = Instant::now();
            eprintln!("{}", report.progress());
        }
    }
}
