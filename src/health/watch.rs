//! One target's course: when it is probed, and what this node concludes from what it sees.

use std::time::Duration;

use super::outcome::{Failure, Outcome, Report};
use super::schedule::{RoundTrip, Schedule};
use super::sight::Loss;
use super::table::{State, TargetHealth};
use crate::ids::TargetId;
use crate::rng::Stream;
use crate::time::Instant;

/// One target's course.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) schedule: Schedule,
    pub(super) round_trip: RoundTrip,
    /// The moment around which its next regular probe is; one interval after the other.
    slot: Instant,
    /// When the next probe is due, or the one that is on the way was; or when that one is given
    /// up.
    pub(super) due: Instant,
    pub(super) stage: Stage,
    /// Failures in a row.
    pub(super) failures: u32,
    /// The last of them may be this node's own: nothing came back from the target.
    is_silent: bool,
    /// How often in a row nothing did since something came last, while this node trusted its sight.
    pub(super) silences: u32,
    /// When the second of them was seen, or the only one that there may be.
    pub(super) again: Option<Instant>,
    /// This node was seen to see since then, and before the probe that is on its way.
    pub(super) vouched: bool,
    /// How much the failures weigh, in a row or not ([`PARTIAL`]).
    score: u32,
    /// How many of its probes get lost.
    pub(super) loss: Loss,
    /// What is believed of it rests on its probes, or they could not tell more than what was
    /// recalled.
    pub(super) confirmed: bool,
    /// What is believed of it was once what the nodes together saw.
    pub(super) agreed: bool,
    /// When a probe last said anything of it.
    pub(super) seen: Instant,
    /// When it last came back from "down".
    came_back: Option<Instant>,
    /// How often it went down soon after it had come back.
    flaps: u32,
}

/// What speaks against what this node sees of a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubts {
    /// It sees too little of all of them: nothing goes down.
    pub(super) abstains: bool,
    /// Probes of others get lost as well: this one's silence says less.
    pub(super) loses: bool,
    /// Its silence may be this node's own, as far as is known.
    pub(super) is_own: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// In the monitor's timers.
    Waiting,
    /// In its queue.
    Due,
    /// With the driver, which is given until `Watch::due`.
    Probing,
    /// With the driver, which did not report in time; at `Watch::due` it is asked again.
    Lost,
    /// Other nodes watch it.
    Elsewhere,
}

/// A detector of partial failure beside the failures in a row, which are blind to it: the
/// cumulative sum of log-likelihood ratios (Page, Biometrika 1954) between a target that fails 4 %
/// of its probes and one that fails half of them, in thousandths. At the threshold, ln of the
/// probes in a year, a sound target is called partly failing less than once a year; one that fails
/// half of its probes is found after some twenty. No more of a run counts than leaves the verdict
/// on it to `reprobes`, however many those are.
struct Partial {
    /// ln(0.50 / 0.04).
    failure: u32,
    /// −ln(0.50 / 0.96).
    success: u32,
    /// ln(63,000,000).
    threshold: u32,
    /// So many failures in a row stay below it.
    run: u32,
}

const PARTIAL: Partial = Partial { failure: 2526, success: 652, threshold: 17_959, run: 7 };

impl Watch {
    /// The course of a target that is watched from `now` on.
    pub(super) fn new(now: Instant, target: TargetId, schedule: Schedule) -> Self {
        Self {
            schedule,
            round_trip: RoundTrip::default(),
            slot: now + phase(target, schedule.interval),
            due: now,
            stage: Stage::Due,
            failures: 0,
            is_silent: false,
            silences: u32::MAX,
            again: None,
            vouched: false,
            score: 0,
            loss: Loss::default(),
            confirmed: false,
            agreed: false,
            seen: now,
            came_back: None,
            flaps: 0,
        }
    }

    /// Is probed by another schedule from `now` on: a shorter interval counts at once.
    pub(super) fn follow(&mut self, now: Instant, target: TargetId, schedule: Schedule) {
        if schedule.interval != self.schedule.interval {
            self.slot = now + phase(target, schedule.interval);
            if self.stage == Stage::Waiting {
                self.due = self.due.min(self.slot);
            }
        }
        self.schedule = schedule;
    }

    /// Takes its silence so far, which has begun at `since`, for one failure of no known time: of
    /// it the next probes are to tell, and whether this node sees is to be shown anew. Where this
    /// node `loses` probes it is blind now and then, and would find nobody down: there it leaves no
    /// more to be told than elsewhere.
    pub(super) fn forgive_silence(&mut self, loses: bool, since: &mut Option<Instant>) {
        if self.is_silent() {
            let Schedule { reprobes, .. } = self.schedule;
            let known = self.schedule.reprobes_where_lost() - reprobes;
            let most = if loses { known.max(1) } else { 1 };
            (self.failures, self.score) = (self.failures.min(most), 0);
            (self.again, self.vouched, *since) = (None, false, None);
        }
    }

    /// Is it failing in a way that this node's own network could explain?
    pub(super) fn is_silent(&self) -> bool {
        self.failures > 0 && self.is_silent
    }

