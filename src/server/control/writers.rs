//! Which region of a service writes, where one at a time may: what operators said, or what the
//! leases in etcd tell.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::warn;

use crate::cluster::{FRESH, WRITER};
use crate::config::Config;
use crate::ids::{NodeId, RegionId, ServiceId};
use crate::server::etcd::{Gateway, Leases, Wish};
use crate::server::handle::{Handle, Request};
use crate::server::history::{Kind, Level};
use crate::server::load::Loaded;
use crate::server::overrides::Said;
use crate::snapshot::Plan;
use crate::steer::{
    Contest, Holder, Lease, Leased, Named, Naming, Policy, Service, Writer, Writers, is_down,
};
use crate::time::Instant;

use super::Control;
use super::desk::see_kept;

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
    /// Whether all of that region is down, so that nobody can write.
    pub is_down: bool,
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

/// Why no word of a writer counts.
const UNLISTED: &str = "the list of nodes (`cluster.nodes`) is not agreed: too few nodes are known \
                        to go by the same one; `ctl nodes` tells by which each goes";

/// Why nobody writes of whom operators are to name the first.
const UNNAMED: &str = "no region was named yet: `ctl writer` names one";

/// Why nobody writes after two were named at once.
const AT_ODDS: &str = "two regions were named at once: `ctl writer` names one again";

/// Why a word that stands does not count here.
const UNHEARD: &str = "this node hears too few others, or they do not hear it, to know who writes";

const UNKEPT: &str = "who is to write could not be written to `node.state` yet";

/// After how long it is tried again to keep a word.
const KEEP_AGAIN: Duration = Duration::from_secs(1);

/// Operators who wait for etcd at once.
const WISHES: usize = 8;

/// All that is known of writers.
#[derive(Debug, Default)]
pub(super) struct Writing {
    named: BTreeMap<String, Named>,
    /// The services of which this is not on disk yet.
    unkept: BTreeSet<String>,
    leased: HashMap<String, Leased>,
    problems: HashMap<String, String>,
    contests: Option<watch::Sender<Vec<Contest>>>,
    /// Whether some of them may be others than were told, and by what those were: whether this node
    /// might name the next writer, and of how many targets nothing was seen for long.
    is_untold: bool,
    told_by: (bool, usize),
    wishes: Option<mpsc::Sender<Wish>>,
    /// All that is known, also of what is over or is yet to come.
    all: Writers,
    /// What is answered.
    pub(super) in_force: Writers,
}

impl Writing {
    /// What an earlier process kept, at `now`.
    pub(super) fn recalled(now: Instant, named: BTreeMap<String, Named>) -> Self {
        let named = named.into_iter().map(|(service, of)| (service, of.recalled(now)));
        Self { named: named.collect(), ..Self::default() }
    }

    /// These services were decided anew, or all.
    pub(super) fn decided(&mut self, plan: &Plan, changed: Option<&[ServiceId]>) {
        let is_leased = |id: &ServiceId| {
            let policy = plan.services.get(id.index()).map(|of| &of.policy);
            matches!(policy, Some(Policy::SingleWriter(_, Lease::Kept(_))))
        };
        self.is_untold |= changed.is_none_or(|changed| changed.iter().any(is_leased));
    }

