//! That something could not be kept: logged once, and shown until something is kept again.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::counter;
use tracing::{info, warn};

use super::UNDONE;

/// Why the last thing that was to be kept could not be.
#[derive(Clone, Debug, Default)]
pub(super) struct Fault {
    folder: Option<Arc<Path>>,
    /// It is told otherwise that nothing is kept.
    is_known: bool,
    why: Arc<Mutex<Option<String>>>,
}

impl Fault {
    /// None yet, of what is kept in `folder`.
    pub(super) fn seen(folder: &Path) -> Self {
        Self { folder: Some(folder.into()), ..Self::default() }
    }

    /// The same, where it is told otherwise that nothing is kept.
    pub(super) fn known(folder: &Path) -> Self {
        Self { is_known: true, ..Self::seen(folder) }
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

    /// Why the last thing could not be kept.
    pub(super) fn told(&self) -> Option<String> {
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        why.clone().filter(|_| !self.is_known)
    }
}
