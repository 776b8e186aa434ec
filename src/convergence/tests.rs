//! The model against what was published of it, against closed forms, and against dice.

use super::*;
use crate::ids::{RegionId, RegionSet, ServiceId};
use crate::rng::Seed;
use crate::time::{Instant, Ttl};

fn close(got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance, "{got} is not {expected} ± {tolerance}");
}

fn within(got: f64, expected: f64, share: f64) {
    close(got, expected, expected.abs() * share);
}

fn cache(every: f64) -> Layer {
    Layer::Cache { min: 0.0, max: f64::INFINITY, prefetch: 0.0, stale: 0.0, every }
}

fn held(seconds: f64) -> Layer {
    Layer::Hold { seconds, every: 0.0 }
}

fn chain(layers: &[Layer], ttl: f64) -> Lag {
    Class { name: String::new(), share: 1.0, layers: layers.to_vec() }.lag(ttl)
}

/// ∫ S·(1 − S) dt up to the horizon, in seconds: how much both regions are written to at once, for
/// one write a second.
fn overlap(lag: &Lag) -> f64 {
    (0..7200).map(f64::from).map(|at| lag.after(at + 0.5)).map(|left| left * (1.0 - left)).sum()
}

fn curve(lag: &Lag, points: &[(f64, f64)]) {
    for (at, expected) in points {
        close(lag.after(*at), *expected, 0.01);
    }
}

#[test]
fn shares_are_told_with_the_digits_that_they_need() {
    let told = [1.0, 0.123_45, 0.000_999, 0.000_4, 0.000_05, 0.000_001, 0.0].map(percent);
    assert_eq!(told, ["100.0 %", "12.3 %", "0.1 %", "0.04 %", "0.005 %", "0.0 %", "0.0 %"]);
    let said = [1.0, 0.125, 0.01, 0.0004, 0.000_012_3].map(percent_said);
    assert_eq!(said, ["100 %", "12.5 %", "1 %", "0.04 %", "0.00123 %"]);
}

#[test]
fn a_cache_that_follows_the_ttl() {
    // How many lookups find the answer: λT/(1 + λT), which is who has it at the change.
    close(cache(1.0).lag(1.0).after(0.0), 0.500, 0.01);
    close(cache(1.0).lag(12.0).after(0.0), 0.923, 0.01);
    curve(&cache(60.0).lag(60.0), &[(15.0, 0.375), (30.0, 0.25), (45.0, 0.125)]);
    curve(&cache(5.0).lag(60.0), &[(0.0, 0.923), (15.0, 0.692), (30.0, 0.462), (45.0, 0.231)]);
    within(Layer::HONEST.lag(30.0).mean(), 15.0, 0.01);
    within(overlap(&Layer::HONEST.lag(30.0)), 5.0, 0.02);
}

#[test]
fn a_cache_with_limits() {
    let limited = Layer::Cache { min: 60.0, max: 300.0, prefetch: 0.0, stale: 0.0, every: 0.0 };
    assert_eq!(limited.lag(5.0), Layer::HONEST.lag(60.0));
    assert_eq!(limited.lag(3600.0), Layer::HONEST.lag(300.0));
    let early =
        Layer::Cache { min: 0.0, max: f64::INFINITY, prefetch: 0.1, stale: 0.0, every: 0.0 };
    assert_eq!(early.lag(30.0), Layer::HONEST.lag(27.0));
    assert_eq!(Layer::HONEST.lag(0.0), Lag::none());
}

#[test]
fn a_cache_that_gives_what_it_has_first() {
    let lag = Layer::StaleFirst { every: 60.0, limit: 86_400.0 }.lag(60.0);
    curve(&lag, &[(30.0, 0.75), (60.0, 0.50), (90.0, 0.303), (180.0, 0.068)]);
    // (T² + 2T/λ + 2/λ²) / (2(T + 1/λ))
    within(lag.mean(), (3600.0 + 7200.0 + 7200.0) / 240.0, 0.001);
    let busy = Layer::StaleFirst { every: 0.0, limit: 86_400.0 };
    assert_eq!(busy.lag(60.0), Layer::HONEST.lag(60.0));
    // What has expired is gone after `limit`, wherever the cycle began.
    let short = Layer::StaleFirst { every: 600.0, limit: 60.0 }.lag(30.0);
    curve(&short, &[(0.0, 0.1382), (15.0, 0.1144), (30.0, 0.0906), (60.0, 0.0442), (90.0, 0.0)]);
    let area: f64 = (0..360).map(|row| short.after((f64::from(row) + 0.5) / 4.0) / 4.0).sum();
    within(short.mean(), area, 0.001);
    let none = Layer::StaleFirst { every: 60.0, limit: 0.0 }.lag(60.0);
    curve(&none, &[(0.0, 0.5), (15.0, 0.375), (30.0, 0.25), (60.0, 0.0)]);
}

