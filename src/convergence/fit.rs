//! From times between visits to classes of resolvers: which mixture makes them likeliest.
//!
//! The times are those of [`Returns`](super::Returns), where each counts by its length. A cache
//! that holds an answer for T seconds and is then looked up every e seconds at random comes back
//! after g = T + Exp(e), which counts with the density g⋅e^(−(g−T)/e)/(e⋅(T+e)). The shares of the
//! classes are found by expectation maximisation (Dempster, Laird, Rubin 1977), over all TTLs
//! together; how sure they are, by drawing as many resolvers as there were from what was seen,
//! again and again (Efron 1979).
//!
//! Not to be told apart by when they come back are caches that give what has expired first from
//! those that do not; and who comes back much sooner than the TTL is an address with several caches
//! behind it, or one that holds answers for a shorter time: it is told, and not fitted.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::population::Layer;
use super::returns::{Seen, begin};
use crate::rng::{Seed, Stream};

/// What resolvers do, by when they came back.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Fit {
    /// How many questions of resolvers it is from.
    pub resolvers: u64,
    /// The share of those that come back sooner than a cache would.
    pub sooner: f64,
    /// What the others do, the greatest share first.
    pub kinds: Vec<Kind>,
}

/// One kind of resolver.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Kind {
    /// It holds an answer for so many seconds at least, whatever its TTL.
    pub min_ttl: f64,
    /// It is looked up every so many seconds, in the mean; 0: all the time.
    pub every: f64,
    /// Its share.
    pub share: f64,
    /// The share is with a probability of 90 % at least this, and at most that.
    pub between: [f64; 2],
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min_ttl, self.every) {
            (0.0, 0.0) => f.write_str("follows the TTL"),
            (0.0, every) => write!(f, "asked every {every} s"),
            (min, 0.0) => write!(f, "holds for {min} s at least"),
            (min, every) => write!(f, "holds for {min} s at least and asked every {every} s"),
        }
    }
}

impl Kind {
    /// What it does with an answer.
    pub fn layer(&self) -> Layer {
        let (max, prefetch, stale) = (f64::INFINITY, 0.0, 0.0);
        Layer::Cache { min: self.min_ttl, max, prefetch, stale, every: self.every }
    }
}

/// Of whom the mixture is made: what is held at least, and how often it is looked up.
const KINDS: [(f64, f64); 14] = [
    (0.0, 0.0),
    (0.0, 10.0),
    (0.0, 60.0),
    (0.0, 300.0),
    (0.0, 1800.0),
    (10.0, 0.0),
    (30.0, 0.0),
    (60.0, 0.0),
    (60.0, 60.0),
    (300.0, 0.0),
    (300.0, 300.0),
    (900.0, 0.0),
    (1800.0, 0.0),
    (3600.0, 0.0),
];

/// A resolver that comes back before this part of the TTL is none that follows it: caches that
/// prefetch do so in the last tenth.
const SOONER: f64 = 0.85;

/// Caches count in whole seconds, and answers travel: so much later or sooner they come back.
const EARLY: f64 = 0.25;
const LATE: f64 = 1.25;

/// A kind with less is left out: below it no kind is told from another.
const LEAST: f64 = 0.005;

const STEPS: usize = 200;
const DRAWS: usize = 60;

/// The mixture that makes what was seen likeliest; none, if nobody came back.
pub fn fit(seen: &[Seen]) -> Option<Fit> {
    let resolvers: u64 = seen.iter().map(|row| row.resolvers).sum();
    let rows: Vec<Counted> = seen.iter().flat_map(counted).collect();
    let fitted: f64 = rows.iter().map(|row| row.count).sum();
    if fitted <= 0.0 {
        return None;
    }
    // What is held for less than the shortest TTL anyway cannot be told from what follows it.
    let least = seen.iter().map(|row| f64::from(row.ttl)).fold(f64::INFINITY, f64::min);
    let first = KINDS.map(|(min, _)| f64::from(min == 0.0 || min > least + LATE));
    let shares = mixture(&rows, &first);
    let mut dice = Seed::new(0).stream("fit");
    let drawn: Vec<Vec<f64>> =
        (0..DRAWS).map(|_| mixture(&drawn(&rows, fitted, &mut dice), &first)).collect();
    let mut kinds: Vec<Kind> = KINDS
        .iter()
        .enumerate()
        .map(|(row, (min_ttl, every))| {
            let mut of: Vec<f64> = drawn.iter().filter_map(|of| of.get(row).copied()).collect();
            of.sort_by(f64::total_cmp);
            let at = |part: usize| of.get(of.len() * part / 20).copied().unwrap_or_default();
            let share = shares.get(row).copied().unwrap_or_default();
            Kind { min_ttl: *min_ttl, every: *every, share, between: [at(1), at(19)] }
        })
        .collect();
    kinds.retain(|kind| kind.share >= LEAST);
    kinds.sort_by(|a, b| b.share.total_cmp(&a.share));
    let kept: f64 = kinds.iter().map(|kind| kind.share).sum();
    kinds.iter_mut().for_each(|kind| kind.share /= kept);
    Some(Fit { resolvers, sooner: 1.0 - fitted / resolvers as f64, kinds })
}

/// So many resolvers came back after times of one length; and how likely that is for each kind.
#[derive(Clone)]
struct Counted {
    count: f64,
    likely: [f64; KINDS.len()],
}

