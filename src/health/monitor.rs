//! The monitor: who is probed when, and what the outcomes mean.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::outcome::{Failure, Outcome, Report};
use super::schedule::{RoundTrip, Schedule};
use super::table::{HealthTable, State, TargetHealth};
use crate::ids::TargetId;
use crate::rng::{Seed, Stream};
use crate::time::Instant;

/// Decides who is probed when, and what is believed of whom.
#[derive(Debug)]
pub struct Monitor {
    watched: HashMap<TargetId, Watch>,
    table: HealthTable,
    /// When each target's next probe is due, while none of its probes is on the way.
    timers: BTreeSet<(Instant, TargetId)>,
    due: VecDeque<TargetId>,
    changes: VecDeque<Change>,
    jitter: Stream,
}

/// A probe to be carried out now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Order {
    /// Whom to probe.
    pub target: TargetId,
    /// How long the probe may take.
    pub timeout: Duration,
    /// When it was due: it is late by what has passed since.
    pub due: Instant,
}

/// Something is believed differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Of whom.
    pub target: TargetId,
    /// What was believed.
    pub from: State,
    /// What is believed now; the same as before when only the suspicion changed.
    pub to: State,
    /// Whether it is suspected now.
    pub suspected: bool,
    /// Since when.
    pub at: Instant,
    /// When the first of the failures was seen that led here, if failures did.
    pub failing_since: Option<Instant>,
}

/// One target's course.
#[derive(Debug)]
struct Watch {
    schedule: Schedule,
    round_trip: RoundTrip,
    /// The moment around which its next regular probe is; one interval after the other.
    slot: Instant,
    /// When the next probe is due, or the one that is on the way was.
    due: Instant,
    stage: Stage,
    failures: u32,
    /// What is believed of it rests on its probes, not on what was recalled.
    confirmed: bool,
    /// When it last came back from "down".
    came_back: Option<Instant>,
    /// How often it went down soon after it had come back.
    flaps: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// In `timers`.
    Waiting,
    /// In `due`.
    Due,
    /// With the driver.
    Probing,
}

impl Monitor {
    /// A monitor that watches nobody. Jitter is drawn from `seed`.
    pub fn new(seed: Seed) -> Self {
        Self {
            watched: HashMap::new(),
            table: HealthTable::default(),
            timers: BTreeSet::new(),
            due: VecDeque::new(),
            changes: VecDeque::new(),
            jitter: seed.stream("health jitter"),
        }
    }

    /// Watches `target` from now on, the first probe at once. One that is watched already keeps
    /// what is known of it, and follows the new schedule after its next probe.
    pub fn watch(&mut self, now: Instant, target: TargetId, schedule: Schedule) {
        if let Some(watch) = self.watched.get_mut(&target) {
            watch.schedule = schedule;
            return;
        }
        let slot = now + phase(target, schedule.interval);
        let watch = Watch {
            schedule,
            round_trip: RoundTrip::default(),
            slot,
            due: now,
            stage: Stage::Due,
            failures: 0,
            confirmed: false,
            came_back: None,
            flaps: 0,
        };
        self.watched.insert(target, watch);
        *self.table.row(target) = TargetHealth { since: now, ..TargetHealth::default() };
        self.due.push_back(target);
    }

    /// What an earlier process believed of a target that is not probed yet: it stands until the
    /// probes have said otherwise, by the same rules as any belief.
    pub fn recall(&mut self, target: TargetId, state: State, since: Instant) {
        if self.watched.get(&target).is_some_and(|watch| !watch.confirmed) {
            let row = self.table.row(target);
            *row = TargetHealth { state, since, ..*row };
        }
    }

    /// Watches `target` no longer, and forgets what was known of it.
    pub fn forget(&mut self, target: TargetId) {
        if let Some(watch) = self.watched.remove(&target) {
            self.timers.remove(&(watch.due, target));
            self.due.retain(|due| *due != target);
            *self.table.row(target) = TargetHealth::default();
        }
    }

