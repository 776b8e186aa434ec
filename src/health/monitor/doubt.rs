//! Does this node trust what it sees? It asks others than the one that is silent, and abstains
//! where most of them are.

use std::time::Duration;

use super::Monitor;
use crate::health::outcome::{Failure, Outcome, Report};
use crate::health::sight::Sight;
use crate::health::table::{State, TargetHealth};
use crate::health::watch::Stage;
use crate::ids::TargetId;
use crate::time::Instant;

impl Monitor {
    /// Does this node count its own sight for nothing, as most of what it watches went silent at
    /// once, or all of its canaries did?
    pub fn abstains(&self) -> bool {
        self.abstains
    }

    /// Do many of this node's probes get lost, so that silence has to last longer to count?
    pub fn loses(&self) -> bool {
        self.sight.loses_beside(Sight::default())
    }

    /// Is what a probe of `target` saw a sign of this node's own trouble, as far as is known?
    /// Silence is, until somebody else was heard since it was silent again, and the others had time
    /// to be silent too: a node whose network is gone would else call those down that it happens to
    /// probe first; as it comes back, those whose last probe was lost with it; and if it comes back
    /// for a moment only, those that were not probed then. Others are asked at once, so that no
    /// verdict waits for somebody's turn.
    pub(super) fn is_doubted(
        &mut self,
        now: Instant,
        target: TargetId,
        before: TargetHealth,
        report: Report,
    ) -> bool {
        if !matches!(report.outcome, Outcome::Failure(failure) if failure.is_silent()) {
            self.take_for_sign(now, target, report);
            return false;
        }
        let Some(watch) = self.watched.get(&target) else { return false };
        if !self.sight.has_others(self.sight_of(target)) {
            return false;
        }
        if watch.vouched {
            let span = before.failing_since.map_or(Duration::ZERO, |since| now.since(since));
            return span < watch.schedule.wave();
        }
        let again = watch.again.unwrap_or(now);
        if !self.sign.since(again) {
            self.ask_for_sign(now, again, target);
        }
        true
    }

    /// An answer shows that this node sees; with canaries, theirs do.
    fn take_for_sign(&mut self, now: Instant, target: TargetId, report: Report) {
        let counts = match report.outcome {
            Outcome::Failure(Failure::Local | Failure::Untold) => false,
            _ if self.sight.canaries == 0 => !self.told.contains(&target),
            outcome => self.canaries.contains(&target) && !matches!(outcome, Outcome::Failure(_)),
        };
        if counts {
            self.sign.give(now - report.latency);
        }
    }

    /// Probes some others now who were not seen since then: few targets are all asked, and of many
    /// some. Not before the verdict is near, and not again and again: lost packets are no reason.
    fn ask_for_sign(&mut self, now: Instant, since: Instant, target: TargetId) {
        let Some(watch) = self.watched.get(&target) else { return };
        let is_soon = |asked: Instant| now.since(asked) < watch.schedule.reprobe_gap;
        let is_near = watch.failures + 2 >= watch.schedule.reprobes;
        if self.abstains || !is_near || self.sign.asked.is_some_and(is_soon) {
            return;
        }
        let is_free = |of: &TargetId| {
            let watch = self.watched.get(of).filter(|watch| !watch.is_silent());
            watch.is_some_and(|watch| watch.stage == Stage::Waiting && watch.seen < since)
        };
        let others = self.timers.iter().map(|(_, of)| *of);
        let others = others.filter(|of| *of != target && is_free(of) && self.can_tell(*of));
        let asked: Vec<TargetId> = others.take(MOST_ASKED).collect();
        // Also where nobody is found: to look through all of them for each report takes too long.
        self.sign.asked = Some(now);
        // Whoever is on the way is asked as soon as it is back.
        self.sign.wanted = asked.is_empty().then_some(since);
        asked.into_iter().for_each(|of| self.hint(now, of));
    }

    /// Do probes of others than this one get lost as well?
    pub(super) fn loses_beside(&self, target: TargetId) -> bool {
        self.sight.loses_beside(self.sight_of(target))
    }

    /// Would an answer of this one be a sign that this node sees?
    pub(super) fn can_tell(&self, target: TargetId) -> bool {
        let sight = self.sight_of(target);
        sight.canaries > 0 || self.sight.canaries == 0 && sight.living > 0
    }

    /// What one target adds to what this node sees.
    pub(super) fn sight_of(&self, target: TargetId) -> Sight {
        let Some(watch) = self.watched.get(&target) else { return Sight::default() };
        let health = self.table.get(target);
        let stale = usize::from(health.stale);
        // One that cannot be probed tells nothing.
        if self.canaries.contains(&target) && !health.stale {
            let mute = usize::from(watch.is_silent());
            let blind = usize::from(watch.failures > watch.schedule.reprobes);
            let lossy_canaries = usize::from(watch.loss.is_much());
            return Sight { canaries: 1, mute, blind, lossy_canaries, ..Sight::default() };
        }
        if health.stale || self.told.contains(&target) {
            return Sight { stale, ..Sight::default() };
        }
        let (living, silent, hushed) = match health.own {
            State::Up => (1, usize::from(watch.is_silent()), 0),
            State::Down if watch.is_silent() => {
                // One that was heard, if what it said was wrong, may be silent for this node only.
                let lately = usize::from(watch.silences <= watch.schedule.reprobes);
                (lately, 0, lately)
            }
            State::Down => (1, 0, 0),
            State::Unknown => (0, 0, 0),
        };
        let lossy = if watch.loss.is_much() { living } else { 0 };
        Sight { living, silent, hushed, lossy, stale, ..Sight::default() }
    }

    /// The same of all of them.
    pub(super) fn sight_of_all(&self) -> Sight {
        let sights = self.watched.keys().map(|target| self.sight_of(*target));
        sights.fold(Sight::default(), |mut all, one| {
            all.change(Sight::default(), one);
            all
        })
    }

    /// Decides again whether this node can trust what it sees.
    pub(super) fn look_at_myself(&mut self) {
        let abstains = self.sight.is_lost();
        if abstains != self.abstains {
            self.abstains = abstains;
            self.opinions.extend(self.watched.keys().copied());
            if !abstains {
                // What was not seen while nothing could be seen is held against nobody: else the
                // last to be heard again would go down when the first are, or when nothing is seen
                // the next time.
                let targets: Vec<TargetId> = self.watched.keys().copied().collect();
                for target in targets {
                    let loses = self.loses_beside(target);
                    let Some(watch) = self.watched.get_mut(&target) else { continue };
                    watch.forgive_silence(loses, &mut self.table.row(target).failing_since);
                }
                self.sight = self.sight_of_all();
            }
        }
    }
}

/// So many are asked at once whether they can be heard.
const MOST_ASKED: usize = 16;
