//! What lookup tables cost: time to fill one, and memory.

use std::{hint::black_box, time::Instant};

use lb_common::{
    abi::Rows,
    maglev::{Preference, elements_for, fill, size_for},
};

use crate::document::{Check, Document};

/// Backends, milliseconds.
const TARGETS: [(u32, f64); 2] = [(100, 1.0), (655, 5.0)];
/// Bytes of a three-backend Service's table.
const SMALL: usize = 2048;

/// Measures them.
pub(crate) fn measure(rounds: usize, document: &mut Document) {
    for (backends, limit) in TARGETS {
        let rows = size_for(backends);
        let times = (0..rounds.max(1)).map(|_| milliseconds(backends, rows));
        let best = times.fold(f64::INFINITY, f64::min);
        let id = format!("maglev-{backends}-backends-{rows}-rows");
        check(
            document,
            id,
            format!("<= {limit} ms"),
            format!("{best:.2} ms"),
            best <= limit,
        );
    }
    let bytes = elements_for(size_for(3)) as usize * size_of::<Rows>();
    let id = "maglev-3-backends-memory".to_owned();
    check(
        document,
        id,
        format!("<= {SMALL} bytes"),
        format!("{bytes} bytes"),
        bytes <= SMALL,
    );
}

/// One table, filled as the planner does it: preferences and rows.
fn milliseconds(backends: u32, rows: u32) -> f64 {
    let start = Instant::now();
    let mut preferences: Vec<_> = (0..backends)
        .map(|n| Preference::new(1, &(0x0af4_0000 + n * 7).to_be_bytes(), 8080, rows))
        .collect();
    let mut table = vec![0; rows as usize];
    fill(&mut preferences, &mut table);
    black_box(&table);
    start.elapsed().as_secs_f64() * 1e3
}

fn check(document: &mut Document, id: String, expected: String, seen: String, ok: bool) {
    let mark = if ok { "ok" } else { "MISSED" };
    document
        .table
        .push(format!("{id:<40} {seen}  {expected}  {mark}"));
    document.checks.push(Check {
        id,
        expected,
        seen,
        ok,
    });
}
