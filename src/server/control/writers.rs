//! Which region of a service writes, where one at a time may: what operators said, or what the
//! leases in etcd tell.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::cluster::FRESH;
use crate::config::Config;
use crate::ids::{RegionId, ServiceId};
use crate::server::etcd::{Gateway, Leases, Wish};
use crate::server::handle::Handle;
use crate::server::history::{Kind, Level};
use crate::server::store::Store;
use crate::snapshot::Plan;
use crate::steer::{Contest, Lease, Leased, Policy, Service, Writer, Writers, is_well};
use crate::time::{Instant, Ttl};

use super::Control;

/// What operators said of a service's writer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::server) struct Named {
    /// The region; `None`: two operators said two things at once, and nobody writes until one of
    /// them says it again.
    pub(in crate::server) region: Option<String>,
    pub(in crate::server) epoch: u64,
    /// How long the answers may be remembered that name it, in seconds.
    ttl: u32,
    /// How long the answers of the one before may be, in milliseconds; 0: it is fenced.
    wait: u64,
    pub(in crate::server) reason: String,
    pub(in crate::server) owner: String,
    /// From when on it is answered here: the wait, counted from when this node heard of it.
    from: u64,
}

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct Naming {
    /// The service.
    pub service: String,
    /// The region that is to write.
    pub region: String,
    /// The old writer is known to write no more: nothing is waited for.
    pub fenced: bool,
    /// Why.
    pub reason: String,
    /// Who says so.
    pub owner: String,
}

/// What becomes of it.
pub(in crate::server) enum Next {
    /// It is to be kept, and followed.
    Manual(Box<Named>),
    /// etcd is to be told, by this way.
    Leased(mpsc::Sender<Wish>),
}

/// A service of which one region at a time writes, to be shown.
#[derive(Clone, PartialEq, Debug)]
pub struct WriterView {
    /// The service.
    pub service: String,
    /// Whether a lease in etcd decides, or operators alone.
    pub leased: bool,
    /// The region that writes, and its epoch.
    pub writer: Option<(String, u64)>,
    /// The newest epoch that is known, also of one who is yet to be answered.
    pub newest: Option<u64>,
    /// Until when for certain.
    pub until: Option<Instant>,
    /// From when on the next one can be answered, if none is now.
    pub next_from: Option<Instant>,
    /// The region that an operator wants.
    pub wanted: Option<String>,
    /// Why nothing more is known.
    pub problem: Option<String>,
}

/// Operators who wait for etcd at once.
const WISHES: usize = 8;

/// All that is known of writers.
#[derive(Debug, Default)]
pub(super) struct Writing {
    named: BTreeMap<String, Named>,
    leased: HashMap<String, Leased>,
    problems: HashMap<String, String>,
    contests: Option<watch::Sender<Vec<Contest>>>,
    wishes: Option<mpsc::Sender<Wish>>,
    /// All that is known, also of what is over or is yet to come.
    all: Writers,
    /// What is answered.
    pub(super) in_force: Writers,
}

/// By how much the clocks of two machines may run apart, and what a word takes to reach all.
fn with_drift(ttl: Ttl) -> Duration {
    ttl.duration() + ttl.duration() / 100 + FRESH + Duration::from_millis(100)
}

impl Writing {
    pub(super) fn new(named: BTreeMap<String, Named>) -> Self {
        Self { named, ..Self::default() }
    }

    /// When somebody else may be answered by time alone.
    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        self.all.next_change(now)
    }

    /// The writer of a service; one that operators named counts as long as this node surely hears
    /// what they say next: until `heard`.
    fn writer(&self, config: &Config, service: &Service, heard: Option<Instant>) -> Option<Writer> {
        let ttl = |seconds| service.ttl.min(Ttl::from_secs(seconds));
        match &service.policy {
            Policy::SingleWriter(_, Lease::Manual) => {
                let named = self.named.get(&service.name)?;
                let region = config.region(named.region.as_ref()?)?;
                let from = Instant::from_nanos(named.from);
                let (epoch, ttl) = (named.epoch, ttl(named.ttl));
                Some(Writer { region, epoch, ttl, from, until: heard })
            }
            Policy::SingleWriter(_, Lease::Kept(_)) => {
                let holder = self.leased.get(&service.name)?.holder.as_ref()?;
                Some(holder.writer(config.region(&holder.region)?, service))
            }
            _ => None,
        }
    }
}

impl Control {
    /// The task that looks after leases, by way of `gateway`.
    pub(in crate::server) fn lease(
        &mut self,
        gateway: Gateway,
        handle: &Handle,
        quiet: watch::Receiver<bool>,
    ) -> Leases {
        let (contests, contested) = watch::channel(Vec::new());
        let (wishes, wished) = mpsc::channel(WISHES);
        self.writing.contests = Some(contests);
        self.writing.wishes = Some(wishes);
        Leases::new(self.clock, gateway, (contested, wished), handle.requests.clone(), quiet)
    }

