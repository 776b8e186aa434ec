//! One writer at a time, by operators' word or by a lease: who is named, and who is not.

use std::sync::LazyLock;
use std::time::Duration;

use super::checks::Checks;
use super::tests::{HEAD, cache, loaded, played, played_by, population, two_regions};
use super::*;
use crate::ids::RegionId;
use crate::server::{Loaded, Loader, Source};
use crate::time::Instant;

/// A service of which operators name the writer.
static MANUAL: LazyLock<Loaded> =
    LazyLock::new(|| loaded("ttl: 10s\n    steer: single-writer\n    lease: manual"));

/// The same played for so many seconds, us the writer at first.
fn by_word(seconds: u64, events: &str) -> Outcome {
    let more = format!("resolvers: 500\nwriter: us\nevents: [{events}]");
    let outcome = played(&MANUAL, seconds, population(&[cache(0.0)]), &more);
    assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
    outcome
}

/// When which region was first answered as the writer.
fn writers(outcome: &Outcome) -> Vec<(f64, &str)> {
    let told = outcome.told.iter().filter(|of| of.what.contains(" writes, epoch "));
    told.map(|of| (of.at, of.what.as_str())).collect()
}

/// What was refused.
fn refused(outcome: &Outcome) -> Vec<&str> {
    let told = outcome.told.iter().filter(|of| of.who == "refused");
    told.map(|of| of.what.as_str()).collect()
}

#[test]
fn without_a_word_no_writer_follows_one_that_has_failed() {
    let outcome = by_word(300, "{ at: 30s, crash: us }");
    let seen = outcome.told.iter().filter(|of| of.what == "takes us for down").count();
    assert_eq!(seen, 3, "every node knows that it is down");
    assert_eq!(writers(&outcome), [(0.0, "us writes, epoch 1")]);
    assert!(outcome.shares.iter().all(|shares| shares[..3] == [1.0, 0.0, 0.0]));
    assert_eq!(outcome.errors.last(), Some(&1.0));
    // Nor is there a first one.
    let outcome = played(&MANUAL, 60, population(&[cache(0.0)]), "resolvers: 500");
    assert_eq!((writers(&outcome), outcome.errors.last()), (vec![], Some(&1.0)));
}

#[test]
fn by_a_word_the_next_one_writes_when_the_answers_of_the_last_one_are_forgotten() {
    let outcome = by_word(120, "{ at: 30s, crash: us }, { at: 60s, writer: eu }");
    let [_, (at, second)] = writers(&outcome)[..] else { panic!("{:?}", outcome.told) };
    // The TTL and a hundredth of it, two seconds for caches, and two until a word has reached all.
    assert!(second == "eu writes, epoch 2" && (74.1..74.3).contains(&at), "{second} {at}");
    assert_eq!(outcome.shares.last().unwrap()[..3], [0.0, 1.0, 0.0]);
    // Who knows that the old one writes no more does not wait.
    let outcome = by_word(120, "{ at: 60s, writer: eu, fenced: true }");
    let [_, (at, _)] = writers(&outcome)[..] else { panic!("{:?}", outcome.told) };
    assert!((60.0..60.2).contains(&at), "{at}");
    // Nobody is named by mistake.
    let outcome = by_word(120, "{ at: 30s, crash: eu }, { at: 60s, writer: eu }");
    assert_eq!(refused(&outcome), ["eu is not well; with `fenced` it writes all the same"]);
    assert_eq!(writers(&outcome).len(), 1);
}

#[test]
fn who_is_cut_off_names_nobody_and_two_who_are_named_at_once_do_not_write() {
    let outcome = by_word(
        240,
        "{ at: 30s, part: [[asia], [us, eu]] },
         { at: 40s, writer: asia, node: ns3 },
         { at: 50s, writer: asia, node: ns3, fenced: true },
         { at: 60s, writer: eu, node: ns1 },
         { at: 120s, heal: true },
         { at: 180s, writer: us, node: ns2 }",
    );
    let [refusal] = refused(&outcome)[..] else { panic!("{:?}", outcome.told) };
    assert!(refusal.starts_with("this node hears too few others"), "{refusal}");
    let told: Vec<&str> = writers(&outcome).iter().map(|(_, what)| *what).collect();
    // Epoch 2 is also that of asia, which no node answers; epoch 3 is nobody's.
    assert_eq!(told, ["us writes, epoch 1", "eu writes, epoch 2", "us writes, epoch 4"]);
    let share = |second: usize, region: usize| outcome.shares[second][region];
    assert_eq!((share(110, 1), share(170, 1), share(230, 0)), (1.0, 0.0, 1.0));
    assert!((0..240).all(|second| share(second, 2) == 0.0));
}

