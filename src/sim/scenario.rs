//! A scenario: what happens when, in YAML.

use std::time::Duration;

use super::events::Regions;
use crate::config::read::{At, Fields, Problems};
use crate::config::{Config, Problem, population, sort, yaml};
use crate::convergence::{Policy, Population, Writes};
use crate::geo::Country;
use crate::ids::{RegionId, ServiceId};
use crate::steer::{Ramp, Word};

/// What happens when, and to whom.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub about: String,
    /// Whose clients are watched.
    pub service: ServiceId,
    /// The nodes, and where each stands.
    pub nodes: Vec<(String, RegionId)>,
    /// How long it takes.
    pub length: Duration,
    /// How many resolvers there are, each with its clients.
    pub resolvers: usize,
    /// Where they are; empty: as the Internet's users are (The World Factbook).
    pub countries: Vec<(Country, f64)>,
    /// How they lag behind.
    pub population: Population,
    /// The share of the lookups that go to the nearest node; the others go to any.
    pub nearest: f64,
    /// The share of the packets that get lost.
    pub loss: f64,
    /// How much the regions have to do.
    pub load: Option<Load>,
    /// Who writes when it begins, where operators say so.
    pub writer: Option<RegionId>,
    /// Where the store of the writers' leases has its members; the first one leads.
    pub members: Vec<RegionId>,
    /// What clients write.
    pub writes: Option<Writing>,
    /// The configurations that the nodes are given later.
    pub reloads: Vec<String>,
    /// What happens, in order of time.
    pub events: Vec<(Duration, Act)>,
    /// For how long something at random happens besides, and how often in the mean.
    pub chaos: Option<(Duration, Duration)>,
}

/// What clients write, and how it spreads.
#[derive(Clone, Debug)]
pub struct Writing {
    /// How much, how far, on which keys.
    pub writes: Writes,
    /// By how much each region's clock is ahead.
    pub skew: Vec<(RegionId, Duration)>,
    /// How much faster than it came a backlog is caught up with after a partition.
    pub catch_up: f64,
    /// How long an old owner goes on until it is fenced, and how long a lease lives.
    pub fence: Duration,
    /// How long a lease lives.
    pub lease: Duration,
}

/// How much the regions have to do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Load {
    /// All requests, as a share of all capacity.
    pub share: f64,
    /// The share of its capacity that a region has which has just come back.
    pub cold: f64,
    /// For how long it has to serve until it has all of it.
    pub warm_up: Duration,
}

/// Something that happens.
#[derive(Clone, PartialEq, Debug)]
pub enum Act {
    /// A region refuses connections.
    Crash(RegionId),
    /// A region does not answer.
    Stall(RegionId),
    /// A region fails this share of the requests.
    Fail(RegionId, f64),
    /// A region is well again.
    Revive(RegionId),
    /// An operator says this of a region, for a growing share of the clients.
    Say(RegionId, Word, Option<Ramp>),
    /// An operator takes that back.
    Clear(RegionId),
    /// An operator names the next writer.
    Name(Wish),
    /// The nodes are given another configuration: which of [`Draft::reloads`].
    Reload(usize),
    /// A node dies.
    Kill(usize),
    /// A node starts anew.
    Start(usize),
    /// The members of the leases' store that are in a region die.
    KillEtcd(RegionId),
    /// They start again.
    StartEtcd(RegionId),
    /// Nothing passes between regions of different groups, or only from the first to the second.
    Part(Vec<Vec<RegionId>>, bool),
    /// All regions reach each other again.
    Heal,
    /// This share of the packets gets lost from now on.
    Lose(f64),
}

/// What an operator says of the next writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// The region that is to write.
    pub region: RegionId,
    /// The one before is known to write no more.
    pub fenced: bool,
    /// Which node is told; `None`: the first that lives.
    pub node: Option<usize>,
}

/// A scenario's text, read as far as it can be without the configuration that it is about.
#[derive(Debug)]
pub struct Draft {
    file: String,
    root: yaml::Node,
}

