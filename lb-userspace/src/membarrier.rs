//! Waiting until every BPF program that was running has ended.
#![allow(unsafe_code)]

use std::{thread, time::Duration};

/// Longer than the run of any program, where the kernel gives no way to know.
const FALLBACK: Duration = Duration::from_millis(50);

/// Returns after an RCU grace period: no program that ran before still holds a map element.
///
/// `membarrier(2)` with MEMBARRIER_CMD_GLOBAL is `synchronize_rcu()` (some 8 ms). It is refused on
/// kernels with `nohz_full` CPUs and by some seccomp profiles; then this sleeps, which is no proof but
/// far longer than programs run.
pub(crate) fn grace_period() {
    let (command, flags, cpu) = (libc::MEMBARRIER_CMD_GLOBAL, 0, 0);
    // SAFETY: the system call takes three integers and touches no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, flags, cpu) };
    if result != 0 {
        thread::sleep(FALLBACK);
    }
}
