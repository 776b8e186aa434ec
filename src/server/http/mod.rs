//! The HTTP address: the dashboard, the same as JSON, the metrics, and two words for probes.
//!
//! ```text
//! /            the dashboard            /api/v1/status    everything on it
//! /metrics     for Prometheus           /api/v1/explain   one client's decision
//! /healthz     it lives                 /readyz           it answers, after the first verdicts
//! ```
//!
//! Every page is made from one [`View`](super::View), so that nothing on it contradicts itself.

use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::interval;
use tracing::error;

use super::control::Handle;
use crate::query::{Question, assuming_down, explain};
use crate::snapshot::Snapshot;

pub mod api;
pub(super) mod metrics;

/// The page, with its style and script.
const PAGE: &str = include_str!("page.html");

/// How often what the histograms have collected is summed up, scraped or not.
const UPKEEP: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Shared {
    control: Handle,
    recorder: PrometheusHandle,
}

/// The routes of the HTTP address.
pub(super) fn router(control: Handle, recorder: PrometheusHandle) -> Router {
    let upkeep = recorder.clone();
    tokio::spawn(async move {
        let mut ticks = interval(UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .route("/api/v1/status", get(status))
        .route("/api/v1/explain", get(explanation))
        .with_state(Shared { control, recorder })
}

/// Serves `router` for ever.
pub(super) async fn serve(listener: TcpListener, router: Router) {
    if let Err(error) = axum::serve(listener, router).await {
        error!(%error, "the HTTP address has ended");
    }
}

/// A request that cannot be answered, as JSON and with its reason.
#[derive(Debug, Serialize)]
pub struct Refusal {
    #[serde(skip)]
    status: StatusCode,
    error: String,
}

impl Refusal {
    /// A request that is wrong.
    pub fn bad(error: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error: error.into() }
    }

    fn stopping() -> Self {
        let error = "the server is stopping".to_owned();
        Self { status: StatusCode::SERVICE_UNAVAILABLE, error }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if shared.control.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "waiting for the first verdicts\n")
    }
}

async fn scrape(State(shared): State<Shared>) -> Result<Response, Refusal> {
    let view = shared.control.view().await.ok_or_else(Refusal::stopping)?;
    let text = shared.recorder.render() + &metrics::now(&view);
    let format = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((format, text).into_response())
}

async fn status(State(shared): State<Shared>) -> Result<Json<api::Status>, Refusal> {
    let view = shared.control.view().await.ok_or_else(Refusal::stopping)?;
    Ok(Json(api::Status::of(&view)))
}

const NO_TYPE: &str = "no record type; expected one such as A, AAAA or TYPE65280";

/// What is asked of `/api/v1/explain`.
#[derive(Deserialize)]
struct Asked {
    name: String,
    from: String,
    #[serde(rename = "type")]
    rtype: Option<String>,
    /// Regions that are taken for down, separated by commas.
    down: Option<String>,
}

async fn explanation(
    State(shared): State<Shared>,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let view = shared.control.view().await.ok_or_else(Refusal::stopping)?;
    let bad =
        |what: &str, given: &str, error: String| Refusal::bad(format!("`{what}={given}`: {error}"));
    let name = asked.name.parse().map_err(|error| bad("name", &asked.name, format!("{error}")))?;
    let from = asked.from.parse();
    let client = from.map_err(|error| bad("from", &asked.from, format!("{error}")))?;
    let rtype = asked.rtype.as_deref().unwrap_or("A");
    let rtype = rtype.parse().map_err(|()| bad("type", rtype, NO_TYPE.to_owned()))?;
    let question = Question { name, rtype, client };
    let down = asked.down.iter().flat_map(|list| list.split(',')).filter(|name| !name.is_empty());
    let down = down.map(|name| {
        let region = view.loaded.config.region(name);
        region.ok_or_else(|| bad("down", name, "there is no such region".to_owned()))
    });
    let down = down.collect::<Result<Vec<_>, _>>()?;
    let atlas = &view.loaded.atlas;
    if down.is_empty() {
        let told = explain(&view.snapshot, atlas, &view.health, &question);
        return Ok(Json(told).into_response());
    }
    let (plan, health) = assuming_down(&view.loaded.plan, &view.health, &down);
    let snapshot = Snapshot::compile(plan.into(), &health, None, None, view.snapshot.generation());
    Ok(Json(explain(&snapshot, atlas, &health, &question)).into_response())
}
