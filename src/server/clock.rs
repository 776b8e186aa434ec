//! The only place that reads a clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::time::Instant;

/// How often is looked whether the clock on the wall was set.
const LOOKED_EVERY: Duration = Duration::from_secs(60);

/// Counts the time since the machine was booted from a moment on the wall clock, so that it never
/// goes back, and goes on while the machine is suspended: what ends meanwhile has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Duration,
    epoch: Duration,
}

impl Clock {
    /// A clock that starts now.
    pub(super) fn start() -> Self {
        Self { started: since_boot(), epoch: on_the_wall() }
    }

    /// Now.
    pub(super) fn now(&self) -> Instant {
        Instant::default() + self.since_epoch()
    }

    fn since_epoch(&self) -> Duration {
        self.epoch + since_boot().saturating_sub(self.started)
    }

    /// By how many seconds the clock on the wall is ahead of this one, which goes on from how that
    /// was set at the start.
    pub(super) fn off(&self) -> f64 {
        on_the_wall().as_secs_f64() - self.since_epoch().as_secs_f64()
    }

    /// Keeps in `ahead` by how many seconds the clock on the wall is ahead.
    pub(super) async fn follow(self, ahead: Arc<AtomicI64>) {
        loop {
            ahead.store(whole(self.off()), Ordering::Relaxed);
            tokio::time::sleep(LOOKED_EVERY).await;
        }
    }

    /// The same moment on tokio's clock.
    pub(super) fn on_tokio(&self, moment: Instant) -> tokio::time::Instant {
        tokio::time::Instant::now() + moment.since(self.now())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "times have far fewer seconds")]
fn whole(seconds: f64) -> i64 {
    seconds.round() as i64
}

/// What the clock on the wall says, which may be set.
#[expect(clippy::disallowed_methods, reason = "this is the one place where time comes from")]
fn on_the_wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// How long ago the machine was booted, also while it was suspended (`clock_gettime(2)`), which the
/// standard library's clock leaves out.
fn since_boot() -> Duration {
    let read = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(read.tv_sec), u32::try_from(read.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs::read_to_string;
    use std::process::Command;

    use super::*;

    const INNER: &str = "server::clock::tests::it_counts_from_the_boot";

    /// In a time namespace whose boot was long ago, the clock that stands still while a machine is
    /// suspended and the one that does not are far apart.
    #[test]
    fn time_goes_on_while_the_machine_is_suspended() {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--time", "--boottime", "1000000", "--fork"]);
        command.arg(std::env::current_exe().unwrap()).args(["--exact", INNER, "--ignored"]);
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{output:?}");
    }

    #[test]
    fn a_wall_clock_that_is_set_later_is_told_of() {
        let Clock { started, epoch } = Clock::start();
        let hour = Duration::from_secs(3600);
        for (epoch, expected) in [(epoch, 0.0), (epoch - hour, 3600.0), (epoch + hour, -3600.0)] {
            let off = Clock { started, epoch }.off();
            assert!((off - expected).abs() < 60.0, "{off}");
        }
    }

    #[test]
    #[ignore = "run by the one above"]
    fn it_counts_from_the_boot() {
        let uptime = read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let ours = Clock::start().started.as_secs_f64();
        assert!(uptime > 1e6 && (ours - uptime).abs() < 60.0, "{ours} {uptime}");
    }
}
