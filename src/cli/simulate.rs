//! `meridian simulate`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{Failed, bar, print, print_error};
use crate::config::Problem;
use crate::server::{Loaded, Loader, Source};
use crate::sim::{Draft, Input, Outcome, Scenario, Stage, World, page};

/// What to simulate.
#[derive(Args)]
pub(super) struct Simulate {
    /// The scenario (YAML).
    #[arg(value_name = "SCENARIO")]
    scenario: PathBuf,
    /// Random seed: the same seed gives the same outcome.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run so many seeds, from `--seed` on, and tell how they differ.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// With so many resolvers, instead of as many as the scenario says.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    resolvers: Option<u32>,
    /// Write the outcome as one HTML page that needs no network.
    #[arg(long, value_name = "FILE", conflicts_with = "seeds")]
    page: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Simulates, and prints what comes of it; exit code 1 if something was broken that must not be.
pub(super) fn run(asked: &Simulate) -> Result<(), Failed> {
    let (scenario, loaded, later) = load(&asked.scenario)?;
    let later = later.iter().map(|of| Stage { config: &of.config, plan: &of.plan });
    let reloads: Vec<Stage<'_>> = later.collect();
    let scenario = match asked.resolvers.and_then(|count| usize::try_from(count).ok()) {
        Some(count) => scenario.with_resolvers(count),
        None => scenario,
    };
    let atlas = loaded.survey.atlas().map_err(|problems| Failed::refused(&problems))?;
    let input = Input {
        scenario: &scenario,
        config: &loaded.config,
        plan: &loaded.plan,
        reloads: &reloads,
        atlas: &atlas,
        seed: asked.seed,
    };
    if let Some(seeds) = asked.seeds {
        return swarm(input, seeds, asked.json);
    }
    let outcome = watched(input)?;
    if let Some(file) = &asked.page {
        std::fs::write(file, page(&outcome)?)
            .map_err(|error| Failed::new(format!("error: {}: {error}", file.display())))?;
        print_error(&format!("the page is {}", file.display()));
    }
    if asked.json {
        print(&serde_json::to_string(&outcome)?);
    } else {
        print(&outcome.text());
    }
    if outcome.violations.is_empty() { Ok(()) } else { Err(Failed::new(String::new())) }
}

/// The scenario, what it is about, and what is loaded later.
fn load(file: &Path) -> Result<(Scenario, Loaded, Vec<Loaded>), Failed> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failed::new(format!("error: {name}: {error}")))?;
    let draft = Draft::parse(&name, &text).map_err(|problems| Failed::refused(&problems))?;
    let Some(config) = draft.config() else {
        let what = "expected `config`, the configuration that is simulated".to_owned();
        return Err(Failed::refused(&[Problem::of_file(&name, what)]));
    };
    let path = |name: &str| Source::File(file.parent().unwrap_or(Path::new("")).join(name));
    let mut loader = Loader::new(path(config));
    let loaded = loader.load().map_err(|of| Failed::refused(&of.problems))?;
    let later = draft.reloads().into_iter().map(|name| {
        loader.turn_to(path(name));
        loader.load().map_err(|of| Failed::refused(&of.problems))
    });
    let later = later.collect::<Result<Vec<Loaded>, Failed>>()?;
    let scenario = draft.scenario(&loaded.config).map_err(|problems| Failed::refused(&problems))?;
    Ok((scenario, loaded, later))
}

/// One run, with a bar.
fn watched(input: Input<'_>) -> Result<Outcome, Failed> {
    let length = input.scenario.length;
    let bar = bar(length.as_secs(), "[{bar:40}] {pos} of {len} s, {per_sec} simulated");
    let outcome = world(input)?.run(|over: Duration| bar.set_position(over.as_secs()));
    bar.finish_and_clear();
    Ok(outcome)
}

