//! Which part of the range for SNAT is used while the kernel's connection tracking has given some of its ports away: rules of
//! another proxy's masquerade to any port, and answers of one backend to one port of this node can be one flow's only.

use std::ops::RangeInclusive;

/// A smaller part is too few for the flows to one backend: then all of the range is used.
const LEAST: u16 = 1024;

/// The part of `all` to use, with the ports of `taken` (sorted) given to others; as it is (`now`) if that will do.
pub(super) fn part(
    all: RangeInclusive<u16>,
    taken: &[u16],
    now: Option<RangeInclusive<u16>>,
) -> RangeInclusive<u16> {
    let taken: Vec<u16> = taken.iter().copied().filter(|port| all.contains(port)).collect();
    if taken.is_empty() {
        return all;
    }
    let length = |part: &RangeInclusive<u16>| (part.end() - part.start()).saturating_add(1);
    if let Some(now) = now
        && length(&now) >= LEAST
        && !taken.iter().any(|port| now.contains(port))
    {
        return now;
    }
    let mut first = Some(*all.start());
    let mut parts = Vec::new();
    for port in &taken {
        if let Some(first) = first.filter(|first| first < port) {
            parts.push(first..=port - 1);
        }
        first = port.checked_add(1);
    }
    parts.extend(
        first
            .filter(|first| first <= all.end())
            .map(|first| first..=*all.end()),
    );
    let largest = parts.into_iter().max_by_key(length);
    largest.filter(|part| length(part) >= LEAST).unwrap_or(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: RangeInclusive<u16> = 61_000..=65_535;

    #[test]
    fn the_largest_part_without_ports_of_others_is_used() {
        let of = |taken: &[u16]| part(ALL, taken, None);
        assert_eq!(of(&[]), ALL);
        assert_eq!(of(&[1024, 60_999]), ALL);
        assert_eq!(of(&[61_000]), 61_001..=65_535);
        assert_eq!(of(&[65_535]), 61_000..=65_534);
        assert_eq!(of(&[62_000, 62_001, 65_000]), 62_002..=64_999);
        // Too few ports in a row.
        let many: Vec<u16> = ALL.step_by(1000).collect();
        assert_eq!(of(&many), ALL);
        assert_eq!(part(0..=u16::MAX, &[0, u16::MAX], None), 1..=65_534);
    }

    #[test]
    fn a_part_that_will_do_is_kept() {
        let now = Some(61_000..=62_999);
        assert_eq!(part(ALL, &[63_000], now.clone()), 61_000..=62_999);
        assert_eq!(part(ALL, &[62_999], now.clone()), 63_000..=65_535);
        assert_eq!(part(ALL, &[], now), ALL);
    }
}
