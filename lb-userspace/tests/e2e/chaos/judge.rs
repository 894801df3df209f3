//! What is right and what is not, as checks, and every harm with the event during which it was done.

use std::{collections::BTreeMap, env, fs, path::Path, time::Instant};

use serde_json::json;

use super::{
    Size,
    events::{Event, Kind},
    traffic::{Amounts, Harm, Wrong},
};
use crate::drops::Drops;

/// Failures that are shown one by one.
const SHOWN: usize = 20;

/// What happened when.
#[derive(Default)]
pub(super) struct Diary(Vec<(Instant, String)>);

impl Diary {
    pub(super) fn note(&mut self, number: usize, event: &Event) {
        self.0.push((Instant::now(), format!("event {number}, {event}")));
    }

    /// What went on then.
    fn at(&self, time: Instant) -> &str {
        let began = self.0.iter().take_while(|(began, _)| *began <= time).last();
        began.map_or("before the first event", |(_, what)| what)
    }

    fn tell(&self, wrong: &Wrong) -> String {
        let (since, at) = (self.at(wrong.since), self.at(wrong.at));
        let when = if since == at {
            at.into()
        } else {
            format!("{since} .. {at}")
        };
        format!("{:?} [{when}] {}: {}", wrong.harm, wrong.way, wrong.what)
    }
}

/// All that is judged.
pub(super) struct Outcome<'a> {
    pub(super) size: &'a Size,
    pub(super) seed: u64,
    pub(super) seconds: f64,
    pub(super) amounts: Amounts,
    pub(super) wrongs: Vec<Wrong>,
    pub(super) drops: Drops,
    pub(super) changes: (u64, f64),
    /// Changes that the API server took in, if there is one.
    pub(super) mirrored: Option<u64>,
    pub(super) wanted: BTreeMap<Kind, usize>,
    pub(super) happened: BTreeMap<Kind, usize>,
    pub(super) diary: Diary,
}

struct Check {
    id: String,
    expected: String,
    seen: String,
    ok: bool,
}

