//! The way to the control task: requests in, values out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedMutexGuard, oneshot, watch};
use tokio::time::timeout;

use super::arrivals::{Arrivals, Signal, Signals};
use super::clock::Clock;
use super::cluster::{Hearing, Unopened};
use super::control::{Absent, Condition, Next, NodeView, WriterView};
use super::etcd::{WISH_PATIENCE, Wish};
use super::exposure::Exposure;
use super::history::Record;
use super::limiter::Limiter;
use super::load::{Loaded, Refused, What};
use super::overrides::{Impact, REMEMBERED, Said};
use super::prober::{Complained, Prober, Pushed};
use super::responder::{Answers, Published};
use super::sample::Sample;
use super::store::{Recalled, Store};
use super::takeover::Desk;
use crate::cluster::{Heard, LONGEST_PART, Stamp};
use crate::config::Subject;
use crate::config::{Problem, Target};
use crate::convergence::Seen;
use crate::health::{Check, HealthTable, Outcome, State};
use crate::ids::TargetId;
use crate::snapshot::Snapshot;
use crate::steer::{Facts, Holds, InForce, Leased, Named, Naming, Writers};
use crate::time::Instant;

#[cfg(test)]
mod tests;

/// What the control task is asked.
pub(super) enum Request {
    /// Serve this from now on, or know that it was refused.
    Apply(Box<Result<Loaded, Refused>>, oneshot::Sender<Result<(), Refused>>),
    /// Let go of snapshots that are not answered from any more: is none of them left?
    LetGo(oneshot::Sender<bool>),
    /// Tell how things are.
    View(oneshot::Sender<View>),
    /// Tell what is served at this moment.
    Loaded(oneshot::Sender<(Instant, Arc<Loaded>)>),
    /// Other nodes say something.
    Heard(Vec<Heard>),
    /// This process speaks for the node now, and this is what the one that did has kept.
    Recalled(Box<Recalled>),
    /// Who is heard is not who was before.
    Peers(Hearing),
    /// Tell what an operator's word would do, once it has reached everybody.
    Weigh(Box<Said>, oneshot::Sender<Result<(Said, Impact), String>>),
    /// Follow it, on whose behalf; it is on disk.
    Say(Box<Said>, String, oneshot::Sender<Result<(), String>>),
    /// A node agrees again, and what it cost that it did not.
    Agreed(String, String),
    /// What etcd has of a service's writer, or why that is not known.
    Leased(String, Result<Leased, String>),
    /// Tell what is to be done so that another region writes.
    NextWriter(Naming, oneshot::Sender<Result<Next, String>>),
    /// etcd was told who is to write, on whose behalf.
    Wanted(Naming, String),
    /// Follow what is on disk, on whose behalf.
    NameWriter(String, Box<Named>, String, oneshot::Sender<()>),
    /// Who is to write for a service, as other nodes told, is on disk; or could not be kept.
    KeptWriter(String, Box<Named>, bool),
    /// Let a service's region back that waits for an operator: who says so, and why.
    Release(Subject, String, String, oneshot::Sender<Result<(), Unheard>>),
    /// Tell when the first verdicts are in that come by this node's own probes.
    Sees(oneshot::Sender<()>),
    /// This process speaks to the other nodes from now on, and not the one before it.
    Speaks,
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
    /// From when on they are, and this process answers alone.
    pub answering: Instant,
    /// What is served.
    pub loaded: Arc<Loaded>,
    /// When it was applied.
    pub applied: Instant,
    /// What is answered.
    pub snapshot: Arc<Snapshot>,
    /// What is believed of the targets.
    pub health: HealthTable,
    /// Why nothing is known of what was kept before the start.
    pub lost: Option<String>,
    /// Why what happened last could not be kept, or is not yet, and where.
    pub unkept: Option<String>,
    /// For how long what is to be kept has been waiting for the disk.
    pub unkept_for: Duration,
    /// What operators have said.
    pub said: Vec<Said>,
    /// What of that is in force.
    pub overrides: InForce,
    /// What is held back or kept.
    pub holds: Holds,
    /// Which regions write.
    pub writing: Writers,
    /// Whether it hears too few others to decide, from the first moment on.
    pub is_isolated: bool,
    /// Which regions write, to be shown.
    pub writers: Vec<WriterView>,
    /// Which services' regions are in no answer.
    pub absent: BTreeMap<(String, String), Absent>,
    /// What programs said before they failed.
    pub(super) complaints: Complained,
    /// What endpoints tell of themselves.
    pub signals: Signals,
    /// What the node thinks of itself.
    pub condition: Condition,
    /// How many targets are stale.
    pub stale: usize,
    /// By how many seconds the wall clock is ahead of the node's.
    pub clock_off: f64,
    /// The nodes that decide together; none, if this one is alone.
    pub nodes: Vec<NodeView>,
    /// Where those of them are whose packets the cluster's key does not open.
    pub unopened: BTreeSet<SocketAddr>,
    /// Who sees what of the targets on which they are not of one mind.
    pub disputes: Vec<(TargetId, Vec<(String, State)>)>,
    /// What happened lately, the newest first.
    pub events: Vec<Record>,
    /// What of the newest files on disk is refused.
    pub refused: Vec<(What, Instant, Vec<Problem>)>,
    /// The keys whose changes count from the next start on.
    pub pending: Vec<&'static str>,
}

