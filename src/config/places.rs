//! `geoip`, `regions` and `steering`: what is where, and what goes before distance.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;

use super::problem::Place;
use super::read::{At, Problems};
use super::subject::unsayable;
use crate::geo::{Continent, Coordinates, Country, Preferences, Subdivision};
use crate::ids::{RegionId, RegionSet};
use crate::snapshot::Region;
use crate::steer::Service;

/// Where places come from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GeoIp {
    /// GeoIP databases of places, later ones over earlier ones; none: the one in the box.
    pub databases: Vec<PathBuf>,
    /// Those of autonomous systems.
    pub asns: Vec<PathBuf>,
    /// The operator's own geofeed (RFC 8805).
    pub geofeed: Option<PathBuf>,
}

/// The regions, while the rest is read.
#[derive(Debug, Default)]
pub(super) struct Regions {
    pub(super) list: Vec<Region>,
    places: Vec<(Place, String)>,
}

impl Regions {
    /// The region that a text names.
    pub(super) fn find(&self, at: &At<'_>, problems: &mut Problems) -> Option<RegionId> {
        let name = at.text("the name of a region", problems)?;
        self.named(name, (at.place(), &at.key), problems)
    }

    /// The region of this name.
    pub(super) fn id(&self, name: &str) -> Option<RegionId> {
        RegionId::from_index(self.list.iter().position(|region| region.name == name)?)
    }

    pub(super) fn named(
        &self,
        name: &str,
        at: (Place, &str),
        problems: &mut Problems,
    ) -> Option<RegionId> {
        let id = self.id(name);
        if id.is_none() {
            let known = self.list.iter().map(|region| region.name.as_str());
            problems.unknown(at, ("region", name), known);
        }
        id
    }

    /// The regions that a list names, each once.
    pub(super) fn find_all(&self, at: &At<'_>, problems: &mut Problems) -> Vec<RegionId> {
        let mut found = Vec::new();
        for item in at.list() {
            let Some(region) = self.find(&item, problems) else { continue };
            if found.contains(&region) {
                problems.error(item.place(), &item.key, "named twice in this list");
            }
            found.push(region);
        }
        if found.is_empty() && at.list().is_empty() {
            problems.error(at.place(), &at.key, "an empty list; expected regions, best first");
        }
        found
    }

    /// Warns of regions that no service uses.
    pub(super) fn unused(&self, services: &[Service], problems: &mut Problems) {
        let used: RegionSet =
            services.iter().flat_map(|of| of.pools.iter().map(|pool| pool.region)).collect();
        for (row, (at, key)) in self.places.iter().enumerate() {
            if RegionId::from_index(row).is_some_and(|id| !used.contains(id)) {
                problems.warning(*at, key, "no service has an endpoint in this region");
            }
        }
    }
}

/// `regions`: names, places and capacities.
pub(super) fn regions(at: Option<At<'_>>, problems: &mut Problems) -> Regions {
    let mut regions = Regions::default();
    let Some(at) = at else { return regions };
    for (name, place, region) in at.named(problems) {
        if regions.list.len() == RegionSet::CAPACITY {
            let what = format!("more than {} regions", RegionSet::CAPACITY);
            problems.error(place, &at.key, what);
            break;
        }
        if let Some(what) = unsayable(name) {
            problems.error(place, &at.key, what);
        }
        regions.places.push((place, region.key.clone()));
        let mut read = Region { name: name.to_owned(), at: None, capacity: None };
        if let Some(mut fields) = region.fields(problems) {
            read.at = fields.get("at").and_then(|at| coordinates(&at, problems));
            read.capacity = fields.get("capacity").and_then(|at| at.number(1, u64::MAX, problems));
            fields.done(problems);
        }
        regions.list.push(read);
    }
    if regions.list.is_empty() {
        problems.error(at.place(), &at.key, "no region; expected at least one");
    }
    regions
}

fn coordinates(at: &At<'_>, problems: &mut Problems) -> Option<Coordinates> {
    let expected = "degrees north and east, such as [53.35, -6.26]";
    let numbers: Vec<f64> =
        at.list().iter().filter_map(|item| item.parsed(expected, problems)).collect();
    let found = match numbers.as_slice() {
        [latitude, longitude] => Coordinates::new(*latitude, *longitude),
        _ => None,
    };
    if found.is_none() && numbers.len() == at.list().len() {
        let what = format!("no such place; expected {expected}: at most 90 and 180");
        problems.error(at.place(), &at.key, what);
    }
    found
}

/// `geoip`: the files that tell who is where.
pub(super) fn geoip(at: Option<At<'_>>, problems: &mut Problems) -> GeoIp {
    let Some(mut fields) = at.and_then(|at| at.fields(problems)) else { return GeoIp::default() };
    let mut path = |at: &At<'_>| at.path("the path of a file", problems);
    let mut paths = |at: Option<At<'_>>| -> Vec<PathBuf> {
        let items = at.map(|at| at.list()).unwrap_or_default();
        items.iter().filter_map(&mut path).collect()
    };
    let databases = paths(fields.get("database"));
    let asns = paths(fields.get("asn"));
    let geofeed = fields.get("geofeed").and_then(|at| path(&at));
    fields.done(problems);
    GeoIp { databases, asns, geofeed }
}

