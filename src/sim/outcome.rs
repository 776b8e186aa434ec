//! What came of a scenario.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::costs::Settling;
use super::input::Input;
use super::scenario::{Act, Scenario, Wish};
use crate::config::Config;
use crate::convergence::{Lag, percent};
use crate::ids::RegionId;
use crate::steer::Ramp;

/// What came of a scenario. Times are seconds from its beginning, shares parts of one.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What it shows.
    pub about: String,
    /// The seed.
    pub seed: u64,
    /// The regions.
    pub regions: Vec<String>,
    /// Where they are: longitude and latitude.
    pub places: Vec<Option<(f64, f64)>>,
    /// How long it took.
    pub seconds: u64,
    /// How many resolvers there were.
    pub resolvers: usize,
    /// How many queries the nodes answered.
    pub queries: u64,
    /// What was done, seen and decided, in order of time.
    pub told: Vec<Told>,
    /// The share of the requests that go to each region, second by second; those of caches that
    /// hold nothing go where they are told.
    pub shares: Vec<Vec<f64>>,
    /// The share of the requests that fail, second by second.
    pub errors: Vec<f64>,
    /// The mean distance between clients and where their requests go, second by second, in
    /// kilometres.
    pub kilometres: Vec<f64>,
    /// The regions that left the answers, and how their clients followed.
    pub moved: Vec<Moved>,
    /// What the writers met with.
    pub conflicts: Option<Conflicts>,
    /// What each way of settling writes costs.
    pub costs: Vec<Settling>,
    /// What must never happen, and did.
    pub violations: Vec<(f64, String)>,
    /// Some of the clients: longitude, latitude, region at the beginning, and before the
    /// first region came back, or at the end.
    pub clients: Vec<(f32, f32, u8, u8)>,
}

/// Something that was done, seen or decided.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Told {
    /// When.
    pub at: f64,
    /// By whom: a node, or the scenario.
    pub who: String,
    /// What.
    pub what: String,
}

/// A region that left the answers.
#[derive(Clone, Debug, Serialize)]
pub struct Moved {
    /// The region.
    pub region: String,
    /// When most nodes stopped to name it.
    pub at: f64,
    /// From when on its clients are followed: from then, or from the first step of an operator's
    /// ramp.
    pub from: f64,
    /// For how long they are: to its return or the end.
    pub watched: f64,
    /// When the first node stopped to name it, or the ramp began.
    #[serde(skip)]
    since: f64,
    /// What the ramp did.
    #[serde(skip)]
    ramp: Option<Ramp>,
    /// When most nodes named it again.
    pub back: Option<f64>,
    /// The share of the requests that it had.
    pub had: f64,
    /// After how long so much of that had moved: 50, 90, 99 and 99.9 %.
    pub after: [Option<f64>; 4],
    /// The same by the closed form, which knows no end of the scenario.
    pub model: [Option<f64>; 4],
    /// What never moves, by the closed form.
    pub never: f64,
    /// Seconds' worth of its requests that came to it all the same, up to the end or its return.
    pub stale: f64,
    /// It served all the while.
    pub alive: bool,
    /// For how long it and another region were written to, if it was alive: until less than a
    /// thousandth of its requests was left. For at least so long, if there was more up to its
    /// return or the end, and so the last of `after` is not known.
    pub two_writers: Option<f64>,
    /// The greatest distance of the two curves.
    pub distance: f64,
    /// The closed form, second by second from `from` on.
    pub curve: Vec<f64>,
}

/// A region that begins to leave the answers.
#[derive(Clone, Copy)]
pub(super) struct Leaving {
    /// When the first node stopped to name it, or the ramp began.
    pub(super) since: Duration,
    /// The share of the requests that it had.
    pub(super) had: f64,
    pub(super) ramp: Option<Ramp>,
}

/// The shares that are told of [`Moved`]: what is left.
const LEFT: [f64; 4] = [0.5, 0.1, 0.01, 0.001];

/// What writers met with.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Conflicts {
    /// Writes in all.
    pub writes: u64,
    /// Writes that no region took.
    pub failed: u64,
    /// Writes that met another one, neither knowing of the other.
    pub met: u64,
    /// Of these, those that lose to a later one.
    pub lost: u64,
    /// Writes that knew of the one that they lose to, by a clock that was ahead.
    pub stale: u64,
    /// Writes to a region that was in no answer any more.
    pub astray: u64,
    /// Of these, those that came before the old owner was fenced.
    pub unfenced: u64,
    /// Writes of a writer that the next one had not seen when it began.
    pub unseen: u64,
}

