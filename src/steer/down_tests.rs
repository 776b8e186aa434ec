//! What is answered when all is down, and operators have said something of it.

use super::tests::{health, region, service, web};
use super::*;

#[test]
fn who_was_last_up_and_was_taken_out_by_an_operator_goes_last() {
    let mut service = service(&[&["10.0.0.1", "10.0.0.2"], &["10.0.1.1"], &["10.0.2.1"]]);
    service.on_all_down = OnAllDown::LastGood;
    let [eu, asia] = [1, 2].map(|row| Scope::Region(region(row)));
    let one = Scope::Address("10.0.0.1".parse().unwrap());
    let all = [Scope::Region(region(0)), eu, asia];
    let (us, everything) = ([vec![0, 1], vec![], vec![]], [vec![0, 1], vec![0], vec![0]]);
    let (eu_alone, others) = ([vec![], vec![0], vec![]], [vec![0, 1], vec![], vec![0]]);
    let (rest_of_us, down) = ([vec![1], vec![], vec![]], health("dddd"));
    for (last_up, words, expected) in [
        ("uudd", &[][..], &us),
        ("dduu", &[asia], &eu_alone),
        ("uudd", &[one], &rest_of_us),
        // None of them is left: those of whom nobody said anything, or else all.
        ("ddud", &[eu], &others),
        ("ddud", &all, &everything),
    ] {
        for word in [Word::Down, Word::Drain] {
            let said = |scope: &Scope| Override {
                scope: *scope,
                word,
                since: Instant::default(),
                until: None,
                ramp: None,
                ahead: std::time::Duration::ZERO,
            };
            let of = |health: &HealthTable, words: &[Scope], last_good: Option<&Usable>| {
                let overrides = words.iter().map(said).collect::<Overrides>();
                let overrides = overrides.at(Instant::default());
                let facts = Facts { overrides: &overrides, ..Facts::of(health) };
                usable((web(), &service), Family::V4, &facts, 0, last_good)
            };
            let last_good = of(&health(last_up), &[], None);
            let usable = of(&down, words, Some(&last_good));
            assert_eq!(usable.basis, Basis::LastGood);
            assert_eq!(usable.endpoints, expected, "{last_up} {words:?} {word}");
        }
    }
}

#[test]
fn of_a_region_that_is_kept_who_is_up_is_answered_first() {
    let mut service = service(&[&["10.0.0.1", "10.0.0.2"], &["10.0.1.1", "10.0.1.2", "10.0.1.3"]]);
    service.min_up = MinUp::Number(2);
    let within = std::time::Duration::from_secs(300);
    let mut holds = Holds::default();
    holds.limit(Some(MaxMoves { regions: Some(1), percent: None, within }));
    for (states, expected) in [
        ("uuuuu", [vec![0, 1], vec![0, 1, 2]]),
        ("duuuu", [vec![], vec![0, 1, 2]]),
        ("duddu", [vec![], vec![2]]),
        ("udddd", [vec![], vec![0, 1, 2]]),
        ("uuddu", [vec![0, 1], vec![2]]),
    ] {
        let health = health(states);
        holds.follow(
            Instant::default(),
            std::slice::from_ref(&service),
            [web()],
            (&health, InForce::NONE),
        );
        let facts = Facts { holds: &holds, ..Facts::of(&health) };
        let usable = usable((web(), &service), Family::V4, &facts, 0, None);
        assert_eq!((usable.basis, &*usable.endpoints), (Basis::Up, &expected[..]), "{states}");
        let order = [region(1), region(0)];
        let choice = choose((web(), &service), Family::V4, &usable, &order, &facts);
        let is_kept = !["uuuuu", "duuuu"].contains(&states);
        let basis = if is_kept { Basis::Kept } else { Basis::Up };
        assert_eq!(choice.basis, basis, "{states}");
    }
}
