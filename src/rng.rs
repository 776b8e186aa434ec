//! Randomness as a value: one seed gives any number of named streams.
//!
//! A stream depends on the seed and on its name alone, so that a new consumer somewhere does not
//! change what the others draw, and a failing simulation replays exactly. Not for secrets.

use std::time::Duration;

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng as _;

/// What all streams of one world grow from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seed(u64);

impl Seed {
    /// The seed `value`. The server takes it from the system's entropy, a test picks it.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The stream called `name`.
    pub fn stream(self, name: &str) -> Stream {
        Stream(Pcg64Mcg::new(u128::from(self.0) << 64 | u128::from(fnv1a(name.as_bytes()))))
    }
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream(Pcg64Mcg);

impl Stream {
    /// A number below `bound`; 0 when `bound` is 0. The bias is below 2⁻³² for bounds below 2³².
    pub fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.0.next_u64()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// A number from 0 to 1, without 1.
    pub fn unit(&mut self) -> f64 {
        // As many bits as fit.
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// `span` made longer or shorter by at most `percent` of itself.
    pub fn jitter(&mut self, span: Duration, percent: u32) -> Duration {
        let reach = span * percent / 100;
        let width = u64::try_from(reach.as_nanos() * 2).unwrap_or(u64::MAX);
        span - reach + Duration::from_nanos(self.below(width))
    }
}

/// FNV-1a, 64 bits: a short hash that is the same everywhere
/// (Fowler, Noll, Vo; RFC 9923).
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ_by_name() {
        let draw = |name| {
            let mut stream = Seed::new(7).stream(name);
            [stream.below(u64::MAX), stream.below(u64::MAX)]
        };
        assert_eq!(draw("probe"), draw("probe"));
        assert_ne!(draw("probe"), draw("phase"));
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let mut stream = Seed::new(1).stream("jitter");
        let span = Duration::from_millis(500);
        let spread: Vec<Duration> = (0..1000).map(|_| stream.jitter(span, 10)).collect();
        let bounds = Duration::from_millis(450)..=Duration::from_millis(550);
        assert!(spread.iter().all(|drawn| bounds.contains(drawn)));
        assert!(spread.iter().any(|drawn| *drawn < Duration::from_millis(460)));
    }
}
