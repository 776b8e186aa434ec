//! Leases of single writers, in etcd.
//!
//! ```text
//! SERVICE/writer   who writes: region, epoch, TTL. It lives as long as its lease
//! SERVICE/last     who was the last to write. It stays
//! SERVICE/wanted   whom an operator wants next
//! ```
//!
//! What is done with them is decided in `steer`; here etcd is spoken with.
//!
//! It speaks etcd's JSON (the gateway that every member serves beside gRPC): the client library
//! would need a compiler of protocol buffers wherever Meridian is built.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use metrics::gauge;
use reqwest::{Certificate, Client, Identity};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::clock::Clock;
use super::files::read;
use super::handle::{Request, Unheard};
use super::webhooks::causes;
use crate::config::{Etcd, Problem};
use crate::steer::{
    ASK_EVERY, ASK_PATIENCE, Contest, Found, Leased, Naming, Renewal, Turn, Vacancy, Written,
};

/// What an operator wants.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) naming: Naming,
    /// On whose behalf it is said.
    pub(super) who: String,
    pub(super) reply: oneshot::Sender<Result<(), Unheard>>,
}

/// For how long an operator's wish waits for etcd: whoever says it by `meridian ctl` hears why
/// before they give up.
pub(super) const WISH_PATIENCE: Duration = Duration::from_secs(3);

/// How many services are asked about at once. Each answer takes a way to etcd and back, or three
/// where a writer is named, which may be long: one after the other, they would come too late.
const AT_ONCE: usize = 32;

/// The task that asks.
pub(super) struct Leases {
    clock: Clock,
    store: Arc<Gateway>,
    contests: watch::Receiver<Vec<Contest>>,
    control: mpsc::Sender<Request>,
    wishes: mpsc::Receiver<Wish>,
}

impl Leases {
    pub(super) fn new(
        clock: Clock,
        store: Gateway,
        (contests, wishes): (watch::Receiver<Vec<Contest>>, mpsc::Receiver<Wish>),
        control: mpsc::Sender<Request>,
    ) -> Self {
        Self { clock, store: Arc::new(store), contests, control, wishes }
    }

    /// Asks until the server ends.
    pub(super) async fn run(self) {
        let Self { clock, store, contests, control, wishes } = self;
        let granted = Notify::new();
        let (wished, told) = (contests.clone(), control.clone());
        let looks = Looks { clock, store: store.clone(), contests, control };
        tokio::select! {
            () = looks.run(&granted) => {}
            () = grant_all(wishes, &store, (&wished, &told), &granted) => {}
        }
    }
}

/// Finds out who writes, again and again.
struct Looks {
    clock: Clock,
    store: Arc<Gateway>,
    contests: watch::Receiver<Vec<Contest>>,
    control: mpsc::Sender<Request>,
}

impl Looks {
    async fn run(mut self, granted: &Notify) {
        // Until it is known what there is to look after.
        if self.contests.changed().await.is_err() {
            return;
        }
        let mut ticks = interval(ASK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut vacancies = HashMap::new();
        let mut is_late = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = granted.notified() => {}
            }
            let began = self.clock.now();
            let contests = self.contests.borrow_and_update().clone();
            let shortest = contests.iter().map(|contest| contest.lease).min();
            if !self.look_at(contests, &mut vacancies).await {
                return;
            }
            is_late = tell_late(is_late, self.clock.now().since(began), shortest);
        }
    }

    /// Looks at all, some at once; `false`: nobody wants to know any more.
    async fn look_at(
        &self,
        contests: Vec<Contest>,
        vacancies: &mut HashMap<String, Vacancy>,
    ) -> bool {
        let mut contests = contests.into_iter();
        let mut looking = JoinSet::new();
        loop {
            for contest in contests.by_ref().take(AT_ONCE - looking.len()) {
                let vacancy = vacancies.get(&contest.service).copied().unwrap_or_default();
                looking.spawn(look(self.clock, self.store.clone(), contest, vacancy));
            }
            let Some(seen) = looking.join_next().await else { return true };
            // One that fails by a bug is looked at again.
            let Ok((service, vacancy, leased)) = seen else { continue };
            vacancies.insert(service.clone(), vacancy);
            if self.control.send(Request::Leased(service, leased)).await.is_err() {
                return false;
            }
        }
    }
}

