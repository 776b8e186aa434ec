//! Between a socket and `query::answer`: the newest snapshot, the counters, and the last resort.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use foldhash::fast::FixedState;
use metrics::{Counter, counter};

use super::clock::Clock;
use super::exposure::{Exposure, Sheet};
use super::limiter::{Limiter, Verdict};
use super::mmsg::BATCH;
use super::sample::Sample;
use crate::ids::{RegionId, RegionSet, ServiceId};
use crate::query::{LowerName, Outcome, Peer, Query, Rcode, Silence, Summary, Transport};
use crate::snapshot::{Plan, Snapshot};
use crate::time::{Instant, Ttl};

/// The pointer that is swapped.
pub(super) type Published = Arc<ArcSwap<Snapshot>>;

/// What is answered from, and who is told of it.
#[derive(Clone)]
pub(super) struct Answers {
    pub(super) published: Published,
    pub(super) clock: Clock,
    pub(super) sample: Sample,
    pub(super) exposure: Exposure,
    pub(super) limiter: Limiter,
}

/// Room for the names of a batch.
pub(super) type Rooms = [LowerName; BATCH];

/// Answers packets of one transport, and counts what it answered. One to a thread or connection.
pub(super) struct Responder {
    published: Cache<Published, Arc<Snapshot>>,
    clock: Clock,
    sample: Sample,
    exposure: Exposure,
    sheet: Sheet,
    limiter: Limiter,
    /// How many have not got their answers as they were beyond a limit.
    beyond: u64,
    tally: Tally,
}

impl Responder {
    /// Answers what comes by `transport`.
    pub(super) fn new(answers: Answers, transport: Transport) -> Self {
        let Answers { published, clock, sample, exposure, limiter } = answers;
        let plan = published.load().plan().clone();
        let sheet = exposure.sheet(clock.now(), &plan, transport);
        let tally = Tally::new(transport, plan);
        let (published, beyond) = (Cache::new(published), 0);
        Self { published, clock, sample, exposure, sheet, limiter, beyond, tally }
    }

    /// The moment to answer at.
    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Leaves in `out` the answer to `packet`, which came at `now`, or nothing.
    pub(super) fn respond(&mut self, now: Instant, packet: &[u8], peer: Peer, out: &mut Vec<u8>) {
        let snapshot = self.published.load().clone();
        self.turn_to(now, &snapshot);
        out.clear();
        out.extend_from_slice(packet);
        let mut room = LowerName::default();
        let mut query = Query::new(peer, &mut room);
        let outcome = guarded(|| {
            query.prepare(out, &snapshot);
            query.answer(&snapshot, now, out)
        });
        match outcome {
            Some(outcome) => self.account((&snapshot, now), &query, &outcome),
            None => serv_fail(out),
        }
    }

    /// The same for a batch of datagrams, each in the place of its answer: all go through one stage
    /// after the other.
    pub(super) fn respond_all<'b>(
        &mut self,
        now: Instant,
        rooms: &mut Rooms,
        packets: impl Iterator<Item = (SocketAddr, &'b mut Vec<u8>)>,
    ) {
        let snapshot = self.published.load().clone();
        self.turn_to(now, &snapshot);
        let mut rows = [const { None }; BATCH];
        for ((row, room), (address, message)) in rows.iter_mut().zip(rooms).zip(packets) {
            let peer = Peer { address, transport: Transport::Udp };
            *row = Some(Row::new(peer, room, message));
        }
        through(&mut rows, |row| row.query.read(row.message, &snapshot));
        through(&mut rows, |row| row.query.approach());
        through(&mut rows, |row| row.query.find(&snapshot));
        through(&mut rows, |row| row.query.select(&snapshot));
        through(&mut rows, |row| row.query.near());
        through(&mut rows, |row| self.answer((&snapshot, now), row));
        for row in rows.iter_mut().flatten().filter(|row| row.is_lost) {
            serv_fail(row.message);
        }
    }

    /// The last stage of a datagram.
    fn answer(&mut self, (snapshot, now): (&Snapshot, Instant), row: &mut Row<'_>) {
        let outcome = row.query.answer(snapshot, now, row.message);
        let is_limited = match &outcome {
            Outcome::Answered(summary) => {
                self.is_limited((snapshot, now), &row.query, summary, row.message)
            }
            Outcome::Silent(_) => false,
        };
        if !is_limited {
            self.account((snapshot, now), &row.query, &outcome);
        }
    }

