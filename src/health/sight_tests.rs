//! A node that sees nothing calls nobody down, and one that sees is not held up by that.

use std::time::Duration;

use super::tests::{MS, NO_WAY, REFUSED, SILENT, UP, World, start, target};
use super::*;
use crate::ids::TargetId;
use crate::time::Instant;

fn fault() -> Instant {
    start() + Duration::from_secs(5)
}

/// From the fault on, `what` is seen of those rows, after `latency`.
fn failing(
    (what, latency): (Outcome, Duration),
    rows: impl Fn(usize) -> bool + 'static,
) -> impl FnMut(Instant, TargetId) -> (Outcome, Duration) {
    move |now, of| if now >= fault() && rows(of.index()) { (what, latency) } else { (UP, 20 * MS) }
}

fn down(world: &World) -> usize {
    let ids = world.monitor.targets();
    ids.filter(|id| world.monitor.table().get(*id).state == State::Down).count()
}

#[test]
fn who_loses_its_way_calls_nobody_down_however_fast_it_learns_that() {
    for (count, canaries) in [(2, 0), (3, 0), (4, 0), (6, 0), (20, 0), (20, 1), (20, 3)] {
        for seed in 0..20 {
            for what in [(NO_WAY, MS), (SILENT, MS)] {
                let behaviour = failing(what, |_| true);
                let mut world = World::new(count + canaries, Schedule::default(), seed, behaviour);
                world.monitor.set_canaries((count..count + canaries).map(target), []);
                world.run_until(fault() + Duration::from_secs(20));
                let case = (count, canaries, seed, what);
                assert_eq!((down(&world), world.monitor.abstains()), (0, true), "{case:?}");
            }
        }
    }
}

#[test]
fn nor_does_who_loses_the_way_to_most() {
    for (hit, count) in [(2, 2), (2, 3), (3, 4), (4, 6), (7, 12), (11, 20), (120, 200)] {
        for seed in 0..20 {
            for interval in [100, 500, 10_000] {
                // Of many that are probed seldom, some are asked: most of those, as it happens.
                if count > 16 && interval > 500 {
                    continue;
                }
                let interval = Duration::from_millis(interval);
                let schedule = Schedule { interval, ..Schedule::default() };
                let mut world =
                    World::new(count, schedule, seed, failing((NO_WAY, MS), move |row| row < hit));
                world.run_until(fault() + Duration::from_secs(25));
                let case = (hit, count, seed, interval);
                assert_eq!((down(&world), world.monitor.abstains()), (0, true), "{case:?}");
            }
        }
    }
}

#[test]
fn a_canary_that_is_given_a_second_is_waited_for() {
    let slow = Schedule { timeout: Timeout::Fixed(Duration::from_secs(1)), ..Schedule::default() };
    for seed in 0..40 {
        let mut world =
            World::new(8, Schedule::default(), seed, failing((NO_WAY, MS), |row| row < 8));
        // Its silence takes a second to be seen; that of the others none.
        let canary = target(8);
        world.monitor.watch(start(), canary, slow);
        world.monitor.set_canaries([canary], []);
        let mut others = failing((NO_WAY, MS), |row| row < 8);
        world.behaviour = Box::new(move |now, of| match of == canary && now >= fault() {
            true => (SILENT, Duration::from_secs(1)),
            false => others(now, of),
        });
        world.run_until(fault() + Duration::from_secs(30));
        assert_eq!((down(&world), world.monitor.abstains()), (0, true), "{seed}");
    }
}

#[test]
fn who_sees_nothing_for_a_moment_calls_nobody_down() {
    let cases = [(1, 1), (6, 1), (6, 2), (6, 0)];
    let cases = cases.iter().flat_map(|case| (1..=60).map(|row| (*case, row * 50)));
    for ((count, canaries), span) in cases {
        for seed in 0..4 {
            for (what, latency) in [(NO_WAY, MS), (SILENT, MS)] {
                let end = fault() + Duration::from_millis(span);
                let mut gone = failing((what, latency), |_| true);
                let behaviour =
                    move |now, of| if now < end { gone(now, of) } else { (UP, 20 * MS) };
                let mut world = World::new(count + canaries, Schedule::default(), seed, behaviour);
                world.monitor.set_canaries((count..count + canaries).map(target), []);
                world.run_until(fault() + Duration::from_secs(6));
                let case = (count, canaries, span, seed, what);
                assert_eq!((world.moves(), world.monitor.abstains()), (0, false), "{case:?}");
            }
        }
    }
}

