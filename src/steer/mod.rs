//! Where both ways meet: which endpoints a client gets, and why. Pure.
//!
//! ```text
//! health table → usable(service, family)      which endpoints may be handed out, on what basis
//! ranking      → choose(service, usable, …)   the best of them in this client's order: a Choice
//! ```
//!
//! `usable` depends on health alone and `choose` on the order alone, so the snapshot runs the
//! first once a service and the second once for each distinct order, not for each client. The
//! order comes from the policy: from the client's ranking ([`Policy::Nearest`], [`Policy::Geo`]),
//! from the operator ([`Policy::Failover`]), or from the hash of the client's prefix
//! ([`Policy::Weighted`], see [`weighted`]). `explain` runs the same two functions for one client.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;

use crate::health::{HealthTable, State};
use crate::ids::{RegionId, RegionSet, TargetId};
use crate::time::Ttl;
use crate::zone::Name;

#[cfg(test)]
mod tests;
pub mod weighted;

/// Names that are steered together.
#[derive(Clone, Debug)]
pub struct Service {
    /// What operators call it.
    pub name: String,
    /// The names that it answers.
    pub names: Vec<Name>,
    /// How a region is picked.
    pub policy: Policy,
    /// Its endpoints by region, one pool a region.
    pub pools: Vec<Pool>,
    /// How many endpoints an answer names, over the regions in the client's order;
    /// `None`: all usable ones of the first region.
    pub answers: Option<NonZeroU8>,
    /// What is answered when nothing is up.
    pub on_all_down: OnAllDown,
    /// How long an answer may be cached.
    pub ttl: Ttl,
    /// The same while an endpoint of the answer is suspected, or nothing is known to be up.
    pub suspect_ttl: Ttl,
    /// Whether the client's subnet (RFC 7871) is looked at, or only the resolver's address.
    pub ecs: bool,
    /// Which of the plan's catchments ranks its clients.
    pub catchment: usize,
}

/// The endpoints of a service in one region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// The region.
    pub region: RegionId,
    /// Its share under [`Policy::Weighted`], relative to the others; 0 is the last resort.
    pub weight: u32,
    /// Its endpoints, in the order of the configuration.
    pub endpoints: Vec<Endpoint>,
}

/// One address of a service in a region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// What the answer says.
    pub address: Address,
    /// Who probes it; `None`: it has no check and is always up.
    pub target: Option<TargetId>,
}

/// What an answer names: an address, or another name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// An A or AAAA record.
    Ip(IpAddr),
    /// A CNAME record.
    Alias(Name),
}

/// The kinds of answer a service can give, each steered for itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
    /// A CNAME record, whatever was asked for.
    Alias,
}

/// How a region is picked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Policy {
    /// The nearest one in the client's ranking.
    Nearest,
    /// The first one of an explicit map of places, which the catchment holds.
    Geo,
    /// The first one of a fixed order.
    Failover(Vec<RegionId>),
    /// By weight, the same clients always to the same region.
    Weighted,
}

/// What is answered when every endpoint of a family is down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OnAllDown {
    /// The same as if all were up: the regions keep their order.
    AsIfUp,
    /// The endpoints that were the last to be up.
    LastGood,
    /// These addresses.
    Fixed(Vec<Address>),
    /// Nothing: NOERROR without a record.
    NoData,
    /// SERVFAIL, so that resolvers try another name server.
    ServFail,
}

/// Which endpoints of a service and family may be handed out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Usable {
    /// On what basis these are the ones.
    pub basis: Basis,
    /// By pool: rows of [`Pool::endpoints`].
    pub endpoints: Vec<Vec<usize>>,
}

/// What the usable endpoints rest on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Basis {
    /// They are up.
    Up,
    /// None is known to be up; these have no verdict yet, which is not "down".
    Unknown,
    /// All are down, and the service answers as if all were up.
    AsIfUp,
    /// All are down; these were the last to be up.
    LastGood,
    /// All are down, and the service names fixed addresses.
    Fixed,
    /// All are down, and the service answers without a record.
    NoData,
    /// All are down, and the service answers SERVFAIL.
    ServFail,
}

impl Usable {
    /// The regions with a usable endpoint.
    pub fn regions(&self, service: &Service) -> RegionSet {
        let pools = service.pools.iter().zip(&self.endpoints);
        pools.filter(|(_, usable)| !usable.is_empty()).map(|(pool, _)| pool.region).collect()
    }
}

/// What a client gets, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// What the answer names, best first.
    pub addresses: Vec<Address>,
    /// The regions they are in, best first; none for fixed addresses.
    pub regions: Vec<RegionId>,
    /// What the choice rests on.
    pub basis: Basis,
    /// How long the answer may be cached.
    pub ttl: Ttl,
    /// Why that long.
    pub ttl_reason: TtlReason,
}

/// Why an answer's TTL is what it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TtlReason {
    /// It is the service's.
    Configured,
    /// An endpoint of the answer has failed a probe and is being probed again.
    Suspected,
    /// Nothing in the answer is known to be up, so better may come at any moment.
    NothingUp,
}

impl Service {
    /// The families in which the service has an endpoint.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        [Family::V4, Family::V6, Family::Alias].into_iter().filter(|family| {
            let mut endpoints = self.pools.iter().flat_map(|pool| &pool.endpoints);
            endpoints.any(|endpoint| endpoint.address.family() == *family)
        })
    }

    /// The endpoints of `family` that `wanted` accepts, by pool.
    fn endpoints(&self, family: Family, wanted: impl Fn(&Endpoint) -> bool) -> Vec<Vec<usize>> {
        let of_pool = |pool: &Pool| {
            let rows = pool.endpoints.iter().enumerate();
            rows.filter(|(_, endpoint)| endpoint.address.family() == family && wanted(endpoint))
                .map(|(row, _)| row)
                .collect()
        };
        self.pools.iter().map(of_pool).collect()
    }
}

