//! Catchments: networks by the order in which their clients prefer the regions.
//!
//! To rank regions, few of an atlas's networks need to be told apart: each catchment keeps those
//! that its own regions and rules do. Then it has no more use for the atlas.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use ipnet::IpNet;

use super::atlas::{Atlas, Layers, Location, without_islands};
use super::coordinates::Coordinates;
use super::flat::Flat;
use super::networks::{Key, Spans, Steps, both, key_v6, widest};
use super::packed::Packed;
use super::ranking::{Preferences, Ranking, Site, network_rule, rank, rank_by};
use super::special::{Located, SHARED, located};
use super::wide::Wide;
use crate::ids::RegionId;

/// Regions, and what ranks them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CatchmentSpec {
    /// The regions.
    pub sites: Vec<Site>,
    /// What goes before distance, and what comes when nothing is known.
    pub preferences: Preferences,
}

/// For one set of regions and preferences: every network's class, and every class's order.
#[derive(Debug)]
pub struct Catchment {
    spec: CatchmentSpec,
    rankings: Vec<Box<[RegionId]>>,
    v4: Packed<u32>,
    v6: Packed<u64>,
}

/// A value for every address, with the widest network for which it is true.
#[derive(Debug)]
pub struct NetworkMap {
    v4: Flat,
    v6: Wide,
}

/// How far a look-up in such a map is. Whoever has many takes all of them through one step after
/// the other: what one waits for, the memory, the others wait for at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Near {
    /// An IPv4 address, or the upper half of an IPv6 address.
    key: u64,
    /// How many bits stand before an IPv4 address: 96 in an IPv6 address. `None`: it is none.
    before: Option<u8>,
    /// What the index has for it.
    at: u32,
}

impl Catchment {
    /// Orders the regions of each of `specs` for everybody in `atlas`.
    pub fn build_all(atlas: &Atlas, specs: &[CatchmentSpec]) -> Vec<Arc<Self>> {
        let grounds = Grounds::new(atlas, specs);
        specs.iter().map(|spec| Arc::new(Self::build(atlas, &grounds, spec))).collect()
    }

    fn build(atlas: &Atlas, grounds: &Grounds, spec: &CatchmentSpec) -> Self {
        let mut found = Classes::new(atlas, grounds, spec);
        let classes: Vec<u32> = grounds.all.iter().map(|ground| found.class(ground)).collect();
        let class = |row: u32| classes.get(row as usize).copied().unwrap_or(0);
        let (v4, v6) = match &grounds.ruled {
            None => (&atlas.v4.places, &atlas.v6.places),
            Some((v4, v6)) => (v4, v6),
        };
        let (v4, v6) = (v4.map(class).collect(), v6.map(class).collect());
        Self { spec: spec.clone(), rankings: found.rankings, v4, v6 }
    }

    /// The order of one client, who is at `location`, with its reason.
    pub fn rank(&self, location: &Location<'_>, client: IpAddr) -> Ranking {
        rank(location, client, &self.spec.sites, &self.spec.preferences)
    }

    /// The distinct orders, by class.
    pub fn rankings(&self) -> &[Box<[RegionId]>] {
        &self.rankings
    }

    /// The map in which each class has the value that `of` gives it: neighbours with the same
    /// value are one.
    pub fn map(&self, of: impl Fn(u32) -> u16) -> NetworkMap {
        let (v4, v6) = (self.v4.map(&of).collect(), self.v6.map(&of).collect());
        NetworkMap { v4: Flat::new(&v4), v6: Wide::new(&v6) }
    }
}

impl NetworkMap {
    /// The first step to a client's value.
    #[inline]
    pub fn seek(&self, client: &IpAddr) -> Near {
        match located(*client) {
            Located::V4(ip, before) => {
                let key = u32::from(ip);
                self.v4.seek(key);
                Near { key: key.into(), before: Some(before), at: 0 }
            }
            Located::V6(ip) => Near { key: key_v6(ip), before: None, at: 0 },
        }
    }

    /// The second, to what the first has found.
    #[inline]
    pub fn near(&self, near: &mut Near) {
        if near.before.is_some() {
            near.at = self.v4.near(low(near.key));
        }
    }

    /// The last: the client's value, and the length of the widest prefix around it, in its own
    /// family, in which every client has that value.
    pub fn find(&self, near: Near) -> (u16, u8) {
        let Near { key, before, at } = near;
        if let Some(before) = before {
            let (value, prefix) = self.v4.find(low(key), at);
            return (value, before + prefix);
        }
        let (value, bounds) = self.v6.find(key);
        if SHARED.contains(&key) {
            return (value, 96);
        }
        let (first, behind) = without_islands(key, bounds);
        (value, widest(key, first, behind))
    }

    /// How many IPv4 addresses have each value, by value.
    pub fn addresses_v4(&self) -> Vec<u64> {
        self.v4.addresses()
    }
}

/// The IPv4 address that `key` is.
#[expect(clippy::cast_possible_truncation, reason = "it has 32 bits")]
fn low(key: u64) -> u32 {
    key as u32
}

/// What ranking may depend on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Ground {
    /// The narrowest network around that any catchment has a rule for.
    prefix: Option<IpNet>,
    /// The autonomous system, if any catchment has a rule for it.
    asn: Option<u32>,
    /// A row of the atlas.
    place: u32,
}

