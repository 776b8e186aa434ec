//! The driver of the way of a fact: probes out, verdicts in, snapshots published.
//!
//! ```text
//! order → prober → report ─┐
//! a new configuration ─────┼→ Monitor → what changed → compile → publish
//! time ────────────────────┘
//! ```
//!
//! One task owns the monitor and everything that is decided; others send it requests and get
//! values back. What it publishes, the sockets' threads read without waiting for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::{counter, gauge, histogram};
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, channel};
use tokio::sync::{oneshot, watch};
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use super::certificate::Newest;
use super::clock::Clock;
use super::load::{Loaded, Refused, What};
use super::prober::Prober;
use super::responder::Published;
use crate::config::Problem;
use crate::health::{Change, HealthTable, Monitor, Outcome, Report, State};
use crate::ids::TargetId;
use crate::rng::Seed;
use crate::snapshot::Snapshot;
use crate::time::Instant;

/// What the control task is asked.
enum Request {
    /// Serve this from now on, or know that it was refused.
    Apply(Box<Result<Loaded, Refused>>, oneshot::Sender<Result<(), Refused>>),
    /// Tell how things are.
    View(oneshot::Sender<View>),
}

/// How things are at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// That moment.
    pub now: Instant,
    /// When the server started.
    pub started: Instant,
    /// Whether the first verdicts are in.
    pub ready: bool,
    /// What is served.
    pub loaded: Arc<Loaded>,
    /// When it was applied.
    pub applied: Instant,
    /// What is answered.
    pub snapshot: Arc<Snapshot>,
    /// What is believed of the targets.
    pub health: HealthTable,
    /// What happened lately, the newest first.
    pub events: Vec<Event>,
    /// What of the newest files on disk is refused.
    pub refused: Vec<(What, Instant, Vec<Problem>)>,
}

/// A target that came up or went down.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// What is believed differently.
    pub change: Change,
    /// The probe that decided.
    pub outcome: Option<Outcome>,
    /// From the first failed probe, if it went down, to the answers that knew of it.
    pub took: Option<Duration>,
}

/// How many events are remembered.
const EVENTS: usize = 200;

/// Reports that are taken at once before what they change is published.
const BURST: usize = 1024;

/// The way to the control task.
#[derive(Clone)]
pub struct Handle {
    requests: Sender<Request>,
    published: Published,
    ready: watch::Receiver<bool>,
}

impl Handle {
    /// What is published.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// Whether the first verdicts are in.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits for the first verdicts, as long as the configuration lets it.
    pub async fn ready(&self) {
        // An error means that the control task has ended, and the server with it.
        let mut ready = self.ready.clone();
        let _ended = ready.wait_for(|ready| *ready).await;
    }

    /// How things are; `None` when the server ends.
    pub async fn view(&self) -> Option<View> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::View(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Serves what was loaded, or tells that it was refused; for threads outside the runtime.
    pub fn apply(&self, loaded: Result<Loaded, Refused>) -> Option<Result<(), Refused>> {
        let (reply, answer) = oneshot::channel();
        self.requests.blocking_send(Request::Apply(Box::new(loaded), reply)).ok()?;
        answer.blocking_recv().ok()
    }
}

/// The control task.
pub(super) struct Control {
    clock: Clock,
    monitor: Monitor,
    prober: Prober,
    reports: UnboundedReceiver<(TargetId, Report)>,
    requests: Receiver<Request>,
    published: Published,
    certificate: Arc<Newest>,
    loaded: Arc<Loaded>,
    applied: Instant,
    started: Instant,
    ready: watch::Sender<bool>,
    events: VecDeque<Event>,
    refused: Vec<(What, Instant, Vec<Problem>)>,
}

impl Control {
    /// A control task that serves `loaded`, and the way to it.
    pub(super) fn new(
        clock: Clock,
        seed: Seed,
        loaded: Loaded,
        (prober, reports): (Prober, UnboundedReceiver<(TargetId, Report)>),
        certificate: Arc<Newest>,
    ) -> (Self, Handle) {
        let now = clock.now();
        let mut monitor = Monitor::new(seed);
        for target in &loaded.config.targets {
            monitor.watch(now, target.id, target.schedule);
        }
        if let Some(newest) = &loaded.certificate {
            certificate.set(newest.clone());
        }
        let first = Snapshot::compile(loaded.plan.clone(), monitor.table(), None, None, 1);
        let published = Arc::new(ArcSwap::from_pointee(first));
        let (sender, requests) = channel(64);
        let (ready, is_ready) = watch::channel(false);
        let handle = Handle { requests: sender, published: published.clone(), ready: is_ready };
        let control = Self {
            clock,
            monitor,
            prober,
            reports,
            requests,
            published,
            certificate,
            loaded: Arc::new(loaded),
            applied: now,
            started: now,
            ready,
            events: VecDeque::new(),
            refused: Vec::new(),
        };
        (control, handle)
    }

