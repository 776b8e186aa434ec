//! Writers that operators name, where no lease decides: what a word means, and which of two counts.
//!
//! A word takes the writer's place at once where it is said or heard. The region that it names is
//! answered when the answers of the one before are forgotten everywhere, which each node finds out
//! for itself:
//!
//! 1. The word *stands* when a majority of all nodes follows it, as each of them tells: from then
//!    on none of these answers the one before. No other region can stand in the same epoch, as a
//!    node follows one. A word that nobody has heard never stands, where it was said either. All
//!    nodes are those of one list, on which they have agreed (`cluster::List`).
//! 2. A node that has not heard the word names the one before as long as it surely hears a majority
//!    (`Gossip::fresh_until`). One of these is among those of 1, and what that one said before it
//!    followed the word counts for `FRESH` at most.
//! 3. What was answered until then is forgotten a TTL and [`TRAVEL`](crate::time::TRAVEL) later.
//!
//! So a word's region is answered a TTL, `TRAVEL` and `FRESH` after it stands.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::leases::forgotten_after;
use super::{Facts, Lease, Policy, Service, Writer, is_well};
use crate::ids::{NodeId, RegionId, ServiceId};
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
    /// Who decides on the service's writer, if this may be said of it; else why not. `out` tells by
    /// which word of an operator a region is out.
    ///
    /// # Errors
    /// No such region writes, or it is not well.
    pub fn makes_sense(
        &self,
        (id, service): (ServiceId, &Service),
        region: Option<RegionId>,
        facts: &Facts<'_>,
        out: impl Fn(RegionId) -> Option<String>,
    ) -> Result<Lease, String> {
        let Self { region: name, fenced, .. } = self;
        let Policy::SingleWriter(order, lease) = &service.policy else {
            return Err(format!("the service {} is not `steer: single-writer`", service.name));
        };
        let at = region.filter(|at| order.contains(at));
        let at =
            at.ok_or_else(|| format!("the service {} has no endpoint in {name}", service.name))?;
        if !fenced && !is_well((id, service), at, facts) {
            let unwell = || format!("{name} is not well; with `fenced` it writes all the same");
            return Err(out(at).unwrap_or_else(unwell));
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
    /// From when on it is answered here: the wait, counted from when it stood; 0: that is over;
    /// `None`: too few nodes are known to follow it.
    #[serde(default)]
    from: Option<u64>,
    /// Which other nodes are known to follow it.
    #[serde(skip)]
    followers: BTreeSet<NodeId>,
}

/// No epoch is as high: it would leave none for what is named next.
const TOO_HIGH: u64 = 1 << 63;

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
            let why = "this node hears too few others, or they do not hear it, to know who writes";
            return Err(format!("{why}; say it elsewhere, or with `fenced`"));
        }
        let remembered = before.map_or(ttl, |before| Ttl::from_secs(before.ttl));
        let wait = forgotten_after(remembered.duration()) + deaf;
        // Also those of the one before that, if they may not be forgotten yet.
        let wait = wait.max(before.map_or(Duration::ZERO, |before| before.left(now)));
        let wait = if naming.fenced { Duration::ZERO } else { wait };
        Ok(Self {
            region: Some(naming.region.clone()),
            epoch: before.map_or(0, |before| before.epoch) + 1,
            ttl: ttl.as_secs(),
            wait: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            reason: naming.reason.clone(),
            owner: naming.owner.clone(),
            from: heard.is_none().then(|| (now + wait).as_nanos()),
            followers: BTreeSet::new(),
        })
    }

    /// Nobody, after the writer of this epoch, whose answers may be remembered for so long, which a
    /// lease had made one.
    pub fn after_lease(epoch: u64, ttl: Ttl) -> Self {
        Self {
            region: None,
            epoch,
            ttl: ttl.as_secs(),
            wait: 0,
            reason: String::new(),
            owner: String::new(),
            from: Some(0),
            followers: BTreeSet::new(),
        }
    }

    /// The epoch, and how long answers may be remembered: what comes next by a lease comes after.
    pub fn end(&self) -> (u64, Ttl) {
        (self.epoch, Ttl::from_secs(self.ttl))
    }

    /// How much is left at `now` of the wait.
    fn left(&self, now: Instant) -> Duration {
        match self.from {
            Some(from) => Instant::from_nanos(from).since(now).min(self.wait()),
            None => self.wait(),
        }
    }

    fn wait(&self) -> Duration {
        Duration::from_millis(self.wait)
    }

    /// What a process makes of it at its start, at `now`, that finds it on its disk. Between two
    /// processes there is no clock to count by: a wait that was not over begins anew.
    #[must_use]
    pub fn recalled(self, now: Instant) -> Self {
        let begun = self.from.filter(|from| *from > 0).map(|_| (now + self.wait()).as_nanos());
        Self { from: begun.or(self.from), epoch: self.kept_epoch(), ..self }
    }

    /// The epoch by which a process goes that finds this on its disk: an earlier version believed
    /// others any.
    fn kept_epoch(&self) -> u64 {
        self.epoch.min(TOO_HIGH / 2)
    }

    /// Does this stay on the disk where it is, when `other` is to be kept? How far the same word
    /// has come is kept in its place.
    pub fn outlasts(&self, other: &Self) -> bool {
        self.kept_epoch() > other.epoch
    }

    /// Is the wait over, and was not known to be? Then that is to be kept.
    pub fn end_wait(&mut self, now: Instant) -> bool {
        let is_over = self.from.is_some_and(|from| from > 0 && Instant::from_nanos(from) <= now);
        if is_over {
            self.from = Some(0);
        }
        is_over
    }

    /// What counts from now on, when this is heard where `ours` counts; `None`: ours does.
    #[must_use]
    pub fn heard(self, ours: Option<&Self>) -> Option<Self> {
        let theirs = Self { from: None, followers: BTreeSet::new(), ..self };
        match ours {
            _ if theirs.epoch >= TOO_HIGH => None,
            Some(ours) if ours.epoch > theirs.epoch => None,
            Some(ours) if ours.is_same(&theirs) => None,
            // Two said two things of which neither knew of the other. Nobody is right.
            Some(ours) if ours.epoch == theirs.epoch => Some(Self {
                region: None,
                epoch: ours.epoch + 1,
                ttl: ours.ttl.max(theirs.ttl),
                wait: ours.wait.max(theirs.wait),
                reason: "two regions were named at once; name one again".to_owned(),
                owner: both(&ours.owner, &theirs.owner),
                ..theirs
            }),
            _ => Some(theirs),
        }
    }

    /// Are they one word?
    pub fn is_same(&self, other: &Self) -> bool {
        (self.epoch, &self.region) == (other.epoch, &other.region)
    }

    /// Another node follows `theirs`.
    pub fn followed(&mut self, node: NodeId, theirs: &Self) {
        if self.is_same(theirs) {
            self.followers.insert(node);
        }
    }

    /// So many others are a majority with this node, and these count: follow enough of them the
    /// same as this one? `true`: they do from `now` on.
    pub fn stand(&mut self, now: Instant, counts: &BTreeSet<NodeId>, others: usize) -> bool {
        if self.from.is_some() || self.followers.intersection(counts).count() < others {
            return false;
        }
        self.from = Some((now + self.wait()).as_nanos());
        true
    }

    /// A node has started anew, and may not know it.
    pub fn forgotten(&mut self, node: NodeId) {
        self.followers.remove(&node);
    }

    /// Is it known to be followed by a majority?
    pub fn stands(&self) -> bool {
        self.from.is_some()
    }

    /// The same as answers know it: `region` is its own, and it counts until `heard`, as long as
    /// this node surely hears what is said next; never, if it does not stand.
    pub fn writer(&self, region: RegionId, service: &Service, heard: Option<Instant>) -> Writer {
        let ttl = service.ttl.min(Ttl::from_secs(self.ttl));
        let (from, until) = match self.from {
            Some(from) => (Instant::from_nanos(from), heard),
            None => (Instant::default(), Some(Instant::default())),
        };
        Writer { region, epoch: self.epoch, ttl, from, until }
    }
}