/// What was seen of one TTL, but for those that came back too soon.
fn counted(seen: &Seen) -> Vec<Counted> {
    let ttl = f64::from(seen.ttl);
    let all: f64 = seen.seconds.iter().sum();
    let buckets = seen.seconds.iter().enumerate().filter(|(_, seconds)| **seconds > 0.0);
    let late = buckets.filter(|(bucket, _)| begin(bucket + 1) > ttl * SOONER - EARLY);
    late.map(|(bucket, seconds)| Counted {
        count: seconds / all * seen.resolvers as f64,
        likely: KINDS
            .map(|(min, every)| likely(ttl.max(min), every, (begin(bucket), begin(bucket + 1)))),
    })
    .collect()
}

/// How much of the time of a kind that holds for `ttl` is of times between two lengths.
fn likely(ttl: f64, every: f64, (from, to): (f64, f64)) -> f64 {
    // Nothing is impossible: a packet may be lost.
    const LOST: f64 = 1e-6;
    let (first, last) = (ttl - EARLY, ttl + LATE);
    if every <= 0.0 {
        let (from, to) = (from.max(first), to.min(last));
        return LOST + (to - from).max(0.0) / (last - first);
    }
    // ∫ g⋅e^(−(g−T)/e)/e dg = −(g + e)⋅e^(−(g−T)/e)
    let above = |g: f64| {
        let g = g.max(first);
        (g + every) * (-(g - first) / every).exp() / (first + every)
    };
    LOST + (above(from) - above(to)).max(0.0)
}

/// The shares of the kinds that make it likeliest, from `first` on; none stays none.
fn mixture(rows: &[Counted], first: &[f64]) -> Vec<f64> {
    let all: f64 = rows.iter().map(|row| row.count).sum();
    let mut shares = first.to_vec();
    for _ in 0..STEPS {
        let mut next = vec![0.0; KINDS.len()];
        for row in rows {
            let together: f64 = shares.iter().zip(&row.likely).map(|(share, of)| share * of).sum();
            for ((next, share), likely) in next.iter_mut().zip(&shares).zip(&row.likely) {
                *next += row.count / all * share * likely / together;
            }
        }
        shares = next;
    }
    shares
}

/// As many resolvers, drawn from those that were seen.
fn drawn(rows: &[Counted], count: f64, dice: &mut Stream) -> Vec<Counted> {
    let mut drawn = rows.to_vec();
    drawn.iter_mut().for_each(|row| row.count = 0.0);
    let mut left = count.round().max(1.0);
    while left > 0.0 {
        let mut place = dice.unit() * count;
        let of = rows.iter().position(|row| {
            place -= row.count;
            place < 0.0
        });
        if let Some(row) = of.and_then(|row| drawn.get_mut(row)) {
            row.count += 1.0;
        }
        left -= 1.0;
    }
    drawn
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Returns;
    use super::*;
    use crate::time::{Instant, Ttl};

    /// Resolvers of these kinds, with these shares, that ask for so many seconds.
    fn watched(ttl: u32, seconds: u64, kinds: &[(f64, f64, f64)]) -> Returns {
        let returns = Returns::default();
        let mut dice = Seed::new(1).stream("resolvers");
        let begin = Instant::default() + Duration::from_secs(1_000_000);
        for row in 0..1500_u32 {
            // As a hash is.
            let who = u64::from(row).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
            let mut place = f64::from(row) / 1500.0;
            let kind = kinds.iter().find(|(share, ..)| {
                place -= share;
                place < 0.0
            });
            let (_, min, every) = *kind.unwrap();
            let mut at = begin + Duration::from_secs_f64(dice.unit() * 60.0);
            while at < begin + Duration::from_secs(seconds) {
                returns.answered(at, who, Ttl::from_secs(ttl));
                let holds = f64::from(ttl).max(min) + dice.unit();
                let idle = -every * (1.0 - dice.unit()).ln();
                at = at + Duration::from_secs_f64(holds + idle);
            }
        }
        returns
    }

    #[test]
    fn the_shares_of_what_resolvers_do_are_found() {
        for ttl in [20, 30] {
            let kinds = [(0.5, 0.0, 0.0), (0.3, 0.0, 60.0), (0.2, 300.0, 0.0)];
            let fit = fit(&watched(ttl, 7200, &kinds).seen()).unwrap();
            assert!(fit.sooner < 0.01, "{fit:?}");
            for (share, min, every) in kinds {
                let of = |kind: &&Kind| kind.min_ttl == min && kind.every == every;
                let found = fit.kinds.iter().find(of).unwrap();
                assert!((found.share - share).abs() < 0.06, "TTL {ttl}: {found:?}, not {share}");
                let [low, high] = found.between;
                assert!(low < found.share && found.share < high && high - low < 0.2, "{found:?}");
            }
        }
    }

    #[test]
    fn an_address_with_several_caches_behind_it_is_told_and_not_fitted() {
        let returns = watched(30, 3600, &[(1.0, 0.0, 0.0)]);
        let begin = Instant::default() + Duration::from_secs(1_000_000);
        for second in 0..3600 {
            let at = begin + Duration::from_secs(second * 5);
            returns.answered(at, u64::MAX, Ttl::from_secs(30));
        }
        let fit = fit(&returns.seen()).unwrap();
        assert!(fit.sooner > 0.0 && fit.sooner < 0.01, "{fit:?}");
        assert_eq!(fit.kinds.len(), 1, "{fit:?}");
    }

    #[test]
    fn without_returns_there_is_no_fit() {
        assert_eq!(fit(&Returns::default().seen()), None);
    }
}
