//! The world: one event after the other.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::chains::{Chains, NOWHERE};
use super::checks::Checks;
use super::input::{Addresses, Input, Stage, Targets, endpoints};
use super::network::Network;
use super::nodes::{Kept, Node};
use super::outcome::{End, Leaving, Outcome};
use super::packets::query;
use super::regions::{Condition, Regions};
use super::scenario::{Act, Wish};
use super::store::{Answer, Ask, Store};
use super::writes::Stores;
use crate::cluster::Message;
use crate::health::Report;
use crate::ids::{NodeId, RegionId, TargetId};
use crate::rng::{Seed, Stream};
use crate::steer::Ramp;
use crate::time::Instant;

/// What comes at a time.
pub(super) enum Event {
    /// A node has something to do.
    Wake(usize),
    /// A probe of a node is over.
    Probe(usize, u64, TargetId, Report),
    /// A message arrives: from whom, in which of the sender's lives.
    Message(usize, NodeId, u64, Box<Message>),
    /// A node looks who writes.
    Look(usize, u64),
    /// The store of the leases is asked by a node.
    Asked(usize, u64, Ask),
    /// It has answered.
    Told(usize, u64, Answer),
    /// A member of the store is to lead.
    Elect(usize),
    /// Something of the scenario happens.
    Act(Act),
    /// A client writes.
    Write,
    /// A second is over.
    Second,
}

/// An event and its time. The earliest is the greatest.
struct Due {
    at: Instant,
    number: u64,
    event: Event,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

/// The virtual world.
pub struct World<'i> {
    pub(super) input: Input<'i>,
    pub(super) now: Instant,
    pub(super) start: Instant,
    queue: BinaryHeap<Due>,
    /// How many events there have been: what comes at one time comes in this order.
    number: u64,
    pub(super) nodes: Vec<Option<Node>>,
    /// When each node is next woken.
    wakes: Vec<Option<Instant>>,
    incarnations: u64,
    /// What nodes that are dead have left on disk.
    kept: Vec<Option<Kept>>,
    /// Which regions most nodes name, and since when they do not.
    named: Vec<bool>,
    /// Which regions some nodes do not name any more, or not to all.
    pub(super) leaving: Vec<Option<Leaving>>,
    pub(super) left: Vec<Option<Instant>>,
    /// Since when something is cut, and for how long something was before.
    pub(super) cut: (Option<Instant>, Duration),
    /// What share of the requests was on the smaller side of the last cut.
    pub(super) stays: f64,
    /// Where each chain was sent when all was well.
    pub(super) base: Vec<u8>,
    /// Where each chain went before the first region came back.
    away: Vec<u8>,
    /// Which region each target is in, and which region each address is in.
    targets: Targets,
    pub(super) addresses: Addresses,
    pub(super) regions: Regions,
    /// Where the leases of writers are kept.
    pub(super) store: Store,
    /// What the nodes run.
    pub(super) stage: Stage<'i>,
    /// The last writer that any node answered.
    writer: Option<(RegionId, u64)>,
    pub(super) network: Network,
    pub(super) chains: Chains,
    /// Answers have changed since it was looked at where requests go that look up.
    is_replaced: bool,
    pub(super) stores: Option<Stores>,
    pub(super) checks: Checks,
    pub(super) dice: Dice,
    pub(super) query: Vec<u8>,
    pub(super) out: Vec<u8>,
    pub(super) outcome: Outcome,
}

/// Random streams, so that more of one thing does not change another.
pub(super) struct Dice {
    pub(super) chaos: Stream,
    pub(super) network: Stream,
    pub(super) clients: Stream,
    pub(super) places: Stream,
    pub(super) writes: Stream,
    pub(super) elections: Stream,
}

impl Dice {
    fn new(seed: Seed) -> Self {
        Self {
            chaos: seed.stream("chaos"),
            network: seed.stream("network"),
            clients: seed.stream("clients"),
            places: seed.stream("places"),
            writes: seed.stream("writes"),
            elections: seed.stream("elections"),
        }
    }
}

/// The nodes look around for so long before anybody asks them.
const WARM_UP: Duration = Duration::from_secs(30);

