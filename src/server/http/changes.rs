//! `/api/v1/overrides` and `/api/v1/history`: what operators say, and what happened.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::State;
use axum::response::Json;
use axum::{Extension, http::StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::api::{millis, timestamp};
use super::guard::Caller;
use super::sent::{Body, Parameters};
use super::{Refusal, Shared};
use crate::cluster::Stamp;
use crate::config::Subject;
use crate::server::arrivals::Signal;
use crate::server::handle::{Unheard, View};
use crate::server::history::{Kind, Record};
use crate::server::overrides::{Impact, Said, Share};
use crate::server::store::Page;
use crate::steer::{Ramp, Word};
use crate::time::Instant;

/// What an operator says of something.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saying {
    /// A region, `SERVICE/REGION`, or an address.
    pub subject: String,
    /// `up`, `down` or `drain`.
    pub word: String,
    /// Why.
    pub reason: String,
    /// Who says so.
    pub owner: String,
    /// Until when (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// For how many seconds from now, at least one, instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_seconds: Option<u64>,
    /// How fast it reaches all clients; none: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Steps>,
    /// Also if that leaves services with nothing that is up.
    #[serde(default)]
    pub force: bool,
    /// Only tell what it would do.
    #[serde(default)]
    pub dry_run: bool,
}

/// A share of the clients at a time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    /// How many percent each step adds.
    pub percent: u8,
    /// From one step to the next.
    pub every_seconds: u64,
}

/// A word that stands.
#[derive(Debug, Serialize, Deserialize)]
pub struct Standing {
    /// What it is about.
    pub subject: String,
    /// What is said.
    pub word: String,
    /// Why.
    pub reason: String,
    /// Who says so.
    pub owner: String,
    /// Since when, or from when on.
    pub since: String,
    /// It has not begun.
    pub planned: bool,
    /// Until when; none: until it is taken back.
    pub until: Option<String>,
    /// How fast it reaches all clients.
    pub ramp: Option<Steps>,
    /// How many percent of them it has reached; none: it has no ramp.
    #[serde(default)]
    pub reached_percent: Option<u8>,
}

/// What a word does.
#[derive(Debug, Serialize, Deserialize)]
pub struct Effect {
    /// Whether it is followed; if not, this is what it would do.
    pub done: bool,
    /// The services left with nothing that is up and not drained.
    pub left_with_nothing: Vec<String>,
    /// Who is sent where, by service and region.
    pub shares: Vec<Moved>,
    /// What becomes of the regions, over all services.
    pub regions: Vec<Load>,
}

/// The clients of a service that a region gets.
#[derive(Debug, Serialize, Deserialize)]
pub struct Moved {
    /// The service.
    pub service: String,
    /// `A`, `AAAA` or `CNAME`.
    #[serde(rename = "type")]
    pub rtype: String,
    /// The region; none: answers that are in none.
    pub region: Option<String>,
    /// The share of the clients that are sent there, before.
    pub before: f64,
    /// The same, once the word has reached everybody.
    pub after: f64,
    /// By how many clients that asked lately this is counted; 0: by all IPv4 addresses.
    pub observed: usize,
}

/// The clients of all services that a region gets: by the queries of those that are asked often
/// enough, or else each service counting alike.
#[derive(Debug, Serialize, Deserialize)]
pub struct Load {
    /// The region.
    pub region: String,
    /// Its share before.
    pub before: f64,
    /// Its share after.
    pub after: f64,
    /// Its share of all capacity, if every region of the answers has a `capacity`.
    pub capacity: Option<f64>,
}

/// What is to be taken back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clearing {
    /// What it was about.
    pub subject: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Who says so.
    pub owner: String,
}

