//! Catchments: networks by the order in which their clients prefer the regions.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::atlas::{Atlas, Layers, Location, without_islands};
use super::flat::Flat;
use super::networks::{Key, Span, Steps, both, key_v6, widest};
use super::ranking::{Preferences, Ranking, Rule, Site, rank, rank_by};
use super::special::{Located, located};
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

/// For one set of regions and preferences: every place's class, and every class's order. Networks
/// are the atlas's, for all catchments.
#[derive(Debug)]
pub struct Catchment {
    spec: CatchmentSpec,
    rankings: Vec<Box<[RegionId]>>,
    atlas: Arc<Atlas>,
    /// The class of each place, by its row.
    places: Vec<u32>,
    /// Where rules about networks apply.
    v4: Steps<u32, NetworkRule>,
    v6: Steps<u64, NetworkRule>,
    /// The classes there.
    ruled: HashMap<(NetworkRule, u32), u32>,
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
    /// Orders the regions of `spec` for everybody in `atlas`.
    pub fn build(atlas: &Arc<Atlas>, spec: CatchmentSpec) -> Self {
        let mut classes = Classes::new(atlas, &spec.sites, &spec.preferences);
        let places = atlas.rows().map(|place| classes.class(NetworkRule::None, place)).collect();
        let (prefixes4, prefixes6) = classes.prefix_rules();
        let v4 = classes.rules(&atlas.v4, &prefixes4);
        let v6 = classes.rules(&atlas.v6, &prefixes6);
        let Classes { rankings, known, .. } = classes;
        let ruled = known.into_iter().filter(|((rule, _), _)| *rule != NetworkRule::None);
        let ruled = ruled.collect();
        Self { spec, rankings, atlas: atlas.clone(), places, v4, v6, ruled }
    }

    /// The order of one client, who is at `location`, with its reason.
    pub fn rank(&self, location: &Location<'_>, client: IpAddr) -> Ranking {
        rank(location, client, &self.spec.sites, &self.spec.preferences)
    }

    /// The distinct orders, by class.
    pub fn rankings(&self) -> &[Box<[RegionId]>] {
        &self.rankings
    }

    /// The class of `client`.
    pub fn class(&self, client: IpAddr) -> u32 {
        let (rule, place) = match located(client) {
            Located::V4(ip, _) => (self.v4.get(ip.into()), self.atlas.v4.places.get(ip.into())),
            Located::V6(ip) => (self.v6.get(key_v6(ip)), self.atlas.v6.places.get(key_v6(ip))),
        };
        self.class_of(rule.unwrap_or(NetworkRule::None), place.unwrap_or(0))
    }

    fn class_of(&self, rule: NetworkRule, place: u32) -> u32 {
        let ruled = (rule != NetworkRule::None).then(|| self.ruled.get(&(rule, place)));
        let class = ruled.unwrap_or_else(|| self.places.get(place as usize));
        class.copied().unwrap_or(0)
    }

    /// The map in which each class has the value that `of` gives it: neighbours with the same
    /// value are one.
    pub fn map(&self, of: impl Fn(u32) -> u16) -> NetworkMap {
        let value = |rule, place| of(self.class_of(rule, place));
        let v4 = laid(&self.v4, &self.atlas.v4, value);
        let v6 = laid(&self.v6, &self.atlas.v6, value);
        NetworkMap { v4: Flat::new(&v4), v6: Wide::new(&v6) }
    }
}

/// A value for every network, by the rule that applies to it and its place.
fn laid<K: Key>(
    rules: &Steps<K, NetworkRule>,
    layers: &Layers<K>,
    value: impl Fn(NetworkRule, u32) -> u16,
) -> Steps<K, u16> {
    if let [rule] = *rules.values {
        return layers.places.map(|place| value(rule, place)).collect();
    }
    let both = both(rules.iter(), layers.places.iter());
    both.map(|(start, rule, place)| (start, value(rule, place))).collect()
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

/// The classes found so far.
struct Classes<'a> {
    atlas: &'a Atlas,
    sites: &'a [Site],
    preferences: &'a Preferences,
    rankings: Vec<Box<[RegionId]>>,
    by_ranking: HashMap<Box<[RegionId]>, u32>,
    /// By network rule and place: what ranking depends on.
    known: HashMap<(NetworkRule, u32), u32>,
}

