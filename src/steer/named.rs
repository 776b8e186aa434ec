//! Writers that operators name, where no lease decides: what a word means, and which of two counts.
//!
//! A word takes the writer's place at once, and the region that it names is answered when the
//! answers of the one before are forgotten everywhere: also those of a node that has not heard the
//! word, which names a writer only as long as it hears enough others.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::leases::with_drift;
use super::{Facts, Lease, Policy, Service, Writer, is_well};
use crate::ids::{RegionId, ServiceId};
use crate::time::{Instant, Ttl};

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct Naming {
    /// The service.
    pub service: String,
    /// The region that is to write.
    pub region: String,
    /// The old writer is known to write no more: nothing is waited for.
    pub fenced: bool,
    /// Why.
    pub reason: String,
    /// Who says so.
    pub owner: String,
}

impl Naming {
    /// Who decides on the service's writer, if this may be said of it; else why not.
    ///
    /// # Errors
    /// No such region writes, or it is not well.
    pub fn makes_sense(
        &self,
        (id, service): (ServiceId, &Service),
        region: Option<RegionId>,
        facts: &Facts<'_>,
    ) -> Result<Lease, String> {
        let Self { region: name, fenced, .. } = self;
        let Policy::SingleWriter(order, lease) = &service.policy else {
            return Err(format!("the service {} is not `steer: single-writer`", service.name));
        };
        let at = region.filter(|at| order.contains(at));
        let at =
            at.ok_or_else(|| format!("the service {} has no endpoint in {name}", service.name))?;
        if !fenced && !is_well((id, service), at, facts) {
            return Err(format!("{name} is not well; with `fenced` it writes all the same"));
        }
        Ok(*lease)
    }
}

/// What operators said of a service's writer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Named {
    /// The region; `None`: two operators said two things at once, and nobody writes until one of
    /// them says it again.
    pub region: Option<String>,
    /// How many were named before it, and itself.
    pub epoch: u64,
    /// How long the answers may be remembered that name it, in seconds.
    ttl: u32,
    /// How long the answers of the one before may be, in milliseconds; 0: it is fenced.
    wait: u64,
    /// Why.
    pub reason: String,
    /// Who said so.
    pub owner: String,
    /// From when on it is answered here: the wait, counted from when this node heard of it.
    from: u64,
}

impl Named {
    /// What an operator says at `now`, where `before` counts and answers are remembered for `ttl`.
    /// This node surely hears what others say until `heard` (`None`: there are no others), and
    /// whoever hears nothing names the one before for `deaf` at most.
    ///
    /// # Errors
    /// Others may have said something else.
    pub fn next(
        now: Instant,
        naming: &Naming,
        ttl: Ttl,
        before: Option<&Self>,
        (heard, deaf): (Option<Instant>, Duration),
    ) -> Result<Self, String> {
        if !naming.fenced && heard.is_some_and(|until| now >= until) {
            let why = "this node hears too few others to know who writes";
            return Err(format!("{why}; say it elsewhere, or with `fenced`"));
        }
        let remembered = before.map_or(ttl, |before| Ttl::from_secs(before.ttl));
        let wait = with_drift(remembered.duration()) + deaf;
        let wait = if naming.fenced { Duration::ZERO } else { wait };
        Ok(Self {
            region: Some(naming.region.clone()),
            epoch: before.map_or(0, |before| before.epoch) + 1,
            ttl: ttl.as_secs(),
            wait: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            reason: naming.reason.clone(),
            owner: naming.owner.clone(),
            from: (now + wait).as_nanos(),
        })
    }

    /// What counts from `now` on, when this is heard where `ours` counts; `None`: ours does.
    #[must_use]
    pub fn heard(self, now: Instant, ours: Option<&Self>) -> Option<Self> {
        match ours {
            Some(ours) if ours.epoch > self.epoch => None,
            Some(ours) if ours.epoch == self.epoch && ours.region == self.region => None,
            // Two said two things of which neither knew of the other. Nobody is right.
            Some(ours) if ours.epoch == self.epoch => Some(Self {
                region: None,
                epoch: ours.epoch + 1,
                reason: "two regions were named at once; name one again".to_owned(),
                owner: format!("{} and {}", ours.owner, self.owner),
                ..self
            }),
            _ => {
                let from = now + Duration::from_millis(self.wait);
                Some(Self { from: from.as_nanos(), ..self })
            }
        }
    }

    /// The same as answers know it: `region` is its own, and it counts until `heard`, as long as
    /// this node surely hears what is said next.
    pub fn writer(&self, region: RegionId, service: &Service, heard: Option<Instant>) -> Writer {
        let ttl = service.ttl.min(Ttl::from_secs(self.ttl));
        let from = Instant::from_nanos(self.from);
        Writer { region, epoch: self.epoch, ttl, from, until: heard }
    }
}