fn world(input: Input<'_>) -> Result<World<'_>, Failed> {
    World::new(input).map_err(|error| Failed::new(format!("error: {error}")))
}

/// Runs many seeds on all cores, and tells how they differ.
fn swarm(input: Input<'_>, count: u64, json: bool) -> Result<(), Failed> {
    let next = AtomicU64::new(0);
    let bar = bar(count, "[{bar:40}] {pos} of {len} worlds");
    let run = || -> Result<Vec<Outcome>, Failed> {
        let mut outcomes = Vec::new();
        loop {
            let row = next.fetch_add(1, Ordering::Relaxed);
            if row >= count {
                return Ok(outcomes);
            }
            let seed = input.seed.wrapping_add(row);
            outcomes.push(world(Input { seed, ..input })?.run(|_| ()));
            bar.inc(1);
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut outcomes = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(run)).collect();
        for worker in workers {
            let done = worker.join().map_err(|_| Failed::new("error: a world ended".to_owned()))?;
            outcomes.extend(done?);
        }
        Ok::<(), Failed>(())
    })?;
    bar.finish_and_clear();
    outcomes.sort_by_key(|outcome| outcome.seed);
    let swarm = Swarm::of(&outcomes);
    let is_good = swarm.broken.is_empty();
    print(&if json { serde_json::to_string_pretty(&swarm)? } else { swarm.text() });
    if is_good { Ok(()) } else { Err(Failed::new(String::new())) }
}

/// What is measured of an outcome.
type Measure<'m> = &'m dyn Fn(&Outcome) -> Option<f64>;

/// How many worlds differ.
#[derive(Serialize)]
struct Swarm {
    seeds: usize,
    /// What was measured: its name, and the least, the median, 99 % and the most of it.
    quantiles: Vec<(&'static str, [f64; 4])>,
    /// The seeds in which something was broken, and what that was first.
    broken: Vec<(u64, f64, String)>,
}

impl Swarm {
    fn of(outcomes: &[Outcome]) -> Self {
        let quantiles = |of: Measure<'_>| {
            let mut all: Vec<f64> = outcomes.iter().filter_map(of).collect();
            all.sort_by(f64::total_cmp);
            let last = all.len().checked_sub(1)?;
            let at = |percent: usize| all.get(last * percent / 100).copied().unwrap_or(0.0);
            Some([0, 50, 99, 100].map(at))
        };
        let first = |outcome: &Outcome| outcome.moved.first().cloned();
        let measured = |outcome: &Outcome, row: usize| first(outcome)?.after.get(row).copied()?;
        let sum = |outcome: &Outcome| Some(outcome.errors.iter().sum());
        let list: [(&'static str, Measure<'_>); 8] = [
            ("first region leaves at, s", &|of| Some(first(of)?.at)),
            ("50 % moved after, s", &|of| measured(of, 0)),
            ("90 % moved after, s", &|of| measured(of, 1)),
            ("99 % moved after, s", &|of| measured(of, 2)),
            ("times a region left", &|of| Some(of.moved.len() as f64)),
            ("failed requests, s of all", &sum),
            ("writes in conflict", &|of| Some(of.conflicts?.met as f64)),
            ("writes lost", &|of| Some((of.conflicts?.lost + of.conflicts?.stale) as f64)),
        ];
        let quantiles = list.iter().filter_map(|(name, of)| Some((*name, quantiles(*of)?)));
        let broken = outcomes.iter().filter_map(|outcome| {
            let (at, what) = outcome.violations.first()?;
            Some((outcome.seed, *at, what.clone()))
        });
        Self { seeds: outcomes.len(), quantiles: quantiles.collect(), broken: broken.collect() }
    }

    fn text(&self) -> String {
        let head = format!("{:<28}{:>10}{:>10}{:>10}{:>10}", "", "least", "median", "99 %", "most");
        let mut lines = vec![format!("{} seeds", self.seeds), head];
        for (name, [least, median, nearly, most]) in &self.quantiles {
            lines.push(format!("{name:<28}{least:>10.1}{median:>10.1}{nearly:>10.1}{most:>10.1}"));
        }
        for (seed, at, what) in &self.broken {
            lines.push(format!("BROKEN with --seed {seed}, at {at:.1} s: {what}"));
        }
        if self.broken.is_empty() {
            lines.push("checks: none was broken".to_owned());
        }
        lines.join("\n")
    }
}
