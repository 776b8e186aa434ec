//! Which of very many words counts.

use std::time::Duration;

use super::overrides::{InForce, Override, Overrides, Scope, Word};
use super::tests::{region, service, web};
use super::weighted::SLOTS;
use super::{Ramp, ServiceId};
use crate::time::Instant;

/// Some of which is said twice: of these the first counts, as far as it reaches.
fn words() -> Vec<Override> {
    let services = (0..3).map(|row| ServiceId::from_index(row).unwrap());
    let pools = services.flat_map(|id| (0..2).map(move |row| Scope::Pool(id, region(row))));
    let addresses = (1..60).step_by(2).map(|row| Scope::Address([10, 0, 0, row].into()));
    let all = pools.chain(addresses).chain([1, 0].map(|row| Scope::Region(region(row))));
    let every = Duration::from_secs(60);
    let word = |(row, scope): (usize, Scope)| {
        let percent = u8::try_from(row % 5 * 20).unwrap();
        let ramp = (percent > 0).then_some(Ramp { percent, every });
        let word = [Word::Up, Word::Drain, Word::Down][row % 3];
        let (since, until, ahead) = (Instant::default(), None, Duration::ZERO);
        Override { scope, word, since, until, ramp, ahead }
    };
    let all: Vec<Scope> = all.collect();
    let twice = all.iter().filter(|scope| !matches!(scope, Scope::Pool(..)));
    twice.chain(&all).copied().enumerate().map(word).collect()
}

#[test]
fn the_narrowest_word_that_reaches_a_client_counts() {
    let (words, now) = (words(), Instant::default());
    let in_force: InForce = words.iter().copied().collect::<Overrides>().at(now);
    let said = |scope, slot: usize| {
        words.iter().find(|of| of.scope == scope && slot < of.reach(now)).map(|of| of.word)
    };
    for (row, address) in (0..4).flat_map(|row| (0..62).map(move |address| (row, address))) {
        let (id, at) = (ServiceId::from_index(row).unwrap(), region(row % 3));
        let address = (address > 0).then(|| [10, 0, 0, address].into());
        let scopes = [Scope::Pool(id, at), Scope::Region(at)];
        for slot in (0..SLOTS).step_by(SLOTS / 10) {
            let mut narrowest = address.map(Scope::Address).into_iter().chain(scopes);
            let expected = narrowest.find_map(|scope| said(scope, slot));
            assert_eq!(in_force.word(id, at, address, slot), expected, "{id:?} {at:?} {address:?}");
        }
    }
}

#[test]
fn clients_part_where_a_word_of_their_service_ends() {
    let in_force = words().into_iter().collect::<Overrides>().at(Instant::default());
    let bands = |addresses: &[&[&str]]| in_force.bands(web(), &service(addresses).pools);
    let parts = |percents: &[usize]| percents.iter().map(|of| SLOTS * of / 100).collect::<Vec<_>>();
    // The third region is only in words on addresses.
    assert_eq!(bands(&[&[], &[], &["10.0.0.2"]]), parts(&[0]));
    assert_eq!(bands(&[&[], &[], &["10.0.0.1"]]), parts(&[0, 60]));
    assert_eq!(bands(&[&[], &[], &["10.0.0.2", "10.0.0.5"]]), parts(&[0, 40]));
}
