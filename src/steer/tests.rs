//! The decisions, as tables.

use std::time::Duration;

use super::*;
use crate::health::{Failure, Monitor, Outcome, Report, Schedule};
use crate::rng::Seed;
use crate::time::Instant;

/// A table in which the targets are in these states: `u`p, `d`own, `s`uspected, `?` unknown.
fn health(states: &str) -> HealthTable {
    let mut monitor = Monitor::new(Seed::new(1));
    let mut now = Instant::from_nanos(0);
    for (row, _) in states.chars().enumerate() {
        monitor.watch(now, target(row), Schedule::default());
    }
    for _ in 0..20 {
        now = now + Duration::from_secs(1);
        monitor.handle_timeout(now);
        let mut orders = Vec::new();
        while let Some(order) = monitor.poll_probe() {
            orders.push(order.target);
        }
        for (row, state) in states.chars().enumerate() {
            let outcome = match state {
                'u' | 's' => Outcome::Success,
                'd' => Outcome::Failure(Failure::Refused),
                _ => continue,
            };
            if orders.contains(&target(row)) {
                let report = Report { outcome, latency: Duration::from_millis(1) };
                monitor.handle_probe(now, target(row), report);
            }
        }
    }
    for (row, _) in states.chars().enumerate().filter(|(_, state)| *state == 's') {
        while !monitor.table().get(target(row)).suspected {
            now = now + Duration::from_secs(1);
            monitor.handle_timeout(now);
            while monitor.poll_probe().is_some() {}
            let outcome = Outcome::Failure(Failure::Refused);
            let report = Report { outcome, latency: Duration::from_millis(1) };
            monitor.handle_probe(now, target(row), report);
        }
    }
    monitor.table().clone()
}

fn target(row: usize) -> TargetId {
    TargetId::from_index(row).unwrap()
}

fn web() -> ServiceId {
    ServiceId::from_index(0).unwrap()
}

fn region(row: usize) -> RegionId {
    RegionId::from_index(row).unwrap()
}

/// A service with these pools; each endpoint is written as its IPv4 or IPv6 address, and is
/// probed by the target with the number of its place in the list.
fn service(pools: &[&[&str]]) -> Service {
    let mut next = 0;
    let pools = pools.iter().enumerate().map(|(row, addresses)| Pool {
        region: region(row),
        weight: 1,
        endpoints: addresses
            .iter()
            .map(|address| {
                next += 1;
                let address = Address::Ip(address.parse().unwrap());
                let targets = vec![target(next - 1)];
                Endpoint { address, probed: Some(Probed { targets, need: 1 }) }
            })
            .collect(),
    });
    Service {
        name: "web".into(),
        names: Vec::new(),
        policy: Policy::Nearest,
        pools: pools.collect(),
        min_up: MinUp::Number(1),
        answers: None,
        on_all_down: OnAllDown::AsIfUp,
        ttl: Ttl::from_secs(30),
        suspect_ttl: Ttl::from_secs(5),
        ecs: true,
        catchment: 0,
    }
}

fn chosen(service: &Service, order: &[usize], health: &HealthTable) -> String {
    let facts = Facts::of(health);
    let usable = usable((web(), service), Family::V4, &facts, 0, None);
    let order: Vec<RegionId> = order.iter().map(|row| region(*row)).collect();
    let choice = choose(service, Family::V4, &usable, &order, &facts);
    let addresses: Vec<String> = choice.addresses.iter().map(Address::to_string).collect();
    format!("{} {}", addresses.join(","), choice.ttl)
}

const THREE: [&[&str]; 3] = [&["10.0.0.1", "10.0.0.2"], &["10.0.1.1"], &["10.0.2.1"]];

