//! What must never happen. The checks know what was done to the world and what was answered, and
//! nothing of how it was decided.

use super::network::Network;
use super::regions::Condition;
use super::scenario::{Act, Wish};
use crate::ids::RegionId;
use crate::steer::Word;
use crate::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// The checks, and what they have found.
pub(super) struct Checks {
    /// What was broken, and when.
    pub(super) violations: Vec<(Instant, String)>,
    regions: Vec<Watched>,
    /// Nodes that hear a majority, and are heard by it.
    agreed: Vec<bool>,
    /// Since when nothing is wrong and nobody says anything.
    calm: Option<Instant>,
    lossy: bool,
    /// Since when the same nodes live and hear the same.
    steady: Instant,
    /// One region at a time writes: for how long a node may go on to name one of which it hears
    /// nothing more.
    single: Option<Duration>,
    /// Which region had which epoch.
    epochs: BTreeMap<u64, RegionId>,
    /// An operator has vouched that no other region than this writes; answers that name another
    /// before that time are those of nodes that have not heard of it.
    fenced: Option<(RegionId, Instant)>,
    /// The same of a region that was not answered since: its node may not be heard for long.
    vouched: Option<RegionId>,
}

/// A region, as the checks know it.
#[derive(Default)]
struct Watched {
    name: String,
    /// How it is probed, if the service has something there.
    pace: Option<Pace>,
    /// Something was done to it that may move its clients, ever.
    touched: bool,
    drained: bool,
    /// Since when it is well.
    well: Option<Instant>,
    /// Since when it serves nobody, and most nodes agree and see it.
    dead: Option<Instant>,
    /// Until when an answer that named it may be remembered.
    remembered: Instant,
}

/// How soon probes tell what has become of a region, at worst.
#[derive(Clone, Copy, Default)]
pub(super) struct Pace {
    /// From its death to the verdict.
    pub(super) down: Duration,
    /// From its return to the verdict.
    pub(super) up: Duration,
}

/// From the verdict to the last answer without it: a lost packet, and a message between nodes on
/// two sides of the world.
const SPREAD: Duration = Duration::from_secs(1);

/// From a node's start to its verdict of what is silent: at least four probes of a second each.
const FIRST_VERDICT: Duration = Duration::from_secs(5);

/// From calm to answers as before: at least this, for the usual ten probes, a hold-down that has
/// doubled a few times, and a minute to spare.
const CALM: Duration = Duration::from_secs(180);

/// What is to spare where probes are rare.
const SPARE: Duration = Duration::from_secs(60);

/// From a word that fences to the last node that hears of it, besides what its lease takes.
const NEWS: Duration = Duration::from_secs(2);

/// More violations are the same one again.
const MOST: usize = 20;

/// Above this share of lost packets nobody promises anything.
const LOSSY: f64 = 0.02;

/// When the last cache forgets an answer of `now`. Some count in whole seconds, and have it until
/// the second is over in which its TTL ends.
fn forgotten(now: Instant, ttl: Duration) -> Instant {
    let into_second = now.as_nanos() % 1_000_000_000;
    now - Duration::from_nanos(into_second) + ttl + Duration::from_secs(1)
}

impl Checks {
    /// The checks of a service that has these regions; of one writer at a time, if nodes may name
    /// it for so long.
    pub(super) fn new(
        regions: Vec<(String, Option<Pace>)>,
        now: Instant,
        single: Option<(Duration, &str)>,
    ) -> Self {
        let watched = |(name, pace)| Watched { name, pace, ..Watched::default() };
        Self {
            violations: Vec::new(),
            regions: regions.into_iter().map(watched).collect(),
            agreed: Vec::new(),
            calm: Some(now),
            lossy: false,
            steady: now,
            single: single.map(|(span, _)| span),
            epochs: BTreeMap::new(),
            fenced: None,
            vouched: None,
        }
    }

    /// What the service has in each region, from now on.
    pub(super) fn serve(&mut self, regions: Vec<(String, Option<Pace>)>) {
        for (of, (_, pace)) in self.regions.iter_mut().zip(regions) {
            of.pace = pace;
        }
    }