/// 2026-01-01: clocks begin somewhere.
const BEGINNING: Instant = Instant::from_nanos(1_767_225_600_000_000_000);

impl<'i> World<'i> {
    /// The world of `input`, some time before its scenario begins.
    ///
    /// # Errors
    /// The service has no IPv4 addresses, or nothing is run.
    pub fn new(input: Input<'i>) -> Result<Self, String> {
        let Input { scenario, config, plan, seed, .. } = input;
        let seed = Seed::new(seed);
        let service = plan.services.get(scenario.service.index()).ok_or("there is no service")?;
        let stage = Stage { config, plan };
        let (targets, addresses) =
            endpoints(&service.name, [&stage].into_iter().chain(input.reloads));
        input.playable(service, &addresses)?;
        let name = service.names.first().ok_or("the service has no name")?;
        let places: Vec<_> = plan.regions.iter().map(|region| region.at).collect();
        let of_nodes: Vec<_> = scenario
            .nodes
            .iter()
            .map(|(_, region)| places.get(region.index()).copied().flatten())
            .collect();
        if of_nodes.is_empty() {
            return Err("there is no node".to_owned());
        }
        let mut dice = Dice::new(seed);
        let chains = Chains::new(
            (scenario.resolvers, places.clone()),
            &scenario.countries,
            &scenario.population,
            input.atlas,
            &of_nodes,
            &mut dice.clients,
        );
        let regions = config.regions.len();
        let stores = scenario.writes.as_ref().map(|of| Stores::new(of, regions));
        let start = BEGINNING + WARM_UP;
        let mut world = Self {
            now: BEGINNING,
            start,
            queue: BinaryHeap::new(),
            number: 0,
            nodes: Vec::new(),
            wakes: vec![None; scenario.nodes.len()],
            incarnations: 0,
            kept: vec![None; scenario.nodes.len()],
            named: vec![false; regions],
            leaving: vec![None; regions],
            left: vec![None; regions],
            cut: (None, Duration::ZERO),
            stays: 0.0,
            base: vec![NOWHERE; scenario.resolvers],
            away: Vec::new(),
            targets,
            addresses,
            regions: Regions::new(plan.regions.iter().map(|of| of.capacity), scenario.load),
            store: Store::new(&scenario.members),
            stage,
            writer: None,
            network: Network { places, cuts: Vec::new(), loss: 0.0 },
            chains,
            is_replaced: true,
            stores,
            checks: Checks::new(stage.paces(&service.name), BEGINNING, input.one_writer()),
            dice,
            query: query(name.as_wire()),
            out: Vec::new(),
            outcome: Outcome::new(&input),
            input,
        };
        for row in 0..scenario.nodes.len() {
            world.nodes.push(None);
            world.start_node(row);
        }
        Ok(world)
    }

    pub(super) fn at(&mut self, at: Instant, event: Event) {
        self.number += 1;
        self.queue.push(Due { at, number: self.number, event });
    }

    /// A node dies, and leaves on disk what it believed.
    pub(super) fn kill_node(&mut self, row: usize) {
        let ids = self.target_ids();
        let node = self.nodes.get_mut(row).and_then(Option::take);
        if let (Some(node), Some(kept)) = (node, self.kept.get_mut(row)) {
            *kept = Some(node.keep(self.now, &ids));
        }
        self.note_named();
    }

    pub(super) fn start_node(&mut self, row: usize) {
        let (Some(id), Some((_, region))) =
            (NodeId::from_index(row), self.input.scenario.nodes.get(row))
        else {
            return;
        };
        self.incarnations += 1;
        let ids = self.target_ids();
        let seed = Seed::new(self.input.seed ^ (self.incarnations << 32));
        let (now, believed) = (self.now, self.input.config.node.believe_state_for);
        let kept = self.kept.get(row).cloned().flatten();
        let kept = kept.map(|kept| kept.young(now, believed)).unwrap_or_default();
        let life = (self.now, self.incarnations);
        let stage = self.stage;
        let node = Node::start(&self.input, stage, (id, *region), life, &ids, (seed, kept));
        if let Some(slot) = self.nodes.get_mut(row) {
            *slot = Some(node);
        }
        self.at(self.now, Event::Look(row, self.incarnations));
        self.turn(row);
    }

