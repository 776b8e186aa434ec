//! GeoIP databases in the MaxMind DB format, with the schemas that people really have.
//!
//! A file is bytes in memory, verified whole before anything is believed: a file that is mapped
//! can change or shrink under the reader. What a record means is found out from the records:
//!
//! | schema | files | fields |
//! |---|---|---|
//! | nested | GeoIP2, GeoLite2, DB-IP: City and Country | `country.iso_code`, `location.latitude` |
//! | flat | ipinfo, IP2Location, ip-location-db | `country_code`, `latitude` or `lat` or `loc` |
//! | ASN | GeoLite2, DB-IP and ipinfo ASN | `autonomous_system_number` or `asn` |

use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;

use foldhash::fast::RandomState;
use maxminddb::{LookupResult, MaxMindDbError, Reader, WithinOptions};
use serde::Deserialize;
use serde_json::Value;

use super::atlas::Place;
use super::codes::{Country, Subdivision};
use super::coordinates::Coordinates;
use super::networks::{Key, key_v6};
use super::packed::{Packed, Packing};

/// What a database tells.
#[derive(Debug)]
pub struct Database {
    description: Description,
    /// Its distinct records, as far as they are of use, behind one that says nothing.
    records: Vec<Record>,
    /// Of each network the row of its record.
    v4: Packed<u32>,
    v6: Packed<u64>,
}

/// What a database says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// Its type, such as `GeoLite2-City`.
    pub database_type: String,
    /// When it was built, in seconds since the Unix epoch.
    pub build_epoch: u64,
}

/// What records look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Schema {
    /// Maps within maps, as MaxMind has them.
    Nested,
    /// One map with a field for everything.
    Flat,
    /// Autonomous systems, no places.
    Asn,
}

/// Why a file is no database that can be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// There is nothing in it.
    #[error("the file is empty; expected a GeoIP database (.mmdb)")]
    Empty,
    /// Its structure is broken.
    #[error("not an intact GeoIP database (.mmdb): {0}; fetch it again")]
    Broken(#[source] MaxMindDbError),
    /// Its search tree has no end.
    #[error(
        "not an intact GeoIP database (.mmdb): its search tree leads in circles; fetch it again"
    )]
    Circular,
    /// No network has a record.
    #[error("the database has no records; expected networks with places")]
    NoRecords,
    /// Its records are about something else.
    #[error(
        "the records of this database (type {database_type}) have none of the fields that tell \
         a place or an autonomous system; their fields: {fields}"
    )]
    Schema {
        /// What the file says it is.
        database_type: String,
        /// What its first record has.
        fields: String,
    },
    /// A record's fields have the wrong types.
    #[error("a record of this database (type {database_type}) cannot be read: {source}")]
    Record {
        /// What the file says it is.
        database_type: String,
        /// What is wrong.
        source: MaxMindDbError,
    },
    /// It tells something else than what it is to be used for.
    #[error("this database (type {database_type}) tells {found}; expected one that tells {wanted}")]
    Purpose {
        /// What the file says it is.
        database_type: String,
        /// What it tells.
        found: &'static str,
        /// What it should tell.
        wanted: &'static str,
    },
}

impl Database {
    /// Reads a database that tells places.
    ///
    /// # Errors
    /// If `bytes` are not an intact database of that kind.
    pub fn read(bytes: Vec<u8>) -> Result<Self, DatabaseError> {
        Self::read_if(bytes, "places", |schema| schema != Schema::Asn)
    }

    /// Reads a database that tells autonomous systems.
    ///
    /// # Errors
    /// If `bytes` are not an intact database of that kind.
    pub fn read_asns(bytes: Vec<u8>) -> Result<Self, DatabaseError> {
        Self::read_if(bytes, "autonomous systems", |schema| schema != Schema::Nested)
    }

