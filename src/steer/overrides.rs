//! The operator's word over health: up, down or drain, of a region, of a service's region, or of
//! an address.
//!
//! ```text
//! Overrides (all that stand) → at(now) → InForce → word(…)   what counts for one endpoint
//!            └ next_change(now)                      └ bands(…)  where clients part during a ramp
//! ```
//!
//! The narrowest word counts: an address before a service's region before a region. A ramp lets a
//! word reach a growing share of the clients. Who is reached is decided by the hash of the
//! client's prefix, so that the same clients move, and none moves twice.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use super::Pool;
use super::weighted::{SLOTS, spread};
use crate::ids::{RegionId, ServiceId};
use crate::time::Instant;

/// What an operator says of something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Word {
    /// It is up, whatever the probes say.
    Up,
    /// It is down, whatever the probes say.
    Down,
    /// It gets no new clients, unless nothing else is up.
    Drain,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Drain => "drain",
        })
    }
}

impl FromStr for Word {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [Self::Up, Self::Down, Self::Drain];
        all.into_iter().find(|word| word.to_string() == text).ok_or(())
    }
}

/// What a word is about; a wider scope comes before a narrower one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// Every service's endpoints in a region.
    Region(RegionId),
    /// One service's endpoints in a region.
    Pool(ServiceId, RegionId),
    /// An address, whoever uses it.
    Address(IpAddr),
}

impl Scope {
    /// All that is about an endpoint of `service` in `region`, the narrowest first.
    fn all_about(
        service: ServiceId,
        region: RegionId,
        address: Option<IpAddr>,
    ) -> impl Iterator<Item = Self> {
        let wider = [Self::Pool(service, region), Self::Region(region)];
        address.map(Self::Address).into_iter().chain(wider)
    }

    /// Is it about an endpoint of `service` in `region`?
    fn is_about(self, service: ServiceId, region: RegionId, address: Option<IpAddr>) -> bool {
        match self {
            Self::Region(of) => of == region,
            Self::Pool(of, at) => (of, at) == (service, region),
            Self::Address(of) => Some(of) == address,
        }
    }

    /// Is it about any endpoint of `service`?
    pub fn is_in(self, service: ServiceId, pools: &[Pool]) -> bool {
        self.marked(service, pools).any(|is_about| is_about)
    }

    /// Is it about every endpoint of `service`?
    pub fn is_all_of(self, service: ServiceId, pools: &[Pool]) -> bool {
        self.marked(service, pools).all(|is_about| is_about)
    }

    /// For each endpoint of `service`, whether it is about that.
    fn marked(self, service: ServiceId, pools: &[Pool]) -> impl Iterator<Item = bool> {
        pools.iter().flat_map(move |pool| {
            let endpoints = pool.endpoints.iter();
            endpoints.map(move |of| self.is_about(service, pool.region, of.address.ip()))
        })
    }
}

/// How fast a word reaches all clients.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ramp {
    /// How many percent of the clients each step adds; the first one at once. 1 to 100.
    pub percent: u8,
    /// From one step to the next.
    pub every: Duration,
}

impl Ramp {
    /// How many percent of the clients it has reached, so long after it began.
    pub fn reached(&self, span: Duration) -> u8 {
        let percent = u128::from(self.percent) * (self.steps(span) + 1);
        u8::try_from(percent.min(100)).unwrap_or(100)
    }

    /// How many steps have followed the first.
    fn steps(&self, span: Duration) -> u128 {
        span.as_nanos() / self.every.as_nanos().max(1)
    }
}

/// A word that stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Override {
    /// What it is about.
    pub scope: Scope,
    /// What is said.
    pub word: Word,
    /// Since when.
    pub since: Instant,
    /// Until when; `None`: until it is taken back.
    pub until: Option<Instant>,
    /// How fast it reaches all clients; `None`: at once.
    pub ramp: Option<Ramp>,
    /// So long before it begins, answers that it will make wrong are given for a short time only.
    pub ahead: Duration,
}

impl Override {
    /// How many of the [`SLOTS`] it reaches at `now`.
    pub fn reach(&self, now: Instant) -> usize {
        if now < self.since || self.until.is_some_and(|until| now >= until) {
            return 0;
        }
        let Some(ramp) = self.ramp else { return SLOTS };
        SLOTS * usize::from(ramp.reached(now.since(self.since))) / 100
    }

    /// Does it begin soon?
    fn is_ahead(&self, now: Instant) -> bool {
        (self.since - self.ahead..self.since).contains(&now)
    }

    /// When its reach is next different.
    fn next_change(&self, now: Instant) -> Option<Instant> {
        if now < self.since {
            return Some(if self.is_ahead(now) { self.since } else { self.since - self.ahead });
        }
        let step = self.ramp.filter(|_| (1..SLOTS).contains(&self.reach(now))).and_then(|ramp| {
            let steps = u32::try_from(ramp.steps(now.since(self.since)) + 1).ok()?;
            Some(self.since + ramp.every.saturating_mul(steps))
        });
        let end = self.until.filter(|until| *until > now);
        step.into_iter().chain(end).min()
    }
}

