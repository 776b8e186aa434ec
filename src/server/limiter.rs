//! How much each network gets: a fixed table, written by all workers without locks.
//!
//! Each row is a leaky bucket as ITU-T I.371 has it (the generic cell rate algorithm): the moment
//! up to which a network has had its share. Two workers that write one row at the same time may
//! count one answer for two; who is over by much is over all the same. All rows that a network may
//! have are in one line of the cache, which can be fetched ahead.

use std::hash::{BuildHasher, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;

use crate::prefetch::{LINE, prefetch};
use crate::snapshot::RateLimit;
use crate::time::Instant;

/// The table of all workers.
#[derive(Clone, Debug)]
pub(super) struct Limiter {
    lines: Arc<[Line]>,
    /// Strangers choose what is counted.
    seed: RandomState,
}

/// What the cache holds together.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([Row; LINE / size_of::<Row>()]);

/// Whose share it is, as a hash, and up to when it has been had, in nanoseconds.
#[derive(Debug, Default)]
struct Row {
    whose: AtomicU64,
    until: AtomicU64,
}

/// What a client gets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Verdict {
    /// Its answer.
    Answer,
    /// Word that it should ask again so that its address is known to be its own.
    AskAgain,
    /// Nothing.
    Silence,
}

impl Verdict {
    /// A word for it: the label of a counter.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Answer => "answered",
            Self::AskAgain => "ask_again",
            Self::Silence => "dropped",
        }
    }
}

/// A mebibyte of them. Of more networks at once than have room, those that had the least are
/// forgotten.
const LINES: usize = 1 << 14;

/// How much may come at once: what comes in a second.
const BURST: u64 = 1_000_000_000;

/// In the place of a subject: whatever is asked for. None has it: it is no place in memory.
const ALL: u64 = u64::MAX;

impl Limiter {
    pub(super) fn new() -> Self {
        Self { lines: (0..LINES).map(|_| Line::default()).collect(), seed: RandomState::default() }
    }

    /// Has the processor fetch what [`Self::judge`] will look at. Whoever has many to judge tells
    /// of all of them before.
    pub(super) fn approach(&self, limit: &RateLimit, (client, subject): (&IpAddr, u64)) {
        let network = network(client);
        if limit.all.is_some() {
            prefetch(&self.lines, place(self.hash(network, ALL)));
        }
        prefetch(&self.lines, place(self.hash(network, subject)));
    }

    /// What `client` gets, which has not proven its address; `subject` is what it asks for, and
    /// `beyond` tells how many have not got their answers so far.
    pub(super) fn judge(
        &self,
        now: Instant,
        limit: &RateLimit,
        (client, subject): (&IpAddr, u64),
        beyond: u64,
    ) -> Verdict {
        if !limit.is_for(client) {
            return Verdict::Answer;
        }
        let network = network(client);
        let has = |subject: u64, rate: u32| {
            self.take(self.hash(network, subject), now, BURST / u64::from(rate.max(1)))
        };
        // What `same` refuses is not answered, and takes nothing of `all`.
        let is_left = has(subject, limit.same) && limit.all.is_none_or(|all| has(ALL, all));
        if is_left {
            return Verdict::Answer;
        }
        match beyond.checked_rem(limit.slip.into()) {
            Some(0) => Verdict::AskAgain,
            _ => Verdict::Silence,
        }
    }

    fn hash(&self, network: u64, subject: u64) -> u64 {
        let mut hasher = self.seed.build_hasher();
        hasher.write_u64(network);
        hasher.write_u64(subject);
        hasher.finish()
    }

    /// Takes one share of `step` nanoseconds, if there is one left.
    fn take(&self, whose: u64, now: Instant, step: u64) -> bool {
        let now = now.as_nanos();
        let Some(Line(rows)) = self.lines.get(place(whose)) else { return true };
        let until = |row: &Row| row.until.load(Ordering::Relaxed);
        let known = rows.iter().find(|row| row.whose.load(Ordering::Relaxed) == whose);
        let Some(row) = known.or_else(|| rows.iter().min_by_key(|row| until(row))) else {
            return true;
        };
        if known.is_none() {
            row.whose.store(whose, Ordering::Relaxed);
            row.until.store(0, Ordering::Relaxed);
        }
        let had = until(row).max(now);
        let is_left = had - now + step <= BURST.max(step);
        if is_left {
            row.until.store(had + step, Ordering::Relaxed);
        }
        is_left
    }
}

