//! The monitor on a virtual clock: who is probed when, and what is believed after which faults.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::ids::TargetId;
use crate::rng::{Seed, Stream};
use crate::time::Instant;

pub(super) const UP: Outcome = Outcome::Success;
pub(super) const REFUSED: Outcome = Outcome::Failure(Failure::Refused);
pub(super) const SILENT: Outcome = Outcome::Failure(Failure::TimedOut(Stage::Connect));
/// The node's own system says so at once.
pub(super) const NO_WAY: Outcome = Outcome::Failure(Failure::Unreachable);
pub(super) const MS: Duration = Duration::from_millis(1);

/// What a target does to a probe: the outcome, and after how long; one that is silent lets the
/// probe run into its timeout.
type Behaviour = Box<dyn FnMut(Instant, TargetId) -> (Outcome, Duration)>;

/// A monitor, virtual time, and targets that behave.
pub(super) struct World {
    pub(super) monitor: Monitor,
    pub(super) now: Instant,
    pub(super) behaviour: Behaviour,
    /// Probes on their way: when they end, and what they then report.
    under_way: BinaryHeap<Reverse<(Instant, usize)>>,
    reports: Vec<(TargetId, Report)>,
    /// When each probe began.
    pub(super) probes: Vec<(Instant, TargetId)>,
    changes: Vec<Change>,
}

pub(super) fn start() -> Instant {
    Instant::from_nanos(1_000_000_000_000)
}

pub(super) fn target(row: usize) -> TargetId {
    TargetId::from_index(row).unwrap()
}

