//! How the clients of a service are told apart: into those who get the same regions.
//!
//! A division depends on what orders the regions, on which of them are usable and on how many an
//! answer can name, and on nothing else of a service, so that services share it.
//!
//! To draw the map of one takes some milliseconds, and a change may need hundreds. So nobody waits
//! for that: until its map is drawn, clients are looked up in what it is drawn from. Everybody gets
//! the same then, in four times as long, and the scope is true, but may be narrower.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use foldhash::fast::RandomState;

use crate::geo::{Catchment, Near, NetworkMap};
use crate::ids::{RegionId, RegionSet};
use crate::steer::weighted::{Contender, SLOTS, order_by, slot};

use super::Plan;

/// What orders the regions for a client.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Order {
    /// The client's place: a row of the plan's catchments.
    Catchment(usize),
    /// The hash of the client's prefix, over these weights.
    Weights(Vec<Contender>),
}

/// What a division depends on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DivisionKey {
    /// What orders the regions.
    pub order: Order,
    /// Which of them are usable.
    pub regions: RegionSet,
    /// How many of them an answer may name.
    pub depth: usize,
}

/// The clients, divided by the regions they get.
#[derive(Debug)]
pub struct Division {
    orders: Vec<Vec<RegionId>>,
    by: By,
    /// Counted when somebody first asks.
    shares: OnceLock<Vec<f64>>,
}

/// How far a client's look-up is.
#[derive(Clone, Copy, Debug)]
pub struct Seek<'d> {
    /// If its network decides.
    network: Option<(&'d NetworkMap, Near)>,
    /// Otherwise.
    found: (u16, u8),
}

#[derive(Debug)]
enum By {
    Network(ByNetwork),
    Slot(Box<[u16]>),
}

#[derive(Debug)]
struct ByNetwork {
    map: OnceLock<NetworkMap>,
    /// What it is drawn from.
    catchment: Arc<Catchment>,
    /// The row of each of its classes.
    rows: Box<[u16]>,
}

impl ByNetwork {
    fn row(&self, class: u32) -> u16 {
        self.rows.get(class as usize).copied().unwrap_or(0)
    }
}

impl Seek<'_> {
    /// All clients are in one row.
    pub const EVERYBODY: Self = Self { network: None, found: (0, 0) };

    /// The second step, to what the first has found.
    #[inline]
    pub fn near(&mut self) {
        if let Some((map, near)) = &mut self.network {
            map.near(near);
        }
    }

    /// The last: the client's row in [`Division::orders`], and the widest prefix in which all share
    /// it.
    #[inline]
    pub fn find(&self) -> (usize, u8) {
        let (row, scope) = self.network.map_or(self.found, |(map, near)| map.find(near));
        (usize::from(row), scope)
    }
}

impl Division {
    /// The division for `key`. A catchment that is not there divides nobody.
    pub(super) fn build(plan: &Plan, key: &DivisionKey) -> Self {
        match &key.order {
            Order::Catchment(row) => match plan.catchments.get(*row) {
                Some(catchment) => Self::by_network(catchment, key),
                None => Self::new(vec![key.regions.iter().collect()], By::Slot([].into())),
            },
            Order::Weights(contenders) => Self::by_slot(plan, contenders, key),
        }
    }

    fn new(orders: Vec<Vec<RegionId>>, by: By) -> Self {
        Self { orders, by, shares: OnceLock::new() }
    }

