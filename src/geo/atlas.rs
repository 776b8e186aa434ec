//! Who is where: databases, a geofeed and the special networks, in one map.

use std::collections::HashMap;
use std::iter;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::codes::{Continent, Country, Subdivision};
use super::coordinates::Coordinates;
use super::database::{Database, Known};
use super::geofeed::Geofeed;
use super::networks::{Bounds, Key, Spans, Steps, both, key_v6, widest};
use super::packed::Packed;
use super::special::{ISLANDS, Located, PRIVATE, located};

/// What is known of a place.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Place {
    /// Its continent.
    pub continent: Option<Continent>,
    /// Its country.
    pub country: Option<Country>,
    /// The part of the country.
    pub subdivision: Option<Subdivision>,
    /// The city's name, in English if the source has it.
    pub city: Option<Box<str>>,
    /// Where it is.
    pub at: Option<Coordinates>,
}

/// How a place is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// From the GeoIP database.
    Database,
    /// From the operator's geofeed (RFC 8805).
    Geofeed,
    /// The address is not on the Internet.
    Private,
    /// It is not known.
    Unlocated,
}

/// Where a client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location<'a> {
    /// The place, if it is known.
    pub place: Option<&'a Place>,
    /// The autonomous system that announces the client's network, if it is known.
    pub asn: Option<u32>,
    /// The widest network around the client that is all in this place.
    pub network: IpNet,
    /// How that is known.
    pub source: Source,
}

/// What an atlas is made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'a> {
    /// Networks by place; what a later one knows goes before what an earlier one does.
    pub places: &'a [Database],
    /// Networks by autonomous system, likewise.
    pub asns: &'a [Database],
    /// The operator's own word about networks, which goes before the databases'.
    pub geofeed: Option<&'a Geofeed>,
}

/// Who is where.
#[derive(Debug)]
pub struct Atlas {
    entries: Vec<Entry>,
    pub(super) v4: Layers<u32>,
    pub(super) v6: Layers<u64>,
}

/// One family's networks, by row of [`Atlas::entries`] and by autonomous system (0: not known).
#[derive(Debug)]
pub(super) struct Layers<K> {
    pub(super) places: Packed<K>,
    pub(super) asns: Packed<K>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Entry {
    place: Option<Place>,
    source: Source,
}

/// Rows of [`Atlas::entries`] that are always there.
const UNLOCATED: u32 = 0;
const PRIVATE_ROW: u32 = 1;

impl Atlas {
    /// The map that `sources` draw. Without any, nobody is located.
    pub fn build(sources: Sources<'_>) -> Self {
        let mut entries = Entries::new();
        let places = sources.places.iter();
        let places: Vec<Known<'_>> = places
            .map(|database| database.places(|place| entries.row(place, Source::Database)))
            .collect();
        let private = PRIVATE.iter().filter_map(|network| network.parse().ok());
        let private = Spans::new(private.map(|network| (network, PRIVATE_ROW)));
        let feed = sources.geofeed.map(|feed| completed(feed, &entries.list)).unwrap_or_default();
        let feed = feed.iter().map(|(of, place)| (*of, entries.row(place, Source::Geofeed)));
        let feed = Spans::new(feed);
        let asns: Vec<Known<'_>> = sources.asns.iter().map(Database::asns).collect();
        let v4 = over(over(layered(places.iter().map(Known::v4)), &private.v4), &feed.v4);
        let v6 = over(over(layered(places.iter().map(Known::v6)), &private.v6), &feed.v6);
        let (v4, v6) = (v4.collect(), v6.collect());
        let asns4 = layered(asns.iter().map(Known::v4)).collect();
        let asns6 = layered(asns.iter().map(Known::v6)).collect();
        Self {
            entries: entries.list,
            v4: Layers { places: v4, asns: asns4 },
            v6: Layers { places: v6, asns: asns6 },
        }
    }

    /// Where `client` is.
    pub fn locate(&self, client: IpAddr) -> Location<'_> {
        let (entry, asn, network) = match located(client) {
            Located::V4(ip, _) => {
                let key = u32::from(ip);
                let (row, length) = self.v4.find(key);
                let network = Ipv4Net::new(ip, length).map(|net| IpNet::V4(net.trunc()));
                (row, self.v4.asns.get(key), network)
            }
            Located::V6(ip) => {
                let key = key_v6(ip);
                let (row, length) = self.v6.find(key);
                let network = Ipv6Net::new(ip, length).map(|net| IpNet::V6(net.trunc()));
                (row, self.v6.asns.get(key), network)
            }
        };
        Location {
            asn: asn.filter(|asn| *asn != 0),
            network: network.unwrap_or_else(|_| IpNet::from(client)),
            ..self.location(entry)
        }
    }

    /// The rows of all places, known or not.
    pub(super) fn rows(&self) -> impl Iterator<Item = u32> + use<> {
        (0_u32..).take(self.entries.len())
    }