impl Draft {
    /// Reads `text`, which is called `file`.
    ///
    /// # Errors
    /// It is not YAML.
    pub fn parse(file: &str, text: &str) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::of(file);
        match yaml::parse(text) {
            Ok(root) => Ok(Self { file: file.to_owned(), root }),
            Err(fault) => {
                problems.error(fault.at, "", fault.what);
                Err(problems.list)
            }
        }
    }

    /// The configuration that it is about, as a path from its own.
    pub fn config(&self) -> Option<&str> {
        text(&self.root, "config")
    }

    /// The configurations that the nodes are given later, each once.
    pub fn reloads(&self) -> Vec<&str> {
        let events = match entry(&self.root, "events").map(|events| &events.value) {
            Some(yaml::Value::List(events)) => events.as_slice(),
            _ => &[],
        };
        let mut files: Vec<&str> = Vec::new();
        for file in events.iter().filter_map(|event| text(event, "reload")) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
        files
    }

    /// The scenario, in the world of `config`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn scenario(&self, config: &Config) -> Result<Scenario, Vec<Problem>> {
        let mut problems = Problems::of(&self.file);
        let root = At { node: &self.root, key: String::new() };
        let scenario = read(&root, config, &self.reloads(), &mut problems);
        match scenario.filter(|_| problems.list.is_empty()) {
            Some(scenario) => Ok(scenario),
            None => {
                sort(&mut problems.list, &self.file);
                Err(problems.list)
            }
        }
    }
}

impl Scenario {
    /// The same with so many resolvers.
    #[must_use]
    pub fn with_resolvers(self, resolvers: usize) -> Self {
        Self { resolvers, ..self }
    }
}

/// The longest that a scenario may take.
pub(super) const LONGEST: Duration = Duration::from_secs(86_400);

/// Two million resolvers need some four gigabytes.
const MOST_RESOLVERS: u64 = 2_000_000;

/// What stands under `key`, if `node` is a map that has it.
fn entry<'n>(node: &'n yaml::Node, key: &str) -> Option<&'n yaml::Node> {
    let yaml::Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
}

/// The same, if it is a text.
fn text<'n>(node: &'n yaml::Node, key: &str) -> Option<&'n str> {
    match &entry(node, key)?.value {
        yaml::Value::Text(text) => Some(text),
        _ => None,
    }
}

fn read(
    root: &At<'_>,
    config: &Config,
    reloads: &[&str],
    problems: &mut Problems,
) -> Option<Scenario> {
    let mut fields = root.fields(problems)?;
    let _read_before = fields.need("config", problems);
    let about = fields.get("about").and_then(|at| at.text("a sentence", problems));
    let about = about.unwrap_or_default().to_owned();
    let service = fields.get("service");
    let nodes = fields.get("nodes");
    let length = fields.need("for", problems);
    let length = length.and_then(|at| at.duration(Duration::from_secs(1), LONGEST, problems));
    let resolvers = fields.get("resolvers").and_then(|at| at.number(1, MOST_RESOLVERS, problems));
    let countries = fields.get("countries");
    let who = fields.get("population").and_then(|at| population(&at, problems));
    let nearest = share(&mut fields, "nearest", problems).unwrap_or(NEAREST);
    let loss = share(&mut fields, "loss", problems).unwrap_or(0.0);
    let load = fields.get("load").and_then(|at| load(&at, config, problems));
    let writer = fields.get("writer");
    let members = fields.get("etcd");
    let writes = fields.get("writes");
    let events = fields.get("events");
    let chaos = fields.get("chaos").and_then(|at| chaos(&at, problems));
    fields.done(problems);
    let service = match service {
        Some(at) => {
            let name = at.text("a service", problems)?;
            let found = config.service(name);
            if found.is_none() {
                let names = config.services.iter().map(|of| of.name.as_str());
                problems.unknown((at.place(), &at.key), ("service", name), names);
            }
            found?
        }
        None => ServiceId::from_index(0)?,
    };
    let regions = Regions { config, reloads };
    let writer = writer.and_then(|at| regions.first_writer(&at, service, problems));
    let nodes = regions.nodes(nodes, problems);
    let members: Vec<RegionId> = match members {
        Some(at) => at.list().iter().filter_map(|at| regions.region(at, problems)).collect(),
        None => nodes.iter().map(|(_, region)| *region).collect(),
    };
    let countries = countries.map(|at| self::countries(&at, problems)).unwrap_or_default();
    let declared = || {
        let name = &config.services.get(service.index())?.name;
        config.writes.get(name).copied().map(Writing::plain)
    };
    let writes = match writes {
        Some(at) => regions.writing(&at, problems),
        None => declared(),
    };
    let events = regions.timeline(events, length, (&nodes, &members), problems);
    Some(Scenario {
        about,
        service,
        nodes,
        length: length?,
        resolvers: resolvers.and_then(|of| usize::try_from(of).ok()).unwrap_or(RESOLVERS),
        countries,
        population: who.unwrap_or_else(|| config.convergence.population.clone()),
        nearest,
        loss,
        load,
        writer,
        members,
        writes,
        reloads: reloads.iter().map(|file| (*file).to_owned()).collect(),
        events,
        chaos,
    })
}

