//! Leases of single writers: who holds one, who renews it, and when the next writer may be named.
//!
//! What is decided here is decided the same way by every node, from what one store has: the store
//! itself is asked elsewhere. Each node asks every half second. What it may publish ends, by its
//! own clock, before the lease can: it counts from before it asked. Nodes of the writer's side
//! renew, and when they are gone or cannot, the others do, as long as they believe the region to be
//! well and could name the next writer: it would be the same one, after a gap. So a node that is
//! cut off with what it last believed keeps no lease alive that the others let go. When nobody
//! renews, the lease runs out, and the writer's key with it. Whoever wants to name the next one has
//! then seen the key gone for as long as the last writer's answers may be remembered, and writes it
//! only if nobody else has.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::writers::is_judged;
use super::{Facts, Lease, Policy, Service, Writer, is_well};
use crate::ids::{RegionId, ServiceId};
use crate::time::{Instant, TRAVEL, Ttl};

/// How often each node asks the store.
pub const ASK_EVERY: Duration = Duration::from_millis(500);

/// How long the store has to answer.
pub const ASK_PATIENCE: Duration = Duration::from_millis(800);

/// An end that is later by less than this is not worth another answer. With the shortest lease, of
/// three seconds, each still stands for longer than the next one takes.
const HARDLY: Duration = Duration::from_millis(900);

/// After how long an answer is surely forgotten that may be remembered for `span`: two clocks may
/// run apart by a hundredth of the time, which is far more than any do, and there is [`TRAVEL`].
pub(super) fn forgotten_after(span: Duration) -> Duration {
    span + span / 100 + TRAVEL
}

/// What is left of `span` for certain, whichever clock counts it.
fn without_drift(span: Duration) -> Duration {
    span.saturating_sub(span / 100)
}

/// A service whose writer is found in the store, as a node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contest {
    /// The service.
    pub service: String,
    /// How long a lease lasts.
    pub lease: Duration,
    /// How long its answers may be remembered from now on.
    pub ttl: Ttl,
    /// The regions that may write, the best first.
    pub eligible: Vec<String>,
    /// The one that does by itself; none while a better one has no verdict yet.
    pub next: Option<String>,
    /// That better one.
    pub awaited: Option<String>,
    /// The regions for which this node renews.
    pub renews: Vec<String>,
    /// Whether this node may name the next one.
    pub may_name: bool,
    /// The last writer that is known otherwise than by the store: its epoch, and how long its
    /// answers may be remembered.
    pub before: Option<(u64, Ttl)>,
}

impl Contest {
    /// The epoch of the one after all that are known.
    pub fn next_epoch(&self, found: &Found) -> u64 {
        let last = found.last.as_ref().map_or(0, |last| last.epoch);
        last.max(self.before.map_or(0, |(epoch, _)| epoch)) + 1
    }

    /// How long the answers of the last one may be remembered.
    fn remembered(&self, found: &Found) -> Option<Duration> {
        let epoch = found.last.as_ref().map_or(0, |last| last.epoch);
        let before = self.before.filter(|(known, _)| *known > epoch).map(|(_, ttl)| ttl.duration());
        before.max(found.last.as_ref().map(|last| Duration::from_secs(u64::from(last.ttl))))
    }

    /// A service as a node sees it by these facts, with the names of regions and whether it renews
    /// for them; `None`: no lease decides who writes.
    pub fn of(
        (id, service): (ServiceId, &Service),
        facts: &Facts<'_>,
        name: &dyn Fn(RegionId) -> Option<String>,
        renews: &dyn Fn(RegionId) -> bool,
        may_name: bool,
    ) -> Option<Self> {
        let Policy::SingleWriter(order, Lease::Kept(lease)) = &service.policy else { return None };
        let named = |counts: &dyn Fn(RegionId) -> bool| {
            order.iter().filter(|of| counts(**of)).filter_map(|of| name(*of)).collect()
        };
        let well = |region| is_well((id, service), region, facts);
        let judged = |region| is_judged((id, service), region, facts);
        let first = order.iter().copied().find(|of| well(*of) || !judged(*of));
        Some(Self {
            service: service.name.clone(),
            lease: *lease,
            ttl: service.ttl,
            eligible: named(&well),
            next: first.filter(|of| well(*of)).and_then(name),
            awaited: first.filter(|of| !well(*of)).and_then(name),
            renews: named(renews),
            may_name,
            before: None,
        })
    }
}

