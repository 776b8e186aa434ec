//! What happens, told to others over HTTP as CloudEvents (1.0, structured JSON).
//!
//! ```text
//! tell ─→ queue of a webhook ─→ POST ─┬─ 2xx ─→ next
//!         full: lost, counted         └─ else ─→ once more, later each time ─→ lost, counted
//! ```
//!
//! Each webhook has a task and a queue of its own: one that hangs delays nobody. Events reach it in
//! their order, each at least once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use metrics::counter;
use reqwest::{Client, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::sleep;
use tracing::warn;

use super::clock::Clock;
use super::files::read;
use super::history::Record;
use super::http::api::timestamp;
use super::http::changes::Happened;
use crate::config::Webhook;
use crate::rng::{Seed, Stream};
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
    node: String,
    hooks: Vec<(Webhook, Sender<Event>)>,
    /// How many events were told, so that each has an id.
    told: u64,
    started: Instant,
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

impl Webhooks {
    /// Nobody is told anything yet. Paths are relative to `folder`.
    pub(super) fn new(clock: Clock, seed: Seed, folder: &Path) -> Self {
        Self {
            clock,
            seed,
            folder: folder.to_owned(),
            node: String::new(),
            hooks: Vec::new(),
            told: 0,
            started: clock.now(),
        }
    }

    /// From now on these are told what happens, in the name of `node`. Who is told already stays;
    /// who is told no more gets what waits for it.
    pub(super) fn set(&mut self, node: &str, hooks: &[Webhook]) {
        node.clone_into(&mut self.node);
        let mut before = std::mem::take(&mut self.hooks);
        for hook in hooks {
            let known = before.iter().position(|(other, _)| other == hook);
            let queue = match known {
                Some(row) => before.swap_remove(row).1,
                None => self.begin(hook.clone()),
            };
            self.hooks.push((hook.clone(), queue));
        }
    }

    fn begin(&self, hook: Webhook) -> Sender<Event> {
        let (queue, events) = channel(QUEUE);
        let token = hook.token.as_ref().map(|file| self.folder.join(file));
        let jitter = self.seed.stream(&format!("webhook {}", hook.name));
        tokio::spawn(deliver(self.clock, hook, token, events, jitter));
        queue
    }

    /// Tells it to whom it concerns. It waits for nobody.
    pub(super) fn tell(&mut self, record: &Record) {
        if self.hooks.is_empty() {
            return;
        }
        self.told += 1;
        let event = Event {
            specversion: "1.0",
            id: format!("{}-{}", self.started.as_nanos(), self.told),
            source: format!("/meridian/{}", self.node),
            event_type: format!("meridian.{}", record.kind.label()),
            subject: record.subject.clone(),
            time: timestamp(record.at),
            datacontenttype: "application/json",
            data: Happened::of(record, None),
            at: record.at,
        };
        for (hook, queue) in &self.hooks {
            let label = record.kind.label();
            let concerns = hook.kinds.is_empty() || hook.kinds.iter().any(|kind| kind == label);
            if concerns && let Err(TrySendError::Full(_)) = queue.try_send(event.clone()) {
                count(&hook.name, "lost");
            }
        }
    }
}

/// Sends one webhook its events, one after the other, until nobody can add any.
async fn deliver(
    clock: Clock,
    hook: Webhook,
    token: Option<PathBuf>,
    mut events: Receiver<Event>,
    mut jitter: Stream,
) {
    // TLS needs its provider, also where no TLS is spoken.
    let _installed_already = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
    let client = match client.build() {
        Ok(client) => client,
        Err(error) => {
            warn!(webhook = hook.name, %error, "cannot be told anything");
            return;
        }
    };
    while let Some(event) = events.recv().await {
        let mut pause = FIRST_PAUSE;
        loop {
            let Err(problem) = attempt(&client, &hook, token.as_deref(), &event).await else {
                count(&hook.name, "delivered");
                break;
            };
            count(&hook.name, "failed");
            let (webhook, id, why) = (&hook.name, &event.id, &problem.why);
            if problem.is_final || clock.now().since(event.at) > GIVE_UP {
                warn!(webhook, id, why, "an event is given up");
                count(&hook.name, "lost");
                break;
            }
            warn!(webhook, id, why, pause_ms = pause.as_millis(), "an event is sent again later");
            sleep(jitter.jitter(pause, JITTER_PERCENT)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
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
        let text = read(file).map_err(|error| again(format!("{}: {error}", file.display())))?;
        request = request.bearer_auth(String::from_utf8_lossy(&text).trim());
    }
    let answer = request.send().await.map_err(|error| again(causes(&error)))?;
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

fn count(webhook: &str, outcome: &'static str) {
    let webhook = webhook.to_owned();
    counter!("meridian_webhook_events_total", "webhook" => webhook, "outcome" => outcome)
        .increment(1);
}
