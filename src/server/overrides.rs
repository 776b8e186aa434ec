//! What operators have said, by names; what it means for the configuration that is served; and
//! what it would do.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::slice;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::{Stamp, standing};
use crate::config::{Config, Maintenance, Subject};
use crate::ids::{RegionId, ServiceId};
use crate::snapshot::{Plan, Snapshot};
use crate::steer::{Basis, Facts, Family, Override, Overrides, Policy, Pool, Ramp, Scope, Word};
use crate::time::{Instant, Ttl};

/// An operator's word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// What it is about.
    pub subject: Subject,
    /// What is said; `None`: what was said is taken back, or it has ended.
    pub word: Option<Word>,
    /// It has ended by itself.
    pub ended: bool,
    /// Why.
    pub reason: String,
    /// Who says so.
    pub owner: String,
    /// Since when.
    pub since: Instant,
    /// Until when.
    pub until: Option<Instant>,
    /// How fast it reaches all clients.
    pub ramp: Option<Ramp>,
    /// Which of several words on the subject it is, among nodes.
    pub stamp: Stamp,
    /// Those on the same subject that nobody has replaced, and that count less.
    pub beside: Vec<Said>,
}

/// What can be spoken of in a configuration: what that is, and the longest TTL of the services that
/// have a part in it. Very many words are looked up in it, again for each that is said.
pub(super) type Meanings = HashMap<Subject, (Scope, Ttl)>;

/// How long it is remembered that a word was taken back, or has ended, so that a node that was away
/// does not bring an earlier one again.
pub(super) const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);

/// The same, as it is kept and as nodes tell it. Times are in nanoseconds since the Unix epoch.
#[derive(Serialize, Deserialize)]
struct Spoken {
    word: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
    reason: String,
    owner: String,
    since: u64,
    until: Option<u64>,
    ramp_percent: Option<u8>,
    ramp_every: Option<u64>,
    at: u64,
    #[serde(default)]
    by: String,
    saw: Saw,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    beside: Vec<Spoken>,
}

/// What was known when a word was said.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Saw {
    /// Of each node.
    Each(BTreeMap<String, u64>),
    /// An earlier version told the nodes apart by the time alone.
    One(u64),
}

impl From<&Said> for Spoken {
    fn from(said: &Said) -> Self {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self {
            word: said.word.map(|word| word.to_string()),
            ended: said.ended,
            reason: said.reason.clone(),
            owner: said.owner.clone(),
            since: said.since.as_nanos(),
            until: said.until.map(Instant::as_nanos),
            ramp_percent: said.ramp.map(|ramp| ramp.percent),
            ramp_every: said.ramp.map(|ramp| nanos(ramp.every)),
            at: said.stamp.at,
            by: said.stamp.by.clone(),
            saw: Saw::Each(said.stamp.saw.clone()),
            beside: said.beside.iter().map(Self::from).collect(),
        }
    }
}

impl Spoken {
    /// The same of one that has none beside it.
    fn alone(self, subject: &Subject) -> Option<Said> {
        Self { beside: Vec::new(), ..self }.of(subject)
    }

    /// As it is followed, if it can be read.
    fn of(self, subject: &Subject) -> Option<Said> {
        let ramp = self.ramp_percent.zip(self.ramp_every);
        let saw = match self.saw {
            Saw::Each(saw) => saw,
            Saw::One(saw) => [(String::new(), saw)].into_iter().filter(|_| saw > 0).collect(),
        };
        Some(Said {
            subject: subject.clone(),
            word: self.word.map(|word| word.parse()).transpose().ok()?,
            ended: self.ended,
            reason: self.reason,
            owner: self.owner,
            since: Instant::from_nanos(self.since),
            until: self.until.map(Instant::from_nanos),
            ramp: ramp.map(|(percent, every)| Ramp { percent, every: Duration::from_nanos(every) }),
            stamp: Stamp { at: self.at, by: self.by, saw },
            beside: self.beside.into_iter().filter_map(|of| of.alone(subject)).collect(),
        })
    }
}

