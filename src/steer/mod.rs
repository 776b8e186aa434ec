//! Where both ways meet: which endpoints a client gets, and why. Pure.
//!
//! ```text
//! health table, overrides, holds → usable(service, family)     which endpoints may be handed out
//! ranking                        → choose(service, usable, …)  the best of them: a Choice
//! ```
//!
//! `usable` depends on the facts alone and `choose` on the order alone, so the snapshot runs the
//! first once a service and the second once for each distinct order, not for each client. The
//! order comes from the policy: from the client's ranking ([`Policy::Nearest`], [`Policy::Geo`]),
//! from the operator ([`Policy::Failover`]), or from the hash of the client's prefix
//! ([`Policy::Weighted`], see [`weighted`]). `explain` runs the same two functions for one client.

use std::net::IpAddr;
use std::num::NonZeroU8;

use crate::health::{HealthTable, State, TargetHealth};
use crate::ids::{RegionId, RegionSet, ServiceId, TargetId};
use crate::time::{Instant, Ttl};
use crate::zone::Name;

pub use family::Family;
pub use holds::{Failback, Hold, Holds, Left, MaxMoves, Moves};
pub use leases::{
    ASK_EVERY, ASK_PATIENCE, Contest, Found, Holder, Leased, Renewal, Turn, Vacancy, Written,
};
pub use named::{Named, Naming};
pub use overrides::{InForce, Override, Overrides, Ramp, Scope, Word, ramp_slot};
pub use writers::{Lease, Writer, Writers, is_down, is_well};

#[cfg(test)]
mod down_tests;
mod family;
mod holds;
#[cfg(test)]
mod holds_tests;
mod leases;
mod named;
mod overrides;
#[cfg(test)]
mod overrides_tests;
#[cfg(test)]
mod tests;
pub mod weighted;
mod words;
mod writers;

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
    /// How many endpoints of a pool must be up for the pool to be used.
    pub min_up: MinUp,
    /// When a region that was out comes back.
    pub failback: Failback,
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
    /// What is probed of it; `None`: it has no check and is always up.
    pub probed: Option<Probed>,
}

/// What is probed of an endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probed {
    /// Its targets, one a check.
    pub targets: Vec<TargetId>,
    /// How many of them must be up for the endpoint to be up.
    pub need: usize,
}

/// How many endpoints of a region, in the family that is asked for, must be up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MinUp {
    /// So many, or all of them if there are fewer.
    Number(u32),
    /// So many percent of them, rounded up.
    Percent(u32),
}

impl MinUp {
    /// How many of `all` endpoints; at least one.
    pub fn of(self, all: usize) -> usize {
        let number = match self {
            Self::Number(number) => usize::try_from(number).unwrap_or(usize::MAX),
            Self::Percent(percent) => {
                let percent = usize::try_from(percent).unwrap_or(100);
                (all * percent).div_ceil(100)
            }
        };
        number.min(all).max(1)
    }
}

/// What an answer names: an address, or another name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// An A or AAAA record.
    Ip(IpAddr),
    /// A CNAME record.
    Alias(Name),
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
    /// The one that writes; the next one is the first of these that is well.
    SingleWriter(Vec<RegionId>, Lease),
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
    /// Some are down, and kept, as too many regions have left.
    Kept,
    /// Nothing else is up; these are, and their service does not let them back yet.
    Held,
    /// No region has enough endpoints up; these are up all the same.
    Scarce,
    /// None is known to be up; these have no verdict yet, which is not "down".
    Unknown,
    /// Nothing else is left; these are up, and an operator drains them.
    Drained,
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
    /// One region at a time may write, and none may now.
    NoWriter,
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
    /// All regions they are in, best first; none for fixed addresses that are in none.
    pub regions: Vec<RegionId>,
    /// What the choice rests on.
    pub basis: Basis,
    /// How long the answer may be cached.
    pub ttl: Ttl,
    /// Why that long.
    pub ttl_reason: TtlReason,
    /// It must not be given any more from then on; `None`: as long as nothing changes.
    pub until: Option<Instant>,
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
    /// It is up or kept, and not what should be answered: better may come at any moment.
    Makeshift,
    /// This node hears too few others to decide anything: it may be wrong at any moment.
    Isolated,
    /// A drain of it begins soon.
    Ahead,
}

