//! What operators have said, by names; what it means for the configuration that is served; and
//! what it would do.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::Stamp;
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
    /// What is said; `None`: what was said is taken back.
    pub word: Option<Word>,
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
    /// Which of several words on the subject it is, among nodes.
    pub stamp: Stamp,
}

/// The same, as it is kept and as nodes tell it. Times are in nanoseconds since the Unix epoch.
#[derive(Serialize, Deserialize)]
struct Spoken {
    word: Option<String>,
    reason: String,
    owner: String,
    since: u64,
    until: Option<u64>,
    ramp_percent: Option<u8>,
    ramp_every: Option<u64>,
    at: u64,
    saw: u64,
}

impl Said {
    /// As it is kept, and told to other nodes.
    pub(super) fn spoken(&self) -> String {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let spoken = Spoken {
            word: self.word.map(|word| word.to_string()),
            reason: self.reason.clone(),
            owner: self.owner.clone(),
            since: self.since.as_nanos(),
            until: self.until.map(Instant::as_nanos),
            ramp_percent: self.ramp.map(|ramp| ramp.percent),
            ramp_every: self.ramp.map(|ramp| nanos(ramp.every)),
            at: self.stamp.at,
            saw: self.stamp.saw,
        };
        // Text and numbers can always be written.
        serde_json::to_string(&spoken).unwrap_or_default()
    }

    /// What was spoken of `subject`, if it makes sense.
    pub(super) fn from_spoken(subject: &str, text: &str) -> Option<Self> {
        let spoken: Spoken = serde_json::from_str(text).ok()?;
        let ramp = spoken.ramp_percent.zip(spoken.ramp_every);
        let word = spoken.word.map(|word| word.parse()).transpose().ok()?;
        let stamp = Stamp { at: spoken.at, saw: spoken.saw };
        // What was seen is earlier than what saw it.
        (stamp.saw < stamp.at).then_some(())?;
        Some(Self {
            subject: subject.parse().ok()?,
            word,
            reason: spoken.reason,
            owner: spoken.owner,
            since: Instant::from_nanos(spoken.since),
            until: spoken.until.map(Instant::from_nanos),
            ramp: ramp.map(|(percent, every)| Ramp { percent, every: Duration::from_nanos(every) }),
            stamp,
        })
    }

    /// What is said, in a word.
    pub(super) fn verb(&self) -> String {
        self.word.map_or("cleared".to_owned(), |word| word.to_string())
    }

    /// How safe it is, when two were said at once: what takes traffic away is safer than what
    /// brings it.
    pub(super) fn safety(&self) -> u8 {
        match self.word {
            Some(Word::Down) => 3,
            Some(Word::Drain) => 2,
            None => 1,
            Some(Word::Up) => 0,
        }
    }

    /// What it means in `config`; `None`: nothing, as it names nothing there.
    fn resolve(&self, config: &Config) -> Option<Override> {
        let Self { since, until, ramp, .. } = *self;
        let (word, scope) = (self.word?, scope(&self.subject, config).ok()?);
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
