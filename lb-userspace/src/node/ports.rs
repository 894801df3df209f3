//! Sets of ports, as `net.ipv4.ip_local_reserved_ports` writes them.

use std::{fmt, ops::RangeInclusive, str::FromStr};

/// A set of ports.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PortSet {
    /// Sorted, apart from each other.
    ranges: Vec<(u16, u16)>,
}

/// A text that is no list of ports.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a list of ports such as 61000-65535,8080")]
pub struct NoPorts(String);

impl PortSet {
    /// The ports in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut ranges: Vec<_> = self.ranges.iter().chain(&other.ranges).copied().collect();
        ranges.sort_unstable();
        let mut joined: Vec<(u16, u16)> = Vec::new();
        for (first, last) in ranges {
            match joined.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        Self { ranges: joined }
    }

    /// The ports in both sets.
    #[must_use]
    pub fn within(&self, other: &Self) -> Self {
        self.without(&self.without(other))
    }

    /// The same with the ports in between, where no more than `gap` ports are. Fewer ranges, more ports.
    #[must_use]
    pub fn bridged(&self, gap: u16) -> Self {
        let mut bridged: Vec<(u16, u16)> = Vec::new();
        for &(first, last) in &self.ranges {
            match bridged.last_mut() {
                Some((_, end)) if first - *end - 1 <= gap => *end = last,
                _ => bridged.push((first, last)),
            }
        }
        Self { ranges: bridged }
    }

    /// The ports of this set that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(first, last) in &self.ranges {
            let mut next = Some(first);
            for &(from, to) in other
                .ranges
                .iter()
                .filter(|(from, to)| *from <= last && *to >= first)
            {
                if let Some(start) = next.filter(|start| *start < from) {
                    left.push((start, from - 1));
                }
                next = to.checked_add(1).filter(|start| *start <= last);
            }
            left.extend(next.map(|start| (start, last)));
        }
        Self { ranges: left }
    }
}

impl From<RangeInclusive<u16>> for PortSet {
    fn from(range: RangeInclusive<u16>) -> Self {
        let ranges = if range.is_empty() {
            Vec::new()
        } else {
            vec![(*range.start(), *range.end())]
        };
        Self { ranges }
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<T: IntoIterator<Item = u16>>(ports: T) -> Self {
        let mut sorted: Vec<_> = ports.into_iter().collect();
        sorted.sort_unstable();
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for port in sorted {
            match ranges.last_mut() {
                Some((_, end)) if u32::from(port) <= u32::from(*end) + 1 => *end = port,
                _ => ranges.push((port, port)),
            }
        }
        Self { ranges }
    }
}

impl FromStr for PortSet {
    type Err = NoPorts;
    fn from_str(text: &str) -> Result<Self, NoPorts> {
        let mut ports = Self::default();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse(), last.parse()) else {
                return Err(NoPorts(text.into()));
            };
            ports = ports.union(&Self::from(first..=last));
        }
        Ok(ports)
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}"),
                false => write!(f, "{comma}{first}-{last}"),
            }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> PortSet {
        text.parse().unwrap()
    }

    #[test]
    fn union_and_difference_are_those_of_sets() {
        for (a, b, union, without) in [
            ("", "1-3", "1-3", ""),
            ("1-3", "", "1-3", "1-3"),
            ("1-3", "4-6", "1-6", "1-3"),
            ("1-10", "3-4,6", "1-10", "1-2,5,7-10"),
            ("8080,61000-65535", "61000-65535", "8080,61000-65535", "8080"),
            ("65535", "0-65535", "0-65535", ""),
            ("0-65535", "65535", "0-65535", "0-65534"),
            ("5-7", "1-5,7-9", "1-9", "6"),
        ] {
            assert_eq!(ports(a).union(&ports(b)).to_string(), union, "{a} and {b}");
            assert_eq!(
                ports(a).without(&ports(b)).to_string(),
                without,
                "{a} without {b}"
            );
        }
    }

    #[test]
    fn sets_are_made_of_ports_and_bridged_where_gaps_are_small() {
        let set: PortSet = [40_003, 40_001, 40_002, 65_535, 40_001, 50_000]
            .into_iter()
            .collect();
        assert_eq!(set.to_string(), "40001-40003,50000,65535");
        for (text, gap, expected) in [
            ("", 100, ""),
            ("1-3,5,7-9,20", 0, "1-3,5,7-9,20"),
            ("1-3,5,7-9,20", 1, "1-9,20"),
            ("1-3,5,7-9,20", 10, "1-20"),
            ("1,65535", u16::MAX, "1-65535"),
        ] {
            assert_eq!(ports(text).bridged(gap).to_string(), expected, "{text} by {gap}");
        }
        for (a, b, both) in [
            ("1-10", "5-20", "5-10"),
            ("1-10", "11-20", ""),
            ("1,5,9", "4-6", "5"),
        ] {
            assert_eq!(ports(a).within(&ports(b)).to_string(), both, "{a} within {b}");
        }
    }

    #[test]
    fn text_is_read_as_the_kernel_writes_it() {
        assert_eq!(ports("8080,148,321-323\n").to_string(), "148,321-323,8080");
        assert_eq!(ports("\n"), PortSet::default());
        for text in ["x", "1-", "70000"] {
            assert!(text.parse::<PortSet>().is_err(), "{text}");
        }
    }
}