/// What a service is decided by, besides the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'f> {
    /// What is believed of the targets.
    pub health: &'f HealthTable,
    /// What operators have said.
    pub overrides: &'f InForce,
    /// What is held back or kept.
    pub holds: &'f Holds,
    /// Which regions write, of services where one at a time may.
    pub writers: &'f Writers,
    /// Whether this node hears too few others to decide.
    pub is_isolated: bool,
    /// Regions that are assumed to be down, whatever the probes say: to be shown.
    pub down: &'f [RegionId],
}

impl<'f> Facts<'f> {
    /// Health alone.
    pub fn of(health: &'f HealthTable) -> Self {
        let (overrides, holds, writers) = (InForce::NONE, Holds::none(), Writers::none());
        Self { health, overrides, holds, writers, is_isolated: false, down: &[] }
    }

    /// What the probes say of an endpoint in `region`, or are assumed to say.
    pub fn seen(&self, region: RegionId, endpoint: &Endpoint) -> State {
        if self.down.contains(&region) { State::Down } else { state_of(endpoint, self.health) }
    }

    /// What an endpoint of `service` in `region` counts as, for the clients in `slot` of a ramp.
    pub fn standing(
        &self,
        service: ServiceId,
        region: RegionId,
        endpoint: &Endpoint,
        slot: usize,
    ) -> Standing {
        let by_health = match self.seen(region, endpoint) {
            State::Up => Standing::Up,
            State::Unknown => Standing::Unknown,
            State::Down => Standing::Down,
        };
        match self.overrides.word(service, region, endpoint.address.ip(), slot) {
            Some(Word::Up) => Standing::Up,
            Some(Word::Down) => Standing::Down,
            Some(Word::Drain) if by_health != Standing::Down => Standing::Drained,
            Some(Word::Drain) => by_health,
            None => match self.holds.of(service, region, endpoint.address.family()) {
                Some(Hold::Back(_)) if by_health == Standing::Up => Standing::Held,
                Some(Hold::Kept) if by_health == Standing::Down => Standing::Kept,
                _ => by_health,
            },
        }
    }
}

/// What an endpoint counts as.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standing {
    /// It may be handed out.
    Up,
    /// It is down, and handed out as if it were up, as too many regions have left.
    Kept,
    /// Nobody knows yet.
    Unknown,
    /// It is down.
    Down,
    /// It is up again, and its service does not let it back yet.
    Held,
    /// It is not down, and an operator wants no new clients there.
    Drained,
}

impl Standing {
    /// May it be handed out before all that stands otherwise?
    pub fn is_in(self) -> bool {
        matches!(self, Self::Up | Self::Kept)
    }
}

impl Service {
    /// Can one region at a time be written to, and no other?
    pub fn has_one_writer(&self) -> bool {
        matches!(self.policy, Policy::SingleWriter(..))
    }

    /// The families in which the service has an endpoint.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(|family| self.pools.iter().any(|pool| pool.has(*family)))
    }

    /// The endpoints of `family` that `wanted` accepts, by pool.
    pub fn endpoints(
        &self,
        family: Family,
        wanted: impl Fn(&Pool, &Endpoint) -> bool,
    ) -> Vec<Vec<usize>> {
        let of_pool = |pool: &Pool| {
            let rows = pool.endpoints.iter().enumerate();
            rows.filter(|(_, of)| of.address.family() == family && wanted(pool, of))
                .map(|(row, _)| row)
                .collect()
        };
        self.pools.iter().map(of_pool).collect()
    }
}

impl Pool {
    /// Has it an endpoint in `family`?
    pub fn has(&self, family: Family) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.address.family() == family)
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

    /// The address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(*ip),
            Self::Alias(_) => None,
        }
    }
}

