//! Time as a value: what the core is handed instead of a clock.
//!
//! An [`Instant`] is a number of nanoseconds since the Unix epoch on a clock that never goes
//! back. The server anchors it once to the wall clock and then counts monotonic time; the tests
//! and the simulator count their own. Nothing below `server/` reads a clock.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment, in nanoseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(u64);

impl Instant {
    /// The moment `nanos` nanoseconds after the Unix epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    #[inline]
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000_000
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Later by a duration; the end of time (the year 2554) is as far as it goes.
impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }
}

/// Earlier by a duration; the epoch is as far as it goes.
impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(span)))
    }
}

/// From a TTL's end to when a cache has surely forgotten: answers travel, and caches count in whole
/// seconds.
pub const TRAVEL: Duration = Duration::from_secs(2);

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A time to live, in whole seconds, at most 2³¹ − 1 (RFC 2181 §8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Ttl(u32);

impl Ttl {
    /// The longest TTL there is, 2³¹ − 1 seconds (RFC 2181 §8).
    pub const MAX: Self = Self(i32::MAX as u32);

    /// A TTL of `seconds`. RFC 2181 §8: a value with the top bit set is treated as zero.
    pub const fn from_secs(seconds: u32) -> Self {
        if seconds > Self::MAX.0 { Self(0) } else { Self(seconds) }
    }

    /// Whole seconds.
    pub const fn as_secs(self) -> u32 {
        self.0
    }

    /// The same span as a duration.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

/// As it is written in the configuration: `30s`.
impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates_at_both_ends() {
        let start = Instant::default();
        assert_eq!(start - Duration::from_secs(1), start);
        assert_eq!(start + Duration::MAX, Instant::from_nanos(u64::MAX));
        assert_eq!(start.since(start + Duration::from_secs(1)), Duration::ZERO);
    }

    #[test]
    fn a_ttl_with_the_top_bit_set_is_zero() {
        assert_eq!(Ttl::from_secs(0x8000_0000), Ttl::default());
        assert_eq!(Ttl::from_secs(0x7fff_ffff), Ttl::MAX);
    }
}
