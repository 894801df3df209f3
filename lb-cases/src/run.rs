//! Many scenarios, several at a time.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    agent::Hook,
    api::Pool,
    books::Balance,
    format::Case,
    scenario::{self, Miss},
    slots::Slots,
};

/// Where agents get their objects from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Objects {
    /// An API server, where one can be had and takes them; a folder otherwise.
    #[default]
    Api,
    /// A folder.
    Folder,
}

/// How scenarios are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The agent's program.
    pub agent: PathBuf,
    /// Which programs face the network.
    pub hook: Hook,
    /// Where it gets its objects from.
    pub objects: Objects,
    /// Scenarios at work at a time.
    pub jobs: usize,
    /// Letters at the start of every name that labs give on this machine.
    pub tag: String,
}

/// What became of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its name.
    pub name: String,
    /// What was tried.
    pub tried: String,
    /// What was wrong.
    pub misses: Vec<Miss>,
    /// What the agent's hooks received, if it came to its end.
    pub balance: Option<Balance>,
    /// How long it took.
    pub time: Duration,
}

/// Runs scenarios, and tells of each as it ends. Those that wait longest start first.
pub fn run(cases: &[Case], options: &Options, mut tell: impl FnMut(Verdict)) {
    let mut order: Vec<_> = cases.iter().collect();
    order.sort_by_key(|case| std::cmp::Reverse(case.idle_seconds()));
    let (slots, pool) = (Slots::new(options.jobs), Pool::default());
    let (sender, verdicts) = mpsc::channel();
    thread::scope(|scope| {
        let (slots, pool) = (&slots, &pool);
        scope.spawn(move || {
            for case in order {
                let (slot, sender) = (slots.take(), sender.clone());
                scope.spawn(move || {
                    let start = Instant::now();
                    // A bug in the runner is one scenario's failure, not the end of all.
                    let ran = catch_unwind(AssertUnwindSafe(|| scenario::run(case, options, pool, &slot)));
                    drop(slot);
                    let (misses, balance) = ran.unwrap_or_else(|_| {
                        let miss = Miss {
                            at: "the runner".into(),
                            expected: "it does not panic".into(),
                            seen: "it panicked; see above".into(),
                        };
                        (vec![miss], None)
                    });
                    // Nobody listens any more: nobody wants to know.
                    let _ = sender.send(Verdict {
                        name: case.name.clone(),
                        tried: tried(case),
                        misses,
                        balance,
                        time: start.elapsed(),
                    });
                });
            }
        });
        verdicts.iter().for_each(&mut tell);
    });
}

fn tried(case: &Case) -> String {
    let steps = case.steps();
    let sum = |of: fn(&crate::format::Step<'_>) -> usize| steps.iter().map(of).sum::<usize>();
    format!(
        "{} steps, {} flows, {} HTTP checks, {} metrics as the case says, and every packet counted",
        steps.len(),
        sum(|step| step.flows.len()),
        sum(|step| step.http.len()),
        sum(|step| step.metrics.len())
    )
}
