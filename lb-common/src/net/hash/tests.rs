//! The flow hash: even over the rows of a table, different for every field, the same everywhere.

use std::collections::BTreeSet;
use std::format;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::abi::{Addr4, Addr6, V4, V6};
use crate::maglev;

const SEED: u32 = 0x5eed;

fn tuple4(client: u32, port: u16) -> Tuple<Addr4> {
    Tuple {
        source: Addr4 {
            bytes: client.to_be_bytes(),
        },
        destination: Addr4 {
            bytes: [10, 96, 0, 1],
        },
        source_port: port,
        destination_port: 80,
        protocol: 6,
        ..Tuple::default()
    }
}

fn tuple6(client: u32, port: u16) -> Tuple<Addr6> {
    let mut source = Addr6::default();
    source.bytes[12..].copy_from_slice(&client.to_be_bytes());
    Tuple {
        source,
        destination: Addr6 { bytes: [0xfd; 16] },
        source_port: port,
        destination_port: 80,
        protocol: 6,
        ..Tuple::default()
    }
}

/// Chi squared of `hashes` over the rows of a table, per degree of freedom: about 1 for an even spread.
fn unevenness(hashes: &[u32], rows: u32) -> f64 {
    let mut counts = vec![0u32; rows as usize];
    for hash in hashes {
        let (element, row) = maglev::row(*hash, rows);
        counts[element as usize * crate::abi::ROWS_PER_ELEMENT + row] += 1;
    }
    let expected = hashes.len() as f64 / f64::from(rows);
    let sum: f64 = counts
        .iter()
        .map(|n| (f64::from(*n) - expected).powi(2) / expected)
        .sum();
    sum / f64::from(rows - 1)
}

#[test]
fn clients_that_differ_in_one_field_spread_evenly_over_the_rows() {
    let ports = || 32_768..=60_999u16;
    let spreads: [(&str, Vec<u32>); 5] = [
        (
            "one IPv4 client's ports",
            ports()
                .map(|p| flow_hash::<V4>(&tuple4(0xc000_0201, p), SEED))
                .collect(),
        ),
        (
            "one IPv6 client's ports",
            ports().map(|p| flow_hash::<V6>(&tuple6(1, p), SEED)).collect(),
        ),
        (
            "ports two apart, as Linux takes them",
            ports()
                .step_by(2)
                .map(|p| flow_hash::<V4>(&tuple4(0xc000_0201, p), SEED))
                .collect(),
        ),
        (
            "neighbouring IPv4 clients",
            (0..30_000)
                .map(|n| flow_hash::<V4>(&tuple4(0x0a00_0000 + n, 40_000), SEED))
                .collect(),
        ),
        (
            "neighbouring IPv6 clients",
            (0..30_000)
                .map(|n| flow_hash::<V6>(&tuple6(n, 40_000), SEED))
                .collect(),
        ),
    ];
    for (what, hashes) in spreads {
        for rows in [101, 211, 1009] {
            // Its standard deviation is sqrt(2 / rows): 0.14 for the smallest table.
            let uneven = unevenness(&hashes, rows);
            assert!((0.5..1.6).contains(&uneven), "{what} over {rows} rows: {uneven}");
        }
    }
}

#[test]
fn every_field_and_the_seed_change_the_hash() {
    let base = tuple6(1, 40_000);
    let mut hashes = BTreeSet::from([flow_hash::<V6>(&base, SEED), flow_hash::<V6>(&base, SEED + 1)]);
    let mut variants = vec![
        Tuple {
            source_port: 40_001,
            ..base
        },
        Tuple {
            destination_port: 81,
            ..base
        },
        Tuple { protocol: 17, ..base },
        base.reverse(),
        Tuple {
            source_port: 80,
            destination_port: 40_000,
            ..base
        },
    ];
    for byte in 0..16 {
        let mut other = base;
        other.source.bytes[byte] ^= 1;
        variants.push(other);
        let mut other = base;
        other.destination.bytes[byte] ^= 0x80;
        variants.push(other);
    }
    for variant in &variants {
        assert!(
            hashes.insert(flow_hash::<V6>(variant, SEED)),
            "{}",
            format!("{variant:?}")
        );
    }
}

#[test]
fn every_bit_of_a_port_changes_half_of_the_hash() {
    for bit in 0..16 {
        let changed: u32 = (0..1000)
            .map(|n| {
                let hash = |port| flow_hash::<V4>(&tuple4(0x0a00_0000 + n, port), SEED);
                (hash(40_000) ^ hash(40_000 ^ 1 << bit)).count_ones()
            })
            .sum();
        assert!(
            (15_000..17_000).contains(&changed),
            "bit {bit}: {changed} of 32,000"
        );
    }
}

#[test]
fn the_side_of_the_routing_decision_does_not_matter() {
    let base = tuple4(0xc000_0201, 40_000);
    let hash = flow_hash::<V4>(&base, SEED);
    assert_eq!(flow_hash::<V4>(&Tuple { phase: 1, ..base }, SEED), hash);
}

/// Nodes of different versions must agree while an upgrade rolls over the cluster: these values, which were
/// computed by other means, never change.
#[test]
fn the_hash_is_the_same_on_every_node() {
    assert_eq!(flow_hash::<V4>(&tuple4(0xc000_0201, 40_000), SEED), HASH4);
    assert_eq!(flow_hash::<V6>(&tuple6(1, 40_000), SEED), HASH6);
}

const HASH4: u32 = 0x6a70_c0d7;
const HASH6: u32 = 0xd497_750a;
