//! `etcd`: where the leases of single writers are.

use std::path::PathBuf;

use super::read::{At, Problems};
use crate::steer::{Lease, Policy, Service};

/// Where the leases of single writers are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Etcd {
    /// The members, tried in this order.
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// A PEM file of the authorities that are trusted; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// A PEM file with this node's certificate and its key, if etcd wants one.
    pub identity: Option<PathBuf>,
}

/// `etcd`, which these services may need.
pub(super) fn read(
    at: Option<At<'_>>,
    root: &At<'_>,
    services: &[Service],
    problems: &mut Problems,
) -> Option<Etcd> {
    let Some(at) = at else {
        let needs = |of: &&Service| matches!(of.policy, Policy::SingleWriter(_, Lease::Kept(_)));
        if let Some(service) = services.iter().find(needs) {
            let what = format!("needed for the lease of the service {}", service.name);
            problems.error(root.place(), "etcd", what);
        }
        return None;
    };
    let mut fields = at.fields(problems)?;
    let listed = fields.need("endpoints", problems).map(|at| at.list()).unwrap_or_default();
    let endpoint = |at: &At<'_>| {
        let url = at.url("http://127.0.0.1:2379", problems)?;
        Some(url.trim_end_matches('/').to_owned())
    };
    let endpoints: Vec<String> = listed.iter().filter_map(endpoint).collect();
    let prefix = fields.get("prefix").and_then(|at| at.text("what all keys begin with", problems));
    let prefix = prefix.unwrap_or("/meridian/").to_owned();
    let mut path = |key| fields.get(key).and_then(|at| at.path("the path of a PEM file", problems));
    let (ca, identity) = (path("ca"), path("identity"));
    fields.done(problems);
    (!endpoints.is_empty()).then_some(Etcd { endpoints, prefix, ca, identity })
}
