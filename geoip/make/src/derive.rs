//! From cities to places that are coarse enough to fit in the box.
//!
//! A small country is one place. A large one is divided by its states, and those by a grid, so
//! that no place is wider than a few hundred kilometres. A place lies where its addresses are on
//! average. A network smaller than a /24 (IPv6: /40) goes where most of its /24 (/40) is.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use maxminddb::Reader;
use meridian_geoip_make::{Value, Writer};

use crate::full::{Network, for_each};
use codes::continent;

mod codes;

/// Countries that are divided: those wider than about 1,000 km.
const LARGE: &[&str] = &[
    "AO", "AR", "AU", "BO", "BR", "CA", "CD", "CL", "CN", "CO", "DZ", "EG", "ET", "ID", "IN", "IR",
    "KZ", "LY", "ML", "MN", "MX", "MZ", "NE", "NG", "NO", "PE", "PK", "RU", "SA", "SD", "SE", "TD",
    "TR", "TZ", "US", "VE", "ZA",
];

/// Degrees of latitude and longitude in a cell of the grid.
const CELL: f64 = 4.0;

/// The longest prefixes that are kept: see the module.
const FINEST_V4: u8 = 24;
const FINEST_V6: u8 = 40;

/// A place as it is told apart.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place<'a> {
    country: &'a str,
    state: Option<&'a str>,
    cell: Option<(i32, i32)>,
}

/// Where the addresses of a place are on average.
#[derive(Default)]
struct Middle {
    weight: f64,
    latitude: f64,
    longitude: f64,
}

/// The derived file.
pub(crate) fn make(v4: &Reader<Vec<u8>>, v6: &Reader<Vec<u8>>) -> Result<Vec<u8>, String> {
    let mut drawn = Drawn::default();
    drawn.draw(v4, FINEST_V4, |first, length| {
        let first = Ipv4Addr::from(u32::try_from(first).unwrap_or(0));
        Ipv4Net::new(first, length).ok().map(IpNet::V4)
    })?;
    drawn.draw(v6, FINEST_V6, |first, length| {
        Ipv6Net::new(Ipv6Addr::from(first), length).ok().map(IpNet::V6)
    })?;
    let description = "IP Geolocation by DB-IP (https://db-ip.com), CC BY 4.0; coarser than the \
                       original: see geoip/README.md of Meridian";
    let mut writer = Writer::new("Meridian-City", description, v4.metadata().build_epoch);
    let values = drawn.places.iter().map(|(place, middle)| {
        let round = |sum: f64| (sum / middle.weight * 100.0).round() / 100.0;
        let at = (round(middle.latitude), round(middle.longitude));
        value(place.country, place.state, None, at)
    });
    let values: Vec<Value> = values.collect();
    for (network, place) in &drawn.networks {
        writer.insert(*network, &values[*place]);
    }
    Ok(writer.finish())
}

/// Coarse places and the networks in them.
#[derive(Default)]
struct Drawn<'a> {
    places: Vec<(Place<'a>, Middle)>,
    rows: HashMap<Place<'a>, usize>,
    networks: Vec<(IpNet, usize)>,
}

impl<'a> Drawn<'a> {
    fn draw(
        &mut self,
        reader: &'a Reader<Vec<u8>>,
        finest: u8,
        network: impl Fn(u128, u8) -> Option<IpNet>,
    ) -> Result<(), String> {
        let bits = if finest == FINEST_V4 { 32 } else { 128 };
        // The places of the block that is too small to keep its parts, and how much of it each has.
        let mut block: Option<(u128, HashMap<usize, u128>)> = None;
        let mut kept = Vec::new();
        for_each(reader, |part| {
            let Some(row) = self.row(&part) else { return };
            let mask = u128::MAX << (bits - finest);
            let start = part.first & mask;
            if block.as_ref().is_some_and(|(known, _)| *known != start) {
                kept.extend(block.take().and_then(largest).map(|(at, row)| (at, finest, row)));
            }
            if part.length <= finest {
                kept.push((part.first, part.length, row));
            } else {
                let (_, shares) = block.get_or_insert_with(|| (start, HashMap::new()));
                *shares.entry(row).or_default() += 1 << (bits - part.length);
            }
        })?;
        kept.extend(block.take().and_then(largest).map(|(at, row)| (at, finest, row)));
        let networks = kept.into_iter();
        self.networks.extend(
            networks.filter_map(|(first, length, row)| Some((network(first, length)?, row))),
        );
        Ok(())
    }

    /// The row of the place that a network is in.
    fn row(&mut self, network: &Network<'a>) -> Option<usize> {
        let record = &network.record;
        let (country, (latitude, longitude)) = record.place()?;
        let is_large = LARGE.contains(&country);
        let cell = |degrees: f64| {
            #[expect(clippy::cast_possible_truncation, reason = "degrees are small numbers")]
            let cell = (degrees / CELL).floor() as i32;
            cell
        };
        let place = Place {
            country,
            state: record.state1.filter(|_| is_large),
            cell: is_large.then(|| (cell(latitude), cell(longitude))),
        };
        let row = *self.rows.entry(place.clone()).or_insert_with(|| {
            self.places.push((place, Middle::default()));
            self.places.len() - 1
        });
        // In IPv6 a /48 counts as one: as addresses they would outweigh all of IPv4.
        let weight = 2f64.powi(if network.first > u128::from(u32::MAX) {
            (48 - i32::from(network.length)).clamp(0, 16)
        } else {
            32 - i32::from(network.length)
        });
        let middle = &mut self.places[row].1;
        middle.weight += weight;
        middle.latitude += weight * latitude;
        middle.longitude += weight * longitude;
        Some(row)
    }
}

/// The place that has most of a block; of equals the first.
fn largest((start, shares): (u128, HashMap<usize, u128>)) -> Option<(u128, usize)> {
    let (row, _) = shares.into_iter().max_by_key(|(row, share)| (*share, usize::MAX - row))?;
    Some((start, row))
}

/// A place in the schema of GeoLite2 City.
pub(crate) fn value(
    country: &str,
    state: Option<&str>,
    city: Option<&str>,
    (latitude, longitude): (f64, f64),
) -> Value {
    let mut entries = Vec::new();
    let mut entry = |key: &str, value| entries.push((key.to_owned(), value));
    let names = |name| ("names", Value::map([("en", Value::text(name))]));
    if let Some(city) = city {
        entry("city", Value::map([names(city)]));
    }
    if let Some(continent) = continent(country) {
        entry("continent", Value::map([("code", Value::text(continent))]));
    }
    entry("country", Value::map([("iso_code", Value::text(country))]));
    let at = [("latitude", latitude), ("longitude", longitude)];
    entry("location", Value::map(at.map(|(key, degrees)| (key, Value::Double(degrees)))));
    if let Some(state) = state {
        let names = names(state);
        let subdivision = match codes::code(country, state) {
            Some(code) => Value::map([("iso_code", Value::text(code)), names]),
            None => Value::map([names]),
        };
        entry("subdivisions", Value::Array(vec![subdivision]));
    }
    Value::Map(entries)
}