#[test]
fn a_word_that_nobody_hears_names_nobody_until_they_do() {
    // Nobody hears asia's node, which may hear them. It takes a word as long as it cannot know.
    for cut in ["part", "cut"] {
        for more in ["", "{ at: 40s, kill: ns3 }, { at: 55s, start: ns3 },"] {
            let outcome = by_word(
                150,
                &format!(
                    "{{ at: 30s, {cut}: [[asia], [us, eu]] }},
                     {{ at: 31s, writer: asia, node: ns3 }},
                     {{ at: 35s, writer: eu, node: ns3 }}, {more}
                     {{ at: 90s, heal: true }}"
                ),
            );
            let [refusal] = refused(&outcome)[..] else { panic!("{:?}", outcome.told) };
            assert!(refusal.starts_with("this node hears too few others"), "{refusal}");
            // The wait begins when they hear it.
            let [_, (at, second)] = writers(&outcome)[..] else { panic!("{:?}", outcome.told) };
            assert!(second == "asia writes, epoch 2" && (104.1..104.7).contains(&at), "{at}");
            let share = |second: usize, region: usize| outcome.shares[second][region];
            assert_eq!((share(89, 0), share(149, 2)), (1.0, 1.0), "{cut} {more}");
        }
    }
}

#[test]
fn a_word_outlives_the_node_that_heard_it() {
    // All nodes die and start: what was said was on their disks.
    let all = |what: &str, at: u64| {
        let node = |name: &str| format!("{{ at: {at}s, {what}: {name} }}");
        ["ns1", "ns2", "ns3"].map(node).join(", ")
    };
    let events = format!(
        "{{ at: 20s, writer: eu, fenced: true }}, {}, {}",
        all("kill", 40),
        all("start", 50)
    );
    let outcome = by_word(120, &events);
    assert_eq!(outcome.shares.last().unwrap()[..3], [0.0, 1.0, 0.0]);
    assert_eq!(writers(&outcome).last().unwrap().1, "eu writes, epoch 2");
}

#[test]
fn two_writers_are_found_out_by_epoch_and_forgiven_as_long_as_an_operator_vouches() {
    let [first, second] = [0, 1].map(|row| RegionId::from_index(row).unwrap());
    let (now, span) = (Instant::default(), Duration::from_secs(10));
    let mut checks = Checks::new(two_regions(), now, Some((span, "")));
    checks.writes(now, (first, 1));
    checks.writes(now, (second, 2));
    assert!(checks.violations.is_empty());
    checks.writes(now, (first, 2));
    assert_eq!(checks.violations.len(), 1);

    let mut checks = Checks::new(two_regions(), now, Some((span, "")));
    checks.answered(now, 0, Some((first, span)), None);
    checks.act(now, &Act::Name(Wish { region: second, fenced: true, node: None }));
    checks.answered(now, 1, Some((second, span * 10)), None);
    checks.answered(now + span, 0, Some((first, span)), None);
    assert!(checks.violations.is_empty(), "one that has not heard of it");
    checks.answered(now + span * 2, 0, Some((first, span)), None);
    assert_eq!(checks.violations.len(), 1);
}

#[test]
fn what_is_said_of_no_writer_is_refused() {
    let text = "config: here
for: 10m
writer: us
events:
  - { at: 1m, crash: us, fenced: true }
";
    let told = Draft::parse("test", text).unwrap().scenario(&LEASED.config).unwrap_err();
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    let expected = [
        "test:3:9: error: writer: expected only where the service has `lease: manual`",
        "test:5:5: error: events: `node` and `fenced` say how a `writer` is named; expected one",
    ];
    assert_eq!(told, expected);
}

/// A service of which a lease in etcd decides who writes.
static LEASED: LazyLock<Loaded> = LazyLock::new(|| {
    let lease =
        "    ttl: 10s\n    steer: single-writer\n    order: [us, eu, asia]\n    lease: 10s\n";
    let etcd = "etcd: { endpoints: [\"http://127.0.0.1:2379\"] }\n";
    let text = format!("{HEAD}{lease}{etcd}");
    Loader::new(Source::Text("test".to_owned(), text)).load().unwrap()
});

