//! Between a socket and `query::answer`: the newest snapshot, the counters, and the last resort.

use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use metrics::counter;

use super::clock::Clock;
use super::exposure::Exposure;
use super::limiter::{Limiter, Verdict};
use super::mmsg::BATCH;
use super::sample::Sample;
use super::tally::Tally;
use crate::query::{LowerName, Outcome, Peer, Query, Rcode, Summary, Transport};
use crate::snapshot::Snapshot;
use crate::time::Instant;

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

/// Answers packets of one transport, and counts what it answered. One to a thread, or to what is
/// answered at once: while it lives it holds on to what it last answered from.
pub(super) struct Responder {
    published: Cache<Published, Arc<Snapshot>>,
    clock: Clock,
    sample: Sample,
    exposure: Exposure,
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
        let tally = Tally::new(transport, plan, sheet);
        let (published, beyond) = (Cache::new(published), 0);
        Self { published, clock, sample, exposure, limiter, beyond, tally }
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
        // One by one: a constant of all of them would be copied, with all that is nothing.
        let mut rows: [Option<Row<'_>>; BATCH] = std::array::from_fn(|_| None);
        let mut count = 0;
        for ((row, room), (address, message)) in rows.iter_mut().zip(rooms).zip(packets) {
            let query = Query::new(Peer { address, transport: Transport::Udp }, room);
            *row = Some(Row { query, message, outcome: None });
            count += 1;
        }
        let rows = rows.get_mut(..count).unwrap_or(&mut []);
        through(rows, |row| row.query.read(row.message, &snapshot));
        through(rows, |row| row.query.approach());
        through(rows, |row| row.query.find(&snapshot));
        through(rows, |row| row.query.select(&snapshot));
        through(rows, |row| row.query.near());
        let limit = snapshot.plan().protection.rate_limit.as_ref();
        through(rows, |row| {
            row.query.choose();
            if let Some(limit) = limit {
                self.limiter.approach(limit, whose(&row.query, true));
            }
        });
        through(rows, |row| self.answer((&snapshot, now), row));
        through(rows, |row| {
            if let Some(outcome) = &row.outcome {
                self.account((&snapshot, now), &row.query, outcome);
            }
        });
    }

    /// Makes the answer to a datagram, unless that is beyond a limit.
    fn answer(&mut self, (snapshot, now): (&Snapshot, Instant), row: &mut Row<'_>) {
        let outcome = row.query.answer(snapshot, now, row.message);
        if let Outcome::Answered(summary) = &outcome {
            if self.is_limited((snapshot, now), &row.query, summary, row.message) {
                return;
            }
            self.tally.approach(now, summary);
        }
        row.outcome = Some(outcome);
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
        match self.limiter.judge(now, limit, whose(query, summary.is_given), self.beyond) {
            Verdict::Answer => return false,
            Verdict::AskAgain => {
                guarded(|| query.ask_again(snapshot, now, message));
            }
            Verdict::Silence => message.clear(),
        }
        self.beyond += 1;
        // Of what cannot be read nothing can be asked again.
        self.tally.limit(if message.is_empty() { Verdict::Silence } else { Verdict::AskAgain });
        true
    }

    /// Counts by the names of this snapshot from now on.
    fn turn_to(&mut self, now: Instant, snapshot: &Snapshot) {
        let plan = snapshot.plan();
        if !Arc::ptr_eq(plan, &self.tally.plan) {
            let sheet = self.exposure.sheet(now, plan, self.tally.transport);
            self.tally.turn_to(plan, sheet);
        }
    }

    /// Takes down what was answered.
    #[inline]
    fn account(
        &mut self,
        (snapshot, now): (&Snapshot, Instant),
        query: &Query<'_>,
        outcome: &Outcome,
    ) {
        let summary = match outcome {
            Outcome::Answered(summary) => summary,
            Outcome::Silent(reason) => return self.tally.silent(*reason),
        };
        if let Some(service) = summary.service {
            self.sample.offer(now, snapshot.plan(), || (service, query.client(summary)));
        }
        self.tally.count(now, summary, query.passed());
    }

    /// Hands on a part of what was counted, and lets go of what is not answered from any more: all
    /// of it within a quarter of a second, if it is called that often.
    pub(super) fn tell(&mut self, now: Instant) {
        if self.tally.tell(now) {
            let snapshot = self.published.load().clone();
            self.turn_to(now, &snapshot);
        }
    }
}

impl Answers {
    /// The answer to `packet`; empty, if there is none.
    pub(super) fn answer(&self, packet: &[u8], peer: Peer) -> Vec<u8> {
        let mut responder = Responder::new(self.clone(), peer.transport);
        let (now, mut out) = (responder.now(), Vec::new());
        responder.respond(now, packet, peer, &mut out);
        out
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.tally.flush();
    }
}

/// Who asks, and for what: of both together there is only so much a second.
fn whose<'q>(query: &'q Query<'_>, is_given: bool) -> (&'q IpAddr, u64) {
    (query.resolver(), query.subject(is_given))
}

/// A datagram of a batch, and how far it is.
struct Row<'b> {
    query: Query<'b>,
    /// The datagram, and then its answer.
    message: &'b mut Vec<u8>,
    /// What became of it, if that is to be counted.
    outcome: Option<Outcome>,
}

/// Takes all of a batch through a stage. One with which something goes wrong that should not is
/// told so, and the others go on.
fn through<'b>(rows: &mut [Option<Row<'b>>], mut stage: impl FnMut(&mut Row<'b>)) {
    let mut next = 0;
    loop {
        let all = guarded(|| {
            for row in rows.iter_mut().skip(next) {
                next += 1;
                row.iter_mut().for_each(&mut stage);
            }
        });
        if all.is_some() {
            return;
        }
        let culprit = next.checked_sub(1).and_then(|at| rows.get_mut(at)?.take());
        culprit.into_iter().for_each(|row| serv_fail(row.message));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_costs_its_sender_an_answer_and_nobody_else_anything() {
        let packet = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\0\0\x01\0\x01";
        let peer = Peer { address: ([192, 0, 2, 1], 53).into(), transport: Transport::Udp };
        let (mut rooms, mut messages) =
            ([LowerName::default(); 4], [0; 4].map(|_| packet.to_vec()));
        let row =
            |(room, message)| Some(Row { query: Query::new(peer, room), message, outcome: None });
        let mut rows: Vec<Option<Row<'_>>> = rooms.iter_mut().zip(&mut messages).map(row).collect();
        let mut count = 0;
        through(&mut rows, |_| {
            count += 1;
            assert!(count % 2 == 1, "a bug");
        });
        let left: Vec<bool> = rows.iter().map(Option::is_some).collect();
        assert_eq!((count, left), (4, vec![true, false, true, false]));
        let failed = b"\0\x01\x81\x02\0\0\0\0\0\0\0\0";
        let expected: [&[u8]; 4] = [packet, failed, packet, failed];
        assert_eq!(messages, expected);
    }
}