    /// Is an answer beyond a limit? Then there is something else in `message`, or nothing.
    fn is_limited(
        &mut self,
        (snapshot, now): (&Snapshot, Instant),
        query: &Query<'_>,
        summary: &Summary,
        message: &mut Vec<u8>,
    ) -> bool {
        let limit = snapshot.plan().protection.rate_limit.as_ref();
        let Some(limit) = limit.filter(|_| !summary.proven) else { return false };
        let whose = (query.resolver(), query.subject());
        let verdict = self.limiter.judge(now, limit, whose, self.beyond);
        match verdict {
            Verdict::Answer => return false,
            Verdict::AskAgain => {
                guarded(|| query.ask_again(snapshot, now, message));
            }
            Verdict::Silence => message.clear(),
        }
        self.beyond += 1;
        *self.tally.limited.entry(verdict).or_default() += 1;
        true
    }

    /// Counts by the names of this snapshot from now on.
    fn turn_to(&mut self, now: Instant, snapshot: &Snapshot) {
        if !Arc::ptr_eq(snapshot.plan(), &self.tally.plan) {
            self.tally.flush(now, &self.sheet);
            self.tally = Tally::new(self.tally.transport, snapshot.plan().clone());
            self.sheet = self.exposure.sheet(now, &self.tally.plan, self.tally.transport);
        }
    }

    /// Takes down what was answered.
    fn account(
        &mut self,
        (snapshot, now): (&Snapshot, Instant),
        query: &Query<'_>,
        outcome: &Outcome,
    ) {
        let summary = match outcome {
            Outcome::Answered(summary) => summary,
            Outcome::Silent(reason) => {
                *self.tally.silences.entry(*reason).or_default() += 1;
                return;
            }
        };
        if let Some(service) = summary.service {
            self.sample.offer(now, snapshot.plan(), || (service, query.client(summary)));
        }
        let counted = Counted::of(summary);
        if let Some((_, ttl)) = counted.named {
            self.sheet.answered(now, summary.asker, ttl);
        }
        self.tally.count(counted);
    }

    /// Hands what was counted to the metrics and the ledger, and lets go of what is not answered
    /// from any more.
    pub(super) fn flush(&mut self, now: Instant) {
        let snapshot = self.published.load().clone();
        self.turn_to(now, &snapshot);
        self.tally.flush(now, &self.sheet);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.tally.flush(self.clock.now(), &self.sheet);
    }
}

/// A datagram of a batch, and how far it is.
struct Row<'b> {
    query: Query<'b>,
    /// The datagram, and then its answer.
    message: &'b mut Vec<u8>,
    /// Whether something went wrong with it that should not.
    is_lost: bool,
}

impl<'b> Row<'b> {
    fn new(peer: Peer, room: &'b mut LowerName, message: &'b mut Vec<u8>) -> Self {
        Self { query: Query::new(peer, room), message, is_lost: false }
    }
}

/// Takes all of a batch through a stage. One with which something goes wrong that should not stays
/// behind, and the others go on.
fn through<'b>(rows: &mut [Option<Row<'b>>], mut stage: impl FnMut(&mut Row<'b>)) {
    let mut next = 0;
    loop {
        let all = guarded(|| {
            for row in rows.iter_mut().skip(next) {
                next += 1;
                row.iter_mut().filter(|row| !row.is_lost).for_each(&mut stage);
            }
        });
        match rows.get_mut(next.saturating_sub(1)) {
            Some(Some(culprit)) if all.is_none() => culprit.is_lost = true,
            _ => return,
        }
    }
}

/// Nothing a packet can hold should make it panic; if it does, it costs its sender an answer and
/// nobody else anything.
fn guarded<T>(stage: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(stage)).ok();
    if done.is_none() {
        counter!("meridian_panics_total").increment(1);
    }
    done
}

/// A header that says SERVFAIL, in the place of a packet of which no more is known.
fn serv_fail(message: &mut Vec<u8>) {
    let head = message.first_chunk().map(|[id0, id1, flags]| {
        let [_, rcode] = (Rcode::ServFail as u16).to_be_bytes();
        // QR, and the opcode and RD of the query (RFC 1035 §4.1.1).
        [*id0, *id1, 0x80 | flags & 0x79, rcode, 0, 0, 0, 0, 0, 0, 0, 0]
    });
    message.clear();
    head.iter().for_each(|head| message.extend_from_slice(head));
}

/// Counts, kept by one thread until they are worth a shared write. Their keys are not for strangers
/// to choose: a fast hash will do.
struct Tally {
    transport: Transport,
    /// What the ids mean.
    plan: Arc<Plan>,
    /// What is not in `counted` yet, each in the one row that it may have there.
    lately: [Option<(Counted, u64)>; LATELY],
    /// What was answered, in its order: to write down what comes next waits for no memory.
    counted: Vec<(Counted, u64)>,
    /// Whom to tell.
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
    named: Option<(RegionSet, Ttl)>,
}

