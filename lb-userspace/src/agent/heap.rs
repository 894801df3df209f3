//! Gives memory back that the start has used and nobody needs any more. One of the files with `unsafe`.
#![allow(unsafe_code)]

/// Lists of objects are read as trees several times their size, by threads with memory pools of their own; the C
/// library keeps what they free. Takes some milliseconds.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time from any thread, and touches only memory that nobody uses.
    unsafe {
        libc::malloc_trim(0)
    };
}