impl Conflicts {
    pub(super) fn add(&mut self, met: bool, lost: bool, stale: bool) {
        self.met += u64::from(met);
        self.lost += u64::from(lost);
        self.stale += u64::from(stale);
    }
}

/// What is known when all is over.
pub(super) struct End {
    pub(super) violations: Vec<(f64, String)>,
    pub(super) conflicts: Option<Conflicts>,
    pub(super) clients: Vec<(f32, f32, u8, u8)>,
    /// For how long regions were cut off from each other.
    pub(super) parted: f64,
    /// The share of the writes on the smaller side meanwhile.
    pub(super) stays: f64,
    pub(super) ttl: f64,
    /// If the service has one writer at a time: for how many seconds a node may go on to name one
    /// of which it hears nothing more, and what the way is called.
    pub(super) one_writer: Option<(f64, &'static str)>,
    /// When nodes were given another configuration.
    pub(super) reloaded: Vec<f64>,
}

impl Outcome {
    pub(super) fn new(input: &Input<'_>) -> Self {
        let regions = &input.plan.regions;
        let place = |of: &crate::snapshot::Region| of.at.map(|at| (at.longitude(), at.latitude()));
        Self {
            about: input.scenario.about.clone(),
            seed: input.seed,
            regions: regions.iter().map(|of| of.name.clone()).collect(),
            places: regions.iter().map(place).collect(),
            seconds: input.scenario.length.as_secs(),
            resolvers: input.scenario.resolvers,
            queries: 0,
            told: Vec::new(),
            shares: Vec::new(),
            errors: Vec::new(),
            kilometres: Vec::new(),
            moved: Vec::new(),
            conflicts: None,
            costs: Vec::new(),
            violations: Vec::new(),
            clients: Vec::new(),
        }
    }

    pub(super) fn tell(&mut self, at: Duration, who: &str, what: String) {
        self.told.push(Told { at: at.as_secs_f64(), who: who.to_owned(), what });
    }

    pub(super) fn name(&self, region: RegionId) -> String {
        self.regions.get(region.index()).cloned().unwrap_or_default()
    }

    /// A second is over: where requests go, how many of those to each region fail, and how far
    /// they go in all.
    pub(super) fn second(&mut self, counts: &[u32], fail: &[f64], kilometres: u64) {
        let all = f64::from(counts.iter().sum::<u32>().max(1));
        let mut shares: Vec<f64> = counts.iter().map(|count| f64::from(*count) / all).collect();
        let unanswered = shares.pop().unwrap_or(0.0);
        // Where requests go is known of all by now.
        shares.pop();
        let failed: f64 = shares.iter().zip(fail).map(|(share, fail)| share * fail).sum();
        self.errors.push(failed + unanswered);
        self.kilometres.push(kilometres as f64 / all);
        self.shares.push(shares);
    }

    /// Another region writes, or the same with another epoch.
    pub(super) fn writes(&mut self, at: Duration, who: &str, (region, epoch): (RegionId, u64)) {
        let what = format!("{} writes, epoch {epoch}", self.name(region));
        self.tell(at, who, what);
    }

    /// Most nodes have stopped to name a region.
    pub(super) fn left(&mut self, at: Duration, region: RegionId, leaving: &Leaving, alive: bool) {
        let Leaving { since, had, ramp } = *leaving;
        let (at_seconds, since) = (at.as_secs_f64(), since.as_secs_f64());
        self.tell(at, "most nodes", format!("no answer names {}", self.name(region)));
        self.moved.push(Moved {
            region: self.name(region),
            at: at_seconds,
            from: if ramp.is_some() { since } else { at_seconds },
            watched: 0.0,
            since,
            ramp,
            back: None,
            had,
            after: [None; 4],
            model: [None; 4],
            never: 0.0,
            stale: 0.0,
            alive,
            two_writers: None,
            distance: 0.0,
            curve: Vec::new(),
        });
    }

    pub(super) fn came_back(&mut self, at: Duration, region: RegionId) {
        let name = self.name(region);
        self.tell(at, "most nodes", format!("answers name {name} again"));
        let open = self.moved.iter_mut().rev().find(|of| of.region == name);
        if let Some(of) = open {
            of.back = Some(at.as_secs_f64());
        }
    }