    /// What is probed.
    pub(super) fn target_ids(&self) -> Vec<TargetId> {
        self.targets.iter().map(|(target, _)| *target).collect()
    }

    /// Runs to the end; `progress` is told how much of the scenario is over.
    pub fn run(mut self, mut progress: impl FnMut(Duration)) -> Outcome {
        if let Some(region) = self.input.scenario.writer {
            // Nobody wrote before.
            self.name_writer(Wish { region, fenced: true, node: None });
        }
        self.until(self.start - LEAD);
        self.note_named();
        self.chains.begin(self.now, self.start, &mut self.dice.clients);
        self.until(self.start);
        self.network.loss = self.input.scenario.loss;
        self.place();
        for (row, current) in self.base.iter_mut().enumerate() {
            let held = self.chains.inner(row, 1);
            *current = if held == NOWHERE { self.chains.current(row) } else { held };
        }
        let scenario = self.input.scenario;
        let chaos = scenario.chaos.map(|chaos| self.chaos(chaos)).unwrap_or_default();
        for (at, act) in scenario.events.iter().cloned().chain(chaos) {
            self.at(self.start + at, Event::Act(act));
        }
        self.at(self.start, Event::Second);
        if self.stores.is_some() {
            self.at(self.start, Event::Write);
        }
        let first = self.currents();
        for second in 0..=scenario.length.as_secs() {
            self.until(self.start + Duration::from_secs(second));
            progress(Duration::from_secs(second));
        }
        self.end(&first)
    }

    /// Where each chain's requests go.
    fn currents(&self) -> Vec<u8> {
        let known = |region: &u8| usize::from(*region) < self.input.plan.regions.len();
        let current = |row| Some(self.chains.current(row)).filter(known).unwrap_or(NOWHERE);
        (0..self.chains.list.len()).map(current).collect()
    }

    /// Remembers who goes where before the first region comes back.
    fn look_at_map(&mut self) {
        if self.away.is_empty() {
            self.away = self.currents();
        }
    }

    fn end(mut self, first: &[u8]) -> Outcome {
        self.look_at_map();
        let Input { scenario, config, plan, .. } = self.input;
        let service = plan.services.get(scenario.service.index());
        let ttl = service.map(|service| service.ttl.duration()).unwrap_or_default();
        let writer = self.writer;
        let strays = (0..self.base.len()).filter(|row| {
            let now = self.chains.current(*row);
            let base = self.base.get(*row).copied();
            let right = writer.map_or(base, |(region, _)| u8::try_from(region.index()).ok());
            self.chains.follows_ttls(*row) && now != NOWHERE && right != Some(now)
        });
        let strays = strays.count();
        // By another configuration others are right.
        let strays = if self.stage.config.hash == config.hash { strays } else { 0 };
        self.checks.end(self.now, ttl, strays);
        let step = (self.base.len() / ON_THE_MAP).max(1);
        let places = self.chains.places.iter().enumerate().step_by(step);
        let clients = places.filter(|(_, (longitude, _))| !longitude.is_nan());
        let client = |(row, (longitude, latitude)): (usize, &(f32, f32))| {
            let before = first.get(row).copied().unwrap_or(NOWHERE);
            let away = self.away.get(row).copied().unwrap_or(NOWHERE);
            (*longitude, *latitude, before, away)
        };
        let (since, before) = self.cut;
        let parted = before + since.map(|since| self.now.since(since)).unwrap_or_default();
        let violations = self.checks.violations.iter();
        let end = End {
            clients: clients.map(client).collect(),
            violations: violations
                .map(|(at, what)| (at.since(self.start).as_secs_f64(), what.clone()))
                .collect(),
            conflicts: self.stores.map(Stores::settle),
            parted: parted.as_secs_f64(),
            stays: self.stays,
            ttl: ttl.as_secs_f64(),
            reloaded: scenario
                .events
                .iter()
                .filter(|(_, act)| matches!(act, Act::Reload(_)))
                .map(|(at, _)| at.as_secs_f64())
                .collect(),
            one_writer: self.input.one_writer().map(|(span, name)| (span.as_secs_f64(), name)),
        };
        self.outcome.settle(scenario, end)
    }

