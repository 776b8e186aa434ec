//! What a thread has answered, counted until it is worth a shared write.
//!
//! Shared counters and the ledger are far away, and where many services are answered for, each
//! answer of a moment may be of another kind. So a hand goes round the table of what was counted
//! lately, as that of a clock does, and tells what it finds: nobody waits for all of it at once.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::FixedState;
use metrics::{Counter, counter};

use super::exposure::{Sheet, queries};
use super::limiter::Verdict;
use crate::ids::{RegionId, RegionSet, ServiceId};
use crate::query::{Named, Rcode, Silence, Summary, Transport};
use crate::snapshot::Plan;
use crate::time::Instant;

/// Counts of one thread. Their keys are not for strangers to choose: a fast hash will do.
pub(super) struct Tally {
    pub(super) transport: Transport,
    /// What the ids mean.
    pub(super) plan: Arc<Plan>,
    /// Where it is told which answers may be remembered.
    sheet: Sheet,
    /// What was counted lately, each in the one row that it may have.
    lately: Box<[Option<(Counted, u64)>]>,
    /// The row that is told next.
    hand: usize,
    /// The moment up to which the hand has come.
    reached: Instant,
    /// What had to leave its row for something else, to be told next.
    displaced: Vec<(Counted, u64)>,
    counters: HashMap<Counted, Counter, FixedState>,
    silences: HashMap<Silence, u64, FixedState>,
    limited: HashMap<Verdict, u64, FixedState>,
}

/// What is counted apart.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Counted {
    rcode: Rcode,
    service: Option<ServiceId>,
    region: Option<RegionId>,
    truncated: bool,
    /// The regions that it named, and for how long that may be remembered.
    named: Option<Named>,
}

/// How long the hand takes to go round, and what was answered is told at the latest.
const ROUND: Duration = Duration::from_millis(250);

/// Rows of a worker, which answers for all services: what a near cache holds. A power of two.
const MANY: usize = 1 << 9;

/// Rows of a connection, a power of two as well.
const FEW: usize = 1 << 6;

/// Of more than this, the counters that were found are forgotten: regions come and go.
const MOST: usize = 1 << 18;

impl Counted {
    fn of(summary: &Summary) -> Self {
        let Summary { rcode, service, region, truncated, .. } = *summary;
        // Nobody remembers what is cut short.
        Self { rcode, service, region, truncated, named: summary.named.filter(|_| !truncated) }
    }

    /// The service, and the region that is named first, of an answer that says nothing else.
    fn usual(&self) -> Option<(ServiceId, RegionId)> {
        let is_usual = self.rcode == Rcode::NoError && !self.truncated;
        self.service.zip(self.region).filter(|_| is_usual && self.named.is_some())
    }

    /// Services and regions in numbers; 0 is none.
    fn numbers(&self) -> (usize, usize) {
        let service = self.service.map_or(0, |id| id.index() + 1);
        (service, self.region.map_or(0, |id| id.index() + 1))
    }
}

/// In few words: with many services it is hashed for most answers.
impl Hash for Counted {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (service, region) = self.numbers();
        let (rcode, truncated) = (self.rcode as usize, usize::from(self.truncated));
        state.write_usize(service << 16 | region << 8 | rcode | truncated << 7);
        state.write_u32(self.named.map_or(0, |(_, ttl)| ttl.as_secs()));
        self.named.map_or(RegionSet::EMPTY, |(regions, _)| regions).hash(state);
    }
}

impl Tally {
    /// Nothing is counted yet.
    pub(super) fn new(transport: Transport, plan: Arc<Plan>, sheet: Sheet) -> Self {
        let rows = if transport == Transport::Udp { MANY } else { FEW };
        Self {
            transport,
            plan,
            sheet,
            lately: vec![None; rows].into(),
            hand: 0,
            reached: Instant::default(),
            displaced: Vec::new(),
            counters: HashMap::default(),
            silences: HashMap::default(),
            limited: HashMap::default(),
        }
    }

    /// Counts by the names of this plan from now on.
    pub(super) fn turn_to(&mut self, now: Instant, plan: &Arc<Plan>, sheet: Sheet) {
        self.flush(now);
        self.counters.clear();
        (self.plan, self.sheet) = (plan.clone(), sheet);
    }

