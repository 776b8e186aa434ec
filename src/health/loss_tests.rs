//! A node whose network loses packets calls nobody down for it, and finds who is down all the same.

use std::time::Duration;

use super::tests::{MS, NO_WAY, SILENT, UP, World, start, target};
use super::*;
use crate::ids::TargetId;
use crate::rng::Seed;
use crate::time::Instant;

/// Targets and canaries.
const CASES: [(usize, usize); 7] = [(2, 0), (3, 0), (6, 0), (20, 0), (1, 1), (6, 1), (6, 3)];

const SEEDS: usize = 20;

fn at(millis: u64) -> Instant {
    start() + Duration::from_millis(millis)
}

/// Targets that answer unless `is_lost` says otherwise; then nothing comes back.
fn world(
    case: (usize, usize),
    seed: u64,
    is_lost: impl FnMut(Instant, TargetId) -> bool + 'static,
) -> World {
    failing(SILENT, case, seed, is_lost)
}

/// The same, where this is seen then.
fn failing(
    what: Outcome,
    (count, canaries): (usize, usize),
    seed: u64,
    mut is_lost: impl FnMut(Instant, TargetId) -> bool + 'static,
) -> World {
    let behaviour = move |now, of| if is_lost(now, of) { (what, MS) } else { (UP, 20 * MS) };
    let mut world = World::new(count + canaries, Schedule::default(), seed, behaviour);
    world.monitor.set_canaries((count..count + canaries).map(target), []);
    world
}

/// From the fifth second on so many probes of a hundred are lost, each by itself.
fn losing(percent: u64, seed: u64) -> impl FnMut(Instant, TargetId) -> bool {
    let mut dice = Seed::new(seed).stream("loss");
    move |now, _| now >= at(5_000) && dice.below(100) < percent
}

/// How many of the targets go down in a minute, canaries apart, of a hundred.
fn downs(case: (usize, usize), world: impl Fn(u64) -> World) -> usize {
    let all = (0..SEEDS as u64).map(|seed| {
        let mut world = world(seed);
        world.run_until(at(65_000));
        world.downs().filter(|row| *row < case.0).count()
    });
    all.sum::<usize>() * 100 / (case.0 * SEEDS)
}

#[test]
fn lost_packets_take_hardly_anybody_down() {
    for case in CASES {
        for percent in [5, 10, 20, 30, 40, 50, 60] {
            let share = downs(case, |seed| world(case, seed, losing(percent, seed)));
            // By four failures in a row, and by their sum, it were nearly all.
            assert!(share <= 20, "{case:?}, {percent} %: {share} of a hundred");
        }
    }
}

#[test]
fn nor_does_a_network_that_comes_and_goes() {
    for case in CASES {
        for (dark, light) in [(200, 200), (300, 300), (400, 200), (300, 700), (1_000, 500)] {
            for what in [SILENT, NO_WAY] {
                let share = downs(case, |seed| {
                    let is_dark = move |now: Instant| {
                        now.since(at(5_000 + seed * 13)).as_millis() % (dark + light) < dark
                    };
                    failing(what, case, seed, move |now, _| now >= at(6_000) && is_dark(now))
                });
                assert!(share <= 10, "{case:?}, {dark} and {light} ms: {share} of a hundred");
            }
        }
    }
}

#[test]
fn who_is_down_is_found_all_the_same() {
    for case in CASES.into_iter().filter(|(count, canaries)| *canaries > 0 || *count > 3) {
        for percent in [10, 20, 30] {
            let mut all = Vec::new();
            for seed in 0..SEEDS as u64 {
                let fault = at(30_000 + seed * 37);
                let mut is_lost = losing(percent, seed);
                let is_dead = move |now, of| of == target(0) && now >= fault;
                let mut world =
                    world(case, seed, move |now, of| is_lost(now, of) || is_dead(now, of));
                world.run_until(fault);
                // By chance it can be down before.
                if world.monitor.table().get(target(0)).state == State::Up {
                    world.run_until(fault + Duration::from_secs(30));
                    let found = world.seen_after(fault, State::Down);
                    all.push(found.unwrap_or(Duration::MAX));
                }
            }
            all.sort();
            assert!(all.len() >= SEEDS - 3, "{case:?}, {percent} %");
            let (usual, longest) = (all[all.len() / 2], all[all.len() - 1]);
            let is_soon = usual <= Duration::from_secs(6) && longest <= Duration::from_secs(15);
            assert!(is_soon, "{case:?}, {percent} %: {usual:?}, {longest:?}");
        }
    }
}