/// A writer, as the store has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Written {
    /// The region.
    pub region: String,
    /// How many came before it, and itself.
    pub epoch: u64,
    /// How long the answers that name it may be remembered, in seconds.
    pub ttl: u32,
}

/// What the store has of a service.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The writer, and the number of its lease.
    pub writer: Option<(Written, i64)>,
    /// The last one that there was.
    pub last: Option<Written>,
    /// The revision of `last`; 0: there is none.
    pub revision: i64,
    /// Whom an operator wants.
    pub wanted: Option<String>,
    /// The revision of `wanted`; 0: nobody is.
    pub wanted_revision: i64,
}

/// What a node has to do, having found that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Turn {
    /// There is a writer: ask how long this lease lasts, and renew it first, if so.
    Held {
        /// The writer.
        written: Written,
        /// The number of the lease.
        lease: i64,
        /// Whether it is for this node to renew it.
        renewal: Renewal,
    },
    /// There is none, and the next one may be named from then on.
    Vacant {
        /// From when on.
        free_from: Instant,
        /// Whom this node is to name now.
        next: Option<String>,
    },
}

/// Whether it is for a node to renew a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renewal {
    /// It is.
    Own,
    /// It is for others, unless they do not.
    StandIn,
    /// It is not.
    None,
}

impl Renewal {
    /// Is it for this node after all, as so little is `left` of a `lease`? Those whose it is renew
    /// it twice a second, as long as they do.
    pub fn is_overdue(self, left: Duration, lease: Duration) -> bool {
        self == Self::StandIn && left <= lease / 2
    }
}

/// What is known of a service's writer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leased {
    /// The writer.
    pub holder: Option<Holder>,
    /// From when on the next one may be named, if none writes.
    pub free_from: Option<Instant>,
    /// Whom an operator wants.
    pub wanted: Option<String>,
}

/// A writer, and until when it is one for certain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The region.
    pub region: String,
    /// Its epoch.
    pub epoch: u64,
    /// How long the answers that name it may be remembered.
    pub ttl: Ttl,
    /// Until when.
    pub until: Instant,
}

impl Holder {
    /// The same as answers know it: `region` is its own.
    pub fn writer(&self, region: RegionId, service: &Service) -> Writer {
        let ttl = service.ttl.min(self.ttl);
        let (from, until) = (Instant::default(), Some(self.until));
        Writer { region, epoch: self.epoch, ttl, from, until }
    }
}

/// Since when a writer's key is gone, and after which last one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vacancy(Option<(i64, Instant)>);

impl Vacancy {
    /// What a node has to do at `now`, having `found` this.
    pub fn turn(&mut self, now: Instant, contest: &Contest, found: &Found) -> Turn {
        let wanted = found.wanted.as_ref();
        if let Some((written, lease)) = &found.writer {
            self.0 = None;
            let stays = wanted.is_none_or(|wanted| *wanted == written.region)
                && contest.eligible.contains(&written.region);
            let renewal = match contest.renews.contains(&written.region) {
                true if stays => Renewal::Own,
                false if stays && contest.may_name => Renewal::StandIn,
                _ => Renewal::None,
            };
            return Turn::Held { written: written.clone(), lease: *lease, renewal };
        }
        // If there was another one meanwhile, it begins anew.
        let known = self.0.filter(|(revision, _)| *revision == found.revision);
        let (_, gone) = *self.0.insert(known.unwrap_or((found.revision, now)));
        let free_from = gone + contest.remembered(found).map_or(Duration::ZERO, forgotten_after);
        let is_free = contest.may_name && now >= free_from;
        let wish = wanted.filter(|wanted| contest.eligible.contains(wanted));
        let next = wish.or(contest.next.as_ref()).filter(|_| is_free);
        Turn::Vacant { free_from, next: next.cloned() }
    }
}

impl Leased {
    /// `written` holds a lease of which so much was left at `asked` or later.
    pub fn held(written: Written, asked: Instant, left: Duration, wanted: Option<String>) -> Self {
        let Written { region, epoch, ttl } = written;
        let until = asked + without_drift(left);
        let holder = Holder { region, epoch, ttl: Ttl::from_secs(ttl), until };
        Self { holder: Some(holder), free_from: None, wanted }
    }

