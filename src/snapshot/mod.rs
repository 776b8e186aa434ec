//! All that one query may see: immutable, compiled when something changed, numbered.
//!
//! ```text
//! Plan (configuration, places)  ┐
//! Facts (health, overrides)     ┴→ Snapshot::compile → a Selector per service and family
//! Selector::select(client)      → the ready answer, and the prefix for which it is true
//! ```
//!
//! A service has few distinct answers (with N regions the distinct orders of those still usable,
//! not the networks of the world, count), so each is chosen and encoded once, here. What maps a
//! client to its answer is a [`Division`]; services with the same usable regions share one. A
//! change compiles only the services that depend on what changed, and leaves the maps of new
//! divisions to be drawn by whoever publishes it. While an operator's word reaches the clients
//! share by share, a service has a band for those reached and one for the others.

use std::collections::{HashMap, HashSet};
use std::slice;
use std::sync::{Arc, OnceLock, Weak};

use crate::geo::{Catchment, Coordinates};
use crate::ids::{RegionId, RegionSet, ServiceId, TargetId};
use crate::prefetch::{LINE, prefetch};
use crate::steer::weighted::{Contender, SLOTS, name_hash, scores};
use crate::steer::{
    Address, Basis, Endpoint, Facts, Family, Policy, Pool, Service, Usable, Writer, choose, usable,
};
use crate::time::{Instant, Ttl};
use crate::zone::{Name, Rdata, RecordType, Zone, Zones};

pub use division::{Division, DivisionKey, Order, Seek};
pub use leads::leads_on;
pub use protection::{Protection, RateLimit, Secret};
pub use ready::{Body, Ready};
pub use selector::{Selection, Selector};

use selector::Band;

mod division;
mod leads;
mod protection;
mod ready;
mod selector;
#[cfg(test)]
mod tests;

/// How many CNAME records are followed. A chain in a loop ends here too: the resolver, which has
/// its own limit, is told what was found so far.
pub const LONGEST_CHAIN: usize = 8;

/// Everything a snapshot is compiled from, apart from health.
#[derive(Debug)]
pub struct Plan {
    /// The zones, with the steered names on top.
    pub zones: Arc<Zones>,
    /// The services, by [`ServiceId`].
    pub services: Vec<Service>,
    /// The regions, by [`RegionId`].
    pub regions: Vec<Region>,
    /// What ranks the regions for a client, by [`Service::catchment`].
    pub catchments: Vec<Arc<Catchment>>,
    /// What the server says of itself.
    pub identity: Identity,
    /// What it does against questions with forged addresses.
    pub protection: Protection,
    dependents: HashMap<TargetId, Vec<ServiceId>>,
    by_name: HashMap<String, ServiceId>,
    /// What each region scores where weights decide, once somebody asks.
    scores: Vec<OnceLock<Box<[u64]>>>,
    /// Those of which one region at a time writes.
    single_writers: Vec<ServiceId>,
}

/// A place that takes traffic.
#[derive(Clone, PartialEq, Debug)]
pub struct Region {
    /// What operators call it.
    pub name: String,
    /// Where it is.
    pub at: Option<Coordinates>,
    /// What it can take, in a unit of the operator's own.
    pub capacity: Option<u64>,
}

/// What the server says of itself when it is asked; nothing by default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// The answer to the NSID option (RFC 5001).
    pub nsid: Option<Vec<u8>>,
    /// The text of `version.bind` and `version.server` in class CH.
    pub version: Option<String>,
    /// The text of `id.server` and `hostname.bind` in class CH (RFC 4892).
    pub id_server: Option<String>,
}