impl World {
    pub(super) fn new(
        targets: usize,
        schedule: Schedule,
        seed: u64,
        behaviour: impl FnMut(Instant, TargetId) -> (Outcome, Duration) + 'static,
    ) -> Self {
        let mut monitor = Monitor::new(Seed::new(seed));
        for row in 0..targets {
            monitor.watch(start(), target(row), schedule);
        }
        Self {
            monitor,
            now: start(),
            behaviour: Box::new(behaviour),
            under_way: BinaryHeap::new(),
            reports: Vec::new(),
            probes: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// The driver's loop, until `end`.
    pub(super) fn run_until(&mut self, end: Instant) {
        loop {
            self.monitor.handle_timeout(self.now);
            while let Some(order) = self.monitor.poll_probe(self.now) {
                self.probes.push((self.now, order.target));
                let (outcome, latency) = (self.behaviour)(self.now, order.target);
                let is_late = outcome == SILENT || latency > order.timeout;
                let (outcome, latency) =
                    if is_late { (SILENT, order.timeout) } else { (outcome, latency) };
                self.under_way.push(Reverse((self.now + latency, self.reports.len())));
                self.reports.push((order.target, Report { outcome, latency }));
            }
            self.changes.extend(std::iter::from_fn(|| self.monitor.poll_change()));
            let ended = self.under_way.peek().map(|Reverse((at, _))| *at);
            let next = [self.monitor.poll_timeout(), ended].into_iter().flatten().min();
            match next.filter(|next| *next <= end) {
                Some(next) => self.now = self.now.max(next),
                None => break,
            }
            while let Some(Reverse((at, row))) = self.under_way.peek().copied()
                && at <= self.now
            {
                self.under_way.pop();
                let (target, report) = self.reports[row];
                self.monitor.handle_probe(self.now, target, report);
            }
        }
        self.now = end;
    }

    pub(super) fn run_for(&mut self, span: Duration) {
        self.run_until(self.now + span);
    }

    /// How often anything went down.
    pub(super) fn moves(&self) -> usize {
        self.downs().count()
    }

    /// Who went down, in turn.
    pub(super) fn downs(&self) -> impl Iterator<Item = usize> {
        let changes = self.changes.iter();
        let downs = changes.filter(|of| of.to == State::Down && of.from != State::Down);
        downs.map(|of| of.target.index())
    }

    fn state(&self, row: usize) -> State {
        self.monitor.table().get(target(row)).state
    }

    /// How long after `fault` the first target was believed to be in `state`.
    pub(super) fn seen_after(&self, fault: Instant, state: State) -> Option<Duration> {
        let changes = self.changes.iter().filter(|change| change.at >= fault);
        let mut found = changes.filter(|change| change.to == state && change.from != state);
        found.next().map(|change| change.at.since(fault))
    }
}

/// A target that does `after` from `fault` on, and answers in a millisecond before.
fn failing_from(
    fault: Instant,
    after: Outcome,
) -> impl FnMut(Instant, TargetId) -> (Outcome, Duration) {
    move |now, _| if now < fault { (UP, MS) } else { (after, MS) }
}

#[test]
fn the_first_verdict_is_the_first_success_or_the_last_reprobe() {
    let mut world = World::new(2, Schedule::default(), 1, |_, of| {
        (if of == target(0) { UP } else { REFUSED }, MS)
    });
    assert_eq!((world.state(0), world.state(1)), (State::Unknown, State::Unknown));
    world.run_for(2 * MS);
    assert_eq!((world.state(0), world.state(1)), (State::Up, State::Unknown));
    assert!(!world.monitor.settled());
    // Three re-probes, each 25 to 75 ms after the one before.
    world.run_for(Duration::from_millis(240));
    assert_eq!(world.state(1), State::Down);
    assert!(world.monitor.settled());
}

#[test]
fn what_was_recalled_and_nobody_tells_otherwise_is_waited_for_no_longer() {
    let cases = [
        (Some(State::Up), Failure::Untold, true),
        (Some(State::Down), Failure::Untold, true),
        (None, Failure::Untold, false),
        (Some(State::Up), Failure::Local, false),
    ];
    for (recalled, failure, is_settled) in cases {
        let mut monitor = Monitor::new(Seed::new(1));
        monitor.watch(start(), target(0), Schedule::default());
        recalled.into_iter().for_each(|state| monitor.recall(target(0), state, start()));
        let order = monitor.poll_probe(start()).unwrap();
        let report = Report { outcome: Outcome::Failure(failure), latency: MS };
        monitor.handle_probe(start() + MS, order.target, report);
        assert_eq!(monitor.settled(), is_settled, "{recalled:?}, {failure:?}");
        assert_eq!(monitor.table().get(target(0)).state, recalled.unwrap_or(State::Unknown));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// U(0, I) + (r + 1)·τ + r·g, where I is up to a tenth longer, and g half as long or half as
    /// long again.
    #[test]
    fn a_black_hole_is_seen_within_two_seconds(seed: u64, phase in 0u64..500) {
        let fault = start() + Duration::from_millis(5000 + phase);
        let mut world = World::new(1, Schedule::default(), seed, failing_from(fault, SILENT));
        world.run_until(fault + Duration::from_secs(3));
        let seen = world.seen_after(fault, State::Down).unwrap().as_millis();
        prop_assert!((1275..=1975).contains(&seen), "{seen} ms");
    }

    /// U(0, I) + r·g, and four probes of a millisecond.
    #[test]
    fn a_refusal_is_seen_within_a_second(seed: u64, phase in 0u64..500) {
        let fault = start() + Duration::from_millis(5000 + phase);
        let mut world = World::new(1, Schedule::default(), seed, failing_from(fault, REFUSED));
        world.run_until(fault + Duration::from_secs(3));
        let seen = world.seen_after(fault, State::Down).unwrap().as_millis();
        prop_assert!((79..=779).contains(&seen), "{seen} ms");
    }

    /// Coming back takes `rise` successes: nine to ten intervals by default, of which the first
    /// and the last probe may be moved by a twentieth.
    #[test]
    fn a_target_is_back_within_the_configured_rise(seed: u64, phase in 0u64..500) {
        let well = start() + Duration::from_millis(5000 + phase);
        let mut world = World::new(1, Schedule::default(), seed, move |now, _| {
            (if now < well { REFUSED } else { UP }, MS)
        });
        world.run_until(well + Duration::from_secs(10));
        let seen = world.seen_after(well, State::Up).unwrap().as_millis();
        prop_assert!((4451..=5051).contains(&seen), "{seen} ms");
    }
}

#[test]
fn one_lost_probe_is_a_suspicion_and_no_verdict() {
    let fault = start() + Duration::from_secs(5);
    let mut lost = 0;
    let mut world = World::new(1, Schedule::default(), 7, move |now, _| {
        lost += u32::from(now >= fault && lost == 0);
        (
            if now >= fault && lost == 1 {
                lost = 2;
                SILENT
            } else {
                UP
            },
            MS,
        )
    });
    world.run_until(fault + Duration::from_secs(5));
    let told: Vec<(State, bool)> =
        world.changes.iter().map(|change| (change.to, change.suspected)).collect();
    assert_eq!(told, [(State::Up, false), (State::Up, true), (State::Up, false)]);
}

#[test]
fn the_nodes_own_trouble_is_no_word_about_a_target() {
    let fault = start() + Duration::from_secs(5);
    let trouble = Outcome::Failure(Failure::Local);
    let mut world = World::new(1, Schedule::default(), 7, failing_from(fault, trouble));
    world.run_until(fault + Duration::from_secs(60));
    assert_eq!(world.state(0), State::Up);
    assert_eq!(world.changes.len(), 1);
    let last = world.monitor.table().get(target(0)).last.unwrap().1;
    assert_eq!(last.outcome, trouble);
}

#[test]
fn ten_thousand_targets_are_spread_evenly_over_the_interval() {
    let mut world = World::new(10_000, Schedule::default(), 3, |_, _| (UP, MS));
    world.run_for(Duration::from_secs(5));
    let from = start() + Duration::from_secs(2);
    let mut tens = vec![0u32; 300];
    for (at, _) in world.probes.iter().filter(|(at, _)| *at >= from) {
        tens[usize::try_from(at.since(from).as_millis() / 10).unwrap().min(299)] += 1;
    }
    // 20,000 a second are 200 in 10 ms.
    let (least, most) = (tens.iter().min().unwrap(), tens.iter().max().unwrap());
    assert!(*least > 130 && *most < 270, "{least} to {most}");
    // And everybody has had as many: one in each interval.
    let mut each = vec![0u32; 10_000];
    world.probes.iter().for_each(|(_, of)| each[of.index()] += 1);
    assert!(each.iter().all(|count| (10..=12).contains(count)), "{:?}", each.iter().max());
}

#[test]
fn a_slow_target_delays_no_other_and_is_not_probed_twice_at_once() {
    let schedule =
        Schedule { timeout: Timeout::Fixed(Duration::from_secs(5)), ..Schedule::default() };
    let mut world = World::new(100, schedule, 5, |_, of| {
        (UP, if of == target(0) { Duration::from_secs(4) } else { MS })
    });
    world.run_for(Duration::from_secs(20));
    let of = |row: usize| -> Vec<Instant> {
        world.probes.iter().filter(|(_, of)| *of == target(row)).map(|(at, _)| *at).collect()
    };
    assert!(of(1).len() >= 38, "{}", of(1).len());
    let gaps = of(1).windows(2).map(|pair| pair[1].since(pair[0])).skip(1).max();
    assert!(gaps.unwrap() <= Duration::from_millis(550), "{gaps:?}");
    assert!(of(0).windows(2).all(|pair| pair[1].since(pair[0]) >= Duration::from_secs(4)));
    assert_eq!(world.state(0), State::Up);
}

#[test]
fn the_timeout_follows_the_round_trips() {
    // 200 ms and steady: four deviations above it is more than the least, 300 ms.
    let mut world = World::new(1, Schedule::default(), 5, |_, _| (UP, Duration::from_millis(200)));
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.state(0), State::Up);
    assert_eq!(world.changes.len(), 1);
    // A target that always needs longer than the most it may is down.
    let mut world = World::new(1, Schedule::default(), 5, |_, _| (UP, Duration::from_millis(1100)));
    world.run_for(Duration::from_secs(6));
    assert_eq!(world.state(0), State::Down);
}

/// A loss of p a probe makes p⁴ of the probes begin a false alarm, by the arithmetic.
#[test]
fn false_alarms_are_as_rare_as_the_arithmetic_says() {
    let mut loss: Stream = Seed::new(11).stream("loss");
    let mut world = World::new(20, Schedule::default(), 11, move |_, _| {
        (if loss.below(100) < 10 { SILENT } else { UP }, MS)
    });
    world.run_for(Duration::from_secs(4 * 3600));
    let downs = world.changes.iter().filter(|change| change.to == State::Down).count();
    // 20 targets × 4 h at two probes a second are 576,000, of which 10⁻⁴ are 58; the time that
    // targets are down or being re-probed takes some away.
    assert!((25..=80).contains(&downs), "{downs}");
}

#[test]
fn what_is_known_outlives_a_new_schedule_and_ends_with_forgetting() {
    let mut world = World::new(1, Schedule::default(), 5, |_, _| (UP, MS));
    world.run_for(Duration::from_secs(1));
    let known = world.monitor.table().get(target(0));
    let slower = Schedule { interval: Duration::from_secs(10), ..Schedule::default() };
    world.monitor.watch(world.now, target(0), slower);
    assert_eq!(world.monitor.table().get(target(0)), known);
    let before = world.probes.len();
    world.run_for(Duration::from_secs(30));
    assert!(world.probes.len() - before <= 4, "{}", world.probes.len() - before);
    world.monitor.forget(target(0));
    assert_eq!(world.state(0), State::Unknown);
    assert_eq!(world.monitor.poll_timeout(), None);
    // A report that comes afterwards is passed over.
    world.monitor.handle_probe(world.now, target(0), Report { outcome: UP, latency: MS });
    assert_eq!(world.state(0), State::Unknown);
}

#[test]
fn equal_seeds_give_equal_histories() {
    let history = || {
        let mut loss: Stream = Seed::new(2).stream("loss");
        let mut world = World::new(50, Schedule::default(), 9, move |_, _| {
            (if loss.below(100) < 30 { SILENT } else { UP }, MS)
        });
        world.run_for(Duration::from_secs(60));
        (world.probes, world.changes)
    };
    assert_eq!(history(), history());
}

/// Up for `up`, down for `down`, over and over.
fn flapping(up: Duration, down: Duration) -> impl FnMut(Instant, TargetId) -> (Outcome, Duration) {
    move |now, _| {
        let phase = now.since(start()).as_nanos() % (up + down).as_nanos();
        (if phase < up.as_nanos() { UP } else { REFUSED }, MS)
    }
}

/// How long the first target was down, each time.
fn absences(world: &World) -> Vec<u64> {
    let changes: Vec<&Change> =
        world.changes.iter().filter(|change| change.from != change.to).collect();
    let pairs = changes.windows(2).filter(|pair| pair[0].to == State::Down);
    pairs.map(|pair| pair[1].at.since(pair[0].at).as_secs()).collect()
}

#[test]
fn one_that_flaps_is_held_down_longer_each_time_and_forgiven_after_a_while() {
    let schedule = Schedule::default();
    let holds: Vec<u64> = (0..8).map(|flaps| schedule.hold(flaps).as_secs()).collect();
    assert_eq!(holds, [0, 10, 20, 40, 80, 160, 300, 300]);

    // 20 s well, 1 s not: the first absence is the rise, the others the holds.
    let (well, ill) = (Duration::from_secs(20), Duration::from_secs(1));
    let mut world = World::new(1, schedule, 5, flapping(well, ill));
    world.run_for(Duration::from_secs(3600));
    let away = absences(&world);
    assert!((4..=7).contains(&away[0]), "{away:?}");
    for (away, hold) in away[1..].iter().zip([10, 20, 40, 80, 160, 300, 300]) {
        assert!((hold..hold + 30).contains(away), "{away} for {hold}");
    }
    // In an hour it moved its clients a few times, not 170.
    assert!(world.changes.iter().filter(|change| change.to == State::Down).count() < 20);

    // A fault each quarter of an hour is no flapping.
    let mut world = World::new(1, schedule, 5, flapping(Duration::from_secs(900), ill));
    world.run_for(Duration::from_secs(3600));
    assert!(absences(&world).iter().all(|away| *away <= 7), "{:?}", absences(&world));

    // Nor is it with `hold_down: 0s`.
    let lenient = Schedule { hold_down: Duration::ZERO, ..schedule };
    let mut world = World::new(1, lenient, 5, flapping(well, ill));
    world.run_for(Duration::from_secs(3600));
    assert!(absences(&world).iter().all(|away| *away <= 7), "{:?}", absences(&world));
}

#[test]
fn until_when_it_is_held_is_known() {
    let mut world = World::new(
        1,
        Schedule::default(),
        5,
        flapping(Duration::from_secs(20), Duration::from_secs(2)),
    );
    let held = |world: &World| world.monitor.table().get(target(0)).held_until;
    world.run_until(start() + Duration::from_secs(21));
    assert_eq!((world.state(0), held(&world)), (State::Down, None));
    world.run_until(start() + Duration::from_secs(43));
    assert_eq!(world.state(0), State::Down);
    assert!(held(&world).is_some_and(|until| until > world.now));
    world.run_until(start() + Duration::from_secs(60));
    assert_eq!((world.state(0), held(&world)), (State::Up, None));
}

#[test]
fn a_success_that_is_too_slow_is_a_failure() {
    let schedule = Schedule { slow_after: Some(Duration::from_millis(200)), ..Schedule::default() };
    let slows = start() + Duration::from_secs(5);
    let mut world = World::new(1, schedule, 5, move |now, _| {
        (UP, if now < slows { MS } else { Duration::from_millis(201) })
    });
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.state(0), State::Down);
    let last = world.monitor.table().get(target(0)).last.unwrap().1;
    assert_eq!(last.outcome, Outcome::Failure(Failure::Slow));
}

/// Everything is well but from `from` to `until`, when `fault` is what is seen of these targets.
fn outage(
    (from, until): (u64, u64),
    fault: Outcome,
    of: impl Fn(usize) -> bool + 'static,
) -> impl FnMut(Instant, TargetId) -> (Outcome, Duration) {
    let at = |second| start() + Duration::from_secs(second);
    move |now, target| {
        let is_hit = of(target.index()) && (at(from)..at(until)).contains(&now);
        (if is_hit { fault } else { UP }, 20 * MS)
    }
}

#[test]
fn a_node_that_is_cut_off_believes_what_it_believed() {
    // Six of ten go silent at once, or all: that is more likely here than there.
    for hit in [6, 10] {
        let mut world =
            World::new(10, Schedule::default(), 1, outage((5, 65), SILENT, move |row| row < hit));
        world.run_for(Duration::from_secs(30));
        assert!(world.monitor.abstains());
        assert!((0..10).all(|row| world.state(row) == State::Up));
        world.run_for(Duration::from_secs(60));
        assert!(!world.monitor.abstains());
        let moves = world.changes.iter().filter(|change| change.from != change.to);
        assert_eq!(moves.filter(|change| change.from != State::Unknown).count(), 0);
    }
    // Half of them are no majority, one alone is none either, and a refusal came from there.
    for (hit, fault) in [(5, SILENT), (10, REFUSED)] {
        let mut world =
            World::new(10, Schedule::default(), 1, outage((5, 65), fault, move |row| row < hit));
        world.run_for(Duration::from_secs(10));
        assert_eq!((0..10).filter(|row| world.state(*row) == State::Down).count(), hit);
    }
    let mut world = World::new(1, Schedule::default(), 1, outage((5, 65), SILENT, |_| true));
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.state(0), State::Down);
}

