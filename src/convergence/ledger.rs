//! The exposure ledger: how many answers that name a region may still be remembered, and until
//! when.
//!
//! Each worker writes a page of its own, without locks; whoever reads sums the pages up. A row is a
//! region of a service. Its answers are counted in a ring of buckets by the time when they end, so
//! that memory is bounded whatever is asked. The buckets of one time lie side by side: within a
//! second a worker writes eight octets a row, and a near cache holds those of many services.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::FromZeros;

use crate::ids::{RegionId, RegionSet, ServiceId};
use crate::prefetch::prefetch;
use crate::time::Ttl;

/// How many buckets a row has.
const BUCKETS: usize = 64;

/// The width of the buckets for answers with `ttl` at most, in seconds, so that those of one TTL
/// never come round: up to a minute they are told apart by the second.
pub fn width(ttl: Ttl) -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(ttl.as_secs() / 60)
}

/// Which rows there are: one for each region of each service.
#[derive(Debug)]
pub struct Rows {
    services: Box<[Span]>,
    count: usize,
}

/// The rows of a service, one after the other by the ids of its regions.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u32,
    width: NonZeroU32,
    regions: RegionSet,
}

/// A row, and how wide its buckets are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    number: u32,
    width: NonZeroU32,
}

impl Rows {
    /// Those of services in these regions, whose buckets are so wide.
    pub fn new(services: impl IntoIterator<Item = (RegionSet, NonZeroU32)>) -> Self {
        let mut count = 0;
        let services = services.into_iter().map(|(regions, width)| {
            let first = u32::try_from(count).unwrap_or(u32::MAX);
            count += regions.len();
            Span { first, width, regions }
        });
        Self { services: services.collect(), count }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// That of a service's region.
    #[inline]
    pub fn find(&self, service: ServiceId, region: RegionId) -> Option<Row> {
        let Span { first, width, regions } = *self.services.get(service.index())?;
        let rank = u32::try_from(regions.rank(region)).unwrap_or(0);
        regions.contains(region).then_some(Row { number: first.saturating_add(rank), width })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (ServiceId, RegionId, Row)> {
        let services = (0..self.services.len()).map_while(ServiceId::from_index);
        services.zip(&self.services).flat_map(move |(service, span)| {
            let row = move |region| Some((service, region, self.find(service, region)?));
            span.regions.iter().filter_map(row)
        })
    }
}

impl Row {
    /// Its place among those of all services.
    pub fn index(self) -> usize {
        self.number as usize
    }

    /// How wide its buckets are, in seconds.
    pub fn width(self) -> NonZeroU32 {
        self.width
    }

    /// Which of all buckets in the world is for what is forgotten at `ends`.
    #[inline]
    fn bucket(self, ends: u64) -> u64 {
        // Nearly always: and a division takes its time.
        if self.width == NonZeroU32::MIN { ends } else { ends / u64::from(self.width.get()) }
    }
}

/// What one worker has answered, or several.
#[derive(Debug)]
pub struct Page {
    rows: usize,
    /// The first bucket of all rows, then the second, and so on. What was never written to takes no
    /// memory.
    buckets: Box<[AtomicU64]>,
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
    /// A page with so many rows.
    pub fn new(rows: usize) -> Self {
        Self { rows, buckets: zeros(rows * BUCKETS) }
    }

    /// So many answers were given that are forgotten at `ends`, in seconds since the Unix epoch.
    pub fn add(&self, row: Row, ends: u64, count: u32) {
        let number = row.bucket(ends);
        let Some(bucket) = self.buckets.get(self.place(row, number)) else { return };
        let counted = |held| Some(counted(held, number, count));
        let _always = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted);
    }

    /// The same on a page on which nobody else writes: it costs less.
    #[inline]
    pub fn add_alone(&self, row: Row, ends: u64, count: u32) {
        let number = row.bucket(ends);
        let Some(bucket) = self.buckets.get(self.place(row, number)) else { return };
        let held = bucket.load(Ordering::Relaxed);
        bucket.store(counted(held, number, count), Ordering::Relaxed);
    }

    /// Has the processor fetch what is written for an answer that is forgotten at `ends`.
    #[inline]
    pub fn approach(&self, row: Row, ends: u64) {
        prefetch(&self.buckets, self.place(row, row.bucket(ends)));
    }

    /// Where the bucket of this number is.
    #[inline]
    fn place(&self, row: Row, number: u64) -> usize {
        usize::try_from(number % BUCKETS as u64).unwrap_or(0) * self.rows + row.index()
    }

    /// What of a row may still be remembered at `now`, in seconds since the Unix epoch.
    pub fn remaining(&self, row: Row, now: u64) -> Remaining {
        self.unexpired(row, now).fold(Remaining::default(), |sum, (until, answers)| {
            sum.plus(Remaining { answers: u64::from(answers), until })
        })
    }

    /// The same bucket by bucket: until when, and how many.
    pub fn unexpired(&self, row: Row, now: u64) -> impl Iterator<Item = (u64, u32)> {
        let buckets = self.buckets.iter().skip(row.index()).step_by(self.rows.max(1));
        buckets.filter_map(move |bucket| {
            let held = bucket.load(Ordering::Relaxed);
            let until = ((held >> 32) + 1) * u64::from(row.width.get());
            let count = u32::try_from(held & COUNT).unwrap_or(u32::MAX);
            (count > 0 && until > now).then_some((until, count))
        })
    }
}

/// So many zeros, which take no memory before something is written there.
pub fn zeros(count: usize) -> Box<[AtomicU64]> {
    // Without any left, the second try ends the process as everybody's would.
    let each = |_| (0..count).map(|_| AtomicU64::new(0)).collect();
    <[AtomicU64]>::new_box_zeroed_with_elems(count).unwrap_or_else(each)
}

/// A bucket with so many more. The upper half says which time around the ring it is, the lower half
/// counts.
fn counted(held: u64, number: u64, count: u32) -> u64 {
    let before = if held >> 32 == number { held & COUNT } else { 0 };
    number << 32 | (before + u64::from(count)).min(COUNT)
}

/// The half of a bucket that counts.
const COUNT: u64 = u32::MAX as u64;
