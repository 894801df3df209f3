//! A lookup table by what its rows follow from.

use std::sync::Arc;

use lb_common::{
    abi::Backend,
    maglev::{self, Preference},
};

/// Bytes of a port and a position.
const TAIL: usize = 4;

/// The backends that a table is for, in the order that all nodes agree on. That is a tenth of the rows, which are
/// made when they are written.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LookupTable {
    seed: u32,
    /// Bytes of an address.
    address: u8,
    /// Of each backend: address, port, and its position in this node's order.
    entries: Arc<[u8]>,
}

impl LookupTable {
    /// The table for these positions among `backends`.
    pub(super) fn new<A: Copy + Ord + AsRef<[u8]>>(
        seed: u32,
        backends: &[Backend<A>],
        positions: std::ops::Range<u16>,
    ) -> Self {
        // Whoever is alone: the table has one row.
        if positions.len() == 1 {
            return Self {
                seed: 0,
                address: 0,
                entries: entry(&[], 0, positions.start).collect(),
            };
        }
        let mut canonical: Vec<_> = positions
            .map(|position| (&backends[usize::from(position)], position))
            .collect();
        canonical.sort_unstable_by_key(|(backend, _)| (backend.address, backend.port));
        let entries: Vec<u8> = canonical
            .into_iter()
            .flat_map(|(backend, position)| entry(backend.address.as_ref(), backend.port, position))
            .collect();
        Self {
            seed,
            address: size_of::<A>() as u8,
            entries: entries.into(),
        }
    }

    /// How many rows there are.
    #[must_use]
    pub fn size(&self) -> u32 {
        let backends = self.entries.len() / (usize::from(self.address) + TAIL);
        maglev::size_for(backends as u32)
    }

    /// The rows: positions of backends.
    #[must_use]
    pub fn rows(&self) -> Vec<u16> {
        let size = self.size();
        let mut positions = Vec::new();
        let mut preferences = Vec::new();
        for entry in self.entries.chunks_exact(usize::from(self.address) + TAIL) {
            let (address, tail) = entry.split_at(usize::from(self.address));
            let [port, position] = [[tail[0], tail[1]], [tail[2], tail[3]]].map(u16::from_ne_bytes);
            positions.push(position);
            preferences.push(Preference::new(self.seed, address, port, size));
        }
        let mut rows = vec![0; size as usize];
        maglev::fill(&mut preferences, &mut rows);
        rows.iter_mut()
            .for_each(|row| *row = positions[usize::from(*row)]);
        rows
    }
}

fn entry(address: &[u8], port: u16, position: u16) -> impl Iterator<Item = u8> {
    let tail = port.to_ne_bytes().into_iter().chain(position.to_ne_bytes());
    address.iter().copied().chain(tail)
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Addr4, Addr6};

    use super::*;

    fn v4(last: u8, port: u16) -> Backend<Addr4> {
        Backend {
            address: Addr4 {
                bytes: [10, 0, 0, last],
            },
            port,
            flags: 0,
        }
    }

    #[test]
    fn other_backends_ports_positions_families_and_seeds_are_other_tables() {
        let base = [v4(1, 80), v4(2, 80)];
        let six = base.map(|backend| Backend {
            address: Addr6 {
                bytes: [backend.address.bytes[3]; 16],
            },
            port: 80,
            flags: 0,
        });
        let tables = [
            LookupTable::new(7, &base, 0..2),
            LookupTable::new(7, &[v4(1, 80), v4(3, 80)], 0..2),
            LookupTable::new(7, &[v4(1, 80), v4(2, 81)], 0..2),
            LookupTable::new(7, &[v4(2, 80), v4(1, 80)], 0..2),
            LookupTable::new(8, &base, 0..2),
            LookupTable::new(7, &six, 0..2),
            LookupTable::new(7, &base, 0..1),
            LookupTable::new(7, &base, 1..2),
        ];
        for (number, table) in tables.iter().enumerate() {
            assert_eq!(tables.iter().position(|other| other == table), Some(number));
        }
        assert_eq!(tables[0], LookupTable::new(7, &base, 0..2));
        assert_eq!(
            tables[6],
            LookupTable::new(8, &[v4(9, 9)], 0..1),
            "who is alone has one row"
        );
    }

    #[test]
    fn no_backend_has_no_rows_and_a_single_one_has_one() {
        let backends = [v4(1, 80), v4(2, 80)];
        assert_eq!(LookupTable::new(7, &backends, 1..1).rows(), [0u16; 0]);
        assert_eq!(LookupTable::new(7, &backends, 1..2).rows(), [1]);
        let both = LookupTable::new(7, &backends, 0..2);
        assert_eq!(both.rows().len(), both.size() as usize);
    }
}
