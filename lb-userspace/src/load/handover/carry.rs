//! Copies entries of a table into one that is laid out otherwise. (Flows are more than entries: see [`super::flows`].)

use std::ops::Range;

use super::{
    raw::{RawError, RawMap},
    schema::{Conversion, number},
};

/// Entries are looked at again if they have been used in so many ticks (of about a second) before the last look.
const SLACK: u32 = 2;

/// What copying has come to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(in crate::load) struct Carried {
    /// Entries that were copied.
    pub(super) copied: u64,
    /// Entries that were brought up to date afterwards.
    pub(super) renewed: u64,
    /// Entries that there was no room for.
    pub(super) lost: u64,
}

/// Which round of copying.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Round {
    /// The old generation opens flows.
    Copying,
    /// The new one does.
    Last,
}

/// Copying that is done again and again, until nobody uses the old table any more.
pub(super) trait Pass {
    /// Copies what is not there, and what has been used since. The first time everything, from then on what may have changed.
    fn pass(&mut self, round: Round) -> Result<Carried, RawError>;
}

/// From one table into another.
#[derive(Debug)]
pub(super) struct Carrier {
    from: RawMap,
    to: RawMap,
    key: Conversion,
    value: Conversion,
    /// Where the tick of the last use is.
    used: Option<Range<usize>>,
    /// The last use of any entry, when it was last looked.
    last: Option<u32>,
}

impl Carrier {
    pub(super) fn new(from: RawMap, to: RawMap) -> Result<Self, RawError> {
        let [old_key, old_value] = from.schemas()?;
        let [key, layout] = to.schemas()?;
        Ok(Self {
            key: Conversion::between(&old_key, &key),
            value: Conversion::between(&old_value, &layout),
            from,
            to,
            used: layout.field("seen"),
            last: None,
        })
    }

    fn copy(&self, key: &[u8], value: &mut [u8], carried: &mut Carried) {
        let error = match self.to.set(key, value, true) {
            Ok(()) => {
                carried.copied += 1;
                return;
            }
            Err(error) => error,
        };
        if error.raw_os_error() != Some(libc::EEXIST) {
            carried.lost += 1;
            return;
        }
        let is_behind = |there: Vec<u8>| is_before(self.used(&there), self.used(value));
        if self.to.get(key).is_some_and(is_behind) && self.to.set(key, value, false).is_ok() {
            carried.renewed += 1;
        }
    }

    /// The tick of an entry's last use.
    fn used(&self, value: &[u8]) -> u32 {
        number(self.used.clone(), value)
    }
}

impl Pass for Carrier {
    fn pass(&mut self, _: Round) -> Result<Carried, RawError> {
        let mut carried = Carried::default();
        let mut last = self.last;
        self.from.for_each(|key, value| {
            let mut value = self.value.apply(value);
            let used = self.used(&value);
            if self
                .last
                .is_some_and(|last| is_before(used, last.wrapping_sub(SLACK)))
            {
                return;
            }
            if last.is_none_or(|last| is_before(last, used)) {
                last = Some(used);
            }
            self.copy(&self.key.apply(key), &mut value, &mut carried);
        })?;
        self.last = last;
        Ok(carried)
    }
}

/// Of two ticks of a clock that goes round.
pub(super) const fn is_before(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other).cast_signed()) < 0
}

impl std::ops::AddAssign for Carried {
    fn add_assign(&mut self, other: Self) {
        self.copied += other.copied;
        self.renewed += other.renewed;
        self.lost += other.lost;
    }
}
