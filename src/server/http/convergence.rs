//! `/api/v1/convergence`: who may still be sent to a region that is in no answer, and what is to be
//! waited for before it is switched off.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::super::control::Absent;
use super::super::exposure::Exposures;
use super::super::handle::View;
use super::super::overrides::scope;
use super::api::timestamp;
use super::arriving::{Answered, Arriving, Reason, Region, answered};
use super::sent::Parameters;
use super::{Refusal, Shared};
use crate::config::Subject;
use crate::convergence::{Lag, Population, Remaining, percent, percent_said};
use crate::ids::ServiceId;
use crate::steer::Service;
use crate::time::{Instant, TRAVEL, Ttl};

/// A service's region, and who may still be sent there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Leaving {
    /// The service.
    pub service: String,
    /// The region.
    pub region: String,
    /// Answers name it now.
    pub in_answers: bool,
    /// Since when none does, or since this node looks.
    pub since: Option<String>,
    /// The share of the service's clients that it had; none: that was before this node looked.
    pub had: Option<f64>,
    /// The longest TTL that its answers may be remembered with, in seconds.
    pub ttl: u32,
    /// How many answers of this node that name it may still be remembered.
    pub answers: u64,
    /// Their share of all such answers of the service.
    pub share: f64,
    /// When the last answer of any node is forgotten by whoever follows TTLs.
    pub answers_until: Option<String>,
    /// The share of its clients that is expected to go there still, by the model.
    pub expected: f64,
    /// When at most a share of them does.
    pub moved: Vec<Moved>,
    /// Which population the model takes.
    pub population: String,
    /// What still arrives there, as its endpoints tell.
    pub arriving: Arriving,
    /// What is to be waited for before it is switched off.
    pub waits: Vec<Wait>,
    /// It may be switched off.
    pub safe: bool,
    /// When it may, as far as that is known.
    pub safe_at: Option<String>,
}

/// When at most a share of a region's clients goes there still.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// The share.
    pub left: f64,
    /// When; none: not within two hours, and it is not known when, or never.
    pub at: Option<String>,
}

/// A reason not to switch a region off.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wait {
    /// The reason.
    pub why: String,
    /// When it is over, if time alone ends it.
    pub until: Option<String>,
}

impl Wait {
    fn of((why, until): Reason) -> Self {
        Self { why, until: until.map(timestamp) }
    }
}

/// What is asked of `/api/v1/convergence`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// REGION or SERVICE/REGION; none: whatever has left the answers.
    subject: Option<String>,
    /// How much may be left; none: what the configuration says.
    residual: Option<f64>,
}

/// At which shares it is told when they are reached.
const SHARES: [f64; 4] = [0.5, 0.1, 0.05, 0.01];

pub(super) async fn all(
    State(shared): State<Shared>,
    Parameters(asked): Parameters<Asked>,
) -> Result<Json<Vec<Leaving>>, Refusal> {
    if let Some(residual) = asked.residual.filter(|of| !(0.0..=1.0).contains(of)) {
        return Err(Refusal::bad(format!("`residual={residual}`: expected a share from 0 to 1")));
    }
    let view = shared.control.view().await.ok_or_else(Refusal::stopping)?;
    look(&shared, view, asked).await?.2.map(Json).map_err(Refusal::bad)
}

/// `view`, the answers that may be remembered, and who may still be sent where.
pub(super) async fn look(
    shared: &Shared,
    view: View,
    asked: Asked,
) -> Result<(View, Exposures, Result<Vec<Leaving>, String>), Refusal> {
    let exposure = shared.control.exposure.clone();
    // To sum up the ledger, and the model, take some milliseconds.
    let model = move || {
        let exposures = exposure.remaining(view.now);
        let told = leaving(&view, &exposures, &asked);
        (view, exposures, told)
    };
    tokio::task::spawn_blocking(model).await.map_err(|_| Refusal::stopping())
}

/// Who may still be sent where.
fn leaving(view: &View, exposures: &Exposures, asked: &Asked) -> Result<Vec<Leaving>, String> {
    let config = &view.loaded.config;
    let subject = asked.subject.as_deref().map(str::parse::<Subject>).transpose()?;
    let rows = match &subject {
        None => left(view),
        Some(subject) => about(view, subject)?,
    };
    let mut model = Model::new(&config.convergence.population);
    let residual = asked.residual.unwrap_or(config.convergence.residual);
    let answered = if rows.is_empty() { Answered::new() } else { answered(view) };
    let services: HashMap<&str, &Service> =
        config.services.iter().map(|of| (of.name.as_str(), of)).collect();
    let of = |(service, name, absent)| {
        let expected = model.expected((view.now, view.answering), absent);
        let configured = services.get(service).copied();
        let region = Region { service, configured, name, absent, residual, expected };
        Leaving::of(view, exposures, &mut model, &answered, &region)
    };
    Ok(rows.into_iter().map(of).collect())
}

