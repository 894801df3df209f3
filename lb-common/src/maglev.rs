//! Maglev lookup tables: which backend a flow's hash leads to, the same on every node.
//!
//! The method is that of Eisenbud et al., "Maglev" (NSDI 2016), section 3.4: every backend has a
//! preference list over the rows, a permutation given by an offset and a skip; the backends take turns and
//! each takes the first row of its list that is still free. The lists are walked, never stored.
//!
//! *Input*: the backends in an order that all nodes agree on, a table size from [`size_for`] and a seed
//! that is the same in the whole cluster. *Output*: one position per row.
//!
//! *Invariants*: each backend has at most one row more than another; removing a backend moves few rows
//! that were not its own. [`row`] is the only way from a hash to a row, on both sides of the kernel
//! boundary.
//!
//! *Not here*: which backends there are (the caller's business) and how a flow is hashed.

use crate::abi::ROWS_PER_ELEMENT;

/// Table sizes: primes, so that every skip walks the whole table. At most a factor of 2.1 lies between
/// two of them, so a table has between 100 and 211 rows per backend until the largest is reached.
const LADDER: [u32; 12] = [
    101, 211, 307, 503, 1009, 2003, 4003, 8009, 16_381, 32_749, 65_521, 131_071,
];

/// Rows of the largest table.
pub const MAX_ROWS: u32 = LADDER[LADDER.len() - 1];

/// Rows per backend that keep the shares within one per cent of each other (the paper's rule).
const ROWS_PER_BACKEND: u64 = 100;

/// A row that nobody has taken yet. No backend has this position: a set has at most 65,535 backends.
const FREE: u16 = u16::MAX;

/// Rows of a table for so many backends: none for none, one for one, else the smallest size with at least
/// 100 rows per backend, or the largest size if there is none.
#[must_use]
pub const fn size_for(backends: u32) -> u32 {
    if backends <= 1 {
        return backends;
    }
    let wanted = backends as u64 * ROWS_PER_BACKEND;
    let mut step = 0;
    while step < LADDER.len() - 1 && (LADDER[step] as u64) < wanted {
        step += 1;
    }
    LADDER[step]
}

/// Elements of the map `maglev` that a table of so many rows takes.
#[must_use]
pub const fn elements_for(rows: u32) -> u32 {
    rows.div_ceil(ROWS_PER_ELEMENT as u32)
}

/// Where the row of a hash is: `(element, row within the element)`, the element counted from the table's
/// first one. A table without rows gives `(0, 0)`.
///
/// The hash is scaled, not divided, so its high bits count most; the eBPF side gets a multiplication and
/// a shift, and an index whose bound the verifier sees.
#[inline(always)]
#[must_use]
pub const fn row(hash: u32, rows: u32) -> (u32, usize) {
    let row = scale(hash, rows);
    (row / ROWS_PER_ELEMENT as u32, row as usize % ROWS_PER_ELEMENT)
}

/// Maps a uniformly distributed `hash` onto `0..bound` (0 if the bound is 0).
#[inline(always)]
const fn scale(hash: u32, bound: u32) -> u32 {
    ((hash as u64 * bound as u64) >> 32) as u32
}

/// A backend's preference list, and how far it has been walked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preference {
    next: u32,
    skip: u32,
    rows: u32,
}

impl Preference {
    /// The list of the backend with this address and port over a table of `rows` rows.
    #[must_use]
    pub fn new(seed: u32, address: &[u8], port: u16, rows: u32) -> Self {
        let hash = identity(seed, address, port);
        Self {
            next: scale((hash >> 32) as u32, rows),
            skip: 1 + scale(hash as u32, rows.saturating_sub(1)),
            rows,
        }
    }

    /// The next row that the backend prefers.
    #[inline(always)]
    fn advance(&mut self) -> u32 {
        let row = self.next;
        let next = row.wrapping_add(self.skip);
        self.next = if next >= self.rows { next - self.rows } else { next };
        row
    }
}

