//! What a world is made from.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::checks::Pace;
use super::scenario::{LEASE, Scenario, WORD};
use crate::cluster::FRESH;
use crate::config::{Config, Target};
use crate::geo::Atlas;
use crate::ids::{RegionId, TargetId};
use crate::snapshot::Plan;
use crate::steer::{Address, Lease, Policy, Service};

/// What a world is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'i> {
    /// What happens.
    pub scenario: &'i Scenario,
    /// What the nodes run.
    pub config: &'i Config,
    /// The same, compiled.
    pub plan: &'i Arc<Plan>,
    /// What they run after a reload.
    pub reloads: &'i [Stage<'i>],
    /// Who is where.
    pub atlas: &'i Atlas,
    /// Whence all chance comes.
    pub seed: u64,
}

/// A configuration that nodes run, and the same compiled.
#[derive(Clone, Copy, Debug)]
pub struct Stage<'i> {
    /// The configuration.
    pub config: &'i Config,
    /// The same, compiled.
    pub plan: &'i Arc<Plan>,
}

impl Input<'_> {
    /// Can it be played?
    pub(super) fn playable(&self, service: &Service, addresses: &Addresses) -> Result<(), String> {
        let names = |of: &Config| of.regions.iter().map(|of| of.name.clone()).collect::<Vec<_>>();
        if self.reloads.iter().any(|of| names(of.config) != names(self.config)) {
            return Err("a configuration to reload has other regions".to_owned());
        }
        if addresses.is_empty() {
            return Err(format!("the service {} has no IPv4 address", service.name));
        }
        Ok(())
    }

    /// For how long a node may go on to name a writer of which it hears nothing more, and what the
    /// way is called to have one writer at a time; `None`: the service has many.
    pub(super) fn one_writer(&self) -> Option<(Duration, &'static str)> {
        match self.plan.services.get(self.scenario.service.index())?.policy {
            Policy::SingleWriter(_, Lease::Kept(lease)) => Some((lease, LEASE)),
            Policy::SingleWriter(_, Lease::Manual) => Some((FRESH, WORD)),
            _ => None,
        }
    }
}

impl Stage<'_> {
    /// The regions, and how each is probed in which the service has an address that can be told.
    pub(super) fn paces(&self, service: &str) -> Vec<(String, Option<Pace>)> {
        let mut paces = vec![None; self.config.regions.len()];
        let target = |id: &TargetId| self.config.targets.iter().find(|of| of.id == *id);
        let services = self.plan.services.iter().filter(|of| of.name == service);
        for pool in services.flat_map(|service| &service.pools) {
            let Some(slot) = paces.get_mut(pool.region.index()) else { continue };
            for endpoint in &pool.endpoints {
                if !matches!(endpoint.address, Address::Ip(IpAddr::V4(_))) {
                    continue;
                }
                let pace: &mut Pace = slot.get_or_insert_default();
                let targets = endpoint.probed.iter().flat_map(|of| &of.targets);
                for Target { schedule, .. } in targets.filter_map(target) {
                    pace.down = pace.down.max(schedule.longest_detection());
                    pace.up = pace.up.max(schedule.longest_return());
                }
            }
        }
        self.config.regions.iter().map(|of| of.name.clone()).zip(paces).collect()
    }
}

/// What is probed, and in which region.
pub(super) type Targets = Vec<(TargetId, RegionId)>;

/// Which address is where.
pub(super) type Addresses = Vec<(Ipv4Addr, RegionId)>;

/// What is probed in which region, and which address is where, at all stages.
pub(super) fn endpoints<'s>(
    service: &str,
    stages: impl Iterator<Item = &'s Stage<'s>>,
) -> (Targets, Addresses) {
    let (mut targets, mut addresses) = (Vec::new(), Vec::new());
    let services = stages.flat_map(|stage| &stage.plan.services).filter(|of| of.name == service);
    for pool in services.flat_map(|service| &service.pools) {
        for endpoint in &pool.endpoints {
            let probed = endpoint.probed.iter().flat_map(|of| &of.targets);
            targets.extend(probed.map(|target| (*target, pool.region)));
            if let Address::Ip(IpAddr::V4(ip)) = endpoint.address {
                addresses.push((ip, pool.region));
            }
        }
    }
    (targets, addresses)
}
