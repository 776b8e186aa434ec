//! What resolvers, probes and writers meet with when they ask.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::chains::NOWHERE;
use super::packets::{OPT, read};
use super::regions::Condition;
use super::world::{Dice, Event, World};
use crate::health::{Failure, Outcome as Probed, Report, Stage};
use crate::ids::RegionId;
use crate::query::{Peer, Transport, answer};
use crate::rng::Stream;

/// Where resolvers ask from: the client subnet says who for.
const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53)), 53_000);

impl World<'_> {
    /// What a probe from a region sees in another.
    pub(super) fn probe(&mut self, from: RegionId, to: RegionId, timeout: Duration) -> Report {
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
        let failure = match self.regions.condition(to) {
            Condition::Crashed => Some(Failure::Refused),
            Condition::Stalled => return silent,
            Condition::Well | Condition::Failing(_) => {
                let fails = self.regions.fails(to);
                (fails > 0.0 && self.dice.network.unit() < fails).then_some(Failure::Status(503))
            }
        };
        // A refusal comes back at once.
        let is_refused = failure == Some(Failure::Refused);
        let latency = if is_refused { latency / 2 } else { latency };
        Report { outcome: failure.map_or(Probed::Success, Probed::Failure), latency }
    }

    /// A layer of a chain has to look: the first asks a node, another takes what it finds inside.
    /// Where it finds nothing, it is told what a node answers; but the cache is not filled: how
    /// often that is asked counts all who ask.
    pub(super) fn look(&mut self, row: usize, layer: usize) {
        let found = self.chains.inner(row, layer);
        let (region, ttl) = if found == NOWHERE {
            let first = self.first(row, |dice| &mut dice.clients);
            match self.resolve(row, first) {
                Some((region, ttl)) => (region, Some(ttl)),
                None => (self.chains.on_failure(self.now, row), None),
            }
        } else {
            (found, Some(0.0))
        };
        self.chains.hold(self.now, (row, layer), region, ttl, &mut self.dice.clients);
    }

    /// Where requests go of chains that hold nothing, from now on.
    pub(super) fn place(&mut self) {
        let queries = self.outcome.queries;
        for row in self.chains.forgetful() {
            let first = self.first(row, |dice| &mut dice.places);
            let told = self.resolve(row, first).map(|(region, _)| region);
            let told = told.unwrap_or_else(|| self.chains.on_failure(self.now, row));
            self.chains.would_be_told(row, told);
        }
        // Nobody has asked yet.
        self.outcome.queries = queries;
    }

    /// Which of its nodes, by distance, a resolver asks first.
    fn first(&mut self, row: usize, stream: fn(&mut Dice) -> &mut Stream) -> usize {
        let near = self.chains.list.get(row).map_or(0, |chain| usize::from(chain.near));
        let count = self.chains.near.get(near).map_or(0, Vec::len) as u64;
        let dice = stream(&mut self.dice);
        let is_nearest = dice.unit() < self.input.scenario.nearest;
        let turn = usize::try_from(dice.below(count)).unwrap_or(0);
        if is_nearest { 0 } else { turn }
    }

    /// What a resolver is told: a region, and the TTL in seconds. It asks one node after the other
    /// until one answers.
    fn resolve(&mut self, row: usize, first: usize) -> Option<(u8, f64)> {
        let chain = *self.chains.list.get(row)?;
        let order = self.chains.near.get(usize::from(chain.near))?;
        let [a, b, c, _] = chain.client.octets();
        let length = self.query.len();
        self.query.get_mut(length - 3..)?.copy_from_slice(&[a, b, c]);
        let base = self.base.get(row).and_then(|of| RegionId::from_index(usize::from(*of)));
        for node in order.iter().cycle().skip(first).take(order.len()) {
            let node = self.nodes.get(usize::from(*node)).and_then(Option::as_ref);
            let Some(node) = node.filter(|node| node.is_ready) else { continue };
            let peer = Peer { address: RESOLVER, transport: Transport::Udp };
            answer(&node.snapshot, &self.query, peer, self.now, &mut self.out);
            self.outcome.queries += 1;
            let told = read(&self.out, self.query.len() - OPT).and_then(|(address, ttl)| {
                let found = self.addresses.iter().find(|(of, _)| *of == address);
                found.map(|(_, region)| (*region, ttl))
            });
            if self.now >= self.start {
                let told = told.map(|(region, ttl)| (region, Duration::from_secs(u64::from(ttl))));
                self.checks.answered(self.now, node.id.index(), told, base);
            }
            if let Some((region, ttl)) = told {
                return Some((u8::try_from(region.index()).unwrap_or(NOWHERE), f64::from(ttl)));
            }
        }
        None
    }

    /// A client writes where its requests go.
    pub(super) fn write(&mut self) {
        let count = self.chains.list.len() as u64;
        let row = usize::try_from(self.dice.writes.below(count)).unwrap_or(0);
        let region = if self.chains.is_empty(row) {
            let first = self.first(row, |dice| &mut dice.writes);
            self.resolve(row, first).map_or(NOWHERE, |(region, _)| region)
        } else {
            self.chains.current(row)
        };
        let Some(stores) = &mut self.stores else { return };
        if let Some(region) = RegionId::from_index(usize::from(region))
            && self.regions.is_well(region)
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
