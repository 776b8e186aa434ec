//! Everything changes all the time, and nothing is lost: for some seconds as one of the tests, for
//! ten minutes with `MERIDIAN_SECONDS=600 tests/run --test it endurance`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::harness::{Asking, Meridian, wait_for};
use crate::reload::database;

/// How long it takes as one of the tests, and so many rounds at least: each mixture of what is
/// changed once.
const SECONDS: u64 = 5;
const ROUNDS: usize = 8;

const EU: &str = "192.0.2.20";

const CLIENT: &str = "8.8.8.0/24";

fn config(us: &str, ttl: usize) -> String {
    format!(
        "geoip: {{ database: city.mmdb }}
checks: {{ own: {{ pushed: true, interval: 100ms, hold_down: 0s }} }}
regions: {{ us: {{ at: [39, -77] }}, eu: {{ at: [53, -6] }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web: {{ names: [www.example.com], check: own, ttl: {ttl}s, regions: {{ us: {us}, eu: {EU} }} }}
"
    )
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long it takes")]
fn whatever_changes_every_query_is_answered_as_some_generation_would() {
    let seconds = std::env::var("MERIDIAN_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(SECONDS));
    let folder = tempfile::tempdir().unwrap();
    let [america, europe] = [("US", (40.0, -75.0)), ("IE", (53.0, -6.0))]
        .map(|(country, at)| database(CLIENT, country, at));
    std::fs::write(folder.path().join("city.mmdb"), &america).unwrap();
    let first = "192.0.2.100".to_owned();
    let server = Meridian::serve_in(folder, &config(&first, 30));
    let asking = [
        Asking::over_udp_for(server.dns, "www.example.com", Some(CLIENT)),
        Asking::over_udp(server.dns, "www.example.com"),
        Asking::over_tcp(server.dns, "www.example.com"),
    ];
    let mut known = BTreeSet::from([EU.to_owned(), first]);
    let mut rounds = 0;
    while Instant::now() < end || rounds < ROUNDS {
        rounds += 1;
        known.insert(change(&server, rounds, (&america, &europe)));
    }
    let (asked, seen) = asking
        .into_iter()
        .map(Asking::answers)
        .fold((0, BTreeSet::new()), |(sum, all), (asked, seen)| (sum + asked, &all | &seen));
    println!("{asked} answers in {rounds} rounds, {} different ones", seen.len());
    assert!(seen.is_subset(&known), "nobody said {:?}", &seen - &known);
    // So that it is about something: what was answered did change, and back.
    assert!(seen.len() > 2 && seen.contains(EU), "{seen:?}");
    assert_eq!(server.metric("meridian_panics_total"), 0.0);
}

/// Changes what is near, what is up and what is configured, and waits until that is served; gives
/// the address that is new.
fn change(server: &Meridian, round: usize, (america, europe): (&[u8], &[u8])) -> String {
    let is_odd = |row: usize| round >> row & 1 == 1;
    server.write("city.mmdb", if is_odd(0) { europe } else { america });
    let us = format!("192.0.2.{}", 100 + round % 100);
    let before = server.logged("reloaded");
    server.write_config(&config(&us, 30 + round % 7));
    server.process.signal("HUP");
    wait_for("a reload", || (server.logged("reloaded") > before).then_some(()));
    for (address, is_up) in [(EU, is_odd(1)), (us.as_str(), is_odd(2))] {
        let state = if is_up { "up" } else { "down" };
        let (fine, told) = server.ctl(&["push", "own", address, state, "--for", "60s"]);
        assert!(fine, "{told}");
    }
    us
}