    /// When somebody else may be answered by time alone.
    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        self.all.next_change(now)
    }

    /// The writer of a service; one that operators named counts as long as this node surely hears
    /// what they say next: until `heard`.
    fn writer(&self, config: &Config, service: &Service, heard: Option<Instant>) -> Option<Writer> {
        match &service.policy {
            Policy::SingleWriter(_, Lease::Manual) => {
                let named = self.named.get(&service.name)?;
                let region = config.region(named.region.as_ref()?)?;
                Some(named.writer(region, service, heard))
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
    pub(in crate::server) fn lease(&mut self, gateway: Gateway, handle: &Handle) -> Leases {
        let (contests, contested) = watch::channel(Vec::new());
        let (wishes, wished) = mpsc::channel(WISHES);
        self.writing.contests = Some(contests);
        self.writing.is_untold = true;
        self.writing.wishes = Some(wishes);
        Leases::new(self.clock, gateway, (contested, wished), handle.requests.clone())
    }

    /// Finds out who writes now; tells for which services it is somebody else than is answered, or
    /// until another moment, and whether it is somebody else of any.
    pub(super) fn follow_writers(&mut self, now: Instant) -> (Vec<ServiceId>, bool) {
        let config = &self.loaded.config;
        let heard = self.hears_until();
        let plan = self.loaded.plan.clone();
        let writer = |(id, service)| Some((id, self.writing.writer(config, service, heard)?));
        self.writing.all = plan.single_writers().filter_map(writer).collect();
        let in_force = self.writing.all.at(now);
        let before = std::mem::replace(&mut self.writing.in_force, in_force);
        let is_other = |id: &ServiceId| before.of(*id) != self.writing.in_force.of(*id);
        let named = self.writing.named.iter_mut();
        let waited = named.filter_map(|(service, named)| {
            named.end_wait(now).then(|| (service.clone(), named.clone()))
        });
        let waited: Vec<_> = waited.collect();
        for (service, named) in waited {
            self.keep_named(&service, named);
        }
        let changed: Vec<ServiceId> =
            plan.single_writers().map(|(id, _)| id).filter(is_other).collect();
        if !changed.is_empty() {
            self.tell_of_writers(&before);
        }
        let but_until = |of: &Writer| Writer { until: None, ..*of };
        let is_new = |id: &ServiceId| {
            before.of(*id).map(but_until) != self.writing.in_force.of(*id).map(but_until)
        };
        let is_any_new = changed.iter().any(is_new);
        (changed, is_any_new)
    }

    /// Is it known of each service who writes, or that nobody does?
    pub(super) fn knows_writers(&self) -> bool {
        let hears = self.hears_until().is_none_or(|until| self.clock.now() < until);
        let mut services = self.loaded.plan.single_writers();
        self.knows_leased()
            && (hears || services.all(|(_, service)| lease_of(service) == Some(true)))
    }

    /// The same of those with a lease in etcd.
    pub(super) fn knows_leased(&self) -> bool {
        let now = self.clock.now();
        let mut leased =
            self.loaded.plan.single_writers().filter(|(_, of)| lease_of(of) == Some(true));
        leased.all(|(_, service)| {
            let leased = self.writing.leased.get(&service.name);
            leased.is_some_and(|leased| !self.is_about_to_be_named(&service.name, leased, now))
        })
    }

    /// Does nobody write who could, until this node has named them in a moment?
    fn is_about_to_be_named(&self, service: &str, leased: &Leased, now: Instant) -> bool {
        let contests = self.writing.contests.as_ref().map(watch::Sender::borrow);
        let mut contests = contests.iter().flat_map(|contests| contests.iter());
        let is_named = |of: &Contest| of.service == service && of.may_name && of.next.is_some();
        let is_free = leased.free_from.is_some_and(|from| from <= now);
        leased.holder.is_none() && is_free && contests.any(is_named)
    }

    /// Which region has to be judged before the next writer of a service is named.
    fn awaited(&self, service: &str) -> Option<String> {
        let contests = self.writing.contests.as_ref()?.borrow();
        let region = contests.iter().find(|of| of.service == service)?.awaited.as_ref()?;
        Some(format!("an endpoint of {region} has no verdict yet, which is waited for"))
    }

    /// Until when this node surely hears what is said at others; `None`: there are none.
    fn hears_until(&self) -> Option<Instant> {
        let others = self.peers.as_ref().filter(|peers| peers.are_many());
        // Who has heard nobody hears nobody, from the beginning of time.
        others.map(|peers| peers.fresh_until.unwrap_or_default())
    }

    /// Is there no list of nodes by which this one may count?
    fn is_unlisted(&self) -> bool {
        let others = self.peers.as_ref().filter(|peers| peers.are_many());
        others.is_some_and(|peers| !peers.lists.is_agreed)
    }

    fn tell_of_writers(&mut self, before: &Writers) {
        let plan = self.loaded.plan.clone();
        for (id, service) in plan.single_writers() {
            let of = |writers: &Writers| writers.of(id).map(|of| (of.region, of.epoch));
            let (was, is) = (of(before), of(&self.writing.in_force));
            if was == is {
                continue;
            }
            let (level, what) = match is {
                Some((region, epoch)) => {
                    let region = plan.region_name(region);
                    (Level::Warn, format!("writer {region}, epoch {epoch}"))
                }
                None => (Level::Error, "no region writes".to_owned()),
            };
            let named = self.writing.named.get(&service.name);
            let named = named.filter(|_| lease_of(service) == Some(false));
            let why = match self.writing.problems.get(&service.name) {
                Some(problem) => problem.clone(),
                None => named.map(|of| of.reason.clone()).unwrap_or_default(),
            };
            let who = named.map(|of| of.owner.clone()).unwrap_or_default();
            self.tell(level, Kind::State, (service.name.clone(), what), (why, who), None);
        }
    }

    /// Tells the task that looks after leases what there is to look after, if that may be another
    /// thing than was told.
    pub(super) fn tell_contests(&mut self) {
        let may_name = !self.monitor.is_isolated() && !self.monitor.abstains();
        let by = (may_name, self.monitor.stale());
        let told_by = std::mem::replace(&mut self.writing.told_by, by);
        if !std::mem::take(&mut self.writing.is_untold) && by == told_by {
            return;
        }
        let Some(contests) = &self.writing.contests else { return };
        let plan = &self.loaded.plan;
        let facts = self.facts();
        let name = |region| Some(plan.region_name(region).to_owned());
        let renews = |region| self.renews(region);
        let contest = |of: (ServiceId, &Service)| Contest::of(of, &facts, &name, &renews, may_name);
        let all = plan.single_writers().filter_map(contest);
        let all: Vec<Contest> = all
            .map(|of| Contest { before: self.writing.named.get(&of.service).map(Named::end), ..of })
            .collect();
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
        let name = self.loaded.plan.region_name(region);
        let mut members = config.cluster.iter().flat_map(|cluster| &cluster.nodes);
        own || !members.any(|member| member.region.as_deref() == Some(name))
    }

    /// What etcd has of a service's writer, or why that is not known.
    pub(super) fn hear_lease(&mut self, service: String, leased: Result<Leased, String>) {
        let known = self.writing.named.get(&service).map_or(0, |named| named.epoch);
        let leased = leased.and_then(|leased| match &leased.holder {
            // An epoch never falls: what storage has refused since would be told to write.
            Some(Holder { epoch, region, .. }) if *epoch < known => Err(format!(
                "etcd tells epoch {epoch}, of {region}, and this node knows of epoch {known}, as \
                 after a backup of etcd was restored: name another region by `ctl writer`"
            )),
            _ => Ok(leased),
        });
        match leased {
            Ok(mut leased) => {
                self.writing.problems.remove(&service);
                leased.settle(self.writing.leased.get(&service));
                self.note_lease(&service, &leased);
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

    /// Keeps what operators' words will have to come after, if they decide one day.
    fn note_lease(&mut self, service: &str, leased: &Leased) {
        let Some(holder) = &leased.holder else { return };
        let known = self.writing.named.get(service).map_or(0, |named| named.epoch);
        if known < holder.epoch {
            let named = Named::after_lease(holder.epoch, holder.ttl);
            self.keep_named(service, named.clone());
            self.writing.unkept.remove(service);
            self.writing.named.insert(service.to_owned(), named);
        }
    }

    /// What is to be done so that another region writes.
    pub(super) fn next_writer(&self, naming: &Naming) -> Result<Next, String> {
        let Loaded { config, meanings, .. } = &*self.loaded;
        let id = self.loaded.plan.service_named(&naming.service);
        let found = id.and_then(|id| Some((id, config.services.get(id.index())?)));
        let (id, found) = found.ok_or_else(|| format!("no service `{}`", naming.service))?;
        let region = config.region(&naming.region);
        let now = self.clock.now();
        let out = |at| {
            let mut words = self.said.iter().chain(&self.planned);
            let pool = found.pools.iter().find(|pool| pool.region == at)?;
            words.find(|said| said.takes_out((id, pool), meanings, now)).map(Said::keeps_out)
        };
        if let Lease::Kept(_) = naming.makes_sense((id, found), region, &self.facts(), out)? {
            let wishes = self.writing.wishes.clone();
            return Ok(Next::Leased(wishes.ok_or("restart the node: `etcd` is new")?));
        }
        if !naming.fenced && self.is_unlisted() {
            return Err(format!("{UNLISTED}; say it elsewhere, or with `fenced`"));
        }
        let before = self.writing.named.get(&found.name);
        let heard = (self.hears_until(), FRESH);
        Named::next(now, naming, found.ttl, before, heard).map(Box::new).map(Next::Manual)
    }

    /// Tells of an operator's word that is in etcd's keeping.
    pub(super) fn tell_wanted(&mut self, naming: Naming, who: String) {
        let Naming { service, region, fenced, reason, .. } = naming;
        let how = if fenced { ", the old one being fenced" } else { "" };
        let told = (service, format!("{region} is to write{how}"));
        self.tell(Level::Warn, Kind::Override, told, (reason, who), None);
    }

    /// Follows what an operator said of a service's writer: the old one is answered no more, and
    /// the new one when the old one's answers are forgotten.
    pub(super) fn name_writer(&mut self, service: String, named: Named, who: String) {
        let region = named.region.clone().unwrap_or_else(|| "nobody".to_owned());
        let told = (service.clone(), format!("{region} is to write, epoch {}", named.epoch));
        let why = (named.reason.clone(), who);
        self.writing.named.insert(service.clone(), named);
        self.tell_writer(&service);
        self.tell(Level::Warn, Kind::Override, told, why, None);
    }

    /// Follows what another process, which spoke for this node, has kept since this one read it.
    pub(super) fn recall_writers(&mut self, kept: BTreeMap<String, Named>) {
        let now = self.clock.now();
        for (service, named) in kept {
            if self.writing.named.get(&service).is_none_or(|ours| named.outlasts(ours)) {
                self.writing.unkept.remove(&service);
                let who = named.owner.clone();
                self.name_writer(service, named.recalled(now), who);
            }
        }
        self.see_standing();
    }

    /// The same, said here. Another node's word may have come while this one was written to disk.
    pub(super) fn name_writer_here(&mut self, service: String, named: Named, who: String) {
        let ours = self.writing.named.get(&service);
        if ours.is_none_or(|ours| ours.epoch < named.epoch) {
            self.writing.unkept.remove(&service);
            return self.name_writer(service, named, who);
        }
        if let Some(next) = named.heard(ours) {
            self.take_writer(service, next, who);
        }
    }

    /// Follows a word that is not on disk yet. Others are told when it is: who forgot it at its
    /// next start would follow the one before again, and is no part of a majority.
    fn take_writer(&mut self, service: String, named: Named, who: String) {
        self.writing.unkept.insert(service.clone());
        self.keep_taken(service.clone(), named.clone(), true);
        self.name_writer(service, named, who);
    }

    /// Keeps such a word; if that fails, it is tried again.
    fn keep_taken(&self, service: String, named: Named, is_first: bool) {
        let kept = self.store.name(service.clone(), named.clone());
        let requests = self.requests_to_self.clone();
        tokio::spawn(async move {
            let kept = kept.await;
            if let Err(error) = &kept {
                if is_first {
                    warn!(error, service, "who is to write could not be kept; it is tried again");
                }
                sleep(KEEP_AGAIN).await;
            }
            if let Some(requests) = requests.upgrade() {
                let request = Request::KeptWriter(service, Box::new(named), kept.is_ok());
                // Nobody is left to be told when the server ends.
                let _gone = requests.send(request).await;
            }
        });
    }

    /// A word is on disk, or could not be kept.
    pub(super) fn kept_writer(&mut self, service: String, named: &Named, is_kept: bool) {
        let ours = self.writing.named.get(&service).filter(|ours| ours.is_same(named));
        // If there is another one since, that one is on its way itself.
        let Some(ours) = ours.filter(|_| self.writing.unkept.contains(&service)) else { return };
        if !is_kept {
            return self.keep_taken(service, ours.clone(), false);
        }
        self.writing.unkept.remove(&service);
        self.tell_writer(&service);
        self.see_standing();
    }

    /// Another node was told, or has heard, who is to write.
    pub(super) fn hear_writer(&mut self, node: NodeId, service: &str, theirs: &Named) {
        if let Some(next) = theirs.clone().heard(self.writing.named.get(service)) {
            let who = next.owner.clone();
            self.take_writer(service.to_owned(), next, who);
        }
        if let Some(ours) = self.writing.named.get_mut(service) {
            ours.followed(node, theirs);
        }
        self.see_standing();
    }

    /// Looks which words stand from now on.
    pub(super) fn see_standing(&mut self) {
        let now = self.clock.now();
        let Some(peers) = &self.peers else { return };
        let mut standing = Vec::new();
        let Writing { named, unkept, .. } = &mut self.writing;
        for (service, named) in named.iter_mut().filter(|(service, _)| !unkept.contains(*service)) {
            if named.stand(now, &peers.lists.counting, peers.needed()) {
                standing.push((service.clone(), named.clone()));
            }
        }
        for (service, named) in standing {
            self.keep_named(&service, named);
        }
    }

    /// Keeps that a word stands, or that its wait is over.
    fn keep_named(&self, service: &str, named: Named) {
        see_kept("who is to write", self.store.name(service.to_owned(), named));
    }

    /// A node follows no word of a service any more.
    pub(super) fn lose_follower(&mut self, node: NodeId, service: &str) {
        if let Some(named) = self.writing.named.get_mut(service) {
            named.forgotten(node);
        }
    }

    /// A node has started anew: what it follows is not known.
    pub(super) fn forget_follower(&mut self, node: NodeId) {
        self.writing.named.values_mut().for_each(|named| named.forgotten(node));
    }

    /// Tells other nodes what operators said of writers.
    pub(super) fn tell_named(&self) {
        self.writing.named.keys().for_each(|service| self.tell_writer(service));
    }

    /// Tells other nodes whom this one follows, once that is on disk, and not where it goes by
    /// leases: either way it is no part of a majority.
    fn tell_writer(&self, service: &str) {
        let Some(peers) = &self.peers else { return };
        let named = self.writing.named.get(service).filter(|_| !self.is_leased(service));
        if !self.writing.unkept.contains(service) {
            let word = named.and_then(|named| serde_json::to_string(named).ok());
            peers.say(format!("{WRITER}{service}"), word);
        }
    }

    /// Is it etcd that tells who writes?
    fn is_leased(&self, service: &str) -> bool {
        let plan = &self.loaded.plan;
        let of = plan.service_named(service).and_then(|id| plan.services.get(id.index()));
        of.and_then(lease_of) == Some(true)
    }

    /// Why no region writes of a service, where operators name them, or none may soon.
    fn unknown(&self, service: &str, named: Option<&Named>, now: Instant) -> Option<&'static str> {
        match named {
            _ if self.writing.unkept.contains(service) => Some(UNKEPT),
            Some(of) if of.stands() && of.region.is_some() => {
                self.hears_until().is_some_and(|until| until <= now).then_some(UNHEARD)
            }
            _ if self.is_unlisted() => Some(UNLISTED),
            None => Some(UNNAMED),
            Some(of) if !of.stands() => {
                Some("too few nodes are known to have heard who is to write")
            }
            // A lease named the one before.
            Some(of) if of.owner.is_empty() => Some(UNNAMED),
            Some(_) => Some(AT_ODDS),
        }
    }

    /// The services of which one region at a time writes.
    pub(super) fn writers(&self) -> Vec<WriterView> {
        let (plan, facts) = (&self.loaded.plan, self.facts());
        let view = |(id, service): (ServiceId, &Service)| {
            let Policy::SingleWriter(_, lease) = &service.policy else { return None };
            let writer = self.writing.in_force.of(id);
            let leased = self.writing.leased.get(&service.name);
            let named = self.writing.named.get(&service.name);
            let now = self.clock.now();
            let waits = self.writing.all.of(id).map(|of| of.from).filter(|from| *from > now);
            let wanted = leased.and_then(|leased| leased.wanted.clone());
            let named = named.filter(|_| matches!(lease, Lease::Manual));
            let problem = self.writing.problems.get(&service.name).cloned();
            let is_manual = matches!(lease, Lease::Manual);
            let unknown = || self.unknown(&service.name, named, now).map(str::to_owned);
            Some(WriterView {
                service: service.name.clone(),
                leased: matches!(lease, Lease::Kept(_)),
                writer: writer.map(|of| (plan.region_name(of.region).to_owned(), of.epoch)),
                is_down: writer.is_some_and(|of| is_down((id, service), of.region, &facts)),
                newest: self.writing.all.of(id).or(writer).map(|of| of.epoch),
                until: writer.and_then(|of| of.until),
                next_from: leased.and_then(|leased| leased.free_from).or(waits),
                wanted: wanted.or_else(|| named.and_then(|named| named.region.clone())),
                problem: problem
                    .or_else(|| unknown().filter(|_| is_manual))
                    .or_else(|| self.awaited(&service.name).filter(|_| writer.is_none())),
            })
        };
        plan.single_writers().filter_map(view).collect()
    }
}

/// Whether etcd tells which region of a service writes, or operators; `None`: several do.
pub(super) fn lease_of(service: &Service) -> Option<bool> {
    match &service.policy {
        Policy::SingleWriter(_, lease) => Some(matches!(lease, Lease::Kept(_))),
        _ => None,
    }
}