impl Said {
    /// As it is kept, and told to other nodes.
    pub(super) fn spoken(&self) -> String {
        // Text and numbers can always be written.
        serde_json::to_string(&Spoken::from(self)).unwrap_or_default()
    }

    /// What was spoken of `subject`, if it can be read.
    fn from_spoken(subject: &str, text: &str) -> Option<Self> {
        serde_json::from_str::<Spoken>(text).ok()?.of(&subject.parse().ok()?)
    }

    /// The same of what is kept. An earlier version kept stamps that make no sense: such a word
    /// stands until anything else is said of its subject.
    pub(super) fn recalled(subject: &str, text: &str) -> Option<Self> {
        let mut said = Self::from_spoken(subject, text)?;
        said.beside.retain(|of| of.stamp.makes_sense());
        let stamp = Some(said.stamp).filter(Stamp::makes_sense);
        Some(Self { stamp: stamp.unwrap_or(Stamp { at: 1, ..Stamp::default() }), ..said })
    }

    /// What was heard of another node, if it makes sense.
    pub(super) fn told(subject: &str, text: &str) -> Option<Self> {
        let makes_sense = |said: &Self| said.all().all(|of| of.stamp.makes_sense());
        Self::from_spoken(subject, text).filter(makes_sense)
    }

    /// The latest `at` that it tells of: a word is later than those that it knew of.
    pub(super) fn latest(&self) -> u64 {
        self.all().map(|of| of.stamp.at).fold(0, u64::max)
    }

    /// It and those beside it.
    pub(super) fn all(&self) -> impl Iterator<Item = &Self> {
        [self].into_iter().chain(&self.beside)
    }