    /// What it says of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    fn read_if(
        bytes: Vec<u8>,
        wanted: &'static str,
        is_wanted: impl Fn(Schema) -> bool,
    ) -> Result<Self, DatabaseError> {
        if bytes.is_empty() {
            return Err(DatabaseError::Empty);
        }
        let reader = Reader::from_source(bytes).map_err(DatabaseError::Broken)?;
        let schema = schema(&reader)?;
        let metadata = reader.metadata();
        let description = Description {
            database_type: metadata.database_type.clone(),
            build_epoch: metadata.build_epoch,
        };
        if !is_wanted(schema) {
            let found = if schema == Schema::Asn { "autonomous systems" } else { "places" };
            let database_type = description.database_type;
            return Err(DatabaseError::Purpose { database_type, found, wanted });
        }
        let (mut v4, mut v6) = (Packing::all(0), Packing::all(0));
        let mut records = vec![Record::default()];
        let mut known: HashMap<usize, u32, RandomState> = HashMap::default();
        for found in leaves(&reader)? {
            let found = found?;
            let Some(offset) = found.offset() else { continue };
            let row = match known.get(&offset) {
                Some(row) => *row,
                None => {
                    let record = record(&found, schema).map_err(|source| {
                        let database_type = description.database_type.clone();
                        DatabaseError::Record { database_type, source }
                    })?;
                    // A search tree counts records in at most 32 bits.
                    let row = u32::try_from(records.len()).unwrap_or(0);
                    records.push(record);
                    known.insert(offset, row);
                    row
                }
            };
            let network = found.network().map_err(DatabaseError::Broken)?;
            let length = u32::from(network.prefix());
            match network.ip() {
                IpAddr::V4(ip) => {
                    let first = u32::from(ip);
                    let last = first | u32::MAX.checked_shr(length).unwrap_or(0);
                    lay(&mut v4, first, last, row);
                }
                IpAddr::V6(ip) => {
                    let first = key_v6(ip);
                    let last = first | u64::MAX.checked_shr(length).unwrap_or(0);
                    lay(&mut v6, first, last, row);
                }
            }
        }
        Ok(Self { description, records, v4: v4.finish(), v6: v6.finish() })
    }

    /// The row that `row_of` gives each network's place.
    pub(super) fn places(&self, row_of: impl FnMut(&Place) -> u32) -> Known<'_> {
        let rows = self.records.iter().map(|record| &record.place).map(row_of).collect();
        Known { v4: &self.v4, v6: &self.v6, rows }
    }

    /// Each network's autonomous system; 0 where none is known.
    pub(super) fn asns(&self) -> Known<'_> {
        let rows = self.records.iter().map(|record| record.asn.unwrap_or(0)).collect();
        Known { v4: &self.v4, v6: &self.v6, rows }
    }
}

/// Networks of a database, by what it knows of them.
pub(super) struct Known<'d> {
    v4: &'d Packed<u32>,
    v6: &'d Packed<u64>,
    /// By row of its records.
    rows: Vec<u32>,
}

impl Known<'_> {
    pub(super) fn v4(&self) -> impl Iterator<Item = (u32, u32)> {
        self.v4.map(|row| self.value(row))
    }

    pub(super) fn v6(&self) -> impl Iterator<Item = (u64, u32)> {
        self.v6.map(|row| self.value(row))
    }

    fn value(&self, row: u32) -> u32 {
        self.rows.get(row as usize).copied().unwrap_or(0)
    }
}

/// Lays the next network, in ascending order, on `steps`.
fn lay<K: Key>(steps: &mut Packing<K>, first: K, last: K, value: u32) {
    steps.push(first, value);
    if let Some(behind) = last.next() {
        steps.push(behind, 0);
    }
}

/// The leaves of a search tree, in ascending order, those without a record too.
fn leaves(
    reader: &Reader<Vec<u8>>,
) -> Result<impl Iterator<Item = Result<Leaf<'_>, DatabaseError>>, DatabaseError> {
    // N nodes have at most 2 N leaves; a tree that has more of them leads in circles.
    let most = reader.metadata().node_count as usize * 3;
    let options = WithinOptions::default().include_networks_without_data();
    let leaves = reader.networks(options).map_err(DatabaseError::Broken)?;
    Ok(leaves.zip(0..).map(move |(leaf, count)| match leaf {
        _ if count > most => Err(DatabaseError::Circular),
        leaf => leaf.map_err(DatabaseError::Broken),
    }))
}

type Leaf<'r> = LookupResult<'r, Vec<u8>>;

/// What the record of a leaf tells.
fn record(leaf: &Leaf<'_>, schema: Schema) -> Result<Record, MaxMindDbError> {
    let record = match schema {
        Schema::Nested => leaf.decode::<Nested>()?.map(Into::into),
        Schema::Flat | Schema::Asn => leaf.decode::<Flat>()?.map(Into::into),
    };
    Ok(record.unwrap_or_default())
}

/// What a record tells.
#[derive(Debug, Default)]
struct Record {
    place: Place,
    asn: Option<u32>,
}

/// Finds out what the records look like: from the first one that has any of the fields.
fn schema(reader: &Reader<Vec<u8>>) -> Result<Schema, DatabaseError> {
    let mut fields = None;
    let mut looked_at = 0;
    for leaf in leaves(reader)? {
        let Some(record) = leaf?.decode::<Value>().map_err(DatabaseError::Broken)? else {
            continue;
        };
        looked_at += 1;
        if looked_at > RECORDS_LOOKED_AT {
            break;
        }
        let is_map = |key: &str| record.get(key).is_some_and(Value::is_object);
        let has = |key: &&str| record.get(*key).is_some_and(|value| !value.is_object());
        if ["country", "continent", "location", "registered_country"].into_iter().any(is_map) {
            return Ok(Schema::Nested);
        }
        if ["country_code", "country", "latitude", "lat", "loc"].iter().any(has) {
            return Ok(Schema::Flat);
        }
        if ["autonomous_system_number", "asn"].iter().any(has) {
            return Ok(Schema::Asn);
        }
        fields.get_or_insert_with(|| match &record {
            Value::Object(map) => map.keys().take(20).cloned().collect::<Vec<_>>().join(", "),
            _ => "none".to_owned(),
        });
    }
    let fields = fields.ok_or(DatabaseError::NoRecords)?;
    Err(DatabaseError::Schema { database_type: reader.metadata().database_type.clone(), fields })
}