#[test]
fn the_first_region_with_something_up_answers() {
    let service = service(&THREE);
    for (states, expected) in [
        ("uuuu", "10.0.0.1,10.0.0.2 30s"),
        ("duuu", "10.0.0.2 30s"),
        ("dduu", "10.0.1.1 30s"),
        ("dddu", "10.0.2.1 30s"),
        // A suspected endpoint still answers, for a shorter time.
        ("suuu", "10.0.0.1,10.0.0.2 5s"),
        ("ddsu", "10.0.1.1 5s"),
        // A suspicion elsewhere is nobody's business.
        ("uuus", "10.0.0.1,10.0.0.2 30s"),
        // No verdict is not "up" as long as something is.
        ("??uu", "10.0.1.1 30s"),
        // And it is not "down" either.
        ("????", "10.0.0.1,10.0.0.2 5s"),
        ("dd?d", "10.0.1.1 5s"),
        // All down: the same order as if all were up.
        ("dddd", "10.0.0.1,10.0.0.2 5s"),
    ] {
        assert_eq!(chosen(&service, &[0, 1, 2], &health(states)), expected, "{states}");
    }
}

#[test]
fn a_limit_takes_the_best_over_the_regions() {
    let mut service = service(&THREE);
    service.answers = NonZeroU8::new(3);
    for (states, expected) in [
        ("uuuu", "10.0.1.1,10.0.0.1,10.0.0.2 30s"),
        ("uudu", "10.0.0.1,10.0.0.2,10.0.2.1 30s"),
        ("dddu", "10.0.2.1 30s"),
    ] {
        assert_eq!(chosen(&service, &[1, 0, 2], &health(states)), expected, "{states}");
    }
    service.answers = NonZeroU8::new(1);
    assert_eq!(chosen(&service, &[0, 1, 2], &health("uuuu")), "10.0.0.1 30s");
}

#[test]
fn all_down_is_answered_as_the_service_says() {
    let mut service = service(&THREE);
    let down = health("dddd");
    let usable_under = |service: &Service, health: &HealthTable, last_good: Option<&Usable>| {
        usable((web(), service), Family::V4, &Facts::of(health), 0, last_good)
    };
    service.on_all_down = OnAllDown::LastGood;
    let last_good = usable_under(&service, &health("dudd"), None);
    let usable = usable_under(&service, &down, Some(&last_good));
    assert_eq!(usable.basis, Basis::LastGood);
    assert_eq!(usable.endpoints, vec![vec![1], vec![], vec![]]);
    // Never up since the start: nothing is better than as if all were up.
    assert_eq!(usable_under(&service, &down, None).regions(&service).len(), 3);

    service.on_all_down = OnAllDown::Fixed(vec![Address::Ip("192.0.2.99".parse().unwrap())]);
    assert_eq!(chosen(&service, &[0, 1, 2], &down), "192.0.2.99 5s");
    service.on_all_down = OnAllDown::NoData;
    assert_eq!(usable_under(&service, &down, None).basis, Basis::NoData);
    service.on_all_down = OnAllDown::ServFail;
    assert_eq!(usable_under(&service, &down, None).basis, Basis::ServFail);
    // While one is up, none of that counts.
    assert_eq!(chosen(&service, &[0, 1, 2], &health("dddu")), "10.0.2.1 30s");
}

#[test]
fn each_family_is_steered_for_itself() {
    let service = service(&[&["10.0.0.1", "2001:db8::1"], &["10.0.1.1", "2001:db8:1::1"]]);
    let health = health("uduu");
    let order = [region(0), region(1)];
    let of = |family| {
        let facts = Facts::of(&health);
        let usable = usable((web(), &service), family, &facts, 0, None);
        choose(&service, family, &usable, &order, &facts).regions
    };
    assert_eq!(of(Family::V4), [region(0)]);
    assert_eq!(of(Family::V6), [region(1)]);
}

#[test]
fn an_endpoint_without_a_check_is_up() {
    let mut service = service(&[&["10.0.0.1"], &["10.0.1.1"]]);
    service.pools[1].endpoints[0].probed = None;
    assert_eq!(chosen(&service, &[0, 1], &health("d?")), "10.0.1.1 30s");
}
