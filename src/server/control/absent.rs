//! Which regions of which services are in no answer, and since when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Control, Peers};
use crate::convergence::HORIZON;
use crate::ids::{RegionId, RegionSet, ServiceId};
use crate::server::arrivals::Signals;
use crate::server::overrides::{FEWEST, shares};
use crate::snapshot::{Plan, Snapshot};
use crate::steer::{Address, Endpoint, Family, InForce, Pool};
use crate::time::{Instant, TRAVEL, Ttl};

/// A service's region that no answer names.
#[derive(Clone, PartialEq, Debug)]
pub struct Absent {
    /// Since when, or since this node looks.
    pub since: Instant,
    /// It was in answers that this node gave.
    pub left: bool,
    /// It was in another node's answers for a service that has no such region here.
    pub elsewhere: bool,
    /// What share of the service's clients it had, by those who ask.
    pub was: f64,
    /// The longest TTL that its answers may be remembered with, whichever node gave them.
    pub ttl: Ttl,
    /// When another node was last known, or feared, to answer otherwise.
    pub doubted: Instant,
    /// Which node that is, if it goes on, and why.
    pub doubt: Option<String>,
    /// How many requests a second its endpoints had, of those that told.
    pub before: Before,
}

impl Absent {
    /// One that no answer has named since `now`, when this node began to look.
    fn unseen(now: Instant, ttl: Ttl) -> Self {
        Self {
            since: now,
            left: false,
            elsewhere: false,
            was: 0.0,
            ttl,
            doubted: now,
            doubt: None,
            before: Before::new(),
        }
    }
}

/// How many requests a second endpoints had.
pub(super) type Before = Vec<(Address, f64)>;

/// What a region's endpoints had lately.
fn had(signals: &Signals, pool: &Pool) -> Before {
    let rate = |of: &Endpoint| Some((of.address.clone(), signals.before(of)?));
    pool.endpoints.iter().filter_map(rate).collect()
}

/// All of them, by the names of service and region.
pub(super) type Absents = BTreeMap<Name, Absent>;

/// The services for whose absent regions other nodes may be doubted otherwise than they were when
/// that was last looked at.
#[derive(Debug)]
pub(super) enum Unsure {
    All,
    Of(BTreeSet<String>),
}

impl Default for Unsure {
    fn default() -> Self {
        Self::Of(BTreeSet::new())
    }
}

impl Unsure {
    pub(super) fn add(&mut self, service: &str) {
        if let Self::Of(services) = self {
            services.insert(service.to_owned());
        }
    }
}

/// What arrived at those that operators have begun to empty.
pub(super) type Begun = BTreeMap<Name, Before>;

/// What operators call a service, and a region.
type Name = (String, String);

/// The regions that a service's answers name.
fn named(snapshot: &Snapshot, id: ServiceId) -> RegionSet {
    let service = snapshot.service(id);
    let families = Family::ALL.into_iter();
    let selectors = families.filter_map(|family| service?.selector(family));
    let answers = selectors.flat_map(|selector| selector.answers());
    answers.flat_map(|(ready, _)| ready.regions.iter()).collect()
}

/// The same of several services, by name.
fn all_named(snapshot: &Snapshot, which: &[ServiceId]) -> BTreeMap<Name, (ServiceId, RegionId)> {
    let named = which.iter().flat_map(|id| named(snapshot, *id).iter().map(|at| (*id, at)));
    named.filter_map(|(id, at)| Some((snapshot.plan().names(id, at)?, (id, at)))).collect()
}

impl Control {
    /// Notes which regions of the services that `changed`, or of all, have left the answers since
    /// `before`, and which are back.
    pub(super) fn note_absent(&mut self, before: &Snapshot, changed: Option<&[ServiceId]>) {
        let after = self.published.load_full();
        let now = self.clock.now();
        let changed = changed.filter(|_| Arc::ptr_eq(before.plan(), after.plan()));
        let which = |plan: &Plan| changed.map_or_else(|| plan.ids().collect(), <[_]>::to_vec);
        let ids = which(after.plan());
        let then = all_named(before, &which(before.plan()));
        let is_in = all_named(&after, &ids);
        if let (None, Some(peers)) = (changed, &mut self.peers) {
            peers.unsure = Unsure::All;
        }
        for name in is_in.keys() {
            self.absent.remove(name);
        }
        for (name, of) in then.into_iter().filter(|(name, _)| !is_in.contains_key(name)) {
            self.leave(now, before, of, name);
        }
        for id in ids {
            let Some(service) = after.plan().services.get(id.index()) else { continue };
            self.peers.iter_mut().for_each(|peers| peers.unsure.add(&service.name));
            let ttl = service.ttl.max(self.ttls.longest(&service.name, now));
            let names = service.pools.iter().filter_map(|pool| after.plan().names(id, pool.region));
            for name in names.filter(|name| !is_in.contains_key(name)) {
                self.absent.entry(name).or_insert_with(|| Absent::unseen(now, ttl));
            }
        }
    }