impl View {
    /// What the snapshot was compiled from.
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            overrides: &self.overrides,
            holds: &self.holds,
            writers: &self.writing,
            is_isolated: self.is_isolated,
            ..Facts::of(&self.health)
        }
    }

    /// The targets whose certificate ends soon.
    pub(super) fn ending(&self) -> impl Iterator<Item = &Target> {
        self.loaded.config.targets.iter().filter(|of| {
            let last = self.health.get(of.id).last;
            last.is_some_and(|(_, report)| report.outcome == Outcome::Ending)
        })
    }
}

/// The way to the control task.
#[derive(Clone)]
pub struct Handle {
    pub(super) requests: Sender<Request>,
    pub(super) published: Published,
    pub(super) ready: watch::Receiver<bool>,
    pub(super) condition: watch::Receiver<Condition>,
    pub(super) store: Store,
    pub(super) pushed: Pushed,
    pub(super) arrivals: Arrivals,
    /// Some of the queries that were answered lately.
    pub(super) sample: Sample,
    /// The answers that may still be remembered.
    pub(super) exposure: Exposure,
    /// Where operators are heard.
    pub(super) desk: Arc<Desk>,
    /// Where nodes are whose packets the cluster's key does not open.
    pub(super) unopened: Unopened,
}

/// Why an operator's word is not followed.
#[derive(Debug)]
pub enum Unheard {
    /// It makes no sense here.
    Senseless(String),
    /// It would leave these services with nothing that is up.
    Dangerous(Vec<String>),
    /// It cannot be kept.
    Unkept(String),
    /// Who keeps it did not answer, so that nobody knows whether it is kept.
    Unknown(String),
    /// It is followed, and cannot be kept.
    Unwritten(String),
    /// Another word came meanwhile, and counts: this is how it is now.
    Overruled(String),
    /// Its turn does not come, for this reason.
    Busy(String),
    /// The server stops.
    Stopping,
}

impl Handle {
    /// The way to a control task: by what it is asked, what it publishes, and what it tells of
    /// itself at any time.
    pub(super) fn new(
        (requests, published, (ready, condition)): (
            Sender<Request>,
            Published,
            (watch::Receiver<bool>, watch::Receiver<Condition>),
        ),
        store: Store,
        prober: &Prober,
    ) -> Self {
        Self {
            requests,
            published,
            ready,
            condition,
            store,
            pushed: prober.pushed().clone(),
            arrivals: prober.arrivals().clone(),
            sample: Sample::default(),
            exposure: Exposure::default(),
            desk: Arc::default(),
            unopened: Unopened::default(),
        }
    }