#[test]
fn nor_does_who_sees_for_a_moment_only() {
    let gone = Duration::from_secs(3);
    let cases = [(3, 0), (6, 0), (3, 1), (6, 2)];
    let cases = cases.iter().flat_map(|case| (1..=60).map(|row| (*case, row * 10)));
    for ((count, canaries), span) in cases {
        for seed in 0..4 {
            for (what, latency) in [(NO_WAY, MS), (SILENT, MS)] {
                let light = fault() + gone..fault() + gone + Duration::from_millis(span);
                let end = light.end + gone;
                let mut dark = failing((what, latency), |_| true);
                let behaviour = move |now, of| {
                    let is_well = now >= end || light.contains(&now);
                    if is_well { (UP, 20 * MS) } else { dark(now, of) }
                };
                let mut world = World::new(count + canaries, Schedule::default(), seed, behaviour);
                world.monitor.set_canaries((count..count + canaries).map(target), []);
                world.run_until(fault() + Duration::from_secs(12));
                let case = (count, canaries, span, seed, what);
                assert_eq!((world.moves(), world.monitor.abstains()), (0, false), "{case:?}");
            }
        }
    }
}

#[test]
fn a_canary_that_fails_now_and_then_holds_up_no_verdict() {
    for (what, latency) in [(REFUSED, MS), (SILENT, MS)] {
        for seed in 0..40 {
            let mut probes = 0;
            let mut dead = failing((SILENT, MS), |row| row == 0);
            let behaviour = move |now, of| {
                probes += usize::from(of == target(4));
                if of == target(4) && probes.is_multiple_of(3) {
                    return (what, latency);
                }
                dead(now, of)
            };
            let mut world = World::new(5, Schedule::default(), seed, behaviour);
            world.monitor.set_canaries([target(4)], []);
            let mut abstained = 0;
            while world.now < fault() + Duration::from_secs(10) {
                world.run_for(5 * MS);
                abstained += usize::from(world.monitor.abstains());
            }
            let seen = world.seen_after(fault(), State::Down).unwrap();
            assert!(seen <= Duration::from_millis(1975), "{what:?} {seed}: {seen:?}");
            let state = |row| world.monitor.table().get(target(row)).state;
            assert_eq!([0, 1, 2, 3].map(state), [State::Down, State::Up, State::Up, State::Up]);
            assert_eq!(abstained, 0);
        }
    }
}

#[test]
fn one_that_dies_among_others_is_not_waited_with() {
    // Until all others have had their turn, and a re-probe.
    for others in 1..10 {
        for seed in 0..40 {
            let mut world = World::new(
                1 + others,
                Schedule::default(),
                seed,
                failing((NO_WAY, MS), |row| row == 0),
            );
            world.run_until(fault() + Duration::from_secs(10));
            let seen = world.seen_after(fault(), State::Down).unwrap();
            assert!(seen <= Duration::from_millis(550 + 600 + 79), "{others} {seed}: {seen:?}");
            assert_eq!(down(&world), 1);
        }
    }
}

#[test]
fn who_is_probed_seldom_is_asked_at_once_whether_this_node_sees() {
    let seldom = Schedule { interval: Duration::from_secs(3600), ..Schedule::default() };
    for seed in 0..40 {
        let mut world =
            World::new(1, Schedule::default(), seed, failing((SILENT, MS), |row| row == 0));
        world.monitor.watch(start(), target(1), seldom);
        world.run_until(fault() + Duration::from_secs(10));
        let seen = world.seen_after(fault(), State::Down).unwrap();
        assert!(seen <= Duration::from_millis(1975), "{seed}: {seen:?}");
        let asked = world.probes.iter().filter(|(at, of)| *of == target(1) && *at >= fault());
        assert_eq!(asked.count(), 1, "{seed}");
    }
}

