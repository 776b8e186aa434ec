//! Clients that asked lately, some of them: who would be sent where is counted by them.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::ids::ServiceId;
use crate::snapshot::Plan;
use crate::time::Instant;

/// How many are remembered: of a busy server the last eighty seconds.
const MOST: usize = 8192;

/// From one to the next, at least: what it costs is nothing beside the queries.
const EVERY: Duration = Duration::from_millis(10);

/// A sample of the queries for services.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// When the next query is taken, in nanoseconds since the Unix epoch.
    next: AtomicU64,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// What the ids mean.
    plan: Option<Arc<Plan>>,
    queries: VecDeque<(ServiceId, IpAddr)>,
}

impl Sample {
    /// Queries are answered by `plan` from now on; others are not taken.
    pub(super) fn turn_to(&self, plan: &Arc<Plan>) {
        let queries = VecDeque::with_capacity(MOST);
        let next = Taken { plan: Some(plan.clone()), queries };
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let _before = std::mem::replace(&mut *taken, next);
        drop(taken);
    }

    /// A client was answered for a service of `plan`, as `asked` tells; it is remembered if it is
    /// time for another.
    pub(super) fn offer(
        &self,
        now: Instant,
        plan: &Arc<Plan>,
        asked: impl FnOnce() -> (ServiceId, IpAddr),
    ) {
        let next = self.0.next.load(Ordering::Relaxed);
        let after = (now + EVERY).as_nanos();
        if now.as_nanos() < next
            || self
                .0
                .next
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        // Whoever answers queries waits for nobody.
        let Ok(mut taken) = self.0.taken.try_lock() else { return };
        if !taken.plan.as_ref().is_some_and(|of| Arc::ptr_eq(of, plan)) {
            return;
        }
        if taken.queries.len() == MOST {
            taken.queries.pop_front();
        }
        taken.queries.push_back(asked());
    }

    /// The clients of each service of `plan`, by the service's row.
    pub(super) fn clients(&self, plan: &Arc<Plan>) -> Vec<Vec<IpAddr>> {
        let mut clients = vec![Vec::new(); plan.services.len()];
        let taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.plan.as_ref().is_some_and(|of| Arc::ptr_eq(of, plan)) {
            for (service, client) in &taken.queries {
                if let Some(of_service) = clients.get_mut(service.index()) {
                    of_service.push(*client);
                }
            }
        }
        clients
    }
}