    fn name(&self, region: RegionId) -> &str {
        self.regions.get(region.index()).map_or("", |of| of.name.as_str())
    }

    /// How long it takes until what happened last to any region is known.
    fn longest(&self, of: fn(Pace) -> Duration) -> Duration {
        self.regions.iter().filter_map(|region| region.pace.map(of)).max().unwrap_or_default()
    }

    /// From calm to answers as before.
    fn calm_after(&self) -> Duration {
        CALM.max(self.longest(|pace| pace.up) + SPARE)
    }

    fn broken(&mut self, now: Instant, what: String) {
        if self.violations.len() < MOST && self.violations.iter().all(|(_, of)| *of != what) {
            self.violations.push((now, what));
        }
    }

    fn touch(&mut self, region: RegionId, change: impl FnOnce(&mut Watched)) {
        if let Some(of) = self.regions.get_mut(region.index()) {
            of.touched = true;
            change(of);
        }
    }

    pub(super) fn act(&mut self, now: Instant, act: &Act) {
        // Where else clients could go is looked at anew.
        self.regions.iter_mut().for_each(|of| of.dead = None);
        match act {
            Act::Crash(region) | Act::Stall(region) | Act::Fail(region, _) => {
                self.touch(*region, |_| ());
            }
            Act::Say(region, word, _) => {
                self.touch(*region, |of| of.drained = *word != Word::Up);
            }
            Act::Clear(region) => self.touch(*region, |of| of.drained = false),
            // Whoever is moved is meant to be.
            Act::Reload(_) => self.regions.iter_mut().for_each(|of| of.touched = true),
            Act::Lose(share) => self.lossy |= *share > LOSSY,
            Act::Kill(_) | Act::Start(_) | Act::Part(..) | Act::Heal => self.steady = now,
            Act::Name(Wish { region, fenced: true, .. }) => {
                self.vouched = Some(*region);
                self.forgive(now, *region);
            }
            Act::Name(Wish { region, .. }) => {
                self.vouched = self.vouched.filter(|of| of != region);
            }
            Act::Revive(_) | Act::KillEtcd(_) | Act::StartEtcd(_) => {}
        }
    }

    /// Whoever else is named than `region` writes no more.
    fn forgive(&mut self, now: Instant, region: RegionId) {
        self.fenced = Some((region, now + self.single.unwrap_or_default() + NEWS));
        self.regions.iter_mut().for_each(|of| of.remembered = now);
    }

