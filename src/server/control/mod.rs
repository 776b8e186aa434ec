//! The driver of the way of a fact: probes out, verdicts in, snapshots published.
//!
//! ```text
//! order → prober → report ─┐
//! a new configuration ─────┼→ Monitor, overrides → what changed → compile → publish
//! an operator's word, time ┘                                          └→ log, history, state
//! ```
//!
//! One task owns the monitor and everything that is decided; others send it requests and get
//! values back. What it publishes, the sockets' threads read without waiting for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::{counter, histogram};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, WeakSender, channel};
use tokio::sync::{Notify, watch};
use tokio::time::sleep_until;

use crate::config::{AtStart, Problem};
use crate::health::{Change, Electorate, Monitor, Report};
use crate::ids::{ServiceId, TargetId};
use crate::rng::Seed;
use crate::server::certificate::Newest;
use crate::server::clock::Clock;
use crate::server::cluster::Unopened;
use crate::server::exposure::Exposure;
use crate::server::handle::{Handle, Request, View};
use crate::server::history::{Kind, Level, Record};
use crate::server::load::{Loaded, What};
use crate::server::overrides::{self, Said};
use crate::server::prober::{Held, Prober};
use crate::server::responder::Published;
use crate::server::sample::Sample;
use crate::server::store::{Recalled, Store};
use crate::server::webhooks::Webhooks;

use crate::snapshot::{Plan, Snapshot};
use crate::steer::{Facts, Hold, Holds, InForce, Overrides};
use crate::time::Instant;
use absent::{Absents, Begun};
use begin::Begins;
use recalled::{hold, said, watching};
use ttls::Ttls;
use writers::Writing;

mod absent;
mod apply;
mod begin;
mod desk;
mod peers;
mod recalled;
mod tell;
#[cfg(test)]
mod tests;
mod ttls;
mod writers;

pub(super) use absent::Absent;
pub(super) use peers::{Listed, NodeView, Peers};
pub(super) use tell::Condition;
pub(super) use writers::{Next, WriterView};

/// How many events are remembered.
const EVENTS: usize = 200;

/// Reports that are taken at once before what they change is published.
const BURST: usize = 1024;

/// How often the state on disk is told that it is still true: this much older than it was it may
/// look after a crash.
const ALIVE: Duration = Duration::from_secs(5);

/// The control task.
pub(super) struct Control {
    clock: Clock,
    monitor: Monitor,
    prober: Prober,
    reports: UnboundedReceiver<(TargetId, Report)>,
    held: Held,
    hints: UnboundedReceiver<TargetId>,
    requests: Receiver<Request>,
    /// The way back to here, of what takes too long to be done here.
    requests_to_self: WeakSender<Request>,
    published: Published,
    /// What was published before, and somebody may still answer from. The last one who has it
    /// frees it, which takes its time: that is to be nobody who answers.
    replaced: Vec<Arc<Snapshot>>,
    /// Told when something is published, which may have maps to be drawn.
    published_anew: Arc<Notify>,
    certificate: Arc<Newest>,
    loaded: Arc<Loaded>,
    applied: Instant,
    /// What the configuration said at the start of what is read then only.
    at_start: AtStart,
    ready: watch::Sender<bool>,
    begins: Begins,
    /// From when on it is ready, and nobody else answers in its place; or when it was started.
    answering: Instant,
    /// With which TTLs answers may be remembered.
    ttls: Ttls,
    store: Store,
    /// Why nothing is known of what was kept before the start.
    lost: Option<String>,
    /// In the order of subjects.
    said: Vec<Said>,
    /// The maintenance that is on, or comes next.
    planned: Vec<Said>,
    /// The maintenance of which is told that it is on.
    maintained: Vec<Said>,
    overrides: Overrides,
    in_force: InForce,
    /// Whether what is answered knows that too few other nodes are heard.
    is_isolated: bool,
    holds: Holds,
    writing: Writing,
    absent: Absents,
    /// A node of the configuration that is in no list of the start.
    unmet: Option<String>,
    /// Of regions that an operator has begun to empty: what arrived there.
    begun: Begun,
    sample: Sample,
    exposure: Exposure,
    unopened: Unopened,
    /// What of this node's own condition was last told.
    told: watch::Sender<Condition>,
    /// When the state on disk is next told that it is true.
    alive_at: Instant,
    events: VecDeque<Record>,
    refused: Vec<(What, Instant, Vec<Problem>)>,
    webhooks: Webhooks,
    peers: Option<Peers>,
    /// The latest stamp of any word.
    latest: u64,
}

