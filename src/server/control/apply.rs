//! Another configuration: what it would lose, how it takes the place of the one that is served, and
//! what became of the attempt.

use std::sync::Arc;

use metrics::{counter, gauge};
use tracing::warn;

use super::Control;
use super::writers::lease_of;
use crate::config::{Config, Problem};
use crate::ids::{RegionId, ServiceId, TargetId};
use crate::server::history::{Kind, Level};
use crate::server::load::{Loaded, Refused, What};
use crate::server::overrides;
use crate::steer::Service;

impl Control {
    /// The keys of `config` that count from the next start on.
    pub(super) fn pending(&self, config: &Config) -> Vec<&'static str> {
        let both = self.at_start.iter().zip(config.read_at_start());
        both.filter(|(was, is)| **was != *is).map(|((key, _), _)| *key).collect()
    }

    /// What is answered now and would not be by `loaded`, and was not said to go.
    fn lost_in(&self, loaded: &Loaded) -> Vec<Problem> {
        let (plan, newer) = (&self.loaded.plan, &loaded.plan);
        let zones = plan.zones_lost_in(newer).into_iter();
        let zones = zones.map(|name| (name, "is served now and would be no zone any more"));
        let names = plan.names_lost_in(newer).into_iter();
        let names = names.map(|name| (name, "is answered now and would have no record"));
        let lost = zones.chain(names).filter(|(name, _)| !loaded.config.retired.contains(name));
        let problem = |(name, what)| {
            let what = format!("{name} {what}; to let it go, put it under `retired`");
            Problem::of_file(&loaded.file, what)
        };
        lost.map(problem).collect()
    }

    /// What of `loaded` cannot be: who decides which region writes does not change while one may.
    /// Nodes that still go by the other way would go on to answer another region.
    fn parted_in(&self, loaded: &Loaded) -> Vec<Problem> {
        let changed = self.loaded.plan.single_writers().filter_map(|(_, was)| {
            let is = loaded.plan.services.get(loaded.plan.service_named(&was.name)?.index())?;
            (lease_of(is)? != lease_of(was)?).then_some(was)
        });
        let renamed = self.loaded.plan.single_writers().filter_map(|(_, was)| {
            let has_its_name = |of: &&Service| {
                let is_other = of.name != was.name && of.has_one_writer();
                is_other && of.names.iter().any(|name| was.names.contains(name))
            };
            Some((was, loaded.plan.services.iter().find(has_its_name)?))
        });
        let renamed = renamed.map(|(was, is)| {
            let what = format!(
                "services.{}: it has names of {}, of which one region writes, and knows neither \
                 that region nor its epoch: two writers could be answered; keep the service's \
                 name, or take {1} out on all nodes (its names under `retired`), wait for its \
                 longest TTL, and put it in again by the new one",
                is.name, was.name
            );
            Problem::of_file(&loaded.file, what)
        });
        let problem = |of: &Service| {
            let what = format!(
                "services.{0}.lease: changed between `manual` and etcd while {0} is served, where \
                 two writers could be answered; take {0} out on all nodes (its names under \
                 `retired`), wait for its longest TTL, and put it in again with the new `lease`",
                of.name
            );
            Problem::of_file(&loaded.file, what)
        };
        changed.map(problem).chain(renamed).collect()
    }

    /// Serves `loaded` from now on, unless something is lost in it.
    pub(super) fn apply(&mut self, loaded: Loaded) -> Result<(), Refused> {
        let problems = [self.lost_in(&loaded), self.parted_in(&loaded)].concat();
        if !problems.is_empty() {
            return Err(Refused { what: What::Configuration, problems });
        }
        for key in self.pending(&loaded.config) {
            warn!(key, "changed, which counts from the next start on; restart the node for it");
        }
        let now = self.clock.now();
        let gone: Vec<TargetId> =
            self.monitor.targets().filter(|id| !loaded.probes.contains_key(id)).collect();
        self.withdraw(&gone);
        for target in &loaded.config.targets {
            self.monitor.watch(now, target.id, target.schedule);
        }
        if let Some(newest) = &loaded.certificate {
            self.certificate.set(newest.clone());
        }
        self.monitor.set_canaries(loaded.config.canaries.iter().copied(), loaded.config.told());
        let (old, loaded) = (self.loaded.clone(), Arc::new(loaded));
        let Loaded { plan, config, .. } = &*loaded;
        let region = |id: RegionId| config.region(&old.config.regions.get(id.index())?.name);
        let service =
            |id: ServiceId| plan.service_named(&old.config.services.get(id.index())?.name);
        self.holds.limit(config.max_moves);
        self.measure();
        self.holds.rekey(&plan.services, region, service);
        self.planned = overrides::planned(config, now);
        self.overrides = overrides::resolve(&self.said, &self.planned, &loaded.meanings);
        self.in_force = self.overrides.at(now);
        let known = (self.monitor.table(), &self.in_force);
        self.holds.follow(now, &plan.services, plan.ids(), known);
        self.exposure.open(now, plan);
        self.writing.in_force = self.writing.in_force.rekeyed(region, service);
        self.loaded = loaded.clone();
        self.keep_moves();
        self.follow_writers(now);
        self.note_ttls();
        self.compile(plan, None, true);
        self.sample.turn_to(plan);
        self.exposure.turn_over(self.clock.now());
        for target in gone {
            self.monitor.forget(target);
        }
        self.prober.arrivals().keep(|target| loaded.probes.contains_key(&target));
        self.prober.complaints().keep(|target| loaded.probes.contains_key(&target));
        self.held.set(config.held());
        self.webhooks.set(&config.node.name, &config.webhooks);
        self.applied = now;
        self.meet();
        self.tell_answers(None);
        Ok(())
    }

    /// Counts what became of an attempt to serve something else, and remembers what is refused.
    pub(super) fn account(&mut self, result: &Result<(), Refused>) {
        let count = |what: What, outcome: &'static str| {
            let what = what.label();
            counter!("meridian_reloads_total", "what" => what, "outcome" => outcome).increment(1);
        };
        self.refused.clear();
        let file = self.loaded.file.clone();
        match result {
            Ok(()) => {
                What::ALL.into_iter().for_each(|what| count(what, "applied"));
                let hash = format!("configuration {:016x}", self.loaded.config.hash);
                let told = (file, "reloaded".to_owned());
                self.tell(Level::Info, Kind::Reload, told, (hash, String::new()), None);
            }
            Err(refused) => {
                count(refused.what, "refused");
                let problems = refused.problems.clone();
                let why: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let told = (file, "reload refused; what was good before serves on".to_owned());
                let why = (why.join("\n"), String::new());
                self.refused.push((refused.what, self.clock.now(), problems));
                self.tell(Level::Error, Kind::Reload, told, why, None);
            }
        }
        for what in What::ALL {
            let is_refused = self.refused.iter().any(|(refused, ..)| *refused == what);
            gauge!("meridian_reload_refused", "what" => what.label()).set(u8::from(is_refused));
        }
    }
}