    /// The same end as `before`, if that is hardly earlier: each other one is another answer.
    pub fn settle(&mut self, before: Option<&Self>) {
        let before = before.and_then(|before| before.holder.as_ref());
        let (Some(before), Some(holder)) = (before, &mut self.holder) else { return };
        let is_same = (&holder.region, holder.epoch, holder.ttl)
            == (&before.region, before.epoch, before.ttl);
        if is_same && holder.until.since(before.until) < HARDLY && holder.until > before.until {
            holder.until = before.until;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{health, region, service, states, web};
    use super::*;
    use crate::health::HealthTable;

    const LEASE: Duration = Duration::from_secs(3);

    /// A service of three regions, of which these may write, the best first.
    fn contest(pools: &[&[&str]; 3], order: [usize; 3], health: &HealthTable) -> Contest {
        let mut service = service(pools);
        service.policy = Policy::SingleWriter(order.map(region).to_vec(), Lease::Kept(LEASE));
        let name = |region: RegionId| Some(["us", "eu", "ap"][region.index()].to_owned());
        Contest::of((web(), &service), &Facts::of(health), &name, &|_| true, true).unwrap()
    }

    #[test]
    fn the_next_writer_is_the_best_that_is_well_once_each_better_one_has_its_verdict() {
        for (table, next, awaited, eligible) in [
            ("uuu", Some("eu"), None, "eu us ap"),
            ("u?u", None, Some("eu"), "us ap"),
            ("udu", Some("us"), None, "us ap"),
            ("?u?", Some("eu"), None, "eu"),
            ("?du", None, Some("us"), "ap"),
            ("dd?", None, Some("ap"), ""),
            ("ddd", None, None, ""),
        ] {
            let pools: [&[&str]; 3] = [&["10.0.0.1"], &["10.0.1.1"], &["10.0.2.1"]];
            let contest = contest(&pools, [1, 0, 2], &states(table));
            let given = (contest.next.as_deref(), contest.awaited.as_deref());
            assert_eq!(
                (given, &*contest.eligible.join(" ")),
                ((next, awaited), eligible),
                "{table}"
            );
        }
    }

    #[test]
    fn a_verdict_that_cannot_come_is_not_waited_for() {
        let pools: [&[&str]; 3] = [&["10.0.0.1", "2001:db8::1"], &["10.0.1.1"], &["10.0.2.1"]];
        for (health, next) in [
            // Nothing was heard yet, and nothing for long.
            (states("d?uu"), None),
            (health("d?uu"), Some("eu")),
            (health("u?uu"), Some("us")),
        ] {
            assert_eq!(contest(&pools, [0, 1, 2], &health).next.as_deref(), next);
        }
    }

    #[test]
    fn others_renew_when_those_do_not_whose_it_is() {
        let pools: [&[&str]; 3] = [&["10.0.0.1"], &["10.0.1.1"], &["10.0.2.1"]];
        let written = Written { region: "us".to_owned(), epoch: 1, ttl: 30 };
        let found = Found { writer: Some((written, 7)), ..Found::default() };
        let renewal = |table: &str, renews: &str, may_name: bool, wanted: &str| {
            let contest = Contest {
                renews: vec![renews.to_owned()],
                may_name,
                ..contest(&pools, [0, 1, 2], &states(table))
            };
            let found = Found { wanted: Some(wanted.to_owned()), ..found.clone() };
            match Vacancy::default().turn(Instant::default(), &contest, &found) {
                Turn::Held { renewal, .. } => renewal,
                Turn::Vacant { .. } => panic!("there is a writer"),
            }
        };
        assert_eq!(renewal("uuu", "us", true, "us"), Renewal::Own);
        assert_eq!(renewal("uuu", "us", false, "us"), Renewal::Own);
        assert_eq!(renewal("uuu", "eu", true, "us"), Renewal::StandIn);
        // Who is cut off may be the last to believe that it is well.
        assert_eq!(renewal("uuu", "eu", false, "us"), Renewal::None);
        for renews in ["us", "eu"] {
            assert_eq!(renewal("duu", renews, true, "us"), Renewal::None);
            assert_eq!(renewal("uuu", renews, true, "ap"), Renewal::None);
        }
        let seconds = Duration::from_secs;
        let overdue = [0, 1, 2, 3].map(|left| Renewal::StandIn.is_overdue(seconds(left), LEASE));
        assert_eq!(overdue, [true, true, false, false]);
        assert!(!Renewal::None.is_overdue(seconds(0), LEASE));
    }
}
