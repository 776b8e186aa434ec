//! Which answers may still be remembered somewhere, and how many there were: what all workers have
//! written, by name.
//!
//! Ids belong to one plan, so each plan has a book; a book that is no longer written is folded into
//! the newest, and what that has no row for is remembered by its names.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{Counter, counter};

use super::counts::{Counts, Kind};
use crate::convergence::{Page, Remaining, Returns, Row, Rows, Seen, width};
use crate::ids::{RegionId, ServiceId};
use crate::query::{Named, Transport};
use crate::snapshot::Plan;
use crate::steer::Service;
use crate::time::{Instant, TRAVEL, Ttl};

/// The way to the ledger.
#[derive(Clone, Debug, Default)]
pub(super) struct Exposure {
    /// The newest plan's is the last. Held for moments only: who answers may wait for it.
    books: Arc<Mutex<Vec<Book>>>,
    /// Held, and before the books, by who reads what they say: one at a time may ask what is not
    /// told yet, and what is moved from one book to another counts once.
    past: Arc<Mutex<Past>>,
    returns: Arc<Returns>,
}

/// What was answered by earlier plans and has no row in the newest: the second from which on so
/// many answers are forgotten.
type Past = BTreeMap<(String, String), BTreeMap<u64, u64>>;

/// Who answers by a plan. A copy has the same leaves.
#[derive(Clone, Debug)]
struct Book {
    plan: Arc<Plan>,
    rows: Arc<Rows>,
    /// Since when answers are given by a newer one.
    closed: Option<Instant>,
    leaves: Vec<Arc<Leaf>>,
    /// How many of those for one worker have one.
    taken: usize,
}

/// What a worker writes, or all who answer by a transport that has none.
#[derive(Debug)]
struct Leaf {
    transport: Transport,
    page: Page,
    counts: Counts,
}

impl Leaf {
    /// Whether it is written by one only.
    fn is_alone(&self) -> bool {
        self.transport == Transport::Udp
    }
}

/// Where one worker writes.
#[derive(Debug)]
pub(super) struct Sheet {
    rows: Arc<Rows>,
    leaf: Arc<Leaf>,
    returns: Arc<Returns>,
}

/// What may still be remembered, by the names of service and region.
pub(super) type Exposures = BTreeMap<(String, String), Remaining>;

/// How long a worker may still write into a book after answers are given by a newer plan.
const LATE: Duration = Duration::from_secs(2);

impl Sheet {
    /// An answer that may be remembered went to `who`.
    pub(super) fn answered(&self, now: Instant, who: u64, ttl: Ttl) {
        self.returns.answered(now, who, ttl);
    }

    /// An answer of `now` named these regions of a service, with a TTL.
    #[inline]
    pub(super) fn add(&self, now: Instant, service: ServiceId, (regions, ttl): Named) {
        let (ends, page) = (ends(now, ttl), &self.leaf.page);
        for row in regions.iter().filter_map(|region| self.rows.find(service, region)) {
            if self.leaf.is_alone() {
                page.add_alone(row, ends, 1);
            } else {
                page.add(row, ends, 1);
            }
        }
    }

    /// Has the processor fetch what is written of such an answer.
    #[inline]
    pub(super) fn approach(&self, now: Instant, service: ServiceId, (regions, ttl): Named) {
        for row in regions.iter().filter_map(|region| self.rows.find(service, region)) {
            self.leaf.page.approach(row, ends(now, ttl));
            self.leaf.counts.approach(row);
        }
    }

    /// Counts an answer, if those of its kind are counted here.
    #[inline]
    pub(super) fn count(&self, kind: Kind) -> bool {
        self.leaf.counts.add(&self.rows, kind, self.leaf.is_alone())
    }
}

/// The second at which an answer of before `now` is surely forgotten.
fn ends(now: Instant, ttl: Ttl) -> u64 {
    now.as_secs() + u64::from(ttl.as_secs()) + TRAVEL.as_secs()
}

/// The counter of answers of this kind.
pub(super) fn queries(plan: &Plan, transport: Transport, (rcode, of): Kind) -> Counter {
    let service = of.and_then(|(service, _)| plan.services.get(service.index()));
    let region = of.and_then(|(_, region)| region);
    counter!(
        "meridian_queries_total",
        "transport" => transport.label(),
        "rcode" => rcode.label(),
        "service" => service.map_or(String::new(), |service| service.name.clone()),
        "region" => region.map_or("", |region| plan.region_name(region)).to_owned(),
    )
}

impl Exposure {
    /// Opens the book of a plan, with as many pages as the one before has, ahead of those who will
    /// write in it: that takes its time.
    pub(super) fn open(&self, now: Instant, plan: &Arc<Plan>) {
        self.in_book(now, plan, |_| ());
    }

