//! Whose turn it is where cores are scarce: first who answers over UDP, then who decides what is
//! answered, then who reads it anew.
//!
//! A thread that answers sleeps until queries come, thousands of times a second. By itself the
//! kernel lets whoever runs when it is woken go on for some milliseconds, and a thousand queries
//! wait for as long.

use std::io;
use std::mem::zeroed;
use std::sync::Once;

use rustix::process::nice;
use tokio::runtime::{Builder, Runtime};
use tracing::warn;

/// How much those step back who decide: to a third of an answering thread's share of a core, and
/// to all that it leaves.
const DECIDING: i32 = 5;

/// Those who read files anew: to a tenth. Also in a flood, what is changed because of it comes in
/// soon.
const READING: i32 = 10;

/// For how long a thread that answers wants a core at a time, in nanoseconds: the least that Linux
/// grants (since 6.12; an earlier one passes over it).
const SLICE: u64 = 100_000;

/// What all runs on but the answers over UDP and the reading of files.
///
/// # Errors
/// The system has no threads for it.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().on_thread_start(|| step_back(DECIDING)).build()
}

/// The calling thread reads files.
pub(super) fn read_last() {
    step_back(READING);
}

/// The calling thread lets others go first (this thread's own value, in Linux).
fn step_back(by: i32) {
    static ONCE: Once = Once::new();
    if let Err(error) = nice(by) {
        ONCE.call_once(
            || warn!(%error, "all threads have as much of the cores as those that answer"),
        );
    }
}

/// The calling thread answers: it wants a core often, and soon, and not for long.
pub(super) fn answer_first() {
    if let Err(error) = wish(SLICE) {
        warn!(%error, "a thread that answers waits for a core as long as any other");
    }
}

/// Wishes for time slices of so many nanoseconds, unless another scheduler than the usual one is in
/// charge.
fn wish(slice: u64) -> io::Result<()> {
    // SAFETY: all-zero is a valid one.
    let mut wish: libc::sched_attr = unsafe { zeroed() };
    let size = u32::try_from(size_of_val(&wish)).map_err(io::Error::other)?;
    // SAFETY: 0 is this thread; the pointer is to a `sched_attr` of the size that is told, which
    // lives through the call (sched_setattr(2), also for the next one).
    let known = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut wish, size, 0) };
    if known != 0 {
        return Err(io::Error::last_os_error());
    }
    if i64::from(wish.sched_policy) == i64::from(libc::SCHED_OTHER) {
        (wish.size, wish.sched_runtime) = (size, slice);
        // SAFETY: likewise.
        if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wish, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_taken_and_no_priority_changes() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let before = priority();
        wish(SLICE).unwrap();
        assert_eq!(priority(), before);
    }

    #[test]
    fn whoever_decides_steps_back_behind_whoever_answers() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let here = priority();
        let there =
            runtime().unwrap().block_on(async { tokio::spawn(async move { priority() }).await });
        assert_eq!(there.unwrap(), (here + DECIDING).min(19));
        assert_eq!(priority(), here);
    }
}
