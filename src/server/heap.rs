//! What was needed for a moment, given back to the system.

/// Gives back what is free. The allocator keeps the small pieces that reading a configuration was
/// done with, though nobody needs as many of them before the next one.
#[cfg(target_env = "gnu")]
pub(super) fn trim() {
    // SAFETY: it takes no pointer, and may be called at any time by any thread (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators do so by themselves.
#[cfg(not(target_env = "gnu"))]
pub(super) fn trim() {}
