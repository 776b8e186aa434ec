//! False alarms: how often an endpoint that is well is taken for down, when the network loses
//! packets, on a virtual clock.
//!
//! `cargo bench --bench alarms` runs endpoint-years of each kind of loss for one, three and five
//! nodes, through the same `Monitor` that the server runs, and prints what happened beside what
//! the arithmetic says; it takes an hour or two. As a part of the tests it runs small.
//!
//! While a node is as if no probe had ever failed, and none is about to, it sleeps: what would
//! follow is known.

#![expect(clippy::print_stdout, reason = "figures are for people")]

use std::collections::BTreeSet;
use std::env;
use std::thread;
use std::time::Duration;

use meridian::health::{Electorate, Failure, Monitor, Outcome, Report, Schedule, Stage, State};
use meridian::ids::{NodeId, TargetId};
use meridian::rng::{Seed, Stream};
use meridian::time::Instant;

const YEAR: f64 = 31_556_952.0;

/// What the network does to the probes of each node, independently of the others'.
#[derive(Clone, Copy)]
enum Loss {
    /// Each probe fails by itself, so many of 10,000.
    Single(u64),
    /// One percent of the time nothing passes, in bursts of this mean length (Gilbert's model).
    Bursts(Duration),
}

fn main() {
    let is_test = !env::args().any(|argument| argument == "--bench");
    let ms = Duration::from_millis;
    println!("one endpoint, at the default schedule; years of 365.2425 days\n");
    println!("| loss | nodes | years | false failovers | a year | the arithmetic says |");
    println!("|---|---|---|---|---|---|");
    for (name, loss, years) in [
        ("1 % of the probes", Loss::Single(100), 100.0),
        ("1 % of the packets, 4 a probe (HTTP)", Loss::Single(394), 10.0),
        ("1 % of the time, bursts of 100 ms", Loss::Bursts(ms(100)), 10.0),
        ("1 % of the time, bursts of 200 ms", Loss::Bursts(ms(200)), 10.0),
    ] {
        let years = if is_test { 0.01 } else { years };
        for nodes in [1, 3, 5] {
            let count = run(loss, nodes, years);
            let rate = count as f64 / years;
            println!(
                "| {name} | {nodes} | {years} | {count} | {rate:.3} | {:.2e} |",
                said(loss, nodes)
            );
        }
    }
}

/// False failovers a year by the arithmetic: a node's own by the failures in a row, or by bursts
/// that outlast all of them, and of a quorum those that fall together while one's suspicion lasts.
fn said(loss: Loss, nodes: u32) -> f64 {
    let schedule = Schedule::default();
    let interval = schedule.interval.as_secs_f64();
    // From the first of the failed probes to the last.
    let window = 1.05;
    let (rate, together) = match loss {
        Loss::Single(share) => {
            let share = share as f64 / 10_000.0;
            (share.powi(schedule.reprobes as i32 + 1) / interval, 0.5)
        }
        Loss::Bursts(mean) => {
            let mean = mean.as_secs_f64();
            (0.01 / interval.max(mean) * (-window / mean).exp(), 5.0)
        }
    };
    let quorum = nodes / 2 + 1;
    let ways = (0..quorum).fold(1.0, |ways, k| ways * f64::from(nodes - k) / f64::from(k + 1));
    let others = (rate * together).powi(quorum as i32 - 1);
    ways * f64::from(quorum) * rate * others * YEAR
}

/// Runs that long, on all cores; the number of times that the first node believed it down.
fn run(loss: Loss, nodes: u32, years: f64) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let span = Duration::from_secs_f64(years * YEAR / cores as f64);
    thread::scope(|scope| {
        let worlds: Vec<_> = (0..cores)
            .map(|core| {
                scope.spawn(move || World::new(loss, nodes as usize, core as u64).run(span))
            })
            .collect();
        worlds.into_iter().map(|world| world.join().unwrap_or_default()).sum()
    })
}

/// Nodes that watch one endpoint, which is well, and hear each other at once.
struct World {
    now: Instant,
    nodes: Vec<Node>,
}

struct Node {
    id: NodeId,
    target: TargetId,
    monitor: Monitor,
    /// The probe that is on its way: when it ends, and how.
    probe: Option<(Instant, Report)>,
    /// Since when it sleeps, and until when.
    sleep: Option<(Instant, Instant)>,
    /// So many probes must pass until it is as if none had ever failed.
    debt: u32,
    path: Path,
}

/// What a node's probes go through.
struct Path {
    loss: Loss,
    dice: Stream,
    /// Of single losses: how many probes pass before the next one that does not.
    passing: u64,
    /// Of bursts: whether it passes, and how long still.
    passes: bool,
    until: Instant,
}

impl World {
    fn new(loss: Loss, size: usize, core: u64) -> Self {
        let now = Instant::from_nanos(0);
        let Some(target) = TargetId::from_index(0) else { unreachable!("ids begin at 0") };
        let ids: Vec<NodeId> = (0..size).filter_map(NodeId::from_index).collect();
        let node = |id: NodeId| {
            let seed = Seed::new(core * 100 + id.index() as u64);
            let mut monitor = Monitor::new(seed);
            monitor.elect(now, Electorate { nodes: size, ..Electorate::default() });
            let others: BTreeSet<NodeId> = ids.iter().copied().filter(|of| *of != id).collect();
            monitor.handle_peers(now, others);
            monitor.watch(now, target, Schedule::default());
            let path = Path::new(loss, seed.stream("loss"), now);
            Node { id, target, monitor, probe: None, sleep: None, debt: 1, path }
        };
        Self { now, nodes: ids.iter().map(|id| node(*id)).collect() }
    }