/// Two operators; cut, so that nodes can tell each other of any number that were at odds.
fn both(one: &str, other: &str) -> String {
    let [one, other] = [one, other].map(|name| name.chars().take(250).collect::<String>());
    format!("{one} and {other}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn node(row: usize) -> NodeId {
        NodeId::from_index(row).unwrap()
    }

    /// What an operator says at `now` to a node that hears two others.
    fn said(now: Instant, region: &str, ttl: u32, before: Option<&Named>) -> Named {
        let [service, reason, owner] = ["web", "", "alice"].map(str::to_owned);
        let naming = Naming { service, region: region.to_owned(), fenced: false, reason, owner };
        let heard = (Some(now + SECOND), SECOND * 2);
        Named::next(now, &naming, Ttl::from_secs(ttl), before, heard).unwrap()
    }

    /// From when on a word is answered.
    fn from(named: &Named) -> Option<Instant> {
        named.from.map(Instant::from_nanos)
    }

    #[test]
    fn a_word_stands_when_enough_others_follow_it() {
        let now = Instant::from_nanos(1 << 40);
        let mut word = said(now, "us", 10, None);
        let theirs = word.clone().heard(None).unwrap();
        let other = said(now, "eu", 10, None);
        let all = (1..5).map(node).collect();
        let followed = |word: &mut Named, now, row, theirs: &Named| {
            word.followed(node(row), theirs);
            word.stand(now, &all, 2)
        };
        // Of five nodes two others are enough; one that has started anew may have forgotten it.
        assert!(!followed(&mut word, now, 1, &theirs));
        assert!(!followed(&mut word, now, 1, &theirs), "it is the same one");
        assert!(!followed(&mut word, now, 2, &other), "it follows another");
        word.forgotten(node(1));
        assert!(!followed(&mut word, now, 2, &theirs) && !word.stands());
        let then = now + SECOND * 60;
        word.followed(node(1), &theirs);
        assert!(!word.stand(then, &[node(1)].into(), 2), "one of them does not count");
        assert!(followed(&mut word, then, 1, &theirs) && word.stands());
        // The TTL and a hundredth of it, two seconds, and two more for who does not hear it.
        assert_eq!(from(&word), Some(then + Duration::from_millis(14_100)));
        assert!(!followed(&mut word, then + SECOND, 3, &theirs), "it did before");
        // Whoever hears it finds out for himself; what is on disk is known.
        let text = serde_json::to_string(&word).unwrap();
        let heard = serde_json::from_str::<Named>(&text).unwrap().heard(None).unwrap();
        assert!(!heard.stands());
        assert!(serde_json::from_str::<Named>(&text).unwrap().stands());
    }

    #[test]
    fn a_word_waits_for_all_answers_that_may_be_remembered() {
        let now = Instant::from_nanos(1 << 40);
        let long = said(now, "us", 60, None);
        // The TTL is shorter from now on. Nobody has heard of the second word when a third is said.
        let second = said(now, "eu", 5, Some(&long));
        let third = said(now + SECOND, "asia", 5, Some(&second));
        assert_eq!((second.wait, third.wait, third.epoch), (64_600, 64_600, 3));
        let mut second = second;
        let theirs = second.clone().heard(None).unwrap();
        second.followed(node(1), &theirs);
        assert!(second.stand(now, &[node(1)].into(), 1));
        let third = said(now + SECOND * 20, "asia", 5, Some(&second));
        assert_eq!(third.wait, 44_600);
        let third = said(now + SECOND * 90, "asia", 5, Some(&second));
        assert_eq!(third.wait, 9_050);
        // Two at once are none, and what comes next waits for both.
        let one = said(now, "eu", 5, Some(&long));
        let none = said(now, "us", 5, None).heard(Some(&Named { epoch: 1, ..one })).unwrap();
        assert_eq!((&none.region, none.epoch, none.wait), (&None, 2, 64_600));
    }

    #[test]
    fn a_wait_that_was_not_over_begins_anew_with_another_process_whatever_its_clock_says() {
        let now = Instant::from_nanos(1 << 60);
        let mut word = said(now, "us", 60, None);
        word.followed(node(1), &word.clone());
        assert!(word.stand(now, &[node(1)].into(), 1) && !word.end_wait(now + SECOND * 64));
        for clock in [now, now + SECOND * 3600, now - SECOND * 86_400] {
            let again = word.clone().recalled(clock);
            assert_eq!(from(&again), Some(clock + Duration::from_millis(64_600)));
        }
        // A clock that was a day ahead makes nobody wait for a day.
        assert_eq!(word.left(now - SECOND * 86_400), Duration::from_millis(64_600));
        assert!(word.end_wait(now + SECOND * 65) && !word.end_wait(now + SECOND * 65));
        let again = word.recalled(now - SECOND * 86_400);
        assert_eq!(from(&again), Some(Instant::default()));
        assert!(!said(now, "us", 60, None).recalled(now).stands());
    }

    #[test]
    fn an_epoch_that_leaves_none_after_it_is_not_followed() {
        let now = Instant::from_nanos(1 << 60);
        let first = said(now, "us", 10, None);
        let high = |epoch| Named { epoch, ..said(now, "eu", 10, None) };
        for ours in [None, Some(&first), Some(&high(TOO_HIGH - 1))] {
            assert_eq!(high(u64::MAX).heard(ours), None);
        }
        // What an earlier version kept has a next one, which others follow.
        let kept = high(u64::MAX).recalled(now);
        let next = said(now, "us", 10, Some(&kept));
        assert_eq!(next.clone().heard(Some(&kept)), Some(Named { from: None, ..next }));
    }

    #[test]
    fn of_however_many_that_were_at_odds_nodes_can_tell_each_other() {
        let now = Instant::from_nanos(1 << 40);
        // Each character takes six octets when it is written.
        let owner = "\u{1}".repeat(500);
        let mut word = Named { owner: owner.clone(), ..said(now, "us", 10, None) };
        for _ in 0..4 {
            let region = Some("eu".to_owned());
            let other = Named { region, owner: owner.clone(), ..word.clone() };
            word = other.heard(Some(&word)).unwrap();
            assert!(serde_json::to_string(&word).unwrap().len() < 4096);
        }
    }
}
