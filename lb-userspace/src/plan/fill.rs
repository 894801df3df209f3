//! How full the maps are that a plan writes: known from the plan, so nobody has to walk through a map for it.

use lb_common::abi::{Family, names};

use super::{family::FamilyPlanner, planner::Planner};

/// What of a map is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fill {
    /// Name of the map.
    pub map: &'static str,
    /// Elements that are taken: written, reserved, or not free again yet.
    pub entries: u64,
    /// Elements that it holds.
    pub capacity: u32,
}

impl Planner {
    /// Of all maps that a plan writes, but for the one that describes the node.
    #[must_use]
    pub fn fill(&self) -> Vec<Fill> {
        let capacities = self.capacities();
        let fill = |map, entries: usize, capacity| Fill {
            map,
            entries: entries as u64,
            capacity,
        };
        let mut all = vec![
            fill(names::DEVICES, self.devices_written().len(), capacities.devices),
            fill(names::MAGLEV, self.table_elements(), capacities.maglev),
        ];
        all.extend(self.v4().fill());
        all.extend(self.v6().fill());
        all
    }
}

impl<F: Family> FamilyPlanner<F> {
    fn fill(&self) -> impl Iterator<Item = Fill> {
        let capacities = self.capacities;
        let of = |names: [&'static str; 2], entries: usize, capacity: u32| Fill {
            map: names[F::INDEX],
            entries: entries as u64,
            capacity,
        };
        let [services, sets, backends] = self.places_taken().map(|taken| taken as usize);
        [
            of(
                names::ADDRESSES,
                self.addresses.entries.written().len(),
                capacities.addresses,
            ),
            of(names::SOURCES, self.sources.written().len(), capacities.sources),
            of(
                names::FRONTENDS,
                self.frontends.written().len() + self.addresses.marks.written().len(),
                capacities.frontends,
            ),
            of(names::SERVICES, services, capacities.services),
            of(names::SETS, sets, capacities.sets),
            of(names::BACKENDS, backends, capacities.backends),
            of(
                names::RANGES,
                self.ranges.entries.written().len(),
                capacities.ranges,
            ),
        ]
        .into_iter()
    }
}