#[test]
fn what_others_tell_is_no_sign_that_this_node_sees() {
    let behaviour = || failing((NO_WAY, MS), |row| row < 3);
    let mut world = World::new(10, Schedule::default(), 1, behaviour());
    world.monitor.set_canaries([], (3..10).map(target));
    world.run_until(fault() + Duration::from_secs(10));
    assert_eq!((down(&world), world.monitor.abstains()), (0, true));
    // Were they probed, the three would be dead.
    let mut world = World::new(10, Schedule::default(), 1, behaviour());
    world.run_until(fault() + Duration::from_secs(10));
    assert_eq!((down(&world), world.monitor.abstains()), (3, false));
}

#[test]
fn who_hangs_with_the_connection_made_is_not_silent() {
    let hung = Outcome::Failure(Failure::TimedOut(Stage::Head));
    let mut world =
        World::new(10, Schedule::default(), 1, failing((hung, 300 * MS), |row| row < 6));
    world.run_until(fault() + Duration::from_secs(3));
    assert_eq!((down(&world), world.monitor.abstains()), (6, false));
}

#[test]
fn a_shorter_interval_counts_at_once() {
    let seldom = Schedule { interval: Duration::from_secs(3600), ..Schedule::default() };
    let mut world = World::new(4, seldom, 1, failing((REFUSED, MS), |_| true));
    world.run_until(fault());
    for row in 0..4 {
        world.monitor.watch(world.now, target(row), Schedule::default());
    }
    world.run_for(Duration::from_secs(1));
    assert_eq!(down(&world), 4);
    let probes = world.probes.len();
    // And a longer one after the probe that was due.
    for row in 0..4 {
        world.monitor.watch(world.now, target(row), seldom);
    }
    world.run_for(Duration::from_secs(600));
    assert!(world.probes.len() - probes <= 8, "{}", world.probes.len() - probes);
}

fn at(second: u64) -> Instant {
    start() + Duration::from_secs(second)
}

#[test]
fn canaries_are_as_good_as_before_after_an_outage() {
    for canaries in [2, 3] {
        // One of them dies after it, then a target: both are counted as down.
        let dies = |of: TargetId| [(0, 40), (2, 20)].iter().find(|(row, _)| target(*row) == of);
        let behaviour = move |now, of| {
            let is_dead = dies(of).is_some_and(|(_, second)| now >= at(*second));
            let is_dark = (at(5)..at(15)).contains(&now) || (at(60)..at(70)).contains(&now);
            if is_dead || is_dark { (SILENT, MS) } else { (UP, 20 * MS) }
        };
        let mut world = World::new(2 + canaries, Schedule::default(), 1, behaviour);
        world.monitor.set_canaries((2..2 + canaries).map(target), []);
        world.run_until(at(39));
        assert_eq!((down(&world), world.monitor.abstains()), (1, false), "{canaries}");
        world.run_until(at(42));
        assert_eq!((down(&world), world.monitor.abstains()), (2, false), "{canaries}");
        world.run_until(at(69));
        assert_eq!((down(&world), world.monitor.abstains()), (2, true), "{canaries}");
    }
}

#[test]
fn with_canaries_most_silent_targets_are_a_sign_sooner() {
    // Gone for a second, back for a fifth of one, gone again.
    let dark = [(0, 1000), (1200, 1600)];
    for (count, canaries) in [(3, 1), (6, 1), (6, 2), (6, 3)] {
        for seed in 0..40 {
            let begins = fault() + 13 * MS * u32::try_from(seed).unwrap();
            let behaviour = move |now: Instant, _| {
                let span = now.since(begins).as_millis();
                let is_dark = now >= begins
                    && dark.iter().any(|(from, until)| (*from..*until).contains(&span));
                if is_dark { (SILENT, MS) } else { (UP, 20 * MS) }
            };
            let mut world = World::new(count + canaries, Schedule::default(), seed, behaviour);
            world.monitor.set_canaries((count..count + canaries).map(target), []);
            world.run_until(fault() + Duration::from_secs(6));
            assert_eq!(world.moves(), 0, "{count} {canaries} {seed}");
        }
    }
}

