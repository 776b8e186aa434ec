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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::{Certificate, Client, Identity};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::clock::Clock;
use super::files::read;
use super::handle::Request;
use super::webhooks::causes;
use crate::config::{Etcd, Problem};
use crate::steer::{ASK_EVERY, ASK_PATIENCE, Contest, Found, Leased, Turn, Vacancy, Written};

/// What an operator wants.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) service: String,
    pub(super) region: String,
    /// The old writer is known to write no more: it is not waited for.
    pub(super) fenced: bool,
    pub(super) reply: oneshot::Sender<Result<(), String>>,
}

/// The task that asks.
pub(super) struct Leases {
    clock: Clock,
    store: Gateway,
    contests: watch::Receiver<Vec<Contest>>,
    wishes: mpsc::Receiver<Wish>,
    control: mpsc::Sender<Request>,
    vacancies: HashMap<String, Vacancy>,
    /// Whether another process asks for this node.
    quiet: watch::Receiver<bool>,
}

impl Leases {
    pub(super) fn new(
        clock: Clock,
        store: Gateway,
        (contests, wishes): (watch::Receiver<Vec<Contest>>, mpsc::Receiver<Wish>),
        control: mpsc::Sender<Request>,
        quiet: watch::Receiver<bool>,
    ) -> Self {
        Self { clock, store, contests, wishes, control, vacancies: HashMap::new(), quiet }
    }

    /// Asks until the server ends.
    pub(super) async fn run(mut self) {
        let mut ticks = interval(ASK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.quiet.wait_for(|quiet| !quiet).await.is_err() {
                return;
            }
            tokio::select! {
                _ = ticks.tick() => {}
                wish = self.wishes.recv() => {
                    let Some(wish) = wish else { return };
                    let done = self.grant(&wish).await;
                    // Who asked may have stopped waiting.
                    let _gone = wish.reply.send(done);
                }
            }
            let contests = self.contests.borrow().clone();
            for contest in contests {
                let leased = self.look(&contest).await;
                let request = Request::Leased(contest.service, leased);
                if self.control.send(request).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Finds out who writes; renews it, or names the next one, if that is this node's to do.
    async fn look(&mut self, contest: &Contest) -> Result<Leased, String> {
        let found = self.store.find(&contest.service).await?;
        let wanted = found.wanted.clone();
        let vacancy = self.vacancies.entry(contest.service.clone()).or_default();
        let now = self.clock.now();
        match vacancy.turn(now, contest, &found) {
            Turn::Held { written, lease, is_renewed } => {
                let left = self.store.time_left(lease, is_renewed).await?;
                Ok(Leased::held(written, now, left, wanted))
            }
            Turn::Vacant { free_from, next } => {
                if let Some(next) = next {
                    self.store.name(contest, &found, &next, false).await?;
                }
                Ok(Leased { holder: None, free_from: Some(free_from), wanted })
            }
        }
    }

    /// Does what an operator wants.
    async fn grant(&mut self, wish: &Wish) -> Result<(), String> {
        let contests = self.contests.borrow().clone();
        let contest = contests.iter().find(|contest| contest.service == wish.service);
        let contest = contest.ok_or("the service is no longer there")?;
        if !wish.fenced {
            return self.store.want(&wish.service, &wish.region).await;
        }
        let found = self.store.find(&wish.service).await?;
        let is_done = self.store.name(contest, &found, &wish.region, true).await?;
        is_done.then_some(()).ok_or_else(|| "somebody else was faster; look again".to_owned())
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
    async fn ask<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, String> {
        let mut problems = Vec::new();
        let first = self.answering.load(Ordering::Relaxed);
        let members = self.of.endpoints.iter().enumerate();
        for (row, endpoint) in members.clone().skip(first).chain(members.take(first)) {
            let text = serde_json::to_vec(body).map_err(|error| error.to_string())?;
            let request = self.client.post(format!("{endpoint}/v3/{path}")).body(text);
            let answer = async {
                let answer = request.send().await?.error_for_status()?;
                answer.json::<T>().await
            };
            match answer.await {
                Ok(answer) => {
                    self.answering.store(row, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => problems.push(error.without_url().to_string()),
            }
        }
        Err(format!("etcd does not answer: {}", problems.join("; ")))
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
                Some("wanted") => found.wanted = Some(value),
                _ => {}
            }
        }
        Ok(found)
    }

    /// How long a lease lasts at least; renewed first, if so.
    async fn time_left(&self, lease: i64, is_renewed: bool) -> Result<Duration, String> {
        let body = json!({ "ID": lease.to_string() });
        let left = if is_renewed {
            self.ask::<Kept>("lease/keepalive", &body).await?.result.ttl
        } else {
            self.ask::<Lived>("lease/timetolive", &body).await?.ttl
        };
        Ok(Duration::from_secs(u64::try_from(number(&left)).unwrap_or(0)))
    }

    /// An operator wants this region next.
    async fn want(&self, service: &str, region: &str) -> Result<(), String> {
        let body = json!({
            "key": self.key(service, "wanted"),
            "value": BASE64_STANDARD.encode(region),
        });
        self.ask::<Value>("kv/put", &body).await.map(drop)
    }

    /// Names the next writer, unless somebody has since `found`; `instead`: even if there is one.
    async fn name(
        &self,
        contest: &Contest,
        found: &Found,
        region: &str,
        instead: bool,
    ) -> Result<bool, String> {
        let seconds = contest.lease.as_secs().max(1).to_string();
        let granted: Granted = self.ask("lease/grant", &json!({ "TTL": seconds })).await?;
        let epoch = found.last.as_ref().map_or(0, |last| last.epoch) + 1;
        let written = Written { region: region.to_owned(), epoch, ttl: contest.ttl.as_secs() };
        let value = serde_json::to_string(&written).map_err(|error| error.to_string())?;
        let value = BASE64_STANDARD.encode(value);
        let key = |what| self.key(&contest.service, what);
        let mut unless = vec![json!({
            "key": key("last"), "target": "MOD", "result": "EQUAL",
            "mod_revision": found.revision.to_string(),
        })];
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
        let done: Done = self.ask("kv/txn", &json!({ "compare": unless, "success": puts })).await?;
        if !done.succeeded {
            let body = json!({ "ID": granted.id });
            // It ends by itself, if not by this.
            let _ends = self.ask::<Value>("lease/revoke", &body).await;
        }
        Ok(done.succeeded)
    }
}

/// etcd writes 64-bit numbers as text, and leaves out those that are 0.
fn number(text: &str) -> i64 {
    text.parse().unwrap_or(0)
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