/// A rule that looks at the client's network, if one applies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum NetworkRule {
    None,
    /// A row of [`Preferences::prefixes`].
    Prefix(u32),
    /// An autonomous system in [`Preferences::asns`].
    Asn(u32),
}

impl<'a> Classes<'a> {
    fn new(atlas: &'a Atlas, sites: &'a [Site], preferences: &'a Preferences) -> Self {
        Self {
            atlas,
            sites,
            preferences,
            rankings: Vec::new(),
            by_ranking: HashMap::new(),
            known: HashMap::new(),
        }
    }

    /// Where the rules for prefixes apply.
    fn prefix_rules(&self) -> (Steps<u32, Option<u32>>, Steps<u64, Option<u32>>) {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (row, (prefix, _)) in (0u32..).zip(&self.preferences.prefixes) {
            match Span::of(*prefix) {
                Span::V4(first, last) => v4.push((first, last, Some(row))),
                Span::V6(first, last) => v6.push((first, last, Some(row))),
            }
        }
        (Steps::of_networks(v4, None), Steps::of_networks(v6, None))
    }

    /// Where rules about a family's networks apply; the classes there are known then.
    fn rules<K: Key>(
        &mut self,
        layers: &Layers<K>,
        prefixes: &Steps<K, Option<u32>>,
    ) -> Steps<K, NetworkRule> {
        let asns = &self.preferences.asns;
        let by_asn = layers.asns.iter();
        let by_asn = by_asn.map(|(start, asn)| (start, asns.contains_key(&asn).then_some(asn)));
        let rule = |prefix: Option<u32>, asn: Option<u32>| match (prefix, asn) {
            (Some(row), _) => NetworkRule::Prefix(row),
            (None, Some(asn)) => NetworkRule::Asn(asn),
            (None, None) => NetworkRule::None,
        };
        let rules = both(prefixes.iter(), by_asn);
        let rules = rules.map(|(start, prefix, asn)| (start, rule(prefix, asn)));
        let rules: Steps<K, NetworkRule> = rules.collect();
        if *rules.values != [NetworkRule::None] {
            for (_, rule, place) in both(rules.iter(), layers.places.iter()) {
                self.class(rule, place);
            }
        }
        rules
    }

    fn class(&mut self, network_rule: NetworkRule, place: u32) -> u32 {
        if let Some(class) = self.known.get(&(network_rule, place)) {
            return *class;
        }
        let rule = match network_rule {
            NetworkRule::None => None,
            NetworkRule::Prefix(row) => {
                let rule = self.preferences.prefixes.get(row as usize);
                rule.map(|(prefix, regions)| (Rule::Prefix(*prefix), regions.as_slice()))
            }
            NetworkRule::Asn(asn) => {
                let regions = self.preferences.asns.get(&asn);
                regions.map(|regions| (Rule::Asn(asn), regions.as_slice()))
            }
        };
        let location = self.atlas.location(place);
        let ranking = rank_by(&location, rule, self.sites, self.preferences);
        let order: Box<[RegionId]> = ranking.regions.iter().map(|ranked| ranked.region).collect();
        // There are no more classes than places and rules, which are counted in 32 bits each.
        let next = u32::try_from(self.rankings.len()).unwrap_or(u32::MAX);
        let rankings = &mut self.rankings;
        let class = *self.by_ranking.entry(order).or_insert_with_key(|order| {
            rankings.push(order.clone());
            next
        });
        self.known.insert((network_rule, place), class);
        class
    }
}
