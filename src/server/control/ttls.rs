//! With which TTLs answers may be remembered: a service's own, and longer ones that it had.
//!
//! A lower TTL helps only once the answers with the higher one are forgotten, whoever gave them
//! and whichever process.

use std::collections::BTreeMap;

use super::Control;
use crate::server::store::Given;
use crate::snapshot::Plan;
use crate::time::{Instant, TRAVEL, Ttl};

/// By service: its TTLs, and when the last answer with each is forgotten; none: it has it now.
#[derive(Debug, Default)]
pub(super) struct Ttls(BTreeMap<String, BTreeMap<Ttl, Option<Instant>>>);

impl Ttls {
    /// What an earlier process has kept.
    pub(super) fn recalled(given: Vec<Given>) -> Self {
        let mut ttls = Self::default();
        for Given { service, ttl, until } in given {
            ttls.0.entry(service).or_default().insert(ttl, until);
        }
        ttls
    }

    /// The same, to be kept.
    fn given(&self) -> Vec<Given> {
        let given = |(service, all): (&String, &BTreeMap<Ttl, Option<Instant>>)| {
            let given = |(ttl, until): (&Ttl, &Option<Instant>)| Given {
                service: service.clone(),
                ttl: *ttl,
                until: *until,
            };
            all.iter().map(given).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(given).collect()
    }

    /// From `now` on answers have the TTLs of `plan`.
    fn turn_to(&mut self, now: Instant, plan: &Plan) {
        for all in self.0.values_mut() {
            all.retain(|ttl, until| {
                let last = now + ttl.duration() + TRAVEL;
                *until.get_or_insert(last) > now
            });
        }
        for service in &plan.services {
            self.0.entry(service.name.clone()).or_default().insert(service.ttl, None);
        }
        self.0.retain(|_, all| !all.is_empty());
    }

    /// Drops those with which no answer is remembered any more at `now`, and tells whether there
    /// were any.
    pub(super) fn drop_over(&mut self, now: Instant) -> bool {
        let mut were_any = false;
        for all in self.0.values_mut() {
            let known = all.len();
            all.retain(|_, until| until.is_none_or(|until| until > now));
            were_any |= all.len() < known;
        }
        were_any
    }

    /// The longest one with which an answer of the service may be remembered at `now`.
    pub(super) fn longest(&self, service: &str, now: Instant) -> Ttl {
        let all = self.0.get(service).into_iter().flatten();
        let known = all.filter(|(_, until)| until.is_none_or(|until| until > now));
        known.map(|(ttl, _)| *ttl).max().unwrap_or_default()
    }
}

impl Control {
    /// Notes, and keeps, which TTLs answers have from now on. Before it is ready the node answers
    /// nobody, but one that it replaces does.
    pub(super) fn note_ttls(&mut self) {
        if *self.ready.borrow() {
            self.ttls.turn_to(self.clock.now(), &self.loaded.plan);
            self.store.given(self.ttls.given());
        }
    }
}