    /// Answers are given by the newest plan from now on.
    pub(super) fn turn_over(&self, now: Instant) {
        if let Some((_, older)) = self.books().split_last_mut() {
            older.iter_mut().for_each(|book| _ = book.closed.get_or_insert(now));
        }
    }

    fn books(&self) -> MutexGuard<'_, Vec<Book>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a worker that answers by `plan` writes from now on.
    pub(super) fn sheet(&self, now: Instant, plan: &Arc<Plan>, transport: Transport) -> Sheet {
        let own = |book: &mut Book| (book.rows.clone(), book.leaf(transport));
        let (rows, leaf) = self.in_book(now, plan, own);
        Sheet { rows, leaf, returns: self.returns.clone() }
    }

    /// Does something in the book of a plan, which may be a new one.
    fn in_book<T>(&self, now: Instant, plan: &Arc<Plan>, doing: impl FnOnce(&mut Book) -> T) -> T {
        let is_it = |book: &Book| Arc::ptr_eq(&book.plan, plan);
        loop {
            let mut books = self.books();
            if let Some(book) = books.iter_mut().find(|book| is_it(book)) {
                return doing(book);
            }
            let before = books.clone();
            drop(books);
            let new = Book::after(&before, now, plan.clone());
            let mut books = self.books();
            // Somebody else may have opened it meanwhile.
            if !books.iter().any(is_it) {
                books.push(new);
            }
        }
    }

    /// Lets go of earlier plans, but not of what is known of their answers: is none of them left?
    pub(super) fn settle(&self, now: Instant) -> bool {
        self.settled(now).1.len() <= 1
    }

    /// For how long resolvers went on with what they were told.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.returns.seen()
    }

    /// Tells the counters what was counted.
    pub(super) fn tell(&self) {
        let _one = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let books = self.books().clone();
        books.iter().for_each(Book::tell);
    }

    /// What may still be remembered, by service and region.
    pub(super) fn remaining(&self, now: Instant) -> Exposures {
        let (past, books) = self.settled(now);
        let of_books = books.iter().flat_map(|book| book.remaining(now));
        let of_books = of_books.map(|(_, name, remaining)| (name, remaining));
        let of_past = past.iter().map(|(name, ends)| {
            let until = ends.last_key_value().map_or(0, |(until, _)| *until);
            (name.clone(), Remaining { answers: ends.values().sum(), until })
        });
        let mut all = Exposures::new();
        for (name, remaining) in of_books.chain(of_past) {
            let sum = all.entry(name).or_default();
            *sum = sum.plus(remaining);
        }
        all
    }

    /// Moves what closed books know into the newest, as far as that has a row for it whose buckets
    /// are wide enough, and else into the past; which is given back, with the books that are left.
    fn settled(&self, now: Instant) -> (MutexGuard<'_, Past>, Vec<Book>) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = now.as_secs();
        past.retain(|_, ends| {
            ends.retain(|until, _| *until > seconds);
            !ends.is_empty()
        });
        let is_over = |book: &mut Book| book.closed.is_some_and(|at| now.since(at) > LATE);
        let mut books = self.books();
        // The newest is not closed.
        let over: Vec<Book> = books.extract_if(.., is_over).collect();
        let shared = books.last_mut().filter(|_| !over.is_empty()).map(Book::shared);
        let left = books.clone();
        drop(books);
        if let Some((newest, shared)) = left.last().zip(shared) {
            over.iter().for_each(|book| book.fold((newest, &shared.page), &mut past, now));
        }
        over.iter().for_each(Book::tell);
        (past, left)
    }
}

impl Book {
    /// That of a plan which follows those of these books.
    fn after(books: &[Self], now: Instant, plan: Arc<Plan>) -> Self {
        let width_of = |of: &Service| width(of.ttl);
        let mut widths: Vec<NonZeroU32> = plan.services.iter().map(width_of).collect();
        // What was answered by a longer TTL goes on to need its wider buckets.
        for book in books {
            for (row, (service, _), _) in book.remaining(now) {
                let into = plan.service_named(&service).and_then(|id| widths.get_mut(id.index()));
                into.into_iter().for_each(|width| *width = (*width).max(row.width()));
            }
        }
        let regions = |of: &Service| of.pools.iter().map(|pool| pool.region).collect();
        let rows = Rows::new(plan.services.iter().map(regions).zip(widths)).into();
        let mut book = Self { plan, rows, closed: None, leaves: Vec::new(), taken: 0 };
        for leaf in books.last().map_or(&[][..], |book| &book.leaves) {
            book.add_leaf(leaf.transport);
        }
        book
    }

