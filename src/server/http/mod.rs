//! The HTTP address: the dashboard, the same as JSON, the metrics, and two words for probes.
//!
//! ```text
//! /            the dashboard            /api/v1/status       everything on it
//! /metrics     for Prometheus           /api/v1/explain      one client's decision
//! /healthz     it lives                 /api/v1/overrides    what operators say: GET, PUT, DELETE
//! /readyz      it answers               /api/v1/history      what happened
//! /api/v1/pushed what others say: PUT   /api/v1/convergence  who may still be sent where
//! /api/v1/nodes  who decides together   /api/v1/failback     let a region back: POST
//! /api/v1/openapi.json  what these are  /api/v1/convergence/fit  what resolvers do with answers
//! /api/v1/writers  who writes: GET, PUT
//! ```
//!
//! How things are is told from one [`View`](super::View), so that nothing on a page contradicts
//! itself. Counters, what resolvers do and the history are read beside it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware::{from_extractor, from_fn_with_state};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::interval;

use super::handle::Handle;
use crate::config::Problem;
use crate::query::{Question, explain};
use crate::snapshot::Snapshot;
use crate::steer::Facts;
use sent::{NoParameters, Parameters};

pub(crate) use guard::SEND_TOKEN;

mod alarms;
pub mod api;
pub mod arriving;
pub mod changes;
pub mod convergence;
pub mod fit;
mod guard;
pub(super) mod listen;
pub(super) mod metrics;
mod pages;
mod sent;
pub mod writers;

/// The page, with its style and script.
const PAGE: &str = include_str!("page.html");

/// What the page may do: ask this server, and be in no other page.
const PAGE_HEAD: [(HeaderName, &str); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src \
         'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
];

/// How often what the histograms have collected is summed up, scraped or not.
const UPKEEP: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Shared {
    control: Handle,
    recorder: PrometheusHandle,
}

/// What the API is, in OpenAPI 3.1.
const OPENAPI: &str = include_str!("openapi.json");

/// A request is a line of words, and this a hundred times as much.
const LARGEST_BODY: usize = 64 * 1024;

/// The routes of the HTTP address; and `more`, which neither the guard nor the limits stand before.
/// Only the demo has any: what its buttons do to its servers, a page of any other site can do too.
pub(super) fn router(
    control: Handle,
    recorder: PrometheusHandle,
    rules: (Option<PathBuf>, bool),
    more: Router,
) -> Router {
    let (tokens, open) = rules;
    let guard = Arc::new(guard::Guard { tokens, open });
    let upkeep = recorder.clone();
    tokio::spawn(async move {
        let mut ticks = interval(UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/overrides", get(changes::said).put(changes::say).delete(changes::clear))
        .route("/api/v1/failback", axum::routing::post(changes::release))
        .route("/api/v1/nodes", get(nodes))
        .route("/api/v1/writers", get(writers::all).put(writers::hand_over))
        .route("/api/v1/convergence/fit", get(fit::proposed))
        .route("/api/v1/pushed", axum::routing::put(changes::push))
        .route("/api/v1/openapi.json", get(|| async { (JSON, OPENAPI) }))
        .route_layer(from_extractor::<NoParameters>())
        .route("/api/v1/explain", get(explanation))
        .route("/api/v1/history", get(changes::history))
        .route("/api/v1/convergence", get(convergence::all))
        .route("/", get(|| async { (PAGE_HEAD, Html(PAGE)) }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(Shared { control, recorder })
        .layer(from_fn_with_state(Arc::new(Semaphore::new(pages::AT_ONCE)), pages::wait))
        .layer(from_fn_with_state(guard, guard::check))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .merge(more)
        .fallback(|| async { Refusal::nowhere() })
        .method_not_allowed_fallback(|| async { Refusal::no_method() })
}

const JSON: [(HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

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

    fn nowhere() -> Self {
        let error = "there is no such path; /api/v1/openapi.json lists those that there are";
        Self { status: StatusCode::NOT_FOUND, error: error.to_owned() }
    }

    fn no_method() -> Self {
        let error = "the path takes another method; /api/v1/openapi.json lists those of each";
        Self { status: StatusCode::METHOD_NOT_ALLOWED, error: error.to_owned() }
    }

    fn unauthorized(error: String) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, error }
    }

    fn conflict(error: String) -> Self {
        Self { status: StatusCode::CONFLICT, error }
    }

    fn broken(error: String) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, error }
    }

    /// What is needed for it cannot be read at the moment.
    fn unreadable(problems: Vec<Problem>) -> Self {
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Self::not_now(told.join("; "))
    }

    fn busy() -> Self {
        let error = "others are reading too many pages at the moment; ask again, or over the Unix \
                     socket `http.socket`, where nobody waits";
        Self::not_now(error.to_owned())
    }

    fn stopping() -> Self {
        Self::not_now("the server is stopping".to_owned())
    }

    fn not_now(error: String) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, error }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if !shared.control.is_ready() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "waiting for the first verdicts, or to know who writes\n",
        );
    }
    // A node in doubt still answers, as well as it can.
    let condition = shared.control.condition();
    let told = match (condition.isolated, condition.abstains) {
        (true, _) => "ready; isolated: too few other nodes are heard for a quorum\n",
        (_, true) => "ready; abstains: this node does not trust its own sight\n",
        _ => "ready\n",
    };
    (StatusCode::OK, told)
}

