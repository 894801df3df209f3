//! How much memory the process keeps of what it has used. One of the files with `unsafe`.
#![allow(unsafe_code)]

/// Lets all threads share one pool of memory. With one for each, what a thread frees is of no use to the others: lists
/// of objects are read on one, joined on another, planned on a third. Before there are threads.
pub fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time from any thread; pools that exist stay.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Gives memory back that the start has used and nobody needs any more: lists of objects are read as trees several
/// times their size, and the C library keeps what is freed. Takes some milliseconds.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time from any thread, and touches only memory that nobody uses.
    unsafe {
        libc::malloc_trim(0)
    };
}
