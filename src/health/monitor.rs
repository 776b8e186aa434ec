//! The monitor: who is probed when, what this node concludes, and what the nodes believe together.

mod doubt;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::outcome::Report;
use super::quorum::{Belief, Electorate, Voters, Votes};
use super::schedule::Schedule;
use super::sight::{Sight, Sign};
use super::table::{HealthTable, State, TargetHealth};
use super::watch::{Doubts, Stage, Watch};
use crate::ids::{NodeId, TargetId};
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
    /// Own opinions that others have not been told.
    opinions: BTreeSet<TargetId>,
    jitter: Stream,
    canaries: BTreeSet<TargetId>,
    /// Those whose state others tell: to hear of them is not to see.
    told: BTreeSet<TargetId>,
    sight: Sight,
    sign: Sign,
    abstains: bool,
    electorate: Electorate,
    /// What other nodes see.
    others: HashMap<TargetId, BTreeMap<NodeId, State>>,
    /// The other nodes whose opinions are fresh.
    fresh: BTreeSet<NodeId>,
    /// Who watches a target, where not every node does.
    panels: HashMap<TargetId, Panel>,
    /// Of some targets too few of those who watch them are heard.
    is_unwatched: bool,
}

/// The nodes that watch a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Panel {
    /// This one is among them.
    pub own: bool,
    /// The others.
    pub others: BTreeSet<NodeId>,
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

impl Monitor {
    /// A monitor that watches nobody. Jitter is drawn from `seed`.
    pub fn new(seed: Seed) -> Self {
        Self {
            watched: HashMap::new(),
            table: HealthTable::default(),
            timers: BTreeSet::new(),
            due: VecDeque::new(),
            changes: VecDeque::new(),
            opinions: BTreeSet::new(),
            jitter: seed.stream("health jitter"),
            canaries: BTreeSet::new(),
            told: BTreeSet::new(),
            sight: Sight::default(),
            sign: Sign::default(),
            abstains: false,
            electorate: Electorate::default(),
            others: HashMap::new(),
            fresh: BTreeSet::new(),
            panels: HashMap::new(),
            is_unwatched: false,
        }
    }

    /// Who decides from now on: this node alone, or several.
    pub fn elect(&mut self, now: Instant, electorate: Electorate) {
        self.electorate = electorate;
        self.settle_all(now);
    }

    /// Watches `target` from now on, the first probe at once. One that is watched already keeps
    /// what is known of it, and follows the new schedule from now on.
    pub fn watch(&mut self, now: Instant, target: TargetId, schedule: Schedule) {
        if let Some(watch) = self.watched.get_mut(&target) {
            let (stage, due) = (watch.stage, watch.due);
            watch.follow(now, target, schedule);
            if stage == Stage::Waiting && self.timers.remove(&(due, target)) {
                self.timers.insert((watch.due, target));
            }
            return;
        }
        let watch = Watch::new(now, target, schedule);
        self.changing(target, |monitor| {
            monitor.watched.insert(target, watch);
            *monitor.table.row(target) = TargetHealth { since: now, ..TargetHealth::default() };
        });
        self.due.push_back(target);
    }

    /// Leaves each of these targets to the nodes of its panel, from now on; every node watches the
    /// others.
    pub fn share(&mut self, now: Instant, panels: HashMap<TargetId, Panel>) {
        self.panels = panels;
        let targets: Vec<TargetId> = self.watched.keys().copied().collect();
        for target in targets {
            let is_own = self.panels.get(&target).is_none_or(|panel| panel.own);
            let was_own =
                self.watched.get(&target).is_some_and(|watch| watch.stage != Stage::Elsewhere);
            match (was_own, is_own) {
                (true, false) => self.leave_to_others(target),
                (false, true) => {
                    if let Some(watch) = self.watched.get_mut(&target) {
                        let agreed = watch.agreed;
                        *watch = Watch::new(now, target, watch.schedule);
                        watch.agreed = agreed;
                        self.due.push_back(target);
                    }
                }
                _ => {}
            }
        }
        self.settle_all(now);
    }

    fn leave_to_others(&mut self, target: TargetId) {
        self.due.retain(|due| *due != target);
        self.changing(target, |monitor| {
            let Some(watch) = monitor.watched.get_mut(&target) else { return };
            monitor.timers.remove(&(watch.due, target));
            watch.stage = Stage::Elsewhere;
            let row = monitor.table.row(target);
            *row = TargetHealth { state: row.state, since: row.since, ..TargetHealth::default() };
            monitor.opinions.insert(target);
        });
    }

    /// Takes these of the watched targets for canaries: they serve nobody, and tell whether this
    /// node sees anything at all. Of those in `told` others tell, which says nothing of that.
    pub fn set_canaries(
        &mut self,
        canaries: impl IntoIterator<Item = TargetId>,
        told: impl IntoIterator<Item = TargetId>,
    ) {
        self.canaries = canaries.into_iter().collect();
        self.told = told.into_iter().collect();
        self.sight = self.sight_of_all();
        self.look_at_myself();
    }

