//! The world: one event after the other.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::chains::{Chains, NOWHERE};
use super::checks::Checks;
use super::network::{Condition, Network};
use super::nodes::{Kept, Node};
use super::outcome::{End, Outcome};
use super::packets::{OPT, query, read};
use super::scenario::{Act, Scenario};
use super::writes::Stores;
use crate::cluster::Message;
use crate::config::Config;
use crate::geo::Atlas;
use crate::health::{Failure, Outcome as Probed, Report, Stage};
use crate::ids::{NodeId, RegionId, TargetId};
use crate::query::{Peer, Transport, answer};
use crate::rng::{Seed, Stream};
use crate::snapshot::Plan;
use crate::steer::{Address, Service};
use crate::time::Instant;

/// What a world is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'i> {
    /// What happens.
    pub scenario: &'i Scenario,
    /// What the nodes run.
    pub config: &'i Config,
    /// The same, compiled.
    pub plan: &'i Arc<Plan>,
    /// Who is where.
    pub atlas: &'i Atlas,
    /// Whence all chance comes.
    pub seed: u64,
}

/// What comes at a time.
enum Event {
    /// A node has something to do.
    Wake(usize),
    /// A probe of a node is over.
    Probe(usize, u64, TargetId, Report),
    /// A message arrives: from whom, in which of the sender's lives.
    Message(usize, NodeId, u64, Box<Message>),
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
    start: Instant,
    queue: BinaryHeap<Due>,
    /// How many events there have been: what comes at one time comes in this order.
    number: u64,
    pub(super) nodes: Vec<Option<Node>>,
    /// When each node is next woken.
    wakes: Vec<Option<Instant>>,
    incarnations: u64,
    /// What nodes that are dead have left on disk.
    kept: Vec<Kept>,
    /// Which regions most nodes name, and since when they do not.
    named: Vec<bool>,
    left: Vec<Option<Instant>>,
    /// Since when something is cut, and for how long something was before.
    pub(super) cut: (Option<Instant>, Duration),
    /// What share of the requests was on the smaller side of the last cut.
    pub(super) stays: f64,
    /// Where each chain was sent when all was well.
    base: Vec<u8>,
    /// Where each chain went before the first region came back.
    away: Vec<u8>,
    /// Which region each target is in, and which region each address is in.
    targets: Targets,
    addresses: Addresses,
    pub(super) conditions: Vec<Condition>,
    pub(super) network: Network,
    pub(super) chains: Chains,
    pub(super) stores: Option<Stores>,
    pub(super) checks: Checks,
    pub(super) dice: Dice,
    query: Vec<u8>,
    out: Vec<u8>,
    pub(super) outcome: Outcome,
}

