//! A node of the virtual world: the shipped monitor, gossip, holds and snapshots, driven by events
//! instead of sockets.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::{Gossip, Heard, Message};
use crate::health::{Change, Electorate, Monitor, Order, Report, State};
use crate::ids::{NodeId, RegionId, ServiceId, TargetId};
use crate::rng::Seed;
use crate::snapshot::{Plan, Snapshot};
use crate::steer::{Facts, Family, Holds, InForce, Override, Overrides, Scope, Word, Writers};
use crate::time::Instant;

use super::world::Input;

/// A node that runs.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) region: RegionId,
    /// Which of its lives this is.
    pub(super) incarnation: u64,
    pub(super) monitor: Monitor,
    pub(super) snapshot: Arc<Snapshot>,
    /// It has its first verdicts, and answers.
    pub(super) is_ready: bool,
    /// When it answers without them.
    ready_by: Instant,
    gossip: Gossip,
    holds: Holds,
    /// Drains that it knows of: since when, or that they were taken back.
    words: BTreeMap<RegionId, Option<Instant>>,
    overrides: Overrides,
    in_force: InForce,
    is_isolated: bool,
    service: ServiceId,
}

/// What a node leaves on disk: when, and what it believed.
pub(super) type Kept = Option<(Instant, Vec<(TargetId, State)>)>;

/// What a node wants done after its turn.
#[derive(Default)]
pub(super) struct Wants {
    pub(super) probes: Vec<Order>,
    pub(super) messages: Vec<(NodeId, Message)>,
    pub(super) changes: Vec<Change>,
    /// It answers otherwise than before.
    pub(super) is_published: bool,
}

impl Node {
    pub(super) fn start(
        input: &Input<'_>,
        (id, region): (NodeId, RegionId),
        (now, incarnation): (Instant, u64),
        targets: &[TargetId],
        (seed, kept): (Seed, &Kept),
    ) -> Self {
        let count = input.scenario.nodes.len();
        let mut monitor = Monitor::new(seed);
        let electorate = input.config.cluster.as_ref().map(|of| of.electorate);
        monitor.elect(now, Electorate { nodes: count, ..electorate.unwrap_or_default() });
        for target in &input.config.targets {
            if targets.contains(&target.id) {
                monitor.watch(now, target.id, target.schedule);
            }
        }
        for (target, state) in kept.iter().flat_map(|(_, states)| states) {
            monitor.recall(*target, *state, now);
        }
        let others = (0..count).filter_map(NodeId::from_index).filter(|of| *of != id);
        let facts = Facts::of(monitor.table());
        let snapshot = Arc::new(Snapshot::compile(input.plan.clone(), &facts, None, None, 1));
        let mut holds = Holds::default();
        holds.limit(input.config.max_moves);
        Self {
            id,
            region,
            incarnation,
            snapshot,
            is_ready: false,
            ready_by: now + input.config.node.ready_within,
            gossip: Gossip::new(incarnation, others),
            holds,
            words: BTreeMap::new(),
            overrides: Overrides::default(),
            in_force: InForce::default(),
            is_isolated: false,
            service: input.scenario.service,
            monitor,
        }
    }