#[test]
fn a_ramp_lags_in_steps() {
    let ramp = Lag::steps((0..10).map(|row| (0.1, f64::from(row) * 30.0)));
    curve(&ramp, &[(1.0, 0.9), (29.0, 0.9), (31.0, 0.8), (269.0, 0.1), (271.0, 0.0)]);
    let lag = ramp.plus(&Layer::HONEST.lag(30.0));
    within(lag.mean(), 150.0, 1e-9);
    curve(&lag, &[(15.0, 0.95), (30.0, 0.9), (285.0, 0.05), (301.0, 0.0)]);
    close(lag.until(0.5).unwrap(), 150.0, 1.0);
}

#[test]
fn layers_that_begin_to_count_anew() {
    let lag = chain(&[Layer::HONEST, held(60.0)], 30.0);
    let points = [(20.0, 0.889), (30.0, 0.75), (45.0, 0.50), (60.0, 0.25), (75.0, 0.0625)];
    curve(&lag, &points);
    close(lag.after(90.0), 0.0, 1e-9);
    within(lag.mean(), 45.0, 0.01);
    within(overlap(&lag), 11.12, 0.02);
    close(chain(&[Layer::HONEST, held(60.0)], 20.0).after(60.0), 1.0 / 6.0, 0.01);
}

#[test]
fn connections_that_are_kept_open() {
    for (every, idle, mean, fall) in [(30.0, 60.0, 131.7, 0.0068), (10.0, 30.0, 160.9, 0.00595)] {
        let lag = Layer::Connection { every, idle }.lag(30.0);
        within(lag.mean(), mean, 0.03);
        within((lag.after(1000.0) / lag.after(1400.0)).ln() / 400.0, fall, 0.03);
        // The mean is a closed form, the curve an equation that is followed: they must agree.
        let area: f64 = (0..7200).map(|at| lag.after(f64::from(at))).sum();
        within(area, mean, 0.03);
    }
    assert_eq!(Layer::Connection { every: 0.0, idle: 60.0 }.lag(30.0), Lag::endless());
    assert_eq!(Layer::Connection { every: 30.0, idle: 0.0 }.lag(30.0), Lag::none());
}

/// A time as a configuration can give it: whole milliseconds up to a week, the ends more often.
fn configured() -> impl proptest::strategy::Strategy<Value = f64> {
    use proptest::strategy::Strategy;
    let week = 7 * 86_400_000_u32;
    let spans =
        proptest::prop_oneof![0..3_u32, 0..120_000_u32, 0..=week, proptest::strategy::Just(week)];
    spans.prop_map(|milliseconds| f64::from(milliseconds) / 1000.0)
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]
    /// Whatever is configured, the lag is known within bounded time and memory.
    #[test]
    fn every_layer_has_a_lag(
        ttl in 1..=604_800_u32, every in configured(), span in configured(), limit in configured(),
        prefetch in 0.0..=1.0_f64,
    ) {
        let layers = [
            Layer::Cache { min: limit, max: span, prefetch, stale: 0.0, every },
            Layer::StaleFirst { every, limit },
            Layer::Hold { seconds: span, every },
            Layer::Connection { every, idle: span },
            Layer::Pinned,
        ];
        for layer in layers {
            let lag = layer.lag(f64::from(ttl));
            proptest::prop_assert!(lag.mean() >= 0.0, "{layer:?}: {}", lag.mean());
            let share = lag.after(span);
            proptest::prop_assert!((-1e-9..=1.0 + 1e-9).contains(&share), "{layer:?}: {share}");
        }
    }
}

#[test]
fn whoever_is_pinned_never_moves() {
    let lag = chain(&[Layer::HONEST, Layer::Pinned], 30.0);
    assert_eq!((lag.never(), lag.after(7000.0), lag.until(0.5)), (1.0, 1.0, None));
    let some = Lag::mixed([(0.9, &Layer::HONEST.lag(30.0)), (0.1, &lag)]);
    close(some.after(100.0), 0.1, 1e-9);
    assert_eq!(some.until(0.05), None);
    close(some.until(0.1).unwrap(), 30.0, 0.01);
    assert!(some.mean().is_infinite());
}