    /// Everything is over.
    pub(super) fn settle(mut self, scenario: &Scenario, end: End) -> Self {
        let lag = scenario.population.lag(end.ttl);
        let mut moved = std::mem::take(&mut self.moved);
        for of in &mut moved {
            self.follow(of, &lag);
        }
        self.moved = moved;
        self.conflicts = end.conflicts;
        if let (Some(conflicts), Some(writing)) = (end.conflicts, &scenario.writes) {
            self.costs = self.costs(conflicts, writing, &lag, &end);
        }
        self.violations = end.violations;
        self.clients = end.clients;
        self
    }

    /// How the clients of a region that left followed.
    fn follow(&self, of: &mut Moved, lag: &Lag) {
        let Some(row) = self.regions.iter().position(|name| *name == of.region) else { return };
        let until = of.back.unwrap_or(self.seconds as f64);
        let lag = of.lag(lag);
        of.watched = until - of.from;
        let seconds = self
            .shares
            .iter()
            .enumerate()
            .map(|(second, shares)| (second as f64, shares.get(row).copied().unwrap_or(0.0)));
        let had = of.had.max(1e-9);
        for (second, share) in seconds.filter(|(at, _)| (of.from..until).contains(at)) {
            let (after, left) = (second - of.from, share / had);
            for (slot, threshold) in of.after.iter_mut().zip(LEFT) {
                if slot.is_none() && left <= threshold {
                    *slot = Some(after);
                }
            }
            of.stale += left;
            let model = lag.after(after);
            of.curve.push(model);
            of.distance = of.distance.max((left - model).abs());
        }
        of.model = LEFT.map(|left| lag.until(left));
        of.never = lag.never();
        let span = of.from - of.since + of.after[3].unwrap_or(of.watched);
        of.two_writers = of.alive.then_some(span);
    }

    /// The outcome for a tired person.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _fine = writeln!(out, "{}", self.about);
        let (resolvers, queries) = (self.resolvers, self.queries);
        let _fine = writeln!(
            out,
            "{} s, {resolvers} resolvers, {queries} queries, seed {}\n",
            self.seconds, self.seed
        );
        for Told { at, who, what } in self.told.iter().take(SHOWN) {
            let _fine = writeln!(out, "  {at:>8.1} s  {who:<12} {what}");
        }
        if let Some(more) = self.told.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            let _fine = writeln!(out, "  … and {more} more");
        }
        self.moved.iter().for_each(|of| of.write(&mut out));
        let worst = self.errors.iter().copied().fold(0.0, f64::max);
        let lost: f64 = self.errors.iter().sum();
        let _fine = writeln!(
            out,
            "\nerrors      {} of the requests at worst; {lost:.1} s worth of all requests",
            percent(worst)
        );
        let all = self.kilometres.as_slice();
        let [first, last] = [all.first(), all.last()].map(|of| of.copied().unwrap_or(0.0));
        let worst = all.iter().copied().fold(0.0, f64::max);
        let _fine = writeln!(
            out,
            "distance    {first:.0} km to the region in the mean at first, {worst:.0} at worst, \
             {last:.0} at last"
        );
        self.write_writes(&mut out);
        for (at, what) in &self.violations {
            let _fine = writeln!(out, "BROKEN      at {at:.1} s: {what}");
        }
        if self.violations.is_empty() {
            let _fine = write!(out, "checks      none was broken");
        }
        out.trim_end().to_owned()
    }

    fn write_writes(&self, out: &mut String) {
        let Some(of) = &self.conflicts else { return };
        let _fine = writeln!(
            out,
            "writes      {}; {} of them met another that knew nothing of it\n",
            of.writes, of.met
        );
        let head = ("in conflict", "lost", "refused");
        let (a, b, c) = head;
        let _fine = writeln!(out, "  {:<26}{a:>22}{b:>22}{c:>22}", "simulated (model)");
        for of in &self.costs {
            let cell = |row: usize| {
                let model = of.model.get(row).copied().unwrap_or(0.0);
                match of.simulated.and_then(|of| of.get(row).copied()) {
                    Some(was) => format!("{was:.0} ({model:.0})"),
                    None => format!("({model:.0})"),
                }
            };
            let (a, b, c) = (cell(0), cell(1), cell(2));
            let _fine = writeln!(out, "  {:<26}{a:>22}{b:>22}{c:>22}", of.policy);
        }
    }
}