    /// When it must have a turn, at the latest.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        let wakes = [
            self.monitor.poll_timeout(),
            self.gossip.poll_timeout(),
            self.holds.next_change(),
            self.overrides.next_change(now),
        ];
        wakes.into_iter().flatten().min()
    }

    /// An operator drains a region here, or takes that back.
    pub(super) fn say(&mut self, now: Instant, region: RegionId, is_drained: bool) {
        let since = is_drained.then_some(now);
        let text = since.map_or(String::new(), |since| since.as_nanos().to_string());
        self.gossip.set(format!("w/{}", region.index()), Some(text));
        self.heed(region, since);
    }

    fn heed(&mut self, region: RegionId, since: Option<Instant>) {
        self.words.insert(region, since);
        let drains = self.words.iter().filter_map(|(region, since)| {
            let (scope, word) = (Scope::Region(*region), Word::Drain);
            let (until, ramp, ahead) = (None, None, std::time::Duration::ZERO);
            Some(Override { scope, word, since: (*since)?, until, ramp, ahead })
        });
        self.overrides = drains.collect();
    }

    /// What it leaves on disk of these.
    pub(super) fn keep(&self, now: Instant, targets: &[TargetId]) -> Kept {
        let state = |target: &TargetId| (*target, self.monitor.table().get(*target).state);
        Some((now, targets.iter().map(state).collect()))
    }

    /// Does any of its answers name the region?
    pub(super) fn names(&self, region: RegionId) -> bool {
        let service = self.snapshot.service(self.service);
        let selector = service.and_then(|service| service.selector(Family::V4));
        let mut answers = selector.into_iter().flat_map(|selector| selector.answers());
        answers.any(|(ready, share)| share > 0.0 && ready.regions.contains(region))
    }

    pub(super) fn probed(&mut self, now: Instant, target: TargetId, report: Report) {
        self.monitor.handle_probe(now, target, report);
    }

    /// A message of another node, in this one's life and in that one's.
    pub(super) fn hear(&mut self, now: Instant, from: NodeId, incarnation: u64, message: Message) {
        self.gossip.handle(now, from, incarnation, message);
        while let Some(heard) = self.gossip.poll_heard() {
            let Heard::Entry(node, key, value) = heard else { continue };
            let Some((kind, number)) = key.split_once('/') else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            match kind {
                "o" => {
                    let opinion = match value.as_deref() {
                        Some("up") => Some(State::Up),
                        Some("down") => Some(State::Down),
                        _ => None,
                    };
                    if let Some(target) = TargetId::from_index(number) {
                        self.monitor.handle_opinion(now, node, target, opinion);
                    }
                }
                _ => {
                    let since = value.and_then(|text| text.parse().ok()).map(Instant::from_nanos);
                    if let Some(region) = RegionId::from_index(number) {
                        self.heed(region, since);
                    }
                }
            }
        }
    }

    /// Does what is due, in the order that the server does it.
    pub(super) fn turn(&mut self, now: Instant, plan: &Plan) -> Wants {
        let mut wants = Wants::default();
        self.monitor.handle_peers(now, self.gossip.fresh(now));
        self.monitor.handle_timeout(now);
        while let Some(order) = self.monitor.poll_probe(now) {
            wants.probes.push(order);
        }
        let is_ready = self.is_ready || self.monitor.settled() || now >= self.ready_by;
        wants.is_published = is_ready != self.is_ready;
        self.is_ready = is_ready;
        wants.changes = std::iter::from_fn(|| self.monitor.poll_change()).collect();
        let mut affected = plan.affected(wants.changes.iter().map(|change| change.target));
        let is_due = self.holds.next_change().is_some_and(|at| now >= at);
        let of_time = is_due.then_some(self.service);
        let which: Vec<ServiceId> = affected.iter().copied().chain(of_time).collect();
        affected.extend(self.holds.follow(now, &plan.services, which, self.monitor.table()));
        let in_force = self.overrides.at(now);
        let is_isolated = self.monitor.is_isolated();
        let is_other = (&in_force, is_isolated) != (&self.in_force, self.is_isolated);
        if is_other || !affected.is_empty() {
            (self.in_force, self.is_isolated) = (in_force, is_isolated);
            self.publish();
            wants.is_published = true;
        }
        while let Some((target, opinion)) = self.monitor.poll_opinion() {
            let key = format!("o/{}", target.index());
            self.gossip.set(key, opinion.map(|state| state.to_string()));
        }
        while let Some((to, messages)) = self.gossip.poll_transmit(now) {
            wants.messages.extend(messages.into_iter().map(|message| (to, message)));
        }
        wants
    }

    fn publish(&mut self) {
        let facts = Facts {
            health: self.monitor.table(),
            overrides: &self.in_force,
            holds: &self.holds,
            writers: Writers::none(),
            is_isolated: self.is_isolated,
        };
        let (plan, generation) = (self.snapshot.plan().clone(), self.snapshot.generation() + 1);
        let (before, changed) = (Some(&*self.snapshot), [self.service]);
        let next = Snapshot::compile(plan, &facts, before, Some(&changed), generation);
        self.snapshot = Arc::new(next);
    }
}
