//! A node of the virtual world: the shipped monitor, gossip, holds and snapshots, driven by events
//! instead of sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{FRESH, Gossip, Heard, LONGER, Message, WRITER};
use crate::health::{Change, Electorate, Monitor, Order, Report, State};
use crate::ids::{NodeId, RegionId, ServiceId, TargetId};
use crate::rng::Seed;
use crate::snapshot::Snapshot;
use crate::steer::{
    Contest, Facts, Family, Holds, InForce, Lease, Left, Moves, Named, Naming, Override, Overrides,
    Policy, Ramp, Scope, Word, Writers,
};
use crate::time::Instant;

use super::chains::Chain;
use super::input::{Input, Stage};
use super::leases::Looking;
use super::store::{Answer, Ask};

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
    words: Words,
    overrides: Overrides,
    in_force: InForce,
    is_isolated: bool,
    service: ServiceId,
    /// Where all nodes stand.
    places: Vec<RegionId>,
    /// Which others it hears, and until when it surely hears what they say.
    fresh: BTreeSet<NodeId>,
    hears_until: Option<Instant>,
    /// What operators said of the writer.
    named: Option<Named>,
    /// What it knows of the writer's lease, who writes by that or by their word, and who is
    /// answered.
    looking: Looking,
    writers: Writers,
    writing: Writers,
}

/// When operators last said something of which region, and what; nothing: they took it back.
type Words = BTreeMap<RegionId, (Instant, Option<Override>)>;

/// A family of a service's region; the service by its name.
type Part = (String, RegionId, Family);

/// What a node leaves on disk.
#[derive(Clone, Default)]
pub(super) struct Kept {
    at: Instant,
    /// What it believed.
    states: Vec<(TargetId, State)>,
    /// What operators said of regions.
    words: Words,
    /// What operators said of the writer.
    named: Option<Named>,
    /// Which regions of which services were out and kept, and which had left.
    out: Vec<Part>,
    kept: Vec<Part>,
    left: Vec<Left>,
}

impl Kept {
    /// What counts of it at `now`, if beliefs do for so long.
    pub(super) fn young(self, now: Instant, believed: Duration) -> Self {
        let is_young = now.since(self.at) <= believed;
        let states = if is_young { self.states } else { Vec::new() };
        Self { states, ..self }
    }
}

/// By so many clients it counts where the traffic goes, at most twice as many: as in the server.
const SAMPLE: usize = 4096;

/// What a node wants done after its turn.
#[derive(Default)]
pub(super) struct Wants {
    pub(super) probes: Vec<Order>,
    pub(super) messages: Vec<(NodeId, Message)>,
    pub(super) changes: Vec<Change>,
    /// What it tells the others of what it sees.
    pub(super) opinions: Vec<(TargetId, Option<State>)>,
    /// It answers otherwise than before.
    pub(super) is_published: bool,
}

impl Node {
    pub(super) fn start(
        input: &Input<'_>,
        stage: Stage<'_>,
        (id, region): (NodeId, RegionId),
        (now, incarnation): (Instant, u64),
        targets: &[TargetId],
        (seed, kept): (Seed, Kept),
    ) -> Self {
        let count = input.scenario.nodes.len();
        let mut monitor = Monitor::new(seed);
        let electorate = stage.config.cluster.as_ref().map(|of| of.electorate);
        monitor.elect(now, Electorate { nodes: count, ..electorate.unwrap_or_default() });
        for target in stage.config.targets.iter().filter(|of| targets.contains(&of.id)) {
            monitor.watch(now, target.id, target.schedule);
        }
        for (target, state) in kept.states {
            monitor.recall(target, state, now);
        }
        let others = (0..count).filter_map(NodeId::from_index).filter(|of| *of != id);
        let mut holds = Holds::default();
        holds.limit(stage.config.max_moves);
        let parts = |of: Vec<Part>| {
            let part = |(name, at, by): Part| Some((stage.config.service(&name)?, at, by));
            of.into_iter().filter_map(part).collect()
        };
        let (out, held) = (parts(kept.out), parts(kept.kept));
        holds.recall(now, Moves { out, kept: held, left: kept.left });
        let known = (monitor.table(), InForce::NONE);
        holds.follow(now, &stage.plan.services, stage.plan.ids(), known);
        let facts = Facts { holds: &holds, ..Facts::of(monitor.table()) };
        let snapshot =
            Arc::new(Snapshot::compile(stage.plan.clone(), &facts, None, None, 1).drawn());
        let mut node = Self {
            id,
            region,
            incarnation,
            snapshot,
            is_ready: false,
            ready_by: now + stage.config.node.ready_within,
            gossip: Gossip::new(incarnation, others),
            holds,
            words: Words::new(),
            overrides: Overrides::default(),
            in_force: InForce::default(),
            is_isolated: false,
            service: input.scenario.service,
            places: input.scenario.nodes.iter().map(|(_, region)| *region).collect(),
            fresh: BTreeSet::new(),
            hears_until: None,
            named: None,
            looking: Looking::default(),
            writers: Writers::default(),
            writing: Writers::default(),
            monitor,
        };
        kept.named.into_iter().for_each(|named| node.follow(named.recalled(now)));
        for (region, (since, word)) in kept.words {
            let said = word.map(|of| (of.word, of.ramp));
            node.say(since, region, said);
        }
        node
    }

