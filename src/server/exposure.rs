//! Which answers may still be remembered somewhere, and how many there were: the pages of all
//! workers, by name.
//!
//! Ids belong to one plan, so each plan has a book; a book that is no longer written is folded into
//! the newest, and what that has no row for is remembered by its names.

use std::collections::BTreeMap;
use std::iter::repeat_n;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{Counter, counter};

use crate::convergence::{Page, Remaining, Returns, Seen, width};
use crate::ids::{RegionId, ServiceId};
use crate::query::{Named, Rcode, Transport};
use crate::snapshot::Plan;
use crate::time::{Instant, Ttl};

/// The way to the ledger.
#[derive(Clone, Debug, Default)]
pub(super) struct Exposure {
    /// Never taken for long: who answers may wait for it.
    shelf: Arc<Mutex<Shelf>>,
    /// Taken, and before that one, by who reads what the books say: one at a time may ask what is
    /// not told yet, and what is moved from one book to another counts once.
    reading: Arc<Mutex<()>>,
    returns: Arc<Returns>,
}

/// All that may still be remembered.
#[derive(Debug, Default)]
struct Shelf {
    /// The newest plan's book is the last.
    books: Vec<Book>,
    /// What was answered by earlier plans and has no row in the newest: the second from which on so
    /// many answers are forgotten.
    past: BTreeMap<(String, String), BTreeMap<u64, u64>>,
}

/// Who answers by a plan. A copy has the same pages.
#[derive(Clone, Debug)]
struct Book {
    plan: Arc<Plan>,
    /// Since when answers are given by a newer one.
    closed: Option<Instant>,
    /// The first is shared by all but the UDP workers.
    pages: Vec<Arc<Page>>,
    /// How many of the others have a worker.
    taken: usize,
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

/// How long a worker may still write into a book after answers are given by a newer plan.
const LATE: Duration = Duration::from_secs(2);

impl Sheet {
    /// An answer that may be remembered went to `who`.
    pub(super) fn answered(&self, now: Instant, who: u64, ttl: Ttl) {
        self.returns.answered(now, who, ttl);
    }

    /// So many answers, the last of them before `now`, named these regions of a service, with a
    /// TTL.
    pub(super) fn add(&self, now: Instant, count: u64, service: ServiceId, (regions, ttl): Named) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let ends = ends(now, ttl);
        for region in regions.iter() {
            let row = self.row(service, region);
            if self.is_alone {
                self.page.add_alone(row, ends, count);
            } else {
                self.page.add(row, ends, count);
            }
        }
    }

    /// Has the processor fetch what leads to where [`Self::add`] writes. Whoever has much to add
    /// takes all of it through one step after the other.
    pub(super) fn approach(&self, service: ServiceId, (regions, _): Named) {
        regions.iter().for_each(|region| self.page.approach(self.row(service, region)));
    }

    /// The second step: where it writes.
    pub(super) fn near(&self, now: Instant, service: ServiceId, (regions, ttl): Named) {
        let near = |region| self.page.near(self.row(service, region), ends(now, ttl));
        regions.iter().for_each(near);
    }

    /// Counts answers that name this region first, if they were added, and nobody else writes here.
    pub(super) fn count_first(&self, service: ServiceId, region: RegionId, count: u64) -> bool {
        self.is_alone && self.page.count_first(self.row(service, region), count)
    }

    fn row(&self, service: ServiceId, region: RegionId) -> usize {
        service.index() * self.regions + region.index()
    }
}

/// The second at which an answer of before `now` is surely forgotten.
fn ends(now: Instant, ttl: Ttl) -> u64 {
    now.as_nanos() / NANOS + u64::from(ttl.as_secs()) + TRAVEL
}

/// Counts answers, by the names of service and region.
pub(super) fn queries(
    transport: Transport,
    rcode: Rcode,
    (service, region): (String, String),
) -> Counter {
    let (transport, rcode) = (transport.label(), rcode.label());
    counter!(
        "meridian_queries_total",
        "transport" => transport,
        "rcode" => rcode,
        "service" => service,
        "region" => region,
    )
}

/// Tells the counters what pages have counted: usual answers of workers.
fn tell(untold: impl IntoIterator<Item = ((String, String), u64)>) {
    for (name, count) in untold {
        queries(Transport::Udp, Rcode::NoError, name).increment(count);
    }
}

/// Nanoseconds in a second.
const NANOS: u64 = 1_000_000_000;