    /// Moves what is not forgotten into a page of the newest book, or else into the past.
    fn fold(&self, (newest, page): (&Self, &Page), past: &mut Past, now: Instant) {
        let seconds = now.as_secs();
        for (row, name, _) in self.remaining(now) {
            let buckets = self.leaves.iter().flat_map(|of| of.page.unexpired(row, seconds));
            match newest.row(&name).filter(|into| into.width() >= row.width()) {
                // A bucket's end is the first second that is no longer in it.
                Some(into) => buckets.for_each(|(until, count)| page.add(into, until - 1, count)),
                None => {
                    let ends = past.entry(name).or_default();
                    buckets.for_each(|(until, count)| {
                        *ends.entry(until).or_default() += u64::from(count);
                    });
                }
            }
        }
    }

    /// The next leaf for somebody who writes alone, or else the one that all share who answer by
    /// this transport.
    fn leaf(&mut self, transport: Transport) -> Arc<Leaf> {
        let is_alone = transport == Transport::Udp;
        let row = if is_alone { self.taken } else { 0 };
        self.taken += usize::from(is_alone);
        let own = self.leaves.iter().filter(|leaf| leaf.transport == transport).nth(row).cloned();
        own.unwrap_or_else(|| self.add_leaf(transport))
    }

    fn add_leaf(&mut self, transport: Transport) -> Arc<Leaf> {
        let counts = Counts::new(&self.rows, self.plan.services.len());
        let leaf = Arc::new(Leaf { transport, page: Page::new(self.rows.count()), counts });
        self.leaves.push(leaf.clone());
        leaf
    }

    /// A leaf that others may write as well.
    fn shared(&mut self) -> Arc<Leaf> {
        self.leaf(Transport::Tcp)
    }

    /// Tells the counters what was counted and is not told: one at a time may.
    fn tell(&self) {
        for leaf in &self.leaves {
            for (kind, count) in leaf.counts.untold(&self.rows) {
                queries(&self.plan, leaf.transport, kind).increment(count);
            }
        }
    }

    /// The row of a service's region.
    fn row(&self, (service, region): &(String, String)) -> Option<Row> {
        let region = self.plan.regions.iter().position(|of| of.name == *region)?;
        let service = self.plan.service_named(service)?;
        self.rows.find(service, RegionId::from_index(region)?)
    }

    fn remaining(&self, now: Instant) -> impl Iterator<Item = (Row, (String, String), Remaining)> {
        let seconds = now.as_secs();
        self.rows.iter().filter_map(move |(service, region, row)| {
            let of_leaves = self.leaves.iter().map(|leaf| leaf.page.remaining(row, seconds));
            let sum = of_leaves.fold(Remaining::default(), Remaining::plus);
            let name = (sum.answers > 0).then(|| self.plan.names(service, region)).flatten()?;
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
    use crate::query::Rcode;

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

    const START: Instant = Instant::from_nanos(1_000_000_000_000_000);

    fn after(millis: u64) -> Instant {
        START + Duration::from_millis(millis)
    }

    /// What may be remembered of the first region: how many answers, and for how long.
    fn of(exposure: &Exposure, name: &str, now: Instant) -> Option<(u64, u64)> {
        let remaining = exposure.remaining(now);
        let of = remaining.get(&("web".to_owned(), name.to_owned()))?;
        Some((of.answers, of.until - START.as_secs()))
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
        sheet.add(after(4000), service, named);
        assert_eq!(of(&exposure, "a", after(4500)), Some((1, 57)), "compiling takes its time");
        exposure.turn_over(after(5000));
        (0..2).for_each(|_| sheet.add(after(5000), service, named));
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
        (0..4).for_each(|_| again.add(after(12_000), service, named));
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
            let usual = (Rcode::NoError, Some((service, Some(region))));
            let count = |times| (0..times).for_each(|_| assert!(sheet.count(usual)));
            count(4);
            exposure.tell();
            exposure.tell();
            assert_eq!(told(), line(4));
            count(3);
            exposure.open(START, &plans[1]);
            exposure.turn_over(START);
            assert!(exposure.settle(after(3000)));
            assert_eq!(told(), line(7));
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
        sheet.add(START, service, named(Ttl::from_secs(3600)));
        assert!(exposure.settle(after(3000)));
        let sheet = exposure.sheet(after(3000), &shorter, Transport::Udp);
        for second in 3..120 {
            sheet.add(after(second * 1000), service, named(Ttl::from_secs(10)));
        }
        let (answers, until) = of(&exposure, "a", after(1_000_000)).unwrap();
        assert!(answers == 1 && (3602..3664).contains(&until), "{answers} until {until}");
    }
}