#[test]
fn a_canary_that_cannot_be_probed_holds_up_no_verdict() {
    let local = Outcome::Failure(Failure::Local);
    let mut dead = failing((SILENT, MS), |row| row == 0);
    let behaviour = move |now, of| if of == target(3) { (local, MS) } else { dead(now, of) };
    let mut world = World::new(4, Schedule::default(), 1, behaviour);
    world.monitor.set_canaries([target(3)], []);
    world.run_until(fault() + Duration::from_secs(2));
    assert_eq!((down(&world), world.monitor.stale()), (1, 1));
}

#[test]
fn one_that_refused_is_silent_with_the_others() {
    for (refusing, count) in [(1, 2), (2, 3), (5, 6)] {
        for (what, seed) in
            [NO_WAY, SILENT].into_iter().flat_map(|of| (0..20).map(move |seed| (of, seed)))
        {
            let behaviour = move |now, of: TargetId| {
                let is_dark = (at(30)..at(40)).contains(&now);
                let refuses = of.index() < refusing && now >= fault();
                if is_dark { (what, MS) } else { (if refuses { REFUSED } else { UP }, 20 * MS) }
            };
            let mut world = World::new(count, Schedule::default(), seed, behaviour);
            world.run_until(at(39));
            assert_eq!(
                (down(&world), world.monitor.abstains()),
                (refusing, true),
                "{count} {seed}"
            );
            world.run_until(at(45));
            assert_eq!(
                (world.moves(), world.monitor.abstains()),
                (refusing, false),
                "{count} {seed}"
            );
        }
    }
}

#[test]
fn who_is_known_to_be_down_and_switched_off_is_no_sign() {
    // Two of three refuse, and are silent later; or an earlier process has known them down.
    for is_recalled in [false, true] {
        let behaviour = move |now, of: TargetId| match of.index() {
            2 => (UP, 20 * MS),
            _ if is_recalled || now >= at(30) => (SILENT, MS),
            _ => (if now >= fault() { REFUSED } else { UP }, 20 * MS),
        };
        let mut world = World::new(3, Schedule::default(), 1, behaviour);
        if is_recalled {
            (0..2).for_each(|row| world.monitor.recall(target(row), State::Down, start()));
        }
        for second in 8..60 {
            world.run_until(at(second));
            assert_eq!((down(&world), world.monitor.abstains()), (2, false), "{second}");
        }
    }
}

#[test]
fn the_only_one_who_could_tell_is_asked_again_when_it_is_back() {
    for latency in [20, 60, 100, 150] {
        for seed in 0..40 {
            let mut dead = failing((SILENT, MS), |row| row == 0);
            let behaviour = move |now, of| match dead(now, of) {
                (UP, _) => (UP, latency * MS),
                silent => silent,
            };
            let mut world = World::new(3, Schedule::default(), seed, behaviour);
            world.monitor.set_canaries([target(2)], []);
            world.run_until(fault() + Duration::from_secs(10));
            let seen = world.seen_after(fault(), State::Down).unwrap();
            assert!(seen <= Duration::from_millis(1975), "{latency} {seed}: {seen:?}");
        }
    }
}

#[test]
fn who_sees_nothing_asks_no_more_often_than_usual() {
    for what in [NO_WAY, SILENT] {
        let mut world = World::new(100, Schedule::default(), 1, failing((what, MS), |_| true));
        world.run_until(fault());
        let before = world.probes.len();
        world.run_until(fault() + Duration::from_secs(5));
        let after = world.probes.len() - before;
        assert!(after <= before * 11 / 10, "{what:?}: {after} after {before}");
    }
}