/// `steering`: what goes before distance, for all services.
pub(super) fn steering(
    at: Option<At<'_>>,
    (regions, geoip): (&Regions, &GeoIp),
    problems: &mut Problems,
) -> Preferences {
    let Some(at) = at else { return Preferences::default() };
    if let Some(asns) = at.find(&["asns"]).filter(|_| geoip.asns.is_empty()) {
        let what =
            "without `geoip.asn` nobody's autonomous system is known: these are not followed";
        problems.warning(asns.place(), &asns.key, what);
    }
    preferences(&at, regions, problems)
}

/// A map of places to regions.
pub(super) fn preferences(at: &At<'_>, regions: &Regions, problems: &mut Problems) -> Preferences {
    let Some(mut fields) = at.fields(problems) else { return Preferences::default() };
    let default = fields.get("default").map(|at| regions.find_all(&at, problems));
    let rules = fields.get("prefixes").map(|at| prefixes(&at, regions, problems));
    let asns = fields.get("asns").map(|at| by_asn(&at, regions, problems));
    let country = |of: &Subdivision| Some(of.country());
    let subdivisions = by_code(fields.get("subdivisions"), country, regions, problems);
    let country = |of: &Country| Some(*of);
    let countries = by_code(fields.get("countries"), country, regions, problems);
    let continents = by_code(fields.get("continents"), |_: &Continent| None, regions, problems);
    fields.done(problems);
    Preferences {
        prefixes: rules.unwrap_or_default(),
        asns: asns.unwrap_or_default(),
        subdivisions,
        countries,
        continents,
        nearest: false,
        default: default.unwrap_or_default(),
    }
}

fn prefixes(
    at: &At<'_>,
    regions: &Regions,
    problems: &mut Problems,
) -> Vec<(IpNet, Vec<RegionId>)> {
    let mut rules: Vec<(IpNet, Vec<RegionId>)> = Vec::new();
    for (text, place, value) in at.named(problems) {
        let list = regions.find_all(&value, problems);
        let what = match text.parse::<IpNet>() {
            Err(_) => "is no network; expected one such as 192.0.2.0/24".to_owned(),
            Ok(net) if net != net.trunc() => {
                format!("has bits behind it; expected {}", net.trunc())
            }
            // Clients of one /64 are in one place: more is not told apart.
            Ok(IpNet::V6(net)) if net.prefix_len() > 64 => "is longer than a /64".to_owned(),
            Ok(net) if rules.iter().any(|(known, _)| *known == net) => "stands twice".to_owned(),
            Ok(net) => {
                rules.push((net, list));
                continue;
            }
        };
        problems.error(place, &at.key, format!("the prefix `{text}` {what}"));
    }
    rules
}

fn by_asn(at: &At<'_>, regions: &Regions, problems: &mut Problems) -> BTreeMap<u32, Vec<RegionId>> {
    let mut rules = BTreeMap::new();
    for (text, place, value) in at.named(problems) {
        let list = regions.find_all(&value, problems);
        match text.strip_prefix("AS").unwrap_or(text).parse::<u32>() {
            Ok(asn) if asn > 0 => insert(&mut rules, asn, list, (text, place, at), problems),
            _ => {
                let what = format!("`{text}` is no autonomous system; expected AS64500 or 64500");
                problems.error(place, &at.key, what);
            }
        }
    }
    rules
}

/// Keeps a rule; no other one stands for the same under another spelling.
fn insert<K: Ord>(
    rules: &mut BTreeMap<K, Vec<RegionId>>,
    key: K,
    list: Vec<RegionId>,
    (text, place, at): (&str, Place, &At<'_>),
    problems: &mut Problems,
) {
    if rules.insert(key, list).is_some() {
        problems.error(place, &at.key, format!("`{text}` stands twice"));
    }
}

fn by_code<C: FromStr<Err: std::fmt::Display> + Ord>(
    at: Option<At<'_>>,
    country: impl Fn(&C) -> Option<Country>,
    regions: &Regions,
    problems: &mut Problems,
) -> BTreeMap<C, Vec<RegionId>> {
    let mut rules = BTreeMap::new();
    let Some(at) = at else { return rules };
    for (text, place, value) in at.named(problems) {
        let list = regions.find_all(&value, problems);
        match text.parse::<C>() {
            Ok(code) => {
                if let Some(doubt) = country(&code).and_then(Country::doubt) {
                    problems.warning(place, &at.key, format!("`{text}`: {doubt}"));
                }
                insert(&mut rules, code, list, (text, place, &at), problems);
            }
            Err(error) => problems.error(place, &at.key, format!("`{text}`: {error}")),
        }
    }
    rules
}
