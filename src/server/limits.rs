//! How many files and sockets the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Ten thousand targets, as many TCP clients, and what else is open.
const WANTED: u64 = 65_536;

/// Raises the limit of open files as far as it may be, and tells how far that is.
pub(super) fn raise() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(WANTED).min(WANTED);
    if limit.current.is_some_and(|current| current < wanted) {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit }) {
            Ok(()) => limit.current = Some(wanted),
            Err(error) => {
                warn!(%error, open_files = limit.current, "the limit of open files stays");
            }
        }
    }
    limit.current.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}