    /// What an earlier process believed of a target that is not probed yet: it stands until the
    /// probes have said otherwise, by the same rules as any belief.
    pub fn recall(&mut self, target: TargetId, state: State, since: Instant) {
        if let Some(watch) = self.watched.get_mut(&target).filter(|watch| !watch.confirmed) {
            watch.agreed = state != State::Unknown;
            self.changing(target, |monitor| {
                let row = monitor.table.row(target);
                *row = TargetHealth { state, own: state, since, ..*row };
            });
        }
    }

    /// Watches `target` no longer, and forgets what was known of it.
    pub fn forget(&mut self, target: TargetId) {
        if let Some(watch) = self.changing(target, |monitor| monitor.watched.remove(&target)) {
            self.timers.remove(&(watch.due, target));
            self.due.retain(|due| *due != target);
            self.table.forget(target);
            self.opinions.remove(&target);
            self.others.remove(&target);
            self.panels.remove(&target);
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
            let Some(watch) = self.watched.get_mut(&target) else { continue };
            if watch.stage == Stage::Probing {
                // The driver owes a report. It is asked again, but seldom, so that orders do not
                // pile up where they are not carried out.
                watch.stage = Stage::Lost;
                watch.due = now + watch.schedule.validity() * ASK_AGAIN;
                self.timers.insert((watch.due, target));
                self.changing(target, |monitor| monitor.table.row(target).stale = true);
                self.opinions.insert(target);
                continue;
            }
            watch.stage = Stage::Due;
            self.due.push_back(target);
        }
    }

    /// Something hints that a target is not what it was: it is probed now rather than in its turn.
    pub fn hint(&mut self, now: Instant, target: TargetId) {
        let Some(watch) = self.watched.get_mut(&target) else { return };
        if watch.stage == Stage::Waiting && watch.due > now {
            self.timers.remove(&(watch.due, target));
            watch.due = now;
            self.timers.insert((now, target));
        }
    }

    /// A probe that [`Self::poll_probe`] ordered has ended. One of a target that is no longer
    /// watched, or that was not ordered, is passed over.
    pub fn handle_probe(&mut self, now: Instant, target: TargetId, report: Report) {
        let Some(watch) = self.watched.get(&target) else { return };
        if !matches!(watch.stage, Stage::Probing | Stage::Lost) {
            return;
        }
        self.timers.remove(&(watch.due, target));
        let before = self.table.get(target);
        let is_own = self.is_doubted(now, target, before, report);
        let loses = self.loses_beside(target);
        let is_asked = self.sign.is_wanted_after(now - report.latency) && self.can_tell(target);
        self.changing(target, |monitor| {
            let Some(watch) = monitor.watched.get_mut(&target) else { return };
            let was_confirmed = watch.confirmed;
            let doubts = Doubts { abstains: monitor.abstains, loses, is_own };
            let after = watch.learn(before, now, report, doubts);
            // What an earlier process believed is news once this one has seen it too.
            let is_news = !was_confirmed && watch.confirmed;
            watch.plan_next(now, (after.own, monitor.abstains), &mut monitor.jitter);
            if is_asked && watch.failures == 0 {
                watch.due = now;
            }
            monitor.timers.insert((watch.due, target));
            *monitor.table.row(target) = after;
            if is_news || (before.own, before.stale) != (after.own, after.stale) {
                monitor.opinions.insert(target);
            }
        });
        self.settle(now, target, before);
    }

    /// What another node sees of a target; nothing, if it says nothing.
    pub fn handle_opinion(
        &mut self,
        now: Instant,
        node: NodeId,
        target: TargetId,
        opinion: Option<State>,
    ) {
        let others = self.others.entry(target).or_default();
        match opinion {
            Some(state) => others.insert(node, state),
            None => others.remove(&node),
        };
        let before = self.table.get(target);
        self.settle(now, target, before);
    }

    /// Another node has started anew: what it said of targets counts no more.
    pub fn handle_anew(&mut self, now: Instant, node: NodeId) {
        let said = self.others.iter().filter(|(_, of)| of.contains_key(&node));
        let said: BTreeSet<TargetId> = said.map(|(target, _)| *target).collect();
        said.into_iter().for_each(|target| self.handle_opinion(now, node, target, None));
    }

    /// The other nodes whose opinions are fresh from now on.
    pub fn handle_peers(&mut self, now: Instant, fresh: BTreeSet<NodeId>) {
        if fresh != self.fresh {
            self.fresh = fresh;
            self.settle_all(now);
        }
    }

    /// Are too few other nodes heard for a decision?
    pub fn is_isolated(&self) -> bool {
        self.electorate.is_isolated(self.fresh.len())
    }

    /// Are there targets of which too few of those who watch them are heard for a decision?
    pub fn is_unwatched(&self) -> bool {
        self.is_unwatched
    }

