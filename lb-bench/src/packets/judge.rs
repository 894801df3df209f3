//! From samples to figures: ratios to the empty program of the same run, and whether they reach their targets.

use super::{
    Samples,
    case::{Bound, Case, Way},
    cases::baseline,
};
use crate::document::{Check, Document};

/// Minimum and median in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figures {
    min: f64,
    median: f64,
}

impl Figures {
    fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            median: *sorted.get(sorted.len() / 2)?,
        })
    }
}

/// A row against the empty program.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ratios {
    min: f64,
    median: f64,
}

/// A table of all rows, and a check for each that has a target.
pub(crate) fn document(cases: &[Case], samples: &Samples) -> Document {
    let mut document = Document::default();
    document.table.push(format!(
        "{:<40} {:>8} {:>8} {:>8} {:>7} {:>7} {:>7} {:>6}  {}",
        "row", "min ns", "median", "restore", "ratio", "median", "floor", "/floor", "target"
    ));
    for case in cases {
        judge(case, cases, samples, &mut document);
    }
    document
}

fn judge(case: &Case, cases: &[Case], samples: &Samples, document: &mut Document) {
    let floor = case
        .floor
        .as_ref()
        .and_then(|id| cases.iter().find(|case| case.id == *id))
        .and_then(|floor| ratios(floor, samples));
    let empty =
        figures_of(&baseline(case.at, case.family, Way::Direct), samples).map_or(f64::NAN, |empty| empty.min);
    let limit = match case.bound {
        Bound::None => None,
        Bound::Ratio(limit) => Some(limit),
        Bound::AboveFloor(more) => Some(floor.map_or(0.0, |floor| floor.min + more)),
        Bound::Nanoseconds(more) => Some(floor.map_or(0.0, |floor| floor.min + more / empty)),
    };
    let target = match (case.bound, limit) {
        (Bound::Nanoseconds(more), _) => format!("<= {more:.2} ns above the floor"),
        (_, Some(limit)) => format!("<= {limit:.2}"),
        (_, None) => String::new(),
    };
    let figures = samples
        .get(&case.id)
        .map(|taken| taken.as_deref().map(Figures::of));
    let (line, seen, ok) = match (figures, ratios(case, samples)) {
        (Some(Ok(Some(figures))), Some(ratio)) => {
            let restore = figures_of(&baseline(case.at, case.family, case.way), samples);
            let restore = match (case.way, restore) {
                (Way::Direct, _) | (_, None) => "-".to_owned(),
                (_, Some(restore)) => format!("{:.1}", restore.min),
            };
            let (of_floor, by) = floor.map_or(("-".into(), "-".into()), |floor| {
                (
                    format!("{:.2}", floor.min),
                    format!("{:.2}", ratio.min / floor.min),
                )
            });
            let line = format!(
                "{:<40} {:>8.1} {:>8.1} {restore:>8} {:>7.2} {:>7.2} {of_floor:>7} {by:>6}  {target}",
                case.id, figures.min, figures.median, ratio.min, ratio.median
            );
            let ok = limit.is_none_or(|limit| ratio.min <= limit);
            let seen = match (case.bound, floor) {
                (Bound::Nanoseconds(_), Some(floor)) => format!("{:.2} ns", (ratio.min - floor.min) * empty),
                _ => format!("{:.2}", ratio.min),
            };
            (line, seen, ok)
        }
        (Some(Err(error)), _) => (format!("{:<40} {error}", case.id), error.to_owned(), false),
        _ => (
            format!("{:<40} was not measured", case.id),
            "was not measured".to_owned(),
            false,
        ),
    };
    let mark = match (limit.is_some() || !ok, ok) {
        (true, true) => "  ok",
        (true, false) => "  MISSED",
        (false, _) => "",
    };
    document.table.push(line + mark);
    if limit.is_some() || !ok {
        document.checks.push(Check {
            id: case.id.clone(),
            expected: if target.is_empty() {
                "is measured".into()
            } else {
                target
            },
            seen,
            ok,
        });
    }
}

fn figures_of(id: &str, samples: &Samples) -> Option<Figures> {
    Figures::of(samples.get(id)?.as_ref().ok()?)
}

/// `(row - restoring + empty) / empty`, of minima and of medians.
fn ratios(case: &Case, samples: &Samples) -> Option<Ratios> {
    let row = figures_of(&case.id, samples)?;
    let empty = figures_of(&baseline(case.at, case.family, Way::Direct), samples)?;
    let restore = match case.way {
        Way::Direct => empty,
        way => figures_of(&baseline(case.at, case.family, way), samples)?,
    };
    Some(Ratios {
        min: (row.min - restore.min + empty.min) / empty.min,
        median: (row.median - restore.median + empty.median) / empty.median,
    })
}
