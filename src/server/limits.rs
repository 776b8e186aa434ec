//! How many files and sockets the process may have open.

use std::io;

use tracing::warn;

/// Ten thousand targets, as many TCP clients, and what else is open.
const WANTED: libc::rlim_t = 65_536;

/// Raises the limit of open files as far as it may be, and tells how far that is.
pub(super) fn raise() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a limit that lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 1024;
    }
    let wanted = libc::rlimit { rlim_cur: limit.rlim_max.min(WANTED), ..limit };
    if wanted.rlim_cur > limit.rlim_cur {
        // SAFETY: the pointer is to a limit that lives through the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) } == 0 {
            limit = wanted;
        } else {
            let error = io::Error::last_os_error();
            warn!(%error, open_files = limit.rlim_cur, "the limit of open files stays");
        }
    }
    usize::try_from(limit.rlim_cur).unwrap_or(1024)
}
