//! A row of the bench: a program, a packet, and what must become of it.

use lb_common::abi::{Hook, Outcome};

use super::{family::Family, harness::Input};
use crate::settings;

/// Whose program it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whose {
    /// The bench's: a floor, or nothing.
    Bench,
    /// The agent's.
    Agent,
    /// The agent's, told to write nothing.
    Dry,
    /// The agent's, but for the look whether somebody watches.
    Unwatched,
}

/// How a program gets its packets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Way {
    /// Always the same, as it is: the program does not change it.
    Direct,
    /// Restored before each run: one flow.
    One,
    /// Restored before each run: any of so many flows (a power of two).
    AnyOf(u32),
    /// Restored before each run: a new flow each time.
    New,
}

impl Way {
    /// The mode of program `restore`; `None` without it.
    pub(crate) fn mode(self) -> Option<u64> {
        match self {
            Self::Direct => None,
            Self::One => Some(settings::ONE),
            Self::AnyOf(_) => Some(settings::RANDOM),
            Self::New => Some(settings::EACH),
        }
    }

    /// What program `restore` chooses flows by.
    pub(crate) fn mask(self) -> u64 {
        match self {
            Self::AnyOf(flows) => u64::from(flows - 1),
            _ => 0,
        }
    }
}

/// Where a program runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum At {
    Xdp,
    Tc,
}

impl At {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }

    /// The program that does nothing.
    pub(crate) fn empty(self) -> String {
        format!("empty_{}", self.name())
    }

    /// The program that restores packets.
    pub(crate) fn restore(self, family: Family) -> String {
        format!("restore_{}{}", self.name(), family.digit())
    }
}

/// The target of a row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Bound {
    /// None: the row is for comparison.
    None,
    /// At most so many times the empty program.
    Ratio(f64),
    /// At most so much more than the row's floor, in times of the empty program.
    AboveFloor(f64),
    /// At most so many nanoseconds more than the row's floor.
    Nanoseconds(f64),
}

/// A row.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) family: Family,
    pub(crate) at: At,
    pub(crate) whose: Whose,
    pub(crate) program: String,
    pub(crate) input: Input,
    pub(crate) way: Way,
    /// Runs of one sample.
    pub(crate) repeat: u32,
    /// Each of these is right.
    pub(crate) verdicts: &'static [i32],
    /// What every packet must be counted as.
    pub(crate) counted: Option<(Hook, Outcome)>,
    /// What a single run must make of the packet.
    pub(crate) becomes: Option<Vec<u8>>,
    pub(crate) bound: Bound,
    /// The row that it is compared with.
    pub(crate) floor: Option<String>,
}