/// All grounds in an atlas that some catchments may tell apart.
struct Grounds {
    /// First that of each place where no rule for networks applies, then the others.
    all: Vec<Ground>,
    /// Networks by row of `all`; `None`: no rule for networks applies anywhere, so that these are
    /// the atlas's own places.
    ruled: Option<(Packed<u32>, Packed<u64>)>,
    /// Of where regions are: how far it is to each place of the atlas, in kilometres.
    distances: HashMap<Coordinates, Box<[u16]>>,
}

/// It is not known where a place is.
const UNKNOWN: u16 = u16::MAX;

impl Grounds {
    fn new(atlas: &Atlas, specs: &[CatchmentSpec]) -> Self {
        let mut all: Vec<Ground> =
            atlas.rows().map(|place| Ground { prefix: None, asn: None, place }).collect();
        let sites: BTreeSet<Coordinates> =
            specs.iter().flat_map(|spec| &spec.sites).filter_map(|site| site.at).collect();
        let distances = sites.into_iter().map(|site| (site, distances(atlas, site))).collect();
        let preferences = || specs.iter().map(|spec| &spec.preferences);
        if preferences().all(|of| of.prefixes.is_empty() && of.asns.is_empty()) {
            return Self { all, ruled: None, distances };
        }
        // 0 is nobody's number: it stands for those that are not known.
        let asns = preferences().flat_map(|of| of.asns.keys()).copied();
        let asns: BTreeSet<u32> = asns.filter(|asn| *asn != 0).collect();
        let prefixes = preferences().flat_map(|of| &of.prefixes);
        let prefixes = Spans::new(prefixes.map(|(prefix, _)| (*prefix, *prefix)));
        let mut rows = HashMap::<Ground, u32, RandomState>::default();
        let mut row = |ground: Ground| {
            if ground.prefix.is_none() && ground.asn.is_none() {
                return ground.place;
            }
            *rows.entry(ground).or_insert_with(|| {
                all.push(ground);
                count(all.len() - 1)
            })
        };
        let v4 = walk(&prefixes.v4, &asns, &atlas.v4);
        let v4 = v4.map(|(start, ground)| (start, row(ground))).collect();
        let v6 = walk(&prefixes.v6, &asns, &atlas.v6);
        let v6 = v6.map(|(start, ground)| (start, row(ground))).collect();
        Self { all, ruled: Some((v4, v6)), distances }
    }

    /// How far it is from the place in this row of the atlas.
    fn distance_km(&self, place: u32, site: &Site) -> Option<u32> {
        let known = self.distances.get(&site.at?)?.get(place as usize)?;
        Some(u32::from(*known)).filter(|_| *known != UNKNOWN)
    }
}

/// How far it is from `site` to each place.
fn distances(atlas: &Atlas, site: Coordinates) -> Box<[u16]> {
    let distance = |row| {
        let at = atlas.location(row).place.and_then(|place| place.at);
        // Half the Earth's circumference at most.
        at.and_then(|at| u16::try_from(at.distance_km(site)).ok()).unwrap_or(UNKNOWN)
    };
    atlas.rows().map(distance).collect()
}

/// Where each ground of a family begins.
fn walk<K: Key>(
    prefixes: &Steps<K, Option<IpNet>>,
    asns: &BTreeSet<u32>,
    layers: &Layers<K>,
) -> impl Iterator<Item = (K, Ground)> {
    let by_asn = layers.asns.iter();
    let by_asn = by_asn.map(|(start, asn)| (start, asns.contains(&asn).then_some(asn)));
    let rules = both(prefixes.iter(), by_asn);
    let rules = rules.map(|(start, prefix, asn)| (start, (prefix, asn)));
    both(rules, layers.places.iter())
        .map(|(start, (prefix, asn), place)| (start, Ground { prefix, asn, place }))
}

/// The classes of one catchment that were found so far.
struct Classes<'a> {
    atlas: &'a Atlas,
    grounds: &'a Grounds,
    spec: &'a CatchmentSpec,
    rankings: Vec<Box<[RegionId]>>,
    by_ranking: HashMap<Box<[RegionId]>, u32, RandomState>,
}

impl<'a> Classes<'a> {
    fn new(atlas: &'a Atlas, grounds: &'a Grounds, spec: &'a CatchmentSpec) -> Self {
        Self { atlas, grounds, spec, rankings: Vec::new(), by_ranking: HashMap::default() }
    }

    fn class(&mut self, ground: &Ground) -> u32 {
        let CatchmentSpec { sites, preferences } = self.spec;
        let location = self.atlas.location(ground.place);
        let rule = network_rule(ground.prefix, ground.asn, preferences);
        let distance = |site: &Site| self.grounds.distance_km(ground.place, site);
        let ranking = rank_by(&location, rule, sites, preferences, distance);
        let order: Box<[RegionId]> = ranking.regions.iter().map(|ranked| ranked.region).collect();
        let (rankings, next) = (&mut self.rankings, count(self.by_ranking.len()));
        *self.by_ranking.entry(order).or_insert_with_key(|order| {
            rankings.push(order.clone());
            next
        })
    }
}

/// There are no more grounds and classes than places and rules, which are counted in 32 bits.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
