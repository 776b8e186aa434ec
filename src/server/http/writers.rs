//! `/api/v1/writers`: of services of which one region at a time writes, which that is.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::super::control::WriterView;
use super::api::timestamp;
use super::changes::are_fit;
use super::guard::Caller;
use super::sent::Body;
use super::{Refusal, Shared};
use crate::steer::Naming;

/// A service of which one region at a time writes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Writing {
    /// The service.
    pub service: String,
    /// Who decides: `etcd`, or operators alone (`manual`).
    pub lease: String,
    /// The region that writes; none: nobody does, and the names have no record.
    pub region: Option<String>,
    /// Its epoch.
    pub epoch: Option<u64>,
    /// It is down, and answered all the same.
    #[serde(default)]
    pub down: bool,
    /// Until when for certain.
    pub until: Option<String>,
    /// From when on the next one can be answered, if nobody writes.
    pub next_from: Option<String>,
    /// The region that operators want.
    pub wanted: Option<String>,
    /// Why nothing newer is known.
    pub problem: Option<String>,
}

/// Another region is to write.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    /// The service.
    pub service: String,
    /// The region.
    pub region: String,
    /// The old writer is known to write no more: it is not waited for.
    #[serde(default)]
    pub fenced: bool,
    /// Why.
    pub reason: String,
    /// Who says so.
    pub owner: String,
}

impl Writing {
    /// `view`, to be shown.
    pub(super) fn of(view: &WriterView) -> Self {
        let (region, epoch) = view.writer.clone().unzip();
        Self {
            service: view.service.clone(),
            lease: if view.leased { "etcd" } else { "manual" }.to_owned(),
            region,
            epoch,
            down: view.is_down,
            until: view.until.map(timestamp),
            next_from: view.next_from.map(timestamp),
            wanted: view.wanted.clone(),
            problem: view.problem.clone(),
        }
    }
}

pub(super) async fn all(State(shared): State<Shared>) -> Result<Json<Vec<Writing>>, Refusal> {
    let view = shared.control.view().await.ok_or_else(Refusal::stopping)?;
    Ok(Json(view.writers.iter().map(Writing::of).collect()))
}

pub(super) async fn hand_over(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Body(handover): Body<Handover>,
) -> Result<StatusCode, Refusal> {
    let Handover { service, region, fenced, reason, owner } = handover;
    if reason.trim().is_empty() || owner.trim().is_empty() {
        return Err(Refusal::bad("no `reason` or no `owner`; whoever is paged next wants to know"));
    }
    are_fit(&reason, &owner).map_err(Refusal::bad)?;
    let who = format!("{owner} ({})", caller.0);
    shared.control.name(Naming { service, region, fenced, reason, owner }, who).await?;
    Ok(StatusCode::NO_CONTENT)
}