impl Plan {
    /// A plan; `services` are in the order of the ids under which the zones know them.
    pub fn new(
        zones: Arc<Zones>,
        services: Vec<Service>,
        regions: Vec<Region>,
        catchments: Vec<Arc<Catchment>>,
        identity: Identity,
    ) -> Self {
        let mut dependents: HashMap<TargetId, Vec<ServiceId>> = HashMap::new();
        let mut by_name = HashMap::with_capacity(services.len());
        let mut single_writers = Vec::new();
        for (row, service) in services.iter().enumerate() {
            let Some(id) = ServiceId::from_index(row) else { break };
            by_name.insert(service.name.clone(), id);
            if matches!(service.policy, Policy::SingleWriter(..)) {
                single_writers.push(id);
            }
            for endpoint in service.pools.iter().flat_map(|pool| &pool.endpoints) {
                for target in endpoint.probed.iter().flat_map(|probed| &probed.targets) {
                    let of_target = dependents.entry(*target).or_default();
                    if of_target.last() != Some(&id) {
                        of_target.push(id);
                    }
                }
            }
        }
        let protection = Protection::default();
        let scores = regions.iter().map(|_| OnceLock::new()).collect();
        Self {
            zones,
            services,
            regions,
            catchments,
            identity,
            protection,
            dependents,
            by_name,
            scores,
            single_writers,
        }
    }

    /// The same, protected.
    #[must_use]
    pub fn protected(self, protection: Protection) -> Self {
        Self { protection, ..self }
    }

    /// The services with an endpoint that `target` probes.
    pub fn dependents(&self, target: TargetId) -> &[ServiceId] {
        self.dependents.get(&target).map_or(&[], Vec::as_slice)
    }

    /// The services that depend on one of `targets`.
    pub fn affected(&self, targets: impl IntoIterator<Item = TargetId>) -> Vec<ServiceId> {
        let services = targets.into_iter().flat_map(|target| self.dependents(target));
        let mut services: Vec<ServiceId> = services.copied().collect();
        services.sort_unstable();
        services.dedup();
        services
    }

    /// The ids of all services.
    pub fn ids(&self) -> impl Iterator<Item = ServiceId> + use<> {
        (0..self.services.len()).map_while(ServiceId::from_index)
    }

    /// The service that operators call so.
    pub fn service_named(&self, name: &str) -> Option<ServiceId> {
        self.by_name.get(name).copied()
    }

    /// The services of which one region at a time writes.
    pub fn single_writers(&self) -> impl Iterator<Item = (ServiceId, &Service)> {
        let ids = self.single_writers.iter();
        ids.filter_map(|id| Some((*id, self.services.get(id.index())?)))
    }

    /// What operators call a service, and a region.
    pub fn names(&self, service: ServiceId, region: RegionId) -> Option<(String, String)> {
        let service = self.services.get(service.index())?;
        Some((service.name.clone(), self.region_name(region).to_owned()))
    }

    /// What operators call a service's region.
    pub fn pool_name(&self, service: ServiceId, region: RegionId) -> String {
        let service = self.services.get(service.index()).map_or("", |of| &of.name);
        format!("{service}/{}", self.region_name(region))
    }

    /// Has a service such a region?
    pub fn has_pool(&self, service: &str, region: &str) -> bool {
        let id = self.service_named(service);
        let pools = id.and_then(|id| self.services.get(id.index())).map(|of| &of.pools);
        pools.into_iter().flatten().any(|pool| self.region_name(pool.region) == region)
    }

    /// What operators call a region.
    pub fn region_name(&self, id: RegionId) -> &str {
        self.regions.get(id.index()).map_or("", |of| &of.name)
    }

    /// What `target` is probed for: services and regions, by name.
    pub fn uses(&self, target: TargetId) -> Vec<(&str, &str)> {
        let services =
            self.dependents(target).iter().filter_map(|id| self.services.get(id.index()));
        let pools = services.flat_map(|of| of.pools.iter().map(move |pool| (of, pool)));
        let probes = |pool: &Pool| {
            let mut probed = pool.endpoints.iter().flat_map(|endpoint| &endpoint.probed);
            probed.any(|probed| probed.targets.contains(&target))
        };
        let used = pools.filter(|(_, pool)| probes(pool));
        used.map(|(of, pool)| (of.name.as_str(), self.region_name(pool.region))).collect()
    }

