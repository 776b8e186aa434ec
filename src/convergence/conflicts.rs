//! Writes to two regions at once: how many meet on the same key.
//!
//! Everything is summed over the keys one by one. The sparse formula of Gray et al. ("The Dangers
//! of Replication and a Solution", SIGMOD 1996), N₁⋅N₂⋅Σp², overstates what a few hot keys cause
//! up to some hundredfold, as a key can be in conflict but once.

use super::lag::{HORIZON, Lag};

/// How writes spread over keys.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Popularity {
    /// All of `keys` are alike.
    Uniform {
        /// How many keys there are.
        keys: usize,
    },
    /// The k-th of `keys` is written to in proportion to k^−`exponent`.
    Zipf {
        /// How many keys there are.
        keys: usize,
        /// How steep it is: 0.8 to 1.2 are usual.
        exponent: f64,
    },
}

impl Popularity {
    /// The probability of each key.
    pub fn probabilities(&self) -> Vec<f64> {
        let (keys, exponent) = match *self {
            Self::Uniform { keys } => (keys, 0.0),
            Self::Zipf { keys, exponent } => (keys, exponent),
        };
        let weights: Vec<f64> = (1..=keys).map(|rank| (rank as f64).powf(-exponent)).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect()
    }
}

/// The writes of a service that clients spread over its keys.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Writes {
    /// Writes a second, of all clients.
    pub rate: f64,
    /// How long a write takes to the other region, in seconds.
    pub delay: f64,
    /// The keys that more than one client writes to.
    pub shared: Popularity,
    /// The share of the writes that go to keys which only one client writes to.
    pub private: f64,
    /// How often one such client writes, a second; 0: nothing is known of that.
    pub each: f64,
}

/// Writes that met.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Conflicts {
    /// Pairs of writes of which neither knew of the other.
    pub pairs: f64,
    /// Writes that are part of such a pair.
    pub writes: f64,
    /// Writes that the last writer wins over: a later one came within the delay.
    pub lost: f64,
}

impl Writes {
    /// While all is well, a second: the writes that meet another one, when regions take these
    /// shares of all writes: Σ a⋅p(1 − e^(−2Δbp)), with a one region's rate and b that of the
    /// others; and of these those that lose to a later one: the same with Δ.
    pub fn everyday(&self, shares: &[f64]) -> Conflicts {
        let rate = self.rate * (1.0 - self.private);
        let keys = self.shared.probabilities();
        let within = |window: f64| {
            let of = |share: &f64| met(&keys, rate * share, rate * (1.0 - share), window);
            shares.iter().map(of).sum()
        };
        Conflicts { pairs: 0.0, writes: within(2.0 * self.delay), lost: within(self.delay) }
    }

    /// While the share `moving` of all clients moves from one region to another by `lag`, for
    /// `until` seconds at most, and both replicate: two writes to a key meet that come to different
    /// regions within the delay.
    ///
    /// Pairs: 2Δ⋅Σp²⋅∫ab dt. Writes: ∫ Σ a⋅p(1 − e^(−2Δbp)) + b⋅p(1 − e^(−2Δap)) dt, with a and b
    /// the rates of writes to the old region and to all others. A client's own key meets only its
    /// own move: 1 − e^(−uΔ) a client.
    pub fn converging(&self, lag: &Lag, moving: f64, until: f64) -> Conflicts {
        let rate = self.rate * (1.0 - self.private);
        let keys = self.shared.probabilities();
        let collision: f64 = keys.iter().map(|share| share * share).sum();
        let both = |old, new, window| met(&keys, old, new, window) + met(&keys, new, old, window);
        let mut sum = Conflicts::default();
        for (share, seconds) in stairs(lag, until) {
            let (old, new) = (rate * share * moving, rate * (1.0 - share * moving));
            sum.pairs += 2.0 * self.delay * collision * old * new * seconds;
            sum.writes += both(old, new, 2.0 * self.delay) * seconds;
            sum.lost += both(old, new, self.delay) * seconds;
        }
        let clients = if self.each > 0.0 { self.rate * self.private / self.each } else { 0.0 };
        let own = clients * moving * (1.0 - lag.after(until)) * -(-self.each * self.delay).exp_m1();
        let Conflicts { pairs, writes, lost } = sum;
        Conflicts { pairs: pairs + own, writes: writes + 2.0 * own, lost: lost + own }
    }