impl Control {
    /// A control task that serves `loaded`, and the way to it.
    pub(super) fn new(
        clock: Clock,
        seed: Seed,
        loaded: Loaded,
        (prober, reports): (Prober, UnboundedReceiver<(TargetId, Report)>),
        (held, hints): (Held, UnboundedReceiver<TargetId>),
        certificate: Arc<Newest>,
        (store, recalled): (Store, Recalled),
    ) -> (Self, Handle) {
        let now = clock.now();
        prober.pushed().recall(now, &recalled.pushed);
        let monitor = watching(seed, &loaded.config, &recalled, now);
        let mut webhooks = Webhooks::new(clock, seed, &loaded.folder, store.clone());
        webhooks.set(&loaded.config.node.name, &loaded.config.webhooks);
        loaded.certificate.iter().for_each(|newest| certificate.set(newest.clone()));
        let holds = hold(&monitor, &loaded, &recalled, now);
        let [said, planned] = [said(&recalled, now), overrides::planned(&loaded.config, now)];
        let overrides = overrides::resolve(&said, &planned, &loaded.meanings);
        let in_force = overrides.at(now);
        let facts = Facts { overrides: &in_force, holds: &holds, ..Facts::of(monitor.table()) };
        let first = Snapshot::compile(loaded.plan.clone(), &facts, None, None, 1);
        let published = Arc::new(ArcSwap::from_pointee(first.drawn()));
        let ((sender, requests), (ready, is_ready)) = (channel(64), watch::channel(false));
        let (told, condition) = watch::channel(Condition::default());
        let way = (sender, published.clone(), (is_ready, condition));
        let handle = Handle::new(way, store.clone(), &prober);
        let control = Self {
            clock,
            monitor,
            prober,
            reports,
            held,
            hints,
            requests,
            requests_to_self: handle.requests.downgrade(),
            published,
            replaced: Vec::new(),
            published_anew: Arc::default(),
            certificate,
            at_start: loaded.config.read_at_start(),
            loaded: Arc::new(loaded),
            applied: now,
            ready,
            begins: Begins::at(now),
            answering: now,
            ttls: Ttls::recalled(recalled.given),
            store,
            lost: recalled.lost,
            latest: said.iter().map(Said::latest).max().unwrap_or(0),
            said,
            planned,
            maintained: Vec::new(),
            overrides,
            in_force,
            is_isolated: false,
            holds,
            writing: Writing::recalled(now, recalled.named),
            absent: Absents::new(),
            unmet: None,
            begun: Begun::new(),
            sample: handle.sample.clone(),
            exposure: handle.exposure.clone(),
            unopened: handle.unopened.clone(),
            told,
            alive_at: now,
            events: VecDeque::new(),
            refused: Vec::new(),
            webhooks,
            peers: None,
        };
        (control, handle)
    }

    /// Tells when something is published, which may have maps to be drawn.
    pub(super) fn published_anew(&self) -> Arc<Notify> {
        self.published_anew.clone()
    }

    /// Decides together with other nodes from now on.
    pub(super) fn join(&mut self, electorate: Electorate, peers: Peers) {
        self.monitor.elect(self.clock.now(), electorate);
        self.peers = Some(peers);
        self.meet();
        self.tell_answers(None);
    }