    /// What stands of these and those beside them: the one that counts, with the others beside it.
    /// What is over at `now` has ended, and still replaces what it knew of. `None`: nothing stands.
    pub(super) fn joined<'s>(
        words: impl IntoIterator<Item = &'s Self>,
        now: Instant,
    ) -> Option<Self> {
        let all = words.into_iter().flat_map(Self::all);
        let alone = all.map(|of| Self { beside: Vec::new(), ..of.clone() });
        let ended = alone.map(|of| if of.is_over(now) { of.ended() } else { of });
        let all = ended.filter(|of| !of.is_over(now)).collect();
        let mut standing = standing(all, |of| (of.stamp.clone(), of.safety())).into_iter();
        let first = standing.next()?;
        Some(Self { beside: standing.collect(), ..first })
    }

    /// Is its time over at `now`?
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    /// Does it only say that something was taken back, and is that old news at `now`? Whatever it
    /// went over is forgotten with it.
    pub(super) fn is_old_news(&self, now: Instant) -> bool {
        self.word.is_none() && !self.ended && self.is_over(now)
    }

    /// Is it the same word, ended or not?
    pub(super) fn is(&self, other: &Self) -> bool {
        (self.stamp.at, &self.stamp.by) == (other.stamp.at, &other.stamp.by)
    }

    /// What is said, in a word.
    pub(super) fn verb(&self) -> String {
        self.word.map_or("cleared".to_owned(), |word| word.to_string())
    }

    /// That it stands, for somebody who said something else meanwhile.
    pub(super) fn stands(&self) -> String {
        let Self { subject, owner, reason, .. } = self;
        let verb = self.verb();
        format!(
            "{owner} said {verb} of {subject} at another node meanwhile ({reason}), and that \
             counts, as it is safer; if it is to be otherwise all the same, say it again"
        )
    }

    /// That it takes a region out, for somebody who wants that one.
    pub(super) fn keeps_out(&self) -> String {
        let Self { subject, owner, reason, .. } = self;
        let how = if self.word == Some(Word::Down) { "said to be down" } else { "drained" };
        if self.stamp == Stamp::default() {
            return format!("{subject} is {how} ({reason}, by {owner}): wait until that is over");
        }
        format!("{subject} is {how} ({reason}, by {owner}): `ctl clear {subject}` first")
    }

    /// Does it take an endpoint of a service's `pool` out at `now`?
    pub(super) fn takes_out(
        &self,
        (service, pool): (ServiceId, &Pool),
        meanings: &Meanings,
        now: Instant,
    ) -> bool {
        let out = self.resolve(meanings).filter(|of| of.word != Word::Up && of.reach(now) > 0);
        out.is_some_and(|of| of.scope.is_in(service, slice::from_ref(pool)))
    }

    /// How safe it is, when two were said at once: what takes traffic away is safer than what
    /// brings it. One that has ended counts for nothing.
    pub(super) fn safety(&self) -> u8 {
        match self.word {
            Some(Word::Down) => 4,
            Some(Word::Drain) => 3,
            None if !self.ended => 2,
            Some(Word::Up) => 1,
            None => 0,
        }
    }

    /// That it has ended; nothing more happens to what has, or was taken back. It is still the same
    /// word: whatever replaced that replaces this, and all nodes end it alike.
    pub(super) fn ended(self) -> Self {
        match (self.word, self.until) {
            (Some(_), Some(over)) => {
                let until = Some(over + REMEMBERED);
                Self { word: None, ended: true, since: over, until, ramp: None, ..self }
            }
            _ => self,
        }
    }

    /// The same as it was heard at `now`. Nothing is said before its time: if it seems so, its
    /// speaker's clock is ahead of ours by as much.
    pub(super) fn heard(self, now: Instant) -> Self {
        let ahead = self.since.since(now);
        self.earlier(ahead).beside(|of| of.heard(now))
    }

    /// The same as it goes on at `now`, of a process that was last `alive` then, by its own
    /// clock. If that was ahead, the word has been in force for as long as it was by that clock.
    pub(super) fn resumed(self, now: Instant, alive: Option<Instant>) -> Self {
        let last = alive.unwrap_or_default().max(self.since);
        let ahead = if self.since > now { last.since(now) } else { Duration::ZERO };
        self.earlier(ahead).beside(|of| of.resumed(now, alive))
    }

    fn earlier(mut self, ahead: Duration) -> Self {
        self.since = self.since - ahead;
        self.until = self.until.map(|until| until - ahead);
        self
    }

    /// The same with those beside it changed.
    fn beside(mut self, change: impl Fn(Self) -> Self) -> Self {
        self.beside = std::mem::take(&mut self.beside).into_iter().map(change).collect();
        self
    }

    /// Does it take fewer clients away at `now` than `before` did, though it takes some? They would
    /// be back until its ramp reaches them.
    pub(super) fn falls_short_of(&self, before: &Self, meanings: &Meanings, now: Instant) -> bool {
        let reach = |of: &Self| {
            let takes_away = of.word != Some(Word::Up);
            of.resolve(meanings).filter(|_| takes_away).map_or(0, |of| of.reach(now))
        };
        (1..reach(before)).contains(&reach(self))
    }

    /// What it means among `meanings`; `None`: nothing, as it names nothing there.
    fn resolve(&self, meanings: &Meanings) -> Option<Override> {
        let Self { since, until, ramp, .. } = *self;
        let (word, (scope, longest)) = (self.word?, *meanings.get(&self.subject)?);
        // By then the last answer with the whole TTL is forgotten.
        Some(Override { scope, word, since, until, ramp, ahead: longest.duration() })
    }
}

/// What all of `said` and `planned` means among `meanings`. Of two on the same subject what is said
/// counts.
pub(super) fn resolve<'s>(
    said: impl IntoIterator<Item = &'s Said>,
    planned: &'s [Said],
    meanings: &Meanings,
) -> Overrides {
    said.into_iter().chain(planned).filter_map(|said| said.resolve(meanings)).collect()
}