    /// The steered names of this plan that have no record to give in `newer`.
    pub fn names_lost_in<'p>(&'p self, newer: &Self) -> Vec<&'p Name> {
        let names = self.services.iter().flat_map(|service| &service.names);
        names.filter(|name| self.is_live(name) && !newer.is_live(name)).collect()
    }

    /// Is `name` in one of the zones, with addresses or something that leads to some?
    fn is_live(&self, name: &Name) -> bool {
        let is_ours = self.zones.find(&name.to_lower()).is_some();
        is_ours && leads_on((&self.zones, &self.services), name, &[])
    }

    /// The zones of this plan that `newer` does not have. One above, in which their names are too,
    /// is another zone.
    pub fn zones_lost_in<'p>(&'p self, newer: &Self) -> Vec<&'p Name> {
        let is_lost = |origin: &&Name| {
            let found = newer.zones.find(&origin.to_lower());
            found.is_none_or(|zone| zone.origin() != *origin)
        };
        self.zones.iter().map(Zone::origin).filter(is_lost).collect()
    }

    /// What orders the regions of `service` for a client; `None`: the same order for everybody.
    fn order(&self, service: &Service) -> Option<Order> {
        match service.policy {
            Policy::Failover(_) | Policy::SingleWriter(..) => None,
            Policy::Nearest | Policy::Geo => Some(Order::Catchment(service.catchment)),
            Policy::Weighted => Some(Order::Weights(self.contenders(service))),
        }
    }

    /// The regions of `service` as rendezvous hashing sees them.
    pub fn contenders(&self, service: &Service) -> Vec<Contender> {
        let contender = |(region, weight): (RegionId, u32)| Contender {
            region,
            name_hash: name_hash(self.region_name(region)),
            weight,
        };
        service.pools.iter().map(|pool| contender((pool.region, pool.weight))).collect()
    }

    /// The weights of the regions of `service`, for people: `us-east 90, eu-west 10`.
    pub fn weights(&self, service: &Service) -> String {
        let weight = |pool: &Pool| format!("{} {}", self.region_name(pool.region), pool.weight);
        service.pools.iter().map(weight).collect::<Vec<_>>().join(", ")
    }

    /// What a region scores in each slot before its weight counts.
    fn scores(&self, of: &Contender) -> Option<&[u64]> {
        let kept = self.scores.get(of.region.index())?;
        Some(kept.get_or_init(|| scores(of.name_hash)))
    }
}

/// All that one query may see.
#[derive(Debug)]
pub struct Snapshot {
    generation: u64,
    plan: Arc<Plan>,
    services: Vec<Arc<CompiledService>>,
    /// What the next snapshot may take over, as long as some service uses it.
    divisions: HashMap<DivisionKey, Weak<Division>>,
}

/// A service, decided. What a query looks at comes first, in two lines of the cache.
#[derive(Debug, Default)]
#[repr(C)]
pub struct CompiledService {
    alias: Option<Box<Steered>>,
    /// Whether the client's subnet (RFC 7871) is looked at, or only the resolver's address.
    pub ecs: bool,
    v4: Option<Steered>,
    v6: Option<Steered>,
    epoch: Option<Epoch>,
}

/// Which region of a service writes, as text.
#[derive(Debug)]
pub struct Epoch {
    /// The TXT record's data: `epoch=5` and `region=us-east`.
    pub rdata: Rdata,
    /// How long it may be cached.
    pub ttl: Ttl,
    /// It must not be given any more from then on.
    pub until: Option<Instant>,
}

impl Epoch {
    fn of(plan: &Plan, service: &Service, writer: &Writer) -> Self {
        let region = plan.region_name(writer.region);
        let texts = [format!("epoch={}", writer.epoch), format!("region={region}")];
        let rdata = Rdata::strings(&texts.each_ref().map(|text| text.as_bytes()));
        let ttl = service.suspect_ttl.min(service.ttl).min(writer.ttl);
        Self { rdata, ttl, until: writer.until }
    }
}

/// One family of a service, decided.
#[derive(Debug)]
#[repr(C)]
struct Steered {
    selector: Selector,
    /// What was usable when something was last up.
    last_good: Option<Box<Usable>>,
}

impl CompiledService {
    /// What answers a question for `rtype`, if anything does: an alias, whatever is asked for.
    pub fn answering(&self, rtype: RecordType) -> Option<&Selector> {
        let steered = match (&self.alias, rtype) {
            (Some(alias), _) => Some(&**alias),
            (None, RecordType::A) => self.v4.as_ref(),
            (None, RecordType::AAAA) => self.v6.as_ref(),
            (None, _) => None,
        };
        steered.map(|steered| &steered.selector)
    }