impl Outcome<'_> {
    fn checks(&self) -> Vec<Check> {
        let Amounts {
            held,
            echoes,
            connections,
            datagrams,
        } = self.amounts;
        let of = |harm| self.wrongs.iter().filter(move |wrong| wrong.harm == harm);
        let none = |id: &str, harm, among: String| {
            let count = of(harm).count();
            let first = of(harm)
                .next()
                .map(|wrong| format!("; first: {}", self.diary.tell(wrong)));
            Check {
                id: id.into(),
                expected: "0".into(),
                seen: format!("{count} of {among}{}", first.unwrap_or_default()),
                ok: count == 0,
            }
        };
        let mut lost = none(
            "datagrams lost to us",
            Harm::Datagram,
            format!("{datagrams} datagrams"),
        );
        // What the kernel says that it had no room for was not lost to us; a refusal never is its fault.
        let (silent, told): (Vec<_>, Vec<_>) = of(Harm::Datagram).partition(|wrong| wrong.silent);
        if !silent.is_empty() {
            lost.ok = told.is_empty() && silent.len() as u64 <= self.drops.total();
            lost.seen += &format!("; the kernel dropped {}", self.drops);
        }
        let mut checks = vec![
            none(
                "resets",
                Harm::Reset,
                format!("{held} connections, {echoes} echoes"),
            ),
            none(
                "failed connects",
                Harm::Connect,
                format!("{connections} connections"),
            ),
            lost,
            none(
                "wrong sources",
                Harm::Source,
                format!("{} answers", u64::from(held as u32) + connections + datagrams),
            ),
            none(
                "wrong bytes",
                Harm::Bytes,
                format!("{} answers", echoes + connections + datagrams),
            ),
        ];
        let rate = |id: &str, wanted: f64, count: u64| {
            let rate = count as f64 / self.seconds;
            Check {
                id: id.into(),
                expected: format!("at least {wanted:.0} a second"),
                seen: format!("{rate:.1} a second, {count} in {:.0} s", self.seconds),
                ok: rate >= wanted,
            }
        };
        checks.push(rate("changes", self.size.least_changes(), self.changes.0));
        checks.push(rate(
            "new connections",
            self.size.least_connections(),
            connections,
        ));
        if let Some(mirrored) = self.mirrored {
            checks.push(Check {
                id: "changes at the API server".into(),
                expected: "some".into(),
                seen: mirrored.to_string(),
                ok: mirrored > 0,
            });
        }
        for (kind, wanted) in &self.wanted {
            let happened = self.happened.get(kind).copied().unwrap_or_default();
            checks.push(Check {
                id: format!("events/{}", kind.name()),
                expected: wanted.to_string(),
                seen: happened.to_string(),
                ok: happened == *wanted,
            });
        }
        checks
    }

    /// Writes the checks where `cargo xtask chaos` reads them, and says what they are.
    #[track_caller]
    pub(super) fn judge(self) {
        let checks = self.checks();
        if let Ok(folder) = env::var("LB_CHAOS_REPORT") {
            let checks: Vec<_> = checks
                .iter()
                .map(|one| json!({"id": one.id, "expected": one.expected, "seen": one.seen, "ok": one.ok}))
                .collect();
            fs::write(Path::new(&folder).join("chaos.json"), json!(checks).to_string())
                .expect("the report can be written");
        }
        for wrong in self.wrongs.iter().take(SHOWN) {
            eprintln!("{}", self.diary.tell(wrong));
        }
        if self.wrongs.len() > SHOWN {
            eprintln!("and {} more", self.wrongs.len() - SHOWN);
        }
        for Check {
            id,
            expected,
            seen,
            ok,
        } in &checks
        {
            let verdict = if *ok { "ok" } else { "WRONG" };
            eprintln!("{verdict:5} {id}: expected {expected}; {seen}");
        }
        let wrong: Vec<_> = checks
            .iter()
            .filter(|check| !check.ok)
            .map(|check| &*check.id)
            .collect();
        assert!(wrong.is_empty(), "with seed {}: {}", self.seed, wrong.join(", "));
    }
}

#[test]
fn each_harm_fails_its_own_check_and_names_the_event() {
    use std::time::Duration;

    let event = super::events::draw(&mut super::random::Random::new(1), 1, 2, |_| true).remove(0);
    let began = Instant::now();
    for (harm, id) in [
        (Harm::Reset, "resets"),
        (Harm::Connect, "failed connects"),
        (Harm::Datagram, "datagrams lost to us"),
        (Harm::Source, "wrong sources"),
        (Harm::Bytes, "wrong bytes"),
    ] {
        let mut diary = Diary::default();
        diary.note(1, &event);
        let at = began + Duration::from_secs(60);
        let wrong = Wrong {
            harm,
            way: "client to shop".into(),
            what: "broken".into(),
            silent: true,
            since: at,
            at,
        };
        let outcome = Outcome {
            size: &super::SHORT,
            seed: 1,
            seconds: 10.0,
            amounts: Amounts {
                connections: 500,
                ..Amounts::default()
            },
            wrongs: vec![wrong],
            drops: Drops::default(),
            changes: (200, 20.0),
            mirrored: None,
            wanted: BTreeMap::from([(event.kind, 1)]),
            happened: BTreeMap::from([(event.kind, 1)]),
            diary,
        };
        let failed: Vec<_> = outcome.checks().into_iter().filter(|check| !check.ok).collect();
        let ids: Vec<_> = failed.iter().map(|check| &*check.id).collect();
        assert_eq!(ids, [id]);
        let seen = &failed[0].seen;
        assert!(
            seen.contains(&format!("event 1, {event}")) && seen.contains("client to shop"),
            "{seen}"
        );
    }
}