    /// The targets that are watched.
    pub fn targets(&self) -> impl Iterator<Item = TargetId> {
        self.watched.keys().copied()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, target)) = self.timers.first().copied().filter(|(due, _)| *due <= now)
        {
            self.timers.remove(&(due, target));
            if let Some(watch) = self.watched.get_mut(&target) {
                watch.stage = Stage::Due;
                self.due.push_back(target);
            }
        }
    }

    /// A probe that [`Self::poll_probe`] ordered has ended. One of a target that is no longer
    /// watched, or that was not ordered, is passed over.
    pub fn handle_probe(&mut self, now: Instant, target: TargetId, report: Report) {
        let Some(watch) = self.watched.get_mut(&target) else { return };
        if watch.stage != Stage::Probing {
            return;
        }
        let before = self.table.get(target);
        let after = watch.learn(before, now, report);
        *self.table.row(target) = after;
        if (before.state, before.suspected) != (after.state, after.suspected) {
            self.changes.push_back(Change {
                target,
                from: before.state,
                to: after.state,
                suspected: after.suspected,
                at: now,
                failing_since: after.failing_since,
            });
        }
        watch.plan_next(now, after.state, &mut self.jitter);
        self.timers.insert((watch.due, target));
    }

    /// The next probe to carry out now.
    pub fn poll_probe(&mut self) -> Option<Order> {
        let target = self.due.pop_front()?;
        let watch = self.watched.get_mut(&target)?;
        watch.stage = Stage::Probing;
        let timeout = watch.round_trip.timeout(watch.schedule.timeout);
        Some(Order { target, timeout, due: watch.due })
    }

    /// The next thing that is believed differently.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// What is believed of everybody.
    pub fn table(&self) -> &HealthTable {
        &self.table
    }

    /// Has every target its first verdict, or been seen to be as it was recalled?
    pub fn settled(&self) -> bool {
        self.watched.values().all(|watch| watch.confirmed)
    }
}

impl Watch {
    /// What is believed after `report`.
    fn learn(&mut self, before: TargetHealth, now: Instant, report: Report) -> TargetHealth {
        if report.outcome.is_success() {
            self.round_trip.learn(report.latency);
        }
        let is_slow = self.schedule.slow_after.is_some_and(|most| report.latency > most);
        let report = match report.outcome {
            Outcome::Success if is_slow => {
                Report { outcome: Outcome::Failure(Failure::Slow), ..report }
            }
            _ => report,
        };
        let mut health = TargetHealth { last: Some((now, report)), ..before };
        match report.outcome {
            // The node's own trouble is no word about the target.
            Outcome::Failure(Failure::Local) => return health,
            Outcome::Success => {
                self.failures = 0;
                health.failing_since = None;
                health.risen = health.risen.saturating_add(1);
            }
            Outcome::Failure(_) => {
                self.failures = self.failures.saturating_add(1);
                health.failing_since = before.failing_since.or(Some(now));
                health.risen = 0;
            }
        }
        let all_failed = self.failures > self.schedule.reprobes;
        let verdict = match before.state {
            State::Unknown if health.risen > 0 => State::Up,
            State::Unknown | State::Up if all_failed => State::Down,
            State::Down
                if health.risen >= self.schedule.rise
                    && before.held_until.is_none_or(|until| now >= until) =>
            {
                State::Up
            }
            unchanged => unchanged,
        };
        if verdict != before.state {
            health.state = verdict;
            health.since = now;
            health.held_until = self.held_after(before.state, verdict, now);
        }
        health.suspected = verdict == State::Up && self.failures > 0;
        self.confirmed |= verdict != State::Unknown && !health.suspected;
        health
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
    /// next slot. Slots that have passed are passed over.
    fn plan_next(&mut self, now: Instant, state: State, jitter: &mut Stream) {
        self.stage = Stage::Waiting;
        let looked_into = state != State::Down && self.failures > 0;
        self.due = if looked_into {
            let gap = self.schedule.reprobe_gap;
            now + jitter.jitter(gap, Schedule::REPROBE_JITTER_PERCENT)
        } else {
            let interval = self.schedule.interval.max(Duration::from_millis(1));
            // A probe may come before its slot by the jitter: the slot it was for has then passed.
            let reach = interval * self.schedule.jitter_percent.min(100) / 100;
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