    /// What is believed after `report`, which this node has these doubts about.
    pub(super) fn learn(
        &mut self,
        before: TargetHealth,
        now: Instant,
        report: Report,
        Doubts { abstains, loses, is_own }: Doubts,
    ) -> TargetHealth {
        let report = self.judged(report);
        let mut health = TargetHealth { last: Some((now, report)), ..before };
        let failure = match report.outcome {
            Outcome::Success | Outcome::Ending => None,
            Outcome::Failure(failure @ (Failure::Local | Failure::Untold)) => {
                // The node's own trouble is no word about the target, nor is silence where others
                // tell; but it has none for long.
                health.stale |= now.since(self.seen) > self.schedule.validity();
                // Where nobody tells anything else, what was recalled is what was told last.
                self.confirmed |= failure == Failure::Untold && before.own != State::Unknown;
                return health;
            }
            Outcome::Failure(failure) => Some(failure),
        };
        self.seen = now;
        health.stale = false;
        let is_silent = failure.is_some_and(Failure::is_silent);
        if !is_silent {
            self.loss.learn(if self.is_silent() { self.failures } else { 0 });
        }
        let may_be_lost = is_silent && loses;
        if failure.is_some() {
            self.failures = self.failures.saturating_add(1);
            self.is_silent = is_silent;
            self.silences = if is_silent { self.silences } else { 0 };
            self.silences = self.silences.saturating_add(u32::from(is_silent && !abstains));
            if self.failures <= PARTIAL.run && !may_be_lost {
                self.score = (self.score + PARTIAL.failure).min(PARTIAL.threshold);
            }
            health.failing_since = before.failing_since.or(Some(now));
            if before.failing_since.is_some() || self.schedule.reprobes <= 1 {
                self.again = self.again.or(Some(now));
            }
            health.risen = 0;
        } else {
            self.round_trip.learn(report.latency);
            (self.failures, self.silences, self.again) = (0, 0, None);
            self.score = self.score.saturating_sub(PARTIAL.success);
            health.failing_since = None;
            health.risen = health.risen.saturating_add(1);
        }
        let is_bad = if may_be_lost {
            self.failures > self.schedule.reprobes_where_lost()
        } else {
            self.failures > self.schedule.reprobes || self.score >= PARTIAL.threshold
        };
        let verdict = match before.own {
            State::Unknown if health.risen > 0 => State::Up,
            State::Unknown | State::Up if is_bad && failure.is_some() && !abstains && !is_own => {
                State::Down
            }
            State::Down
                if health.risen >= self.schedule.rise
                    && before.held_until.is_none_or(|until| now >= until) =>
            {
                State::Up
            }
            unchanged => unchanged,
        };
        if verdict != before.own {
            health.own = verdict;
            health.held_until = self.held_after(before.own, verdict, now);
            self.score = 0;
        }
        self.confirmed |=
            verdict != State::Unknown && (verdict == State::Down || self.failures == 0);
        health
    }

    /// A success that took too long is a failure.
    fn judged(&self, report: Report) -> Report {
        let is_slow = self.schedule.slow_after.is_some_and(|most| report.latency > most);
        match report.outcome {
            Outcome::Success | Outcome::Ending if is_slow => {
                Report { outcome: Outcome::Failure(Failure::Slow), ..report }
            }
            _ => report,
        }
    }

    /// Until when a target whose verdict has changed stays down: one that comes and goes is held
    /// longer each time, until it has been well for a while.
    fn held_after(&mut self, from: State, to: State, now: Instant) -> Option<Instant> {
        match (from, to) {
            (State::Down, State::Up) => {
                self.came_back = Some(now);
                None
            }
            (State::Up, State::Down) => {
                let is_soon =
                    self.came_back.is_some_and(|at| now.since(at) < Schedule::FLAP_MEMORY);
                self.flaps = if is_soon { self.flaps.saturating_add(1) } else { 0 };
                let hold = self.schedule.hold(self.flaps);
                (hold > Duration::ZERO).then_some(now + hold)
            }
            _ => None,
        }
    }

    /// When the next probe comes: soon, while a failure is being looked into, else around the
    /// next slot. Slots that have passed are passed over. Of a node that abstains all probes may
    /// fail, and at once: then soon is no sooner than usual.
    pub(super) fn plan_next(
        &mut self,
        now: Instant,
        (state, abstains): (State, bool),
        jitter: &mut Stream,
    ) {
        self.stage = Stage::Waiting;
        let looked_into = state != State::Down && self.failures > 0;
        self.due = if looked_into {
            let usual = self.schedule.interval.min(Schedule::INTERVAL);
            let gap = self.schedule.reprobe_gap.max(if abstains { usual } else { Duration::ZERO });
            now + jitter.jitter(gap, Schedule::REPROBE_JITTER_PERCENT)
        } else {
            let interval = self.schedule.interval.max(Duration::from_millis(1));
            // From slot to slot an interval varies by twice what a probe does around its slot. A
            // probe may come that much before its slot: the slot it was for has then passed.
            let reach = interval * self.schedule.jitter_percent.min(100) / 200;
            while self.slot <= now + reach {
                let late = (now + reach).since(self.slot).as_nanos() / interval.as_nanos();
                let slots = u32::try_from(late).unwrap_or(u32::MAX).saturating_add(1);
                self.slot = self.slot + interval.saturating_mul(slots);
            }
            self.slot - reach + jitter.jitter(reach, 100)
        };
    }
}

/// Where in the interval a target's slots are. Multiples of the golden ratio modulo 1 are spread
/// evenly for any number of successive ids (Knuth, TAOCP 3, §6.4).
fn phase(target: TargetId, interval: Duration) -> Duration {
    let turn = (target.index() as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let nanos = (u128::from(turn) * interval.as_nanos()) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}
