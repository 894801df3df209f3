//! What came out of many worlds: for people as text, for `cargo xtask worlds` as a document.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, time::Instant};

use serde_json::json;

use crate::{
    cluster::Event,
    generate::World,
    trial::{Failure, Tally},
};

/// Sorts of answers that must have been seen if there were enough worlds: who asks nothing proves nothing.
const SORTS: [&str; 4] = ["pod", "node", "outside at XDP", "outside at TC"];
const ANSWERS: [&str; 5] = ["forward to one", "forward to several", "reject", "drop", "pass"];
/// So many worlds have all of them.
const ENOUGH: u64 = 100;

/// All worlds so far.
pub(crate) struct Report {
    first: u64,
    count: u64,
    started: Instant,
    worlds: u64,
    tally: Tally,
    failures: BTreeMap<u64, String>,
    /// Packets that were run.
    pub(crate) packets: u64,
}

impl Report {
    pub(crate) fn new(first: u64, count: u64) -> Self {
        Self {
            first,
            count,
            started: Instant::now(),
            worlds: 0,
            tally: Tally::new(),
            failures: BTreeMap::new(),
            packets: 0,
        }
    }

    pub(crate) fn add(&mut self, seed: u64, tally: Tally, failure: Option<(World, Box<Failure>)>) {
        self.worlds += 1;
        for (sort, count) in tally {
            *self.tally.entry(sort).or_default() += count;
        }
        if let Some((world, failure)) = failure {
            let text = show(&world, &failure);
            eprintln!("world {seed} FAILED\n{text}");
            self.failures.insert(seed, text);
        }
    }

    pub(crate) fn failures(&self) -> usize {
        self.failures.len()
    }

    pub(crate) fn progress(&self) -> String {
        let probes: u64 = self.tally.values().sum();
        format!(
            "{} of {} worlds, {probes} probes, {} packets, {} s",
            self.worlds,
            self.count,
            self.packets,
            self.started.elapsed().as_secs()
        )
    }

    /// Writes the document, and fails if anything did.
    pub(crate) fn finish(self) {
        let missing: Vec<String> = SORTS
            .iter()
            .flat_map(|sort| ANSWERS.iter().map(move |answer| format!("{sort}: {answer}")))
            .filter(|sort| self.worlds >= ENOUGH && !self.tally.contains_key(sort))
            .collect();
        eprintln!("{}", self.progress());
        for (sort, count) in &self.tally {
            eprintln!("  {count:>9}  {sort}");
        }
        if let Ok(file) = env::var("LB_WORLDS_REPORT") {
            let document = json!({
                "first_seed": self.first,
                "worlds": self.worlds,
                "probes": self.tally.values().sum::<u64>(),
                "packets": self.packets,
                "seconds": self.started.elapsed().as_secs_f64(),
                "answers": self.tally,
                "never_asked": missing,
                "failures": self.failures.iter().map(|(seed, text)| json!({"seed": seed, "text": text})).collect::<Vec<_>>(),
            });
            fs::write(&file, document.to_string()).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
        assert!(missing.is_empty(), "nobody asked for {missing:?}");
        let seeds: Vec<&u64> = self.failures.keys().collect();
        assert!(
            seeds.is_empty(),
            "worlds {seeds:?} are not served as they should be, see above"
        );
    }
}

/// A world that fails, as manifests, and how it fails.
fn show(world: &World, failure: &Failure) -> String {
    let mut text = format!("settings: {:?}, linger {} s\n", world.settings, world.linger);
    for (number, step) in world.steps.iter().enumerate() {
        let _ = writeln!(text, "# step {}", number + 1);
        for event in step {
            match event {
                Event::Put(object) => {
                    let _ = writeln!(text, "---\n{}", object.manifest().trim_end());
                }
                Event::Delete(key) => {
                    let _ = writeln!(text, "# deleted: {:?} {}/{}", key.kind, key.namespace, key.name);
                }
            }
        }
    }
    let _ = write!(text, "{failure}");
    text
}