/// Which endpoints of `service` in `family` may be handed out to the clients in `slot` of a ramp:
/// those that are up, in regions where enough are; if there is none, what is next best; if
/// everything is down, what `on_all_down` says; of that, what an operator took out goes last.
/// `last_good` is what this function gave when something was last up.
pub fn usable(
    (id, service): (ServiceId, &Service),
    family: Family,
    facts: &Facts<'_>,
    slot: usize,
    last_good: Option<&Usable>,
) -> Usable {
    if let Policy::SingleWriter(..) = service.policy {
        return usable_writer((id, service), family, facts, slot);
    }
    let those = |is_wanted: &dyn Fn(Standing) -> bool| {
        service.endpoints(family, |pool, endpoint| {
            is_wanted(facts.standing(id, pool.region, endpoint, slot))
        })
    };
    let standing = |wanted| those(&|of| of == wanted);
    let some = |endpoints: Vec<Vec<usize>>| {
        endpoints.iter().any(|pool| !pool.is_empty()).then_some(endpoints)
    };
    let everything = || service.endpoints(family, |_, _| true);
    let (up, kept) = (standing(Standing::Up), standing(Standing::Kept));
    let enough = || {
        let pools = up.iter().zip(&kept).zip(everything());
        let enough = pools.map(|((up, kept), all)| match up.len() {
            0 => kept.clone(),
            // Of a region that is kept, who is up goes before who is not.
            some if !kept.is_empty() || some >= service.min_up.of(all.len()) => up.clone(),
            _ => Vec::new(),
        });
        enough.collect()
    };
    let of = |basis| move |endpoints| Usable { basis, endpoints };
    let best = some(enough())
        .map(of(Basis::Up))
        .or_else(|| some(standing(Standing::Held)).map(of(Basis::Held)))
        .or_else(|| some(up.clone()).map(of(Basis::Scarce)))
        .or_else(|| some(standing(Standing::Unknown)).map(of(Basis::Unknown)))
        .or_else(|| some(standing(Standing::Drained)).map(of(Basis::Drained)));
    if let Some(best) = best {
        return best;
    }
    let nothing = |basis| Usable { basis, endpoints: vec![Vec::new(); service.pools.len()] };
    // Who merely fails may be wrongly believed to, or be back soon; who was taken out is off.
    let left = service.endpoints(family, |pool, endpoint| {
        facts.overrides.word(id, pool.region, endpoint.address.ip(), slot).is_none()
    });
    let as_if_up = || some(left.clone()).unwrap_or_else(everything);
    let of_left = |good: &Usable| {
        let pools = good.endpoints.iter().zip(&left);
        let of_pool = |(good, left): (&Vec<usize>, &Vec<usize>)| {
            good.iter().copied().filter(|row| left.contains(row)).collect()
        };
        some(pools.map(of_pool).collect())
    };
    match &service.on_all_down {
        OnAllDown::AsIfUp => Usable { basis: Basis::AsIfUp, endpoints: as_if_up() },
        OnAllDown::LastGood => Usable {
            basis: Basis::LastGood,
            endpoints: last_good.and_then(of_left).unwrap_or_else(as_if_up),
        },
        OnAllDown::Fixed(_) => nothing(Basis::Fixed),
        OnAllDown::NoData => nothing(Basis::NoData),
        OnAllDown::ServFail => nothing(Basis::ServFail),
    }
}

/// The same where one region at a time writes: its endpoints, if it has to be those that are not
/// up, and never another region's.
fn usable_writer(
    (id, service): (ServiceId, &Service),
    family: Family,
    facts: &Facts<'_>,
    slot: usize,
) -> Usable {
    let Some(writer) = facts.writers.of(id) else {
        return Usable { basis: Basis::NoWriter, endpoints: vec![Vec::new(); service.pools.len()] };
    };
    let there = |pool: &Pool| pool.region == writer.region;
    for standing in [Standing::Up, Standing::Kept] {
        let endpoints = service.endpoints(family, |pool, endpoint| {
            there(pool) && facts.standing(id, pool.region, endpoint, slot) == standing
        });
        if endpoints.iter().any(|rows| !rows.is_empty()) {
            return Usable { basis: Basis::Up, endpoints };
        }
    }
    let all = service.endpoints(family, |pool, _| there(pool));
    Usable { basis: Basis::AsIfUp, endpoints: all }
}