    /// A node has told a client of `base`, who was sent there when all was well, to go to `told`.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        node: usize,
        told: Option<(RegionId, Duration)>,
        base: Option<RegionId>,
    ) {
        if self.single.is_some() {
            return self.one_writer(now, told);
        }
        let Some((told, _)) = told else {
            return self.broken(now, "an answer without an address".to_owned());
        };
        let watched = |region: RegionId| self.regions.get(region.index());
        let agrees = self.agreed.get(node).copied().unwrap_or(false);
        let dead = watched(told).and_then(|of| of.dead.zip(of.pace));
        if let Some((since, Pace { down, .. })) = dead.filter(|_| agrees)
            && now.since(since) > down + SPREAD
        {
            let (name, limit) = (self.name(told), (down + SPREAD).as_secs_f64());
            let what = format!("region {name} is named more than {limit:.1} s after it died");
            return self.broken(now, what);
        }
        if let Some(base) = base.filter(|base| *base != told)
            && watched(base).is_some_and(|of| !of.touched)
            && !self.lossy
        {
            let name = self.name(base);
            let what = format!("clients of region {name} are moved, which is well");
            self.broken(now, what);
        }
    }

    /// Of a service with one writer at a time no two may be remembered; none may be for a time.
    fn one_writer(&mut self, now: Instant, told: Option<(RegionId, Duration)>) {
        let Some((told, ttl)) = told else { return };
        if self.vouched == Some(told) {
            self.vouched = None;
            self.forgive(now, told);
        }
        if self.fenced.is_some_and(|(region, until)| told != region && now < until) {
            return;
        }
        let mut others = self.regions.iter().enumerate().filter(|(row, _)| *row != told.index());
        if let Some((_, other)) = others.find(|(_, of)| of.remembered > now) {
            let what = format!("regions {} and {} write at once", other.name, self.name(told));
            self.broken(now, what);
        }
        if let Some(of) = self.regions.get_mut(told.index()) {
            of.remembered = of.remembered.max(forgotten(now, ttl));
        }
    }

    /// A node answers this writer: no epoch is that of two regions.
    pub(super) fn writes(&mut self, now: Instant, (region, epoch): (RegionId, u64)) {
        let of = *self.epochs.entry(epoch).or_insert(region);
        if of != region {
            let (of, name) = (self.name(of), self.name(region));
            let what = format!("regions {of} and {name} write in epoch {epoch}");
            self.broken(now, what);
        }
    }

    /// A second is over; `nodes` are alive, of `all`.
    pub(super) fn second(
        &mut self,
        now: Instant,
        conditions: &[(Condition, f64)],
        network: &Network,
        (nodes, all): (&[Option<RegionId>], usize),
    ) {
        let hears = |a: RegionId, b: RegionId| network.passes(a, b) && network.passes(b, a);
        let alive = || nodes.iter().flatten();
        self.agreed = nodes
            .iter()
            .map(|node| {
                let heard = |own: &RegionId| alive().filter(|of| hears(*own, **of)).count();
                node.as_ref().is_some_and(|own| heard(own) * 2 > all)
            })
            .collect();
        let agreed: Vec<RegionId> = nodes
            .iter()
            .zip(&self.agreed)
            .filter(|(_, agrees)| **agrees)
            .filter_map(|(of, _)| *of)
            .collect();
        let silent = conditions.iter().filter(|(of, _)| *of == Condition::Stalled).count();
        let is_cut = !network.cuts.is_empty();
        for (of, (condition, fails)) in self.regions.iter_mut().zip(conditions) {
            let is_well = *condition == Condition::Well;
            of.well = is_well.then(|| of.well.unwrap_or(now));
            of.touched |= *fails > 0.0;
        }
        // What has just come back need not be believed yet.
        let calm_after = self.calm_after();
        let others_serve = |row: usize| {
            let rest = self.regions.iter().enumerate().filter(|(other, _)| *other != row);
            let serves = |of: &Watched| of.well.is_some_and(|since| now.since(since) > calm_after);
            rest.into_iter()
                .filter(|(_, of)| of.pace.is_some())
                .any(|(_, of)| (!of.touched || serves(of)) && !of.drained)
        };
        let serve: Vec<bool> = (0..conditions.len()).map(others_serve).collect();
        let first_verdict = FIRST_VERDICT.max(self.longest(|pace| pace.down));
        for (row, (of, (condition, _))) in self.regions.iter_mut().zip(conditions).enumerate() {
            let Some(region) = RegionId::from_index(row) else { continue };
            // What most nodes cannot reach is down for them, whatever it is.
            let reach = alive().filter(|from| hears(**from, region)).count();
            of.touched |= reach * 2 <= all;
            let is_dead = matches!(condition, Condition::Crashed | Condition::Stalled);
            // A node that loses most of what it sees doubts itself, and rightly so.
            let is_steady = now.since(self.steady) > first_verdict;
            let is_plain = is_steady && silent * 2 < conditions.len() && !is_cut && !self.lossy;
            let counts =
                is_dead && is_plain && agreed.len() * 2 > all && serve.get(row) == Some(&true);
            of.dead = counts.then(|| of.dead.unwrap_or(now));
        }
        let all_well = conditions.iter().all(|(of, fails)| *of == Condition::Well && *fails == 0.0);
        let none_drained = self.regions.iter().all(|of| !of.drained);
        let all_alive = nodes.iter().all(Option::is_some) && !is_cut && !self.lossy;
        self.calm = (all_well && none_drained && all_alive).then(|| self.calm.unwrap_or(now));
    }

    /// The end: clients who follow TTLs, and are not where they were when all was well.
    pub(super) fn end(&mut self, now: Instant, ttl: Duration, strays: usize) {
        let is_calm = self.calm.is_some_and(|since| now.since(since) > self.calm_after() + ttl);
        if is_calm && strays > 0 {
            let what = format!("{strays} clients are not where they were, long after all is calm");
            self.broken(now, what);
        }
    }
}
