//! The clock of the programs, in seconds.

/// What time it is, and how long a tick is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// The tick that it is.
    pub tick: u32,
    /// Timer interrupts in a tick, as a power of two: [`lb_common::abi::Node::tick_shift`].
    pub shift: u32,
    /// Timer interrupts in a second.
    pub hertz: u32,
}

impl Clock {
    /// So many ticks in seconds, rounded down.
    #[must_use]
    pub fn seconds(&self, ticks: u32) -> u64 {
        (u64::from(ticks) << self.shift.min(31)) / u64::from(self.hertz.max(1))
    }

    /// Seconds since `tick`. None if it seems to be in the future: it was noted while this was read.
    #[must_use]
    pub fn since(&self, tick: u32) -> u64 {
        let ticks = self.tick.wrapping_sub(tick);
        self.seconds(if ticks > u32::MAX / 2 { 0 } else { ticks })
    }
}

/// Seconds as people say them, in two units at most: `7s`, `3m12s`, `6h`, `2d4h`.
pub(super) fn duration(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let Some(first) = UNITS.iter().position(|(length, _)| seconds >= *length) else {
        return "0s".to_owned();
    };
    let (length, unit) = UNITS[first];
    let rest = UNITS
        .get(first + 1)
        .map(|(length, unit)| (seconds / length % 60, unit));
    let rest = match (rest, length) {
        // A day has 24 hours, not 60.
        (Some((_, unit)), 86_400) => Some((seconds % 86_400 / 3600, unit)),
        (rest, _) => rest,
    };
    match rest {
        Some((count, smaller)) if count > 0 => format!("{}{unit}{count}{smaller}", seconds / length),
        _ => format!("{}{unit}", seconds / length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_seconds_and_the_future_is_now() {
        let clock = Clock {
            tick: 1000,
            shift: 8,
            hertz: 250,
        };
        assert_eq!(clock.since(0), 1024);
        assert_eq!(clock.since(1000), 0);
        assert_eq!(clock.since(1001), 0, "a flow of a moment ago");
    }

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (192, "3m12s"),
            (3600, "1h"),
            (10_800, "3h"),
            (5430, "1h30m"),
            (187_200, "2d4h"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }
}