/// Fills `rows` with positions into `backends`, whose preferences must have been made for this very number
/// of rows, one of [`size_for`]. Without backends the rows stay untouched.
pub fn fill(backends: &mut [Preference], rows: &mut [u16]) {
    if backends.is_empty() {
        return;
    }
    rows.fill(FREE);
    let mut taken = 0;
    loop {
        for (position, backend) in backends.iter_mut().enumerate() {
            if taken == rows.len() {
                return;
            }
            taken += 1;
            // A prime size makes the list a permutation, so a free row is found before the list
            // repeats. The bound is for sizes that are none: they end too, with rows left free.
            for _ in 0..rows.len() {
                match rows.get_mut(backend.advance() as usize) {
                    Some(row) if *row == FREE => {
                        *row = position as u16;
                        break;
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Hash of a backend's identity: the same on every node and in every version of this software, since
/// nodes of different versions must agree while an upgrade rolls over the cluster.
fn identity(seed: u32, address: &[u8], port: u16) -> u64 {
    let mut hash = mix(u64::from(seed) << 16 | u64::from(port));
    for chunk in address.chunks(8) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        hash = mix(hash ^ u64::from_le_bytes(word));
    }
    hash
}

/// The finaliser of SplitMix64 (Steele et al., OOPSLA 2014): every input bit changes half of the output.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    type Endpoint = ([u8; 4], u16);

    fn endpoints(count: u32) -> Vec<Endpoint> {
        (0..count)
            .map(|n| ((0x0a00_0000 + n * 7).to_be_bytes(), 8080))
            .collect()
    }

    fn table(seed: u32, backends: &[Endpoint], rows: u32) -> Vec<u16> {
        let mut preferences: Vec<_> = backends
            .iter()
            .map(|(address, port)| Preference::new(seed, address, *port, rows))
            .collect();
        let mut table = vec![0; rows as usize];
        fill(&mut preferences, &mut table);
        table
    }

    fn shares(table: &[u16], backends: usize) -> Vec<u32> {
        let mut shares = vec![0; backends];
        for row in table {
            shares[usize::from(*row)] += 1;
        }
        shares
    }

    #[test]
    fn sizes_are_the_smallest_primes_with_a_hundred_rows_per_backend() {
        for (backends, rows) in [
            (0, 0),
            (1, 1),
            (2, 211),
            (3, 307),
            (5, 503),
            (6, 1009),
            (100, 16_381),
            (655, 65_521),
            (1310, 131_071),
            (1311, 131_071),
            (65_535, 131_071),
            (u32::MAX, 131_071),
        ] {
            assert_eq!(size_for(backends), rows, "{backends} backends");
        }
        for size in LADDER {
            assert!(
                (2..size)
                    .take_while(|d| d * d <= size)
                    .all(|d| !size.is_multiple_of(d)),
                "{size} is no prime"
            );
        }
    }

    #[test]
    fn a_single_backend_has_the_single_row() {
        assert_eq!(table(1, &endpoints(1), 1), [0]);
        assert_eq!(row(u32::MAX, 1), (0, 0));
    }

    #[test]
    fn every_row_is_reached_and_none_beyond_the_last() {
        for rows in LADDER {
            assert_eq!(row(0, rows), (0, 0));
            let last = rows - 1;
            assert_eq!(row(u32::MAX, rows), (last / 64, last as usize % 64));
            assert_eq!(row(u32::MAX, rows).0 + 1, elements_for(rows));
        }
        assert_eq!(row(12345, 0), (0, 0));
        let mut seen = [0u32; 211];
        for n in 0..211 * 1000u64 {
            let (element, index) = row((n * (1 << 32) / 211_000) as u32, 211);
            seen[element as usize * 64 + index] += 1;
        }
        assert!(seen.iter().all(|count| (999..=1001).contains(count)), "{seen:?}");
    }

    #[test]
    fn the_table_is_the_same_in_every_version() {
        // Nodes of different versions must choose alike: this row may only change with the seed.
        assert_eq!(
            table(7, &endpoints(3), 307)[..16],
            [0, 1, 1, 1, 0, 0, 2, 0, 2, 1, 1, 1, 1, 2, 2, 2]
        );
    }

    #[test]
    fn a_size_that_is_no_prime_ends_too() {
        for rows in [1, 2, 4, 6, 100, 256] {
            table(3, &endpoints(5), rows);
        }
        fill(&mut [], &mut [1, 2]);
        fill(&mut [Preference::new(0, &[1], 2, 0)], &mut []);
    }

    #[test]
    fn a_thousand_backends_are_balanced_and_removing_one_moves_few_rows() {
        let backends = endpoints(1000);
        let rows = size_for(1000);
        let before = table(1, &backends, rows);
        let shares = shares(&before, 1000);
        assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);

        let mut fewer = backends.clone();
        fewer.remove(500);
        let after = table(1, &fewer, rows);
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(b, a)| **b != 500 && backends[usize::from(**b)] != fewer[usize::from(**a)])
            .count();
        assert!(
            moved * 50 < rows as usize,
            "{moved} of {rows} rows of other backends moved"
        );
    }

    /// Of 300 tables each, the same ones in every run: a share of single random tables has no sharp bound.
    #[test]
    fn a_change_of_one_backend_moves_few_rows_of_the_others() {
        for count in [3, 4, 7, 12, 20, 39] {
            // The same size before and after, as with most changes of one backend.
            let rows = size_for(count);
            let all = endpoints(count);
            let moved: Vec<f64> = (0..300u32)
                .map(|seed| {
                    let gone = (seed % count) as usize;
                    let mut fewer = all.clone();
                    fewer.remove(gone);
                    let with = table(seed.wrapping_mul(0x9e37_79b9), &all, rows);
                    let without = table(seed.wrapping_mul(0x9e37_79b9), &fewer, rows);
                    let others = with
                        .iter()
                        .zip(&without)
                        .filter(|(a, _)| usize::from(**a) != gone);
                    others
                        .filter(|(a, b)| all[usize::from(**a)] != fewer[usize::from(**b)])
                        .count() as f64
                        / f64::from(rows)
                })
                .collect();
            let mean = moved.iter().sum::<f64>() / moved.len() as f64;
            let most = moved.iter().copied().fold(0.0, f64::max);
            // Beyond the rows of the changed backend the paper sees some per cent; a rare seed moves a quarter.
            assert!(
                mean < 0.03,
                "{count} backends: {mean} of {rows} rows moved in the mean"
            );
            assert!(
                most < 0.3,
                "{count} backends: {most} of {rows} rows moved at most"
            );
        }
    }

    proptest! {
        #[test]
        fn a_preference_list_is_a_permutation(seed: u32, address: [u8; 16], port: u16, step in 0..4usize) {
            let rows = LADDER[step];
            let mut preference = Preference::new(seed, &address, port, rows);
            let mut seen = vec![false; rows as usize];
            for _ in 0..rows {
                let row = preference.advance() as usize;
                prop_assert!(!seen[row]);
                seen[row] = true;
            }
        }

        #[test]
        fn shares_differ_by_at_most_one_row(seed: u32, count in 2..60u32) {
            let rows = size_for(count);
            let shares = shares(&table(seed, &endpoints(count), rows), count as usize);
            prop_assert_eq!(shares.iter().sum::<u32>(), rows);
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }

        #[test]
        fn the_seed_changes_the_table(seed: u32, count in 2..20u32) {
            let rows = size_for(count);
            prop_assert_ne!(
                table(seed, &endpoints(count), rows),
                table(seed.wrapping_add(1), &endpoints(count), rows)
            );
        }
    }
}
