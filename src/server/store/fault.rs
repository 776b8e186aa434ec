//! That something could not be kept, or is not yet: logged once, and shown until something is kept
//! again.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::counter;
use tracing::{info, warn};

use super::super::clock::Clock;
use super::UNDONE;
use crate::time::Instant;

/// Disks that do anything at all do it within seconds, and another process that has the database
/// lets go of it within one.
const LONG: Duration = Duration::from_secs(5);

/// Why the last thing that was to be kept could not be.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    folder: Option<Arc<Path>>,
    /// It is told otherwise that nothing is kept.
    is_known: bool,
    why: Arc<Mutex<Option<String>>>,
    /// For spans of time alone.
    clock: Clock,
    /// Since when something is being written, if something is.
    writing: Arc<Mutex<Option<Instant>>>,
}

impl Fault {
    /// None yet, of what is kept in memory.
    pub(super) fn none() -> Self {
        let (clock, why, writing) = (Clock::start(), Arc::default(), Arc::default());
        Self { folder: None, is_known: false, why, clock, writing }
    }

    /// None yet, of what is kept in `folder`.
    pub(super) fn seen(folder: &Path) -> Self {
        Self { folder: Some(folder.into()), ..Self::none() }
    }

    /// The same, where it is told otherwise that nothing is kept.
    pub(super) fn known(folder: &Path) -> Self {
        Self { is_known: true, ..Self::seen(folder) }
    }

    /// Something is being written from now on, or nothing is.
    pub(super) fn set_writing(&self, is_writing: bool) {
        let since = is_writing.then(|| self.clock.now());
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// For how long what is being written has been waiting for the disk.
    pub(super) fn waiting(&self) -> Duration {
        let since = *self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| self.clock.now().since(since))
    }

    /// Something was kept, or was not; gives it back, and the reason with where that was.
    pub(super) fn note<T>(&self, kept: Result<T, String>) -> Result<T, String> {
        let kept = kept.map_err(|reason| match &self.folder {
            Some(folder) => format!("{}: {reason}", folder.display()),
            None => reason,
        });
        let mut why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        match &kept {
            Err(error) => {
                counter!("meridian_state_lost_total").increment(1);
                // The first reason, but for what was only undone with something else.
                if why.as_ref().is_none_or(|why| why.ends_with(UNDONE) && why != error) {
                    warn!(error, "what happens cannot be kept");
                    *why = Some(error.clone());
                }
            }
            Ok(_) if why.take().is_some() => info!("what happens is kept again"),
            Ok(_) => {}
        }
        kept
    }

    /// Why the last thing could not be kept, or is not yet.
    pub(super) fn told(&self) -> Option<String> {
        let waiting = self.waiting();
        if let Some(folder) = self.folder.as_ref().filter(|_| waiting >= LONG) {
            let (folder, span) = (folder.display(), waiting.as_secs());
            return Some(format!("{folder}: the disk has not answered for {span} s"));
        }
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        why.clone().filter(|_| !self.is_known)
    }
}