    /// The first step to the row of `client`.
    #[inline(always)]
    pub fn seek(&self, client: &IpAddr) -> Seek<'_> {
        let map = match &self.by {
            By::Network(by) => by.map.get(),
            By::Slot(_) => None,
        };
        match map {
            Some(map) => Seek { network: Some((map, map.seek(client))), found: (0, 0) },
            None => Seek { network: None, found: self.find(client) },
        }
    }

    /// The client's row without a map, and the scope.
    #[inline(never)]
    fn find(&self, client: &IpAddr) -> (u16, u8) {
        match &self.by {
            By::Network(by) => {
                let (class, scope) = by.catchment.find(*client);
                (by.row(class), scope)
            }
            By::Slot(rows) => {
                let (slot, scope) = slot(*client);
                (rows.get(slot).copied().unwrap_or(0), scope)
            }
        }
    }

    /// Draws its map, unless there is nothing to draw.
    pub fn draw(&self) {
        if let By::Network(by) = &self.by
            && self.orders.len() > 1
        {
            by.map.get_or_init(|| by.catchment.map(|class| by.row(class)));
        }
    }

    /// Whether there is nothing to draw.
    pub fn is_drawn(&self) -> bool {
        match &self.by {
            // Where all get the same, nobody looks.
            By::Network(by) => self.orders.len() < 2 || by.map.get().is_some(),
            By::Slot(_) => true,
        }
    }

    /// The distinct orders of regions, best first, cut to what an answer can name.
    pub fn orders(&self) -> &[Vec<RegionId>] {
        &self.orders
    }

    /// The share of clients in each row of [`Self::orders`]: of the IPv4 addresses where the
    /// client's place decides, else of the client prefixes.
    pub fn shares(&self) -> &[f64] {
        self.shares.get_or_init(|| self.count_shares())
    }

    fn count_shares(&self) -> Vec<f64> {
        let mut counts = vec![0; self.orders.len()];
        let mut add = |row: u16, clients: u64| {
            if let Some(count) = counts.get_mut(usize::from(row)) {
                *count += clients;
            }
        };
        match &self.by {
            By::Network(ByNetwork { catchment, rows, .. }) => {
                let classes = rows.iter().zip(catchment.addresses_v4());
                classes.for_each(|(row, addresses)| add(*row, *addresses));
            }
            By::Slot(rows) => rows.iter().for_each(|row| add(*row, 1)),
        }
        let all: u64 = counts.iter().sum();
        counts.iter().map(|count| *count as f64 / all.max(1) as f64).collect()
    }

    fn by_network(catchment: &Arc<Catchment>, key: &DivisionKey) -> Self {
        let rankings = catchment.rankings();
        let (orders, rows) = distinct(key, rankings.iter().map(|ranking| ranking.as_ref()));
        let (map, catchment, rows) = (OnceLock::new(), catchment.clone(), rows.into());
        Self::new(orders, By::Network(ByNetwork { map, catchment, rows }))
    }

    fn by_slot(plan: &Plan, contenders: &[Contender], key: &DivisionKey) -> Self {
        let usable = contenders.iter().filter(|of| key.regions.contains(of.region));
        let usable: Vec<Contender> = usable.copied().collect();
        let scores = |of: &Contender, slot: usize| {
            plan.scores(of).and_then(|scores| scores.get(slot)).copied().unwrap_or(u64::MAX)
        };
        let ranked: Vec<Vec<RegionId>> =
            (0..SLOTS).map(|slot| order_by(&usable, |of| scores(of, slot))).collect();
        let (orders, rows) = distinct(key, ranked.iter().map(Vec::as_slice));
        Self::new(orders, By::Slot(rows.into()))
    }
}

/// The distinct beginnings of the rankings, usable regions only, and which one each ranking has.
/// Should there be more than a row number can count, answers name one region less.
fn distinct<'r>(
    key: &DivisionKey,
    rankings: impl Iterator<Item = &'r [RegionId]> + Clone,
) -> (Vec<Vec<RegionId>>, Vec<u16>) {
    for depth in (1..=key.depth.clamp(1, RegionSet::CAPACITY)).rev() {
        let mut known = HashMap::<Vec<RegionId>, u16, RandomState>::default();
        let mut orders = Vec::new();
        let mut rows = Vec::new();
        for ranking in rankings.clone() {
            let order: Vec<RegionId> = ranking
                .iter()
                .copied()
                .filter(|region| key.regions.contains(*region))
                .take(depth)
                .collect();
            let Ok(next) = u16::try_from(orders.len()) else { break };
            let row = *known.entry(order).or_insert_with_key(|order| {
                orders.push(order.clone());
                next
            });
            rows.push(row);
        }
        if rows.len() == rankings.clone().count() {
            return (orders, rows);
        }
    }
    (Vec::new(), Vec::new())
}