#[test]
fn the_measurement_of_2014() {
    let lag = |ttl| Preset::named("flavel2014").unwrap().population().lag(ttl);
    close(lag(20.0).after(60.0), 0.100, 0.01);
    close(lag(20.0).after(900.0), 0.0202, 0.003);
    // The same population at other TTLs: S at five moments, four quantiles, mean, overlap.
    #[rustfmt::skip]
    let table = [
        (5.0, [0.239, 0.054, 0.037, 0.0334, 0.0201], [4.0, 53.0, 61.0, 1352.0], 49.5, 42.8),
        (20.0, [0.285, 0.100, 0.038, 0.0336, 0.0202], [16.0, 60.0, 71.0, 1360.0], 57.0, 43.9),
        (30.0, [0.316, 0.131, 0.038, 0.0337, 0.0203], [23.0, 66.0, 79.0, 1365.0], 62.0, 44.7),
        (60.0, [0.658, 0.223, 0.038, 0.0340, 0.0207], [42.0, 85.0, 105.0, 1380.0], 77.0, 47.6),
        (300.0, [0.932, 0.845, 0.652, 0.0735, 0.0233], [167.0, 292.0, 323.0, 1500.0], 197.0, 81.8),
    ];
    for (ttl, shares, until, mean, both) in table {
        let lag = lag(ttl);
        for (at, share) in [30.0, 60.0, 120.0, 300.0, 900.0].into_iter().zip(shares) {
            close(lag.after(at), share, 0.005);
        }
        for (share, at) in [0.5, 0.1, 0.05, 0.01].into_iter().zip(until) {
            close(lag.until(share).unwrap(), at, 1.0 + at * 0.01);
        }
        within(lag.mean(), mean, 0.01);
        within(overlap(&lag), both, 0.02);
    }
}

#[test]
fn the_table_that_operators_read_is_what_the_model_says() {
    let page = include_str!("../../docs/CONVERGENCE.md");
    let population = Preset::named("flavel2014").unwrap().population();
    for ttl in [5.0, 20.0, 30.0, 60.0, 300.0] {
        let lag = population.lag(ttl);
        let after = [30.0, 60.0, 300.0].map(|at| percent(lag.after(at))).join(" | ");
        let left = [0.1, 0.01].map(|share| format!("{:.0} s", lag.until(share).unwrap()));
        let (left, mean, queries) = (left.join(" | "), lag.mean(), 60.0 / ttl);
        let row = format!("| {ttl} | {after} | {left} | {mean:.1} | {queries:.1} |");
        assert!(page.contains(&row), "the page lacks {row}");
    }
}

#[test]
fn what_ends_beyond_the_horizon_ends() {
    const HOUR: f64 = 3600.0;
    let long = held(3.0 * HOUR).lag(30.0);
    close(long.after(HOUR), 2.0 / 3.0, 0.01);
    // Past two hours what is left there is told, until it is over.
    close(long.after(2.5 * HOUR), 1.0 / 3.0, 0.01);
    assert_eq!((long.after(4.0 * HOUR), long.until(0.01)), (0.0, Some(3.0 * HOUR)));
    let honest = Layer::HONEST.lag(4.0 * HOUR);
    assert_eq!((honest.after(4.0 * HOUR), honest.until(0.01)), (0.0, Some(4.0 * HOUR)));
    let both = chain(&[Layer::HONEST, held(3.0 * HOUR)], 4.0 * HOUR);
    assert!(both.after(7.0 * HOUR - 1.0) > 0.01);
    assert_eq!((both.after(7.0 * HOUR), both.until(0.01)), (0.0, Some(7.0 * HOUR)));
    let some = Lag::mixed([(0.98, &both), (0.02, &Lag::endless())]);
    close(some.after(7.0 * HOUR), 0.02, 1e-9);
    assert_eq!((some.until(0.03), some.until(0.01)), (Some(7.0 * HOUR), None));
    within(some.area(8.0 * HOUR) - some.area(7.0 * HOUR), 0.02 * HOUR, 1e-6);
}

