//! How fast the kernel's clock ticks.

use std::fs;

use nix::time::{ClockId, clock_getres};

/// Timer interrupts a second (`CONFIG_HZ`): the coarse clock moves by one at each.
///
/// # Errors
/// If the kernel has no coarse clock.
pub fn hertz() -> nix::Result<u32> {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?;
    let nanoseconds = resolution.tv_sec() as u64 * 1_000_000_000 + resolution.tv_nsec() as u64;
    Ok((1_000_000_000 + nanoseconds / 2)
        .checked_div(nanoseconds)
        .unwrap_or(1) as u32)
}

/// The kernel's count of timer interrupts, as programs read it; `None`: it does not say (that takes root).
#[must_use]
pub fn jiffies() -> Option<u64> {
    let text = fs::read_to_string("/proc/timer_list").ok()?;
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix("jiffies: ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_has_one_of_the_usual_rates() {
        let hertz = super::hertz().unwrap();
        assert!([100, 250, 300, 1000].contains(&hertz), "{hertz}");
    }
}
