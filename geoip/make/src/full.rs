//! What the full files say.

use maxminddb::Reader;
use serde::Deserialize;

/// A record of the full files.
#[derive(Deserialize)]
pub(crate) struct Record<'a> {
    /// The country's code.
    pub(crate) country_code: Option<&'a str>,
    /// Its largest parts.
    pub(crate) state1: Option<&'a str>,
    /// The city.
    pub(crate) city: Option<&'a str>,
    /// Degrees north.
    pub(crate) latitude: Option<f32>,
    /// Degrees east.
    pub(crate) longitude: Option<f32>,
}

impl<'a> Record<'a> {
    /// The country and the coordinates, if there is a place at all.
    pub(crate) fn place(&self) -> Option<(&'a str, (f64, f64))> {
        let country = self.country_code.filter(|code| code.len() == 2 && *code != "ZZ")?;
        Some((country, (self.latitude?.into(), self.longitude?.into())))
    }
}

/// A network of a full file: its first address and its length within the family, and its place.
pub(crate) struct Network<'a> {
    /// The first address.
    pub(crate) first: u128,
    /// The length of its prefix.
    pub(crate) length: u8,
    /// What is there.
    pub(crate) record: Record<'a>,
}

/// All networks of `reader` that have a place, in order, each to `take`.
pub(crate) fn for_each<'r>(
    reader: &'r Reader<Vec<u8>>,
    mut take: impl FnMut(Network<'r>),
) -> Result<(), String> {
    for found in reader.networks(Default::default()).map_err(|error| error.to_string())? {
        let found = found.map_err(|error| error.to_string())?;
        let network = found.network().map_err(|error| error.to_string())?;
        let first = match network.ip() {
            std::net::IpAddr::V4(ip) => u128::from(u32::from(ip)),
            std::net::IpAddr::V6(ip) => u128::from(ip),
        };
        if let Some(record) = found.decode().map_err(|error| error.to_string())? {
            take(Network { first, length: network.prefix(), record });
        }
    }
    Ok(())
}