/// All words that stand, in the order of their scopes; of two on the same scope the first counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Overrides {
    list: Vec<Override>,
}

impl FromIterator<Override> for Overrides {
    fn from_iter<I: IntoIterator<Item = Override>>(list: I) -> Self {
        let mut list: Vec<Override> = list.into_iter().collect();
        list.sort_by_key(|one| one.scope);
        Self { list }
    }
}

impl Overrides {
    /// What is in force at `now`.
    pub fn at(&self, now: Instant) -> InForce {
        let reaching = self.list.iter().map(|one| (one.scope, one.word, one.reach(now)));
        let rows = reaching.filter(|(.., reach)| *reach > 0).collect();
        let ahead = self.list.iter().filter(|one| one.is_ahead(now));
        InForce { rows, ahead: ahead.map(|one| one.scope).collect(), speakers: Vec::new() }
    }

    /// When something else is in force next.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        self.list.iter().filter_map(|one| one.next_change(now)).min()
    }
}

/// The words that are in force at one moment, each with the number of slots that it reaches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InForce {
    /// In the order of their scopes: there may be thousands, and every endpoint is looked up.
    rows: Vec<(Scope, Word, usize)>,
    /// What a word will be about soon, in the same order.
    ahead: Vec<Scope>,
    /// Who speaks of these, if it is no operator.
    speakers: Vec<(Scope, String)>,
}

impl InForce {
    /// No word.
    pub const NONE: &'static Self =
        &Self { rows: Vec::new(), ahead: Vec::new(), speakers: Vec::new() };

    /// The same, to be shown: of these it is no operator who speaks.
    #[must_use]
    pub fn spoken_by(self, speakers: Vec<(Scope, String)>) -> Self {
        Self { speakers, ..self }
    }

    /// What counts for an endpoint, for the clients in `slot`.
    pub fn word(
        &self,
        service: ServiceId,
        region: RegionId,
        address: Option<IpAddr>,
        slot: usize,
    ) -> Option<Word> {
        self.row(service, region, address, slot).map(|(_, word)| word)
    }

    /// The same, and who says it.
    pub fn told(
        &self,
        service: ServiceId,
        region: RegionId,
        address: Option<IpAddr>,
        slot: usize,
    ) -> Option<(Word, &str)> {
        let (scope, word) = self.row(service, region, address, slot)?;
        let speaker = self.speakers.iter().find(|(of, _)| *of == scope);
        Some((word, speaker.map_or("an operator", |(_, speaker)| speaker)))
    }

    /// Does a word take this region out of the service's answers, or begin to? One on a ramp
    /// reaches the clients in slot 0 first.
    pub fn takes_out(&self, service: ServiceId, region: RegionId) -> bool {
        self.word(service, region, None, 0).is_some_and(|word| word != Word::Up)
    }

    fn row(
        &self,
        service: ServiceId,
        region: RegionId,
        address: Option<IpAddr>,
        slot: usize,
    ) -> Option<(Scope, Word)> {
        let mut words = Scope::all_about(service, region, address).flat_map(|of| self.rows_of(of));
        let (scope, word, _) = words.find(|(.., reach)| slot < *reach)?;
        Some((*scope, *word))
    }

    /// What is said of exactly this.
    fn rows_of(&self, scope: Scope) -> impl Iterator<Item = &(Scope, Word, usize)> {
        let first = self.rows.partition_point(|(of, ..)| *of < scope);
        self.rows.iter().skip(first).take_while(move |(of, ..)| *of == scope)
    }

    /// Will a word soon be about an endpoint?
    pub fn is_ahead(&self, service: ServiceId, region: RegionId, address: Option<IpAddr>) -> bool {
        Scope::all_about(service, region, address).any(|of| self.ahead.binary_search(&of).is_ok())
    }

    /// The slots at which the clients of a service part: everybody from one of these up to the
    /// next is told the same. The first is 0.
    pub fn bands(&self, service: ServiceId, pools: &[Pool]) -> Vec<usize> {
        let scopes = pools.iter().flat_map(|pool| {
            let endpoints = pool.endpoints.iter();
            endpoints.flat_map(|of| Scope::all_about(service, pool.region, of.address.ip()))
        });
        let ends = scopes.flat_map(|scope| self.rows_of(scope)).map(|(.., reach)| *reach);
        let mut bands: Vec<usize> = ends.filter(|end| *end < SLOTS).chain([0]).collect();
        bands.sort_unstable();
        bands.dedup();
        bands
    }
}

/// The slot of a client on a ramp, and the length of the prefix that decided it. It says nothing
/// of the slot under which a `weighted` service finds its region.
pub fn ramp_slot(client: IpAddr) -> (usize, u8) {
    let (hash, prefix) = spread(client);
    // The upper half: the weighted slot is made of the lower.
    (usize::try_from(hash >> 32).map_or(0, |hash| hash % SLOTS), prefix)
}