/// Who speaks, of what no operator speaks of at `now` and the configuration does: to be shown.
pub(super) fn speakers(
    said: &[Said],
    planned: &[Said],
    meanings: &Meanings,
    now: Instant,
) -> Vec<(Scope, String)> {
    let in_force = |of: &Said| Some(of.resolve(meanings).filter(|of| of.reach(now) > 0)?.scope);
    // Few are planned; of the very many that may be said only those on the same subject are read.
    let is_said = |planned: &Said| {
        said.iter().any(|of| of.subject == planned.subject && in_force(of).is_some())
    };
    let unsaid = planned.iter().filter(|of| !is_said(of));
    unsaid.filter_map(|of| Some((in_force(of)?, of.reason.clone()))).collect()
}

/// What the maintenance of `config` says at `now`, and will say next.
pub(super) fn planned(config: &Config, now: Instant) -> Vec<Said> {
    let said = |of: &Maintenance| {
        let (since, until) = of.window(now)?;
        Some(Said {
            subject: of.subject.clone(),
            word: Some(Word::Drain),
            ended: false,
            reason: format!("maintenance {}", of.name),
            owner: "the configuration".to_owned(),
            since,
            until: Some(until),
            ramp: of.ramp,
            stamp: Stamp::default(),
            beside: Vec::new(),
        })
    };
    config.maintenance.iter().filter_map(said).collect()
}

/// What can be spoken of in `config`: what [`scope`] finds, all at once.
pub(super) fn meanings(config: &Config) -> Meanings {
    let regions = config.regions.iter().zip((0..).map_while(RegionId::from_index));
    let regions = regions.map(|(of, id)| (Subject::Region(of.name.clone()), Scope::Region(id)));
    let mut meanings: Meanings = regions.map(|(of, scope)| (of, (scope, Ttl::default()))).collect();
    let services = config.services.iter().zip((0..).map_while(ServiceId::from_index));
    for (service, id) in services {
        for pool in &service.pools {
            let name = config.regions.get(pool.region.index()).map(|of| of.name.clone());
            let wider = name.into_iter().flat_map(|name| {
                let of_pool = Subject::Pool(service.name.clone(), name.clone());
                let of_region = (Subject::Region(name), Scope::Region(pool.region));
                [(of_pool, Scope::Pool(id, pool.region)), of_region]
            });
            let addresses = pool.endpoints.iter().filter_map(|of| of.address.ip());
            let addresses = addresses.map(|of| (Subject::Address(of), Scope::Address(of)));
            for (subject, scope) in wider.chain(addresses) {
                let (_, longest) = meanings.entry(subject).or_insert((scope, service.ttl));
                *longest = service.ttl.max(*longest);
            }
        }
    }
    meanings
}

/// What `subject` is in `config`.
///
/// # Errors
/// It names nothing; and what there is.
pub(super) fn scope(subject: &Subject, config: &Config) -> Result<Scope, String> {
    subject.among(&config.regions, &config.services)
}

/// What a word would do.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Impact {
    /// The services that would have nothing left that is up and not drained, and have it now.
    pub left_with_nothing: Vec<String>,
    /// Of each region the share of clients before and after, by service.
    pub shares: Vec<Share>,
}

/// How much of a service's clients a region gets.
#[derive(Clone, PartialEq, Debug)]
pub struct Share {
    /// The service.
    pub service: String,
    /// The kind of answer.
    pub family: Family,
    /// The region; `None`: the answer is in none.
    pub region: Option<RegionId>,
    /// The share of the clients that are sent there now: of those that asked lately, or else of
    /// all IPv4 addresses.
    pub before: f64,
    /// The same afterwards.
    pub after: f64,
    /// How many clients that is counted by; 0: none, but by addresses.
    pub observed: usize,
}

/// Fewer clients than this are not counted by.
pub(super) const FEWEST: usize = 100;

