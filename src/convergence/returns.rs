//! How long answers really live: the time from an answer to the same question of the same resolver
//! for the same subnet.
//!
//! A resolver asks again when it has dropped the answer and somebody looks it up. At a moment taken
//! at random, as that of a change is, a time of `g` seconds is under way with a probability in
//! proportion to `g`, so each time counts as many seconds as it is long: what is counted is for how
//! long each resolver would have gone on with what it held, had the answer changed. No change has
//! to be waited for.
//!
//! A bounded number of resolvers is watched. Of all that come to a place the one with the smallest
//! hash has it, until it has not asked for two hours. The first to come would mostly be one that
//! asks often; a hash is the same however often it comes. It is seeded, so that nobody can choose
//! one: who asks very many questions has as many of the places as of the questions, and no more.

use std::cmp::Ordering;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};

use crate::time::{Instant, Ttl};

/// How many questions of resolvers are watched: one in a hundred of them is seen to a per cent.
const WATCHED: usize = 2048;

/// How many TTLs are told apart.
const TTLS: usize = 8;

/// Times are told apart to an eighth of their octave.
const PER_OCTAVE: f64 = 8.0;

/// Buckets up to [`FORGOTTEN`].
const BUCKETS: usize = 119;

/// Ticks in a second: what comes back within one is no other visit.
const TICKS: u64 = 4;

/// After so many ticks nobody remembers an answer: two hours.
const FORGOTTEN: u32 = 28_800;

/// What is watched. All threads write, without locks.
#[derive(Debug)]
pub struct Returns {
    places: Box<[AtomicU64]>,
    rows: [Row; TTLS],
}

#[derive(Debug, Default)]
struct Row {
    /// The TTL and one; 0: the row is free.
    ttl: AtomicU64,
    resolvers: AtomicU64,
    /// Ticks, by the length of the times that they are of.
    buckets: Box<[AtomicU64]>,
}

/// A place: who has it (24 bits), the tick of its last answer (32), the row of that answer's TTL
/// (7), and whether it was seen to come back (1). 0: nobody has it.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    fn new(who: u64, tick: u32, row: usize, is_back: bool) -> Self {
        Self((who >> 40) << 40 | u64::from(tick) << 8 | (row as u64) << 1 | u64::from(is_back))
    }

    /// Who has it, beside `who`.
    fn holder(self, who: u64) -> Ordering {
        (self.0 >> 40).cmp(&(who >> 40))
    }

    fn is_of(self, who: u64) -> bool {
        self.0 != 0 && self.holder(who).is_eq()
    }

    /// Ticks are counted around 2³²; two hours are far less.
    #[expect(clippy::cast_possible_truncation, reason = "the lower 32 bits are meant")]
    fn tick(self) -> u32 {
        (self.0 >> 8) as u32
    }

    fn row(self) -> usize {
        (self.0 >> 1 & 0x7f) as usize
    }

    fn is_back(self) -> bool {
        self.0 & 1 == 1
    }
}

impl Default for Returns {
    fn default() -> Self {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        let row = |_| Row { buckets: zeros(BUCKETS), ..Row::default() };
        Self { places: zeros(WATCHED), rows: std::array::from_fn(row) }
    }
}

impl Returns {
    /// `who` was answered: a hash of the resolver, the subnet and the question.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "lower bits are meant")]
    pub fn answered(&self, now: Instant, who: u64, ttl: Ttl) {
        let Some(place) = self.places.get(who as usize % WATCHED) else { return };
        let last = Place(place.load(Relaxed));
        let tick = (now.as_nanos() / (1_000_000_000 / TICKS)) as u32;
        let away = tick.wrapping_sub(last.tick());
        let is_over = match last.holder(who) {
            // Nearly always: a smaller hash has the place.
            Ordering::Less => last.0 == 0 || away >= FORGOTTEN,
            Ordering::Equal => away > 0,
            Ordering::Greater => true,
        };
        if is_over {
            self.visited((place, last), (who, tick), ttl);
        }
    }

    /// `who` comes to a place that it has, or that is free or a greater one's.
    #[cold]
    fn visited(&self, (place, last): (&AtomicU64, Place), (who, tick): (u64, u32), ttl: Ttl) {
        let Some(row) = self.row(ttl) else { return };
        let away = tick.wrapping_sub(last.tick());
        let is_return = last.is_of(who) && away < FORGOTTEN;
        let new = Place::new(who, tick, row, is_return || last.is_of(who) && last.is_back());
        let swapped = place.compare_exchange(last.0, new.0, Relaxed, Relaxed);
        if swapped.is_err() || !is_return {
            return;
        }
        let Some(row) = self.rows.get(last.row()) else { return };
        if !last.is_back() {
            row.resolvers.fetch_add(1, Relaxed);
        }
        if let Some(bucket) = row.buckets.get(bucket(f64::from(away))) {
            bucket.fetch_add(u64::from(away), Relaxed);
        }
    }

    /// The row of a TTL; none, if there are too many of them.
    fn row(&self, ttl: Ttl) -> Option<usize> {
        let own = u64::from(ttl.as_secs()) + 1;
        self.rows.iter().position(|row| {
            row.ttl.load(Relaxed) == own
                || row
                    .ttl
                    .compare_exchange(0, own, Relaxed, Relaxed)
                    .map_or_else(|held| held == own, |_| true)
        })
    }

    /// What was seen up to now, for each TTL.
    pub fn seen(&self) -> Vec<Seen> {
        let rows = self.rows.iter().filter_map(|row| {
            let ttl = row.ttl.load(Relaxed).checked_sub(1)?;
            let ticks = row.buckets.iter().map(|of| of.load(Relaxed));
            Some(Seen {
                ttl: u32::try_from(ttl).ok()?,
                resolvers: row.resolvers.load(Relaxed),
                seconds: ticks.map(|ticks| ticks as f64 / TICKS as f64).collect(),
            })
        });
        rows.filter(|seen| seen.resolvers > 0).collect()
    }
}

/// For how long resolvers went on with answers of one TTL.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// The TTL, in seconds.
    pub ttl: u32,
    /// How many questions of resolvers came back.
    pub resolvers: u64,
    /// By the length of the times, the seconds of all of that length: bucket *b* begins at
    /// 2^(b/8)/4 s.
    pub seconds: Vec<f64>,
}

/// The bucket of a time of so many ticks.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
fn bucket(ticks: f64) -> usize {
    (ticks.max(1.0).log2() * PER_OCTAVE) as usize
}

/// Where a bucket begins, in seconds.
pub(super) fn begin(bucket: usize) -> f64 {
    (bucket as f64 / PER_OCTAVE).exp2() / TICKS as f64
}