    /// Runs until nobody can ask anything any more.
    pub(super) async fn run(mut self) {
        loop {
            self.turn();
            let deadline = self.ready_by().filter(|_| !*self.ready.borrow());
            let wake = [self.monitor.poll_timeout(), deadline].into_iter().flatten().min();
            let wake = wake.map(|moment| self.clock.on_tokio(moment));
            let wait = async {
                match wake {
                    Some(moment) => sleep_until(moment).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((target, report)) = self.reports.recv() => self.take(target, report),
                request = self.requests.recv() => match request {
                    Some(request) => self.serve(request),
                    None => return,
                },
                () = wait => {}
            }
        }
    }

    /// Polls the monitor, in the order that it asks for.
    fn turn(&mut self) {
        self.monitor.handle_timeout(self.clock.now());
        while let Some(order) = self.monitor.poll_probe() {
            self.prober.launch(order, self.loaded.probes.get(&order.target).cloned());
        }
        let changes: Vec<Change> = std::iter::from_fn(|| self.monitor.poll_change()).collect();
        if !changes.is_empty() {
            self.publish(&changes);
        }
        let late = self.ready_by().is_none_or(|deadline| self.clock.now() >= deadline);
        if !*self.ready.borrow() && (late || self.monitor.settled()) {
            self.ready.send_replace(true);
            gauge!("meridian_ready").set(1.0);
        }
    }

    fn ready_by(&self) -> Option<Instant> {
        Some(self.started + self.loaded.config.node.ready_within)
    }

    /// Takes a report, and those that have come with it.
    fn take(&mut self, target: TargetId, report: Report) {
        let mut next = Some((target, report));
        for _ in 0..BURST {
            let Some((target, report)) = next else { break };
            let outcome = report.outcome.label();
            counter!("meridian_probes_total", "outcome" => outcome).increment(1);
            histogram!("meridian_probe_seconds").record(report.latency);
            self.monitor.handle_probe(self.clock.now(), target, report);
            next = self.reports.try_recv().ok();
        }
    }

    /// Decides anew what depends on `changes`, and lets it be answered.
    fn publish(&mut self, changes: &[Change]) {
        let began = self.clock.now();
        let previous = self.published.load_full();
        let mut targets: Vec<TargetId> = changes.iter().map(|change| change.target).collect();
        targets.sort_unstable();
        targets.dedup();
        self.published.store(Arc::new(Snapshot::compile(
            self.loaded.plan.clone(),
            self.monitor.table(),
            Some(&previous),
            Some(&targets),
            previous.generation() + 1,
        )));
        let now = self.clock.now();
        histogram!("meridian_publish_seconds").record(now.since(began));
        for change in changes.iter().filter(|change| change.from != change.to) {
            self.tell(*change, now);
        }
    }

    /// Logs and remembers that a target came up or went down.
    fn tell(&mut self, change: Change, published: Instant) {
        let last = self.monitor.table().get(change.target).last;
        let outcome = last.map(|(_, report)| report.outcome);
        let took = change.failing_since.map(|since| published.since(since));
        let target = self.loaded.config.targets.iter().find(|target| target.id == change.target);
        let target = target.map(|of| format!("{} port {}", of.address, of.check.port()));
        let target = target.unwrap_or_default();
        match (change.from, change.to) {
            (_, State::Down) => {
                let why = outcome.map(|outcome| outcome.to_string()).unwrap_or_default();
                let took = took.unwrap_or_default();
                // What was never up had no clients to move.
                if change.from == State::Up {
                    histogram!("meridian_failover_seconds").record(took);
                }
                let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                warn!(endpoint = %target, %why, took_ms, "down");
            }
            // The first verdict that is good is what everybody expects of everything.
            (State::Unknown, _) => {
                debug!(endpoint = %target, "up");
                return;
            }
            (from, to) => info!(endpoint = %target, was = %from, "{to}"),
        }
        self.events.push_front(Event { change, outcome, took });
        self.events.truncate(EVENTS);
    }

    fn serve(&mut self, request: Request) {
        match request {
            // Who asked may have stopped waiting.
            Request::View(reply) => {
                let _gone = reply.send(self.view());
            }
            Request::Apply(loaded, reply) => {
                let result = loaded.and_then(|loaded| self.apply(loaded));
                self.account(&result);
                let _gone = reply.send(result);
            }
        }
    }

    fn view(&self) -> View {
        View {
            now: self.clock.now(),
            started: self.started,
            ready: *self.ready.borrow(),
            loaded: self.loaded.clone(),
            applied: self.applied,
            snapshot: self.published.load_full(),
            health: self.monitor.table().clone(),
            events: self.events.iter().copied().collect(),
            refused: self.refused.clone(),
        }
    }

    /// Serves `loaded` from now on, unless a name that is answered now would have no answer.
    fn apply(&mut self, loaded: Loaded) -> Result<(), Refused> {
        let lost = self.loaded.plan.names_lost_in(&loaded.plan);
        let lost = lost.into_iter().filter(|name| !loaded.config.retired.contains(name));
        let problem = |name| {
            let what = format!(
                "{name} is answered now and would have no record; to let it go, put it under \
                 `retired`"
            );
            Problem::of_file(&loaded.file, what)
        };
        let problems: Vec<Problem> = lost.map(problem).collect();
        if !problems.is_empty() {
            return Err(Refused { what: What::Configuration, problems });
        }
        for key in loaded.config.needs_restart(&self.loaded.config) {
            warn!(key, "changed, which counts from the next start on; restart the node for it");
        }
        let now = self.clock.now();
        let gone: Vec<TargetId> =
            self.monitor.targets().filter(|id| !loaded.probes.contains_key(id)).collect();
        for target in &loaded.config.targets {
            self.monitor.watch(now, target.id, target.schedule);
        }
        if let Some(newest) = &loaded.certificate {
            self.certificate.set(newest.clone());
        }
        let previous = self.published.load_full();
        self.published.store(Arc::new(Snapshot::compile(
            loaded.plan.clone(),
            self.monitor.table(),
            Some(&previous),
            None,
            previous.generation() + 1,
        )));
        for target in gone {
            self.monitor.forget(target);
        }
        self.loaded = Arc::new(loaded);
        self.applied = now;
        Ok(())
    }

    /// Counts what became of an attempt to serve something else, and remembers what is refused.
    fn account(&mut self, result: &Result<(), Refused>) {
        let count = |what: What, outcome: &'static str| {
            let what = what.label();
            counter!("meridian_reloads_total", "what" => what, "outcome" => outcome).increment(1);
        };
        self.refused.clear();
        match result {
            Ok(()) => What::ALL.into_iter().for_each(|what| count(what, "applied")),
            Err(refused) => {
                count(refused.what, "refused");
                let problems = refused.problems.clone();
                self.refused.push((refused.what, self.clock.now(), problems));
            }
        }
        for what in What::ALL {
            let is_refused = self.refused.iter().any(|(refused, ..)| *refused == what);
            let value = if is_refused { 1.0 } else { 0.0 };
            gauge!("meridian_reload_refused", "what" => what.label()).set(value);
        }
    }
}
