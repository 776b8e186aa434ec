//! Who waits for a failback, and who is kept.

use std::time::Duration;

use super::tests::{at, region, service, states, target, web};
use super::*;

/// Two services over three regions, one endpoint each, with these failbacks; service `s` in region
/// `r` is probed by target 3 · s + r.
fn two_services(failback: Failback) -> Vec<Service> {
    let one = |first: usize| {
        let mut of = service(&[&["10.0.0.1"], &["10.0.1.1"], &["10.0.2.1"]]);
        for (row, pool) in of.pools.iter_mut().enumerate() {
            pool.endpoints[0].probed = Some(Probed { targets: vec![target(first + row)], need: 1 });
        }
        Service { failback, ..of }
    };
    vec![one(0), one(3)]
}

fn id(row: usize) -> ServiceId {
    ServiceId::from_index(row).unwrap()
}

#[test]
fn a_region_that_was_out_waits_for_its_failback() {
    let services = two_services(Failback::After(Duration::from_secs(60)));
    let mut holds = Holds::default();
    let follow = |holds: &mut Holds, second, table: &str| {
        holds.follow(at(second), &services, [id(0), id(1)], (&states(table), InForce::NONE));
        holds.of(id(0), region(0), Family::V4)
    };
    assert_eq!(follow(&mut holds, 0, "uuuuuu"), None, "never out");
    assert_eq!(follow(&mut holds, 10, "duuuuu"), None, "down by itself");
    let held = Some(Hold::Back(Some(at(80))));
    assert_eq!(follow(&mut holds, 20, "uuuuuu"), held);
    assert_eq!(holds.next_change(), Some(at(80)));
    assert_eq!(follow(&mut holds, 79, "uuuuuu"), held);
    // It must be well all the time.
    assert_eq!(follow(&mut holds, 79, "duuuuu"), None);
    assert_eq!(follow(&mut holds, 100, "uuuuuu"), Some(Hold::Back(Some(at(160)))));
    assert_eq!(follow(&mut holds, 160, "uuuuuu"), None);
    assert_eq!(holds.next_change(), None);

    let health = states("uuuuuu");
    let held = {
        follow(&mut holds, 200, "duuuuu");
        follow(&mut holds, 201, "uuuuuu");
        Facts { holds: &holds, ..Facts::of(&health) }
    };
    let usable_of = |facts: &Facts<'_>| usable((id(0), &services[0]), Family::V4, facts, 0, None);
    assert_eq!(usable_of(&held).endpoints, vec![vec![], vec![0], vec![0]]);
    // Nothing else is up: it is not left waiting.
    let alone = states("udduuu");
    let usable = usable_of(&Facts { health: &alone, ..held });
    assert_eq!((usable.basis, usable.endpoints), (Basis::Held, vec![vec![0], vec![], vec![]]));
}

#[test]
fn a_region_that_leaves_a_service_waits_for_nothing_there() {
    let services = two_services(Failback::After(Duration::from_secs(60)));
    let mut holds = Holds::default();
    for (second, table) in [(0, "duuduu"), (1, "uuuuuu")] {
        holds.follow(at(second), &services, [id(0), id(1)], (&states(table), InForce::NONE));
    }
    let back = Some(Hold::Back(Some(at(61))));
    assert_eq!([0, 1].map(|row| holds.of(id(row), region(0), Family::V4)), [back; 2]);
    // The first service is in that region no longer; the second one stands before it now.
    let [mut first, second] = <[Service; 2]>::try_from(services).unwrap();
    first.pools.remove(0);
    let services = [second, first];
    holds.rekey(&services, Some, |of| Some(id(1 - of.index())));
    assert_eq!([0, 1].map(|row| holds.of(id(row), region(0), Family::V4)), [back, None]);
    assert_eq!(holds.moves().out, [(id(0), region(0), Family::V4)].into());
    holds.follow(at(61), &services, [id(0), id(1)], (&states("uuuuuu"), InForce::NONE));
    assert_eq!(holds.next_change(), None);
}