    /// While all is well, a second: the writes that are dropped though they knew of the one that
    /// wins, when the last writer wins by clocks that are so many seconds `ahead`, and regions take
    /// these shares: Σ b⋅p(e^(−aΔp) − e^(−aδp)), with a the rate of writes to a region that is δ >
    /// Δ ahead of one that has the rate b. A hybrid logical clock makes it none.
    pub fn dropped(&self, shares: &[f64], ahead: &[f64]) -> f64 {
        let rate = self.rate * (1.0 - self.private);
        let regions = || shares.iter().map(|share| rate * share).zip(ahead);
        let pairs = regions().flat_map(|first| regions().map(move |other| (first, other)));
        let late = pairs.filter(|((_, first), (_, other))| *first - *other > self.delay);
        let late: Vec<_> = late.collect();
        if late.is_empty() {
            return 0.0;
        }
        let keys = self.shared.probabilities();
        let of_pair = |((fast, first), (slow, other)): &((f64, &f64), (f64, &f64))| {
            let none = |seconds: f64, key: f64| (-fast * key * seconds).exp();
            let of_key =
                |key: &f64| slow * key * (none(self.delay, *key) - none(*first - *other, *key));
            keys.iter().map(of_key).sum::<f64>()
        };
        late.iter().map(of_pair).sum()
    }

    /// While the regions hear nothing of each other: each takes so many writes of all clients.
    ///
    /// A key is in conflict that both write to: Σ (1 − e^(−N₁p))(1 − e^(−N₂p)). If only the last
    /// value counts, one acknowledged value is lost for each. If every write counts, as for lists
    /// and counters that are kept as one value, all that the loser took is lost: Σ 2ab(1/c − (1 −
    /// e^(−c))/c²), with a = N₁p, b = N₂p and c = a + b.
    pub fn parted(&self, old: f64, new: f64) -> Parted {
        let (old, new) = (old * (1.0 - self.private), new * (1.0 - self.private));
        let mut parted = Parted::default();
        for key in self.shared.probabilities() {
            let (a, b) = (old * key, new * key);
            parted.keys += (-a).exp_m1() * (-b).exp_m1();
            parted.writes -= a * (-b).exp_m1() + b * (-a).exp_m1();
            parted.every += both(a, b);
        }
        parted
    }
}

/// Of writes that come at the rate `one`, those that meet one of the rate `other` within a window.
fn met(keys: &[f64], one: f64, other: f64, window: f64) -> f64 {
    keys.iter().map(|key| one * key * -(-window * other * key).exp_m1()).sum()
}

/// What is lost of the writes to one key, if all count: 2ab(1/c − (1 − e^(−c))/c²).
fn both(a: f64, b: f64) -> f64 {
    let c = a + b;
    if c < 1e-4 {
        // The same by its series, where the difference of two large numbers is only noise.
        return 2.0 * a * b * (0.5 - c / 6.0);
    }
    2.0 * a * b * (1.0 / c + (-c).exp_m1() / (c * c))
}

/// Into how many stairs a lag is cut.
const STAIRS: usize = 200;

/// The lag up to `until` as stairs: a share of requests that go to the old region, and for how many
/// seconds.
fn stairs(lag: &Lag, until: f64) -> Vec<(f64, f64)> {
    let height = 1.0 / STAIRS as f64;
    let end = until.min(HORIZON);
    let at = |stair: usize| lag.until(1.0 - stair as f64 * height).map_or(end, |at| at.min(end));
    let middle = |stair: usize| 1.0 - (stair as f64 + 0.5) * height;
    (0..STAIRS).map(|stair| (middle(stair), at(stair + 1) - at(stair))).collect()
}

/// What regions that heard nothing of each other have to settle.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Parted {
    /// Keys that both wrote to; values lost where only the last one counts.
    pub keys: f64,
    /// Writes that are in conflict.
    pub writes: f64,
    /// Writes lost where every one counts.
    pub every: f64,
}
