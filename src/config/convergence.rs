//! `convergence`: how those who ask lag behind the answers.

use std::time::Duration;

use super::read::{At, Fields, Problems};
use super::yaml::Value;
use crate::convergence::{Class, Layer, PRESETS, Popularity, Population, Preset, Writes};

/// How those who ask lag behind the answers.
#[derive(Clone, PartialEq, Debug)]
pub struct Convergence {
    /// Who asks.
    pub population: Population,
    /// A region may be switched off once at most this share of its clients is expected there.
    pub residual: f64,
}

/// What is left may be so much, if nothing else is said: less is below what the model knows.
const RESIDUAL: f64 = 0.01;

/// The longest time that any layer can have.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// `convergence`.
pub(super) fn read(at: Option<At<'_>>, problems: &mut Problems) -> Convergence {
    let default = || PRESETS[0].population();
    let mut read = Convergence { population: default(), residual: RESIDUAL };
    let Some(mut fields) = at.and_then(|at| at.fields(problems)) else { return read };
    let who = fields.get("population").and_then(|at| population(&at, problems));
    let residual = fields.get("residual").and_then(|at| at.share(problems));
    fields.done(problems);
    read.population = who.unwrap_or_else(default);
    read.residual = residual.unwrap_or(RESIDUAL);
    read
}

/// The keys that say what clients write: to be read from `fields`, which may have more.
pub(crate) fn writes(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Writes> {
    let number = |at: Option<At<'_>>, most, problems: &mut Problems| {
        at.and_then(|at| at.number(1, most, problems))
    };
    let rate = number(fields.need("rate", problems), 1_000_000, problems);
    let keys = number(fields.get("keys"), 10_000_000, problems).unwrap_or(KEYS);
    let exponent = fields.get("exponent").and_then(|at| exponent(&at, problems));
    let delay = seconds(fields, "delay", problems).unwrap_or(DELAY);
    let private = fields.get("private").and_then(|at| at.share(problems)).unwrap_or(0.0);
    let keys = usize::try_from(keys).ok()?;
    let shared = match exponent {
        Some(exponent) => Popularity::Zipf { keys, exponent },
        None => Popularity::Uniform { keys },
    };
    Some(Writes { rate: rate? as f64, delay, shared, private, each: 0.0 })
}

/// How steeply the popularity of keys falls: from 0, evenly, to where nobody writes but to one.
fn exponent(at: &At<'_>, problems: &mut Problems) -> Option<f64> {
    let expected = "a number from 0 to 10, such as 0.9";
    let read = at.parsed::<f64>(expected, problems)?;
    if !(0.0..=10.0).contains(&read) {
        at.wrong(expected, problems);
        return None;
    }
    Some(read)
}

/// Over how many keys writes spread, if nothing is said.
const KEYS: u64 = 100_000;

/// How long a write takes to the other regions, in seconds: new items of DynamoDB global tables
/// have reached all replicas within about a second (AWS Prescriptive Guidance).
const DELAY: f64 = 1.0;

pub(crate) fn population(at: &At<'_>, problems: &mut Problems) -> Option<Population> {
    if let Value::Text(name) = &at.node.value {
        let preset = Preset::named(name);
        if preset.is_none() {
            let names = PRESETS.iter().map(|preset| preset.name);
            problems.unknown((at.place(), &at.key), ("population", name), names);
        }
        return preset.map(Preset::population);
    }
    let classes: Option<Vec<Class>> = at
        .named(problems)
        .into_iter()
        .map(|(name, _, at)| class(name, &at, problems))
        .collect::<Vec<_>>()
        .into_iter()
        .collect();
    let classes = classes?;
    let sum: f64 = classes.iter().map(|class| class.share).sum();
    if (sum - 1.0).abs() > 1e-6 {
        let what = format!("the shares sum to {:.4} %; expected 100 %", sum * 100.0);
        problems.error(at.place(), &at.key, what);
        return None;
    }
    Some(Population { name: "configured".to_owned(), classes })
}

fn class(name: &str, at: &At<'_>, problems: &mut Problems) -> Option<Class> {
    let mut fields = at.fields(problems)?;
    let part = fields.need("share", problems).and_then(|at| at.share(problems));
    let every = seconds(&mut fields, "lookups_every", problems).unwrap_or(0.0);
    let min = seconds(&mut fields, "min_ttl", problems).unwrap_or(0.0);
    let max = seconds(&mut fields, "max_ttl", problems).unwrap_or(f64::INFINITY);
    let prefetch = fields.get("prefetch").and_then(|at| at.share(problems)).unwrap_or(0.0);
    let first = seconds(&mut fields, "stale_for", problems);
    let stale = seconds(&mut fields, "stale_on_error", problems).unwrap_or(0.0);
    let hold = seconds(&mut fields, "hold", problems);
    let idle = fields.get("idle");
    let requests = match idle {
        Some(_) => fields.need("requests_every", problems),
        None => None,
    };
    let idle = idle.and_then(|at| open(&at, problems));
    let requests = requests.and_then(|at| span(&at, problems));
    let pinned = fields.get("pinned").and_then(|at| at.boolean(problems)).unwrap_or(false);
    fields.done(problems);
    let resolver = match first {
        Some(limit) => Layer::StaleFirst { every, limit },
        None => Layer::Cache { min, max, prefetch, stale, every },
    };
    let hold = hold.map(|seconds| Layer::Hold { seconds, every: 0.0 });
    let open = idle.zip(requests).map(|(idle, every)| Layer::Connection { every, idle });
    let pinned = pinned.then_some(Layer::Pinned);
    let layers = [Some(resolver), hold, open, pinned].into_iter().flatten().collect();
    Some(Class { name: name.to_owned(), share: part?, layers })
}

fn seconds(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<f64> {
    fields.get(key).and_then(|at| span(&at, problems))
}

/// For how long a connection is open without a request: one that is closed at once is none.
fn open(at: &At<'_>, problems: &mut Problems) -> Option<f64> {
    let span = at.duration(Duration::from_millis(1), LONGEST, problems);
    span.map(|span| span.as_secs_f64())
}

fn span(at: &At<'_>, problems: &mut Problems) -> Option<f64> {
    at.duration(Duration::ZERO, LONGEST, problems).map(|span| span.as_secs_f64())
}