async fn scrape(State(shared): State<Shared>) -> Result<Response, Refusal> {
    let view = shared.control.view().await.ok_or_else(Refusal::stopping)?;
    let (view, exposures, leaving) =
        convergence::look(&shared, view, convergence::Asked::default()).await?;
    let render = move || {
        shared.control.exposure.tell();
        let text = shared.recorder.render() + &metrics::now(&view);
        text + &metrics::leaving(&exposures, &leaving.unwrap_or_default())
    };
    let text = spawn_blocking(render).await.map_err(|_| Refusal::stopping())?;
    let format = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((format, text).into_response())
}

async fn status(State(shared): State<Shared>) -> Result<Json<api::Status>, Refusal> {
    let view = shared.control.view().await.ok_or_else(Refusal::stopping)?;
    let (view, _, leaving) =
        convergence::look(&shared, view, convergence::Asked::default()).await?;
    let status = move || api::Status::of(&view, leaving.unwrap_or_default());
    spawn_blocking(status).await.map(Json).map_err(|_| Refusal::stopping())
}

async fn nodes(State(shared): State<Shared>) -> Result<Json<Vec<api::NodeStatus>>, Refusal> {
    let view = shared.control.view().await.ok_or_else(Refusal::stopping)?;
    let nodes = spawn_blocking(move || api::nodes(&view)).await;
    nodes.map(Json).map_err(|_| Refusal::stopping())
}

const NO_TYPE: &str = "no record type; expected one such as A, AAAA or TYPE65280";

/// What is asked of `/api/v1/explain`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    name: String,
    from: String,
    #[serde(rename = "type")]
    rtype: Option<String>,
    /// Regions that are assumed to be down, separated by commas.
    down: Option<String>,
}

async fn explanation(
    State(shared): State<Shared>,
    Parameters(asked): Parameters<Asked>,
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
    // The atlas may have to be read again, all be decided anew, and a map be drawn.
    let told = spawn_blocking(move || {
        let atlas = view.loaded.survey.atlas()?;
        if down.is_empty() {
            return Ok(explain(&view.snapshot, &atlas, &view.facts(), &question));
        }
        let facts = Facts { down: &down, ..view.facts() };
        let (plan, now) = (view.snapshot.plan().clone(), view.snapshot.generation());
        let snapshot = Snapshot::compile(plan, &facts, Some(&view.snapshot), None, now);
        Ok(explain(&snapshot, &atlas, &facts, &question))
    });
    let told = told.await.map_err(|error| Refusal::broken(error.to_string()))?;
    Ok(Json(told.map_err(Refusal::unreadable)?).into_response())
}