#[test]
fn a_manual_failback_waits_for_the_operator() {
    let services = two_services(Failback::Manual);
    let mut holds = Holds::default();
    for (second, table) in [(0, "uuuuuu"), (1, "duuuuu"), (2, "uuuuuu"), (9999, "uuuuuu")] {
        holds.follow(at(second), &services, [id(0), id(1)], (&states(table), InForce::NONE));
    }
    assert_eq!(holds.of(id(0), region(0), Family::V4), Some(Hold::Back(None)));
    assert!(!holds.release(id(1), region(0)), "that one does not wait");
    assert!(holds.release(id(0), region(0)));
    holds.follow(at(10_000), &services, [id(0), id(1)], (&states("uuuuuu"), InForce::NONE));
    assert_eq!(holds.of(id(0), region(0), Family::V4), None);
    // What an earlier process knew to be out waits too.
    let mut later = Holds::default();
    let mut moves = holds.moves();
    moves.out.insert((id(1), region(2), Family::V4));
    later.recall(at(0), moves);
    later.follow(at(0), &services, [id(0), id(1)], (&states("uuuuuu"), InForce::NONE));
    assert_eq!(later.of(id(1), region(2), Family::V4), Some(Hold::Back(None)));
}

/// A service over three regions, each with an IPv4 and an IPv6 address.
fn dual_stack(failback: Failback) -> Service {
    let regions: [&[&str]; 3] = [
        &["10.0.0.1", "2001:db8::1"],
        &["10.0.1.1", "2001:db8:1::1"],
        &["10.0.2.1", "2001:db8:2::1"],
    ];
    Service { failback, ..service(&regions) }
}

/// Where a client of each family goes that prefers the regions in their order.
fn regions_of(service: &Service, holds: &Holds, table: &str) -> [Vec<RegionId>; 2] {
    let (health, order) = (states(table), [0, 1, 2].map(region));
    let facts = Facts { holds, ..Facts::of(&health) };
    [Family::V4, Family::V6].map(|family| {
        let usable = usable((web(), service), family, &facts, 0, None);
        choose((web(), service), family, &usable, &order, &facts).regions
    })
}

#[test]
fn one_family_of_a_region_waits_for_its_failback() {
    let services = [dual_stack(Failback::Manual)];
    let mut holds = Holds::default();
    let mut follow = |second, table: &str| {
        holds.follow(at(second), &services, [web()], (&states(table), InForce::NONE));
        regions_of(&services[0], &holds, table)
    };
    let [us, eu] = [0, 1].map(|row| vec![region(row)]);
    assert_eq!(follow(0, "uuuuuu"), [us.clone(), us.clone()]);
    assert_eq!(follow(1, "duuuuu"), [eu.clone(), us.clone()]);
    assert_eq!(follow(9999, "uuuuuu"), [eu, us.clone()]);
    // The next process knows which family is out.
    let mut later = Holds::default();
    later.recall(at(0), holds.moves());
    later.follow(at(0), &services, [web()], (&states("uuuuuu"), InForce::NONE));
    assert_eq!(later.all().collect::<Vec<_>>(), [(web(), region(0), Hold::Back(None))]);
    assert_eq!(later.of(web(), region(0), Family::V6), None);
    assert!(holds.release(web(), region(0)));
    assert_eq!(regions_of(&services[0], &holds, "uuuuuu"), [us.clone(), us]);
    // A family that the region has no longer waits for nothing.
    let mut services = services;
    services[0].pools[0].endpoints.remove(0);
    later.rekey(&services, Some, Some);
    assert_eq!((later.all().count(), later.moves().out.len()), (0, 0));
}

#[test]
fn regions_of_which_one_family_leaves_are_counted() {
    let services = [dual_stack(Failback::After(Duration::ZERO))];
    let mut holds = Holds::default();
    let within = Duration::from_secs(300);
    holds.limit(Some(MaxMoves { regions: Some(1), percent: None, within }));
    let mut follow = |second, table: &str| {
        holds.follow(at(second), &services, [web()], (&states(table), InForce::NONE));
        (regions_of(&services[0], &holds, table), holds.all().collect::<Vec<_>>())
    };
    let [us, eu] = [0, 1].map(|row| vec![region(row)]);
    assert_eq!(follow(0, "uuuuuu"), ([us.clone(), us.clone()], vec![]));
    assert_eq!(follow(1, "duuuuu"), ([eu.clone(), us.clone()], vec![]));
    // The second one stays; the other family of the first may follow.
    let kept = vec![(web(), region(1), Hold::Kept)];
    assert_eq!(follow(2, "duduuu"), ([eu.clone(), us], kept.clone()));
    assert_eq!(follow(3, "ddduuu"), ([eu.clone(), eu.clone()], kept.clone()));
    // Both families of it are kept: one region.
    assert_eq!(follow(4, "dddduu"), ([eu.clone(), eu], kept));
}

