//! The exposure ledger: how many answers that name a region may still be remembered, and until
//! when.
//!
//! Each worker writes a page of its own, without locks; whoever reads sums the pages up. A row is a
//! region of a service. It is a ring of buckets by the time when the answers in them end, so that
//! its memory is bounded whatever is asked, and is made when the row's first answer is given.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::Ttl;

/// How many buckets a row has.
const BUCKETS: u64 = 64;

/// The width of the buckets for answers with `ttl` at most, in seconds, so that those of one TTL
/// never come round: up to a minute they are told apart by the second.
pub fn width(ttl: Ttl) -> u32 {
    ttl.as_secs() / 60 + 1
}

/// What one worker has answered.
#[derive(Debug)]
pub struct Page {
    rows: Box<[Row]>,
}

#[derive(Debug)]
struct Row {
    width: u32,
    buckets: OnceLock<Box<[AtomicU64]>>,
}

/// What may still be remembered of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Remaining {
    /// How many answers.
    pub answers: u64,
    /// When the last of them is forgotten, in seconds since the Unix epoch; 0: there is none.
    pub until: u64,
}

impl Remaining {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self { answers: self.answers + other.answers, until: self.until.max(other.until) }
    }
}

impl Page {
    /// A page with rows whose buckets are so wide.
    pub fn new(widths: impl IntoIterator<Item = u32>) -> Self {
        let row = |width: u32| Row { width: width.max(1), buckets: OnceLock::new() };
        Self { rows: widths.into_iter().map(row).collect() }
    }

    /// So many answers were given that are forgotten at `ends`, in seconds since the Unix epoch.
    pub fn add(&self, row: usize, ends: u64, count: u32) {
        let Some(row) = self.rows.get(row) else { return };
        let make = || (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        let buckets = row.buckets.get_or_init(make);
        let number = ends / u64::from(row.width);
        let Some(bucket) = buckets.get((number % BUCKETS) as usize) else { return };
        // The upper half says which time around the ring it is, the lower half counts.
        let _always = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            let before = if held >> 32 == number { held & COUNT } else { 0 };
            Some(number << 32 | (before + u64::from(count)).min(COUNT))
        });
    }

    /// What of a row may still be remembered at `now`, in seconds since the Unix epoch.
    pub fn remaining(&self, row: usize, now: u64) -> Remaining {
        self.unexpired(row, now).fold(Remaining::default(), |sum, (until, answers)| {
            sum.plus(Remaining { answers: u64::from(answers), until })
        })
    }

    /// The same bucket by bucket: until when, and how many.
    pub fn unexpired(&self, row: usize, now: u64) -> impl Iterator<Item = (u64, u32)> {
        let row = self.rows.get(row);
        let width = row.map_or(1, |row| u64::from(row.width));
        let buckets = row.and_then(|row| row.buckets.get()).into_iter().flatten();
        buckets.filter_map(move |bucket| {
            let held = bucket.load(Ordering::Relaxed);
            let until = ((held >> 32) + 1) * width;
            let count = u32::try_from(held & COUNT).unwrap_or(u32::MAX);
            (count > 0 && until > now).then_some((until, count))
        })
    }
}

/// The half of a bucket that counts.
const COUNT: u64 = u32::MAX as u64;