impl Exposure {
    /// Opens the book of a plan, with as many pages as the one before has, ahead of those who will
    /// write in it: that takes its time.
    pub(super) fn open(&self, now: Instant, plan: &Arc<Plan>) {
        self.shelf().in_book(now, plan, |_| ());
    }

    /// Answers are given by the newest plan from now on.
    pub(super) fn turn_over(&self, now: Instant) {
        if let Some((_, older)) = self.shelf().books.split_last_mut() {
            older.iter_mut().for_each(|book| _ = book.closed.get_or_insert(now));
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reading(&self) -> MutexGuard<'_, ()> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a worker that answers by `plan` writes from now on.
    pub(super) fn sheet(&self, now: Instant, plan: &Arc<Plan>, transport: Transport) -> Sheet {
        let is_alone = transport == Transport::Udp;
        let page = self.shelf().in_book(now, plan, |book| book.page(is_alone));
        Sheet { page, is_alone, returns: self.returns.clone(), regions: plan.regions.len() }
    }

    /// Lets go of earlier plans, but not of what is known of their answers: is none of them left?
    pub(super) fn settle(&self, now: Instant) -> bool {
        let _one = self.reading();
        let mut shelf = self.shelf();
        let (untold, is_settled) = (shelf.fold(now), shelf.books.len() <= 1);
        drop(shelf);
        tell(untold);
        is_settled
    }

    /// For how long resolvers went on with what they were told.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.returns.seen()
    }

    /// Tells the counters what the pages have counted.
    pub(super) fn tell(&self) {
        let _one = self.reading();
        let books = self.shelf().books.clone();
        tell(books.iter().flat_map(Book::untold));
    }

    /// What may still be remembered, by service and region.
    pub(super) fn remaining(&self, now: Instant) -> Exposures {
        let _one = self.reading();
        let mut shelf = self.shelf();
        let untold = shelf.fold(now);
        let (books, past) = (shelf.books.clone(), shelf.past.clone());
        drop(shelf);
        tell(untold);
        let of_books = books.iter().flat_map(|book| book.remaining(now));
        let of_books = of_books.map(|(_, name, remaining)| (name, remaining));
        let of_past = past.into_iter().map(|(name, ends)| {
            let until = ends.last_key_value().map_or(0, |(until, _)| *until);
            (name, Remaining { answers: ends.values().sum(), until })
        });
        let mut all = Exposures::new();
        for (name, remaining) in of_books.chain(of_past) {
            let sum = all.entry(name).or_default();
            *sum = sum.plus(remaining);
        }
        all
    }
}

impl Shelf {
    /// Does something in the book of a plan, which may be a new one.
    fn in_book<T>(
        &mut self,
        now: Instant,
        plan: &Arc<Plan>,
        doing: impl FnOnce(&mut Book) -> T,
    ) -> T {
        if let Some(book) = self.books.iter_mut().find(|book| Arc::ptr_eq(&book.plan, plan)) {
            return doing(book);
        }
        let mut book = self.new_book(now, plan.clone());
        let done = doing(&mut book);
        self.books.push(book);
        done
    }

    fn new_book(&self, now: Instant, plan: Arc<Plan>) -> Book {
        let pages = self.books.last().map_or(1, |book| book.pages.len());
        let Plan { services, regions, .. } = &*plan;
        let widths = services.iter().flat_map(|of| repeat_n(width(of.ttl), regions.len()));
        let mut widths: Vec<u32> = widths.collect();
        // What was answered by a longer TTL goes on to need its wider buckets.
        for book in &self.books {
            for (row, name, _) in book.remaining(now) {
                let into = row_of(&plan, &name).and_then(|row| widths.get_mut(row));
                into.into_iter().for_each(|width| *width = (*width).max(book.width(row)));
            }
        }
        let widths = widths.into();
        let mut book = Book { plan, closed: None, pages: Vec::new(), taken: 0, widths };
        for _ in 0..pages {
            book.add_page();
        }
        book
    }