#[test]
fn no_more_of_the_traffic_leaves_than_may() {
    let services = two_services(Failback::After(Duration::ZERO));
    let limit = MaxMoves { regions: None, percent: Some(50), within: Duration::from_secs(300) };
    let kept = |shares: [f64; 3], tables: [&str; 2]| {
        let mut holds = Holds::default();
        holds.limit(Some(limit));
        holds.measure((0..3).map(region).zip(shares).collect());
        for (second, table) in ["uuuuuu"].into_iter().chain(tables).enumerate() {
            let now = at(u64::try_from(second).unwrap());
            holds.follow(now, &services, [id(0), id(1)], (&states(table), InForce::NONE));
        }
        holds.all().filter(|(.., hold)| *hold == Hold::Kept).count()
    };
    // Regions 0 and 1 of the first service die, one after the other.
    assert_eq!(kept([0.2, 0.3, 0.5], ["duuuuu", "dduuuu"]), 0, "half of it leaves");
    assert_eq!(kept([0.2, 0.31, 0.49], ["duuuuu", "dduuuu"]), 1, "more would");
    assert_eq!(kept([0.9, 0.05, 0.05], ["duuuuu", "duuuuu"]), 0, "one may always leave");
    assert_eq!(kept([0.9, 0.05, 0.05], ["duuuuu", "dduuuu"]), 1);
}

/// Three regions of which two are down and one may leave, so that the second one is kept.
fn one_kept(services: &[Service], limit: MaxMoves) -> Holds {
    let mut holds = Holds::default();
    holds.limit(Some(limit));
    for (second, table, shares) in [
        (0, "uuuuuu", [0.3, 0.3, 0.4]),
        (1, "duuuuu", [0.3, 0.3, 0.4]),
        (2, "dduuuu", [0.0, 0.5, 0.5]),
    ] {
        holds.measure((0..3).map(region).zip(shares).collect());
        holds.follow(at(second), services, [id(0), id(1)], (&states(table), InForce::NONE));
    }
    assert_eq!(holds.of(id(0), region(1), Family::V4), Some(Hold::Kept));
    let (service, health) = ((id(0), &services[0]), states("dduuuu"));
    let facts = Facts { holds: &holds, ..Facts::of(&health) };
    assert!(is_well(service, region(1), &facts), "if it writes, it writes on");
    holds
}

const LIMITS: [(Option<usize>, Option<u32>); 2] = [(Some(1), None), (None, Some(50))];

fn limit((regions, percent): (Option<usize>, Option<u32>)) -> MaxMoves {
    MaxMoves { regions, percent, within: Duration::from_secs(300) }
}

#[test]
fn what_is_kept_stays_over_a_reload() {
    let services = two_services(Failback::After(Duration::ZERO));
    for limit in LIMITS.map(limit) {
        let mut holds = one_kept(&services, limit);
        // The regions change places: the second one comes first.
        let mut turned = services.clone();
        for pool in turned.iter_mut().flat_map(|of| &mut of.pools) {
            pool.region = region([1, 0, 2][pool.region.index()]);
        }
        holds.rekey(&turned, |of| Some(region([1, 0, 2][of.index()])), Some);
        let follow = |holds: &mut Holds, second| {
            holds.follow(at(second), &turned, [id(0), id(1)], (&states("dduuuu"), InForce::NONE));
            [1, 0].map(|row| holds.of(id(0), region(row), Family::V4))
        };
        assert_eq!(follow(&mut holds, 300), [None, Some(Hold::Kept)], "{limit:?}");
        assert_eq!(follow(&mut holds, 301), [None, None], "{limit:?}");
    }
}