/// Some files begin with records that tell little, such as those of reserved networks.
const RECORDS_LOOKED_AT: usize = 1000;

#[derive(Deserialize)]
struct Nested<'r> {
    #[serde(borrow)]
    continent: Option<Coded<'r>>,
    #[serde(borrow)]
    country: Option<Coded<'r>>,
    #[serde(borrow)]
    registered_country: Option<Coded<'r>>,
    #[serde(borrow, default)]
    subdivisions: Vec<Coded<'r>>,
    #[serde(borrow)]
    city: Option<Named<'r>>,
    location: Option<Point>,
}

#[derive(Deserialize)]
struct Coded<'r> {
    #[serde(alias = "code")]
    iso_code: Option<&'r str>,
}

#[derive(Deserialize)]
struct Named<'r> {
    #[serde(borrow)]
    names: Option<English<'r>>,
}

#[derive(Deserialize)]
struct English<'r> {
    en: Option<&'r str>,
}

#[derive(Deserialize)]
struct Point {
    latitude: Option<f64>,
    longitude: Option<f64>,
}

impl From<Nested<'_>> for Record {
    fn from(raw: Nested<'_>) -> Self {
        let code = |coded: Option<Coded<'_>>| coded.and_then(|coded| coded.iso_code?.parse().ok());
        let country: Option<Country> = code(raw.country).or_else(|| code(raw.registered_country));
        let part = raw.subdivisions.first().and_then(|part| part.iso_code);
        let place = Place {
            continent: raw.continent.and_then(|coded| coded.iso_code?.parse().ok()),
            country,
            subdivision: country.zip(part).and_then(|(country, part)| subdivision(country, part)),
            city: raw.city.and_then(|city| city.names?.en).and_then(city),
            at: raw.location.and_then(|point| Coordinates::new(point.latitude?, point.longitude?)),
        };
        Self { place, asn: None }
    }
}

/// A flat record. Numbers are texts in some files, so those fields are looked at afterwards.
#[derive(Deserialize)]
struct Flat<'r> {
    #[serde(alias = "continent")]
    continent_code: Option<&'r str>,
    country_code: Option<&'r str>,
    country: Option<&'r str>,
    #[serde(alias = "region_code")]
    state_code: Option<&'r str>,
    city: Option<&'r str>,
    #[serde(alias = "lat")]
    latitude: Option<Value>,
    #[serde(alias = "lng", alias = "lon")]
    longitude: Option<Value>,
    loc: Option<&'r str>,
    #[serde(alias = "autonomous_system_number")]
    asn: Option<Value>,
}

impl From<Flat<'_>> for Record {
    fn from(raw: Flat<'_>) -> Self {
        // `country` is a code in some files and a name in others.
        let codes = [raw.country_code, raw.country];
        let country: Option<Country> =
            codes.into_iter().flatten().find_map(|code| code.parse().ok());
        let fields = || Some((number(raw.latitude.as_ref()?)?, number(raw.longitude.as_ref()?)?));
        let joined = || {
            let (latitude, longitude) = raw.loc?.split_once(',')?;
            Some((latitude.trim().parse().ok()?, longitude.trim().parse().ok()?))
        };
        let point: Option<(f64, f64)> = fields().or_else(joined);
        let place = Place {
            continent: raw.continent_code.and_then(|code| code.parse().ok()),
            country,
            subdivision: country
                .zip(raw.state_code)
                .and_then(|(country, part)| subdivision(country, part)),
            city: raw.city.and_then(city),
            at: point.and_then(|(latitude, longitude)| Coordinates::new(latitude, longitude)),
        };
        Self { place, asn: raw.asn.as_ref().and_then(as_number) }
    }
}

/// A part's code, with the country's before it or without.
fn subdivision(country: Country, part: &str) -> Option<Subdivision> {
    Subdivision::from_str(part).ok().or_else(|| Subdivision::new(country, part))
}

/// A city's name. Records may share what they point to, and each keeps its own: what is longer than
/// names are is none.
fn city(name: &str) -> Option<Box<str>> {
    (1..=LONGEST_CITY).contains(&name.len()).then(|| name.into())
}

/// In octets.
const LONGEST_CITY: usize = 255;

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// 64500, "64500" or "AS64500".
fn as_number(value: &Value) -> Option<u32> {
    let number = || u32::try_from(value.as_u64()?).ok();
    number().or_else(|| value.as_str()?.trim().trim_start_matches("AS").parse().ok())
}