impl Counted {
    fn of(summary: &Summary) -> Self {
        let Summary { rcode, service, region, truncated, .. } = *summary;
        // Nobody remembers what is cut short.
        Self { rcode, service, region, truncated, named: summary.named.filter(|_| !truncated) }
    }

    /// A number in which those differ that are counted at the same time.
    fn row(&self) -> usize {
        let service = self.service.map_or(0, |id| id.index() + 1);
        let region = self.region.map_or(0, |id| id.index() + 1);
        service << 2 ^ region ^ (self.rcode as usize) << 4
    }
}

/// In few words: with many services it is hashed for most answers.
impl Hash for Counted {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { rcode, service, region, truncated, named } = *self;
        let service = service.map_or(0, |id| id.index() + 1);
        let region = region.map_or(0, |id| id.index() + 1);
        let ttl = named.map_or(0, |(_, ttl)| ttl.as_secs());
        state.write_usize(
            service << 16 | region << 8 | rcode as usize | usize::from(truncated) << 7,
        );
        state.write_u32(ttl);
        named.map_or(RegionSet::EMPTY, |(regions, _)| regions).hash(state);
    }
}

/// Of more than this, the counters that were found are forgotten: regions come and go.
const MOST: usize = 1 << 18;

/// Most answers of a moment are of a few kinds, which are found here without a search.
const LATELY: usize = 64;

impl Tally {
    fn new(transport: Transport, plan: Arc<Plan>) -> Self {
        let (lately, counted, counters) = ([None; LATELY], Vec::new(), HashMap::default());
        let (silences, limited) = (HashMap::default(), HashMap::default());
        Self { transport, plan, lately, counted, counters, silences, limited }
    }

    fn count(&mut self, counted: Counted) {
        let Some(row) = self.lately.get_mut(counted.row() % LATELY) else { return };
        match row {
            Some((known, untold)) if *known == counted => *untold += 1,
            _ => self.counted.extend(row.replace((counted, 1))),
        }
    }

    fn flush(&mut self, now: Instant, sheet: &Sheet) {
        self.counted.extend(self.lately.iter_mut().filter_map(Option::take));
        for (counted, count) in self.counted.drain(..) {
            let unknown = || self.plan.counter(self.transport, counted);
            self.counters.entry(counted).or_insert_with(unknown).increment(count);
            if let (Some(service), Some(named)) = (counted.service, counted.named) {
                sheet.add(now, count, service, named);
            }
            if counted.truncated {
                let transport = self.transport.label();
                counter!("meridian_truncated_total", "transport" => transport).increment(count);
            }
        }
        if self.counters.len() > MOST {
            self.counters.clear();
        }
        for (verdict, count) in self.limited.drain() {
            counter!("meridian_limited_total", "how" => verdict.label()).increment(count);
        }
        for (reason, count) in self.silences.drain() {
            counter!("meridian_silent_total", "reason" => reason.label()).increment(count);
        }
    }
}

impl Plan {
    fn counter(&self, transport: Transport, counted: Counted) -> Counter {
        let service = counted.service.and_then(|id| self.services.get(id.index()));
        let region = counted.region.and_then(|id| self.regions.get(id.index()));
        counter!(
            "meridian_queries_total",
            "transport" => transport.label(),
            "rcode" => counted.rcode.label(),
            "service" => service.map_or(String::new(), |service| service.name.clone()),
            "region" => region.map_or(String::new(), |region| region.name.clone()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_costs_its_sender_an_answer_and_nobody_else_anything() {
        let packet = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\0\0\x01\0\x01";
        let peer = Peer { address: ([192, 0, 2, 1], 53).into(), transport: Transport::Udp };
        let (mut rooms, mut messages) =
            ([LowerName::default(); 4], [0; 4].map(|_| packet.to_vec()));
        let row = |(room, message)| Some(Row::new(peer, room, message));
        let mut rows: Vec<Option<Row<'_>>> = rooms.iter_mut().zip(&mut messages).map(row).collect();
        let mut count = 0;
        through(&mut rows, |_| {
            count += 1;
            assert!(count % 2 == 1, "a bug");
        });
        let is_left = |row: &Option<Row<'_>>| !row.as_ref().unwrap().is_lost;
        let left: Vec<bool> = rows.iter().map(is_left).collect();
        assert_eq!((count, left), (4, vec![true, false, true, false]));
    }
}