    /// Runs until nobody can ask anything any more.
    pub(super) async fn run(mut self) {
        self.held.set(self.loaded.config.held());
        self.sample.turn_to(&self.loaded.plan);
        self.note_absent(&self.published.load_full(), None);
        self.tell_lost();
        self.forget_states();
        self.keep_moves();
        loop {
            self.turn();
            let deadline = self.ready_by().filter(|_| !*self.ready.borrow());
            let word = self.overrides.next_change(self.clock.now());
            let hold = self.holds.next_change();
            let writer = self.writing.next_change(self.clock.now());
            let alive = Some(self.alive_at);
            let alone = self.alone_from();
            let wakes = [self.monitor.poll_timeout(), deadline, word, hold, writer, alive, alone];
            let wake = wakes.into_iter().flatten().min().map(|at| self.clock.on_tokio(at));
            let wait = async {
                match wake {
                    Some(moment) => sleep_until(moment).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((target, report)) = self.reports.recv() => self.take(target, report),
                Some(target) = self.hints.recv() => self.monitor.hint(self.clock.now(), target),
                request = self.requests.recv() => match request {
                    Some(request) => self.serve_next(request),
                    None => return,
                },
                () = wait => {}
            }
        }
    }

    /// Polls the monitor, in the order that it asks for.
    fn turn(&mut self) {
        let now = self.clock.now();
        self.monitor.handle_timeout(now);
        while let Some(order) = self.monitor.poll_probe(now) {
            let probe = self.loaded.probes.get(&order.target).cloned();
            if let Some(report) = self.prober.launch(order, probe) {
                self.learn(order.target, report);
            }
        }
        self.expire();
        let changes: Vec<Change> = std::iter::from_fn(|| self.monitor.poll_change()).collect();
        let affected = self.loaded.plan.affected(changes.iter().map(|change| change.target));
        let held = self.follow(&affected);
        self.heed([affected, held].concat());
        self.tell_of(&changes);
        self.tell_of_myself();
        self.tell_others();
        self.tell_condition();
        self.doubt_absent();
        self.tell_agreements();
        self.tell_contests();
        self.replaced.retain(|old| Arc::strong_count(old) > 1);
        self.begin();
        self.tell_alone();
    }

    /// Takes a report, and those that have come with it.
    fn take(&mut self, target: TargetId, report: Report) {
        let mut next = Some((target, report));
        for _ in 0..BURST {
            let Some((target, report)) = next else { break };
            self.learn(target, report);
            next = self.reports.try_recv().ok();
        }
    }

    fn learn(&mut self, target: TargetId, report: Report) {
        counter!("meridian_probes_total", "outcome" => report.outcome.label()).increment(1);
        histogram!("meridian_probe_seconds").record(report.latency);
        self.monitor.handle_probe(self.clock.now(), target, report);
    }

    /// Decides these services anew, and those that another region writes for; or everything, if
    /// another word is in force than before, or this node is cut off or is so no longer.
    fn heed(&mut self, mut affected: Vec<ServiceId>) {
        let now = self.clock.now();
        let in_force = self.overrides.at(now);
        let is_isolated = self.monitor.is_isolated();
        let is_other = (&in_force, is_isolated) != (&self.in_force, self.is_isolated);
        let (written, is_new) = self.follow_writers(now);
        // That answers may be given for longer is no change.
        let is_change = is_new || !affected.is_empty();
        affected.extend(written);
        if is_other {
            self.note_begun(&in_force);
            self.in_force = in_force;
            self.is_isolated = is_isolated;
            self.publish(None, true);
        } else if !affected.is_empty() {
            affected.sort_unstable();
            affected.dedup();
            self.publish(Some(&affected), is_change);
        }
    }

    /// Lets the holds follow health, for these services and for those whose time has come; tells
    /// for which something is held otherwise.
    fn follow(&mut self, affected: &[ServiceId]) -> Vec<ServiceId> {
        let now = self.clock.now();
        let is_due = self.holds.next_change().is_some_and(|at| now >= at);
        let mut which = affected.to_vec();
        which.extend(self.holds.all().filter(|_| is_due).map(|(service, ..)| service));
        which.sort_unstable();
        which.dedup();
        if which.is_empty() {
            return which;
        }
        self.measure();
        let services = &self.loaded.plan.services;
        let known = (self.monitor.table(), &self.in_force);
        let changed = self.holds.follow(now, services, which, known);
        self.keep_moves();
        for id in &changed {
            let kept = self.holds.all().filter(|(of, _, hold)| of == id && *hold == Hold::Kept);
            for (service, region, _) in kept.collect::<Vec<_>>() {
                let what = (self.loaded.plan.pool_name(service, region), "kept".to_owned());
                let why = "down, but `max_moves` regions have left already".to_owned();
                self.tell(Level::Error, Kind::State, what, (why, String::new()), None);
            }
        }
        changed
    }

    /// Finds out how much of the traffic each region has, if that counts.
    fn measure(&mut self) {
        if self.holds.counts_traffic() {
            let clients = self.sample.clients(&self.loaded.plan);
            self.holds.measure(overrides::traffic(&self.published.load(), &clients));
        }
    }

    /// Decides `changed` services anew, or all, and lets that be answered; counted, if it is a
    /// change.
    fn publish(&mut self, changed: Option<&[ServiceId]>, is_change: bool) {
        let began = self.clock.now();
        self.compile(&self.loaded.plan.clone(), changed, is_change);
        self.tell_answers(changed);
        histogram!("meridian_publish_seconds").record(self.clock.now().since(began));
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            overrides: &self.in_force,
            holds: &self.holds,
            writers: &self.writing.in_force,
            is_isolated: self.is_isolated,
            ..Facts::of(self.monitor.table())
        }
    }