    /// Moves what closed books know into the newest, as far as that has a row for it whose buckets
    /// are wide enough, and gives back what they have counted and not told.
    fn fold(&mut self, now: Instant) -> Vec<((String, String), u64)> {
        let mut untold = Vec::new();
        let seconds = now.as_nanos() / NANOS;
        self.past.retain(|_, ends| {
            ends.retain(|until, _| *until > seconds);
            !ends.is_empty()
        });
        let is_over = |book: &Book| book.closed.is_some_and(|at| now.since(at) > LATE);
        let Some((newest, older)) = self.books.split_last() else { return untold };
        for book in older.iter().filter(|book| is_over(book)) {
            untold.extend(book.untold());
            for (row, name, _) in book.remaining(now) {
                let buckets = book.pages.iter().flat_map(|page| page.unexpired(row, seconds));
                let into = row_of(&newest.plan, &name);
                match into.filter(|into| newest.width(*into) >= book.width(row)) {
                    // A bucket's end is the first second that is no longer in it.
                    Some(into) => buckets.for_each(|(until, count)| {
                        newest.pages.iter().take(1).for_each(|of| of.add(into, until - 1, count));
                    }),
                    None => {
                        let ends = self.past.entry(name).or_default();
                        buckets.for_each(|(until, count)| {
                            *ends.entry(until).or_default() += u64::from(count);
                        });
                    }
                }
            }
        }
        self.books.retain(|book| !is_over(book));
        untold
    }
}

/// The row of a service's region among those of a plan.
fn row_of(plan: &Plan, (service, region): &(String, String)) -> Option<usize> {
    let region = plan.regions.iter().position(|of| of.name == *region)?;
    Some(plan.service_named(service)?.index() * plan.regions.len() + region)
}

impl Book {
    /// The next page for somebody who writes alone, or else the one that all others share.
    fn page(&mut self, is_alone: bool) -> Arc<Page> {
        self.taken += usize::from(is_alone);
        let row = if is_alone { self.taken } else { 0 };
        self.pages.get(row).cloned().unwrap_or_else(|| self.add_page())
    }

    fn add_page(&mut self) -> Arc<Page> {
        let page = Arc::new(Page::new(self.widths.clone()));
        self.pages.push(page.clone());
        page
    }

    /// What its pages have counted and is not told: one at a time may ask. Who shares a page counts
    /// by itself.
    fn untold(&self) -> impl Iterator<Item = ((String, String), u64)> {
        let rows = self.pages.iter().flat_map(|page| page.untold());
        rows.map(|(row, count)| (self.name(row).unwrap_or_default(), count))
    }

    /// The service and the region of a row.
    fn name(&self, row: usize) -> Option<(String, String)> {
        let Plan { services, regions, .. } = &*self.plan;
        let (service, region) = (row / regions.len(), row % regions.len());
        Some((services.get(service)?.name.clone(), regions.get(region)?.name.clone()))
    }

