//! How often the derived file names the same nearest region as the full ones.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use maxminddb::Reader;
use serde::Deserialize;

use crate::full::{Record, for_each};

/// The regions of Meridian's demo.
const REGIONS: [(f64, f64); 4] =
    [(39.04, -77.49), (45.84, -119.70), (53.35, -6.26), (1.35, 103.82)];

#[derive(Deserialize)]
struct City {
    location: Option<Location>,
}

#[derive(Deserialize)]
struct Location {
    latitude: f64,
    longitude: f64,
}

/// How many were compared, and how many agreed.
#[derive(Default)]
struct Count {
    all: u32,
    agreed: u32,
}

/// Compares `samples` random /24s, and as many random networks of the IPv6 file.
pub(crate) fn compare(
    [v4, v6]: [&Reader<Vec<u8>>; 2],
    made: &Reader<Vec<u8>>,
    samples: u32,
    seed: u64,
) -> Result<String, String> {
    let mut draw = Draw(seed);
    let mut told = String::new();
    let mut networks = Vec::new();
    for_each(v6, |network| networks.push(network.first)).map_err(|error| error.clone())?;
    let any_v4 = |draw: &mut Draw| {
        // Any /24, by an address within it.
        let address = u32::try_from(draw.below(1 << 32)).unwrap_or(0);
        IpAddr::from(Ipv4Addr::from(address))
    };
    let any_v6 = |draw: &mut Draw| {
        let row = usize::try_from(draw.below(networks.len() as u64)).unwrap_or(0);
        IpAddr::from(Ipv6Addr::from(networks[row]))
    };
    let four = tally(v4, made, samples, || any_v4(&mut draw))?;
    tell(&mut told, "IPv4, random /24s", &four);
    let mut draw = Draw(seed);
    let six = tally(v6, made, samples, || any_v6(&mut draw))?;
    tell(&mut told, "IPv6, random networks of the full file", &six);
    Ok(told)
}

fn tally(
    full: &Reader<Vec<u8>>,
    made: &Reader<Vec<u8>>,
    samples: u32,
    mut draw: impl FnMut() -> IpAddr,
) -> Result<BTreeMap<String, Count>, String> {
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    let mut compared = 0;
    while compared < samples {
        let address = draw();
        let Some((country, region)) = by_full(full, address)? else { continue };
        compared += 1;
        let agrees = by_made(made, address)? == Some(region);
        let count = counts.entry(country).or_default();
        count.all += 1;
        count.agreed += u32::from(agrees);
    }
    Ok(counts)
}

fn by_full(full: &Reader<Vec<u8>>, address: IpAddr) -> Result<Option<(String, usize)>, String> {
    let found = full.lookup(address).map_err(|error| error.to_string())?;
    let record: Option<Record<'_>> = found.decode().map_err(|error| error.to_string())?;
    Ok(record.and_then(|record| {
        let region = nearest(record.latitude?.into(), record.longitude?.into());
        Some((record.country_code.filter(|code| *code != "ZZ")?.to_owned(), region))
    }))
}

fn by_made(made: &Reader<Vec<u8>>, address: IpAddr) -> Result<Option<usize>, String> {
    let found = made.lookup(address).map_err(|error| error.to_string())?;
    let city: Option<City> = found.decode().map_err(|error| error.to_string())?;
    Ok(city.and_then(|city| city.location).map(|at| nearest(at.latitude, at.longitude)))
}

fn tell(told: &mut String, title: &str, counts: &BTreeMap<String, Count>) {
    let share = |count: &Count| 100.0 * f64::from(count.agreed) / f64::from(count.all.max(1));
    let total = counts.values().fold(Count::default(), |sum, count| Count {
        all: sum.all + count.all,
        agreed: sum.agreed + count.agreed,
    });
    // Writing to a string does not fail.
    let _fine = writeln!(told, "{title}: {:.2} % of {}", share(&total), total.all);
    let mut largest: Vec<_> = counts.iter().collect();
    largest.sort_by_key(|(_, count)| std::cmp::Reverse(count.all));
    for (country, count) in largest.into_iter().take(10) {
        let _fine = writeln!(told, "  {country}: {:.2} % of {}", share(count), count.all);
    }
}

/// The nearest of the regions on a great circle (haversine).
fn nearest(latitude: f64, longitude: f64) -> usize {
    let distance = |(lat, lon): (f64, f64)| {
        let (a, b) = (latitude.to_radians(), lat.to_radians());
        let (across, along) = (b - a, (lon - longitude).to_radians());
        (across / 2.0).sin().powi(2) + a.cos() * b.cos() * (along / 2.0).sin().powi(2)
    };
    let rows = (0..REGIONS.len()).map(|row| (row, distance(REGIONS[row])));
    rows.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(row, _)| row)
}

/// Numbers that repeat (SplitMix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }
}
