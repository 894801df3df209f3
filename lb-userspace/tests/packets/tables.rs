//! All rows, in both families, and the proof that they leave no outcome out.

use std::{collections::BTreeSet, env};

use lb_common::abi::{Hook, Outcome, Step};

use crate::{
    admission, flows, fragments, host, icmp, masquerade, outside, pods, refusals,
    row::{Row, check},
    site::{Family, Site},
    too_big, tracked,
    world::{Program, in_counting_world, in_watched_world, in_world},
};

/// Makes the rows of a table.
type Table = fn(&Site) -> Vec<Row>;

/// The tables.
const TABLES: &[(&str, Table)] = &[
    ("outside", outside::rows),
    ("pods", pods::rows),
    ("host", host::rows),
    ("refusals", refusals::rows),
    ("admission", admission::rows),
    ("masquerade", masquerade::rows),
    ("flows", flows::rows),
    ("icmp", icmp::rows),
    ("fragments", fragments::rows),
    ("too big", too_big::rows),
    ("tracked", tracked::rows),
];

/// Outcomes that no packet can come to, and why.
const UNREACHABLE: &[(Outcome, &str)] = &[
    (
        Outcome::DroppedRewrite,
        "what was parsed can be written: the headers are in the packet's head",
    ),
    (
        Outcome::PassedToTcRefusal,
        "frames have a page here, of which an answer needs a tenth",
    ),
];

/// Outcomes of worlds other than the tables', and where they are.
const ELSEWHERE: &[(Outcome, &str)] = &[
    (Outcome::DroppedFlowsFull, "full.rs"),
    (Outcome::PassedOwnConnection, "own.rs"),
    (Outcome::PassedToTcSource, "no packet, a socket: e2e/sockets.rs"),
    (Outcome::RejectedNodePort, "no packet, a socket: e2e/sockets.rs"),
];

/// `LB_ROW=TEXT` runs only the rows whose name contains the text, and leaves the proof out.
#[test]
fn every_packet_of_the_tables_comes_to_what_its_row_says_and_no_outcome_is_left_out_needs_root() {
    in_world("packet tables", 1024, |mut world| {
        let only = env::var("LB_ROW").ok();
        let mut seen = BTreeSet::new();
        let mut failures = Vec::new();
        let mut count = 0;
        for family in Family::BOTH {
            let site = world.site(family);
            for (table, rows) in TABLES {
                let rows = rows(&site);
                let chosen = |row: &&Row| only.as_ref().is_none_or(|text| row.name.contains(text.as_str()));
                for row in rows.iter().filter(chosen) {
                    count += 1;
                    let mut learn = |program: Program, outcome| {
                        seen.insert((program.hook(), outcome));
                    };
                    if let Err(error) = check(&mut world, family, row, &mut learn) {
                        failures.push(format!("{table}: {error}"));
                    }
                }
            }
        }
        eprintln!("{count} rows, {} pairs of hook and outcome", seen.len());
        assert!(
            failures.is_empty(),
            "{} of {count} rows fail:\n\n{}",
            failures.len(),
            failures.join("\n")
        );
        if only.is_none() {
            complete(&seen);
        }
    });
}

#[test]
fn programs_that_count_for_each_service_do_the_same_and_count_what_the_packets_show_needs_root() {
    in_counting_world("counted packet tables", 1024, |mut world| {
        let mut failures = Vec::new();
        for family in Family::BOTH {
            let site = world.site(family);
            for row in TABLES.iter().flat_map(|(_, rows)| rows(&site)) {
                if let Err(error) = check(&mut world, family, &row, &mut |_, _| {}) {
                    failures.push(error);
                }
            }
        }
        assert!(
            failures.is_empty(),
            "{} fail:\n{}",
            failures.len(),
            failures.join("\n")
        );
    });
}

/// Outcomes of frames that nobody can ask to watch: they have no addresses, or no whole headers.
const NOT_NOTED: &[Outcome] = &[
    Outcome::PassedOther,
    Outcome::PassedVlan,
    Outcome::PassedMalformed,
];

#[test]
fn programs_that_note_every_step_do_the_same_and_note_every_outcome_needs_root() {
    in_watched_world("watched packet tables", 1024, |mut world| {
        let mut seen = BTreeSet::new();
        let mut noted = BTreeSet::new();
        for family in Family::BOTH {
            let site = world.site(family);
            for row in TABLES.iter().flat_map(|(_, rows)| rows(&site)) {
                let mut learn = |program: Program, outcome| {
                    seen.insert((program.hook(), outcome));
                };
                if let Err(error) = check(&mut world, family, &row, &mut learn) {
                    panic!("{error}");
                }
                let outcomes = world
                    .records()
                    .into_iter()
                    .filter(|record| record.step == Step::Outcome as u8);
                noted.extend(outcomes.filter_map(|record| {
                    let outcome = u32::from_ne_bytes(record.key[..4].try_into().ok()?);
                    Some((
                        Hook::from_number(record.hook.into())?,
                        Outcome::from_number(outcome)?,
                    ))
                }));
            }
        }
        let missing: Vec<_> = seen
            .difference(&noted)
            .filter(|(_, outcome)| !NOT_NOTED.contains(outcome))
            .collect();
        assert!(missing.is_empty(), "not noted: {missing:?}");
        assert!(
            noted.is_subset(&seen),
            "noted, but not counted: {:?}",
            noted.difference(&seen)
        );
    });
}

/// Each outcome was seen at some hook, or is unreachable.
fn complete(seen: &BTreeSet<(Hook, Outcome)>) {
    for &outcome in Outcome::ALL {
        let reached = seen.iter().any(|(_, o)| *o == outcome);
        let reason = UNREACHABLE.iter().chain(ELSEWHERE).find(|(o, _)| *o == outcome);
        match (reached, reason) {
            (true, None) | (false, Some(_)) => {}
            (true, Some((_, reason))) => panic!("{outcome:?} was reached: `{reason}` is wrong"),
            (false, None) => panic!("no row comes to {outcome:?}"),
        }
    }
    for &hook in Hook::ALL {
        let reached: Vec<_> = seen
            .iter()
            .filter(|(h, _)| *h == hook)
            .map(|(_, o)| o.name())
            .collect();
        eprintln!("{}: {}", hook.name(), reached.join(", "));
    }
}