impl Address {
    /// The kind of answer it belongs in.
    pub fn family(&self) -> Family {
        match self {
            Self::Ip(IpAddr::V4(_)) => Family::V4,
            Self::Ip(IpAddr::V6(_)) => Family::V6,
            Self::Alias(_) => Family::Alias,
        }
    }
}

/// Which endpoints of `service` in `family` may be handed out: those that are up; if none is,
/// those without a verdict; if there is none of those either, what `on_all_down` says.
/// `last_good` is what this function gave when something was last up.
pub fn usable(
    service: &Service,
    family: Family,
    health: &HealthTable,
    last_good: Option<&Usable>,
) -> Usable {
    let in_state = |state| {
        let endpoints = service.endpoints(family, |endpoint| state_of(endpoint, health) == state);
        endpoints.iter().any(|pool| !pool.is_empty()).then_some(endpoints)
    };
    if let Some(endpoints) = in_state(State::Up) {
        return Usable { basis: Basis::Up, endpoints };
    }
    if let Some(endpoints) = in_state(State::Unknown) {
        return Usable { basis: Basis::Unknown, endpoints };
    }
    let everything = || service.endpoints(family, |_| true);
    let nothing = |basis| Usable { basis, endpoints: vec![Vec::new(); service.pools.len()] };
    match &service.on_all_down {
        OnAllDown::AsIfUp => Usable { basis: Basis::AsIfUp, endpoints: everything() },
        OnAllDown::LastGood => Usable {
            basis: Basis::LastGood,
            endpoints: last_good.map_or_else(everything, |usable| usable.endpoints.clone()),
        },
        OnAllDown::Fixed(_) => nothing(Basis::Fixed),
        OnAllDown::NoData => nothing(Basis::NoData),
        OnAllDown::ServFail => nothing(Basis::ServFail),
    }
}

/// The best of the usable endpoints for clients who prefer the regions in this `order`.
pub fn choose(
    service: &Service,
    family: Family,
    usable: &Usable,
    order: &[RegionId],
    health: &HealthTable,
) -> Choice {
    if usable.basis == Basis::Fixed {
        return fixed(service, family);
    }
    let most = service.answers.map_or(usize::MAX, |most| usize::from(most.get()));
    let mut regions = Vec::new();
    let mut chosen: Vec<&Endpoint> = Vec::new();
    for region in order {
        let pools = service.pools.iter().zip(&usable.endpoints);
        let in_region = pools.filter(|(pool, _)| pool.region == *region);
        let endpoints = in_region
            .flat_map(|(pool, rows)| rows.iter().filter_map(|row| pool.endpoints.get(*row)));
        let before = chosen.len();
        chosen.extend(endpoints.take(most - before));
        if chosen.len() > before {
            regions.push(*region);
        }
        let enough = match family {
            // RFC 2181 §10.1: a name has one CNAME record at most.
            Family::Alias => !chosen.is_empty(),
            Family::V4 | Family::V6 if service.answers.is_none() => !chosen.is_empty(),
            Family::V4 | Family::V6 => chosen.len() >= most,
        };
        if enough {
            break;
        }
    }
    if family == Family::Alias {
        chosen.truncate(1);
    }
    let suspected = chosen
        .iter()
        .any(|endpoint| endpoint.target.is_some_and(|target| health.get(target).suspected));
    let (ttl, ttl_reason) = match usable.basis {
        Basis::Up if !suspected => (service.ttl, TtlReason::Configured),
        Basis::Up => (service.ttl.min(service.suspect_ttl), TtlReason::Suspected),
        _ => (service.ttl.min(service.suspect_ttl), TtlReason::NothingUp),
    };
    let addresses = chosen.iter().map(|endpoint| endpoint.address.clone()).collect();
    Choice { addresses, regions, basis: usable.basis, ttl, ttl_reason }
}

fn fixed(service: &Service, family: Family) -> Choice {
    let addresses = match &service.on_all_down {
        OnAllDown::Fixed(addresses) => {
            addresses.iter().filter(|address| address.family() == family).cloned().collect()
        }
        _ => Vec::new(),
    };
    Choice {
        addresses,
        regions: Vec::new(),
        basis: Basis::Fixed,
        ttl: service.ttl.min(service.suspect_ttl),
        ttl_reason: TtlReason::NothingUp,
    }
}

/// What is believed of an endpoint; one without a check is up.
pub fn state_of(endpoint: &Endpoint, health: &HealthTable) -> State {
    endpoint.target.map_or(State::Up, |target| health.get(target).state)
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nearest => "nearest",
            Self::Geo => "geo",
            Self::Failover(_) => "failover",
            Self::Weighted => "weighted",
        })
    }
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Unknown => "no verdict yet, which is not down",
            Self::AsIfUp => "all down: answered as if all were up",
            Self::LastGood => "all down: answered with the last that were up",
            Self::Fixed => "all down: answered with the fixed addresses",
            Self::NoData => "all down: answered without a record",
            Self::ServFail => "all down: answered with SERVFAIL",
        })
    }
}

impl fmt::Display for TtlReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "as configured",
            Self::Suspected => "lowered: an endpoint of the answer failed its last probe",
            Self::NothingUp => "lowered: nothing in the answer is known to be up",
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Alias(name) => name.fmt(f),
        }
    }
}