    /// What answers in `family`, if the service has such endpoints.
    pub fn selector(&self, family: Family) -> Option<&Selector> {
        self.steered(family).map(|steered| &steered.selector)
    }

    /// Which of its regions writes, if one at a time does and one does now.
    pub fn epoch(&self) -> Option<&Epoch> {
        self.epoch.as_ref()
    }

    fn last_good(&self, family: Family) -> Option<&Usable> {
        self.steered(family)?.last_good.as_deref()
    }

    fn steered(&self, family: Family) -> Option<&Steered> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
            Family::Alias => self.alias.as_deref(),
        }
    }
}

impl Snapshot {
    /// Decides every service anew by `facts`; with `changed`, only these services, if `previous`
    /// is of the same plan. `previous` also says what was last good.
    pub fn compile(
        plan: Arc<Plan>,
        facts: &Facts<'_>,
        previous: Option<&Self>,
        changed: Option<&[ServiceId]>,
        generation: u64,
    ) -> Self {
        let same_plan = previous.filter(|previous| Arc::ptr_eq(&previous.plan, &plan));
        let mut divisions = previous.map(|of| of.divisions_for(&plan)).unwrap_or_default();

        let mut compile = |row: usize, service: &Service| {
            let Some(id) = ServiceId::from_index(row) else { return Arc::default() };
            let last_good =
                |family| previous.and_then(|of| of.last_good(&plan, (row, service), family));
            Arc::new(compile_service(&plan, (id, service), facts, last_good, &mut divisions))
        };
        let services = match (same_plan, changed) {
            (Some(same), Some(changed)) => {
                let mut services = same.services.clone();
                for id in changed {
                    if let Some(service) = plan.services.get(id.index())
                        && let Some(slot) = services.get_mut(id.index())
                    {
                        *slot = compile(id.index(), service);
                    }
                }
                services
            }
            _ => plan.services.iter().enumerate().map(|(row, of)| compile(row, of)).collect(),
        };
        Self { generation, plan, services, divisions }
    }

    /// The same, with every map of its divisions drawn.
    #[must_use]
    pub fn drawn(self) -> Self {
        self.undrawn().iter().filter_map(Weak::upgrade).for_each(|division| division.draw());
        self
    }

    /// The divisions in use whose map is not drawn.
    pub fn undrawn(&self) -> Vec<Weak<Division>> {
        let is_undrawn =
            |of: &&Weak<Division>| of.upgrade().is_some_and(|division| !division.is_drawn());
        self.divisions.values().filter(is_undrawn).cloned().collect()
    }

    /// Which change of the world this is: 1 is the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What it was compiled from.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Has the processor fetch what a query for this service looks at first.
    pub fn prefetch(&self, id: ServiceId) {
        if let Some(service) = self.service(id) {
            let words = slice::from_ref(&service.alias);
            prefetch(words, 0);
            prefetch(words, LINE / size_of_val(words));
        }
    }

    /// A service, decided.
    pub fn service(&self, id: ServiceId) -> Option<&CompiledService> {
        self.services.get(id.index()).map(Arc::as_ref)
    }

    /// Those of the divisions in use that `plan` may take over: it has the same catchments, or
    /// weights decide.
    fn divisions_for(&self, plan: &Arc<Plan>) -> HashMap<DivisionKey, Weak<Division>> {
        let catchments = plan.catchments.iter().map(Arc::as_ptr).zip(0..);
        let rows: HashMap<*const Catchment, usize> = catchments.collect();
        let in_plan = |key: &DivisionKey| {
            let order = match &key.order {
                Order::Catchment(row) => {
                    let catchment = self.plan.catchments.get(*row)?;
                    Order::Catchment(*rows.get(&Arc::as_ptr(catchment))?)
                }
                weights @ Order::Weights(_) => weights.clone(),
            };
            Some(DivisionKey { order, ..*key })
        };
        let used = self.divisions.iter().filter(|(_, division)| division.strong_count() > 0);
        used.filter_map(|(key, division)| Some((in_plan(key)?, division.clone()))).collect()
    }

