//! How fast the kernel's clock ticks.

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

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_has_one_of_the_usual_rates() {
        let hertz = super::hertz().unwrap();
        assert!([100, 250, 300, 1000].contains(&hertz), "{hertz}");
    }
}