#[test]
fn targets_that_went_down_before_count_no_more() {
    // One after the other: each is a minority of those that are left, until two are.
    let at = |second| start() + Duration::from_secs(second);
    let mut world = World::new(5, Schedule::default(), 1, move |now, target| {
        let dies = at(5 + 5 * target.index() as u64);
        (if now >= dies { SILENT } else { UP }, 20 * MS)
    });
    world.run_for(Duration::from_secs(40));
    let down = (0..5).filter(|row| world.state(*row) == State::Down).count();
    assert_eq!((down, world.monitor.abstains()), (5, false));
}

#[test]
fn canaries_tell_the_uplink_from_the_targets() {
    let run = |canary_is_hit: bool| {
        // The last one is the canary.
        let hit = move |row| row < 4 || canary_is_hit;
        let mut world = World::new(5, Schedule::default(), 1, outage((5, 65), SILENT, hit));
        world.monitor.set_canaries([target(4)], []);
        world.run_for(Duration::from_secs(20));
        ((0..4).filter(|row| world.state(*row) == State::Down).count(), world.monitor.abstains())
    };
    assert_eq!(run(false), (4, false), "the canary sings: all four are dead indeed");
    assert_eq!(run(true), (0, true));
}

#[test]
fn a_target_that_fails_in_part_is_found() {
    let failing = |share: u64, seed, reprobes| {
        let mut dice = Seed::new(seed).stream("faults");
        let schedule = Schedule { reprobes, ..Schedule::default() };
        let mut world = World::new(1, schedule, seed, move |now, _| {
            let is_failing = now >= start() + Duration::from_secs(60) && dice.below(100) < share;
            (if is_failing { REFUSED } else { UP }, 20 * MS)
        });
        world.run_for(Duration::from_secs(60 + 600));
        let fault = start() + Duration::from_secs(60);
        world.seen_after(fault, State::Down).map(|after| after.as_secs_f64())
    };
    // Four in a row alone would take thirty probes, and re-probes come fast; 21 two million.
    for reprobes in [Schedule::REPROBES, 20] {
        let spans: Vec<f64> = (0..40).filter_map(|seed| failing(50, seed, reprobes)).collect();
        assert_eq!(spans.len(), 40, "each is found");
        let mean = spans.iter().sum::<f64>() / 40.0;
        assert!(mean < 10.0, "{mean}");
    }
    let sound = (0..40).filter_map(|seed| failing(4, seed, Schedule::REPROBES)).count();
    assert_eq!(sound, 0, "4 % is what loss alone makes of HTTP probes");
}