    /// One more answer; `passed` are the services that a chain of names passed before its last.
    pub(super) fn count(
        &mut self,
        now: Instant,
        summary: &Summary,
        passed: impl Iterator<Item = (ServiceId, Named)>,
    ) {
        let counted = Counted::of(summary);
        let mut first = counted.named;
        for (row, (service, named)) in passed.filter(|_| !counted.truncated).enumerate() {
            self.sheet.add(now, 1, service, named);
            if row == 0 {
                first = Some(named);
            }
        }
        // What was asked for is asked for again when the first of a chain is forgotten.
        if let Some((_, ttl)) = first {
            self.sheet.answered(now, summary.asker, ttl);
        }
        // With few services each kind of answer has a row of its own.
        let (service, region) = counted.numbers();
        let row = service * (self.plan.regions.len() + 1) + region + counted.rcode as usize;
        match self.lately.get_mut(row & (self.lately.len() - 1)) {
            Some(Some((known, count))) if *known == counted => *count += 1,
            Some(other) => self.displaced.extend(other.replace((counted, 1))),
            None => {}
        }
    }

    /// One more that is not answered.
    pub(super) fn silent(&mut self, reason: Silence) {
        *self.silences.entry(reason).or_default() += 1;
    }

    /// One more that is not answered as it would have been.
    pub(super) fn limit(&mut self, verdict: Verdict) {
        *self.limited.entry(verdict).or_default() += 1;
    }

    /// Tells what is due, or had to leave its place: has the hand come round?
    pub(super) fn tell(&mut self, now: Instant) -> bool {
        let rows = self.lately.len();
        let each = ROUND / u32::try_from(rows).unwrap_or(u32::MAX);
        let passed = now.since(self.reached).as_nanos() / each.as_nanos();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed == 0 {
            return false;
        }
        // After a pause all of it is due, and that once.
        self.reached = if passed as usize > rows { now } else { self.reached + each * passed };
        let due = rows.min(passed as usize);
        let is_round = self.hand + due >= rows;
        for _ in 0..due {
            self.displaced.extend(self.lately.get_mut(self.hand).and_then(Option::take));
            self.hand = (self.hand + 1) % rows;
        }
        self.tell_displaced(now);
        if is_round {
            self.tell_unanswered();
        }
        is_round
    }

    /// Tells all of it.
    pub(super) fn flush(&mut self, now: Instant) {
        self.displaced.extend(self.lately.iter_mut().filter_map(Option::take));
        self.tell_displaced(now);
        self.tell_unanswered();
    }

    fn tell_unanswered(&mut self) {
        for (verdict, count) in self.limited.drain() {
            counter!("meridian_limited_total", "how" => verdict.label()).increment(count);
        }
        for (reason, count) in self.silences.drain() {
            counter!("meridian_silent_total", "reason" => reason.label()).increment(count);
        }
    }

    fn tell_displaced(&mut self, now: Instant) {
        let named = || self.displaced.iter().filter_map(|(of, _)| of.service.zip(of.named));
        named().for_each(|(service, named)| self.sheet.approach(service, named));
        named().for_each(|(service, named)| self.sheet.near(now, service, named));
        for (counted, count) in self.displaced.drain(..) {
            if let Some((service, named)) = counted.service.zip(counted.named) {
                self.sheet.add(now, count, service, named);
            }
            let usual = counted.usual();
            if !usual.is_some_and(|(of, first)| self.sheet.count_first(of, first, count)) {
                let unknown = || self.plan.counter(self.transport, counted);
                self.counters.entry(counted).or_insert_with(unknown).increment(count);
            }
            if counted.truncated {
                let transport = self.transport.label();
                counter!("meridian_truncated_total", "transport" => transport).increment(count);
            }
        }
        if self.counters.len() > MOST {
            self.counters.clear();
        }
    }
}

impl Plan {
    fn counter(&self, transport: Transport, counted: Counted) -> Counter {
        let service = counted.service.and_then(|id| self.services.get(id.index()));
        let region = counted.region.and_then(|id| self.regions.get(id.index()));
        let service = service.map_or(String::new(), |service| service.name.clone());
        let region = region.map_or(String::new(), |region| region.name.clone());
        queries(transport, counted.rcode, (service, region))
    }
}