/// Finds out who writes; renews it, or names the next one, if that is this node's to do. Also tells
/// what is known of the writer's absence then.
async fn look(
    clock: Clock,
    store: Arc<Gateway>,
    contest: Contest,
    mut vacancy: Vacancy,
) -> (String, Vacancy, Result<Leased, String>) {
    let leased = async {
        let found = store.find(&contest.service).await?;
        let now = clock.now();
        let (free_from, next) = match vacancy.turn(now, &contest, &found) {
            Turn::Held { written, lease, renewal } => {
                let left = store.time_left(lease, renewal, contest.lease).await?;
                return Ok(Leased::held(written, now, left, found.wanted));
            }
            Turn::Vacant { free_from, next } => (free_from, next),
        };
        let named = match next {
            Some(next) => store.name(&contest, &found, &next, false).await?,
            None => None,
        };
        Ok(match named {
            Some((written, left)) => {
                let wanted = Some(written.region.clone());
                Leased::held(written, now, left, wanted)
            }
            None => Leased { holder: None, free_from: Some(free_from), wanted: found.wanted },
        })
    };
    let leased = leased.await;
    (contest.service, vacancy, leased)
}

/// Whether it took so long to look at all that leases may run out before they are looked at again;
/// tells when that begins or ends.
fn tell_late(was_late: bool, took: Duration, shortest: Option<Duration>) -> bool {
    let is_late = shortest.is_some_and(|lease| took > lease / 3);
    gauge!("meridian_leases_late").set(if is_late { 1.0 } else { 0.0 });
    match (was_late, is_late, shortest) {
        (false, true, Some(lease)) => warn!(
            ?took,
            shortest = ?lease,
            "to ask etcd about all writers takes longer than a third of the shortest lease: they \
             may run out; bring etcd nearer, or make `lease` longer"
        ),
        (true, false, _) => info!(?took, "etcd tells about all writers in time again"),
        _ => {}
    }
    is_late
}

/// Does what operators want, as long as they wait for it: who gave up has been told that nobody
/// knows. What is done is told to `control`.
async fn grant_all(
    mut wishes: mpsc::Receiver<Wish>,
    store: &Gateway,
    (contests, control): (&watch::Receiver<Vec<Contest>>, &mpsc::Sender<Request>),
    granted: &Notify,
) {
    while let Some(Wish { naming, who, mut reply }) = wishes.recv().await {
        let contest = contests.borrow().iter().find(|of| of.service == naming.service).cloned();
        let granting = async {
            let gone = || Unheard::Unkept("the service is no longer there".to_owned());
            grant(store, &contest.ok_or_else(gone)?, &naming).await
        };
        tokio::select! {
            biased;
            () = reply.closed() => {}
            done = granting => {
                granted.notify_one();
                if done.is_ok() {
                    // Else the server ends.
                    let _gone = control.send(Request::Wanted(naming, who)).await;
                }
                // Who asked may stop waiting just now.
                let _gone = reply.send(done);
            }
        }
    }
}

/// Does what an operator wants.
async fn grant(store: &Gateway, contest: &Contest, naming: &Naming) -> Result<(), Unheard> {
    if !naming.fenced {
        return store.want(&contest.service, &naming.region).await;
    }
    let found = store.find(&contest.service).await.map_err(Unheard::Unkept)?;
    let named = store.name(contest, &found, &naming.region, true).await?;
    named.map(drop).ok_or_else(faster)
}

/// What is said to an operator whose word came after another one.
fn faster() -> Unheard {
    Unheard::Unkept("somebody else was faster; look again".to_owned())
}

/// Why etcd did not do what it was told.
#[derive(Debug)]
struct Undone {
    why: String,
    /// It was told, so that it may have done it, or do it yet.
    is_open: bool,
}

impl From<Undone> for String {
    fn from(undone: Undone) -> Self {
        undone.why
    }
}

impl From<Undone> for Unheard {
    fn from(Undone { why, is_open }: Undone) -> Self {
        if is_open { Self::Unknown(why) } else { Self::Unkept(why) }
    }
}

/// etcd's JSON over HTTP.
#[derive(Debug)]
pub(super) struct Gateway {
    client: Client,
    of: Etcd,
    /// The member that answered last.
    answering: AtomicUsize,
}

