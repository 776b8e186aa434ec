//! Which answers may still be remembered somewhere: the pages of all workers, by name.
//!
//! Ids belong to one plan, so each plan has a book; a book that is no longer written is folded into
//! the newest, where what it knows keeps its names, also of what is not served any more.

use std::collections::BTreeMap;
use std::iter::repeat_n;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::convergence::{Page, Remaining, Returns, Seen, width};
use crate::ids::{RegionSet, ServiceId};
use crate::query::Transport;
use crate::snapshot::Plan;
use crate::time::{Instant, Ttl};

/// The way to the ledger.
#[derive(Clone, Debug, Default)]
pub(super) struct Exposure {
    books: Arc<Mutex<Vec<Book>>>,
    returns: Arc<Returns>,
}

/// Who answers by a plan, and what was answered before by names that it does not have.
#[derive(Debug)]
struct Book {
    plan: Arc<Plan>,
    /// Since when there is a newer one.
    closed: Option<Instant>,
    /// The first is shared by all but the UDP workers.
    pages: Vec<Arc<Page>>,
    /// How many of the others have a worker.
    taken: usize,
    /// What other plans' services and regions are called, for the rows after the plan's own.
    others: Vec<(String, String)>,
    /// How wide the buckets of each row are.
    widths: Arc<[u32]>,
}

/// Where one worker writes.
#[derive(Debug)]
pub(super) struct Sheet {
    page: Arc<Page>,
    /// Whether nobody else writes there.
    is_alone: bool,
    returns: Arc<Returns>,
    regions: usize,
}

/// What may still be remembered, by the names of service and region.
pub(super) type Exposures = BTreeMap<(String, String), Remaining>;

/// From the TTL's end to when a cache has surely forgotten: answers travel, and caches count in
/// whole seconds.
pub(super) const TRAVEL: u64 = 2;

/// How long a worker may still write into a book after a newer one was opened.
const LATE: Duration = Duration::from_secs(2);

impl Sheet {
    /// An answer that may be remembered went to `who`.
    pub(super) fn answered(&self, now: Instant, who: u64, ttl: Ttl) {
        self.returns.answered(now, who, ttl);
    }

    /// So many answers, the last of them before `now`, named these regions of a service, with a
    /// TTL.
    pub(super) fn add(
        &self,
        now: Instant,
        count: u64,
        service: ServiceId,
        (regions, ttl): (RegionSet, Ttl),
    ) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let ends = now.as_nanos() / NANOS + u64::from(ttl.as_secs()) + TRAVEL;
        for region in regions.iter() {
            let row = service.index() * self.regions + region.index();
            if self.is_alone {
                self.page.add_alone(row, ends, count);
            } else {
                self.page.add(row, ends, count);
            }
        }
    }
}

/// Nanoseconds in a second.
const NANOS: u64 = 1_000_000_000;

impl Exposure {
    /// Opens the book of a plan, with as many pages as the one before has, ahead of those who will
    /// write in it: that takes its time.
    pub(super) fn open(&self, now: Instant, plan: &Arc<Plan>) {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        if !books.iter().any(|book| Arc::ptr_eq(&book.plan, plan)) {
            open(&mut books, now, plan.clone());
        }
    }

    /// Where a worker that answers by `plan` writes from now on.
    pub(super) fn sheet(&self, now: Instant, plan: &Arc<Plan>, transport: Transport) -> Sheet {
        self.open(now, plan);
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let known = books.iter_mut().find(|book| Arc::ptr_eq(&book.plan, plan));
        let is_alone = transport == Transport::Udp;
        let page = match known {
            Some(book) if is_alone => {
                book.taken += 1;
                book.pages.get(book.taken).cloned().unwrap_or_else(|| book.add_page())
            }
            Some(Book { pages, .. }) => pages.first().cloned().unwrap_or_else(nothing),
            None => nothing(),
        };
        Sheet { page, is_alone, returns: self.returns.clone(), regions: plan.regions.len() }
    }

    /// Moves what is known of earlier plans into the newest's book, and lets go of them: is none of
    /// them left?
    pub(super) fn settle(&self, now: Instant) -> bool {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        fold(&mut books, now);
        books.len() <= 1
    }

