//! Which region of a service writes, where one at a time may.
//!
//! Who that is is decided elsewhere: by operators, or by a lease. Here it only counts, from a
//! moment on and until another: an answer made of it must not be given after that.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use super::{Endpoint, Facts, Family, Pool, Service, Standing};
use crate::health::State;
use crate::ids::{RegionId, ServiceId};
use crate::time::{Instant, Ttl};

/// Who decides which region of a service writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lease {
    /// Operators, by their word alone.
    Manual,
    /// A lease in etcd of so long, renewed by the nodes of the writer's side, or else the others.
    Kept(Duration),
}

/// A region that writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Writer {
    /// The region.
    pub region: RegionId,
    /// How many came before it, and itself: storage can refuse whoever comes with a lower one.
    pub epoch: u64,
    /// No answer that names it may be remembered for longer.
    pub ttl: Ttl,
    /// From when on it may be answered.
    pub from: Instant,
    /// Until when; `None`: until another word.
    pub until: Option<Instant>,
}

impl Writer {
    fn is_at(&self, now: Instant) -> bool {
        self.from <= now && self.until.is_none_or(|until| now < until)
    }
}

/// The regions that write, by service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Writers(BTreeMap<ServiceId, Writer>);

impl FromIterator<(ServiceId, Writer)> for Writers {
    fn from_iter<I: IntoIterator<Item = (ServiceId, Writer)>>(writers: I) -> Self {
        Self(writers.into_iter().collect())
    }
}

impl Writers {
    /// Nobody.
    pub fn none() -> &'static Self {
        static NONE: LazyLock<Writers> = LazyLock::new(Writers::default);
        &NONE
    }

    /// The writer of a service, if it has one.
    pub fn of(&self, service: ServiceId) -> Option<&Writer> {
        self.0.get(&service)
    }

    /// The same under other ids; those without any are gone.
    #[must_use]
    pub fn rekeyed(
        &self,
        region: impl Fn(RegionId) -> Option<RegionId>,
        service: impl Fn(ServiceId) -> Option<ServiceId>,
    ) -> Self {
        let key = |(id, of): (&ServiceId, &Writer)| {
            Some((service(*id)?, Writer { region: region(of.region)?, ..*of }))
        };
        self.0.iter().filter_map(key).collect()
    }

    /// Those that may be answered at `now`.
    #[must_use]
    pub fn at(&self, now: Instant) -> Self {
        self.0.iter().filter(|(_, of)| of.is_at(now)).map(|(id, of)| (*id, *of)).collect()
    }

    /// When others may be answered by time alone.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let moments = self.0.values().flat_map(|of| [Some(of.from), of.until]).flatten();
        moments.filter(|at| *at > now).min()
    }
}

/// Is enough of a service's region up, and not drained, in some family?
pub fn is_well((id, service): (ServiceId, &Service), region: RegionId, facts: &Facts<'_>) -> bool {
    let of_family = |pool: &Pool, family: Family| {
        let endpoints = pool.endpoints.iter().filter(|of| of.address.family() == family);
        let (up, all) = endpoints.fold((0, 0), |(up, all), endpoint| {
            let is_up = facts.standing(id, region, endpoint, 0).is_in();
            (up + usize::from(is_up), all + 1)
        });
        all > 0 && up >= service.min_up.of(all)
    };
    let mut pools = service.pools.iter().filter(|pool| pool.region == region);
    pools.any(|pool| Family::ALL.into_iter().any(|family| of_family(pool, family)))
}

/// Is all of a service's region down, by the probes or an operator's word?
pub fn is_down((id, service): (ServiceId, &Service), region: RegionId, facts: &Facts<'_>) -> bool {
    endpoints(service, region).all(|endpoint| {
        let standing = facts.standing(id, region, endpoint, 0);
        matches!(standing, Standing::Down | Standing::Kept)
    })
}

/// What a service has in a region.
fn endpoints(service: &Service, region: RegionId) -> impl Iterator<Item = &Endpoint> {
    let pools = service.pools.iter().filter(move |pool| pool.region == region);
    pools.flat_map(|pool| &pool.endpoints)
}

/// Has each endpoint of a service's region a verdict, or is none to be expected, as nothing of it
/// was seen for long: by a host without IPv6, say?
pub(super) fn is_judged(
    (id, service): (ServiceId, &Service),
    region: RegionId,
    facts: &Facts<'_>,
) -> bool {
    endpoints(service, region).all(|endpoint| {
        let targets = endpoint.probed.iter().flat_map(|probed| &probed.targets);
        let mut unknown =
            targets.map(|of| facts.health.get(*of)).filter(|of| of.state == State::Unknown);
        facts.standing(id, region, endpoint, 0) != Standing::Unknown || unknown.all(|of| of.stale)
    })
}
