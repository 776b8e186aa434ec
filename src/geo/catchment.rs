//! Catchments: networks by the order in which their clients prefer the regions.
//!
//! To rank regions, few of an atlas's networks need to be told apart. So all catchments are drawn
//! together, and share one map of zones: in each, every one of them has one class. Then they have
//! no more use for the atlas.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use ipnet::IpNet;

use super::atlas::{Atlas, Layers, Location, without_islands};
use super::coordinates::Coordinates;
use super::flat::Flat;
use super::networks::{Bounds, Key, Spans, Steps, both, key_v6, widest};
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

/// For one set of regions and preferences: every zone's class, and every class's order.
#[derive(Debug)]
pub struct Catchment {
    spec: CatchmentSpec,
    rankings: Vec<Box<[RegionId]>>,
    zones: Arc<Zones>,
    /// The class of each zone.
    classes: Box<[u32]>,
    /// How many IPv4 addresses each class has.
    addresses: Box<[u64]>,
}

/// Networks by zone, for all catchments that were drawn together.
#[derive(Debug)]
struct Zones {
    v4: Packed<u32>,
    v6: Packed<u64>,
    /// How many IPv4 addresses each has.
    addresses: Box<[u64]>,
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
        let mut zone_of = vec![0; grounds.all.len()];
        for spec in specs {
            let mut classes = Classes::new(atlas, &grounds.distances, spec);
            let mut known = HashMap::<(u32, u32), u32, RandomState>::default();
            for (zone, ground) in zone_of.iter_mut().zip(&grounds.all) {
                let next = count(known.len());
                *zone = *known.entry((*zone, classes.class(ground))).or_insert(next);
            }
        }
        // The first of each zone, as they are numbered in the order in which they are met.
        let mut firsts: Vec<&Ground> = Vec::new();
        for (zone, ground) in zone_of.iter().zip(&grounds.all) {
            if *zone == count(firsts.len()) {
                firsts.push(ground);
            }
        }
        let v4: Packed<u32> = grounds.zones(&grounds.prefixes.v4, &atlas.v4, &zone_of);
        let v6 = grounds.zones(&grounds.prefixes.v6, &atlas.v6, &zone_of);
        let addresses = addresses(&v4, firsts.len());
        let zones = Arc::new(Zones { v4, v6, addresses });
        let one = |spec: &CatchmentSpec| {
            let mut found = Classes::new(atlas, &grounds.distances, spec);
            let classes: Box<[u32]> = firsts.iter().map(|ground| found.class(ground)).collect();
            let (spec, rankings) = (spec.clone(), found.rankings);
            let of_zones = classes.iter().copied().zip(zones.addresses.iter().copied());
            let addresses = sum(of_zones, rankings.len());
            Arc::new(Self { spec, rankings, zones: zones.clone(), classes, addresses })
        };
        specs.iter().map(one).collect()
    }

    /// The order of one client, who is at `location`, with its reason.
    pub fn rank(&self, location: &Location<'_>, client: IpAddr) -> Ranking {
        rank(location, client, &self.spec.sites, &self.spec.preferences)
    }

    /// The distinct orders, by class.
    pub fn rankings(&self) -> &[Box<[RegionId]>] {
        &self.rankings
    }

    /// How many IPv4 addresses each class has, by class.
    pub fn addresses_v4(&self) -> &[u64] {
        &self.addresses
    }

    /// A client's class, and the length of a prefix around it in which every client has it: the
    /// widest but for neighbours of the same class. It takes four times as long as in a map.
    pub fn find(&self, client: IpAddr) -> (u32, u8) {
        let (zone, scope) = match located(client) {
            Located::V4(ip, before) => {
                let key = u32::from(ip);
                let (zone, (first, behind)) = self.zones.v4.find(key).unwrap_or_default();
                (zone, before + widest(key, first, behind))
            }
            Located::V6(ip) => {
                let key = key_v6(ip);
                let (zone, bounds) = self.zones.v6.find(key).unwrap_or_default();
                (zone, scope_v6(key, bounds))
            }
        };
        (self.class_of(zone), scope)
    }

    fn class_of(&self, zone: u32) -> u32 {
        self.classes.get(zone as usize).copied().unwrap_or(0)
    }

    /// The map in which each class has the value that `of` gives it: neighbours with the same
    /// value are one.
    pub fn map(&self, of: impl Fn(u32) -> u16) -> NetworkMap {
        let value = |zone: u32| of(self.class_of(zone));
        let Zones { v4, v6, .. } = &*self.zones;
        let (v4, v6) = (v4.map(value).collect(), v6.map(value).collect());
        NetworkMap { v4: Flat::new(&v4), v6: Wide::new(&v6) }
    }
}