    /// For how long resolvers went on with what they were told.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.returns.seen()
    }

    /// What may still be remembered, by service and region.
    pub(super) fn remaining(&self, now: Instant) -> Exposures {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        fold(&mut books, now);
        let mut all = Exposures::new();
        for (_, name, remaining) in books.iter().flat_map(|book| book.remaining(now)) {
            let sum = all.entry(name).or_default();
            *sum = sum.plus(remaining);
        }
        all
    }
}

/// A page that nobody reads.
fn nothing() -> Arc<Page> {
    Arc::new(Page::new([].into()))
}

/// A new book, with rows for all that may still be remembered.
fn open(books: &mut Vec<Book>, now: Instant, plan: Arc<Plan>) {
    fold(books, now);
    let pages = books.last().map_or(1, |book| book.pages.len());
    // What was answered by a longer TTL goes on to need its wider buckets.
    let mut wider: BTreeMap<(String, String), u32> = BTreeMap::new();
    for book in &mut *books {
        book.closed.get_or_insert(now);
        for (row, name, _) in book.remaining(now) {
            let width = wider.entry(name).or_default();
            *width = (*width).max(book.widths.get(row).copied().unwrap_or_default());
        }
    }
    let others = wider.keys().filter(|name| row_of(&plan, name).is_none()).cloned().collect();
    let (closed, widths) = (None, [].into());
    let mut book = Book { plan, closed, pages: Vec::new(), taken: 0, others, widths };
    let Plan { services, regions, .. } = &*book.plan;
    let of_plan = services.iter().flat_map(|service| repeat_n(width(service.ttl), regions.len()));
    let mut widths: Vec<u32> = of_plan.chain(book.others.iter().map(|_| 0)).collect();
    for (name, wide) in &wider {
        if let Some(width) = book.row(name).and_then(|row| widths.get_mut(row)) {
            *width = (*width).max(*wide);
        }
    }
    book.widths = widths.into();
    for _ in 0..pages {
        book.add_page();
    }
    books.push(book);
}

/// Moves what closed books know into the newest.
fn fold(books: &mut Vec<Book>, now: Instant) {
    let is_over = |book: &Book| book.closed.is_some_and(|at| now.since(at) > LATE);
    let Some((newest, older)) = books.split_last() else { return };
    let seconds = now.as_nanos() / NANOS;
    for book in older.iter().filter(|book| is_over(book)) {
        for (row, name, _) in book.remaining(now) {
            let Some(into) = newest.row(&name) else { continue };
            let buckets = book.pages.iter().flat_map(|page| page.unexpired(row, seconds));
            for (until, count) in buckets {
                // A bucket's end is the first second that is no longer in it.
                newest.pages.iter().take(1).for_each(|page| page.add(into, until - 1, count));
            }
        }
    }
    books.retain(|book| !is_over(book));
}

/// The row of a service's region among those of a plan.
fn row_of(plan: &Plan, (service, region): &(String, String)) -> Option<usize> {
    let region = plan.regions.iter().position(|of| of.name == *region)?;
    Some(plan.service_named(service)?.index() * plan.regions.len() + region)
}

impl Book {
    fn add_page(&mut self) -> Arc<Page> {
        let page = Arc::new(Page::new(self.widths.clone()));
        self.pages.push(page.clone());
        page
    }

    /// The service and the region of a row.
    fn name(&self, row: usize) -> Option<(String, String)> {
        let Plan { services, regions, .. } = &*self.plan;
        if row >= services.len() * regions.len() {
            return self.others.get(row - services.len() * regions.len()).cloned();
        }
        let (service, region) = (row / regions.len(), row % regions.len());
        Some((services.get(service)?.name.clone(), regions.get(region)?.name.clone()))
    }

    fn row(&self, name: &(String, String)) -> Option<usize> {
        let other = || self.others.iter().position(|of| of == name);
        let own = self.plan.services.len() * self.plan.regions.len();
        row_of(&self.plan, name).or_else(|| other().map(|row| own + row))
    }

    fn remaining(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (usize, (String, String), Remaining)> {
        let seconds = now.as_nanos() / NANOS;
        (0..self.widths.len()).filter_map(move |row| {
            let of_pages = self.pages.iter().map(|page| page.remaining(row, seconds));
            let sum = of_pages.fold(Remaining::default(), Remaining::plus);
            let name = (sum.answers > 0).then(|| self.name(row)).flatten()?;
            Some((row, name, sum))
        })
    }
}