impl Moved {
    /// How its clients lag behind, by how they do behind an answer.
    pub(super) fn lag(&self, lag: &Lag) -> Lag {
        let Some(Ramp { percent, every }) = self.ramp else { return lag.clone() };
        // What has not left when it ends leaves then.
        let last = self.at - self.from;
        let step = |row: u8| {
            let share = percent.min(100_u8.saturating_sub(row.saturating_mul(percent)));
            (f64::from(share) / 100.0, (f64::from(row) * every.as_secs_f64()).min(last))
        };
        Lag::steps((0..100_u8.div_ceil(percent.max(1))).map(step)).plus(lag)
    }

    fn write(&self, out: &mut String) {
        let seconds = |at: f64| format!("{at:.0} s");
        let Moved { region, at, from, stale, two_writers, distance, watched, .. } = self;
        let begin = if from < at { format!("from {from:.1} to") } else { "at".to_owned() };
        let _fine = writeln!(
            out,
            "\n{region} left the answers {begin} {at:.1} s, with {} of the requests",
            percent(self.had)
        );
        let measured = |at: &Option<f64>| at.map_or(format!("> {watched:.0} s"), seconds);
        let [half, most, nearly, all] = self.after.each_ref().map(measured);
        let _fine =
            writeln!(out, "  moved     50 %: {half}, 90 %: {most}, 99 %: {nearly}, 99.9 %: {all}");
        let unknown = |left| if self.never > left { "never" } else { "> 2 h" }.to_owned();
        let mut left = LEFT.into_iter();
        let [half, most, nearly, all] = self.model.map(|at| {
            let left = left.next().unwrap_or_default();
            at.map_or_else(|| unknown(left), seconds)
        });
        let _fine =
            writeln!(out, "  model     50 %: {half}, 90 %: {most}, 99 %: {nearly}, 99.9 %: {all}");
        let _fine = writeln!(
            out,
            "  stale     {stale:.0} s worth of its requests came to it all the same; at most \
             {} between the two curves",
            percent(*distance)
        );
        if let Some(span) = two_writers {
            let least = if self.after[3].is_none() { "at least " } else { "" };
            let _fine = writeln!(out, "  writers   two regions for {least}{span:.0} s");
        }
    }
}

/// How many lines of what happened are printed; the page has all.
const SHOWN: usize = 30;

impl Act {
    /// What it is called, by the names of `config` and `scenario`.
    pub(super) fn label(&self, config: &Config, scenario: &Scenario) -> String {
        let region = |id: &RegionId| {
            config.regions.get(id.index()).map(|of| of.name.clone()).unwrap_or_default()
        };
        let node = |row: &usize| {
            scenario.nodes.get(*row).map(|(name, _)| name.clone()).unwrap_or_default()
        };
        match self {
            Self::Crash(of) => format!("{} crashes", region(of)),
            Self::Stall(of) => format!("{} stops to answer", region(of)),
            Self::Fail(of, share) => {
                format!("{} fails {:.0} % of the requests", region(of), share * 100.0)
            }
            Self::Revive(of) => format!("{} is well again", region(of)),
            Self::Say(of, word, ramp) => {
                let ramp = ramp.map_or(String::new(), |ramp| {
                    format!(", {} % every {} s", ramp.percent, ramp.every.as_secs())
                });
                format!("an operator says {word} of {}{ramp}", region(of))
            }
            Self::Name(Wish { region: of, fenced, node: at }) => {
                let at = at.as_ref().map_or(String::new(), |at| format!(" at {}", node(at)));
                let fenced = if *fenced { ", fenced" } else { "" };
                format!("an operator wants {} to write{at}{fenced}", region(of))
            }
            Self::Reload(of) => {
                let file = scenario.reloads.get(*of).map_or("", String::as_str);
                format!("the nodes load {file}")
            }
            Self::Clear(of) => format!("an operator clears {}", region(of)),
            Self::Kill(of) => format!("{} dies", node(of)),
            Self::Start(of) => format!("{} starts", node(of)),
            Self::KillEtcd(of) => format!("etcd's member in {} dies", region(of)),
            Self::StartEtcd(of) => format!("etcd's member in {} starts", region(of)),
            Self::Part(groups, one_way) => {
                let group =
                    |of: &Vec<RegionId>| of.iter().map(region).collect::<Vec<_>>().join(", ");
                let between = if *one_way { " → " } else { " | " };
                let groups: Vec<String> = groups.iter().map(group).collect();
                format!("nothing passes: {}", groups.join(between))
            }
            Self::Heal => "everything passes again".to_owned(),
            Self::Lose(share) => format!("{} of the packets get lost", percent(*share)),
        }
    }
}