    /// How many targets are stale.
    pub fn stale(&self) -> usize {
        self.sight.stale
    }

    /// Who sees what of a target: this node (`None`) and others, as far as they are fresh.
    pub fn sights(&self, target: TargetId) -> Vec<(Option<NodeId>, State)> {
        let own = self.own_vote(target).map(|state| (None, state));
        let others = self.others.get(&target).into_iter().flatten();
        let panel = self.panels.get(&target);
        let counts = |node: &NodeId| panel.is_none_or(|panel| panel.others.contains(node));
        let fresh = others.filter(|(node, _)| self.fresh.contains(node) && counts(node));
        own.into_iter().chain(fresh.map(|(node, state)| (Some(*node), *state))).collect()
    }

    /// What this node says of a target, if it has anything to say.
    fn own_vote(&self, target: TargetId) -> Option<State> {
        let health = self.table.get(target);
        let speaks = !self.abstains && !health.stale && health.own != State::Unknown;
        speaks.then_some(health.own)
    }

    /// Believes of `target` what the nodes together see; `before` is what was known of it.
    fn settle(&mut self, now: Instant, target: TargetId, before: TargetHealth) {
        let Some(agreed) = self.watched.get(&target).map(|watch| watch.agreed) else { return };
        let sights = self.sights(target);
        let votes = Votes::count(sights.iter().map(|(_, state)| *state));
        let own = self.own_vote(target);
        let voters = self.voters(target);
        let believed = Belief { state: before.state, agreed };
        let is_isolated = self.is_isolated();
        let Belief { state: decided, agreed } =
            self.electorate.decide(believed, (votes, own), voters, is_isolated);
        let Some(watch) = self.watched.get_mut(&target) else { return };
        watch.agreed = agreed;
        let failing = watch.failures > 0;
        let row = self.table.row(target);
        if decided != before.state {
            row.state = decided;
            row.since = now;
        }
        row.votes = votes;
        // Somebody sees it down, or is about to.
        row.suspected = decided == State::Up && (failing || votes.down > 0);
        if (before.state, before.suspected) != (row.state, row.suspected) {
            self.changes.push_back(Change {
                target,
                from: before.state,
                to: row.state,
                suspected: row.suspected,
                at: now,
                failing_since: row.failing_since,
            });
        }
    }

    /// Who judges a target.
    fn voters(&self, target: TargetId) -> Voters {
        match self.panels.get(&target) {
            None => Voters { all: self.electorate.nodes, heard: self.fresh.len() + 1 },
            Some(panel) => {
                let own = usize::from(panel.own);
                let heard = panel.others.intersection(&self.fresh).count();
                Voters { all: panel.others.len() + own, heard: heard + own }
            }
        }
    }

    fn settle_all(&mut self, now: Instant) {
        self.is_unwatched = self.panels.keys().any(|target| self.voters(*target).are_too_few());
        let targets: Vec<TargetId> = self.watched.keys().copied().collect();
        for target in targets {
            let before = self.table.get(target);
            self.settle(now, target, before);
        }
    }

    /// Does what changes a target, and decides again whether this node can trust its own sight.
    fn changing<T>(&mut self, target: TargetId, change: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.sight_of(target);
        let done = change(self);
        self.sight.change(before, self.sight_of(target));
        self.look_at_myself();
        done
    }

    /// The next probe to carry out now.
    pub fn poll_probe(&mut self, now: Instant) -> Option<Order> {
        let target = self.due.pop_front()?;
        let watch = self.watched.get_mut(&target)?;
        watch.stage = Stage::Probing;
        watch.vouched = watch.again.is_some_and(|again| self.sign.since(again));
        let timeout = watch.round_trip.timeout(watch.schedule.timeout);
        let order = Order { target, timeout, due: watch.due };
        watch.due = now + timeout + watch.schedule.interval;
        self.timers.insert((watch.due, target));
        Some(order)
    }

    /// The next opinion of this node that others should know: what it sees of a target, or that it
    /// has nothing to say.
    pub fn poll_opinion(&mut self) -> Option<(TargetId, Option<State>)> {
        let target = self.opinions.pop_first()?;
        Some((target, self.own_vote(target)))
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
        self.sees() && self.is_told()
    }

    /// The same of those that this node watches.
    pub fn sees(&self) -> bool {
        let mut own = self.watched.values().filter(|watch| watch.stage != Stage::Elsewhere);
        own.all(|watch| watch.confirmed)
    }

    /// The same of those that other nodes watch.
    pub fn is_told(&self) -> bool {
        let is_elsewhere = |watch: &Watch| watch.stage == Stage::Elsewhere;
        let mut others = self.watched.iter().filter(|(_, watch)| is_elsewhere(watch));
        others.all(|(target, _)| self.table.get(*target).state != State::Unknown)
    }
}

/// A driver that owes a report is asked again after so many times the validity of one.
const ASK_AGAIN: u32 = 10;