#[cfg(test)]
mod tests {
    use std::iter::empty;

    use super::*;
    use crate::config::{Config, Targets};
    use crate::server::exposure::Exposure;
    use crate::time::Ttl;

    const SERVICES: usize = 200;

    fn plan() -> Arc<Plan> {
        let service = |row| {
            format!("  s{row}: {{ regions: {{ here: 192.0.2.1 }}, names: [s{row}.example.com] }}\n")
        };
        let services: String = (0..SERVICES).map(service).collect();
        let text = format!(
            "regions: {{ here: {{}} }}\nzones: {{ example.com: {{ ns: [ns.example.net] }} }}\n\
             services:\n{services}"
        );
        let mut no_files = |_: &std::path::Path| Err("no files here".to_owned());
        let config = Config::load("test", &text, &mut Targets::default(), &mut no_files).unwrap();
        let Config { zones, services, regions, identity, .. } = config;
        Plan::new(zones, services, regions, Vec::new(), identity).into()
    }

    /// A moment, and what is counted from then on, and told where.
    fn world(transport: Transport) -> (Instant, Exposure, Tally) {
        let (now, plan) = (Instant::from_nanos(1_000_000_000_000), plan());
        let exposure = Exposure::default();
        let sheet = exposure.sheet(now, &plan, transport);
        (now, exposure, Tally::new(transport, plan, sheet))
    }

    fn answer(service: usize) -> Summary {
        let region = RegionId::from_index(0).unwrap();
        Summary {
            rcode: Rcode::NoError,
            service: ServiceId::from_index(service),
            region: Some(region),
            named: Some((RegionSet::EMPTY.with(region), Ttl::from_secs(30))),
            asker: 0,
            by_subnet: false,
            truncated: false,
            proven: false,
            is_given: true,
        }
    }

    #[test]
    fn all_is_told_within_a_round_and_little_at_a_time() {
        let (mut now, exposure, mut tally) = world(Transport::Udp);
        tally.tell(now);
        let told = |now| exposure.remaining(now).values().map(|of| of.answers).sum::<u64>();
        for service in 0..SERVICES {
            tally.count(now, &answer(service), empty());
            tally.count(now, &answer(service), empty());
        }
        assert_eq!(told(now), 0, "a row each, to be told together");
        let (mut before, mut rounds) = (0, 0);
        for _ in 0..50 {
            now = now + ROUND / 50;
            rounds += usize::from(tally.tell(now));
            let after = told(now);
            assert!(after - before <= 2 * (MANY as u64 / 50 + 1), "{before}, and then {after}");
            before = after;
        }
        assert_eq!((before, rounds), (2 * SERVICES as u64, 1));
    }

    #[test]
    fn what_has_no_row_of_its_own_is_told_too() {
        let (now, exposure, mut tally) = world(Transport::Tcp);
        (0..3 * SERVICES).for_each(|row| tally.count(now, &answer(row % SERVICES), empty()));
        tally.flush(now);
        let remaining = exposure.remaining(now);
        assert_eq!(remaining.len(), SERVICES);
        assert!(remaining.values().all(|of| of.answers == 3), "{remaining:?}");
    }

    #[test]
    fn each_service_of_a_chain_is_told_by_its_own_ttl() {
        let (now, exposure, mut tally) = world(Transport::Udp);
        let last = answer(1);
        let hour = last.named.map(|(regions, _)| (regions, Ttl::from_secs(3600))).unwrap();
        let front = || ServiceId::from_index(0).map(|id| (id, hour)).into_iter();
        tally.count(now, &last, front());
        // The last one has no such records: nobody remembers a region of it.
        tally.count(now, &Summary { named: None, region: None, ..last }, front());
        tally.count(now, &Summary { truncated: true, ..last }, front());
        tally.flush(now);
        let told = |now| -> Vec<(String, u64)> {
            let remaining = exposure.remaining(now).into_iter();
            remaining.map(|((service, _), of)| (service, of.answers)).collect()
        };
        assert_eq!(told(now), [("s0".to_owned(), 2), ("s1".to_owned(), 1)]);
        assert_eq!(told(now + Duration::from_secs(600)), [("s0".to_owned(), 2)]);
    }
}
