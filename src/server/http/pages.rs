//! Pages are few at a time: each is whole in memory until its client has taken it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Refusal;
use super::guard::{FOR_ALL, Way};

/// Pages at a time. The largest, of 3,000 services, takes 4 MB.
pub(super) const AT_ONCE: usize = 8;

/// How long one may wait for its turn: not as long as `ctl` waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// A page, and its turn, which ends when it has been taken.
struct Page {
    octets: Bytes,
    _turn: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

/// Lets whoever reads over the network do so when it is their turn. What operators say, and what
/// comes over the Unix socket, waits for nobody.
pub(super) async fn wait(
    State(turns): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Response {
    let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_local = matches!(request.extensions().get(), Some(Way::Socket(_)));
    if !is_reading || is_local || FOR_ALL.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    // The semaphore is never closed.
    let Ok(Ok(turn)) = timeout(PATIENCE, turns.acquire_owned()).await else {
        return ([(header::CONNECTION, "close")], Refusal::busy()).into_response();
    };
    let (head, body) = next.run(request).await.into_parts();
    // It is in one piece already, and is not copied.
    match to_bytes(body, usize::MAX).await {
        Ok(octets) => {
            let page = Page { octets, _turn: turn };
            Response::from_parts(head, Body::from(Bytes::from_owner(page)))
        }
        Err(error) => Refusal::broken(error.to_string()).into_response(),
    }
}
