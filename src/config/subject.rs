//! What operators name when they speak of a part of the whole.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::ids::{RegionId, ServiceId};
use crate::snapshot::Region;
use crate::steer::{Scope, Service};

/// What a word is about, as operators name it: `eu-west`, `web/eu-west` or `192.0.2.10`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Subject {
    /// A region.
    Region(String),
    /// A service's region.
    Pool(String, String),
    /// An address.
    Address(IpAddr),
}

/// What is wrong with the name of a region or a service, if a [`Subject`] cannot name it, or a
/// list of names.
pub(super) fn unsayable(name: &str) -> Option<String> {
    let breaks = |of: char| of.is_control() || matches!(of, '/' | ',' | '"' | '\'' | '`' | '\\');
    let is_odd = name.trim() != name || name.is_empty() || name.contains(breaks);
    (is_odd || name.parse::<IpAddr>().is_ok()).then(|| {
        format!(
            "`{}` given; expected a name such as eu-west, which is no address and has no `/`, no \
             comma, no quote and no control character in it",
            name.replace(char::is_control, "\u{fffd}")
        )
    })
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(ip) = text.parse() {
            return Ok(Self::Address(ip));
        }
        match text.rsplit_once('/') {
            Some((service, region)) if !service.is_empty() && !region.is_empty() => {
                Ok(Self::Pool(service.to_owned(), region.to_owned()))
            }
            None if !text.is_empty() => Ok(Self::Region(text.to_owned())),
            _ => Err(format!("`{text}`: expected REGION, SERVICE/REGION or an address")),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region(region) => f.write_str(region),
            Self::Pool(service, region) => write!(f, "{service}/{region}"),
            Self::Address(ip) => ip.fmt(f),
        }
    }
}

impl Subject {
    /// What it is among these.
    ///
    /// # Errors
    /// It names nothing; and what there is.
    pub fn among(&self, regions: &[Region], services: &[Service]) -> Result<Scope, String> {
        let region = |name: &str| {
            let row = regions.iter().position(|region| region.name == name);
            row.and_then(RegionId::from_index).ok_or_else(|| {
                let known = regions.iter().map(|region| region.name.as_str());
                format!("no region `{name}`; there are: {}", known.collect::<Vec<_>>().join(", "))
            })
        };
        match self {
            Self::Region(name) => Ok(Scope::Region(region(name)?)),
            Self::Pool(service, name) => {
                let found = services.iter().enumerate().find(|(_, of)| of.name == *service);
                let id = |(row, of)| Some((ServiceId::from_index(row)?, of));
                let Some((id, found)) = found.and_then(id) else {
                    let known = services.iter().map(|service| service.name.as_str());
                    let known = known.collect::<Vec<_>>().join(", ");
                    return Err(format!("no service `{service}`; there are: {known}"));
                };
                let region = region(name)?;
                if !found.pools.iter().any(|pool| pool.region == region) {
                    return Err(format!("the service {service} has no endpoint in {name}"));
                }
                Ok(Scope::Pool(id, region))
            }
            Self::Address(ip) => {
                let mut pools = services.iter().flat_map(|service| &service.pools);
                let is_there =
                    pools.any(|pool| pool.endpoints.iter().any(|of| of.address.ip() == Some(*ip)));
                is_there.then_some(Scope::Address(*ip)).ok_or(format!("no endpoint has {ip}"))
            }
        }
    }
}
