//! Whose turn it is where cores are scarce: first who answers over UDP, then who decides what is
//! answered, then who answers over streams, then who reads anew what is answered.
//!
//! A thread that answers sleeps until queries come, thousands of times a second. By itself the
//! kernel lets whoever runs when it is woken go on for some milliseconds, and a thousand queries
//! wait for as long: so nobody here runs for long at a time.

use std::io;
use std::mem::zeroed;
use std::sync::{Once, OnceLock};
use std::time::Duration;

use tokio::runtime::{Builder, EnterGuard, Runtime};
use tracing::warn;

/// How much those step back who decide: to a third of an answering thread's share of a core, and
/// to all that it leaves.
const DECIDING: i32 = 5;

/// Those who answer over anything but UDP: behind who decides, to a sixth. A handshake takes a
/// hundred times what its client spends on it, so that who asks for many can have what is left of
/// the cores, but not the probes' part.
const STREAMING: i32 = 8;

/// Those who read files anew: to a twentieth. An answering thread at half of its load wants more
/// than nine tenths of a core at times, and queries wait for what it does not get; also in a flood,
/// what is changed because of it comes in within seconds.
const READING: i32 = 14;

/// The most that a thread's priority can be stepped back to (setpriority(2)).
const LAST: i32 = 19;

/// For how long a thread that answers has a core at a time, if another one wants it, in
/// nanoseconds: the least that Linux grants (since 6.12; an earlier one passes over it).
const SHORT: u64 = 100_000;

/// The same of all others: longer, as whoever has the shorter one may interrupt them.
const LONGER: u64 = 200_000;

/// Threads that step back so far, for what runs on tokio.
///
/// # Errors
/// The system has no threads for it.
fn runtime(back: i32) -> io::Result<Runtime> {
    here();
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().on_thread_start(move || step_back(back, LONGER)).build()
}

/// What answers over streams run on; what is left of it when it is dropped is left.
pub(super) struct Streams(Option<Runtime>);

impl Streams {
    /// # Errors
    /// The system has no threads for it.
    pub(super) fn new() -> io::Result<Self> {
        runtime(STREAMING).map(|runtime| Self(Some(runtime)))
    }

    /// What is begun while this is held runs there.
    pub(super) fn enter(&self) -> Option<EnterGuard<'_>> {
        self.0.as_ref().map(Runtime::enter)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// Runs `all` on threads of those who decide to its end. Who still waits for a file then, which may
/// be for ever, is left.
///
/// # Errors
/// The system has no threads for it.
pub fn run<T>(all: impl Future<Output = T>) -> io::Result<T> {
    let runtime = runtime(DECIDING)?;
    let done = runtime.block_on(all);
    runtime.shutdown_timeout(LEFT);
    Ok(done)
}

/// How long those have who are nearly done.
const LEFT: Duration = Duration::from_secs(1);

/// The calling thread answers.
pub(super) fn answer_first() {
    step_back(0, SHORT);
}

/// The calling thread reads files.
pub(super) fn read_last() {
    step_back(READING, LONGER);
}

/// The calling thread lets others go first (this thread's own value, in Linux), and soon.
fn step_back(by: i32, slice: u64) {
    static ONCE: Once = Once::new();
    if let Err(error) = take_turns(by, slice) {
        ONCE.call_once(
            || warn!(%error, "all threads have as much of the cores as those that answer"),
        );
    }
}

/// The process's own priority, that of the thread which first asks: threads that others make have
/// theirs, from which nobody steps back a second time.
fn here() -> i32 {
    static HERE: OnceLock<i32> = OnceLock::new();
    *HERE.get_or_init(|| turns().map_or(0, |turns| turns.sched_nice))
}

/// Steps back, and wishes for short slices, unless another scheduler than the usual one is in
/// charge.
fn take_turns(by: i32, slice: u64) -> io::Result<()> {
    let mut turns = turns()?;
    if i64::from(turns.sched_policy) == i64::from(libc::SCHED_OTHER) {
        turns.sched_nice = turns.sched_nice.max(here() + by).min(LAST);
        turns.sched_runtime = slice;
        // SAFETY: 0 is this thread; the pointer is to a `sched_attr` that tells its size and lives
        // through the call (sched_setattr(2)).
        if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const turns, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// How the calling thread takes turns with others.
fn turns() -> io::Result<libc::sched_attr> {
    // SAFETY: all-zero is a valid one.
    let mut turns: libc::sched_attr = unsafe { zeroed() };
    let size = u32::try_from(size_of_val(&turns)).map_err(io::Error::other)?;
    // SAFETY: 0 is this thread; the pointer is to a `sched_attr` of the size that is told, which
    // lives through the call (sched_getattr(2)).
    let known = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut turns, size, 0) };
    turns.size = size;
    if known == 0 { Ok(turns) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priority() -> i32 {
        turns().unwrap().sched_nice
    }

    #[test]
    fn who_answers_keeps_its_priority() {
        let before = priority();
        take_turns(0, SHORT).unwrap();
        assert_eq!(priority(), before);
    }

    #[test]
    fn whoever_decides_steps_back_behind_whoever_answers() {
        let here = priority();
        let there = runtime(DECIDING).unwrap().block_on(async {
            // Who waits for a file does it in a thread that one of those makes who decide.
            let waits = async { tokio::task::spawn_blocking(priority).await };
            tokio::spawn(async { (priority(), waits.await.unwrap()) }).await
        });
        let back = (here + DECIDING).min(LAST);
        assert_eq!(there.unwrap(), (back, back));
        assert_eq!(priority(), here);
    }
}
