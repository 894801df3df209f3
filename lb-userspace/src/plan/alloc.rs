//! Places in arrays: contiguous regions, handed out first fit, reused only after a grace period.
//!
//! *Invariant*: a region that a program may still read is never handed out: [`Regions::release`] keeps it
//! back until [`Regions::grace_passed`].

use std::collections::BTreeMap;

/// The free parts of an array.
#[derive(Clone, Debug)]
pub(super) struct Regions {
    /// Start and length of the free parts; no two touch.
    free: BTreeMap<u32, u32>,
    /// Released since the last grace period.
    retired: Vec<Region>,
    /// Elements that are not free.
    taken: u32,
}

/// A contiguous part of an array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Region {
    pub(super) first: u32,
    pub(super) length: u32,
}

impl Regions {
    pub(super) fn new(capacity: u32) -> Self {
        let free = if capacity == 0 {
            BTreeMap::new()
        } else {
            BTreeMap::from([(0, capacity)])
        };
        Self {
            free,
            retired: Vec::new(),
            taken: 0,
        }
    }

    /// The lowest free region of this length; `None` if there is none. An empty one is always free.
    pub(super) fn take(&mut self, length: u32) -> Option<Region> {
        if length == 0 {
            return Some(Region { first: 0, length: 0 });
        }
        let (first, found) = self
            .free
            .iter()
            .find(|(_, found)| **found >= length)
            .map(|(f, l)| (*f, *l))?;
        self.free.remove(&first);
        if found > length {
            self.free.insert(first + length, found - length);
        }
        self.taken += length;
        Some(Region { first, length })
    }

    /// Takes back a region that nothing ever referred to.
    pub(super) fn give_back(&mut self, region: Region) {
        let Region {
            mut first,
            mut length,
        } = region;
        if length == 0 {
            return;
        }
        self.taken -= length;
        if let Some((before, size)) = self.free.range(..first).next_back().map(|(f, l)| (*f, *l))
            && before + size == first
        {
            self.free.remove(&before);
            first = before;
            length += size;
        }
        if let Some(size) = self.free.remove(&(first + length)) {
            length += size;
        }
        self.free.insert(first, length);
    }

    /// Takes back a region that nothing refers to any more, but that may still be read.
    pub(super) fn release(&mut self, region: Region) {
        if region.length > 0 {
            self.retired.push(region);
        }
    }

    /// How many elements are not free, those included that wait for a grace period.
    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    /// Whether a grace period would make room.
    pub(super) fn awaits_grace(&self) -> bool {
        !self.retired.is_empty()
    }

    /// What was released before can be handed out again.
    pub(super) fn grace_passed(&mut self) {
        for region in std::mem::take(&mut self.retired) {
            self.give_back(region);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_released_region_is_not_reused_before_a_grace_period() {
        let mut regions = Regions::new(4);
        let all = regions.take(4).unwrap();
        regions.release(all);
        assert_eq!(regions.take(1), None);
        assert!(regions.awaits_grace());
        assert_eq!(regions.taken(), 4, "it is not free yet");
        regions.grace_passed();
        assert_eq!(regions.taken(), 0);
        assert_eq!(regions.take(4), Some(all));
    }

    #[test]
    fn an_empty_region_always_fits() {
        let mut regions = Regions::new(0);
        let empty = regions.take(0).unwrap();
        regions.release(empty);
        assert!(!regions.awaits_grace());
        assert_eq!(regions.take(1), None);
    }

    proptest! {
        #[test]
        fn regions_never_overlap_and_all_comes_back(
            steps in prop::collection::vec((1u32..20, any::<prop::sample::Index>(), any::<bool>()), 1..200),
        ) {
            let mut regions = Regions::new(100);
            let mut held: Vec<Region> = Vec::new();
            for (length, pick, take) in steps {
                if take || held.is_empty() {
                    if let Some(new) = regions.take(length) {
                        prop_assert!(new.first + new.length <= 100);
                        for old in &held {
                            prop_assert!(new.first + new.length <= old.first || old.first + old.length <= new.first);
                        }
                        held.push(new);
                    }
                } else {
                    regions.release(held.swap_remove(pick.index(held.len())));
                    regions.grace_passed();
                }
                prop_assert_eq!(regions.taken(), held.iter().map(|region| region.length).sum::<u32>());
            }
            held.into_iter().for_each(|region| regions.give_back(region));
            prop_assert_eq!(regions.free, BTreeMap::from([(0, 100)]));
        }
    }
}