#[test]
fn nodes_that_do_not_agree() {
    let lag = Layer::HONEST.lag(30.0);
    let parting = Parting { share: 0.3, seconds: 120.0 };
    #[rustfmt::skip]
    let points =
        [(10.0, 0.767), (30.0, 0.3), (60.0, 0.3), (130.0, 0.2), (145.0, 0.05), (151.0, 0.0)];
    for (at, expected) in points {
        close(parting.after(&lag, at), expected, 0.01);
    }
    within(parting.flips(30.0, 0.0), 1.26, 0.03);
    within(parting.stale(&lag), 51.0, 0.01);
    let area: f64 = (0..2000).map(|row| parting.after(&lag, f64::from(row) / 10.0) / 10.0).sum();
    within(area, 51.0, 0.01);
    close(parting.until(&lag, 0.01).unwrap(), 149.0, 0.1);
    close(parting.until(&lag, 0.5).unwrap(), 21.43, 0.1);
    close(Parting::default().until(&lag, 0.5).unwrap(), 15.0, 0.01);
}

fn writes(shared: Popularity) -> Writes {
    Writes { rate: 200.0, delay: 0.8, shared, private: 0.0, each: 0.0 }
}

const KEYS: usize = 100_000;

#[test]
fn writes_that_meet_on_the_way() {
    let zipf = |exponent| Popularity::Zipf { keys: KEYS, exponent };
    #[rustfmt::skip]
    let table = [
        (Popularity::Uniform { keys: KEYS }, (3.2, 6.4), (7.1, 14.2), (339.0, 346.0), 0.124),
        (zipf(0.8), (352.0, 367.0), (783.0, 830.0), (798.0, 1987.0), 0.264),
        (zipf(0.99), (3261.0, 1399.0), (7256.0, 3296.0), (696.0, 3422.0), 0.353),
    ];
    for (keys, short, long, parted, lost) in table {
        let writes = writes(keys);
        for (expected, layers) in [(short, &[][..]), (long, &[held(60.0)])] {
            let met = writes.converging(
                &chain(&[&[Layer::HONEST], layers].concat(), 30.0),
                1.0,
                f64::INFINITY,
            );
            within(met.pairs, expected.0, 0.03);
            within(met.writes, expected.1, 0.03);
        }
        let minute = writes.parted(6000.0, 6000.0);
        within(minute.keys, parted.0, 0.03);
        within(minute.every, parted.1, 0.03);
        within(writes.parted(30_000.0, 30_000.0).every / 60_000.0, lost, 0.03);
    }
}

#[test]
fn conflicts_grow_with_the_square_while_they_are_rare() {
    let keys = Popularity::Uniform { keys: 10_000_000 };
    let lost = |seconds: f64, rate: f64| {
        let half = seconds * rate / 2.0;
        writes(keys).parted(half, half).keys
    };
    within(lost(120.0, 20.0) / lost(60.0, 20.0), 4.0, 0.05);
    within(lost(60.0, 40.0) / lost(60.0, 20.0), 4.0, 0.05);
}

#[test]
fn private_keys_meet_only_their_own_move() {
    let shared = Popularity::Uniform { keys: 10 };
    let alone = Writes { private: 1.0, each: 0.1, ..writes(shared) };
    let met = alone.converging(&Layer::HONEST.lag(30.0), 1.0, f64::INFINITY);
    within(met.pairs, 2000.0 * (1.0 - (-0.08_f64).exp()), 1e-6);
    // Half of them have moved by then.
    let half = alone.converging(&Layer::HONEST.lag(30.0), 1.0, 15.0);
    within(half.pairs, met.pairs / 2.0, 1e-6);
    assert_eq!(alone.parted(6000.0, 6000.0), Parted::default());
}

#[test]
fn clocks_that_differ() {
    // One key, to which each side writes once a second.
    let one = Writes { rate: 2.0, ..writes(Popularity::Uniform { keys: 1 }) };
    let halves = [0.5, 0.5];
    within(one.dropped(&halves, &[2.0, 0.0]), (-0.8_f64).exp() - (-2.0_f64).exp(), 1e-9);
    // Less than the way takes makes nothing late.
    assert_eq!(one.dropped(&halves, &[0.5, 0.0]), 0.0);
    assert_eq!(one.dropped(&halves, &[2.0, 2.0]), 0.0);
}