/// What becomes of the answers of `now` if everything is decided by `then`; `clients` of each
/// service asked lately.
pub(super) fn impact(now: &Snapshot, then: &Facts<'_>, clients: &[Vec<IpAddr>]) -> Impact {
    let plan = now.plan();
    let after = Snapshot::compile(plan.clone(), then, Some(now), None, now.generation());
    let mut impact = Impact::default();
    for (id, service) in plan.ids().zip(&plan.services) {
        let clients = clients.get(id.index()).filter(|clients| clients.len() >= FEWEST);
        let clients = clients.map_or(&[][..], Vec::as_slice);
        for family in service.families() {
            // Where one region at a time writes, another one takes over by other rules.
            let is_handed_over = matches!(service.policy, Policy::SingleWriter(..));
            if !is_handed_over && is_good(now, id, family) && !is_good(&after, id, family) {
                impact.left_with_nothing.push(service.name.clone());
            }
            let [before, after] = [now, &after].map(|of| shares(of, id, family, clients));
            for region in regions(plan, id) {
                let of = |shares: &HashMap<Option<RegionId>, f64>| {
                    shares.get(&region).copied().unwrap_or_default()
                };
                let (before, after) = (of(&before), of(&after));
                if before + after > 0.0 {
                    let (service, observed) = (service.name.clone(), clients.len());
                    let share = Share { service, family, region, before, after, observed };
                    impact.shares.push(share);
                }
            }
        }
    }
    impact.left_with_nothing.dedup();
    impact
}

/// How much of the traffic each region has: by `clients` of each service that asked lately, or
/// else by all addresses, each service counting alike.
pub(super) fn traffic(now: &Snapshot, clients: &[Vec<IpAddr>]) -> BTreeMap<RegionId, f64> {
    let asked: usize = clients.iter().map(Vec::len).sum();
    let plan = now.plan();
    let mut traffic = BTreeMap::new();
    for (id, service) in plan.ids().zip(&plan.services) {
        let clients = clients.get(id.index()).filter(|_| asked >= FEWEST);
        let weight = match clients {
            Some(clients) => clients.len() as f64 / asked as f64,
            None => 1.0 / plan.services.len() as f64,
        };
        let Some(family) = service.families().next() else { continue };
        let clients = clients.map_or(&[][..], Vec::as_slice);
        for (region, share) in shares(now, id, family, clients) {
            if let Some(region) = region {
                *traffic.entry(region).or_default() += share * weight;
            }
        }
    }
    traffic
}

/// Is everything that a service answers up, and not drained?
fn is_good(snapshot: &Snapshot, id: ServiceId, family: Family) -> bool {
    let selector = snapshot.service(id).and_then(|service| service.selector(family));
    let is_good = |basis| matches!(basis, Basis::Up | Basis::Scarce);
    selector.is_some_and(|of| of.answers().all(|(ready, _)| is_good(ready.choice.basis)))
}

/// The regions that a service can answer with, and none.
fn regions(plan: &Plan, id: ServiceId) -> impl Iterator<Item = Option<RegionId>> {
    let pools = plan.services.get(id.index()).into_iter().flat_map(|service| &service.pools);
    pools.map(|pool| Some(pool.region)).chain([None])
}

/// The share of the clients that a service sends to each region first: of these, or else of all
/// addresses.
pub(super) fn shares(
    snapshot: &Snapshot,
    id: ServiceId,
    family: Family,
    clients: &[IpAddr],
) -> HashMap<Option<RegionId>, f64> {
    let mut shares = HashMap::new();
    let Some(selector) = snapshot.service(id).and_then(|of| of.selector(family)) else {
        return shares;
    };
    if clients.is_empty() {
        for (ready, share) in selector.answers() {
            *shares.entry(ready.first).or_default() += share;
        }
    } else {
        for (ready, _) in clients.iter().filter_map(|client| selector.select(*client)) {
            *shares.entry(ready.first).or_default() += 1.0 / clients.len() as f64;
        }
    }
    shares
}
