//! The order in which a client prefers the regions, and by which rule.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::atlas::Location;
use super::codes::{Continent, Country, Subdivision};
use super::coordinates::Coordinates;
use super::special::{Located, located};
use crate::ids::RegionId;

/// A region as geography sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Site {
    /// The region.
    pub region: RegionId,
    /// Where it is; one without a place is nobody's nearest.
    pub at: Option<Coordinates>,
}

/// What goes before distance, in the order of its fields, and what comes when nothing is known.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Preferences {
    /// By the client's network; the longest counts.
    pub prefixes: Vec<(IpNet, Vec<RegionId>)>,
    /// By the autonomous system that announces it.
    pub asns: BTreeMap<u32, Vec<RegionId>>,
    /// By part of a country.
    pub subdivisions: BTreeMap<Subdivision, Vec<RegionId>>,
    /// By country.
    pub countries: BTreeMap<Country, Vec<RegionId>>,
    /// By continent.
    pub continents: BTreeMap<Continent, Vec<RegionId>>,
    /// Whether the nearest comes next.
    pub nearest: bool,
    /// The order when nothing else decides.
    pub default: Vec<RegionId>,
}

/// The regions in a client's order, and the rule that put the first one first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ranking {
    /// The rule.
    pub rule: Rule,
    /// All regions, best first.
    pub regions: Vec<Ranked>,
}

/// A region in a ranking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ranked {
    /// The region.
    pub region: RegionId,
    /// How far it is from the client, if both their places are known.
    pub distance_km: Option<u32>,
}

/// What put a region first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// A rule for the client's network.
    Prefix(IpNet),
    /// A rule for its autonomous system.
    Asn(u32),
    /// A rule for its part of a country.
    Subdivision(Subdivision),
    /// A rule for its country.
    Country(Country),
    /// A rule for its continent.
    Continent(Continent),
    /// It is the nearest.
    Nearest,
    /// Nothing is known of the client, or distance does not count.
    Default,
}

/// The order in which the client `client`, at `location`, prefers `sites`: first those that a
/// rule names for it, then the others by distance, and where that is unknown in the default order.
pub fn rank(
    location: &Location<'_>,
    client: IpAddr,
    sites: &[Site],
    preferences: &Preferences,
) -> Ranking {
    let client = match located(client) {
        Located::V4(ip, _) => IpAddr::V4(ip),
        Located::V6(ip) => IpAddr::V6(ip),
    };
    let by_network = network_rule(Some(client.into()), location.asn, preferences);
    let here = location.place.and_then(|place| place.at);
    let distance = |site: &Site| here.zip(site.at).map(|(here, there)| here.distance_km(there));
    rank_by(location, by_network, sites, preferences, distance)
}

/// The rule for a client's network or autonomous system, and the regions that it names.
pub(super) fn network_rule(
    network: Option<IpNet>,
    asn: Option<u32>,
    preferences: &Preferences,
) -> Option<(Rule, &[RegionId])> {
    let around = |(prefix, _): &&(IpNet, _)| network.is_some_and(|of| prefix.contains(&of));
    let containing = preferences.prefixes.iter().filter(around);
    if let Some((prefix, regions)) = containing.max_by_key(|(prefix, _)| prefix.prefix_len()) {
        return Some((Rule::Prefix(*prefix), regions));
    }
    let asn = asn?;
    let regions = preferences.asns.get(&asn)?;
    Some((Rule::Asn(asn), regions))
}

/// The same, with the rule for the client's network or autonomous system looked up already, and
/// what tells how far a region is.
pub(super) fn rank_by(
    location: &Location<'_>,
    by_network: Option<(Rule, &[RegionId])>,
    sites: &[Site],
    preferences: &Preferences,
    distance_km: impl Fn(&Site) -> Option<u32>,
) -> Ranking {
    let here = location.place.and_then(|place| place.at).filter(|_| preferences.nearest);
    let first = by_network.or_else(|| place_rule(location, preferences));
    let rule = match (&first, here) {
        (Some((rule, _)), _) => *rule,
        (None, Some(_)) => Rule::Nearest,
        (None, None) => Rule::Default,
    };
    let named = first.map_or(&[][..], |(_, regions)| regions);
    let ranked = |site: &Site| Ranked { region: site.region, distance_km: distance_km(site) };
    let mut regions: Vec<Ranked> = sites.iter().map(ranked).collect();
    regions.sort_by_key(|ranked| {
        let distance = ranked.distance_km.filter(|_| here.is_some());
        (
            place_in(named, ranked.region),
            distance.unwrap_or(u32::MAX),
            place_in(&preferences.default, ranked.region),
            ranked.region,
        )
    });
    Ranking { rule, regions }
}

/// The narrowest rule for the client's place.
fn place_rule<'p>(
    location: &Location<'_>,
    preferences: &'p Preferences,
) -> Option<(Rule, &'p [RegionId])> {
    let place = location.place?;
    let by_subdivision = place
        .subdivision
        .and_then(|code| Some((Rule::Subdivision(code), preferences.subdivisions.get(&code)?)));
    let by_country = || {
        let code = place.country?;
        Some((Rule::Country(code), preferences.countries.get(&code)?))
    };
    let by_continent = || {
        let code = place.continent?;
        Some((Rule::Continent(code), preferences.continents.get(&code)?))
    };
    let (rule, regions) = by_subdivision.or_else(by_country).or_else(by_continent)?;
    Some((rule, regions))
}

fn place_in(list: &[RegionId], region: RegionId) -> usize {
    list.iter().position(|listed| *listed == region).unwrap_or(usize::MAX)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => write!(f, "rule for the network {prefix}"),
            Self::Asn(asn) => write!(f, "rule for AS{asn}"),
            Self::Subdivision(code) => write!(f, "rule for the subdivision {code}"),
            Self::Country(code) => write!(f, "rule for the country {code}"),
            Self::Continent(code) => write!(f, "rule for the continent {code}"),
            Self::Nearest => f.write_str("nearest by great-circle distance"),
            Self::Default => f.write_str("default order"),
        }
    }
}
