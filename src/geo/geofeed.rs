//! Geofeeds: what an operator says of where its networks are (RFC 8805).

use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::atlas::Place;
use super::codes::{Country, Subdivision};

/// Networks and their places, by the operator's word.
#[derive(Clone, Debug, Default)]
pub struct Geofeed {
    entries: Vec<(IpNet, Place)>,
    /// What looks wrong in it, by line.
    pub doubts: Vec<(usize, String)>,
}

/// A line that cannot be accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct GeofeedError {
    /// Its number; the first is 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: GeofeedFault,
}

/// What is wrong with a line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GeofeedFault {
    /// The first field is no network.
    #[error("`{0}` is no network; expected an address and a prefix length, such as 192.0.2.0/24")]
    Network(String),
    /// Bits are set behind the prefix.
    #[error("`{0}` has bits set behind its prefix; expected {1}")]
    HostBits(String, IpNet),
    /// The second field is no country.
    #[error("`{0}` is no country; expected two letters (ISO 3166-1), or nothing")]
    Country(String),
    /// The third field is no part of the country.
    #[error("`{0}` is no subdivision; expected a code such as US-CA (ISO 3166-2), or nothing")]
    Subdivision(String),
    /// The network stands in an earlier line.
    #[error("{0} is in line {1} already; a network has one place")]
    Twice(IpNet, usize),
    /// There are more lines than are read.
    #[error("more than {0} lines; a feed of this size is not an operator's own")]
    TooLong(usize),
}

/// The most lines that are read: more than any published feed has.
const MOST_LINES: usize = 1_000_000;

impl Geofeed {
    /// Reads a feed: lines of network, country, subdivision, city and postal code.
    ///
    /// # Errors
    /// Every line that cannot be accepted; then nothing is.
    pub fn parse(text: &str) -> Result<Self, Vec<GeofeedError>> {
        let (mut entries, mut doubts) = (Vec::new(), Vec::new());
        let mut errors = Vec::new();
        let mut seen: HashMap<IpNet, usize> = HashMap::new();
        for (line, content) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
            if line > MOST_LINES {
                errors.push(GeofeedError { line, fault: GeofeedFault::TooLong(MOST_LINES) });
                break;
            }
            // RFC 8805 §2.1.2: comments begin with #, and empty lines are passed over.
            let content = content.split('#').next().unwrap_or("").trim();
            if content.is_empty() {
                continue;
            }
            match entry(content) {
                Ok((network, place)) => match seen.insert(network, line) {
                    None => {
                        let country = place.subdivision.map(Subdivision::country);
                        let doubt = place.country.or(country).and_then(Country::doubt);
                        doubts.extend(doubt.map(|doubt| (line, doubt)));
                        entries.push((network, place));
                    }
                    Some(first) => {
                        let fault = GeofeedFault::Twice(network, first);
                        errors.push(GeofeedError { line, fault });
                    }
                },
                Err(fault) => errors.push(GeofeedError { line, fault }),
            }
        }
        if errors.is_empty() { Ok(Self { entries, doubts }) } else { Err(errors) }
    }

    /// The networks and their places.
    pub fn entries(&self) -> impl Iterator<Item = (IpNet, &Place)> {
        self.entries.iter().map(|(network, place)| (*network, place))
    }
}

fn entry(line: &str) -> Result<(IpNet, Place), GeofeedFault> {
    let mut fields = line.split(',').map(str::trim);
    let prefix = fields.next().unwrap_or("");
    let network = IpNet::from_str(prefix).or_else(|_| prefix.parse::<IpAddr>().map(IpNet::from));
    let network = network.map_err(|_| GeofeedFault::Network(prefix.to_owned()))?;
    if network != network.trunc() {
        return Err(GeofeedFault::HostBits(prefix.to_owned(), network.trunc()));
    }
    let country = fields.next().filter(|code| !code.is_empty());
    let country: Option<Country> = country
        .map(|code| code.parse().map_err(|_| GeofeedFault::Country(code.to_owned())))
        .transpose()?;
    let subdivision = fields.next().filter(|code| !code.is_empty());
    let subdivision: Option<Subdivision> = subdivision
        .map(|code| code.parse().map_err(|_| GeofeedFault::Subdivision(code.to_owned())))
        .transpose()?;
    let city = fields.next().filter(|city| !city.is_empty()).map(Box::from);
    Ok((network, Place { country, subdivision, city, continent: None, at: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_is_read_and_its_comments_are_not() {
        let text = "# our networks\n192.0.2.0/24,US,US-CA,San Jose,\n\n2001:db8::/32,FR,,,\n";
        let feed = Geofeed::parse(text).unwrap();
        let printed: Vec<String> = feed
            .entries()
            .map(|(network, place)| format!("{network} {:?} {:?}", place.country, place.city))
            .collect();
        assert_eq!(
            printed,
            ["192.0.2.0/24 Some(US) Some(\"San Jose\")", "2001:db8::/32 Some(FR) None"]
        );
    }

    #[test]
    fn a_country_that_there_is_not_is_doubted() {
        let feed = Geofeed::parse("192.0.2.0/25,UK,,London\n192.0.2.128/25,GB\n").unwrap();
        let doubt = "ISO 3166-1 has no country UK, so no client is there; the United Kingdom is GB";
        assert_eq!(feed.doubts, [(1, doubt.to_owned())]);
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let text = "nonsense,US\n192.0.2.1/24,US\n192.0.2.0/24,USA\n10.0.0.0/8,US,California\n\
                    10.0.0.0/9,US\n10.0.0.0/9,US\n";
        let errors = Geofeed::parse(text).unwrap_err();
        let printed: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            printed,
            [
                "line 1: `nonsense` is no network; expected an address and a prefix length, \
                 such as 192.0.2.0/24",
                "line 2: `192.0.2.1/24` has bits set behind its prefix; expected 192.0.2.0/24",
                "line 3: `USA` is no country; expected two letters (ISO 3166-1), or nothing",
                "line 4: `California` is no subdivision; expected a code such as US-CA \
                 (ISO 3166-2), or nothing",
                "line 6: 10.0.0.0/9 is in line 5 already; a network has one place",
            ]
        );
    }
}