#[test]
fn what_each_policy_costs() {
    let handover = Handover {
        lag: Layer::HONEST.lag(30.0),
        writes: writes(Popularity::Zipf { keys: KEYS, exponent: 0.8 }),
        moving: 1.0,
        parted: 60.0,
        stays: 0.5,
        until: 7200.0,
        named: 0.0,
    };
    let cost = |policy| handover.cost(policy);
    let by_hybrid = cost(Policy::LastWriter);
    assert!(by_hybrid.conflicts > 1987.0 + 367.0);
    within(by_hybrid.lost, 1987.0 + 230.0, 0.03);
    let merged = cost(Policy::Merge);
    assert_eq!((merged.conflicts, merged.lost), (by_hybrid.conflicts, 0.0));
    let lease = cost(Policy::Lease { length: 10.0, drift: 0.01, margin: 1.0 });
    // A minute's cut is longer than the lease.
    assert_eq!(lease.conflicts, 0.0);
    // For as long as the old one is remembered, too.
    within(lease.lost, 200.0 * (10.0 + 15.0), 1e-6);
    within(lease.refused, 200.0 * 11.1, 1e-9);
    let home = cost(Policy::Home { fence: 3.0 });
    within(home.lost, 200.0 * 3.0 * 0.95, 0.001);
    within(home.lost + home.refused, 200.0 * 15.0, 0.001);
    assert_eq!(cost(Policy::Majority), Cost { refused: 6000.0, ..Cost::default() });
    // When half have moved, half of what meets has met.
    let whole = Handover { parted: 0.0, ..handover.clone() };
    let half = Handover { until: 15.0, ..whole.clone() };
    let [half, whole] = [half, whole].map(|of| of.cost(Policy::Merge).conflicts);
    within(half, whole / 2.0, 0.02);
    // Who is told the old region before it has left all answers is not astray.
    let slow = Handover { named: 15.0, until: 60.0, ..handover };
    let home = slow.cost(Policy::Home { fence: 0.0 });
    within(home.refused, 200.0 * 15.0 / 4.0, 0.001);
}

/// One request's lag by dice: when it comes, what its caches hold was fetched so long ago.
fn rolled(dice: &mut crate::rng::Stream, ttl: f64, every: f64, hold: f64) -> f64 {
    let cycle = ttl + every;
    let place = dice.unit() * cycle;
    let of_resolver = if place < ttl { place } else { 0.0 };
    of_resolver + dice.unit() * hold
}

#[test]
fn the_curve_is_what_dice_show() {
    let mut dice = Seed::new(7).stream("lags");
    for (ttl, every, hold) in [(30.0, 0.0, 60.0), (20.0, 10.0, 30.0), (5.0, 60.0, 0.0)] {
        let lag = chain(&[cache(every), held(hold)], ttl);
        let count = 100_000;
        let lags: Vec<f64> = (0..count).map(|_| rolled(&mut dice, ttl, every, hold)).collect();
        for at in [0.0, 4.0, 10.0, 25.0, 50.0, 80.0] {
            let over = lags.iter().filter(|lag| **lag > at).count();
            close(lag.after(at), over as f64 / f64::from(count), 0.01);
        }
    }
}

proptest::proptest! {
    /// Whatever the chain, the curve falls from one to what never moves, and its quantiles are its
    /// inverse.
    #[test]
    fn a_curve_falls(
        ttl in 0.0..600.0_f64, every in 0.0..300.0_f64, hold in 0.0..900.0_f64,
        pinned in 0.0..1.0_f64, share in 0.0..1.0_f64,
    ) {
        let moving = chain(&[cache(every), held(hold)], ttl);
        let lag = Lag::mixed([(1.0 - pinned, &moving), (pinned, &Lag::endless())]);
        let curve: Vec<f64> = (0..300).map(|row| lag.after(f64::from(row * 7))).collect();
        proptest::prop_assert!(curve.windows(2).all(|two| two[1] <= two[0] + 1e-9));
        proptest::prop_assert!(curve.iter().all(|share| (-1e-9..=1.0 + 1e-9).contains(share)));
        proptest::prop_assert!((lag.after(1e6) - pinned).abs() < 1e-6);
        match lag.until(share) {
            Some(at) => proptest::prop_assert!(lag.after(at) <= share + 1e-6),
            None => proptest::prop_assert!(share < pinned),
        }
    }
}

