//! Nodes that do not agree: for a time some still give the old answer.

use super::conflicts::{Conflicts, Writes};
use super::lag::Lag;

/// After a change `share` of the lookups is answered by nodes that do not know of it, for
/// `seconds`.
///
/// It does not matter for the shares whether each lookup picks a node at random or each resolver
/// keeps to one; it does for how often a resolver's answer flips.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Parting {
    /// Of all lookups, those that the nodes answer that do not know.
    pub share: f64,
    /// For how long they do not.
    pub seconds: f64,
}

impl Parting {
    /// The share of requests that go to the old region `seconds` after the change.
    ///
    /// What a request is told was fetched X before it: before the change, so that it is old; or
    /// since, but while the nodes disagreed, so that it is old in `share` of the cases. So
    /// S′(t) = S(t) + p⋅(S(t − D) − S(t)).
    pub fn after(&self, lag: &Lag, seconds: f64) -> f64 {
        let honest = lag.after(seconds);
        honest + self.share * (lag.after(seconds - self.seconds) - honest)
    }

    /// How many seconds' worth of requests go to the old region in all: E\[X\] + p⋅D.
    pub fn stale(&self, lag: &Lag) -> f64 {
        lag.mean() + self.share * self.seconds
    }

    /// The writes that meet while the nodes do not agree, one region taking `share` of them and
    /// another one the rest; and with `lag` also those after it, until all have moved.
    pub fn writes(&self, writes: &Writes, lag: Option<&Lag>) -> Conflicts {
        let during = writes.everyday(&[self.share, 1.0 - self.share]);
        let after =
            lag.map(|lag| writes.converging(lag, self.share, f64::INFINITY)).unwrap_or_default();
        Conflicts {
            pairs: after.pairs,
            writes: during.writes * self.seconds + after.writes,
            lost: during.lost * self.seconds + after.lost,
        }
    }

    /// How often one resolver's answer changes between its lookups meanwhile, if each lookup picks
    /// a node at random and the resolver asks again `every` seconds after its answer, that had
    /// `ttl` seconds, has ended: 2p(1 − p) for each two lookups in a row. The first change to the
    /// new answer is not counted.
    pub fn flips(&self, ttl: f64, every: f64) -> f64 {
        let pairs = (self.seconds / (ttl + every) - 1.0).max(0.0);
        2.0 * self.share * (1.0 - self.share) * pairs
    }

    /// How long after the change at most `share` of the requests still go to the old region.
    pub fn until(&self, lag: &Lag, share: f64) -> Option<f64> {
        // It only falls, and where it is looked for first it is low enough: what was fetched
        // since the nodes agreed is right.
        let (mut low, mut high) = (0.0, lag.until(share)? + self.seconds);
        for _ in 0..40 {
            let middle = f64::midpoint(low, high);
            if self.after(lag, middle) <= share + 1e-9 { high = middle } else { low = middle }
        }
        Some(high)
    }
}