/// The same played, us the writer at first; etcd's members are in these regions, and the first one
/// leads.
fn by_lease(seed: u64, members: &str, events: &str) -> Outcome {
    let more = format!("resolvers: 300\netcd: [{members}]\nevents: [{events}]");
    let outcome = played_by(seed, &LEASED, 150, population(&[cache(0.0)]), &more);
    assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
    outcome
}

/// Who leads in etcd, and from when on.
fn leaders(outcome: &Outcome) -> Vec<(f64, &str)> {
    let told = outcome.told.iter().filter(|of| of.who == "etcd");
    told.map(|of| (of.at, of.what.as_str())).collect()
}

#[test]
fn the_loss_of_the_region_where_etcd_leads_leaves_more_time_without_a_writer() {
    let lost = "{ at: 60s, crash: us }, { at: 60s, kill: ns1 }, { at: 60s, kill_etcd: us }";
    let mut spans = Vec::new();
    for seed in 0..5 {
        // When the next one writes, and for how long requests fail in all.
        let followed = |outcome: &Outcome| {
            let [_, (at, next)] = writers(outcome)[..] else { panic!("{:?}", outcome.told) };
            assert_eq!(next, "eu writes, epoch 2");
            (at, outcome.errors.iter().sum::<f64>())
        };
        let kept = by_lease(seed, "eu, us, asia", lost);
        assert!(leaders(&kept).is_empty(), "{:?}", leaders(&kept));
        let elected = by_lease(seed, "us, eu, asia", lost);
        let [(60.0, "no member leads"), (at, next)] = leaders(&elected)[..] else {
            panic!("{:?}", leaders(&elected))
        };
        assert!(["the member in eu leads", "the member in asia leads"].contains(&next), "{next}");
        // A heartbeat less than the election timeout, up to twice as long, and two rounds of
        // messages; if the votes were split, once more.
        assert!((60.9..64.5).contains(&at), "{at}");
        let [(kept, kept_fails), (elected, elected_fails)] = [followed(&kept), followed(&elected)];
        // The lease, up to half a second of which is over at the loss, and the answers' time with
        // two seconds for caches.
        assert!((81.4..83.9).contains(&kept), "{kept}");
        // From its election on the new leader counts the lease anew, and a second more.
        assert!((at + 23.0..at + 24.9).contains(&elected), "{elected} after {at}");
        assert!((elected_fails - kept_fails - (elected - kept)).abs() < 1.5);
        spans.push((at, elected - kept));
    }
    assert!(spans.iter().all(|(_, more)| (1.0..6.0).contains(more)), "{spans:?}");
    // Chance has a part in it, and the same seed the same one.
    assert!(spans.windows(2).any(|two| two[0] != two[1]));
    assert_eq!(leaders(&by_lease(4, "us, eu, asia", lost))[1].0, spans[4].0);
}

#[test]
fn without_a_majority_of_etcd_no_lease_is_granted_and_none_ends() {
    let die = "{ at: 60s, kill_etcd: us }, { at: 60s, kill_etcd: eu }, { at: 62s, crash: us }";
    let outcome = by_lease(7, "us, eu, asia", die);
    assert_eq!(writers(&outcome).len(), 1, "nobody can be named");
    assert_eq!(leaders(&outcome), [(60.0, "no member leads")]);
    // Half a minute later, when each node's own view of the lease is long over, it goes on.
    let back = format!("{die}, {{ at: 65s, revive: us }}, {{ at: 110s, start_etcd: us }}");
    let outcome = by_lease(7, "us, eu, asia", &back);
    assert_eq!(writers(&outcome).len(), 1, "it is the same epoch");
    let (errors, [_, (at, _)]) = (&outcome.errors, &leaders(&outcome)[..]) else { panic!() };
    assert_eq!((errors[100], errors.last()), (1.0, Some(&0.0)));
    assert!((110.9..114.5).contains(at), "{at}");
}

#[test]
fn a_writer_stays_though_the_only_node_in_its_region_is_gone() {
    let outcome = by_lease(7, "eu, us, asia", "{ at: 60s, kill: ns1 }, { at: 100s, start: ns1 }");
    assert_eq!(writers(&outcome), [(0.0, "us writes, epoch 1")]);
    assert_eq!(outcome.errors.iter().sum::<f64>(), 0.0);
}