#[test]
fn a_page_counts_what_is_not_forgotten() {
    let (page, rows) = page(&[30, 3600]);
    let [short, long] = [rows[0], rows[1]];
    assert_eq!(page.remaining(short, 0), Remaining::default());
    for now in 1000..1010 {
        page.add(short, now + 30, 2);
        page.add(long, now + 3600, 1);
    }
    assert_eq!(page.remaining(short, 1010), Remaining { answers: 20, until: 1040 });
    assert_eq!(page.remaining(short, 1035), Remaining { answers: 10, until: 1040 });
    assert_eq!(page.remaining(short, 1040), Remaining::default());
    // Wider buckets are late by at most their width, and never early.
    let wide = page.remaining(long, 1010);
    assert_eq!(wide.answers, 10);
    assert!((4610..=4670).contains(&wide.until), "{}", wide.until);
}

/// A page with the rows of services in one region that have these TTLs, in seconds.
fn page(ttls: &[u32]) -> (Page, Vec<Row>) {
    let one = RegionSet::EMPTY.with(RegionId::from_index(3).unwrap());
    let rows = Rows::new(ttls.iter().map(|ttl| (one, width(Ttl::from_secs(*ttl)))));
    (Page::new(rows.count()), rows.iter().map(|(.., row)| row).collect())
}

#[test]
fn each_region_of_each_service_has_a_row_of_its_own() {
    let region = |index| RegionId::from_index(index).unwrap();
    let sets = [vec![0, 5, 63], vec![], vec![5]].map(|of| of.into_iter().map(region).collect());
    let rows = Rows::new(sets.map(|regions| (regions, width(Ttl::from_secs(30)))));
    let all: Vec<(usize, RegionId)> = rows.iter().map(|(of, in_, _)| (of.index(), in_)).collect();
    assert_eq!(all, [(0, region(0)), (0, region(5)), (0, region(63)), (2, region(5))]);
    let numbers: Vec<usize> = rows.iter().map(|(.., row)| row.index()).collect();
    assert_eq!((numbers, rows.count()), (vec![0, 1, 2, 3], 4));
    for service in (0..4).filter_map(ServiceId::from_index) {
        let is_there = all.contains(&(service.index(), region(5)));
        assert_eq!(rows.find(service, region(5)).is_some(), is_there);
        assert_eq!(rows.find(service, region(6)), None);
    }
}

proptest::proptest! {
    /// Whatever is given, by whatever TTLs up to the row's, a page knows each answer for as long
    /// as it may be remembered.
    #[test]
    fn a_page_forgets_nothing_too_early(
        longest in 0..10_000_u32,
        given in proptest::collection::vec((0..20_000_u64, 0..10_000_u32), 1..200),
    ) {
        let (page, rows) = page(&[longest]);
        let mut given: Vec<(u64, u64)> =
            given.into_iter().map(|(at, ttl)| (at, at + u64::from(ttl.min(longest)))).collect();
        given.sort_unstable();
        for row in 0..given.len() {
            let (now, ends) = given[row];
            // Whether others may write there too makes no difference to what is counted.
            let add = if ends % 2 == 0 { Page::add } else { Page::add_alone };
            add(&page, rows[0], ends, 1);
            let alive = given[..=row].iter().filter(|(_, ends)| *ends > now).count() as u64;
            let remaining = page.remaining(rows[0], now);
            proptest::prop_assert!(remaining.answers >= alive);
            let last = given[..=row].iter().map(|(_, ends)| *ends).max().unwrap();
            proptest::prop_assert!(last <= now || remaining.until >= last);
        }
    }
}

#[test]
fn who_asks_rarely_is_watched_as_often_as_who_asks_often() {
    let returns = Returns::default();
    let mut dice = Seed::new(5).stream("who");
    // Six questions for each place that there is.
    let mut hashes = || (0..3 * 2048).map(|_| dice.below(u64::MAX)).collect::<Vec<u64>>();
    let (often, rarely) = (hashes(), hashes());
    for second in (3..3600).step_by(3) {
        let now = Instant::from_nanos(second * 1_000_000_000);
        let rare = rarely.iter().filter(|_| second % 60 == 0);
        often.iter().chain(rare).for_each(|who| returns.answered(now, *who, Ttl::from_secs(3)));
    }
    let seen = returns.seen();
    // Bucket 40 begins at 8 s.
    let (short, long) = seen[0].seconds.split_at(40);
    let [short, long] = [short, long].map(|part| part.iter().sum::<f64>());
    close(short / (short + long), 0.5, 0.05);
}