/// A service's region by their names, and what is known of it if no answer names it.
type Row<'v> = (&'v str, &'v str, Option<&'v Absent>);

/// Whatever has left the answers, whether it is still configured or not, and what was taken out by
/// somebody's word before this node looked.
fn left(view: &View) -> Vec<Row<'_>> {
    let plan = &view.loaded.plan;
    let mut ids: Option<HashMap<&str, ServiceId>> = None;
    let mut is_taken_out = |service: &str, region: &str| {
        let named = || plan.ids().zip(&plan.services).map(|(id, of)| (of.name.as_str(), id));
        let id = ids.get_or_insert_with(|| named().collect()).get(service).copied();
        let found = id.zip(view.loaded.config.region(region));
        found.is_some_and(|(id, region)| view.overrides.takes_out(id, region))
    };
    let left = view.absent.iter().filter(|((of, at), absent)| absent.left || is_taken_out(of, at));
    left.map(|((of, at), absent)| (of.as_str(), at.as_str(), Some(absent))).collect()
}

/// What `subject` is about: what is configured, what was when it left the answers, and what only
/// another node has.
fn about<'v>(view: &'v View, subject: &'v Subject) -> Result<Vec<Row<'v>>, String> {
    let (service, region) = match subject {
        Subject::Region(region) => (None, region.as_str()),
        Subject::Pool(service, region) => (Some(service.as_str()), region.as_str()),
        Subject::Address(_) => {
            return Err(format!("{subject}: expected REGION or SERVICE/REGION"));
        }
    };
    let config = &view.loaded.config;
    let is_asked = |name: &str| service.is_none_or(|only| only == name);
    let id = config.region(region);
    let has = |of: &Service| of.pools.iter().any(|pool| Some(pool.region) == id);
    let configured = config.services.iter().filter(|of| is_asked(&of.name) && has(of));
    let mut rows: Vec<Row<'v>> = configured
        .map(|of| {
            let name = (of.name.clone(), region.to_owned());
            (of.name.as_str(), region, view.absent.get(&name))
        })
        .collect();
    let known: HashSet<&str> = rows.iter().map(|(service, ..)| *service).collect();
    let others = view.absent.iter().filter(|((of, at), absent)| {
        let is_known = absent.left || absent.elsewhere;
        is_known && at == region && is_asked(of) && !known.contains(of.as_str())
    });
    rows.extend(others.map(|((of, _), absent)| (of.as_str(), region, Some(absent))));
    if rows.is_empty() {
        // It names nothing; or a region that no service has, and none had.
        scope(subject, config)?;
    }
    Ok(rows)
}

/// The model, computed once for each TTL.
pub(super) struct Model<'m> {
    population: &'m Population,
    lags: HashMap<Ttl, Lag>,
}

impl<'m> Model<'m> {
    pub(super) fn new(population: &'m Population) -> Self {
        Self { population, lags: HashMap::new() }
    }

    pub(super) fn lag(&mut self, ttl: Ttl) -> &Lag {
        let population = self.population;
        self.lags.entry(ttl).or_insert_with(|| population.lag(f64::from(ttl.as_secs())))
    }

    /// The share of a region's clients that is expected to go there still.
    fn expected(&mut self, (now, answering): (Instant, Instant), absent: Option<&Absent>) -> f64 {
        let expected = |of: &Absent| {
            let ago = now.since(last_feared(of, answering));
            self.lag(of.ttl).after(ago.as_secs_f64())
        };
        absent.map_or(1.0, expected)
    }
}