impl NetworkMap {
    /// The first step to a client's value. Always in its caller's code, so that it is made where it
    /// stays.
    #[inline(always)]
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
        (value, scope_v6(key, bounds))
    }
}

/// The length of the widest prefix around an IPv6 address in which every client is in its step.
fn scope_v6(key: u64, bounds: Bounds<u64>) -> u8 {
    if SHARED.contains(&key) {
        return 96;
    }
    let (first, behind) = without_islands(key, bounds);
    widest(key, first, behind)
}

/// How many addresses each of so many zones has.
fn addresses(v4: &Packed<u32>, zones: usize) -> Box<[u64]> {
    let steps = || v4.iter().map(|(start, zone)| (u64::from(start), zone));
    let ends = steps().skip(1).map(|(start, _)| start).chain([1 << u32::BITS]);
    sum(steps().zip(ends).map(|((start, zone), end)| (zone, end - start)), zones)
}

/// The sum of what each of so many rows has.
fn sum(each: impl Iterator<Item = (u32, u64)>, rows: usize) -> Box<[u64]> {
    let mut sums = vec![0; rows];
    for (row, addresses) in each {
        if let Some(sum) = sums.get_mut(row as usize) {
            *sum += addresses;
        }
    }
    sums.into()
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

impl Ground {
    /// Whether a rule for networks may apply.
    fn is_ruled(&self) -> bool {
        self.prefix.is_some() || self.asn.is_some()
    }
}

/// All grounds in an atlas that some catchments may tell apart.
struct Grounds {
    /// First that of each place where no rule for networks applies, then the others.
    all: Vec<Ground>,
    /// Where those others are.
    ruled: HashMap<Ground, usize, RandomState>,
    /// The networks that any catchment has a rule for.
    prefixes: Spans<IpNet>,
    /// Likewise autonomous systems.
    asns: BTreeSet<u32>,
    distances: Distances,
}

/// Of where regions are: how far it is to each place of an atlas, in kilometres. That takes longer
/// to compute than to rank by, and catchments have most of their regions in common.
struct Distances(HashMap<Coordinates, Box<[u16]>>);

/// It is not known where a place is.
const UNKNOWN: u16 = u16::MAX;

impl Distances {
    fn new(atlas: &Atlas, specs: &[CatchmentSpec]) -> Self {
        let sites = specs.iter().flat_map(|spec| &spec.sites).filter_map(|site| site.at);
        let sites: BTreeSet<Coordinates> = sites.collect();
        let distance = |row, site: Coordinates| {
            let at = atlas.location(row).place.and_then(|place| place.at);
            // Half the Earth's circumference at most.
            at.and_then(|at| u16::try_from(at.distance_km(site)).ok()).unwrap_or(UNKNOWN)
        };
        let all = |site| atlas.rows().map(|row| distance(row, site)).collect();
        Self(sites.into_iter().map(|site| (site, all(site))).collect())
    }

    /// How far it is from the place in this row of the atlas.
    fn km(&self, place: u32, site: &Site) -> Option<u32> {
        let known = self.0.get(&site.at?)?.get(place as usize)?;
        Some(u32::from(*known)).filter(|_| *known != UNKNOWN)
    }
}

impl Grounds {
    fn new(atlas: &Atlas, specs: &[CatchmentSpec]) -> Self {
        let preferences = || specs.iter().map(|spec| &spec.preferences);
        // 0 is nobody's number: it stands for those that are not known.
        let asns = preferences().flat_map(|of| of.asns.keys()).copied();
        let asns = asns.filter(|asn| *asn != 0).collect();
        let prefixes = preferences().flat_map(|of| &of.prefixes);
        let prefixes = Spans::new(prefixes.map(|(prefix, _)| (*prefix, *prefix)));
        let all = atlas.rows().map(|place| Ground { prefix: None, asn: None, place }).collect();
        let distances = Distances::new(atlas, specs);
        let mut grounds = Self { all, ruled: HashMap::default(), prefixes, asns, distances };
        if preferences().any(|of| !of.prefixes.is_empty() || !of.asns.is_empty()) {
            let v4 = grounds.walk(&grounds.prefixes.v4, &atlas.v4).map(|(_, ground)| ground);
            let v6 = grounds.walk(&grounds.prefixes.v6, &atlas.v6).map(|(_, ground)| ground);
            let ruled: BTreeSet<Ground> = v4.chain(v6).filter(Ground::is_ruled).collect();
            grounds.ruled = ruled.iter().copied().zip(grounds.all.len()..).collect();
            grounds.all.extend(ruled);
        }
        grounds
    }

    /// Where each ground of a family begins.
    fn walk<K: Key>(
        &self,
        prefixes: &Steps<K, Option<IpNet>>,
        layers: &Layers<K>,
    ) -> impl Iterator<Item = (K, Ground)> {
        let by_asn = layers.asns.iter();
        let by_asn = by_asn.map(|(start, asn)| (start, self.asns.contains(&asn).then_some(asn)));
        let rules = both(prefixes.iter(), by_asn);
        let rules = rules.map(|(start, prefix, asn)| (start, (prefix, asn)));
        both(rules, layers.places.iter())
            .map(|(start, (prefix, asn), place)| (start, Ground { prefix, asn, place }))
    }

    /// A family's networks by zone, of which each ground has one.
    fn zones<K: Key>(
        &self,
        prefixes: &Steps<K, Option<IpNet>>,
        layers: &Layers<K>,
        zone_of: &[u32],
    ) -> Packed<K> {
        let zone = |row: usize| zone_of.get(row).copied().unwrap_or(0);
        if self.ruled.is_empty() {
            return layers.places.map(|place| zone(place as usize)).collect();
        }
        let ruled = |of: Ground| self.ruled.get(&Some(of).filter(Ground::is_ruled)?).copied();
        let row = |of: Ground| ruled(of).unwrap_or(of.place as usize);
        self.walk(prefixes, layers).map(|(start, of)| (start, zone(row(of)))).collect()
    }
}

/// The classes of one catchment that were found so far.
struct Classes<'a> {
    atlas: &'a Atlas,
    distances: &'a Distances,
    spec: &'a CatchmentSpec,
    rankings: Vec<Box<[RegionId]>>,
    by_ranking: HashMap<Box<[RegionId]>, u32, RandomState>,
}

impl<'a> Classes<'a> {
    fn new(atlas: &'a Atlas, distances: &'a Distances, spec: &'a CatchmentSpec) -> Self {
        Self { atlas, distances, spec, rankings: Vec::new(), by_ranking: HashMap::default() }
    }

    fn class(&mut self, ground: &Ground) -> u32 {
        let CatchmentSpec { sites, preferences } = self.spec;
        let location = self.atlas.location(ground.place);
        let rule = network_rule(ground.prefix, ground.asn, preferences);
        let distance = |site: &Site| self.distances.km(ground.place, site);
        let ranking = rank_by(&location, rule, sites, preferences, distance);
        let order: Box<[RegionId]> = ranking.regions.iter().map(|ranked| ranked.region).collect();
        let (rankings, next) = (&mut self.rankings, count(self.by_ranking.len()));
        *self.by_ranking.entry(order).or_insert_with_key(|order| {
            rankings.push(order.clone());
            next
        })
    }
}

/// There are no more zones and classes than places and rules, which are counted in 32 bits.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