/// The best of the usable endpoints for clients who prefer the regions in this `order`.
pub fn choose(
    (id, service): (ServiceId, &Service),
    family: Family,
    usable: &Usable,
    order: &[RegionId],
    facts: &Facts<'_>,
) -> Choice {
    if usable.basis == Basis::Fixed {
        return fixed(service, family);
    }
    let most = service.answers.map_or(usize::MAX, |most| usize::from(most.get()));
    let mut regions = Vec::new();
    let mut chosen: Vec<&Endpoint> = Vec::new();
    let (mut is_ahead, mut is_kept) = (false, false);
    for region in order {
        let pools = service.pools.iter().zip(&usable.endpoints);
        let in_region = pools.filter(|(pool, _)| pool.region == *region);
        let endpoints = in_region
            .flat_map(|(pool, rows)| rows.iter().filter_map(|row| pool.endpoints.get(*row)));
        let before = chosen.len();
        for endpoint in endpoints {
            // RFC 2181 §5: an address that regions share stands in the answer once.
            let is_new = chosen.iter().all(|other| other.address != endpoint.address);
            if is_new && chosen.len() < most {
                chosen.push(endpoint);
            }
        }
        if chosen.len() > before {
            regions.push(*region);
        }
        let mut added = chosen.iter().skip(before);
        let hold = facts.holds.of(id, *region, family);
        is_kept |= chosen.len() > before && hold == Some(Hold::Kept);
        is_ahead |= added.any(|of| facts.overrides.is_ahead(id, *region, of.address.ip()));
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
    let suspected = chosen.iter().any(|endpoint| is_suspected(endpoint, facts.health));
    let basis = if is_kept { Basis::Kept } else { usable.basis };
    let (ttl, ttl_reason) = match basis {
        _ if facts.is_isolated => (service.ttl.min(service.suspect_ttl), TtlReason::Isolated),
        Basis::Up if is_ahead => (service.ttl.min(service.suspect_ttl), TtlReason::Ahead),
        Basis::Up if !suspected => (service.ttl, TtlReason::Configured),
        Basis::Up => (service.ttl.min(service.suspect_ttl), TtlReason::Suspected),
        Basis::Kept | Basis::Held | Basis::Scarce | Basis::Drained => {
            (service.ttl.min(service.suspect_ttl), TtlReason::Makeshift)
        }
        _ => (service.ttl.min(service.suspect_ttl), TtlReason::NothingUp),
    };
    let addresses: Vec<_> = chosen.iter().map(|endpoint| endpoint.address.clone()).collect();
    let regions = naming(service, regions, &addresses);
    let writer = facts.writers.of(id);
    let ttl = writer.map_or(ttl, |writer| ttl.min(writer.ttl));
    let until = writer.and_then(|writer| writer.until);
    Choice { addresses, regions, basis, ttl, ttl_reason, until }
}

/// All regions that have one of these addresses: first `regions`, for which they were chosen.
fn naming(service: &Service, mut regions: Vec<RegionId>, addresses: &[Address]) -> Vec<RegionId> {
    for address in addresses {
        for pool in &service.pools {
            let has = || pool.endpoints.iter().any(|of| of.address == *address);
            if !regions.contains(&pool.region) && has() {
                regions.push(pool.region);
            }
        }
    }
    regions
}

fn fixed(service: &Service, family: Family) -> Choice {
    let addresses: Vec<_> = match &service.on_all_down {
        OnAllDown::Fixed(addresses) => {
            addresses.iter().filter(|address| address.family() == family).cloned().collect()
        }
        _ => Vec::new(),
    };
    Choice {
        regions: naming(service, Vec::new(), &addresses),
        addresses,
        basis: Basis::Fixed,
        ttl: service.ttl.min(service.suspect_ttl),
        ttl_reason: TtlReason::NothingUp,
        until: None,
    }
}

/// What the probes say of an endpoint; one without a check is up.
pub fn state_of(endpoint: &Endpoint, health: &HealthTable) -> State {
    let Some(probed) = &endpoint.probed else { return State::Up };
    let in_state = |state| {
        let states = probed.targets.iter().map(|target| health.get(*target).state);
        states.filter(|found| *found == state).count()
    };
    if in_state(State::Up) >= probed.need {
        State::Up
    } else if probed.targets.len() - in_state(State::Down) < probed.need {
        State::Down
    } else {
        State::Unknown
    }
}

/// Would it be down if the suspicions against its targets were right?
pub fn is_suspected(endpoint: &Endpoint, health: &HealthTable) -> bool {
    let Some(probed) = &endpoint.probed else { return false };
    let of = |target: &TargetId| health.get(*target);
    let sound = |health: TargetHealth| health.state == State::Up && !health.suspected;
    let some = probed.targets.iter().any(|target| of(target).suspected);
    some && probed.targets.iter().filter(|target| sound(of(target))).count() < probed.need
}