impl Leaving {
    fn of(
        view: &View,
        exposures: &Exposures,
        model: &mut Model<'_>,
        answered: &Answered<'_>,
        asked: &Region<'_>,
    ) -> Self {
        let Region { service, configured, name: region, absent, residual, expected } = *asked;
        let key = (service.to_owned(), region.to_owned());
        let remaining = exposures.get(&key).copied().unwrap_or_default();
        let of_service = exposures.range((service.to_owned(), String::new())..);
        let of_service = of_service.take_while(|((of, _), _)| of == service);
        let all: u64 = of_service.map(|(_, remaining)| remaining.answers).sum();
        let ttl = absent.map(|of| of.ttl).or(configured.map(|of| of.ttl)).unwrap_or_default();
        let lag = model.lag(ttl);
        let from = absent.map(|of| last_feared(of, view.answering));
        let after = |seconds: f64| from.map(|from| from + Duration::from_secs_f64(seconds));
        let moved =
            SHARES.map(|left| Moved { left, at: lag.until(left).and_then(after).map(timestamp) });
        let is_alone = view.nodes.len() < 2;
        let forgotten = |of| forgotten(of, remaining, (is_alone, view.answering));
        let forgotten = absent.map_or(Instant::default(), forgotten);
        let mut waits: Vec<Reason> = Vec::new();
        match absent {
            None => waits.push((format!("answers for {service} name {region}"), None)),
            Some(Absent { doubt: Some(doubt), .. }) => waits.push((doubt.clone(), None)),
            Some(_) if forgotten > view.now => {
                waits.push(("answers that name it are remembered".to_owned(), Some(forgotten)));
            }
            Some(_) => {}
        }
        if expected > residual && absent.is_some() {
            let (is, may) = (percent(expected), percent_said(residual));
            let why = format!("{is} of its clients are expected to go there still; {may} may");
            waits.push((why, lag.until(residual).and_then(after)));
        }
        let (arriving, reasons) = Arriving::of(view, answered, asked);
        waits.extend(reasons.into_iter().filter(|_| absent.is_some()));
        let writer = view.writers.iter().find(|of| of.service == service);
        if let Some((_, epoch)) =
            writer.and_then(|of| of.writer.as_ref()).filter(|(writes, _)| writes == region)
        {
            waits.push((format!("it writes, with epoch {epoch}"), None));
        }
        let last = waits.iter().map(|(_, until)| *until).collect::<Option<Vec<_>>>();
        let safe_at = last.map(|all| all.into_iter().max().unwrap_or(view.now));
        let (service, region) = key;
        Self {
            service,
            region,
            in_answers: absent.is_none(),
            since: absent.map(|of| timestamp(of.since)),
            had: absent.filter(|of| of.left).map(|of| of.was),
            ttl: ttl.as_secs(),
            answers: remaining.answers,
            share: if all == 0 { 0.0 } else { remaining.answers as f64 / all as f64 },
            answers_until: (forgotten > view.now).then(|| timestamp(forgotten)),
            expected,
            moved: moved.to_vec(),
            population: model.population.name.clone(),
            arriving,
            safe: waits.is_empty(),
            waits: waits.into_iter().map(Wait::of).collect(),
            safe_at: safe_at.map(timestamp),
        }
    }
}

/// When an answer that names it was last given, or to be feared, whoever gave it: from then on its
/// clients leave.
fn last_feared(absent: &Absent, answering: Instant) -> Instant {
    absent.since.max(absent.doubted).max(answering)
}

/// When the last answer that names it is forgotten, whoever gave it: this process counts its own;
/// what others gave was given with the TTL at the latest when that was last to be feared, and so
/// was what another process gave in the place of this one, which answers alone since `answering`.
fn forgotten(
    absent: &Absent,
    remaining: Remaining,
    (is_alone, answering): (bool, Instant),
) -> Instant {
    let own = Instant::default() + Duration::from_secs(remaining.until);
    let is_all_own = is_alone && absent.left && absent.doubted == absent.since;
    let feared = if is_all_own { answering } else { answering.max(absent.doubted) };
    own.max(feared + absent.ttl.duration() + TRAVEL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convergence::Preset;

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    /// A region that left at the second 1001.
    fn absent() -> Absent {
        Absent {
            since: at(1001),
            left: true,
            elsewhere: false,
            was: 1.0,
            ttl: Ttl::from_secs(3600),
            doubted: at(1001),
            doubt: None,
            before: Vec::new(),
        }
    }

    #[test]
    fn clients_leave_from_when_the_last_node_is_known_to_have_left_it() {
        let population = Preset::named("flavel2014").unwrap().population();
        let mut model = Model::new(&population);
        let ago = |seconds| population.lag(30.0).after(seconds);
        let gone = Absent { ttl: Ttl::from_secs(30), ..absent() };
        for (doubted, answering, expected) in [
            (1001, 1000, ago(3600.0)),
            (4591, 1000, ago(10.0)),
            // What was before this process answered until then.
            (1001, 4581, ago(20.0)),
            (4591, 4611, ago(0.0)),
        ] {
            let absent = Absent { doubted: at(doubted), ..gone.clone() };
            let told = model.expected((at(4601), at(answering)), Some(&absent));
            assert_eq!(told, expected, "{doubted}, {answering}");
        }
        assert!(ago(10.0) > 0.5 && ago(3600.0) < 0.01);
    }

    #[test]
    fn what_an_earlier_process_gave_is_remembered() {
        let absent = absent();
        // It answers for a second, and has itself given nothing.
        let alone = (true, at(1000));
        assert_eq!(forgotten(&absent, Remaining::default(), alone), at(4602));
        // Its own answers are the last.
        let own = Remaining { answers: 1, until: 4800 };
        assert_eq!(forgotten(&absent, own, alone), at(4800));
        // What was given before it answered is long forgotten: only what it gave itself counts.
        let long_since =
            forgotten(&Absent { since: at(9000), doubted: at(9000), ..absent.clone() }, own, alone);
        assert_eq!(long_since, at(4800));
        // It left before this process answered, and the one before went on with it; here or at
        // another node.
        let before = Absent { left: false, doubted: at(990), ..absent };
        for is_alone in [true, false] {
            let told = forgotten(&before, Remaining::default(), (is_alone, at(1000)));
            assert_eq!(told, at(4602), "{is_alone}");
        }
    }
}