#[test]
fn what_is_kept_stays_over_a_start_and_no_longer_than_it_would() {
    let services = two_services(Failback::After(Duration::ZERO));
    for limit in LIMITS.map(limit) {
        let before = one_kept(&services, limit).moves();
        // Soon, later, and by a clock that was far ahead of this one.
        for (start, ahead, until) in [(3, 0, 301), (100, 0, 301), (200, 9999, 500)] {
            let mut moves = before.clone();
            moves.left.iter_mut().for_each(|of| of.at = of.at + Duration::from_secs(ahead));
            let mut later = Holds::default();
            later.limit(Some(limit));
            later.recall(at(start), moves);
            let mut follow = |second, table: &str| {
                later.follow(
                    at(second),
                    &services,
                    [id(0), id(1)],
                    (&states(table), InForce::NONE),
                );
                (later.of(id(0), region(1), Family::V4), later.next_change())
            };
            let kept = (Some(Hold::Kept), Some(at(until)));
            // How much of the traffic anything has is not known yet.
            assert_eq!(follow(start, "dduuuu"), kept, "{limit:?}, {start}");
            assert_eq!(follow(until - 1, "dduuuu"), kept, "{limit:?}, {start}");
            assert_eq!(follow(until, "dduuuu"), (None, None), "{limit:?}, {start}");
        }
    }
}

#[test]
fn what_was_never_in_or_was_taken_out_leaves_nothing() {
    let services = two_services(Failback::After(Duration::ZERO));
    let drained: Overrides = [Override {
        scope: Scope::Pool(id(0), region(1)),
        word: Word::Drain,
        since: at(0),
        until: None,
        ramp: None,
        ahead: Duration::ZERO,
    }]
    .into_iter()
    .collect();
    let drained = drained.at(at(0));
    for limit in LIMITS.map(limit) {
        // Region 1 of the first service is down after these, and then region 0 dies.
        let kept = |tables: [&str; 2], words: &InForce| {
            let mut holds = Holds::default();
            holds.limit(Some(limit));
            holds.measure((0..3).map(region).zip([0.3, 0.4, 0.3]).collect());
            for (second, table) in (0..).zip(tables.into_iter().chain(["dduuuu"])) {
                holds.follow(at(second), &services, [id(0), id(1)], (&states(table), words));
            }
            holds.all().map(|(service, region, _)| (service, region)).collect::<Vec<_>>()
        };
        let left_first = vec![(id(0), region(0))];
        assert_eq!(kept(["uuuuuu", "uduuuu"], InForce::NONE), left_first, "{limit:?}");
        assert_eq!(kept(["uduuuu", "uduuuu"], InForce::NONE), [], "never in: {limit:?}");
        assert_eq!(kept(["u?uuuu", "uduuuu"], InForce::NONE), [], "never in: {limit:?}");
        assert_eq!(kept(["uuuuuu", "uduuuu"], &drained), [], "taken out: {limit:?}");
    }
}

#[test]
fn no_more_regions_leave_than_may() {
    let services = two_services(Failback::After(Duration::ZERO));
    let mut holds = Holds::default();
    holds.limit(Some(MaxMoves {
        regions: Some(1),
        percent: None,
        within: Duration::from_secs(300),
    }));
    let follow = |holds: &mut Holds, second, table: &str| {
        let table = states(table);
        holds.follow(at(second), &services, [id(0), id(1)], (&table, InForce::NONE));
        let facts = Facts { holds, ..Facts::of(&table) };
        let standing = |of: usize, row: usize| {
            facts.standing(id(of), region(row), &services[of].pools[row].endpoints[0], 0)
        };
        (standing(0, 0), standing(0, 1), standing(1, 0))
    };
    use Standing::{Down, Kept, Up};
    assert_eq!(follow(&mut holds, 0, "uuuuuu"), (Up, Up, Up));
    assert_eq!(follow(&mut holds, 1, "duuuuu"), (Down, Up, Up));
    // The same region of another service is no further move; another region is, and is kept.
    assert_eq!(follow(&mut holds, 2, "dduduu"), (Down, Kept, Down));
    assert_eq!(holds.of(id(0), region(1), Family::V4), Some(Hold::Kept));
    assert_eq!(holds.next_change(), Some(at(301)));
    // When the time has passed, it may go.
    assert_eq!(follow(&mut holds, 301, "dduduu"), (Down, Down, Down));
    // One that gets well while it is kept was never out.
    assert_eq!(follow(&mut holds, 302, "ddddud"), (Down, Down, Down));
    assert_eq!(holds.of(id(1), region(2), Family::V4), Some(Hold::Kept));
    follow(&mut holds, 303, "ddddud");
    follow(&mut holds, 304, "dddduu");
    assert_eq!(holds.of(id(1), region(2), Family::V4), None);
}
