//! What still arrives at a region that has left the answers, and which fence it has acknowledged:
//! a part of `/api/v1/convergence`, as the region's endpoints tell it.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::arrivals::Sight;
use super::super::control::Absent;
use super::super::handle::View;
use super::api::timestamp;
use crate::convergence::{Arrivals, Flow, Judged, percent_said};
use crate::ids::TargetId;
use crate::steer::{Endpoint, Pool, Service};
use crate::time::Instant;

/// What arrives at a service's region.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Arriving {
    /// Requests a second now, of those endpoints that tell; none: none does.
    pub requests: Option<f64>,
    /// The same before the region began to leave; none: not known.
    pub before: Option<f64>,
    /// Which part of that is left.
    pub share: Option<f64>,
    /// It is too much, and more than three times what the model expects.
    pub unexplained: bool,
    /// What each endpoint tells.
    pub endpoints: Vec<Telling>,
}

/// What an endpoint tells.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Telling {
    /// Its address.
    pub address: String,
    /// Requests a second now; none: it does not tell.
    pub requests: Option<f64>,
    /// The same before the region began to leave; none: not known.
    pub before: Option<f64>,
    /// The writer's epoch that it has acknowledged; none: it does not tell.
    pub epoch: Option<u64>,
    /// When it told that.
    pub at: Option<String>,
    /// Another service that is answered with this endpoint, so that its requests tell nothing of
    /// this one.
    pub shared_with: Option<String>,
}

/// What is asked about: a service's region, what may be left of its requests, and what the model
/// expects.
pub(super) struct Region<'r> {
    pub(super) service: &'r str,
    /// The service, if it is still configured.
    pub(super) configured: Option<&'r Service>,
    pub(super) name: &'r str,
    pub(super) absent: Option<&'r Absent>,
    pub(super) residual: f64,
    pub(super) expected: f64,
}

/// Which targets are of services that are answered with them: the services, by target.
pub(super) type Answered<'v> = HashMap<TargetId, Vec<&'v str>>;

/// Finds out which they are; nothing, while no endpoint tells anything.
pub(super) fn answered(view: &View) -> Answered<'_> {
    let mut answered = Answered::new();
    let config = &view.loaded.config;
    for service in config.services.iter().filter(|_| !view.signals.is_empty()) {
        for pool in &service.pools {
            let region = view.loaded.plan.region_name(pool.region);
            if view.absent.contains_key(&(service.name.clone(), region.to_owned())) {
                continue;
            }
            for target in pool.endpoints.iter().flat_map(targets) {
                answered.entry(target).or_default().push(&service.name);
            }
        }
    }
    answered
}

fn targets(endpoint: &Endpoint) -> impl Iterator<Item = TargetId> {
    endpoint.probed.iter().flat_map(|probed| probed.targets.iter().copied())
}

/// A reason not to switch a region off, and when it is over, if time alone ends it.
pub(super) type Reason = (String, Option<Instant>);

