//! Turns on a core: who may wait steps back behind those who answer.

use std::io;
use std::time::Duration;

use rustix::process::nice;

/// A tenth of the share of a core that those have who answer, and all of it while they have nothing
/// to do: also in a flood, what is changed because of it comes in soon.
const NICE: i32 = 10;

/// A little longer than others' turns, which need not wait for the end of such a one: whoever wakes
/// up to answer goes first (EEVDF, Linux 6.12; an older kernel takes no notice).
const TURN: Duration = Duration::from_millis(3);

/// The calling thread steps back (each has its own values, in Linux).
///
/// # Errors
/// The system's: it goes on as the others.
pub(super) fn step_back() -> io::Result<()> {
    nice(NICE)?;
    let mut how = of_this_thread()?;
    how.sched_runtime = u64::try_from(TURN.as_nanos()).unwrap_or(0);
    // SAFETY: the pointer is to a whole `sched_attr`, which tells its own size and lives through
    // the call; 0 is the calling thread (sched_setattr(2)).
    done(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const how, 0) })
}

/// How this thread gets its turns.
fn of_this_thread() -> io::Result<libc::sched_attr> {
    // SAFETY: all-zero is valid: numbers.
    let mut how: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of_val(&how);
    // SAFETY: the pointer is to room for so many octets, which lives through the call
    // (sched_getattr(2)).
    done(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut how, size, 0) })?;
    Ok(how)
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn only_the_thread_that_says_so_steps_back() {
        let before = of_this_thread().unwrap();
        let back = thread::spawn(|| step_back().and_then(|()| of_this_thread()));
        let back = back.join().unwrap().unwrap();
        assert_eq!(back.sched_nice, before.sched_nice + NICE);
        let after = of_this_thread().unwrap();
        assert_eq!(
            (after.sched_nice, after.sched_runtime),
            (before.sched_nice, before.sched_runtime)
        );
    }
}