    /// Finds out who writes now; tells for which services it is somebody else than is answered, or
    /// until another moment.
    pub(super) fn follow_writers(&mut self, now: Instant) -> Vec<ServiceId> {
        let config = &self.loaded.config;
        let heard = self.hears_until();
        let writer = |(row, service)| {
            let writer = self.writing.writer(config, service, heard)?;
            Some((ServiceId::from_index(row)?, writer))
        };
        self.writing.all = config.services.iter().enumerate().filter_map(writer).collect();
        let in_force = self.writing.all.at(now);
        let before = std::mem::replace(&mut self.writing.in_force, in_force);
        let is_other = |id: &ServiceId| before.of(*id) != self.writing.in_force.of(*id);
        let changed: Vec<ServiceId> = self.loaded.plan.ids().filter(is_other).collect();
        if !changed.is_empty() {
            self.tell_of_writers(&before);
        }
        changed
    }

    /// Until when this node surely hears what is said at others; `None`: there are none.
    fn hears_until(&self) -> Option<Instant> {
        let others = self.peers.as_ref().filter(|peers| peers.are_many());
        // Who has heard nobody hears nobody, from the beginning of time.
        others.map(|peers| peers.fresh_until.unwrap_or_default())
    }

    fn tell_of_writers(&mut self, before: &Writers) {
        let plan = self.loaded.plan.clone();
        for (id, service) in plan.ids().zip(&plan.services) {
            let of = |writers: &Writers| writers.of(id).map(|of| (of.region, of.epoch));
            let (was, is) = (of(before), of(&self.writing.in_force));
            if was == is {
                continue;
            }
            let (level, what) = match is.and_then(|(at, epoch)| Some((name(&plan, at)?, epoch))) {
                Some((region, epoch)) => (Level::Warn, format!("writer {region}, epoch {epoch}")),
                None => (Level::Error, "no region writes".to_owned()),
            };
            let named = self.writing.named.get(&service.name);
            let why = match self.writing.problems.get(&service.name) {
                Some(problem) => problem.clone(),
                None => named.map(|of| of.reason.clone()).unwrap_or_default(),
            };
            let who = named.map(|of| of.owner.clone()).unwrap_or_default();
            self.tell(level, Kind::State, (service.name.clone(), what), (why, who), None);
        }
    }

    /// Tells the task that looks after leases what there is to look after.
    pub(super) fn tell_contests(&self) {
        let Some(contests) = &self.writing.contests else { return };
        let plan = &self.loaded.plan;
        let may_name = !self.monitor.is_isolated() && !self.monitor.abstains();
        let facts = self.facts();
        let name = |region| name(plan, region);
        let renews = |region| self.renews(region);
        let contest = |of: (ServiceId, &Service)| Contest::of(of, &facts, &name, &renews, may_name);
        let all: Vec<Contest> = plan.ids().zip(&plan.services).filter_map(contest).collect();
        contests.send_if_modified(|told| {
            let is_other = *told != all;
            *told = all;
            is_other
        });
    }

    /// Is it for this node to renew the lease of `region`: as it stands there, or nobody does?
    fn renews(&self, region: RegionId) -> bool {
        let config = &self.loaded.config;
        let own = config.node.region == Some(region);
        let name = name(&self.loaded.plan, region);
        let mut members = config.cluster.iter().flat_map(|cluster| &cluster.nodes);
        own || !members.any(|member| member.region == name)
    }

    /// What etcd has of a service's writer, or why that is not known.
    pub(super) fn hear_lease(&mut self, service: String, leased: Result<Leased, String>) {
        match leased {
            Ok(mut leased) => {
                self.writing.problems.remove(&service);
                leased.settle(self.writing.leased.get(&service));
                self.writing.leased.insert(service, leased);
            }
            Err(problem) => {
                if !self.writing.problems.contains_key(&service) {
                    warn!(service, problem, "the writer's lease cannot be looked at");
                }
                self.writing.problems.insert(service, problem);
            }
        }
    }

