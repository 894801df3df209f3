//! How long `lb-agent explain` takes on a node that serves many Services.
//!
//! The time is that of the whole process, from its start to its end: all of our own work (the status, the maps, the
//! kernel's routes, the decision, remedies, the text), and what it takes to start a program. Nobody is looked up by name.
//! Judged are the processor's time, of all threads and of the kernel for them, and the fastest round by the clock: others
//! use the machine too.

use std::{
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};
use serde_json::{Value, json};

use super::{SERVICES, agent, agent::Served, check};
use crate::document::Document;

/// Milliseconds.
const OWN_TIME: f64 = 50.0;
/// Times that each question is asked.
const ROUNDS: usize = 21;
/// How long the agent may take to set its routes.
const ROUTED: Duration = Duration::from_secs(60);
/// A Service with policy Local, and no endpoint on the node.
const LOCAL: &str = "10.95.0.1";

/// What is asked, and the verdict that there must be.
const QUESTIONS: [(&str, &str, &str, &str); 4] = [
    (
        "a Service by its name",
        "node/node-0",
        "service/bench/service-9999:80",
        "forwarded",
    ),
    (
        "the cost of another source",
        "203.0.113.7",
        "10.96.0.1:80",
        "forwarded",
    ),
    ("a remedy that is tried", "node/node-0", "10.95.0.1:80", "dropped"),
    ("nothing of ours", "203.0.113.7", "198.51.100.1:80", "passed"),
];

/// Starts the agent, waits until it serves everything, and asks.
pub(super) fn measure(program: &Path, document: &mut Document) -> Result<()> {
    let asked = agent::served(program, &local(), |served| {
        let times = QUESTIONS.iter().map(|(what, from, to, verdict)| {
            let times = ask(served, from, to, verdict).with_context(|| (*what).to_owned())?;
            Ok((*what, times))
        });
        times.collect::<Result<Vec<_>>>()
    })?;
    let (mut processor, mut clock): (f64, f64) = (0.0, 0.0);
    for (what, times) in asked {
        let used = sorted(times.iter().map(|time| time.processor));
        let taken = sorted(times.iter().map(|time| time.clock));
        let middle = ROUNDS / 2;
        processor = processor.max(used[middle]);
        clock = clock.max(taken[0]);
        document.table.push(format!(
            "explain among {SERVICES} Services, {what}: {:.1} ms of processor time (median of {ROUNDS}), by the clock {:.1} ms \
             (median {:.1}, worst {:.1})",
            used[middle],
            taken[0],
            taken[middle],
            taken[ROUNDS - 1]
        ));
    }
    check(
        document,
        "explain.own-time".into(),
        format!("<= {OWN_TIME} ms"),
        format!(
            "{processor:.1} ms of processor time, {clock:.1} ms by the clock (the slowest of {} questions)",
            QUESTIONS.len()
        ),
        processor.max(clock) <= OWN_TIME,
    );
    Ok(())
}

/// What one answer took.
#[derive(Clone, Copy)]
struct Time {
    processor: Duration,
    clock: Duration,
}

/// Milliseconds, the shortest first.
fn sorted(times: impl Iterator<Item = Duration>) -> Vec<f64> {
    let mut all: Vec<_> = times.map(|time| time.as_secs_f64() * 1e3).collect();
    all.sort_by(f64::total_cmp);
    all
}

/// Processor time of all children that have ended.
fn children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = [usage.user_time(), usage.system_time()].map(|time| time.num_microseconds());
    Ok(Duration::from_micros(micros.iter().sum::<i64>().unsigned_abs()))
}

/// How long the answer takes, each time.
fn ask(served: &Served<'_>, from: &str, to: &str, verdict: &str) -> Result<Vec<Time>> {
    let mut times = Vec::new();
    let first = Instant::now();
    while times.len() < ROUNDS {
        let mut command = Command::new(served.program);
        command.args(["explain", "--from", from, "--to", to, "-o", "json"]);
        command.args(&served.instance);
        let (before, start) = (children()?, Instant::now());
        let output = command.output()?;
        times.push(Time {
            clock: start.elapsed(),
            processor: children()? - before,
        });
        let answers: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let as_it_must_be = answers[0]["verdict"] == verdict;
        // Maps are live before the last of ten thousand routes into lb0 is.
        if !as_it_must_be && first.elapsed() < ROUTED {
            times.clear();
            thread::sleep(Duration::from_millis(100));
            continue;
        }
        ensure!(
            as_it_must_be,
            "{from} to {to} is not {verdict}, but {answers:#} {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(times)
}

/// The Service [`LOCAL`], with an endpoint on another node.
fn local() -> [Value; 2] {
    [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "bench", "name": "local"},
            "spec": {
                "type": "ClusterIP", "clusterIP": LOCAL, "clusterIPs": [LOCAL], "ipFamilies": ["IPv4"],
                "internalTrafficPolicy": "Local",
                "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": "bench", "name": "local-a", "labels": {"kubernetes.io/service-name": "local"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
            "endpoints": [{"addresses": ["10.127.0.1"], "nodeName": "node-1", "conditions": {"ready": true}}],
        }),
    ]
}
