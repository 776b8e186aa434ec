//! `/api/v1/convergence/fit`: what resolvers do with answers, by when they came back, and the
//! population to configure.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::api::timestamp;
use super::{Refusal, Shared};
use crate::convergence::{Class, Fit, Kind, Layer, Population, fit};

/// What was seen, and what to make of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fitting {
    /// Since when resolvers are watched.
    pub since: String,
    /// What they do; none: nobody came back yet.
    pub fit: Option<Fit>,
    /// The population to configure: what was seen of resolvers, and what is configured of those
    /// behind them.
    pub population: Vec<Proposed>,
}

/// A class of the population, as it is to be configured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Proposed {
    /// What it is called.
    pub name: String,
    /// Its share.
    pub share: f64,
    /// What else is configured of it.
    pub settings: BTreeMap<String, String>,
}

pub(super) async fn proposed(State(shared): State<Shared>) -> Result<Json<Fitting>, Refusal> {
    let view = shared.control.view().await.ok_or_else(Refusal::stopping)?;
    let seen = shared.control.seen();
    // It takes some hundred milliseconds.
    let fitting = move || {
        let fit = fit(&seen);
        let configured = &view.loaded.config.convergence.population;
        let population = fit.as_ref().map(|fit| propose(fit, configured)).unwrap_or_default();
        Json(Fitting { since: timestamp(view.started), fit, population })
    };
    tokio::task::spawn_blocking(fitting).await.map_err(|_| Refusal::stopping())
}

/// A class that has less is left out.
const LEAST: f64 = 0.002;

/// The resolvers of `fit` before the clients of `configured`.
fn propose(fit: &Fit, configured: &Population) -> Vec<Proposed> {
    let mut classes: Vec<Proposed> = Vec::new();
    for (class, kind) in
        configured.classes.iter().flat_map(|class| fit.kinds.iter().map(move |kind| (class, kind)))
    {
        let proposed = Proposed {
            name: name(kind, class),
            share: class.share * kind.share,
            settings: settings(kind, class),
        };
        match classes.iter_mut().find(|of| of.settings == proposed.settings) {
            Some(same) => same.share += proposed.share,
            None => classes.push(proposed),
        }
    }
    classes.retain(|of| of.share >= LEAST);
    classes.sort_by(|a, b| b.share.total_cmp(&a.share));
    // In hundredths of a per cent; the greatest takes what is left of all.
    let all: f64 = classes.iter().map(|of| of.share).sum();
    classes.iter_mut().for_each(|of| of.share = (of.share / all * 10_000.0).round() / 10_000.0);
    let others: f64 = classes.iter().skip(1).map(|of| of.share).sum();
    if let Some(greatest) = classes.first_mut() {
        greatest.share = 1.0 - others;
    }
    classes
}

/// The layers behind the resolver's.
fn behind(class: &Class) -> &[Layer] {
    class.layers.get(1..).unwrap_or_default()
}

fn name(kind: &Kind, class: &Class) -> String {
    if behind(class).is_empty() { kind.to_string() } else { format!("{kind}, then {}", class.name) }
}

/// The keys of the configuration for both.
fn settings(kind: &Kind, class: &Class) -> BTreeMap<String, String> {
    let seconds = |seconds: f64| Some(seconds).filter(|of| *of > 0.0).map(|of| format!("{of}s"));
    let mut all = vec![("min_ttl", seconds(kind.min_ttl)), ("lookups_every", seconds(kind.every))];
    // When it comes back does not tell whether it gives what has expired first.
    if let (Some(Layer::StaleFirst { limit, .. }), true) = (class.layers.first(), kind.every > 0.0)
    {
        all.push(("stale_for", seconds(*limit)));
    }
    for layer in behind(class) {
        match *layer {
            Layer::Hold { seconds: holds, .. } => all.push(("hold", seconds(holds))),
            Layer::Connection { every, idle } => {
                all.extend([("idle", seconds(idle)), ("requests_every", seconds(every))]);
            }
            Layer::Pinned => all.push(("pinned", Some("true".to_owned()))),
            Layer::Cache { .. } | Layer::StaleFirst { .. } => {}
        }
    }
    all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}
