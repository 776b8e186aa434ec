//! What operators have said, by names; what it means for the configuration that is served; and
//! what it would do.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::config::Config;
use crate::ids::{RegionId, ServiceId};
use crate::snapshot::{Plan, Snapshot};
use crate::steer::{Basis, Facts, Family, Override, Overrides, Ramp, Scope, Word};
use crate::time::Instant;

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

/// An operator's word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// What it is about.
    pub subject: Subject,
    /// What is said.
    pub word: Word,
    /// Why.
    pub reason: String,
    /// Who says so.
    pub owner: String,
    /// Since when.
    pub since: Instant,
    /// Until when.
    pub until: Option<Instant>,
    /// How fast it reaches all clients.
    pub ramp: Option<Ramp>,
}

impl Said {
    /// What it means in `config`; `None`: nothing, as it names nothing there.
    fn resolve(&self, config: &Config) -> Option<Override> {
        let Self { word, since, until, ramp, .. } = *self;
        let scope = scope(&self.subject, config).ok()?;
        Some(Override { scope, word, since, until, ramp })
    }
}

/// What all of `said` means in `config`.
pub(super) fn resolve(said: &[Said], config: &Config) -> Overrides {
    said.iter().filter_map(|said| said.resolve(config)).collect()
}

/// What `subject` is in `config`.
///
/// # Errors
/// It names nothing; and what there is.
pub(super) fn scope(subject: &Subject, config: &Config) -> Result<Scope, String> {
    let region = |name: &str| {
        config.region(name).ok_or_else(|| {
            let known = config.regions.iter().map(|region| region.name.as_str());
            format!("no region `{name}`; there are: {}", known.collect::<Vec<_>>().join(", "))
        })
    };
    match subject {
        Subject::Region(name) => Ok(Scope::Region(region(name)?)),
        Subject::Pool(service, name) => {
            let id = config.service(service);
            let found = id.and_then(|id| Some((id, config.services.get(id.index())?)));
            let Some((id, found)) = found else {
                let known = config.services.iter().map(|service| service.name.as_str());
                let known = known.collect::<Vec<_>>().join(", ");
                return Err(format!("no service `{service}`; there are: {known}"));
            };
            let region = region(name)?;
            if !found.pools.iter().any(|pool| pool.region == region) {
                return Err(format!("the service {service} has no endpoint in {name}"));
            }
            Ok(Scope::Pool(id, region))
        }
        Subject::Address(ip) => {
            let mut pools = config.services.iter().flat_map(|service| &service.pools);
            let is_there =
                pools.any(|pool| pool.endpoints.iter().any(|of| of.address.ip() == Some(*ip)));
            is_there.then_some(Scope::Address(*ip)).ok_or(format!("no endpoint has {ip}"))
        }
    }
}

/// What a word would do.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Impact {
    /// The services that would have nothing left that is up and not drained, and have it now.
    pub left_with_nothing: Vec<String>,
    /// Of each region the share of clients before and after, by service.
    pub shares: Vec<Share>,
}

/// How much of a service's clients a region gets.
#[derive(Clone, PartialEq, Debug)]
pub struct Share {
    /// The service.
    pub service: String,
    /// The kind of answer.
    pub family: Family,
    /// The region; `None`: the answer is in none.
    pub region: Option<RegionId>,
    /// The share of all IPv4 addresses whose clients are sent there now.
    pub before: f64,
    /// The same afterwards.
    pub after: f64,
}

/// What becomes of the answers of `now` if everything is decided by `then`.
pub(super) fn impact(now: &Snapshot, then: &Facts<'_>) -> Impact {
    let plan = now.plan();
    let after = Snapshot::compile(plan.clone(), then, Some(now), None, now.generation());
    let mut impact = Impact::default();
    for (row, service) in plan.services.iter().enumerate() {
        let Some(id) = ServiceId::from_index(row) else { break };
        for family in service.families() {
            if is_good(now, id, family) && !is_good(&after, id, family) {
                impact.left_with_nothing.push(service.name.clone());
            }
            for region in regions(plan, id) {
                let share = |of| share(of, id, family, region);
                let (before, after) = (share(now), share(&after));
                if before + after > 0.0 {
                    let service = service.name.clone();
                    impact.shares.push(Share { service, family, region, before, after });
                }
            }
        }
    }
    impact.left_with_nothing.dedup();
    impact
}

/// Is everything that a service answers up, and not drained?
fn is_good(snapshot: &Snapshot, id: ServiceId, family: Family) -> bool {
    let selector = snapshot.service(id).and_then(|service| service.selector(family));
    let is_good = |basis| matches!(basis, Basis::Up | Basis::Scarce);
    selector.is_some_and(|of| of.answers().all(|(ready, _)| is_good(ready.choice.basis)))
}

/// The regions that a service can answer with, and none.
fn regions(plan: &Plan, id: ServiceId) -> impl Iterator<Item = Option<RegionId>> {
    let pools = plan.services.get(id.index()).into_iter().flat_map(|service| &service.pools);
    pools.map(|pool| Some(pool.region)).chain([None])
}

/// The share of clients that a service sends to `region` first.
fn share(snapshot: &Snapshot, id: ServiceId, family: Family, region: Option<RegionId>) -> f64 {
    let selector = snapshot.service(id).and_then(|service| service.selector(family));
    let answers = selector.into_iter().flat_map(|selector| selector.answers());
    let of = |regions: &[RegionId]| regions.first().copied() == region;
    answers.filter(|(ready, _)| of(&ready.choice.regions)).map(|(_, share)| share).sum()
}