impl Gateway {
    /// Paths are relative to `folder`.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub(super) fn new(of: &Etcd, folder: &Path) -> Result<Self, Problem> {
        // TLS needs its provider, also where no TLS is spoken.
        let _installed_already = rustls::crypto::ring::default_provider().install_default();
        let wrong = |path: &Path, what| Problem::of_file(&path.display().to_string(), what);
        // No proxy of the environment is asked: who stands in between decides who writes.
        let mut client = Client::builder().timeout(ASK_PATIENCE).no_proxy();
        if let Some(path) = of.ca.as_ref().map(|path| folder.join(path)) {
            let octets = read(&path).map_err(|reason| wrong(&path, reason))?;
            let roots = Certificate::from_pem_bundle(&octets);
            let roots = roots.map_err(|error| wrong(&path, causes(&error)))?;
            if roots.is_empty() {
                let what = "there is no certificate in it; expected PEM, of etcd's authority";
                return Err(wrong(&path, what.to_owned()));
            }
            client = client.tls_certs_only(roots);
        }
        if let Some(path) = of.identity.as_ref().map(|path| folder.join(path)) {
            let octets = read(&path).map_err(|reason| wrong(&path, reason))?;
            let identity = Identity::from_pem(&octets);
            let identity = identity.map_err(|error| wrong(&path, causes(&error)))?;
            client = client.identity(identity);
        }
        let client = client.build().map_err(|error| wrong(Path::new("etcd"), causes(&error)))?;
        Ok(Self { client, of: of.clone(), answering: AtomicUsize::new(0) })
    }

    /// Asks one member after the other until one answers, the one first that did so last: one that
    /// is silent is not waited for each time.
    async fn ask<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Undone> {
        let (mut problems, mut is_open) = (Vec::new(), false);
        for _ in &self.of.endpoints {
            match self.ask_one(path, body).await {
                Ok(answer) => return Ok(answer),
                Err(problem) => {
                    is_open |= problem.is_open;
                    problems.push(problem.why);
                }
            }
        }
        Err(Undone { why: format!("etcd does not answer: {}", problems.join("; ")), is_open })
    }

    /// Asks the member that answered last; if it does not, the next one is asked next.
    async fn ask_one<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Undone> {
        let unasked = |why| Undone { why, is_open: false };
        let text = serde_json::to_vec(body).map_err(|error| unasked(error.to_string()))?;
        let row = self.answering.load(Ordering::Relaxed);
        let endpoint = self.of.endpoints.get(row);
        let endpoint = endpoint.ok_or_else(|| unasked("it has no members".to_owned()))?;
        let request = self.client.post(format!("{endpoint}/v3/{path}")).body(text);
        let answer = async {
            let answer = request.send().await?.error_for_status()?;
            answer.json::<T>().await
        };
        answer.await.map_err(|error| {
            let next = (row + 1) % self.of.endpoints.len();
            // Others who wait for this member have found that out too.
            let order = Ordering::Relaxed;
            let _moved_on = self.answering.compare_exchange(row, next, order, order);
            let is_open = !error.is_connect();
            Undone { why: format!("{endpoint}: {}", causes(&error.without_url())), is_open }
        })
    }

    fn key(&self, service: &str, what: &str) -> String {
        BASE64_STANDARD.encode(format!("{}{service}/{what}", self.of.prefix))
    }

    async fn find(&self, service: &str) -> Result<Found, String> {
        let folder = format!("{}{service}/", self.of.prefix);
        // All keys that begin so: up to the octet after the slash.
        let end = format!("{}{service}0", self.of.prefix);
        let [key, range_end] = [&folder, &end].map(|key| BASE64_STANDARD.encode(key));
        let answer: Range =
            self.ask("kv/range", &json!({ "key": key, "range_end": range_end })).await?;
        let mut found = Found::default();
        for pair in answer.kvs {
            let decoded = |text: &str| {
                let octets = BASE64_STANDARD.decode(text).ok()?;
                String::from_utf8(octets).ok()
            };
            let (Some(key), Some(value)) = (decoded(&pair.key), decoded(&pair.value)) else {
                return Err(format!("a key below {folder} is no text"));
            };
            let wrong = |_| format!("etcd: {key} holds `{value}`, which nobody of us wrote");
            match key.strip_prefix(&folder) {
                Some("writer") => {
                    let writer = serde_json::from_str(&value).map_err(wrong)?;
                    found.writer = Some((writer, number(&pair.lease)));
                }
                Some("last") => {
                    found.last = Some(serde_json::from_str(&value).map_err(wrong)?);
                    found.revision = number(&pair.mod_revision);
                }
                Some("wanted") => {
                    found.wanted = Some(value);
                    found.wanted_revision = number(&pair.mod_revision);
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// How long a lease lasts at least, once it is renewed, if that is for this node to do.
    async fn time_left(
        &self,
        lease: i64,
        renewal: Renewal,
        length: Duration,
    ) -> Result<Duration, String> {
        let body = json!({ "ID": lease.to_string() });
        if renewal != Renewal::Own {
            let left = duration(&self.ask::<Lived>("lease/timetolive", &body).await?.ttl);
            if !renewal.is_overdue(left, length) {
                return Ok(left);
            }
        }
        Ok(duration(&self.ask::<Kept>("lease/keepalive", &body).await?.result.ttl))
    }

    /// An operator wants this region next, unless another one is wanted since that was looked up: a
    /// member that was told and did not answer may do it yet, after what is said next. So however
    /// many members are told, it is done once; who is told that it cannot be looks it up, as it may
    /// be done already by one that did not answer.
    async fn want(&self, service: &str, region: &str) -> Result<(), Unheard> {
        let found = self.find(service).await.map_err(Unheard::Unkept)?;
        let key = self.key(service, "wanted");
        let put = json!({ "key": key, "value": BASE64_STANDARD.encode(region) });
        let words = json!({
            "compare": [unchanged(&key, found.wanted_revision)],
            "success": [{ "request_put": put }],
        });
        let told = self.ask::<Done>("kv/txn", &words).await;
        if told.as_ref().is_ok_and(|done| done.succeeded) {
            return Ok(());
        }
        // Where it was wanted before, a word that is on its way yet may still be done after it.
        let is_done = |is: Found| {
            is.wanted_revision > found.wanted_revision && is.wanted.as_deref() == Some(region)
        };
        if self.find(service).await.is_ok_and(is_done) {
            return Ok(());
        }
        Err(told.map_or_else(Unheard::from, |_| faster()))
    }

    /// Names the next writer, unless somebody has since `found`, or wants another one since;
    /// `instead`: even if there is one. Tells what is written, and how long its lease lasts.
    async fn name(
        &self,
        contest: &Contest,
        found: &Found,
        region: &str,
        instead: bool,
    ) -> Result<Option<(Written, Duration)>, Undone> {
        // Nobody is named by what is told before the last.
        let unsaid = |why| Undone { why, is_open: false };
        let seconds = contest.lease.as_secs().max(1).to_string();
        let granted = self.ask("lease/grant", &json!({ "TTL": seconds })).await;
        let granted: Granted = granted.map_err(|undone| unsaid(undone.why))?;
        let epoch = contest.next_epoch(found);
        let written = Written { region: region.to_owned(), epoch, ttl: contest.ttl.as_secs() };
        let value = serde_json::to_string(&written).map_err(|error| unsaid(error.to_string()))?;
        let value = BASE64_STANDARD.encode(value);
        let key = |what| self.key(&contest.service, what);
        let mut unless = vec![
            unchanged(&key("last"), found.revision),
            unchanged(&key("wanted"), found.wanted_revision),
        ];
        if !instead {
            unless.push(json!({
                "key": key("writer"), "target": "VERSION", "result": "EQUAL", "version": "0",
            }));
        }
        let wanted = BASE64_STANDARD.encode(region);
        let puts = [
            json!({ "key": key("writer"), "value": value, "lease": granted.id }),
            json!({ "key": key("last"), "value": value }),
            json!({ "key": key("wanted"), "value": wanted }),
        ];
        let puts: Vec<Value> = puts.iter().map(|put| json!({ "request_put": put })).collect();
        let words = json!({ "compare": unless, "success": puts });
        let is_named = self.write(&contest.service, &words, &granted.id).await?;
        if !is_named {
            let body = json!({ "ID": granted.id });
            // It ends by itself, if not by this.
            let _ends = self.ask::<Value>("lease/revoke", &body).await;
        }
        Ok(is_named.then_some((written, duration(&granted.ttl))))
    }

    /// Writes a writer with this `lease`, if what they compare is so; tells whether it was. One
    /// member is asked, once: who asks again for what was done and only not answered is told that
    /// somebody else was faster, and would end the lease by which others answer already. Whether it
    /// was done is then looked up; what is not done by then ends with its lease, if it ever is.
    async fn write(&self, service: &str, words: &Value, lease: &str) -> Result<bool, Undone> {
        let unanswered = match self.ask_one::<Done>("kv/txn", words).await {
            Ok(done) => return Ok(done.succeeded),
            Err(undone) => undone,
        };
        let is_open = unanswered.is_open;
        let found = self.find(service).await.map_err(|why| Undone { why, is_open })?;
        let is_ours = found.writer.is_some_and(|(_, of)| of == number(lease));
        let why = format!("etcd does not answer: {}", unanswered.why);
        is_ours.then_some(true).ok_or(Undone { why, is_open })
    }
}

/// That a key still has the value of this revision; 0: it still has none.
fn unchanged(key: &str, revision: i64) -> Value {
    json!({
        "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string(),
    })
}

/// etcd writes 64-bit numbers as text, and leaves out those that are 0.
fn number(text: &str) -> i64 {
    text.parse().unwrap_or(0)
}

/// Its spans of time are in seconds.
fn duration(seconds: &str) -> Duration {
    Duration::from_secs(u64::try_from(number(seconds)).unwrap_or(0))
}

#[derive(Deserialize)]
struct Range {
    #[serde(default)]
    kvs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Pair {
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    mod_revision: String,
    #[serde(default)]
    lease: String,
}

#[derive(Deserialize)]
struct Granted {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "TTL", default)]
    ttl: String,
}

#[derive(Deserialize)]
struct Lived {
    #[serde(rename = "TTL", default)]
    ttl: String,
}

#[derive(Deserialize)]
struct Kept {
    result: Lived,
}

#[derive(Deserialize)]
struct Done {
    #[serde(default)]
    succeeded: bool,
}