/// What somebody says of an address, as far as one check goes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// The check: one of the kind `pushed`.
    pub check: String,
    /// The address.
    pub address: IpAddr,
    /// Whether it is up.
    pub up: bool,
    /// For how many seconds that is to be believed, at least one; after that it is stale.
    pub for_seconds: u64,
    /// How many requests of clients arrive there, a second; none: nothing is said of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<f64>,
    /// The writer's epoch that it has acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// A part of the history.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    before: Option<i64>,
    kind: Option<String>,
    limit: Option<usize>,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Happened {
    /// Its number in the history; none while it is only remembered.
    pub number: Option<i64>,
    /// When.
    pub at: String,
    /// `state`, `override`, `reload` or `node`.
    pub kind: String,
    /// What it happened to.
    pub subject: String,
    /// What it is now.
    pub what: String,
    /// Why.
    pub why: String,
    /// Who did it; empty: Meridian by itself.
    pub who: String,
    /// From the first sign of it to the answers that knew of it.
    pub took_ms: Option<f64>,
    /// The generation that knew of it.
    pub generation: u64,
}

/// For how long something may be said: ten years. What is to last is said without an end.
pub const LONGEST_SPAN: Duration = Duration::from_secs(3650 * 86_400);

/// How long a reason may be, and the name of who says so: nodes tell them to each other, too.
const LONGEST_REASON: usize = 500;

/// How much of the history is told at once.
const MOST: usize = 1000;

pub(super) async fn said(State(shared): State<Shared>) -> Result<Json<Vec<Standing>>, Refusal> {
    let view = shared.control.view().await.ok_or_else(Refusal::stopping)?;
    Ok(Json(view.said.iter().map(|said| Standing::of(said, view.now)).collect()))
}

pub(super) async fn say(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(saying): Body<Saying>,
) -> Result<Json<Effect>, Refusal> {
    let view = shared.control.view().await.ok_or_else(Refusal::stopping)?;
    let said = saying.read(view.now).map_err(Refusal::bad)?;
    let done = !saying.dry_run;
    let impact = if done {
        let who = format!("{} ({})", said.owner, caller.0);
        shared.control.say(said, who, saying.force).await
    } else {
        shared.control.weigh(said).await
    };
    Ok(Json(Effect::of(&view, &impact.map_err(Refusal::from)?, done)))
}