#[test]
fn a_prober_that_stops_is_noticed_within_two_intervals() {
    let schedule = Schedule::default();
    let mut world = World::new(3, schedule, 1, |_, _| (UP, 20 * MS));
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.monitor.stale(), 0);
    // From now on no report comes: the driver takes orders and says nothing.
    let stopped = world.now;
    world.under_way.clear();
    let mut orders = 0;
    while world.monitor.stale() < 3 {
        world.now = world.monitor.poll_timeout().unwrap();
        world.monitor.handle_timeout(world.now);
        while world.monitor.poll_probe(world.now).is_some() {
            orders += 1;
        }
    }
    // An order, its timeout (300 ms after some probes) and an interval.
    assert!(world.now.since(stopped) < schedule.interval * 2 + 400 * MS, "{:?}", world.now);
    assert!((0..3).all(|row| world.state(row) == State::Up), "the last decision stands");
    // It is asked again, but does not drown in orders.
    let noticed = world.now;
    while world.now.since(noticed) < Duration::from_secs(600) {
        world.now = world.monitor.poll_timeout().unwrap();
        world.monitor.handle_timeout(world.now);
        while world.monitor.poll_probe(world.now).is_some() {
            orders += 1;
        }
    }
    assert!((20..150).contains(&orders), "{orders}");
    // When it works again, so does everything.
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.monitor.stale(), 0);
}
