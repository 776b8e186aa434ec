//! The arithmetic of detection, held against monitors on a virtual clock.

use std::time::Duration;

use super::tests::{MS, REFUSED, UP, start, target};
use super::*;
use crate::ids::NodeId;
use crate::rng::{Seed, Stream};
use crate::time::Instant;

/// Nothing came in time.
const SILENT: Outcome = Outcome::Failure(Failure::TimedOut(Stage::Connect));

const INTERVAL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_millis(300);
const GAP: Duration = Duration::from_millis(50);

/// Nodes that watch one target and hear each other at once.
struct Observers {
    now: Instant,
    nodes: Vec<Observer>,
}

struct Observer {
    monitor: Monitor,
    /// When it begins to watch.
    begins: Instant,
    /// The probe that is on its way: when it ends, and how.
    probe: Option<(Instant, Report)>,
    /// When each probe began.
    probes: Vec<Instant>,
}

impl Observers {
    /// So many, each of which begins at some moment of the first interval.
    fn new(count: usize, seed: u64, dice: &mut Stream) -> Self {
        let ids = || (0..count).filter_map(NodeId::from_index);
        let node = |own: NodeId| {
            let mut monitor = Monitor::new(Seed::new(seed * 10 + own.index() as u64));
            monitor.elect(start(), Electorate { nodes: count, ..Electorate::default() });
            monitor.handle_peers(start(), ids().filter(|of| *of != own).collect());
            let begins = start() + INTERVAL.mul_f64(dice.unit());
            Observer { monitor, begins, probe: None, probes: Vec::new() }
        };
        Self { now: start(), nodes: ids().map(node).collect() }
    }

    /// How long after `fault`, from which on the target is silent, the nodes believe it down.
    fn detects(&mut self, schedule: Schedule, fault: Instant) -> Duration {
        loop {
            let next = self.nodes.iter().enumerate().map(|(row, of)| (of.next(), row)).min();
            let (at, row) = next.unwrap();
            self.now = at;
            self.nodes[row].turn(at, schedule, fault);
            let from = NodeId::from_index(row).unwrap();
            while let Some((target, opinion)) = self.nodes[row].monitor.poll_opinion() {
                for (other, node) in self.nodes.iter_mut().enumerate() {
                    if other != row {
                        node.monitor.handle_opinion(at, from, target, opinion);
                    }
                }
            }
            let state = |node: &Observer| node.monitor.table().get(target(0)).state;
            if at >= fault && self.nodes.iter().all(|node| state(node) == State::Down) {
                return at.since(fault);
            }
            assert!(at < fault + Duration::from_secs(10), "it is never seen");
        }
    }
}

impl Observer {
    fn next(&self) -> Instant {
        let ends = self.probe.map(|(at, _)| at);
        ends.or(self.monitor.poll_timeout()).unwrap_or(self.begins)
    }

    fn turn(&mut self, now: Instant, schedule: Schedule, fault: Instant) {
        if let Some((_, report)) = self.probe.take() {
            self.monitor.handle_probe(now, target(0), report);
        } else if self.probes.is_empty() {
            self.monitor.watch(now, target(0), schedule);
        }
        self.monitor.handle_timeout(now);
        while let Some(order) = self.monitor.poll_probe(now) {
            let (outcome, latency) = if now < fault { (UP, MS) } else { (SILENT, order.timeout) };
            self.probe = Some((now + latency, Report { outcome, latency }));
            self.probes.push(now);
        }
    }
}

/// When the target falls silent, in fault number `row` of `count`: evenly over an interval.
fn fault(row: u64, count: u32) -> Instant {
    start() + Duration::from_secs(5) + INTERVAL * u32::try_from(row).unwrap() / count
}

fn mean(spans: &[Duration]) -> f64 {
    spans.iter().map(Duration::as_secs_f64).sum::<f64>() / spans.len() as f64
}

fn within(value: f64, expected: f64, share: f64) {
    assert!((value / expected - 1.0).abs() <= share, "{value}, expected {expected}");
}

