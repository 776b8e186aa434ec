//! What a request carries, or a refusal that says why it is none: in JSON, as every other.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Json, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::Refusal;

/// How long a body may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the body says.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let Ok(read) = timeout(PATIENCE, Json::from_request(request, state)).await else {
            let what = format!("the body has not come within {} s", PATIENCE.as_secs());
            return Err(refusal(StatusCode::REQUEST_TIMEOUT, what));
        };
        let refused =
            |why: axum::extract::rejection::JsonRejection| refusal(why.status(), why.body_text());
        read.map(|Json(said)| Self(said)).map_err(refused)
    }
}

/// What stands behind the path.
pub(super) struct Parameters<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let read = Query::from_request_parts(parts, state).await;
        let refused =
            |why: axum::extract::rejection::QueryRejection| refusal(why.status(), why.body_text());
        read.map(|Query(asked)| Self(asked)).map_err(refused)
    }
}

/// Nothing behind the path: who writes there what belongs into the body, `dry_run` above all, would
/// otherwise be taken not to have said it.
pub(super) struct NoParameters;

impl<S: Send + Sync> FromRequestParts<S> for NoParameters {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Parameters(given): Parameters<Vec<(String, String)>> =
            Parameters::from_request_parts(parts, state).await?;
        let unknown = given.first().map(|(key, _)| {
            Refusal::bad(format!("unknown parameter `{key}`; this path takes none behind it"))
        });
        unknown.map_or(Ok(Self), Err)
    }
}

fn refusal(status: StatusCode, error: String) -> Refusal {
    Refusal { status, error }
}