/// Random streams, so that more of one thing does not change another.
pub(super) struct Dice {
    pub(super) chaos: Stream,
    network: Stream,
    clients: Stream,
    writes: Stream,
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
        let (targets, addresses) = endpoints(service);
        if addresses.is_empty() {
            return Err(format!("the service {} has no IPv4 address", service.name));
        }
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
        let mut clients = seed.stream("clients");
        let chains = Chains::new(
            (scenario.resolvers, config.regions.len()),
            &scenario.countries,
            &scenario.population,
            input.atlas,
            &of_nodes,
            &mut clients,
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
            left: vec![None; regions],
            cut: (None, Duration::ZERO),
            stays: 0.0,
            base: vec![NOWHERE; scenario.resolvers],
            away: Vec::new(),
            targets,
            addresses,
            conditions: vec![Condition::Well; regions],
            network: Network { places, cuts: Vec::new(), loss: 0.0 },
            chains,
            stores,
            checks: Checks::new(regions, BEGINNING),
            dice: Dice {
                chaos: seed.stream("chaos"),
                network: seed.stream("network"),
                clients,
                writes: seed.stream("writes"),
            },
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

    fn at(&mut self, at: Instant, event: Event) {
        self.number += 1;
        self.queue.push(Due { at, number: self.number, event });
    }

    /// A node dies, and leaves on disk what it believed.
    pub(super) fn kill_node(&mut self, row: usize) {
        let ids: Vec<TargetId> = self.targets.iter().map(|(target, _)| *target).collect();
        let node = self.nodes.get_mut(row).and_then(Option::take);
        if let (Some(node), Some(kept)) = (node, self.kept.get_mut(row)) {
            *kept = node.keep(self.now, &ids);
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
        let ids: Vec<TargetId> = self.targets.iter().map(|(target, _)| *target).collect();
        let seed = Seed::new(self.input.seed ^ (self.incarnations << 32));
        let (now, believed) = (self.now, self.input.config.node.believe_state_for);
        let kept = self.kept.get(row).cloned().flatten();
        let kept = kept.filter(|(at, _)| now.since(*at) <= believed);
        let life = (self.now, self.incarnations);
        let node = Node::start(&self.input, (id, *region), life, &ids, (seed, &kept));
        if let Some(slot) = self.nodes.get_mut(row) {
            *slot = Some(node);
        }
        self.turn(row);
    }

    /// Runs to the end; `progress` is told how much of the scenario is over.
    pub fn run(mut self, mut progress: impl FnMut(Duration)) -> Outcome {
        self.until(self.start - LEAD);
        self.note_named();
        self.chains.begin(self.now, self.start, &mut self.dice.clients);
        self.until(self.start);
        self.network.loss = self.input.scenario.loss;
        for (row, current) in self.base.iter_mut().enumerate() {
            *current = self.chains.inner(row, 1);
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
        (0..self.chains.list.len()).map(|row| self.chains.current(row)).collect()
    }

    /// Remembers who goes where before the first region comes back.
    fn look_at_map(&mut self) {
        if self.away.is_empty() {
            self.away = self.currents();
        }
    }

    fn end(mut self, first: &[u8]) -> Outcome {
        self.look_at_map();
        let Input { scenario, plan, .. } = self.input;
        let service = plan.services.get(scenario.service.index());
        let ttl = service.map(|service| service.ttl.duration()).unwrap_or_default();
        let strays = (0..self.base.len()).filter(|row| {
            let now = self.chains.current(*row);
            let base = self.base.get(*row).copied();
            self.chains.follows_ttls(*row) && now != NOWHERE && base != Some(now)
        });
        let strays = strays.count();
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
            Event::Act(act) => self.act(&act),
            Event::Write => {
                self.write();
            }
            Event::Second => {
                let fail = self.conditions.iter().map(|condition| match condition {
                    Condition::Well => 0.0,
                    Condition::Crashed | Condition::Stalled => 1.0,
                    Condition::Failing(share) => *share,
                });
                let fail: Vec<f64> = fail.collect();
                self.outcome.second(&self.chains.counts, &fail);
                let regions: Vec<Option<RegionId>> =
                    self.nodes.iter().map(|node| node.as_ref().map(|of| of.region)).collect();
                let nodes = (regions.as_slice(), regions.len());
                self.checks.second(self.now, &self.conditions, &self.network, nodes);
                self.at(self.now + Duration::from_secs(1), Event::Second);
            }
        }
    }

    fn life(&mut self, row: usize, incarnation: u64) -> Option<&mut Node> {
        let node = self.nodes.get_mut(row)?.as_mut()?;
        (node.incarnation == incarnation).then_some(node)
    }

    /// Lets a node do what is due, and carries out what it wants.
    pub(super) fn turn(&mut self, row: usize) {
        let now = self.now;
        let plan = self.input.plan.clone();
        let Some(node) = self.nodes.get_mut(row).and_then(Option::as_mut) else { return };
        let wants = node.turn(now, &plan);
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
        for change in wants.changes.iter().filter(|change| change.from != change.to) {
            let found = self.targets.iter().find(|(target, _)| *target == change.target);
            if let Some((_, region)) = found.filter(|_| now >= self.start) {
                let what = format!("sees {} {}", self.outcome.name(*region), change.to);
                let name = self.input.scenario.nodes.get(row).map_or("", |(name, _)| name);
                self.outcome.tell(since, name, what);
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

    /// What a probe from a region sees in another.
    fn probe(&mut self, from: RegionId, to: RegionId, timeout: Duration) -> Report {
        let latency = self.network.round_trip(from, to) * 2;
        let silent = Report {
            outcome: Probed::Failure(Failure::TimedOut(Stage::Connect)),
            latency: timeout,
        };
        let passes = self.network.passes(from, to) && self.network.passes(to, from);
        // A connection, a request and an answer.
        if !passes || self.network.drops(4, &mut self.dice.network) || latency > timeout {
            return silent;
        }
        let condition = self.conditions.get(to.index()).copied().unwrap_or(Condition::Well);
        let failure = match condition {
            Condition::Well => None,
            Condition::Crashed => Some(Failure::Refused),
            Condition::Stalled => return silent,
            Condition::Failing(share) => {
                (self.dice.network.unit() < share).then_some(Failure::Status(503))
            }
        };
        // A refusal comes back at once.
        let is_refused = failure == Some(Failure::Refused);
        let latency = if is_refused { latency / 2 } else { latency };
        Report { outcome: failure.map_or(Probed::Success, Probed::Failure), latency }
    }

    /// A layer of a chain has to look: the first asks a node, another takes what it finds inside.
    fn look(&mut self, row: usize, layer: usize) {
        let (region, ttl) = if layer == 0 {
            match self.resolve(row) {
                Some(answered) => answered,
                // No node answers: what was held goes on, and a second later it asks again.
                None => (self.chains.inner(row, 1), 1.0),
            }
        } else {
            (self.chains.inner(row, layer), 0.0)
        };
        self.chains.hold(self.now, (row, layer), region, ttl, &mut self.dice.clients);
    }

    /// What a resolver is told: a region, and the TTL in seconds.
    fn resolve(&mut self, row: usize) -> Option<(u8, f64)> {
        let chain = *self.chains.list.get(row)?;
        let order = self.chains.near.get(usize::from(chain.near))?;
        let alive =
            |row: u8| self.nodes.get(usize::from(row))?.as_ref().filter(|node| node.is_ready);
        let nearest = self.dice.clients.unit() < self.input.scenario.nearest;
        let turn = usize::try_from(self.dice.clients.below(order.len() as u64)).unwrap_or(0);
        let skip = if nearest { 0 } else { turn };
        let mut nodes = order.iter().cycle().skip(skip).take(order.len());
        let node = nodes.find_map(|row| alive(*row))?;
        let number = node.id.index();
        let [a, b, c, _] = chain.client.octets();
        let length = self.query.len();
        self.query.get_mut(length - 3..)?.copy_from_slice(&[a, b, c]);
        let peer = Peer { address: RESOLVER, transport: Transport::Udp };
        answer(&node.snapshot, &self.query, peer, self.now, &mut self.out);
        self.outcome.queries += 1;
        let question = self.query.len() - OPT;
        let told = read(&self.out, question);
        let region = told.and_then(|(address, ttl)| {
            let found = self.addresses.iter().find(|(of, _)| *of == address);
            found.map(|(_, region)| (*region, ttl))
        });
        if self.now >= self.start {
            let base = self.base.get(row).and_then(|of| RegionId::from_index(usize::from(*of)));
            self.checks.answered(self.now, number, region.map(|(region, _)| region), base);
        }
        let (region, ttl) = region?;
        Some((u8::try_from(region.index()).unwrap_or(NOWHERE), f64::from(ttl)))
    }

    /// Notes which regions most nodes name from now on.
    pub(super) fn note_named(&mut self) {
        let nodes: Vec<&Node> = self.nodes.iter().flatten().filter(|node| node.is_ready).collect();
        let ids = (0..self.conditions.len()).filter_map(RegionId::from_index);
        let most = |region: RegionId| {
            nodes.iter().filter(|node| node.names(region)).count() * 2 > nodes.len()
        };
        let named: Vec<bool> = ids.clone().map(most).collect();
        if nodes.is_empty() {
            return;
        }
        let is_on = self.now >= self.start;
        for region in ids {
            let row = region.index();
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
                let count = self.chains.counts.get(row).copied().unwrap_or(0);
                let had = f64::from(count) / (self.chains.list.len().max(1) as f64);
                let alive = self.conditions.get(row) == Some(&Condition::Well);
                self.outcome.left(self.now.since(self.start), region, (had, alive));
            } else {
                self.look_at_map();
                self.outcome.came_back(self.now.since(self.start), region);
            }
        }
        self.named = named;
    }

    fn write(&mut self) {
        let Some(stores) = &mut self.stores else { return };
        let count = self.chains.list.len() as u64;
        let row = usize::try_from(self.dice.writes.below(count)).unwrap_or(0);
        let region = self.chains.current(row);
        if let Some(region) = RegionId::from_index(usize::from(region))
            && self.conditions.get(region.index()) == Some(&Condition::Well)
        {
            let left = self.left.get(region.index()).copied().flatten();
            let moved = left.map(|at| self.now.since(at));
            stores.write(self.now, row, region, moved, &mut self.dice.writes);
        } else {
            stores.fail();
        }
        let next = stores.next(&mut self.dice.writes);
        self.at(self.now + next, Event::Write);
    }
}

type Targets = Vec<(TargetId, RegionId)>;
type Addresses = Vec<(Ipv4Addr, RegionId)>;

/// What is probed in which region, and which address is where.
fn endpoints(service: &Service) -> (Targets, Addresses) {
    let (mut targets, mut addresses) = (Vec::new(), Vec::new());
    for pool in &service.pools {
        for endpoint in &pool.endpoints {
            let probed = endpoint.probed.iter().flat_map(|of| &of.targets);
            targets.extend(probed.map(|target| (*target, pool.region)));
            if let Address::Ip(IpAddr::V4(ip)) = endpoint.address {
                addresses.push((ip, pool.region));
            }
        }
    }
    (targets, addresses)
}

/// Resolvers begin so long before the scenario, to be in their stride.
const LEAD: Duration = Duration::from_secs(25);

/// How many clients are drawn on the map.
const ON_THE_MAP: usize = 4000;

/// Where resolvers ask from: the client subnet says who for.
const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53)), 53_000);