pub(super) async fn clear(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(clearing): Body<Clearing>,
) -> Result<StatusCode, Refusal> {
    let (subject, who, reason) = clearing.read(&caller).map_err(Refusal::bad)?;
    shared.control.clear(subject, who, reason).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn release(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(clearing): Body<Clearing>,
) -> Result<StatusCode, Refusal> {
    let (subject, (_, who), reason) = clearing.read(&caller).map_err(Refusal::bad)?;
    shared.control.release(subject, who, reason).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn push(
    State(shared): State<Shared>,
    Extension(_caller): Extension<Caller>,
    Body(push): Body<Push>,
) -> Result<StatusCode, Refusal> {
    let Push { check, address, up, for_seconds, requests, epoch } = push;
    let rate = |given: f64| {
        let wrong = || Refusal::bad(format!("`requests: {given}` is no rate a second"));
        Signal::rate(given).ok_or_else(wrong)
    };
    let signal = Signal { requests: requests.map(rate).transpose()?, epoch };
    let span = lasting(for_seconds).map_err(Refusal::bad)?;
    shared.control.push((check, address), (up, signal), span).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn history(
    State(shared): State<Shared>,
    Parameters(asked): Parameters<Asked>,
) -> Result<Json<Vec<Happened>>, Refusal> {
    let kind = asked.kind.map(|given| {
        let labels = Kind::ALL.map(Kind::label).join(", ");
        let known = Kind::ALL.into_iter().find(|kind| kind.label() == given);
        known.ok_or(Refusal::bad(format!("no kind `{given}`; there are: {labels}")))
    });
    let kind = kind.transpose()?;
    let limit = asked.limit.unwrap_or(100).min(MOST);
    let page = Page { before: asked.before, kind, limit };
    let records = shared.control.store().read(page).await;
    let records = records.map_err(Refusal::broken)?;
    Ok(Json(records.iter().map(|(number, of)| Happened::of(of, Some(*number))).collect()))
}

impl Saying {
    /// What is said, from `now` on.
    fn read(&self, now: Instant) -> Result<Said, String> {
        let subject = self.subject.parse()?;
        let word: Word = self
            .word
            .parse()
            .map_err(|()| format!("no word `{}`; expected up, down or drain", self.word))?;
        let needed = [("reason", &self.reason), ("owner", &self.owner)];
        if let Some((key, _)) = needed.iter().find(|(_, text)| text.trim().is_empty()) {
            return Err(format!("no `{key}`; whoever is paged next wants to know"));
        }
        let until = match (&self.until, self.for_seconds) {
            (Some(_), Some(_)) => return Err("both `until` and `for_seconds`".to_owned()),
            (Some(until), None) => Some(moment(until)?),
            (None, span) => span.map(lasting).transpose()?.map(|span| now + span),
        };
        let ramp = match self.ramp {
            Some(Steps { percent, every_seconds }) => {
                if !(1..=100).contains(&percent) || !(1..=86_400).contains(&every_seconds) {
                    return Err("a ramp takes 1 to 100 percent, each 1 s to a day".to_owned());
                }
                Some(Ramp { percent, every: Duration::from_secs(every_seconds) })
            }
            None => None,
        };
        let (reason, owner) = (self.reason.clone(), self.owner.clone());
        are_fit(&reason, &owner)?;
        let (word, stamp, beside) = (Some(word), Stamp::default(), Vec::new());
        let since = now;
        Ok(Said { subject, word, ended: false, reason, owner, since, until, ramp, stamp, beside })
    }
}

impl Clearing {
    /// What it is about; who says so, and by which way; and why.
    fn read(self, caller: &Caller) -> Result<(Subject, (String, String), String), String> {
        let Self { subject, reason, owner } = self;
        if owner.trim().is_empty() {
            return Err("`owner` is empty; expected who says so".to_owned());
        }
        are_fit(&reason, &owner)?;
        let who = format!("{owner} ({})", caller.0);
        Ok((subject.parse()?, (owner, who), reason))
    }
}

/// Whether why something is said, and by whom, can be passed on, and shown on a line.
pub(super) fn are_fit(reason: &str, owner: &str) -> Result<(), String> {
    if reason.len() > LONGEST_REASON || owner.len() > LONGEST_REASON {
        return Err(format!("`reason` and `owner` take at most {LONGEST_REASON} octets"));
    }
    // Who reads the history is not to be shown lines, nor colours, that are somebody's reason.
    let of = [("reason", reason), ("owner", owner)];
    match of.into_iter().find(|(_, text)| text.chars().any(misleads)) {
        Some((key, _)) => Err(format!(
            "`{key}`: a control character, or one that is not seen; expected one line of text"
        )),
        None => Ok(()),
    }
}

/// Is it a control character, or one that parts lines, turns the direction of what is written, or
/// is not to be seen? What joins letters, and parts of an emoji, is fine.
pub(in crate::server) fn misleads(of: char) -> bool {
    let is_unseen =
        matches!(of, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}');
    let turns = matches!(of, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    of.is_control() || matches!(of, '\u{2028}' | '\u{2029}') || is_unseen || turns
}

/// For how long something is said: what were over at once would only take away what was said
/// before, and what never ends is said so.
fn lasting(seconds: u64) -> Result<Duration, String> {
    if seconds == 0 {
        return Err("`for_seconds: 0` is over at once; expected at least 1".to_owned());
    }
    let (span, most) = (Duration::from_secs(seconds), LONGEST_SPAN.as_secs());
    if span > LONGEST_SPAN {
        return Err(format!("`for_seconds: {seconds}`; expected at most {most}, ten years"));
    }
    Ok(span)
}

fn moment(text: &str) -> Result<Instant, String> {
    let read: Result<Timestamp, _> = text.parse();
    let read = read.map_err(|_| format!("`{text}` is no time such as 2030-01-31T12:00:00Z"))?;
    let nanos =
        u64::try_from(read.as_nanosecond()).map_err(|_| format!("{text} is out of range"))?;
    Ok(Instant::from_nanos(nanos))
}

impl Standing {
    /// `said`, to be shown.
    pub(super) fn of(said: &Said, now: Instant) -> Self {
        let steps =
            |ramp: Ramp| Steps { percent: ramp.percent, every_seconds: ramp.every.as_secs() };
        Self {
            subject: said.subject.to_string(),
            word: said.verb(),
            reason: said.reason.clone(),
            owner: said.owner.clone(),
            since: timestamp(said.since),
            planned: now < said.since,
            until: said.until.map(timestamp),
            ramp: said.ramp.map(steps),
            reached_percent: said.ramp.map(|ramp| match now < said.since {
                true => 0,
                false => ramp.reached(now.since(said.since)),
            }),
        }
    }
}

impl Happened {
    /// `record`, to be shown.
    pub(in crate::server) fn of(record: &Record, number: Option<i64>) -> Self {
        Self {
            number,
            at: timestamp(record.at),
            kind: record.kind.label().to_owned(),
            subject: record.subject.clone(),
            what: record.what.clone(),
            why: record.why.clone(),
            who: record.who.clone(),
            took_ms: record.took.map(millis),
            generation: record.generation,
        }
    }
}

impl Effect {
    fn of(view: &View, impact: &Impact, done: bool) -> Self {
        let plan = view.snapshot.plan();
        let shares = impact.shares.iter().map(|share| Moved {
            service: share.service.clone(),
            rtype: share.family.to_string(),
            region: share.region.map(|region| plan.region_name(region).to_owned()),
            before: share.before,
            after: share.after,
            observed: share.observed,
        });
        let used = |name: &str| {
            let mut shares = impact.shares.iter().filter_map(|share| share.region);
            shares.any(|region| plan.region_name(region) == name)
        };
        let regions: Vec<_> = plan.regions.iter().filter(|region| used(&region.name)).collect();
        let capacity: Option<u64> = regions.iter().map(|region| region.capacity).sum();
        // By queries, where they were counted for any service; else each service counts alike.
        let counted = impact.shares.iter().any(|share| share.observed > 0);
        let weight = |share: &Share| if counted { share.observed as f64 } else { 1.0 };
        let all: f64 = impact.shares.iter().map(|share| share.before * weight(share)).sum();
        let sum = |name: &str, of: fn(&Share) -> f64| {
            let shares = impact.shares.iter().filter(|share| {
                share.region.is_some_and(|region| plan.region_name(region) == name)
            });
            shares.map(|share| of(share) * weight(share)).sum::<f64>() / all.max(f64::MIN_POSITIVE)
        };
        let load = |region: &&crate::snapshot::Region| Load {
            region: region.name.clone(),
            before: sum(&region.name, |share| share.before),
            after: sum(&region.name, |share| share.after),
            capacity: capacity.and_then(|all| Some(region.capacity? as f64 / all as f64)),
        };
        Self {
            done,
            left_with_nothing: impact.left_with_nothing.clone(),
            shares: shares.collect(),
            regions: regions.iter().map(load).collect(),
        }
    }
}

impl From<Unheard> for Refusal {
    fn from(unheard: Unheard) -> Self {
        match unheard {
            Unheard::Senseless(what) => Self::bad(what),
            Unheard::Dangerous(services) => Self::conflict(format!(
                "this would leave nothing that is up and not drained to: {}; `force` does it \
                 all the same",
                services.join(", ")
            )),
            Unheard::Unkept(reason) => {
                Self::broken(format!("it cannot be kept, so it is not followed: {reason}"))
            }
            Unheard::Unknown(reason) => Self::not_now(format!(
                "{reason}: it is not known whether it was done, or will be; look at `ctl writers` \
                 before you say it again"
            )),
            Unheard::Unwritten(reason) => Self::broken(format!(
                "it is followed, but cannot be kept, and is forgotten at the next start: {reason}"
            )),
            Unheard::Overruled(what) => Self::conflict(what),
            Unheard::Busy(reason) => Self::not_now(format!("{reason}; then say it again")),
            Unheard::Stopping => Self::stopping(),
        }
    }
}