    /// What was usable of a service in a family when something was last up; the service is row
    /// `row` of `plan`. By another plan it is the one of that name, and its endpoints are those
    /// with the same address in the region of the same name.
    fn last_good(
        &self,
        plan: &Arc<Plan>,
        (row, service): (usize, &Service),
        family: Family,
    ) -> Option<Usable> {
        if Arc::ptr_eq(&self.plan, plan) {
            return self.services.get(row)?.last_good(family).cloned();
        }
        let id = self.plan.service_named(&service.name)?;
        let before = self.service(id)?.last_good(family)?;
        let old = self.plan.services.get(id.index())?;
        let known: HashSet<(&str, &Address)> = old
            .pools
            .iter()
            .zip(&before.endpoints)
            .flat_map(|(pool, rows)| rows.iter().map(move |row| (pool, *row)))
            .filter_map(|(pool, row)| {
                Some((self.plan.region_name(pool.region), &pool.endpoints.get(row)?.address))
            })
            .collect();
        let is_known = |pool: &Pool, of: &Endpoint| {
            known.contains(&(plan.region_name(pool.region), &of.address))
        };
        let endpoints = service.endpoints(family, is_known);
        let is_any = endpoints.iter().any(|rows| !rows.is_empty());
        is_any.then_some(Usable { basis: before.basis, endpoints })
    }
}

fn compile_service(
    plan: &Plan,
    (id, service): (ServiceId, &Service),
    facts: &Facts<'_>,
    last_good: impl Fn(Family) -> Option<Usable>,
    divisions: &mut HashMap<DivisionKey, Weak<Division>>,
) -> CompiledService {
    let writer = facts.writers.of(id);
    let epoch = writer.map(|writer| Epoch::of(plan, service, writer));
    let mut compiled = CompiledService { epoch, ecs: service.ecs, ..CompiledService::default() };
    let starts = facts.overrides.bands(id, &service.pools);
    let ends = starts.iter().skip(1).copied().chain([SLOTS]);
    let bands: Vec<(usize, usize)> = starts.iter().copied().zip(ends).collect();
    for family in service.families() {
        let mut last_good = last_good(family);
        let band = |&(start, end): &(usize, usize)| {
            let usable = usable((id, service), family, facts, start, last_good.as_ref());
            let (division, answers) =
                select_among(plan, (id, service), family, &usable, facts, divisions);
            // Where a ramp has reached some clients, the others' answer is the one of before.
            if usable.basis == Basis::Up {
                last_good = Some(usable);
            }
            Band { end, division, answers: answers.into() }
        };
        let mut ramp: Vec<Band> = bands.iter().map(band).collect();
        // There is at least one, and the last one ends with the last slot.
        let steered = ramp.pop().map(|rest| Steered {
            selector: Selector { ramp: ramp.into(), rest },
            last_good: last_good.map(Box::new),
        });
        match family {
            Family::V4 => compiled.v4 = steered,
            Family::V6 => compiled.v6 = steered,
            Family::Alias => compiled.alias = steered.map(Box::new),
        }
    }
    compiled
}

/// The distinct answers of a service in a family, and what finds a client's among them.
fn select_among(
    plan: &Plan,
    (id, service): (ServiceId, &Service),
    family: Family,
    usable: &Usable,
    facts: &Facts<'_>,
    divisions: &mut HashMap<DivisionKey, Weak<Division>>,
) -> (Option<Arc<Division>>, Vec<Ready>) {
    let ready = |order: &[RegionId]| {
        Ready::encode(family, choose((id, service), family, usable, order, facts))
    };
    let regions: RegionSet = usable.regions(service);
    let order = plan.order(service).filter(|_| !regions.is_empty());
    let Some(order) = order else {
        let order = match &service.policy {
            Policy::Failover(order) | Policy::SingleWriter(order, _) => order.as_slice(),
            _ => &[],
        };
        return (None, vec![ready(order)]);
    };
    let depth = match (family, service.answers) {
        (Family::Alias, _) | (_, None) => 1,
        (_, Some(most)) => usize::from(most.get()),
    };
    let key = DivisionKey { order, regions, depth };
    let division = divisions.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
        let division = Arc::new(Division::build(plan, &key));
        divisions.insert(key, Arc::downgrade(&division));
        division
    });
    let answers = division.orders().iter().map(|order| ready(order)).collect();
    (Some(division), answers)
}
