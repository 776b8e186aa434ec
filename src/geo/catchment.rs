//! Catchments: networks by the order in which their clients prefer the regions.

use std::collections::HashMap;
use std::net::IpAddr;

use super::atlas::{Atlas, Layers, Location, without_islands};
use super::flat::Flat;
use super::networks::{Key, Span, Steps, key_v6, widest};
use super::ranking::{Preferences, Ranking, Rule, Site, rank, rank_by};
use super::special::{Located, located};
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
    v4: Steps<u32, u32>,
    v6: Steps<u64, u32>,
}

/// A value for every address, with the widest network for which it is true.
#[derive(Debug)]
pub struct NetworkMap {
    v4: Flat,
    v6: Steps<u64, u16>,
}

impl Catchment {
    /// Orders the regions of `spec` for everybody in `atlas`.
    pub fn build(atlas: &Atlas, spec: CatchmentSpec) -> Self {
        let mut classes = Classes::new(atlas, &spec.sites, &spec.preferences);
        let (prefixes4, prefixes6) = classes.prefix_rules();
        let v4 = classes.of_layers(&atlas.v4, &prefixes4);
        let v6 = classes.of_layers(&atlas.v6, &prefixes6);
        let rankings = classes.rankings;
        Self { spec, rankings, v4, v6 }
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
        let class = match located(client) {
            Located::V4(ip, _) => self.v4.get(ip.into()),
            Located::V6(ip) => self.v6.get(key_v6(ip)),
        };
        class.unwrap_or(0)
    }

    /// The map in which each class has the value that `of` gives it: neighbours with the same
    /// value are one.
    pub fn map(&self, mut of: impl FnMut(u32) -> u16) -> NetworkMap {
        NetworkMap { v4: Flat::new(&self.v4.map(&mut of)), v6: self.v6.map(&mut of) }
    }
}

impl NetworkMap {
    /// The value of `client`, and the length of the widest prefix around it, in its own family,
    /// in which every client has that value.
    pub fn lookup(&self, client: IpAddr) -> (u16, u8) {
        match located(client) {
            Located::V4(ip, before) => {
                let (value, prefix) = self.v4.get(ip.into());
                (value, before + prefix)
            }
            Located::V6(ip) => {
                let key = key_v6(ip);
                let row = self.v6.row(key);
                let (first, behind) = without_islands(key, self.v6.bounds(row));
                (self.v6.value(row).unwrap_or(0), widest(key, first, behind))
            }
        }
    }

    /// How many IPv4 addresses have each value, by value.
    pub fn addresses_v4(&self) -> Vec<u64> {
        self.v4.addresses()
    }
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

    /// The class of every network of a family.
    fn of_layers<K: Key>(
        &mut self,
        layers: &Layers<K>,
        prefixes: &Steps<K, Option<u32>>,
    ) -> Steps<K, u32> {
        let asns = &self.preferences.asns;
        let by_asn = layers.asns.map(|asn| asns.contains_key(&asn).then_some(asn));
        let rules = prefixes.with(&by_asn, |prefix, asn| match (prefix, asn) {
            (Some(row), _) => NetworkRule::Prefix(row),
            (None, Some(asn)) => NetworkRule::Asn(asn),
            (None, None) => NetworkRule::None,
        });
        rules.with(&layers.places, |rule, place| self.class(rule, place))
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
