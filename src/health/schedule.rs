//! When a target is probed, and how many outcomes make a verdict.
//!
//! With an interval I, a timeout τ, r re-probes and a gap g, a target that stops answering is
//! down after U(0, I) + (r + 1)·τ + r·g: 1.35 to 1.85 s by default, and never more than 1.975, when
//! the interval and all gaps are as long as they may be. One that refuses is down after
//! U(0, I) + r·g, and some round trips. One to which there is no way, as the network says at once,
//! is down when all others have had their turn too: after U(0, I) + I·(1 + j) + 2·g at most.

use std::time::Duration;

/// When a target is probed, and how many outcomes make a verdict.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Schedule {
    /// From one probe to the next.
    pub interval: Duration,
    /// How much longer or shorter than that it may be, in percent of it.
    pub jitter_percent: u32,
    /// How long a probe may take.
    pub timeout: Timeout,
    /// How many quick probes follow a first failure; all must fail for "down".
    pub reprobes: u32,
    /// How long after a failure the next quick probe comes.
    pub reprobe_gap: Duration,
    /// How many successes in a row bring a target back from "down".
    pub rise: u32,
    /// A success that took longer than this is a failure.
    pub slow_after: Option<Duration>,
    /// A connection is held open besides; when it ends, the next probe comes at once.
    pub hold: bool,
    /// How long a target that goes down a second time stays down at least; twice as long each
    /// time after that, up to [`Schedule::LONGEST_HOLD`].
    pub hold_down: Duration,
}

/// How long a probe may take.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Timeout {
    /// Four deviations above the mean of what its probes took, within these bounds (RFC 6298 §2).
    Auto {
        /// The least it may be.
        min: Duration,
        /// The most it may be; also the first probe's, of which nothing is known.
        max: Duration,
    },
    /// Always this long.
    Fixed(Duration),
}

impl Schedule {
    /// Half a second: with the re-probes a black hole is seen in less than 2 s. A probe costs the
    /// node about 0.1 ms of CPU (`cargo bench --bench probing`), so a core probes some 4,000
    /// targets at this pace.
    pub const INTERVAL: Duration = Duration::from_millis(500);
    /// Ten percent either way keeps many nodes from probing a target in step.
    pub const JITTER_PERCENT: u32 = 10;
    /// 300 ms is beyond nearly every round trip on Earth plus the server's work, and four of them
    /// fit in the two seconds.
    pub const TIMEOUT_MIN: Duration = Duration::from_millis(300);
    /// A target that needs longer than a second is not healthy for its clients either.
    pub const TIMEOUT_MAX: Duration = Duration::from_secs(1);
    /// Four probes in a row fail by chance at 1 % loss less than once in a year and a half.
    pub const REPROBES: u32 = 3;
    /// Long enough for a lost packet's queue to drain, short against the timeout.
    pub const REPROBE_GAP: Duration = Duration::from_millis(50);
    /// Half the gap either way, so that re-probes do not fall into step with bursts of loss.
    pub const REPROBE_JITTER_PERCENT: u32 = 50;
    /// Ten seconds, then twenty, forty: who flaps is away for longer than it is there, and one that
    /// failed once is back as soon as it has risen.
    pub const HOLD_DOWN: Duration = Duration::from_secs(10);
    /// Five minutes: longer is an operator's decision.
    pub const LONGEST_HOLD: Duration = Duration::from_secs(300);
    /// Ten minutes without a fault, twice the longest hold, make a target as good as new.
    pub const FLAP_MEMORY: Duration = Duration::from_secs(600);
    /// The usual interval, as long as it may be, and a gap; shorter than what a black hole takes.
    pub const LONGEST_WAVE: Duration = Duration::from_millis(600);
    /// Ten successes, five seconds: coming back is not urgent, and one answer is not health.
    pub const RISE: u32 = 10;
}

impl Schedule {
    /// How long what a probe saw may be believed: two intervals, and the probe itself.
    pub fn validity(&self) -> Duration {
        self.interval * 2 + self.longest_timeout()
    }

    /// From a target's last answer to its verdict, if the interval, all timeouts and all gaps are
    /// as long as they may be.
    pub fn longest_detection(&self) -> Duration {
        let gap = self.reprobe_gap + self.reprobe_gap * Self::REPROBE_JITTER_PERCENT / 100;
        let probes = self.longest_timeout().saturating_mul(self.reprobes.saturating_add(1));
        self.longest_interval() + probes + gap.saturating_mul(self.reprobes)
    }

    /// From a target's first answer to the verdict that it is back, if it is held down for as long
    /// as after its fourth return.
    pub fn longest_return(&self) -> Duration {
        let one = self.longest_interval() + self.longest_timeout();
        one.saturating_mul(self.rise) + self.hold(4)
    }

    fn longest_timeout(&self) -> Duration {
        match self.timeout {
            Timeout::Auto { max, .. } => max,
            Timeout::Fixed(timeout) => timeout,
        }
    }

    fn longest_interval(&self) -> Duration {
        self.interval + self.interval * self.jitter_percent.min(100) / 100
    }

    /// How many quick probes follow where this node's network loses many: at 30 % loss four in a
    /// row fail by chance every minute or two, and thirteen every other month.
    pub(super) fn reprobes_where_lost(&self) -> u32 {
        self.reprobes.saturating_mul(4)
    }

    /// For how long after a target's first failure others may have failed of the same cause and
    /// not been probed since: an interval, as far as it goes beside the usual one.
    pub(super) fn wave(&self) -> Duration {
        (self.longest_interval() + self.reprobe_gap).min(Self::LONGEST_WAVE)
    }

    /// How long a target is held down that went down `flaps` times soon after it had come back.
    pub(super) fn hold(&self, flaps: u32) -> Duration {
        let doublings = flaps.checked_sub(1).map(|doublings| 2u32.saturating_pow(doublings));
        let hold = doublings.map_or(Duration::ZERO, |times| self.hold_down.saturating_mul(times));
        hold.min(Self::LONGEST_HOLD.max(self.hold_down))
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            interval: Self::INTERVAL,
            jitter_percent: Self::JITTER_PERCENT,
            timeout: Timeout::Auto { min: Self::TIMEOUT_MIN, max: Self::TIMEOUT_MAX },
            reprobes: Self::REPROBES,
            reprobe_gap: Self::REPROBE_GAP,
            rise: Self::RISE,
            slow_after: None,
            hold: false,
            hold_down: Self::HOLD_DOWN,
        }
    }
}

/// The mean and deviation of what a target's successful probes took (RFC 6298 §2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct RoundTrip {
    mean: Option<Duration>,
    deviation: Duration,
}

impl RoundTrip {
    /// Learns from one more probe: weights of 1/8 for the mean and 1/4 for the deviation.
    pub(super) fn learn(&mut self, took: Duration) {
        match self.mean {
            None => {
                self.mean = Some(took);
                self.deviation = took / 2;
            }
            Some(mean) => {
                self.deviation = self.deviation * 3 / 4 + mean.abs_diff(took) / 4;
                self.mean = Some(mean * 7 / 8 + took / 8);
            }
        }
    }

    /// How long the next probe may take.
    pub(super) fn timeout(&self, rule: Timeout) -> Duration {
        match (rule, self.mean) {
            (Timeout::Fixed(timeout), _) => timeout,
            (Timeout::Auto { max, .. }, None) => max,
            (Timeout::Auto { min, max }, Some(mean)) => {
                (mean + self.deviation * 4).max(min).min(max)
            }
        }
    }
}