fn load(at: &At<'_>, config: &Config, problems: &mut Problems) -> Option<Load> {
    let mut fields = at.fields(problems)?;
    let part = fields.need("share", problems).and_then(|at| at.share(problems));
    let cold = share(&mut fields, "cold", problems).unwrap_or(1.0);
    let warm_up = fields.get("warm_up");
    let warm_up = warm_up.and_then(|at| at.duration(Duration::from_secs(1), LONGEST, problems));
    fields.done(problems);
    if let Some(region) = config.regions.iter().find(|region| region.capacity.is_none()) {
        let what = format!("the region {} has no `capacity`", region.name);
        problems.error(at.place(), &at.key, what);
    }
    Some(Load { share: part?, cold, warm_up: warm_up.unwrap_or(Duration::from_secs(60)) })
}

fn chaos(at: &At<'_>, problems: &mut Problems) -> Option<(Duration, Duration)> {
    let mut fields = at.fields(problems)?;
    let [span, every] = ["for", "every"].map(|key| {
        let at = fields.need(key, problems);
        at.and_then(|at| at.duration(Duration::from_secs(1), LONGEST, problems))
    });
    fields.done(problems);
    span.zip(every)
}

/// Up to 69 % of resolvers send most of their queries to the fastest server (Müller et al., IMC
/// 2017).
const NEAREST: f64 = 0.7;

/// How many resolvers there are, if nothing is said: enough for a share of 0.1 %.
const RESOLVERS: usize = 20_000;

pub(super) fn share(
    fields: &mut Fields<'_>,
    key: &'static str,
    problems: &mut Problems,
) -> Option<f64> {
    fields.get(key).and_then(|at| at.share(problems))
}

fn countries(at: &At<'_>, problems: &mut Problems) -> Vec<(Country, f64)> {
    let mut read = Vec::new();
    for (name, place, at) in at.named(problems) {
        let part = at.share(problems);
        match (name.parse(), part) {
            (Ok(country), Some(part)) => read.push((country, part)),
            (Err(_), _) => {
                problems.error(place, &at.key, "expected a country such as IE (ISO 3166-1)");
            }
            _ => {}
        }
    }
    read
}

/// What the way is called in which a service has one writer at a time.
pub(super) const LEASE: &str = "one writer, by lease";
pub(super) const WORD: &str = "one writer, by word";

/// The last writer wins, by the time of day, or by hybrid logical clocks.
pub(super) const CLOCKS: &str = "last writer, by clocks";
pub(super) const HYBRID: &str = "last writer, hybrid clocks";

/// Values merge; or the region that owns a key writes it.
pub(super) const MERGE: &str = "values that merge";
pub(super) const HOME: &str = "home region, fenced";

impl Writing {
    /// What is written, with clocks that agree.
    pub(super) fn plain(writes: Writes) -> Self {
        let [fence, lease] = [5, 10].map(Duration::from_secs);
        Self { writes, skew: Vec::new(), catch_up: 2.0, fence, lease }
    }

    /// How writes may be settled, each with its name.
    pub fn policies(&self) -> [(&'static str, Policy); 6] {
        [
            (CLOCKS, Policy::LastWriter),
            (HYBRID, Policy::LastWriter),
            (MERGE, Policy::Merge),
            (HOME, Policy::Home { fence: self.fence.as_secs_f64() }),
            (LEASE, Policy::Lease { length: self.lease.as_secs_f64(), drift: 0.01, margin: 0.5 }),
            ("majority of the regions", Policy::Majority),
        ]
    }
}
