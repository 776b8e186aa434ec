//! Those who ask: classes of clients, each with the chain of layers between it and the answer.

use super::lag::Lag;

/// What a layer does with an answer. `every` is the mean time between lookups there, in seconds,
/// at random (Poisson); 0: so often that it does not matter.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Layer {
    /// A cache that follows the TTL, within its limits. Of a cycle of TTL + `every` it holds an
    /// answer for the TTL, so P(X > t) = (T − t)/(T + `every`).
    ///
    /// A cache behind it that counts the TTL down, as forwarders do, adds nothing.
    Cache {
        /// It holds no answer for less than this.
        min: f64,
        /// Nor for longer than this.
        max: f64,
        /// It asks again this part of the TTL before it ends, if anybody asks then.
        prefetch: f64,
        /// For so long past its end it gives an answer if no server answers (RFC 8767). It adds
        /// nothing to the lag behind a change.
        stale: f64,
        /// Seconds between lookups.
        every: f64,
    },
    /// A cache that first gives what it has, even if that has expired, and then asks again
    /// (`serve-expired` without a client timeout): whoever asks first after the change is told the
    /// old answer, unless it expired more than `limit` ago. For T ≤ t ≤ T + `limit` P(X > t) =
    /// (e^(−(t − T)/`every`) − e^(−`limit`/`every`)) ⋅ `every`/(T + `every`).
    StaleFirst {
        /// Seconds between lookups.
        every: f64,
        /// For how long an answer is still given after it has expired.
        limit: f64,
    },
    /// A layer that begins to count anew: a browser or a runtime that holds every answer for as
    /// long, whatever its TTL says.
    Hold {
        /// For how long, in seconds.
        seconds: f64,
        /// Seconds between lookups.
        every: f64,
    },
    /// Connections that are kept open while they are used: P(X > t) falls at the rate
    /// r⋅e^(−r⋅`idle`)⋅P(X > t − `idle`), with r = 1/`every`.
    Connection {
        /// Seconds between requests.
        every: f64,
        /// After so long without a request it is closed.
        idle: f64,
    },
    /// Whoever looked up once and never does again.
    Pinned,
}

impl Layer {
    /// A cache that follows the TTL, whatever it is, and is asked all the time.
    pub const HONEST: Self =
        Self::Cache { min: 0.0, max: f64::INFINITY, prefetch: 0.0, stale: 0.0, every: 0.0 };

    /// What it adds to the lag of answers that were given with `ttl` seconds.
    pub fn lag(&self, ttl: f64) -> Lag {
        match *self {
            Self::Cache { min, max, prefetch, every, .. } => {
                hold((ttl * (1.0 - prefetch)).max(min).min(max), every)
            }
            Self::Hold { seconds, every } => hold(seconds, every),
            Self::StaleFirst { every, limit } => stale_first(ttl, every, limit),
            Self::Connection { every, idle } => connection(every, idle),
            Self::Pinned => Lag::endless(),
        }
    }
}

/// What is held for `seconds` from its first use on.
fn hold(seconds: f64, every: f64) -> Lag {
    if seconds <= 0.0 {
        return Lag::none();
    }
    let cycle = seconds + every;
    Lag::of(seconds * seconds / (2.0 * cycle), seconds, |t| (seconds - t).max(0.0) / cycle)
}

fn stale_first(ttl: f64, every: f64, limit: f64) -> Lag {
    if every <= 0.0 {
        return hold(ttl, every);
    }
    let cycle = ttl + every;
    // Who asks later than that finds nothing.
    let late = (-limit / every).exp();
    let gone = if late > 0.0 { late * (1.0 + limit / every) } else { 0.0 };
    let mean = ttl * ttl / 2.0 + ttl * every * (1.0 - late) + every * every * (1.0 - gone);
    Lag::of(mean / cycle, ttl + limit, |t| {
        let stale = (-(t - ttl).max(0.0) / every).exp() - late;
        ((ttl - t).max(0.0) + every * stale.max(0.0)) / cycle
    })
}

/// In steps of at most so many seconds connections are followed.
const FINE: f64 = 0.05;

fn connection(every: f64, idle: f64) -> Lag {
    if idle <= 0.0 {
        return Lag::none();
    }
    if every <= 0.0 {
        return Lag::endless();
    }
    // A shorter time counts as one step: to follow it in shorter ones would take memory without
    // end.
    let idle = idle.max(FINE);
    let rate = 1.0 / every;
    let load = rate * idle;
    let mean = (load.exp_m1() - load) / rate;
    // The equation is followed in small steps, of which `idle` is a whole number.
    let steps = (idle / FINE).ceil();
    let step = idle / steps;
    let fall = rate * (-load).exp() * step;
    let mut shares = vec![1.0 - (-load).exp()];
    let back = whole(steps);
    while (shares.len() as f64) * step < super::HORIZON {
        let before = |row: usize| row.checked_sub(back).map_or(1.0, |row| shares[row]);
        let row = shares.len();
        let lost = fall * f64::midpoint(before(row - 1), before(row));
        let last = shares.last().copied().unwrap_or_default();
        shares.push((last - lost).max(0.0));
    }
    Lag::of(mean, f64::INFINITY, |t| {
        let place = t / step;
        let row = whole(place.floor());
        let (here, next) = (shares.get(row), shares.get(row + 1));
        let (Some(here), Some(next)) = (here, next) else {
            return shares.last().copied().unwrap_or_default();
        };
        here + (next - here) * (place - place.floor())
    })
}

/// A number that is whole and small as what it is.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
fn whole(number: f64) -> usize {
    number as usize
}

/// Clients that are alike: the same layers lie between them and the answer.
#[derive(Clone, PartialEq, Debug)]
pub struct Class {
    /// What they are called.
    pub name: String,
    /// Their share of the requests.
    pub share: f64,
    /// The layers, the resolver's first.
    pub layers: Vec<Layer>,
}

impl Class {
    /// Their lag behind answers with a TTL of `ttl` seconds.
    pub fn lag(&self, ttl: f64) -> Lag {
        self.layers.iter().fold(Lag::none(), |sum, layer| sum.plus(&layer.lag(ttl)))
    }
}

/// All who ask.
#[derive(Clone, PartialEq, Debug)]
pub struct Population {
    /// What it is called.
    pub name: String,
    /// Its classes; their shares sum to one.
    pub classes: Vec<Class>,
}

impl Population {
    /// The lag behind answers with a TTL of `ttl` seconds, of all requests together.
    ///
    /// The TTL is the one that the old answers were given with: to lower it helps only once the
    /// answers with the higher one are forgotten.
    pub fn lag(&self, ttl: f64) -> Lag {
        let lags: Vec<Lag> = self.classes.iter().map(|class| class.lag(ttl)).collect();
        Lag::mixed(self.classes.iter().map(|class| class.share).zip(&lags))
    }
}
