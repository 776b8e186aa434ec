//! What happens, told to others over HTTP as CloudEvents (1.0, structured JSON).
//!
//! ```text
//! history, as far as untold ─┐
//! tell ─→ queue of a webhook ┴→ POST ─┬─ 2xx ─→ told: next
//!         full: lost, counted         └─ else ─→ once more, later each time ─→ lost, counted
//! ```
//!
//! Each webhook has a task and a queue of its own: one that hangs delays nobody. Events reach it in
//! their order, each at least once: it is kept until when it was told, and what came after that is
//! read from the history at the next start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use metrics::counter;
use reqwest::{Client, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::sleep;
use tracing::warn;

use super::clock::Clock;
use super::files::read;
use super::history::Record;
use super::http::api::timestamp;
use super::http::changes::Happened;
use super::store::Store;
use crate::config::Webhook;
use crate::rng::{Seed, Stream, fnv1a};
use crate::time::Instant;

/// Events that wait for one webhook.
const QUEUE: usize = 1024;

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause after the first failure; each failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// An event that is older is not tried again.
const GIVE_UP: Duration = Duration::from_secs(3600);

/// By how much of itself a pause is shorter or longer, in percent, so that many nodes do not come
/// back at one moment.
const JITTER_PERCENT: u32 = 25;

/// All webhooks.
#[derive(Debug)]
pub(super) struct Webhooks {
    clock: Clock,
    seed: Seed,
    folder: PathBuf,
    store: Store,
    node: String,
    hooks: Vec<(Webhook, Sender<Event>, AbortHandle)>,
}

/// What is sent: the attributes that CloudEvents ask for, and what happened.
#[derive(Clone, Debug, Serialize)]
struct Event {
    specversion: &'static str,
    id: String,
    source: String,
    #[serde(rename = "type")]
    event_type: String,
    subject: String,
    time: String,
    datacontenttype: &'static str,
    data: Happened,
    #[serde(skip)]
    at: Instant,
}

impl Event {
    /// What the node of this name tells of what happened.
    fn of(node: &str, record: &Record) -> Self {
        let (kind, at) = (record.kind.label(), record.at);
        let what = fnv1a(format!("{kind} {} {}", record.subject, record.what).as_bytes());
        Self {
            specversion: "1.0",
            // The same whenever, and by whichever process, it is told.
            id: format!("{}-{what:016x}", at.as_nanos()),
            source: format!("/meridian/{node}"),
            event_type: format!("meridian.{kind}"),
            subject: record.subject.clone(),
            time: timestamp(at),
            datacontenttype: "application/json",
            data: Happened::of(record, None),
            at,
        }
    }
}

impl Webhooks {
    /// Nobody is told anything yet. Paths are relative to `folder`.
    pub(super) fn new(clock: Clock, seed: Seed, folder: &Path, store: Store) -> Self {
        Self { clock, seed, folder: folder.to_owned(), store, node: String::new(), hooks: vec![] }
    }

    /// From now on these are told what happens, in the name of `node`. Who is told already stays;
    /// who is told no more gets what waits for it.
    pub(super) fn set(&mut self, node: &str, hooks: &[Webhook]) {
        node.clone_into(&mut self.node);
        let mut before = std::mem::take(&mut self.hooks);
        for hook in hooks {
            let known = before.iter().position(|(other, ..)| other.name == hook.name);
            let known = known.map(|row| before.swap_remove(row));
            let (queue, task) = match known {
                Some((other, queue, task)) if other == *hook => (queue, task),
                known => {
                    // What waits for it is told where it is now, from the history.
                    if let Some((_, _, task)) = known {
                        task.abort();
                    }
                    self.begin(hook.clone())
                }
            };
            self.hooks.push((hook.clone(), queue, task));
        }
    }

    fn begin(&self, hook: Webhook) -> (Sender<Event>, AbortHandle) {
        // An alert sees the first that is lost only if there was a count before it.
        count(&hook.name, "lost", 0);
        let (queue, events) = channel(QUEUE);
        let token = hook.token.as_ref().map(|file| self.folder.join(file));
        let jitter = self.seed.stream(&format!("webhook {}", hook.name));
        // Asked before anything is told to the queue: what is in the one is not in the other.
        let untold = self.store.untold(hook.name.clone(), self.clock.now());
        let (clock, store, node) = (self.clock, self.store.clone(), self.node.clone());
        let task = async move {
            if let Some(mut messenger) = Messenger::new(clock, hook, token, store, jitter) {
                messenger.catch_up(&node, untold.await).await;
                messenger.follow(events).await;
            }
        };
        (queue, tokio::spawn(task).abort_handle())
    }

    /// Tells it to whom it concerns. It waits for nobody.
    pub(super) fn tell(&mut self, record: &Record) {
        let concerned = self.hooks.iter().filter(|(hook, ..)| concerns(hook, record));
        for (hook, queue, _) in concerned {
            let event = Event::of(&self.node, record);
            if let Err(TrySendError::Full(_)) = queue.try_send(event) {
                count(&hook.name, "lost", 1);
            }
        }
    }
}

fn concerns(hook: &Webhook, record: &Record) -> bool {
    hook.kinds.is_empty() || hook.kinds.iter().any(|kind| kind == record.kind.label())
}

/// Who brings one webhook its events.
struct Messenger {
    clock: Clock,
    client: Client,
    hook: Webhook,
    token: Option<PathBuf>,
    store: Store,
    jitter: Stream,
}

impl Messenger {
    fn new(
        clock: Clock,
        hook: Webhook,
        token: Option<PathBuf>,
        store: Store,
        jitter: Stream,
    ) -> Option<Self> {
        // TLS needs its provider, also where no TLS is spoken.
        let _installed_already = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().timeout(PATIENCE);
        match client.redirect(reqwest::redirect::Policy::none()).build() {
            Ok(client) => Some(Self { clock, client, hook, token, store, jitter }),
            Err(error) => {
                warn!(webhook = hook.name, %error, "cannot be told anything");
                None
            }
        }
    }

    /// Sends what an earlier process of `node` has not.
    async fn catch_up(&mut self, node: &str, untold: Result<Vec<Record>, String>) {
        let mut untold = untold.unwrap_or_else(|error| {
            warn!(webhook = self.hook.name, error, "what it was not told cannot be read");
            Vec::new()
        });
        untold.retain(|record| concerns(&self.hook, record));
        let now = self.clock.now();
        let is_old = |record: &&Record| now.since(record.at) > GIVE_UP;
        let old = untold.iter().take_while(is_old).count();
        let lost = old.max(untold.len().saturating_sub(QUEUE));
        if lost > 0 {
            warn!(webhook = self.hook.name, lost, "what is too old, or too much, is given up");
            count(&self.hook.name, "lost", lost as u64);
        }
        for record in untold.iter().skip(lost) {
            self.deliver(&Event::of(node, record)).await;
        }
    }

    /// Sends one event after the other, until nobody can add any.
    async fn follow(&mut self, mut events: Receiver<Event>) {
        while let Some(event) = events.recv().await {
            self.deliver(&event).await;
        }
    }

    /// Sends an event until it is taken, or given up.
    async fn deliver(&mut self, event: &Event) {
        let mut pause = FIRST_PAUSE;
        loop {
            let tried = attempt(&self.client, &self.hook, self.token.as_deref(), event).await;
            let Err(problem) = tried else {
                self.end(event, "delivered");
                return;
            };
            count(&self.hook.name, "failed", 1);
            let (webhook, id, why) = (&self.hook.name, &event.id, &problem.why);
            if problem.is_final || self.clock.now().since(event.at) > GIVE_UP {
                warn!(webhook, id, why, "an event is given up");
                self.end(event, "lost");
                return;
            }
            warn!(webhook, id, why, pause_ms = pause.as_millis(), "an event is sent again later");
            sleep(self.jitter.jitter(pause, JITTER_PERCENT)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn end(&self, event: &Event, outcome: &'static str) {
        self.store.told(self.hook.name.clone(), event.at);
        count(&self.hook.name, outcome, 1);
    }
}

/// Why an attempt failed, and whether another one is of no use.
struct Problem {
    why: String,
    is_final: bool,
}

async fn attempt(
    client: &Client,
    hook: &Webhook,
    token: Option<&Path>,
    event: &Event,
) -> Result<(), Problem> {
    let again = |why: String| Problem { why, is_final: false };
    let body = serde_json::to_vec(event).map_err(|error| again(error.to_string()))?;
    let mut request = client
        .post(&hook.url)
        .header("content-type", "application/cloudevents+json; charset=utf-8")
        .header("user-agent", concat!("Meridian/", env!("CARGO_PKG_VERSION")))
        .body(body);
    if let Some(file) = token {
        // Read anew each time: tokens are exchanged.
        let (name, file) = (file.display(), file.to_owned());
        let text = spawn_blocking(move || read(&file)).await;
        let text = text.map_err(|error| again(error.to_string()))?;
        let text = text.map_err(|error| again(format!("{name}: {error}")))?;
        request = request.bearer_auth(String::from_utf8_lossy(&text).trim());
    }
    // Its path and query may be secrets.
    let answer = request.send().await.map_err(|error| again(causes(&error.without_url())))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let may_pass =
        [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    let is_final = status.is_client_error() && !may_pass.contains(&status);
    Err(Problem { why: format!("status {status}"), is_final })
}

/// An error with all that caused it, on one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn count(webhook: &str, outcome: &'static str, events: u64) {
    let webhook = webhook.to_owned();
    counter!("meridian_webhook_events_total", "webhook" => webhook, "outcome" => outcome)
        .increment(events);
}