    fn run(mut self, span: Duration) -> usize {
        let end = self.now + span;
        let mut alarms = 0;
        for node in &mut self.nodes {
            node.turn(self.now);
        }
        while self.now < end {
            let next =
                self.nodes.iter().enumerate().filter_map(|(row, of)| Some((of.next()?, row)));
            let Some((at, row)) = next.min() else { break };
            self.now = at;
            let Some(node) = self.nodes.get_mut(row) else { break };
            let from = node.id;
            node.turn(at);
            while let Some((target, opinion)) =
                self.nodes.get_mut(row).and_then(|node| node.monitor.poll_opinion())
            {
                for other in self.nodes.iter_mut().filter(|other| other.id != from) {
                    other.monitor.handle_opinion(at, from, target, opinion);
                }
            }
            for (row, node) in self.nodes.iter_mut().enumerate() {
                while let Some(change) = node.monitor.poll_change() {
                    let is_alarm = (change.from, change.to) == (State::Up, State::Down);
                    alarms += usize::from(row == 0 && is_alarm);
                }
            }
        }
        alarms
    }
}

impl Node {
    /// When something happens to it next.
    fn next(&self) -> Option<Instant> {
        let ends = self.probe.map(|(at, _)| at);
        ends.or(self.sleep.map(|(_, until)| until)).or(self.monitor.poll_timeout())
    }

    fn turn(&mut self, now: Instant) {
        if let Some((from, until)) = self.sleep.take() {
            self.path.skip(until.since(from));
        } else if let Some((_, report)) = self.probe.take() {
            self.monitor.handle_probe(now, self.target, report);
            let idle = self.path.quiet(now).checked_sub(MARGIN);
            if let Some(idle) = idle.filter(|_| self.debt == 0) {
                self.sleep = Some((now, now + idle));
                return;
            }
        }
        self.monitor.handle_timeout(now);
        while let Some(order) = self.monitor.poll_probe(now) {
            let report = if self.path.passes(now) {
                self.debt = self.debt.saturating_sub(1);
                Report { outcome: Outcome::Success, latency: ROUND_TRIP }
            } else {
                self.debt = (self.debt + FORGOTTEN).min(MOST_DEBT);
                let silent = Failure::TimedOut(Stage::Connect);
                Report { outcome: Outcome::Failure(silent), latency: order.timeout }
            };
            self.probe = Some((now + report.latency, report));
        }
    }
}

/// A failure weighs 2.53 in the detector of partial failure, and a success takes away 0.65.
const FORGOTTEN: u32 = 4;

/// What comes back after a failover must pass ten times; the detector remembers up to 28.
const MOST_DEBT: u32 = 40;

/// So long before something happens it wakes: an interval with its jitter.
const MARGIN: Duration = Duration::from_millis(600);

const ROUND_TRIP: Duration = Duration::from_millis(20);

impl Path {
    fn new(loss: Loss, dice: Stream, now: Instant) -> Self {
        let mut path = Self { loss, dice, passing: 0, passes: false, until: now };
        path.draw();
        path
    }

    fn passes(&mut self, now: Instant) -> bool {
        match self.loss {
            Loss::Single(_) => {
                let passes = self.passing > 0;
                if passes {
                    self.passing -= 1;
                } else {
                    self.draw();
                }
                passes
            }
            Loss::Bursts(_) => {
                while self.until <= now {
                    self.draw();
                }
                self.passes
            }
        }
    }

    /// When it fails next.
    fn draw(&mut self) {
        match self.loss {
            Loss::Single(share) => {
                // Geometric, by inversion.
                let odds = 1.0 - share as f64 / 10_000.0;
                self.passing = Duration::from_secs_f64(self.uniform().ln() / odds.ln()).as_secs();
            }
            Loss::Bursts(mean) => {
                self.passes = !self.passes;
                let mean = if self.passes { mean * 99 } else { mean };
                self.until = self.until + mean.mul_f64(-self.uniform().ln());
            }
        }
    }

    /// Above 0, up to 1.
    fn uniform(&mut self) -> f64 {
        (self.dice.below(1 << 53) + 1) as f64 / (1u64 << 53) as f64
    }

    /// How long nothing fails.
    fn quiet(&self, now: Instant) -> Duration {
        match self.loss {
            Loss::Single(_) => {
                Schedule::default().interval * u32::try_from(self.passing).unwrap_or(u32::MAX / 2)
            }
            Loss::Bursts(_) if self.passes => self.until.since(now),
            Loss::Bursts(_) => Duration::ZERO,
        }
    }

    /// So long nobody looked.
    fn skip(&mut self, span: Duration) {
        let probes = span.as_nanos() / Schedule::default().interval.as_nanos();
        self.passing = self.passing.saturating_sub(u64::try_from(probes).unwrap_or(u64::MAX));
    }
}