    /// Lets everything happen that comes before `end`, or at it.
    fn until(&mut self, end: Instant) {
        loop {
            let event = self.queue.peek().map(|due| due.at);
            let chain = self.chains.next();
            let Some(next) = event.into_iter().chain(chain).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = next;
            if event == Some(next) {
                let Some(due) = self.queue.pop() else { break };
                self.happens(due.event);
            } else if let Some((row, layer)) = self.chains.pop(&mut self.dice.clients) {
                self.look(row, layer);
            }
        }
        self.now = end;
    }

    pub(super) fn since(&self) -> Duration {
        self.now.since(self.start)
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Wake(row) => {
                if self.wakes.get(row).copied().flatten() == Some(self.now) {
                    self.turn(row);
                }
            }
            Event::Probe(row, incarnation, target, report) => {
                let now = self.now;
                if let Some(node) = self.life(row, incarnation) {
                    node.probed(now, target, report);
                    self.turn(row);
                }
            }
            Event::Message(row, from, incarnation, message) => {
                let now = self.now;
                if let Some(node) = self.nodes.get_mut(row).and_then(Option::as_mut) {
                    node.hear(now, from, incarnation, *message);
                    self.turn(row);
                }
            }
            Event::Look(row, incarnation) => self.look_who_writes(row, incarnation),
            Event::Asked(row, incarnation, ask) => self.asked(row, incarnation, ask),
            Event::Told(row, incarnation, answer) => self.told(row, incarnation, answer),
            Event::Elect(member) => self.elect(member),
            Event::Act(act) => self.act(&act),
            Event::Write => self.write(),
            Event::Second => {
                self.second();
                self.at(self.now + Duration::from_secs(1), Event::Second);
            }
        }
    }

    fn second(&mut self) {
        if std::mem::take(&mut self.is_replaced) {
            self.place();
        }
        let all = (self.chains.list.len().max(1)) as f64;
        let counts = self.chains.counts.iter();
        self.regions.second(counts.map(|count| f64::from(*count) / all));
        let fails: Vec<f64> = self.regions.ids().map(|id| self.regions.fails(id)).collect();
        self.outcome.second(&self.chains.counts, &fails, self.chains.kilometres);
        let regions: Vec<Option<RegionId>> =
            self.nodes.iter().map(|node| node.as_ref().map(|of| of.region)).collect();
        let conditions: Vec<(Condition, f64)> =
            self.regions.conditions().into_iter().zip(fails).collect();
        let nodes = (regions.as_slice(), regions.len());
        self.checks.second(self.now, &conditions, &self.network, nodes);
    }

    pub(super) fn life(&mut self, row: usize, incarnation: u64) -> Option<&mut Node> {
        let node = self.nodes.get_mut(row)?.as_mut()?;
        (node.incarnation == incarnation).then_some(node)
    }

    /// Lets a node do what is due, and carries out what it wants.
    pub(super) fn turn(&mut self, row: usize) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(row).and_then(Option::as_mut) else { return };
        let wants = node.turn(now, &self.chains.list);
        let (writer, node_is_leased) = (node.writer(), node.is_leased());
        let (id, from, incarnation) = (node.id, node.region, node.incarnation);
        let wake = node.wake(now);
        for order in wants.probes {
            let found = self.targets.iter().find(|(target, _)| *target == order.target);
            let Some((_, to)) = found.copied() else { continue };
            let report = self.probe(from, to, order.timeout);
            let event = Event::Probe(row, incarnation, order.target, report);
            self.at(now + report.latency, event);
        }
        for (to, message) in wants.messages {
            let Some((_, region)) = self.input.scenario.nodes.get(to.index()) else { continue };
            let is_lost = self.network.drops(1, &mut self.dice.network);
            if self.network.passes(from, *region) && !is_lost {
                let at = now + self.network.round_trip(from, *region) / 2;
                self.at(at, Event::Message(to.index(), id, incarnation, Box::new(message)));
            }
        }
        let since = self.since();
        let changes = wants.changes.iter().filter(|change| change.from != change.to);
        let changes = changes.map(|change| (change.target, "takes", Some(change.to)));
        let opinions = wants.opinions.iter().map(|(target, state)| (*target, "sees", *state));
        for (target, how, state) in opinions.chain(changes).filter(|_| now >= self.start) {
            let found = self.targets.iter().find(|(of, _)| *of == target);
            if let Some((_, region)) = found {
                let name = self.input.scenario.nodes.get(row).map_or("", |(name, _)| name);
                let state = state.map_or("nothing".to_owned(), |state| state.to_string());
                let what = match how {
                    "sees" => format!("sees {} {state}", self.outcome.name(*region)),
                    _ => format!("takes {} for {state}", self.outcome.name(*region)),
                };
                self.outcome.tell(since, name, what);
            }
        }
        if let Some(writer) = writer {
            self.checks.writes(now, writer);
        }
        // Who has not heard of the next one yet is no news.
        let is_next = |of: &(RegionId, u64)| self.writer.is_none_or(|(_, epoch)| of.1 > epoch);
        if let Some((region, epoch)) = writer.filter(is_next) {
            self.writer = writer;
            let who = if node_is_leased { "the lease" } else { "the word" };
            self.outcome.writes(since, who, (region, epoch));
            if let Some(stores) = &mut self.stores {
                stores.hand_over(now, region);
            }
        }
        if wants.is_published {
            self.note_named();
        }
        // Something may be due at once, but time goes on.
        let wake = wake.map(|at| at.max(now + Duration::from_micros(100)));
        if let Some(slot) = self.wakes.get_mut(row)
            && *slot != wake
        {
            *slot = wake;
            if let Some(at) = wake {
                self.at(at, Event::Wake(row));
            }
        }
    }

    /// Notes which regions most nodes name from now on.
    pub(super) fn note_named(&mut self) {
        self.is_replaced = true;
        let nodes: Vec<&Node> = self.nodes.iter().flatten().filter(|node| node.is_ready).collect();
        let ids = self.regions.ids();
        let most = |region: RegionId| {
            nodes.iter().filter(|node| node.names(region)).count() * 2 > nodes.len()
        };
        let named: Vec<bool> = ids.map(most).collect();
        if nodes.is_empty() {
            return;
        }
        let everywhere = |region: RegionId| nodes.iter().all(|node| node.names(region));
        let everywhere: Vec<bool> = self.regions.ids().map(everywhere).collect();
        let is_on = self.now >= self.start;
        for (region, everywhere) in self.regions.ids().zip(everywhere) {
            let row = region.index();
            let leaving = self.leaves(region, None);
            if let Some(slot) = self.leaving.get_mut(row) {
                let is_slow = slot.is_some_and(|of| of.ramp.is_some());
                *slot = if everywhere && !is_slow { None } else { slot.or(Some(leaving)) };
            }
            let (was, is) = (self.named.get(row), named.get(row));
            if was == is {
                continue;
            }
            let left = (is == Some(&false)).then_some(self.now);
            if let Some(slot) = self.left.get_mut(row) {
                *slot = left;
            }
            if !is_on {
                continue;
            }
            if left.is_some() {
                let alive = self.regions.is_well(region) && self.input.one_writer().is_none();
                let begun = self.leaving.get(row).copied().flatten().unwrap_or(leaving);
                // A node that never named it again began before its clients were back.
                let begun = Leaving { had: begun.had.max(leaving.had), ..begun };
                self.outcome.left(self.now.since(self.start), region, &begun, alive);
            } else {
                if let Some(slot) = self.leaving.get_mut(row) {
                    *slot = None;
                }
                self.look_at_map();
                self.outcome.came_back(self.now.since(self.start), region);
            }
        }
        self.named = named;
    }

    /// A region begins to leave the answers now.
    pub(super) fn leaves(&self, region: RegionId, ramp: Option<Ramp>) -> Leaving {
        let count = self.chains.counts.get(region.index()).copied().unwrap_or(0);
        let had = f64::from(count) / (self.chains.list.len().max(1) as f64);
        Leaving { since: self.since(), had, ramp }
    }
}

/// Resolvers begin so long before the scenario, to be in their stride.
const LEAD: Duration = Duration::from_secs(25);

/// How many clients are drawn on the map.
const ON_THE_MAP: usize = 4000;