    fn compile(&mut self, plan: &Arc<Plan>, changed: Option<&[ServiceId]>, is_change: bool) {
        let previous = self.published.load_full();
        let facts = self.facts();
        let generation = previous.generation() + u64::from(is_change);
        let next = Snapshot::compile(plan.clone(), &facts, Some(&previous), changed, generation);
        self.published.store(Arc::new(next));
        self.published_anew.notify_one();
        self.writing.decided(plan, changed);
        self.note_absent(&previous, changed);
        self.replaced.push(previous);
    }

    /// Serves a request. What others say comes in many small parts: all that has come is heard
    /// before what it changes is published.
    fn serve_next(&mut self, request: Request) {
        let (mut next, mut heard) = (Some(request), Vec::new());
        while heard.len() < BURST
            && let Some(Request::Heard(more)) = next
        {
            heard.extend(more);
            next = self.requests.try_recv().ok();
        }
        self.hear(heard);
        next.into_iter().for_each(|request| self.serve(request));
    }

    fn serve(&mut self, request: Request) {
        match request {
            // What is replaced is let go of in each turn, also in the one after this.
            Request::LetGo(reply) => {
                let _gone = reply.send(self.replaced.is_empty());
            }
            // Who asked may have stopped waiting.
            Request::View(reply) => {
                let _gone = reply.send(self.view());
            }
            Request::Loaded(reply) => {
                let _gone = reply.send((self.clock.now(), self.loaded.clone()));
            }
            Request::Apply(loaded, reply) => {
                let result = loaded.and_then(|loaded| self.apply(loaded));
                self.account(&result);
                let _gone = reply.send(result);
            }
            Request::Weigh(said, reply) => {
                let _gone = reply.send(self.weigh(*said));
            }
            Request::Say(said, who, reply) => self.say_here(*said, who, reply),
            Request::Release(subject, who, why, reply) => {
                self.release(&subject, (who, why), reply);
            }
            Request::Sees(reply) => self.begins.tell(reply),
            Request::Speaks => self.begins.speak(self.clock.now()),
            Request::Leased(service, leased) => self.hear_lease(service, leased),
            Request::Wanted(naming, who) => self.tell_wanted(naming, who),
            Request::NextWriter(naming, reply) => {
                let _gone = reply.send(self.next_writer(&naming));
            }
            Request::NameWriter(service, named, who, reply) => {
                self.name_writer_here(service, *named, who);
                self.heed(Vec::new());
                let _gone = reply.send(());
            }
            Request::KeptWriter(service, named, is_kept) => {
                self.kept_writer(service, &named, is_kept);
            }
            Request::Agreed(node, why) => self.tell_agreed(node, why),
            Request::Heard(heard) => self.hear(heard),
            Request::Recalled(known) => {
                self.recall_words(known.said);
                self.recall_writers(known.named);
            }
            Request::Peers(hearing) => self.see_peers(hearing),
        }
    }

    fn view(&self) -> View {
        let now = self.clock.now();
        let speakers = overrides::speakers(&self.said, &self.planned, &self.loaded.meanings, now);
        View {
            now,
            started: self.begins.at,
            ready: *self.ready.borrow(),
            answering: self.answering,
            loaded: self.loaded.clone(),
            applied: self.applied,
            snapshot: self.published.load_full(),
            health: self.monitor.table().clone(),
            lost: self.lost.clone(),
            unkept: self.store.fault(),
            unkept_for: self.store.waiting(),
            said: {
                let said = self.said.iter().filter(|said| said.word.is_some());
                said.chain(&self.planned).cloned().collect()
            },
            overrides: self.in_force.clone().spoken_by(speakers),
            holds: self.holds.clone(),
            writing: self.writing.in_force.clone(),
            is_isolated: self.is_isolated,
            writers: self.writers(),
            absent: self.absent(),
            complaints: self.prober.complaints().all(),
            signals: self.prober.arrivals().at(self.clock.now()),
            condition: *self.told.borrow(),
            stale: self.monitor.stale(),
            clock_off: self.clock.off(),
            nodes: self.nodes(),
            unopened: self.unopened.at(self.clock.now()),
            disputes: self.disputes(),
            events: self.events.iter().cloned().collect(),
            refused: self.refused.clone(),
            pending: self.pending(&self.loaded.config),
        }
    }
}