    /// What is to be done so that another region writes.
    pub(super) fn next_writer(&self, naming: &Naming) -> Result<Next, String> {
        let config = &self.loaded.config;
        let Naming { service, region, fenced, reason, owner } = naming;
        let id = config.service(service);
        let found = id.and_then(|id| Some((id, config.services.get(id.index())?)));
        let (id, found) = found.ok_or_else(|| format!("no service `{service}`"))?;
        let Policy::SingleWriter(order, lease) = &found.policy else {
            return Err(format!("the service {service} is not `steer: single-writer`"));
        };
        let at = config.region(region).filter(|at| order.contains(at));
        let at = at.ok_or_else(|| format!("the service {service} has no endpoint in {region}"))?;
        if !fenced && !is_well((id, found), at, &self.facts()) {
            return Err(format!("{region} is not well; with `fenced` it writes all the same"));
        }
        if let Lease::Kept(_) = lease {
            let wishes = self.writing.wishes.clone();
            return Ok(Next::Leased(wishes.ok_or("restart the node: `etcd` is new")?));
        }
        if !fenced && self.hears_until().is_some_and(|until| self.clock.now() >= until) {
            let why = "this node hears too few others to know who writes";
            return Err(format!("{why}; say it elsewhere, or with `fenced`"));
        }
        let before = self.writing.named.get(service);
        let wait = match before {
            _ if *fenced => Duration::ZERO,
            None => with_drift(found.ttl),
            Some(before) => with_drift(Ttl::from_secs(before.ttl)),
        };
        Ok(Next::Manual(Box::new(Named {
            region: Some(region.clone()),
            epoch: before.map_or(0, |before| before.epoch) + 1,
            ttl: found.ttl.as_secs(),
            wait: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            reason: reason.clone(),
            owner: owner.clone(),
            from: (self.clock.now() + wait).as_nanos(),
        })))
    }

    /// Follows what an operator said of a service's writer: the old one is answered no more, and
    /// the new one when the old one's answers are forgotten.
    pub(super) fn name_writer(&mut self, service: String, named: Named, who: String) {
        let region = named.region.clone().unwrap_or_else(|| "nobody".to_owned());
        let told = (service.clone(), format!("{region} is to write, epoch {}", named.epoch));
        let why = (named.reason.clone(), who);
        if let Some(peers) = &self.peers {
            peers.say(format!("e/{service}"), serde_json::to_string(&named).ok());
        }
        self.writing.named.insert(service, named);
        self.tell(Level::Warn, Kind::Override, told, why, None);
    }

    /// Another node was told, or has heard, who is to write.
    pub(super) fn hear_writer(&mut self, service: &str, theirs: Named) {
        let ours = self.writing.named.get(service);
        let next = match ours {
            Some(ours) if ours.epoch > theirs.epoch => return,
            Some(ours) if ours.epoch == theirs.epoch && ours.region == theirs.region => return,
            // Two said two things of which neither knew of the other. Nobody is right.
            Some(ours) if ours.epoch == theirs.epoch => Named {
                region: None,
                epoch: ours.epoch + 1,
                reason: "two regions were named at once; name one again".to_owned(),
                owner: format!("{} and {}", ours.owner, theirs.owner),
                ..theirs
            },
            _ => {
                let wait = Duration::from_millis(theirs.wait);
                Named { from: (self.clock.now() + wait).as_nanos(), ..theirs }
            }
        };
        keep(&self.store, service.to_owned(), next.clone());
        let who = next.owner.clone();
        self.name_writer(service.to_owned(), next, who);
    }

    /// Tells other nodes what operators said of writers.
    pub(super) fn tell_named(&self) {
        let Some(peers) = &self.peers else { return };
        for (service, named) in &self.writing.named {
            peers.say(format!("e/{service}"), serde_json::to_string(named).ok());
        }
    }

    /// The services of which one region at a time writes.
    pub(super) fn writers(&self) -> Vec<WriterView> {
        let plan = &self.loaded.plan;
        let view = |(id, service): (ServiceId, &Service)| {
            let Policy::SingleWriter(_, lease) = &service.policy else { return None };
            let writer = self.writing.in_force.of(id);
            let leased = self.writing.leased.get(&service.name);
            let named = self.writing.named.get(&service.name);
            let now = self.clock.now();
            let waits = self.writing.all.of(id).map(|of| of.from).filter(|from| *from > now);
            let wanted = leased.and_then(|leased| leased.wanted.clone());
            Some(WriterView {
                service: service.name.clone(),
                leased: matches!(lease, Lease::Kept(_)),
                writer: writer.and_then(|of| Some((name(plan, of.region)?, of.epoch))),
                newest: self.writing.all.of(id).or(writer).map(|of| of.epoch),
                until: writer.and_then(|of| of.until),
                next_from: leased.and_then(|leased| leased.free_from).or(waits),
                wanted: wanted.or_else(|| named.and_then(|named| named.region.clone())),
                problem: self.writing.problems.get(&service.name).cloned(),
            })
        };
        plan.ids().zip(&plan.services).filter_map(view).collect()
    }
}

/// Keeps what another node told, soon.
fn keep(store: &Store, service: String, named: Named) {
    let store = store.clone();
    tokio::spawn(async move {
        if let Err(error) = store.name(service, named).await {
            warn!(%error, "who is to write could not be kept");
        }
    });
}

fn name(plan: &Plan, region: RegionId) -> Option<String> {
    plan.regions.get(region.index()).map(|region| region.name.clone())
}
