//! The only place that reads a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::time::Instant;

/// Counts monotonic time from a moment on the wall clock, so that it never goes back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: std::time::Instant,
    epoch: Duration,
}

#[expect(clippy::disallowed_methods, reason = "this is the one place where time comes from")]
impl Clock {
    /// A clock that starts now.
    pub(super) fn start() -> Self {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: std::time::Instant::now(), epoch }
    }

    /// Now.
    pub(super) fn now(&self) -> Instant {
        Instant::default() + self.epoch + self.started.elapsed()
    }

    /// The same moment on tokio's clock.
    pub(super) fn on_tokio(&self, moment: Instant) -> tokio::time::Instant {
        let since_start = moment.since(Instant::default() + self.epoch);
        tokio::time::Instant::from_std(self.started + since_start)
    }
}
