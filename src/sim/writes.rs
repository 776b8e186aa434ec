//! Writers and what they write: which writes met that knew nothing of each other, and what each way
//! of settling them costs.

use std::collections::HashMap;
use std::time::Duration;

use super::network::Network;
use super::outcome::Conflicts;
use super::scenario::Writing;
use crate::ids::RegionId;
use crate::rng::Stream;
use crate::time::Instant;

/// The stores of all regions.
pub(super) struct Stores {
    of: Writing,
    /// The probabilities of the shared keys, summed up.
    sums: Vec<f64>,
    /// Writes of each key that not every region has seen yet.
    recent: HashMap<u64, Vec<Write>>,
    links: Vec<Link>,
    regions: usize,
    counted: Conflicts,
}

#[derive(Clone, Copy)]
struct Write {
    at: Instant,
    region: RegionId,
    /// It is in conflict with another one.
    met: bool,
    lost: bool,
    stale: bool,
}

/// The way from one region to another: when it was cut, and healed.
#[derive(Clone, Default)]
struct Link {
    cuts: Vec<(Instant, Option<Instant>)>,
}

impl Stores {
    pub(super) fn new(of: &Writing, regions: usize) -> Self {
        let mut sum = 0.0;
        let probabilities = of.writes.shared.probabilities().into_iter();
        let sums = probabilities.map(|share| {
            sum += share;
            sum
        });
        Self {
            of: of.clone(),
            sums: sums.collect(),
            recent: HashMap::new(),
            links: vec![Link::default(); regions * regions],
            regions,
            counted: Conflicts::default(),
        }
    }

    /// How long until the next write.
    pub(super) fn next(&self, dice: &mut Stream) -> Duration {
        let mean = 1.0 / self.of.writes.rate;
        Duration::from_secs_f64(-mean * (1.0 - dice.unit()).ln())
    }

    /// The network has changed.
    pub(super) fn part(&mut self, now: Instant, network: &Network) {
        for row in 0..self.links.len() {
            let from = RegionId::from_index(row / self.regions);
            let to = RegionId::from_index(row % self.regions);
            let (Some(from), Some(to), Some(link)) = (from, to, self.links.get_mut(row)) else {
                continue;
            };
            let is_cut = !network.passes(from, to);
            match link.cuts.last_mut() {
                Some((_, end @ None)) if !is_cut => *end = Some(now),
                None | Some((_, Some(_))) if is_cut => link.cuts.push((now, None)),
                _ => {}
            }
        }
    }

    /// Another region writes from now on: what it has not seen is refused when it comes.
    pub(super) fn hand_over(&mut self, now: Instant, to: RegionId) {
        let mut recent = std::mem::take(&mut self.recent);
        for writes in recent.values_mut() {
            let before = writes.len();
            writes.retain(|write| self.arrival(write, to).is_some_and(|at| at <= now));
            self.counted.unseen += (before - writes.len()) as u64;
        }
        self.recent = recent;
    }

    /// A write that found no region to take it.
    pub(super) fn fail(&mut self) {
        self.counted.writes += 1;
        self.counted.failed += 1;
    }

    /// When a write arrives in another region; `None`: not as long as the way is cut.
    fn arrival(&self, write: &Write, to: RegionId) -> Option<Instant> {
        let delay = Duration::from_secs_f64(self.of.writes.delay);
        if write.region == to {
            return Some(write.at);
        }
        let link = self.links.get(write.region.index() * self.regions + to.index())?;
        let cut = link
            .cuts
            .iter()
            .find(|(from, end)| write.at + delay > *from && end.is_none_or(|end| write.at < end));
        match cut {
            None => Some(write.at + delay),
            Some((_, None)) => None,
            // The backlog is sent in its order, so much faster than it came.
            Some((from, Some(end))) => {
                Some(*end + delay + write.at.since(*from).div_f64(self.of.catch_up))
            }
        }
    }

    /// A client writes in `region`; `right`: answers name it to this client now, and since when
    /// another one, if they do not.
    pub(super) fn write(
        &mut self,
        now: Instant,
        client: usize,
        region: RegionId,
        moved: Option<Duration>,
        dice: &mut Stream,
    ) {
        let is_private = dice.unit() < self.of.writes.private;
        // A client's own keys are told apart from the shared ones by a bit.
        let key = if is_private { 1 << 63 | client as u64 } else { self.shared(dice) };
        let ahead = |of: RegionId| {
            let found = self.of.skew.iter().find(|(region, _)| *region == of);
            found.map_or(Duration::ZERO, |(_, ahead)| *ahead)
        };
        let mut new = Write { at: now, region, met: false, lost: false, stale: false };
        let mut recent = self.recent.remove(&key).unwrap_or_default();
        let everywhere = |write: &Write| {
            let mut ids = (0..self.regions).filter_map(RegionId::from_index);
            ids.all(|to| self.arrival(write, to).is_some_and(|at| at <= now))
        };
        let (done, mut open): (Vec<Write>, Vec<Write>) =
            recent.drain(..).partition(|write| everywhere(write));
        for write in &mut open {
            if write.region == region {
                continue;
            }
            let is_seen = self.arrival(write, region).is_some_and(|at| at <= now);
            let stamps = (write.at + ahead(write.region), now + ahead(region));
            if is_seen {
                // It knows of the other, and loses to it all the same by a clock that is ahead.
                new.stale |= stamps.1 < stamps.0;
                continue;
            }
            (write.met, new.met) = (true, true);
            if stamps.0 <= stamps.1 { write.lost = true } else { new.lost = true }
        }
        open.push(new);
        if !open.is_empty() {
            self.recent.insert(key, open);
        }
        done.iter().for_each(|write| self.counted.add(write.met, write.lost, write.stale));
        self.counted.writes += 1;
        if let Some(since) = moved {
            self.counted.astray += 1;
            if since < self.of.fence {
                self.counted.unfenced += 1;
            }
        }
    }

    fn shared(&self, dice: &mut Stream) -> u64 {
        let drawn = dice.unit() * self.sums.last().copied().unwrap_or(1.0);
        self.sums.partition_point(|sum| *sum < drawn) as u64
    }

    /// What is known at the end.
    pub(super) fn settle(mut self) -> Conflicts {
        let rest: Vec<Write> = self.recent.drain().flat_map(|(_, list)| list).collect();
        rest.iter().for_each(|write| self.counted.add(write.met, write.lost, write.stale));
        self.counted
    }
}