    /// What is known of the place in this row, whoever is there.
    pub(super) fn location(&self, row: u32) -> Location<'_> {
        let entry = self.entries.get(row as usize);
        Location {
            place: entry.and_then(|entry| entry.place.as_ref()),
            asn: None,
            network: IpNet::default(),
            source: entry.map_or(Source::Unlocated, |entry| entry.source),
        }
    }
}

impl<K: Key> Layers<K> {
    /// The place of `key`, and the length of the widest network around it that is all there.
    fn find(&self, key: K) -> (u32, u8) {
        let (row, (first, behind)) = self.places.find(key).unwrap_or((UNLOCATED, (None, None)));
        (row, widest(key, first, behind))
    }
}

/// Steps in ascending order, from the first key on.
type Layer<'l, K> = Box<dyn Iterator<Item = (K, u32)> + 'l>;

/// The later above the earlier, where it is not 0.
fn layered<'l, K: Key + 'l>(
    layers: impl Iterator<Item = impl Iterator<Item = (K, u32)> + 'l>,
) -> Layer<'l, K> {
    let nowhere: Layer<'l, K> = Box::new(iter::once((K::FIRST, 0)));
    layers.fold(nowhere, |below, above| {
        let upper = |(start, below, above)| (start, if above == 0 { below } else { above });
        Box::new(both(below, above).map(upper))
    })
}

/// Networks over what is there.
fn over<'l, K: Key + 'l>(below: Layer<'l, K>, spans: &'l Steps<K, Option<u32>>) -> Layer<'l, K> {
    let upper = |(start, below, above): (K, u32, Option<u32>)| (start, above.unwrap_or(below));
    Box::new(both(below, spans.iter()).map(upper))
}

/// Distinct places, each in one row.
struct Entries {
    list: Vec<Entry>,
    rows: HashMap<Entry, u32>,
}

impl Entries {
    fn new() -> Self {
        let mut entries = Self { list: Vec::new(), rows: HashMap::new() };
        entries.add(Entry { place: None, source: Source::Unlocated });
        entries.add(Entry { place: None, source: Source::Private });
        entries
    }

    /// The row of a place. One of which nothing is known is nowhere.
    fn row(&mut self, place: &Place, source: Source) -> u32 {
        if *place == Place::default() {
            return UNLOCATED;
        }
        self.add(Entry { place: Some(place.clone()), source })
    }

    fn add(&mut self, entry: Entry) -> u32 {
        if let Some(row) = self.rows.get(&entry) {
            return *row;
        }
        // A database has fewer than 2³² records: its search tree counts them in at most 32 bits.
        let row = u32::try_from(self.list.len()).unwrap_or(UNLOCATED);
        self.rows.insert(entry.clone(), row);
        self.list.push(entry);
        row
    }
}

/// Within what two places are alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Alike<'p> {
    Country,
    Subdivision(Option<Subdivision>),
    City(Option<Subdivision>, Option<&'p str>),
}

impl<'p> Alike<'p> {
    /// What another place may have in common with this one, the most first.
    fn all(Place { subdivision, city, .. }: &'p Place) -> [Self; 3] {
        let city = Self::City(*subdivision, city.as_deref());
        [city, Self::Subdivision(*subdivision), Self::Country]
    }
}

/// A geofeed's places have no coordinates: they and the continent are those of the database's
/// first place in the same city, else subdivision, else country, that has coordinates; else of
/// one that has none.
fn completed(feed: &Geofeed, known: &[Entry]) -> Vec<(IpNet, Place)> {
    let mut firsts: HashMap<(bool, Country, Alike<'_>), &Place> = HashMap::new();
    for place in known.iter().filter_map(|entry| entry.place.as_ref()) {
        let Some(country) = place.country else { continue };
        for within in Alike::all(place) {
            firsts.entry((place.at.is_some(), country, within)).or_insert(place);
        }
    }
    let complete = |place: &Place| {
        let country = place.country?;
        let keys =
            [true, false].map(|is_at| Alike::all(place).map(|within| (is_at, country, within)));
        let best = keys.as_flattened().iter().find_map(|key| firsts.get(key))?;
        Some(Place { continent: best.continent, at: best.at, ..place.clone() })
    };
    feed.entries()
        .map(|(of, place)| (of, complete(place).unwrap_or_else(|| place.clone())))
        .collect()
}

/// What lies outside the step of `key` in IPv6: also where addresses begin that hold an IPv4
/// address, and are located by that.
pub(super) fn without_islands(key: u64, (mut first, mut behind): Bounds<u64>) -> Bounds<u64> {
    for (start, end) in ISLANDS {
        if end < key {
            first = Some(first.map_or(end + 1, |first| first.max(end + 1)));
        } else if key < start {
            behind = Some(behind.map_or(start, |behind| behind.min(start)));
        }
    }
    (first, behind)
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Database => "GeoIP database",
            Self::Geofeed => "geofeed",
            Self::Private => "not on the Internet",
            Self::Unlocated => "not located",
        })
    }
}
