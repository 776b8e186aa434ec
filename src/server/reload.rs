//! Looks for changed files, and serves what is in them if it is good.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tracing::{error, warn};

use super::clock::Clock;
use super::files::Print;
use super::handle::Handle;
use super::load::{Loader, Refused};
use super::{memory, turns};

/// How often files are looked at. A change counts when it looks the same twice: a file that is
/// just being written is not read.
const LOOK: Duration = Duration::from_millis(500);

/// Reloads whenever a file that counts has changed, or `asked` says so, until nobody can ask.
pub(super) fn watch(clock: Clock, mut loader: Loader, asked: &Receiver<()>, control: &Handle) {
    turns::read_last();
    let mut seen: Option<Vec<Print>> = None;
    // What was replaced is let go of as soon as nobody answers from it.
    let mut is_untidy = true;
    loop {
        let is_due = match asked.recv_timeout(LOOK) {
            Ok(()) => true,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let changes = loader.changes();
                let is_due = changes.is_some() && changes == seen;
                seen = changes;
                is_untidy |= loader.rest();
                if !is_due && is_untidy {
                    let Some(is_all_gone) = control.let_go(clock.now()) else { return };
                    if is_all_gone {
                        memory::tidy_up();
                    }
                    is_untidy = !is_all_gone;
                }
                is_due
            }
        };
        if is_due {
            (seen, is_untidy) = (None, true);
            let loaded = loader.load();
            for warning in loaded.iter().flat_map(|loaded| &loaded.config.warnings) {
                warn!(%warning, "reload");
            }
            let targets = loaded.iter().flat_map(|loaded| loaded.probes.keys().copied()).collect();
            let Some(result) = control.apply(loaded) else { return };
            if result.is_ok() {
                loader.forget_others(&targets);
            }
            tell(&result);
        }
    }
}

/// Logs every problem; that there was a reload is told where it is counted.
fn tell(result: &Result<(), Refused>) {
    let problems = result.as_ref().err().map(|refused| refused.problems.as_slice());
    for problem in problems.unwrap_or_default() {
        if problem.is_warning {
            warn!(%problem, "reload");
        } else {
            error!(%problem, "reload");
        }
    }
}