    /// When it must have a turn, at the latest.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        let wakes = [
            self.monitor.poll_timeout(),
            self.gossip.poll_timeout(),
            self.holds.next_change(),
            self.overrides.next_change(now),
            self.writers.next_change(now),
        ];
        wakes.into_iter().flatten().min()
    }

    /// An operator says something of a region here, or takes that back.
    pub(super) fn say(
        &mut self,
        now: Instant,
        region: RegionId,
        said: Option<(Word, Option<Ramp>)>,
    ) {
        let since = now.as_nanos();
        let text = match said {
            Some((word, ramp)) => {
                let ramp = ramp.map_or((0, 0), |ramp| (ramp.percent, ramp.every.as_secs()));
                format!("{since} {word} {} {}", ramp.0, ramp.1)
            }
            None => since.to_string(),
        };
        self.heed(region, &text);
        self.gossip.set(format!("w/{}", region.index()), Some(text));
    }

    /// Follows what was said, as [`Self::say`] writes it, unless it knows of something later.
    fn heed(&mut self, region: RegionId, text: &str) {
        let mut parts = text.split(' ');
        let Some(since) = parts.next().and_then(|since| since.parse().ok()) else { return };
        let since = Instant::from_nanos(since);
        if self.words.get(&region).is_some_and(|(at, _)| *at > since) {
            return;
        }
        let mut read = || {
            let word = parts.next()?.parse().ok()?;
            let percent = parts.next()?.parse().ok()?;
            let every = Duration::from_secs(parts.next()?.parse().ok()?);
            let ramp = (percent > 0).then_some(Ramp { percent, every });
            let scope = Scope::Region(region);
            Some(Override { scope, word, since, until: None, ramp, ahead: Duration::ZERO })
        };
        self.words.insert(region, (since, read()));
        self.overrides = self.words.values().filter_map(|(_, word)| *word).collect();
    }

    /// Runs another configuration from now on, in which these targets count.
    pub(super) fn reload(&mut self, now: Instant, stage: Stage<'_>, targets: &[TargetId]) {
        let before = self.snapshot.plan().clone();
        let name = |id: ServiceId| before.services.get(id.index()).map(|of| of.name.as_str());
        let Some(service) = name(self.service).and_then(|name| stage.config.service(name)) else {
            return;
        };
        for target in stage.config.targets.iter().filter(|of| targets.contains(&of.id)) {
            self.monitor.watch(now, target.id, target.schedule);
        }
        let is_known = |of: &TargetId| stage.config.targets.iter().any(|target| target.id == *of);
        let gone: Vec<TargetId> = self.monitor.targets().filter(|of| !is_known(of)).collect();
        gone.into_iter().for_each(|target| self.monitor.forget(target));
        self.holds.limit(stage.config.max_moves);
        let services = &stage.plan.services;
        self.holds.rekey(services, Some, |id| stage.config.service(name(id)?));
        self.service = service;
        let known = (self.monitor.table(), &self.in_force);
        self.holds.follow(now, services, stage.plan.ids(), known);
        let generation = self.snapshot.generation() + 1;
        let before = self.snapshot.clone();
        let facts = self.facts();
        let next = Snapshot::compile(stage.plan.clone(), &facts, Some(&*before), None, generation);
        self.snapshot = Arc::new(next.drawn());
    }

    /// Whether a lease decides who writes.
    pub(super) fn is_leased(&self) -> bool {
        self.contest().is_some()
    }

    /// The service as this node sees it, if a lease decides who writes.
    fn contest(&self) -> Option<Contest> {
        let plan = self.snapshot.plan();
        let service = plan.services.get(self.service.index())?;
        let name = |region: RegionId| Some(plan.region_name(region).to_owned());
        let renews = |region| self.region == region || !self.places.contains(&region);
        let may_name = !self.monitor.is_isolated() && !self.monitor.abstains();
        Contest::of((self.service, service), &self.facts(), &name, &renews, may_name)
    }

    /// The store of the leases has answered; tells what is to be asked next.
    pub(super) fn leased(&mut self, now: Instant, answer: Answer) -> Option<Ask> {
        let contest = self.contest()?;
        let next = self.looking.heard(now, answer, contest);
        let plan = self.snapshot.plan();
        let service = plan.services.get(self.service.index())?;
        let holder = self.looking.leased.holder.as_ref();
        let writer = holder.and_then(|holder| {
            let region = plan.regions.iter().position(|of| of.name == holder.region)?;
            Some((self.service, holder.writer(RegionId::from_index(region)?, service)))
        });
        self.writers = writer.into_iter().collect();
        next
    }

    /// An operator says here which region is to write; tells what is to be asked of the store.
    ///
    /// # Errors
    /// Why that is refused.
    pub(super) fn name_writer(
        &mut self,
        now: Instant,
        region: &str,
        fenced: bool,
    ) -> Result<Option<Ask>, String> {
        let plan = self.snapshot.plan().clone();
        let service = plan.services.get(self.service.index()).ok_or("there is no service")?;
        let [reason, owner] = ["the scenario says so", "an operator"].map(str::to_owned);
        let (name, region) = (service.name.clone(), region.to_owned());
        let naming = Naming { service: name, region, fenced, reason, owner };
        let at = plan.regions.iter().position(|of| of.name == naming.region);
        let at = at.and_then(RegionId::from_index);
        match naming.makes_sense((self.service, service), at, &self.facts(), |_| None)? {
            Lease::Kept(_) if fenced => {
                let contest = self.contest().ok_or("no lease decides who writes")?;
                Ok(Some(Ask::Replace(Box::new(contest), naming.region)))
            }
            Lease::Kept(_) => Ok(Some(Ask::Want(naming.region))),
            Lease::Manual => {
                let heard = (self.places.len() > 1).then(|| self.hears_until.unwrap_or_default());
                let before = self.named.as_ref();
                let named = Named::next(now, &naming, service.ttl, before, (heard, FRESH))?;
                self.follow(named);
                Ok(None)
            }
        }
    }

    /// Follows what an operator said of the writer, and tells the others.
    fn follow(&mut self, named: Named) {
        self.gossip.set(WRITER.to_owned(), serde_json::to_string(&named).ok());
        self.named = Some(named);
    }

    /// Another node follows this word.
    fn hear_writer(&mut self, now: Instant, node: NodeId, theirs: &Named) {
        let next = theirs.clone().heard(self.named.as_ref());
        next.into_iter().for_each(|next| self.follow(next));
        let others = self.places.len() / 2;
        if let Some(ours) = &mut self.named {
            ours.followed(node, theirs);
            // All have the same list of nodes.
            ours.stand(
                now,
                &(0..self.places.len()).filter_map(NodeId::from_index).collect(),
                others,
            );
        }
    }

    /// Finds out who writes, if that is what operators said.
    fn follow_named(&mut self, now: Instant) {
        let plan = self.snapshot.plan();
        let Some(service) = plan.services.get(self.service.index()) else { return };
        if !matches!(service.policy, Policy::SingleWriter(_, Lease::Manual)) {
            return;
        }
        if let Some(named) = &mut self.named {
            named.end_wait(now);
        }
        // Who has heard nobody hears nobody, from the beginning of time.
        let heard = (self.places.len() > 1).then(|| self.hears_until.unwrap_or_default());
        let writer = self.named.as_ref().and_then(|named| {
            let name = named.region.as_ref()?;
            let region = plan.regions.iter().position(|of| of.name == *name)?;
            let region = RegionId::from_index(region)?;
            Some((self.service, named.writer(region, service, heard)))
        });
        self.writers = writer.into_iter().collect();
    }

    /// Which others are heard, and until when enough of them are.
    fn hear_peers(&mut self, now: Instant) {
        let fresh = self.gossip.fresh(now);
        let until = self.gossip.fresh_until(self.places.len() / 2);
        if fresh != self.fresh || until > self.hears_until.map(|told| told + LONGER) {
            self.fresh.clone_from(&fresh);
            self.hears_until = until;
        }
        self.monitor.handle_peers(now, fresh);
    }

    /// The region that writes, by this node's answers, and its epoch.
    pub(super) fn writer(&self) -> Option<(RegionId, u64)> {
        self.writing.of(self.service).map(|writer| (writer.region, writer.epoch))
    }

    /// What it leaves on disk of these.
    pub(super) fn keep(&self, now: Instant, targets: &[TargetId]) -> Kept {
        let state = |target: &TargetId| (*target, self.monitor.table().get(*target).state);
        let services = &self.snapshot.plan().services;
        let name = |of: ServiceId| services.get(of.index()).map(|of| of.name.clone());
        let part = |(of, at, by)| Some((name(of)?, at, by));
        let Moves { out, kept, left } = self.holds.moves();
        Kept {
            at: now,
            states: targets.iter().map(state).collect(),
            words: self.words.clone(),
            named: self.named.clone(),
            out: out.into_iter().filter_map(part).collect(),
            kept: kept.into_iter().filter_map(part).collect(),
            left,
        }
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
            let (node, key, value) = match heard {
                Heard::Entry(node, key, value) => (node, key, value),
                Heard::Anew(node) => {
                    self.monitor.handle_anew(now, node);
                    self.named.iter_mut().for_each(|named| named.forgotten(node));
                    continue;
                }
            };
            if key == WRITER {
                let theirs = value.and_then(|value| serde_json::from_str::<Named>(&value).ok());
                theirs.into_iter().for_each(|theirs| self.hear_writer(now, node, &theirs));
                continue;
            }
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
                    if let Some(region) = RegionId::from_index(number) {
                        self.heed(region, &value.unwrap_or_default());
                    }
                }
            }
        }
    }

    /// How much of the traffic each region has, by where this node sends these clients.
    fn traffic(&self, clients: &[Chain]) -> BTreeMap<RegionId, f64> {
        let service = self.snapshot.service(self.service);
        let selector = service.and_then(|service| service.selector(Family::V4));
        let some = clients.iter().step_by(clients.len() / SAMPLE + 1);
        let share = 1.0 / some.len().max(1) as f64;
        let mut traffic = BTreeMap::new();
        for client in some {
            let ready = selector.and_then(|of| of.select(client.client.into()));
            if let Some(region) = ready.and_then(|(ready, _)| ready.first) {
                *traffic.entry(region).or_default() += share;
            }
        }
        traffic
    }

    /// Does what is due, in the order that the server does it; these clients ask.
    pub(super) fn turn(&mut self, now: Instant, clients: &[Chain]) -> Wants {
        let plan = self.snapshot.plan().clone();
        let mut wants = Wants::default();
        self.hear_peers(now);
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
        if self.holds.counts_traffic() && !which.is_empty() {
            self.holds.measure(self.traffic(clients));
        }
        let known = (self.monitor.table(), &self.in_force);
        affected.extend(self.holds.follow(now, &plan.services, which, known));
        self.follow_named(now);
        let in_force = self.overrides.at(now);
        let is_isolated = self.monitor.is_isolated();
        let writing = self.writers.at(now);
        let is_other =
            (&in_force, is_isolated, &writing) != (&self.in_force, self.is_isolated, &self.writing);
        if is_other || !affected.is_empty() {
            (self.in_force, self.is_isolated) = (in_force, is_isolated);
            self.writing = writing;
            self.publish();
            wants.is_published = true;
        }
        while let Some((target, opinion)) = self.monitor.poll_opinion() {
            wants.opinions.push((target, opinion));
            let key = format!("o/{}", target.index());
            self.gossip.set(key, opinion.map(|state| state.to_string()));
        }
        while let Some((to, messages)) = self.gossip.poll_transmit(now) {
            wants.messages.extend(messages.into_iter().map(|message| (to, message)));
        }
        wants
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            overrides: &self.in_force,
            holds: &self.holds,
            writers: &self.writing,
            is_isolated: self.is_isolated,
            ..Facts::of(self.monitor.table())
        }
    }

    fn publish(&mut self) {
        let facts = self.facts();
        let (plan, generation) = (self.snapshot.plan().clone(), self.snapshot.generation() + 1);
        let (before, changed) = (Some(&*self.snapshot), [self.service]);
        let next = Snapshot::compile(plan, &facts, before, Some(&changed), generation);
        self.snapshot = Arc::new(next.drawn());
    }
}