    fn leave(
        &mut self,
        now: Instant,
        before: &Snapshot,
        (id, region): (ServiceId, RegionId),
        name: Name,
    ) {
        let service = before.plan().services.get(id.index());
        let family = service.and_then(|service| service.families().next());
        let clients = self.sample.clients(before.plan());
        let clients = clients.get(id.index()).filter(|list| list.len() >= FEWEST);
        let clients = clients.map_or(&[][..], Vec::as_slice);
        let shares = family.map(|family| shares(before, id, family, clients));
        let was = shares.and_then(|shares| shares.get(&Some(region)).copied()).unwrap_or(0.0);
        let ttl = service.map(|service| service.ttl).unwrap_or_default();
        let ttl = ttl.max(self.ttls.longest(&name.0, now));
        // Before it is ready the node answers nobody.
        let left = *self.ready.borrow();
        let pool = service.and_then(|of| of.pools.iter().find(|pool| pool.region == region));
        let lately =
            || pool.map(|pool| had(&self.prober.arrivals().at(now), pool)).unwrap_or_default();
        let begun = self.begun.get(&name).filter(|before| !before.is_empty());
        let before = begun.cloned().unwrap_or_else(lately);
        let absent = Absent { left, was, before, ..Absent::unseen(now, ttl) };
        self.absent.insert(name, absent);
    }

    /// Notes what arrives at the regions that an operator begins to empty: at the end of a ramp
    /// it is much less.
    pub(super) fn note_begun(&mut self, in_force: &InForce) {
        let signals = self.prober.arrivals().at(self.clock.now());
        let plan = &self.loaded.plan;
        let mut begun = Begun::new();
        for (id, service) in plan.ids().zip(&plan.services) {
            for pool in &service.pools {
                if !in_force.takes_out(id, pool.region) {
                    continue;
                }
                let Some(name) = plan.names(id, pool.region) else { continue };
                let earlier = self.begun.remove(&name);
                begun.insert(name, earlier.unwrap_or_else(|| had(&signals, pool)));
            }
        }
        self.begun = begun;
    }

    /// Notes which of these regions other nodes may still answer with, and with which that this
    /// node's services have not.
    pub(super) fn doubt_absent(&mut self) {
        let (now, plan) = (self.clock.now(), &self.loaded.plan);
        let Some(peers) = self.peers.as_mut().filter(|peers| peers.are_many()) else { return };
        for (service, region) in peers.named_elsewhere() {
            if !plan.has_pool(service, region) {
                let unseen = || Absent::unseen(now, self.ttls.longest(service, now));
                let name = (service.to_owned(), region.to_owned());
                self.absent.entry(name).or_insert_with(unseen).elsewhere = true;
            }
        }
        doubt(&mut self.absent, peers, now);
    }

    /// Notes which node of the configuration is in no list of the start. It may answer anything
    /// until this one knows it.
    pub(super) fn note_unmet(&mut self) {
        let now = self.clock.now();
        let cluster = self.loaded.config.cluster.as_ref();
        let mut others = cluster.into_iter().flat_map(|of| {
            let names = of.names().into_iter().enumerate();
            names.filter(move |(row, _)| *row != of.own.index()).map(|(_, name)| name)
        });
        let is_met = |name: &str| self.peers.as_ref().is_some_and(|peers| peers.lists(name));
        let unmet = others.find(|name| !is_met(name));
        if std::mem::replace(&mut self.unmet, unmet).is_some() {
            self.absent.values_mut().for_each(|absent| absent.doubted = now);
        }
    }

    /// Drops what is configured no more, and remembered by nobody.
    pub(super) fn forget_absent(&mut self) {
        let (now, plan) = (self.clock.now(), &self.loaded.plan);
        let longest = Duration::from_secs_f64(HORIZON);
        self.absent.retain(|(service, region), absent| {
            let ttl = absent.ttl.duration() + TRAVEL;
            let is_over = now > absent.since.max(absent.doubted) + ttl.max(longest);
            let is_doubted = absent.doubt.is_some() || self.unmet.is_some();
            is_doubted || !is_over || plan.has_pool(service, region)
        });
    }

    /// What is absent, as it is now.
    pub(super) fn absent(&self) -> Absents {
        let mut absents = self.absent.clone();
        if let Some(name) = &self.unmet {
            let what = "is in `cluster.nodes`, and this node does not know it before a restart";
            let doubt = || format!("{name} {what}");
            absents.values_mut().for_each(|of| _ = of.doubt.get_or_insert_with(doubt));
        }
        doubted_still(&mut absents, self.clock.now());
        absents
    }
}

/// Notes which nodes are doubted, and what TTLs they have, where that may be otherwise than it was.
pub(super) fn doubt(absents: &mut Absents, peers: &mut Peers, now: Instant) {
    let unsure = std::mem::take(&mut peers.unsure);
    let look = |((service, region), absent): (&Name, &mut Absent)| {
        absent.ttl = absent.ttl.max(peers.longest_ttl(service));
        let before = std::mem::replace(&mut absent.doubt, peers.doubt(service, region));
        if before.is_some() || absent.doubt.is_some() {
            absent.doubted = now;
        }
    };
    match unsure {
        Unsure::All => absents.iter_mut().for_each(look),
        Unsure::Of(services) => services.into_iter().for_each(|service| {
            let rows = absents.range_mut((service.clone(), String::new())..);
            rows.take_while(|((of, _), _)| *of == service).for_each(look);
        }),
    }
}

/// A doubt that goes on is one of now, whenever it was last looked at.
pub(super) fn doubted_still(absents: &mut Absents, now: Instant) {
    let doubted = absents.values_mut().filter(|absent| absent.doubt.is_some());
    doubted.for_each(|absent| absent.doubted = now);
}