    /// What is published.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// Whether the first verdicts are in, it is known who writes, and somebody still decides.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow() && !self.requests.is_closed()
    }

    /// What the node thinks of itself.
    pub(super) fn condition(&self) -> Condition {
        *self.condition.borrow()
    }

    /// Waits for the first verdicts that come by itself alone, as long as the configuration lets
    /// it.
    pub(super) async fn sees(&self) {
        let (reply, seen) = oneshot::channel();
        // Else the control task has ended, and the server with it.
        if self.requests.send(Request::Sees(reply)).await.is_ok() {
            let _ended = seen.await;
        }
    }

    /// This process speaks to the other nodes from now on.
    pub(super) async fn speaks(&self) {
        // The server ends, if nobody is told.
        let _ended = self.requests.send(Request::Speaks).await;
    }

    /// Waits until the control task has ended, which holds the other end.
    pub(super) async fn undecided(&self) {
        self.requests.closed().await;
    }

    /// Waits until all is known that answers need, as long as the configuration lets it.
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

    /// What `said` would do, once it has reached everybody.
    ///
    /// # Errors
    /// It makes no sense.
    pub async fn weigh(&self, said: Said) -> Result<Impact, Unheard> {
        self.stamp(said).await.map(|(_, impact)| impact)
    }

    /// The same; also `said` with its stamp, as it is to be followed.
    async fn stamp(&self, said: Said) -> Result<(Said, Impact), Unheard> {
        let (reply, answer) = oneshot::channel();
        let asked = self.requests.send(Request::Weigh(Box::new(said), reply)).await;
        asked.map_err(|_| Unheard::Stopping)?;
        let weighed = answer.await.map_err(|_| Unheard::Stopping)?;
        let (said, impact) = weighed.map_err(Unheard::Senseless)?;
        can_be_told(&said.spoken())?;
        Ok((said, impact))
    }

    /// Follows an operator's word, on behalf of `who`: when this returns, it is on disk and in the
    /// answers. `force`: even if it leaves services with nothing.
    ///
    /// # Errors
    /// It makes no sense, is refused, or cannot be kept; then nothing has changed. Or another
    /// node's word on the same subject came meanwhile, and counts.
    pub async fn say(&self, said: Said, who: String, force: bool) -> Result<Impact, Unheard> {
        let turn = self.desk.turn().await.map_err(Unheard::Busy)?;
        let (said, impact) = self.stamp(said).await?;
        if !force && !impact.left_with_nothing.is_empty() {
            return Err(Unheard::Dangerous(impact.left_with_nothing));
        }
        let Self { requests, store, .. } = self.clone();
        seen_through(turn, async move {
            store.say(said.clone()).await.map_err(Unheard::Unkept)?;
            let (reply, done) = oneshot::channel();
            let followed = requests.send(Request::Say(Box::new(said), who, reply)).await;
            followed.map_err(|_| Unheard::Stopping)?;
            done.await.map_err(|_| Unheard::Stopping)?.map_err(Unheard::Overruled)?;
            Ok(impact)
        })
        .await
    }

    /// Takes back what was said of `subject`, the same way.
    ///
    /// # Errors
    /// Nothing was said of it, or that cannot be forgotten; then nothing has changed.
    pub async fn clear(
        &self,
        subject: Subject,
        (owner, who): (String, String),
        reason: String,
    ) -> Result<(), Unheard> {
        let view = self.view().await.ok_or(Unheard::Stopping)?;
        // What is planned has no stamp: it is said in the configuration.
        let of = view.said.iter().filter(|said| said.subject == subject);
        let (planned, said): (Vec<_>, Vec<_>) = of.partition(|said| said.stamp == Stamp::default());
        if said.is_empty() {
            let planned = planned.first().map(|of| {
                format!(
                    " but {}, in the configuration: it ends when it is taken out there; until \
                     then `ctl up {subject}` goes over it, and over the probes",
                    of.reason
                )
            });
            let planned = planned.unwrap_or_default();
            return Err(Unheard::Senseless(format!("nothing is said of {subject}{planned}")));
        }
        let (since, until) = (view.now, Some(view.now + REMEMBERED));
        let (word, ended, ramp) = (None, false, None);
        let (stamp, beside) = (Stamp::default(), Vec::new());
        let said = Said { subject, word, ended, reason, owner, since, until, ramp, stamp, beside };
        self.say(said, who, true).await.map(drop)
    }

    /// Lets another region write, on behalf of `who`: when this returns, that is on disk or in
    /// etcd, and followed.
    ///
    /// # Errors
    /// It makes no sense, or cannot be kept.
    pub async fn name(&self, naming: Naming, who: String) -> Result<(), Unheard> {
        let turn = self.desk.turn().await.map_err(Unheard::Busy)?;
        let (reply, next) = oneshot::channel();
        let asked = self.requests.send(Request::NextWriter(naming.clone(), reply)).await;
        asked.map_err(|_| Unheard::Stopping)?;
        let next = next.await.map_err(|_| Unheard::Stopping)?.map_err(Unheard::Senseless)?;
        match next {
            Next::Manual(named) => {
                let service = naming.service;
                // Text and numbers can always be written.
                can_be_told(&serde_json::to_string(&named).unwrap_or_default())?;
                let Self { requests, store, .. } = self.clone();
                seen_through(turn, async move {
                    let kept = store.name(service.clone(), (*named).clone()).await;
                    kept.map_err(Unheard::Unkept)?;
                    let (reply, done) = oneshot::channel();
                    let followed = Request::NameWriter(service, named, who, reply);
                    requests.send(followed).await.map_err(|_| Unheard::Stopping)?;
                    done.await.map_err(|_| Unheard::Stopping)
                })
                .await
            }
            Next::Leased(wishes) => {
                // It is in etcd's keeping: what else is said need not wait for that.
                drop(turn);
                let (reply, done) = oneshot::channel();
                let granted = async {
                    let wish = Wish { naming, who, reply };
                    wishes.send(wish).await.map_err(|_| Unheard::Stopping)?;
                    done.await.map_err(|_| Unheard::Stopping)?
                };
                let late = |_| Err(Unheard::Unknown("etcd does not answer in time".to_owned()));
                timeout(WISH_PATIENCE, granted).await.unwrap_or_else(late)
            }
        }
    }

    /// Lets a service's region back that waits for an operator.
    ///
    /// When this returns, it is on disk and in this node's answers.
    ///
    /// # Errors
    /// It does not wait, or that it does not any more cannot be kept.
    pub async fn release(&self, subject: Subject, who: String, why: String) -> Result<(), Unheard> {
        let turn = self.desk.turn().await.map_err(Unheard::Busy)?;
        let requests = self.requests.clone();
        seen_through(turn, async move {
            let (reply, done) = oneshot::channel();
            let asked = requests.send(Request::Release(subject, who, why, reply)).await;
            asked.map_err(|_| Unheard::Stopping)?;
            done.await.map_err(|_| Unheard::Stopping)?
        })
        .await
    }

    /// For so long, an address is up or down as far as the check goes that is called so, and
    /// `signal` is true of it.
    ///
    /// # Errors
    /// No such check is made of the address, or another process is about to take this one's place.
    pub async fn push(
        &self,
        (check, address): (String, IpAddr),
        (is_up, signal): (bool, Signal),
        span: Duration,
    ) -> Result<(), Unheard> {
        // Whoever takes this process's place would not know of it.
        let _turn = self.desk.turn().await.map_err(Unheard::Busy)?;
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Loaded(reply)).await.map_err(|_| Unheard::Stopping)?;
        let (now, loaded) = answer.await.map_err(|_| Unheard::Stopping)?;
        let is_it = |target: &&Target| {
            target.address == address
                && matches!(&target.check, Check::Pushed { name, .. } if **name == *check)
        };
        let Some(target) = loaded.config.targets.iter().find(is_it) else {
            let what = format!("no endpoint at {address} has a check `pushed` called {check}");
            return Err(Unheard::Senseless(what));
        };
        self.arrivals.tell(now, target.id, signal, span);
        let pushing = ((check, address), (is_up, now + span));
        self.store.pushed(now, pushing.clone());
        self.pushed.tell(now, pushing);
        Ok(())
    }

    /// What a thread that answers needs.
    pub(super) fn answers(&self, clock: Clock) -> Answers {
        let Self { published, sample, exposure, .. } = self.clone();
        Answers { published, clock, sample, exposure, limiter: Limiter::new() }
    }

    /// For how long resolvers went on with what they were told.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.exposure.seen()
    }

    /// What outlives the process.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Serves what was loaded, or tells that it was refused; for threads outside the runtime.
    pub fn apply(&self, loaded: Result<Loaded, Refused>) -> Option<Result<(), Refused>> {
        let (reply, answer) = oneshot::channel();
        self.requests.blocking_send(Request::Apply(Box::new(loaded), reply)).ok()?;
        answer.blocking_recv().ok()
    }

    /// Lets go at `now` of what is not answered from any more, and tells whether nothing of it is
    /// left; for threads outside the runtime.
    pub(super) fn let_go(&self, now: Instant) -> Option<bool> {
        let is_settled = self.exposure.settle(now);
        let (reply, answer) = oneshot::channel();
        self.requests.blocking_send(Request::LetGo(reply)).ok()?;
        answer.blocking_recv().ok().map(|is_all_gone| is_settled && is_all_gone)
    }
}

/// Sees to its end what begins to be kept, whether anybody still waits for it or not: what is on
/// disk and not followed would come alive at the next start.
async fn seen_through<T: Send + 'static>(
    turn: OwnedMutexGuard<()>,
    doing: impl Future<Output = Result<T, Unheard>> + Send + 'static,
) -> Result<T, Unheard> {
    let done = tokio::spawn(async move {
        let done = doing.await;
        drop(turn);
        done
    });
    // Else the server ends.
    done.await.unwrap_or(Err(Unheard::Stopping))
}

/// Whether nodes can tell each other what is `spoken`: a word that only one of them follows would
/// part them for good.
fn can_be_told(spoken: &str) -> Result<(), Unheard> {
    let length = spoken.len();
    if length > LONGEST_PART {
        return Err(Unheard::Senseless(format!(
            "written as nodes tell it to each other, it takes {length} octets, and at most \
             {LONGEST_PART} can be told; give a shorter reason or owner, without control characters"
        )));
    }
    Ok(())
}