impl Arriving {
    /// What arrives, and why that keeps the region from being switched off.
    pub(super) fn of(
        view: &View,
        answered: &Answered<'_>,
        region: &Region<'_>,
    ) -> (Self, Vec<Reason>) {
        let pool = pool(view, region);
        let endpoints = pool.map(|pool| pool.endpoints.as_slice()).unwrap_or_default();
        let (mut flows, mut told, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
        for endpoint in endpoints {
            let sight = view.signals.sight(endpoint);
            let telling = Telling::of(endpoint, sight, answered, region);
            if let (Some(now), None) = (sight.requests, &telling.shared_with) {
                let quiet = sight.quiet.map_or(Duration::ZERO, |since| view.now.since(since));
                flows.push(Flow { now, quiet: quiet.as_secs_f64(), before: telling.before });
            }
            if let (Some((rate, until)), None) = (sight.lost, &telling.shared_with) {
                let (address, rate) = (&telling.address, rate_text(rate));
                let why = format!("{address} told of {rate} requests/s, and tells nothing now");
                reasons.push((why, Some(until)));
            }
            told.push(telling);
        }
        let sum = Arrivals::of(flows);
        let is_unexplained =
            sum.is_some_and(|sum| sum.is_unexplained(region.expected, region.residual));
        let arriving = Self {
            requests: sum.map(|sum| sum.now),
            before: sum.and_then(|sum| sum.before),
            share: sum.and_then(|sum| sum.share()),
            unexplained: is_unexplained && region.absent.is_some(),
            endpoints: told,
        };
        let still = sum.and_then(|sum| arriving.still(&sum, view.now, region));
        reasons.splice(..0, still);
        reasons.extend(arriving.fences(view, region));
        (arriving, reasons)
    }

    /// Too many requests arrive, or for too short a time none.
    fn still(&self, sum: &Arrivals, now: Instant, region: &Region<'_>) -> Option<Reason> {
        let name = region.name;
        match sum.judge(region.residual) {
            Judged::Few => None,
            Judged::Many => {
                let many = if self.unexplained { UNEXPLAINED } else { "" };
                let (rate, target) = (self.rate_text()?, percent_said(region.residual));
                Some((format!("{name} still receives {rate}; target {target}{many}"), None))
            }
            Judged::Quiet(seconds) => {
                let what = "receives nothing, for too short a time to tell";
                let of = sum.before.map(|before| format!(" of {} requests/s", rate_text(before)));
                let until = now + Duration::from_secs_f64(seconds);
                Some((format!("{name} {what}{}", of.unwrap_or_default()), Some(until)))
            }
        }
    }

    /// `42 requests/s of 1,200 before (3.5 %)`; nothing, if no endpoint tells.
    pub(crate) fn rate_text(&self) -> Option<String> {
        let now = format!("{} requests/s", rate_text(self.requests?));
        let share = self.share.map(|share| format!(" ({})", percent(share)));
        Some(match self.before {
            Some(before) => {
                format!("{now} of {} before{}", rate_text(before), share.unwrap_or_default())
            }
            None => format!("{now}, of how many before is not known"),
        })
    }

    /// Which endpoints have not acknowledged the writer's epoch.
    fn fences(&self, view: &View, region: &Region<'_>) -> Vec<Reason> {
        let writer = view.writers.iter().find(|of| of.service == region.service);
        let writes = writer.and_then(|of| of.writer.as_ref());
        let Some(newest) = writer.and_then(|of| of.newest) else { return Vec::new() };
        if writes.is_some_and(|(writes, _)| writes == region.name) {
            return Vec::new();
        }
        let fence = |of: &Telling| {
            let epoch = of.epoch.filter(|epoch| *epoch < newest)?;
            let what = format!("has acknowledged epoch {epoch}, and {newest} is the writer's");
            Some((format!("{} {what}: it is not fenced", of.address), None))
        };
        self.endpoints.iter().filter_map(fence).collect()
    }
}

const UNEXPLAINED: &str = "; more than three times what caches explain: something pins connections";

impl Telling {
    fn of(endpoint: &Endpoint, sight: Sight, answered: &Answered<'_>, region: &Region<'_>) -> Self {
        let others = targets(endpoint).filter_map(|target| answered.get(&target)).flatten();
        let mut others = others.filter(|service| **service != region.service);
        let before = region.absent.into_iter().flat_map(|absent| &absent.before);
        let mut before = before.filter(|(address, _)| *address == endpoint.address);
        Self {
            address: endpoint.address.to_string(),
            requests: sight.requests,
            before: before.next().map(|(_, rate)| *rate),
            epoch: sight.epoch,
            at: sight.at.map(timestamp),
            shared_with: others.next().filter(|_| region.absent.is_some()).map(|of| (*of).into()),
        }
    }

    /// Why its requests are not known, if they are not.
    pub(crate) fn silence(&self) -> Option<String> {
        let address = &self.address;
        match (&self.shared_with, self.requests) {
            (Some(service), Some(_)) => {
                Some(format!("{address} does not tell: it is answered for {service} too"))
            }
            (_, None) => Some(format!("{address} does not tell what arrives there")),
            (None, Some(_)) => None,
        }
    }
}

fn pool<'r>(view: &View, region: &Region<'r>) -> Option<&'r Pool> {
    let at = view.loaded.config.region(region.name)?;
    region.configured?.pools.iter().find(|pool| pool.region == at)
}

/// A share, as short as it can be said: `1 %`, `3.5 %`, `0.05 %`.
fn percent(share: f64) -> String {
    format!("{} %", short(share * 100.0))
}

/// A rate, for people: `1,200`, `42`, `0.35`, `less than 0.01`.
fn rate_text(rate: f64) -> String {
    let text = short(rate);
    if rate > 0.0 && text == "0" {
        return "less than 0.01".to_owned();
    }
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (row, digit) in whole.chars().enumerate() {
        if row > 0 && (whole.len() - row).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// A number that is not negative, to about three digits, without zeros at its end.
fn short(number: f64) -> String {
    let digits = match number {
        ..1.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    let text = format!("{number:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_shares_are_as_short_as_they_can_be() {
        let told = [1_234_567.0, 1200.0, 999.6, 100.0, 42.0, 12.54, 0.35, 0.0].map(rate_text);
        assert_eq!(told, ["1,234,567", "1,200", "1,000", "100", "42", "12.5", "0.35", "0"]);
        assert_eq!(rate_text(0.004), "less than 0.01");
        assert_eq!([0.01, 0.035, 0.0005, 1.0].map(percent), ["1 %", "3.5 %", "0.05 %", "100 %"]);
    }
}
