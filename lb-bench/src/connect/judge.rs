//! From samples to figures: how much more each kind costs than its direct way, and whether that reaches its target.

use super::{Kind, Row, Samples, What, pair::Sample};
use crate::document::{Check, Document};

/// Of a connection whose backend is chosen at the socket.
const HOOK: f64 = 1.15;
/// Of a connection that TC translates.
const TC: f64 = 1.25;
/// Of an exchange on a connection whose backend was chosen at the socket: nothing is left to do.
const ESTABLISHED: f64 = 1.02;

/// Nanoseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Figures {
    min: f64,
    median: f64,
    cpu_min: f64,
}

impl Figures {
    fn of(samples: &[Sample]) -> Option<Self> {
        let sorted = |of: fn(&Sample) -> f64| {
            let mut all: Vec<f64> = samples.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let wall = sorted(|sample| sample.wall);
        Some(Self {
            min: *wall.first()?,
            median: *wall.get(wall.len() / 2)?,
            cpu_min: *sorted(|sample| sample.cpu).first()?,
        })
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Bare => "no agent",
            Self::Direct => "direct",
            Self::Hook => "hook",
            Self::DirectOff => "direct, hooks off",
            Self::Tc => "tc",
        }
    }

    /// What it is compared with: in the same lab, where there is something to compare.
    fn against(self) -> Self {
        match self {
            Self::Bare | Self::Direct | Self::DirectOff => Self::Bare,
            Self::Hook => Self::Direct,
            Self::Tc => Self::DirectOff,
        }
    }

    fn limit(self, what: What) -> Option<f64> {
        match (self, what) {
            (Self::Hook, What::Connection) => Some(HOOK),
            (Self::Tc, What::Connection) => Some(TC),
            (Self::Hook, What::Exchange) => Some(ESTABLISHED),
            _ => None,
        }
    }
}

/// A table of all rows, and a check for each that has a target.
pub(super) fn document(samples: &Samples) -> Document {
    let mut document = Document::default();
    document.table.push(format!(
        "{:<22} {:<18} {:>8} {:>8} {:>8} {:>7} {:>7} {:>7}  {}",
        "row", "kind", "min us", "median", "cpu min", "ratio", "median", "cpu", "target"
    ));
    for ((row, kind), own) in samples {
        let against = samples.get(&(*row, kind.against()));
        let figures = Figures::of(own).zip(against.and_then(|samples| Figures::of(samples)));
        if let Some((own, against)) = figures {
            judge(*row, *kind, own, against, &mut document);
        }
    }
    document
}

fn judge(row: Row, kind: Kind, own: Figures, against: Figures, document: &mut Document) {
    let ratio = own.min / against.min;
    let limit = kind.limit(row.what);
    let target = limit.map_or(String::new(), |limit| {
        let mark = if ratio <= limit { "ok" } else { "MISSED" };
        format!("<= {limit:.2} {mark}")
    });
    document.table.push(
        format!(
            "{:<22} {:<18} {:>8.2} {:>8.2} {:>8.2} {ratio:>7.3} {:>7.3} {:>7.3}  {target}",
            row.to_string(),
            kind.name(),
            own.min / 1e3,
            own.median / 1e3,
            own.cpu_min / 1e3,
            own.median / against.median,
            own.cpu_min / against.cpu_min,
        )
        .trim_end()
        .to_owned(),
    );
    if let Some(limit) = limit {
        document.checks.push(Check {
            id: format!("{row}-{}", kind.name()),
            expected: format!("<= {limit:.2} times direct"),
            seen: format!(
                "{ratio:.3} times ({:.2} us, {:.2} us)",
                own.min / 1e3,
                against.min / 1e3
            ),
            ok: ratio <= limit,
        });
    }
}

#[cfg(test)]
mod tests {
    use lb_lab::Family;

    use super::*;
    use crate::connect::Backend;

    #[test]
    fn minima_are_judged() {
        let row = Row {
            what: What::Connection,
            family: Family::V4,
            backend: Backend::Here,
        };
        let samples = |walls: [f64; 3]| walls.map(|wall| Sample { wall, cpu: wall }).to_vec();
        let all = Samples::from([
            ((row, Kind::Direct), samples([1e3, 2e3, 9e3])),
            ((row, Kind::Hook), samples([8e3, 1.1e3, 9e3])),
            ((row, Kind::DirectOff), samples([1e3, 1e3, 1e3])),
            ((row, Kind::Tc), samples([1.3e3, 2e3, 9e3])),
        ]);
        let checks = document(&all).checks;
        let seen: Vec<_> = checks.iter().map(|check| (check.id.as_str(), check.ok)).collect();
        assert_eq!(seen, [("connect4-here-hook", true), ("connect4-here-tc", false)]);
    }
}