/// Where the line of a hash is.
#[expect(clippy::cast_possible_truncation, reason = "lower bits are meant")]
fn place(hash: u64) -> usize {
    hash as usize % LINES
}

/// The IPv4 /24 or IPv6 /56 of an address.
fn network(client: &IpAddr) -> u64 {
    match *client {
        IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8) | 1 << 63,
        IpAddr::V6(ip) => u64::try_from(u128::from(ip) >> 72).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How many of so many questions are answered that come at one moment.
    fn answered(limiter: &Limiter, limit: &RateLimit, client: &str, second: u64) -> usize {
        let now = Instant::default() + Duration::from_secs(1000 + second);
        let client = client.parse().unwrap();
        let judge = |_: &usize| limiter.judge(now, limit, (&client, 7), 0) == Verdict::Answer;
        (0..100).filter(judge).count()
    }

    #[test]
    fn each_network_has_its_share_of_each_second() {
        let exempt = vec!["198.51.100.0/25".parse().unwrap()];
        let limit = RateLimit { same: 10, all: None, slip: 0, exempt };
        let limiter = Limiter::new();
        assert_eq!(answered(&limiter, &limit, "192.0.2.1", 0), 10);
        assert_eq!(answered(&limiter, &limit, "192.0.2.254", 0), 0, "the same network");
        assert_eq!(answered(&limiter, &limit, "192.0.3.1", 0), 10, "another one");
        assert_eq!(answered(&limiter, &limit, "192.0.2.1", 1), 10, "a second later");
        assert_eq!(answered(&limiter, &limit, "192.0.2.1", 9), 10, "nothing is saved up");
        assert_eq!(answered(&limiter, &limit, "198.51.100.1", 0), 100, "exempt");
        assert_eq!(answered(&limiter, &limit, "2001:db8::1", 0), 10);
        assert_eq!(answered(&limiter, &limit, "2001:db8:0:ff::1", 0), 0, "the same /56");
        let limit = RateLimit { all: Some(3), ..limit };
        assert_eq!(answered(&limiter, &limit, "192.0.4.1", 0), 3, "the lesser counts");
    }

    #[test]
    fn a_flood_of_one_question_leaves_a_network_its_others() {
        let limit = RateLimit { same: 10, all: Some(50), slip: 0, exempt: Vec::new() };
        let (limiter, client) = (Limiter::new(), "192.0.2.1".parse().unwrap());
        let now = Instant::default() + Duration::from_secs(1000);
        let has = |subject| limiter.judge(now, &limit, (&client, subject), 0) == Verdict::Answer;
        let answered = |subject| (0..1000).filter(|_| has(subject)).count();
        assert_eq!([7, 8, 9, 10, 11, 12].map(answered), [10, 10, 10, 10, 10, 0]);
    }

    #[test]
    fn who_had_most_is_remembered_among_any_number_of_others() {
        let limit = RateLimit { same: 10, all: None, slip: 0, exempt: Vec::new() };
        let limiter = Limiter::new();
        assert_eq!(answered(&limiter, &limit, "192.0.2.1", 0), 10);
        let now = Instant::default() + Duration::from_secs(1000);
        for network in 0..1 << 18 {
            let client = IpAddr::V4((10 << 24 | network << 8).into());
            limiter.judge(now, &limit, (&client, 7), 0);
        }
        assert_eq!(answered(&limiter, &limit, "192.0.2.1", 0), 0);
    }

    #[test]
    fn each_so_manieth_is_told_to_ask_again() {
        let limit = RateLimit { same: 1, all: None, slip: 3, exempt: Vec::new() };
        let (limiter, client) = (Limiter::new(), "192.0.2.1".parse().unwrap());
        let judge = |beyond| limiter.judge(Instant::default(), &limit, (&client, 1), beyond);
        let verdicts: Vec<Verdict> = (0..301).map(judge).collect();
        let count = |verdict| verdicts.iter().filter(|of| **of == verdict).count();
        let counts = [Verdict::Answer, Verdict::AskAgain, Verdict::Silence].map(count);
        assert_eq!(counts, [1, 100, 200]);
    }
}
