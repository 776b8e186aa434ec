//! What somebody should look at now.

use super::super::certificate;
use super::super::control::Listed;
use super::super::handle::View;
use super::api::{is_unopened, timestamp};
use super::convergence::Leaving;
use crate::health::State;
use crate::ids::{RegionId, ServiceId};
use crate::snapshot::Snapshot;
use crate::steer::{Basis, Endpoint, Family, Hold, Service, state_of};

/// What somebody should look at now.
pub(super) fn alarms(view: &View, leaving: &[Leaving]) -> Vec<String> {
    let mut alarms = Vec::new();
    for of in leaving.iter().filter(|of| of.arriving.unexplained) {
        let Leaving { service, region, .. } = of;
        let rate = of.arriving.rate_text().unwrap_or_default();
        let what = "more than three times what caches explain";
        alarms.push(format!("{service}/{region} left the answers and receives {rate}: {what}"));
    }
    if !view.ready {
        let what = "first verdicts, or who writes, are awaited";
        alarms.push(format!("not ready: {what}; no query is answered yet"));
    }
    alarms.extend(view.lost.clone());
    if let Some(why) = &view.unkept {
        let then = "until it is, operators' words wait or are refused";
        alarms.push(format!("what happened last is not kept: {why}; {then}"));
    }
    if !view.refused.is_empty() {
        alarms.push("the newest files are refused; what was good before serves on".to_owned());
    }
    let condition = view.condition;
    if condition.abstains {
        let why = "most targets are silent at once, or all canaries fail";
        alarms.push(format!("this node abstains: {why}; what was believed stands"));
    }
    if condition.loses {
        let then = "it calls a silent target down some three seconds later than usual";
        alarms.push(format!("many probes of this node get lost on their way: {then}"));
    }
    let end = view.loaded.certificate_ends();
    alarms.extend(end.and_then(|end| certificate::told(end, view.now)));
    if condition.isolated {
        alarms.push("this node hears too few others for a quorum".to_owned());
    }
    if condition.is_unwatched {
        let what = "of those who watch some targets (`vantages`) no majority is heard";
        alarms.push(format!("{what}; what was believed of these stands"));
    }
    for node in view.nodes.iter().filter(|node| !node.fresh) {
        let unopened = ": packets come from there that `cluster.key` does not open";
        let what = if is_unopened(view, node) { unopened } else { "" };
        alarms.push(format!("the node {} is not heard{what}", node.name));
    }
    for node in view.nodes.iter().filter(|node| node.list == Listed::Another) {
        let what = "goes by another list of nodes (`cluster.nodes`) than this one";
        alarms.push(format!("the node {} {what}", node.name));
    }
    if view.stale > 0 {
        let targets = if view.stale == 1 { "target is" } else { "targets are" };
        let why = "no probe comes back or can be made, or nobody tells the state";
        alarms.push(format!("{} {targets} stale: {why}", view.stale));
    }
    // A second may be a leap second.
    if view.clock_off.abs() >= 2.0 {
        let what = "the clock was set since the start, and times of day are still by the old one";
        alarms.push(format!("{what}, {:+.0} s off; restart this node", -view.clock_off));
    }
    alarms.extend(alarms_of_writers(view));
    alarms.extend(alarms_of_services(view));
    alarms
}

/// The same of who writes.
fn alarms_of_writers(view: &View) -> Vec<String> {
    let mut alarms = Vec::new();
    for writer in &view.writers {
        let name = &writer.service;
        if let Some(problem) = &writer.problem {
            alarms.push(format!("{name}: {problem}"));
        }
        if writer.writer.is_none() {
            let wait = writer.next_from.filter(|from| *from > view.now);
            let next = wait.map(|from| format!("; the next one from {} on", timestamp(from)));
            alarms.push(format!("{name}: no region writes{}", next.unwrap_or_default()));
        }
        if let (true, Some((region, _))) = (writer.is_down, &writer.writer) {
            let then = match writer.leased {
                true => "when its lease has run out, the next one is named",
                false => "`ctl writer` names another",
            };
            alarms.push(format!("{name}: its writer {region} is down; {then}"));
        }
    }
    alarms
}

/// The same of what is probed and answered.
fn alarms_of_services(view: &View) -> Vec<String> {
    let mut alarms = Vec::new();
    for target in view.ending() {
        alarms.push(format!("{}: its certificate ends soon", target.address));
    }
    for (service, region, hold) in view.holds.all() {
        let name = view.snapshot.plan().pool_name(service, region);
        match hold {
            Hold::Kept => alarms.push(format!("{name} is down and kept: too many regions left")),
            Hold::Back(None) => alarms.push(format!("{name} is well and waits: ctl failback")),
            Hold::Back(Some(_)) => {}
        }
    }
    let plan = view.snapshot.plan();
    let is_down = |of: &Endpoint| state_of(of, &view.health) == State::Down;
    for (id, service) in plan.ids().zip(&plan.services) {
        let lost = lost(&view.snapshot, id).into_iter().filter(|lost| lost.share > 0.0);
        let lost: Vec<String> = lost
            .map(|Lost { family, share, basis }| {
                let basis = basis.map(|basis| format!(" ({basis})")).unwrap_or_default();
                format!("{:.0} % of its {family} clients{basis}", share * 100.0)
            })
            .collect();
        let mut endpoints = service.pools.iter().flat_map(|pool| &pool.endpoints);
        if !lost.is_empty() {
            alarms.push(format!("{}: nothing is up for {}", service.name, lost.join(", ")));
        } else if endpoints.all(is_down) {
            alarms.push(format!("{}: every endpoint is down", service.name));
        }
    }
    for region in (0..plan.regions.len()).map_while(RegionId::from_index) {
        let pools = plan.services.iter().flat_map(|service| &service.pools);
        let endpoints = pools.filter(|pool| pool.region == region).flat_map(|pool| &pool.endpoints);
        // What nothing checks tells nothing of its region.
        let mut checked = endpoints.filter(|of| of.probed.is_some()).peekable();
        if checked.peek().is_some() && checked.all(is_down) {
            let name = plan.region_name(region);
            alarms.push(format!("the region {name} is down: every endpoint that is checked"));
        }
    }
    alarms
}

/// A service's clients for whom nothing is up.
pub(super) struct Lost {
    /// Which of its answers they ask for.
    pub(super) family: Family,
    /// Their share of all IPv4 addresses.
    pub(super) share: f64,
    /// What the first of their answers rests on.
    basis: Option<Basis>,
}

/// The clients for whom nothing is up, of each kind of answer that a service has.
pub(super) fn lost(snapshot: &Snapshot, id: ServiceId) -> Vec<Lost> {
    let Some(service) = snapshot.service(id) else { return Vec::new() };
    // A single writer is answered up or not: that it is down is told of it.
    if snapshot.plan().services.get(id.index()).is_none_or(Service::has_one_writer) {
        return Vec::new();
    }
    let of_family = |family| {
        let (mut share, mut basis) = (0.0, None);
        for (ready, part) in service.selector(family)?.answers() {
            if ready.choice.basis.is_down() && part > 0.0 {
                share += part;
                basis = basis.or(Some(ready.choice.basis));
            }
        }
        Some(Lost { family, share, basis })
    };
    Family::ALL.into_iter().filter_map(of_family).collect()
}