    /// How wide the buckets of a row are.
    fn width(&self, row: usize) -> u32 {
        self.widths.get(row).copied().unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use metrics::with_local_recorder;
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::config::{Config, Targets};
    use crate::ids::RegionSet;

    /// A service `web` in these regions, whose answers have this TTL.
    fn plan(regions: &[&str], ttl: &str) -> Arc<Plan> {
        let [all, pools] =
            ["{}", "192.0.2.1"].map(|what| regions.join(&format!(": {what}, ")) + ": " + what);
        let text = format!(
            "regions: {{ {all} }}\nzones: {{ example.com: {{ ns: [ns.example.net] }} }}\n\
             services: {{ web: {{ names: [a.example.com], ttl: {ttl}, regions: {{ {pools} }} }} }}"
        );
        let mut no_files = |_: &std::path::Path| Err("no files here".to_owned());
        let config = Config::load("test", &text, &mut Targets::default(), &mut no_files).unwrap();
        let Config { zones, services, regions, identity, .. } = config;
        Plan::new(zones, services, regions, Vec::new(), identity).into()
    }

    const START: Instant = Instant::from_nanos(1_000_000 * NANOS);

    fn after(millis: u64) -> Instant {
        START + Duration::from_millis(millis)
    }

    /// What may be remembered of the first region: how many answers, and for how long.
    fn of(exposure: &Exposure, name: &str, now: Instant) -> Option<(u64, u64)> {
        let remaining = exposure.remaining(now);
        let of = remaining.get(&("web".to_owned(), name.to_owned()))?;
        Some((of.answers, of.until - START.as_nanos() / NANOS))
    }

    #[test]
    fn what_is_told_late_of_what_is_served_no_more_is_remembered() {
        let (exposure, both, one) =
            (Exposure::default(), plan(&["a", "b"], "59s"), plan(&["b"], "59s"));
        let named = (RegionSet::EMPTY.with(RegionId::from_index(0).unwrap()), Ttl::from_secs(50));
        let service = ServiceId::from_index(0).unwrap();
        let sheet = exposure.sheet(START, &both, Transport::Udp);
        // Nothing may be remembered when the new book is opened.
        exposure.open(START, &one);
        sheet.add(after(4000), 1, service, named);
        assert_eq!(of(&exposure, "a", after(4500)), Some((1, 57)), "compiling takes its time");
        exposure.turn_over(after(5000));
        sheet.add(after(5000), 2, service, named);
        for _ in 0..2 {
            assert!(!exposure.settle(after(7000)), "somebody may still write");
            assert_eq!(of(&exposure, "a", after(7000)), Some((3, 58)));
        }
        for _ in 0..2 {
            assert!(exposure.settle(after(7001)));
            assert_eq!(of(&exposure, "a", after(7001)), Some((3, 58)));
        }
        // Also after the next ones, by which it is served again.
        for plan in [plan(&["b"], "59s"), plan(&["a", "b"], "59s")] {
            exposure.open(after(8000), &plan);
            exposure.turn_over(after(8000));
            assert!(exposure.settle(after(11_000)));
            assert_eq!(of(&exposure, "a", after(56_999)), Some((3, 58)));
        }
        let again = exposure.sheet(after(12_000), &both, Transport::Udp);
        again.add(after(12_000), 4, service, named);
        assert_eq!(of(&exposure, "a", after(56_999)), Some((7, 65)));
        assert_eq!(of(&exposure, "a", after(57_000)), Some((6, 65)));
        assert_eq!(of(&exposure, "a", after(58_000)), Some((4, 65)));
        assert_eq!(of(&exposure, "a", after(65_000)), None);
    }

    #[test]
    fn what_was_counted_is_told_once_and_outlives_its_plan() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let (exposure, plans) = (Exposure::default(), [plan(&["a"], "9s"), plan(&["a"], "5s")]);
        let (service, region) =
            (ServiceId::from_index(0).unwrap(), RegionId::from_index(0).unwrap());
        let named = (RegionSet::EMPTY.with(region), Ttl::from_secs(5));
        let told = || {
            let text = recorder.handle().render();
            let line = text.lines().find(|line| line.starts_with("meridian_queries_total{"));
            line.map_or(String::new(), ToOwned::to_owned)
        };
        let line = |count| {
            format!(
                "meridian_queries_total{{transport=\"udp\",rcode=\"NOERROR\",service=\"web\",\
                 region=\"a\"}} {count}"
            )
        };
        with_local_recorder(&recorder, || {
            let sheet = exposure.sheet(START, &plans[0], Transport::Udp);
            assert!(!sheet.count_first(service, region, 1), "nothing is remembered of it");
            for _ in 0..2 {
                sheet.add(START, 2, service, named);
                assert!(sheet.count_first(service, region, 2));
            }
            exposure.tell();
            exposure.tell();
            assert_eq!(told(), line(4));
            assert!(sheet.count_first(service, region, 3));
            exposure.open(START, &plans[1]);
            exposure.turn_over(START);
            assert!(exposure.settle(after(3000)));
            assert_eq!(told(), line(7));
            // Of several who write to one page nobody counts there.
            assert!(
                !exposure.sheet(START, &plans[1], Transport::Tcp).count_first(service, region, 1)
            );
        });
    }

    #[test]
    fn what_was_told_late_with_a_longer_ttl_is_remembered_for_as_long() {
        let (exposure, longer, shorter) =
            (Exposure::default(), plan(&["a"], "1h"), plan(&["a"], "10s"));
        let named = |ttl| (RegionSet::EMPTY.with(RegionId::from_index(0).unwrap()), ttl);
        let service = ServiceId::from_index(0).unwrap();
        let sheet = exposure.sheet(START, &longer, Transport::Udp);
        exposure.open(START, &shorter);
        exposure.turn_over(START);
        sheet.add(START, 1, service, named(Ttl::from_secs(3600)));
        assert!(exposure.settle(after(3000)));
        let sheet = exposure.sheet(after(3000), &shorter, Transport::Udp);
        for second in 3..120 {
            sheet.add(after(second * 1000), 1, service, named(Ttl::from_secs(10)));
        }
        let (answers, until) = of(&exposure, "a", after(1_000_000)).unwrap();
        assert!(answers == 1 && (3602..3664).contains(&until), "{answers} until {until}");
    }
}
