//! What a process leaves to the next one, and what that makes of it.

use std::collections::HashMap;

use super::Control;
use crate::config::{Config, Target};
use crate::health::Monitor;
use crate::ids::{RegionId, ServiceId};
use crate::rng::Seed;
use crate::server::load::Loaded;
use crate::server::overrides::{self, Said};
use crate::server::store::{Kept, Moves, Recalled};
use crate::steer::{self, Family, Holds, InForce, Left, Scope};
use crate::time::Instant;

impl Control {
    /// Keeps what is out, kept and has left for the next process, if that is something else than
    /// before.
    pub(super) fn keep_moves(&mut self) {
        if self.holds.take_other() {
            self.store.moves(self.moves());
        }
    }

    /// Forgets the last states of what is configured no more: where endpoints come and go, they
    /// would be more and more.
    pub(super) fn forget_states(&self) {
        self.store.only(self.loaded.config.targets.iter().map(Target::key).collect());
    }

    /// What is out, kept and has left, as it is kept for the next process: `web/eu AAAA`, `eu`.
    pub(super) fn moves(&self) -> Moves {
        let plan = &self.loaded.plan;
        let name = |(of, at, family)| format!("{} {family}", plan.pool_name(of, at));
        let left = |of: Left| (plan.region_name(of.region).to_owned(), of.at, of.with);
        let steer::Moves { out, kept, left: all } = self.holds.moves();
        Moves {
            out: out.into_iter().map(name).collect(),
            kept: kept.into_iter().map(name).collect(),
            left: all.into_iter().map(left).collect(),
        }
    }
}

/// What is told of: a family of a service's region; all, if none is named, as earlier versions
/// did.
fn parts(told: &str, config: &Config) -> Vec<(ServiceId, RegionId, Family)> {
    let named = Family::ALL.into_iter().find_map(|family| {
        let pool = told.strip_suffix(&format!(" {family}"))?;
        Some((pool, vec![family]))
    });
    let (pool, families) = named.unwrap_or((told, Family::ALL.to_vec()));
    let scope = pool.parse().and_then(|subject| overrides::scope(&subject, config));
    let Ok(Scope::Pool(service, region)) = scope else { return Vec::new() };
    let pools = config.services.get(service.index()).map_or(&[][..], |of| &of.pools);
    let has = |family: &Family| pools.iter().any(|of| of.region == region && of.has(*family));
    families.into_iter().filter(has).map(|family| (service, region, family)).collect()
}

/// What operators said to an earlier process, as it counts at `now`, in the order of subjects.
pub(super) fn said(recalled: &Recalled, now: Instant) -> Vec<Said> {
    let said = recalled.said.iter().cloned();
    let mut said: Vec<Said> = said.map(|said| said.resumed(now, recalled.alive)).collect();
    said.sort_by(|one, other| one.subject.cmp(&other.subject));
    said
}

/// What is held back or kept, after what an earlier process knew of it.
pub(super) fn hold(monitor: &Monitor, loaded: &Loaded, recalled: &Recalled, now: Instant) -> Holds {
    let mut holds = Holds::default();
    holds.limit(loaded.config.max_moves);
    let config = &loaded.config;
    let all = |told: &[String]| told.iter().flat_map(|told| parts(told, config)).collect();
    let left = |(name, at, with): &(String, Instant, f64)| {
        config.region(name).map(|region| Left { at: *at, region, with: *with })
    };
    let Moves { out, kept, left: gone } = &recalled.moves;
    let left = gone.iter().filter_map(left).collect();
    holds.recall(now, steer::Moves { out: all(out), kept: all(kept), left });
    let known = (monitor.table(), InForce::NONE);
    holds.follow(now, &loaded.plan.services, loaded.plan.ids(), known);
    holds
}

/// A monitor that watches all that is configured.
pub(super) fn watching(seed: Seed, config: &Config, recalled: &Recalled, now: Instant) -> Monitor {
    let mut monitor = Monitor::new(seed);
    for target in &config.targets {
        monitor.watch(now, target.id, target.schedule);
    }
    monitor.set_canaries(config.canaries.iter().copied(), config.told());
    recall(&mut monitor, config, recalled, now);
    monitor
}

/// Gives `monitor` back what an earlier process believed, if that is not too old.
fn recall(monitor: &mut Monitor, config: &Config, recalled: &Recalled, now: Instant) {
    let is_young = |at: Instant| now.since(at) <= config.node.believe_state_for;
    if !recalled.alive.is_some_and(is_young) {
        return;
    }
    let states: HashMap<&str, &Kept> =
        recalled.states.iter().map(|kept| (kept.target.as_str(), kept)).collect();
    for target in &config.targets {
        if let Some(kept) = states.get(target.key().as_str()) {
            monitor.recall(target.id, kept.state, kept.since);
        }
    }
}
