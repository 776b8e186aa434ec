//! The exposure ledger: how many answers that name a region may still be remembered, and until
//! when.
//!
//! Each worker writes a page of its own, without locks; whoever reads sums the pages up. A row is a
//! region of a service. It is a ring of buckets by the time when the answers in them end, so that
//! its memory is bounded whatever is asked, and is made when the row's first answer is given. How
//! often a row was named first is counted beside it, as that is no way farther.

use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::prefetch::prefetch;
use crate::time::Ttl;

/// How many buckets a row has.
const BUCKETS: usize = 64;

/// The width of the buckets for answers with `ttl` at most, in seconds, so that those of one TTL
/// never come round: up to a minute they are told apart by the second.
pub fn width(ttl: Ttl) -> u32 {
    ttl.as_secs() / 60 + 1
}

/// What one worker has answered, or several.
#[derive(Debug)]
pub struct Page {
    widths: Arc<[u32]>,
    rows: Box<[OnceLock<Box<Row>>]>,
}

/// In one place in memory, as it is far from everything else.
#[derive(Debug)]
struct Row {
    /// How many answers ever named it first.
    first: AtomicU64,
    /// Of how many of them is told.
    told: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
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
    /// A page with rows whose buckets are so wide, in seconds.
    pub fn new(widths: Arc<[u32]>) -> Self {
        let rows = widths.iter().map(|_| OnceLock::new()).collect();
        Self { widths, rows }
    }

    /// So many answers were given that are forgotten at `ends`, in seconds since the Unix epoch.
    pub fn add(&self, row: usize, ends: u64, count: u32) {
        let Some((bucket, number)) = self.bucket(row, ends) else { return };
        let counted = |held| Some(counted(held, number, count));
        let _always = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted);
    }

    /// The same on a page on which nobody else writes: it costs less.
    pub fn add_alone(&self, row: usize, ends: u64, count: u32) {
        let Some((bucket, number)) = self.bucket(row, ends) else { return };
        let held = bucket.load(Ordering::Relaxed);
        bucket.store(counted(held, number, count), Ordering::Relaxed);
    }

    /// Has the processor fetch what leads to a row. Whoever has many takes all of them through one
    /// step after the other.
    pub fn approach(&self, row: usize) {
        prefetch(&self.rows, row);
        prefetch(&self.widths, row);
    }

    /// The second step: what is written for an answer that is forgotten at `ends`.
    pub fn near(&self, row: usize, ends: u64) {
        if let Some(made) = self.rows.get(row).and_then(OnceLock::get) {
            prefetch(slice::from_ref(&made.first), 0);
            prefetch(&made.buckets, place(ends / self.width(row)));
        }
    }

    /// So many answers named this row first, on a page on which nobody else writes; if it is there.
    pub fn count_first(&self, row: usize, count: u64) -> bool {
        let made = self.rows.get(row).and_then(OnceLock::get);
        if let Some(Row { first, .. }) = made.map(Box::as_ref) {
            first.store(first.load(Ordering::Relaxed) + count, Ordering::Relaxed);
        }
        made.is_some()
    }

    /// The rows that were named first since this was last asked, and how often. One at a time may
    /// ask.
    pub fn untold(&self) -> impl Iterator<Item = (usize, u64)> {
        let rows = self.rows.iter().enumerate();
        let made = rows.filter_map(|(row, slot)| Some((row, slot.get()?)));
        let untold = made.map(|(row, made)| {
            let first = made.first.load(Ordering::Relaxed);
            (row, first - made.told.swap(first, Ordering::Relaxed))
        });
        untold.filter(|(_, count)| *count > 0)
    }

    fn width(&self, row: usize) -> u64 {
        self.widths.get(row).map_or(1, |width| u64::from(*width).max(1))
    }

    /// The bucket for what is forgotten at `ends`, and which of all in the world it then is.
    fn bucket(&self, row: usize, ends: u64) -> Option<(&AtomicU64, u64)> {
        let made = self.rows.get(row)?.get_or_init(|| {
            let none = || AtomicU64::new(0);
            let buckets = [const { AtomicU64::new(0) }; BUCKETS];
            Box::new(Row { first: none(), told: none(), buckets })
        });
        let number = ends / self.width(row);
        Some((made.buckets.get(place(number))?, number))
    }

    /// What of a row may still be remembered at `now`, in seconds since the Unix epoch.
    pub fn remaining(&self, row: usize, now: u64) -> Remaining {
        self.unexpired(row, now).fold(Remaining::default(), |sum, (until, answers)| {
            sum.plus(Remaining { answers: u64::from(answers), until })
        })
    }

    /// The same bucket by bucket: until when, and how many.
    pub fn unexpired(&self, row: usize, now: u64) -> impl Iterator<Item = (u64, u32)> {
        let made = self.rows.get(row).and_then(OnceLock::get);
        let width = self.width(row);
        let buckets = made.into_iter().flat_map(|made| &made.buckets);
        buckets.filter_map(move |bucket| {
            let held = bucket.load(Ordering::Relaxed);
            let until = ((held >> 32) + 1) * width;
            let count = u32::try_from(held & COUNT).unwrap_or(u32::MAX);
            (count > 0 && until > now).then_some((until, count))
        })
    }
}

/// Where on the ring the bucket of this number is.
fn place(number: u64) -> usize {
    usize::try_from(number % BUCKETS as u64).unwrap_or(0)
}

/// A bucket with so many more. The upper half says which time around the ring it is, the lower half
/// counts.
fn counted(held: u64, number: u64, count: u32) -> u64 {
    let before = if held >> 32 == number { held & COUNT } else { 0 };
    number << 32 | (before + u64::from(count)).min(COUNT)
}

/// The half of a bucket that counts.
const COUNT: u64 = u32::MAX as u64;