/// U(0, I) + K·τ + (K − 1)·g, with I = 500 ms, τ = 300 ms, K = 4 and g = 50 ms.
#[test]
fn a_black_hole_is_seen_after_as_long_as_the_arithmetic_says() {
    let steady = Schedule { jitter_percent: 0, ..Schedule::default() };
    let mut dice = Seed::new(22).stream("begins");
    let mut seen = Vec::new();
    let mut even = Vec::new();
    for row in 0..1000 {
        let fault = fault(row, 1000);
        let mut one = Observers::new(1, row, &mut dice);
        let after = one.detects(steady, fault);
        let failed = one.nodes[0].probes.iter().filter(|at| **at >= fault).collect::<Vec<_>>();
        assert_eq!(failed.len(), 4);
        // How far the gaps were from what they are in the mean.
        let gaps = failed[3].since(*failed[0]) - TIMEOUT * 3;
        even.push(after + GAP * 3 - gaps);
        seen.push(after);
    }
    within(mean(&seen), 1.60, 0.01);
    let [least, most] = [even.iter().min(), even.iter().max()].map(|of| of.unwrap().as_millis());
    assert!((1350..1360).contains(&least) && (1840..=1850).contains(&most), "{least} to {most}");
    // Every tenth of it is as likely as any other.
    for tenth in 0..10 {
        let from = Duration::from_millis(1350 + 50 * tenth);
        let tenth = from..from + INTERVAL / 10;
        let here = even.iter().filter(|of| tenth.contains(*of)).count();
        assert!((60..=140).contains(&here), "{here} within 50 ms from {from:?} on");
    }
    // Intervals that are now longer, now shorter change nothing of the mean.
    let jittered =
        |row| Observers::new(1, row, &mut dice).detects(Schedule::default(), fault(row, 1000));
    within(mean(&(0..1000).map(jittered).collect::<Vec<_>>()), 1.60, 0.01);
}

/// The second of three moments that are even over an interval is its middle in the mean.
#[test]
fn two_of_three_see_it_as_soon_as_one_does_in_the_mean() {
    let steady = Schedule { jitter_percent: 0, ..Schedule::default() };
    let mut dice = Seed::new(23).stream("begins");
    let mut detect = |row| Observers::new(3, row, &mut dice).detects(steady, fault(row, 2000));
    let seen: Vec<Duration> = (0..2000).map(&mut detect).collect();
    within(mean(&seen), 1.60, 0.01);
    // They agree more often on the middle than one alone would: half of them within 163 ms of 500
    // (the quartiles of 3x² − 2x³ are at 0.326 and 0.674), jitter of the gaps apart.
    let near = |of: &&Duration| of.as_secs_f64() > 1.513 && of.as_secs_f64() < 1.687;
    within(seen.iter().filter(near).count() as f64 / 2000.0, 0.5, 0.1);
}

#[test]
fn one_that_fails_is_down_when_all_its_reprobes_have_failed_and_not_sooner() {
    for reprobes in 0..=20 {
        let schedule = Schedule { reprobes, ..Schedule::default() };
        let mut monitor = Monitor::new(Seed::new(25));
        monitor.watch(start(), target(0), schedule);
        let mut now = start();
        let mut probe = |outcome| {
            now = monitor.poll_timeout().unwrap_or(now);
            monitor.handle_timeout(now);
            let order = monitor.poll_probe(now).unwrap();
            monitor.handle_probe(now, order.target, Report { outcome, latency: MS });
            monitor.table().get(order.target).state
        };
        assert_eq!(probe(UP), State::Up);
        let failed = (1..=30).find(|_| probe(REFUSED) == State::Down);
        assert_eq!(failed, Some(reprobes + 1));
    }
}

/// Until K of the probes fail in a row it takes (1 − p^K)/((1 − p)·p^K) of them in the mean: 155
/// at p = 0.2 and K = 3.
///
/// So many failures make the other detector speak too, which weighs all of them. It cannot within
/// three successes; and as a run begins anew with each success, three at a time are as good as all.
#[test]
fn a_run_of_failures_takes_as_many_probes_as_the_arithmetic_says() {
    let schedule = Schedule { reprobes: 2, ..Schedule::default() };
    let mut dice = Seed::new(24).stream("loss");
    let mut now = start();
    let (mut probes, mut runs) = (0_u32, 0_u32);
    let mut monitor = Monitor::new(Seed::new(24));
    while runs < 5000 {
        monitor.watch(now, target(0), schedule);
        let mut probe = |outcome| {
            now = monitor.poll_timeout().unwrap_or(now);
            monitor.handle_timeout(now);
            let order = monitor.poll_probe(now).unwrap();
            let latency = if outcome == UP { MS } else { order.timeout };
            now = now + latency;
            monitor.handle_probe(now, order.target, Report { outcome, latency });
            monitor.table().get(order.target).state
        };
        assert_eq!(probe(UP), State::Up);
        let mut successes = 0;
        while successes < 3 {
            let outcome = if dice.unit() < 0.2 { SILENT } else { UP };
            successes += u32::from(outcome == UP);
            probes += 1;
            if probe(outcome) == State::Down {
                runs += 1;
                break;
            }
        }
        monitor.forget(target(0));
    }
    within(f64::from(probes) / f64::from(runs), 155.0, 0.03);
}

#[test]
fn the_longest_detection_is_that_of_the_formula() {
    let limit = |timeout| Schedule { timeout, ..Schedule::default() }.longest_detection();
    let least = Duration::from_millis(300);
    assert_eq!(limit(Timeout::Fixed(least)), Duration::from_millis(1975));
    let auto = Timeout::Auto { min: least, max: Duration::from_secs(1) };
    assert_eq!(limit(auto), Duration::from_millis(4775));
}
