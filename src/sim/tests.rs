//! The world against the closed form, and the checks against worlds that break them.

use std::time::Duration;

use super::nodes::{Kept, Node};
use super::*;
use crate::cluster::Gossip;
use crate::convergence::{Class, Layer, Parting, Population};
use crate::ids::{NodeId, RegionId};
use crate::rng::Seed;
use crate::server::{Loaded, Loader, Source};
use crate::time::Instant;

pub(super) const HEAD: &str = "
node: { name: ns1, region: us, listen: \"127.0.0.1:5300\" }
regions:
  us: { at: [39, -77] }
  eu: { at: [53, -6] }
  asia: { at: [1, 103] }
checks: { web: { http: /healthz, port: 80 } }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services:
  web:
    names: [www.example.com]
    check: web
    regions: { us: 192.0.2.1, eu: 192.0.2.2, asia: 192.0.2.3 }
";

pub(super) fn loaded(more: &str) -> Loaded {
    let text = format!("{HEAD}    {more}\n");
    Loader::new(Source::Text("test".to_owned(), text)).load().unwrap()
}

/// A scenario of three nodes and so many seconds, played.
pub(super) fn played(loaded: &Loaded, seconds: u64, population: Population, more: &str) -> Outcome {
    played_by(7, loaded, seconds, population, more)
}

/// The same with another seed.
pub(super) fn played_by(
    seed: u64,
    loaded: &Loaded,
    seconds: u64,
    population: Population,
    more: &str,
) -> Outcome {
    let scenario = scenario(loaded, seconds, more);
    let scenario = Scenario { population, ..scenario };
    with_input(seed, loaded, &scenario, |input| World::new(input).unwrap().run(|_| ()))
}

fn scenario(loaded: &Loaded, seconds: u64, more: &str) -> Scenario {
    let text = format!(
        "config: here\nnodes: {{ ns1: us, ns2: eu, ns3: asia }}\nfor: {seconds}s
countries: {{ US: 30%, DE: 40%, JP: 30% }}\n{more}\n"
    );
    let draft = Draft::parse("test", &text).unwrap();
    draft.scenario(&loaded.config).unwrap()
}

fn with_input<T>(
    seed: u64,
    loaded: &Loaded,
    scenario: &Scenario,
    play: impl FnOnce(Input<'_>) -> T,
) -> T {
    let atlas = loaded.survey.atlas().unwrap();
    let (config, plan) = (&loaded.config, &loaded.plan);
    play(Input { scenario, config, plan, reloads: &[], atlas: &atlas, seed })
}

pub(super) fn population(layers: &[Layer]) -> Population {
    let class = Class { name: "all".to_owned(), share: 1.0, layers: layers.to_vec() };
    Population { name: "test".to_owned(), classes: vec![class] }
}

pub(super) fn cache(every: f64) -> Layer {
    Layer::Cache { min: 0.0, max: f64::INFINITY, prefetch: 0.0, stale: 0.0, every }
}

const DRAIN: &str = "events: [{ at: 200s, drain: eu }]";

#[test]
fn clients_follow_a_drain_as_the_closed_form_says() {
    let hold = |seconds| Layer::Hold { seconds, every: 0.0 };
    let stale = Layer::StaleFirst { every: 60.0, limit: 86_400.0 };
    let connection = Layer::Connection { every: 30.0, idle: 60.0 };
    let honest = cache(0.0);
    for (ttl, layers) in [
        (60.0, vec![honest]),
        (60.0, vec![cache(60.0)]),
        (60.0, vec![stale]),
        (30.0, vec![Layer::StaleFirst { every: 600.0, limit: 86_400.0 }]),
        (30.0, vec![Layer::StaleFirst { every: 60.0, limit: 30.0 }]),
        (30.0, vec![cache(120.0), hold(60.0)]),
        (30.0, vec![honest, hold(60.0)]),
        (30.0, vec![honest, connection]),
        (30.0, vec![Layer::Cache { min: 60.0, max: 90.0, prefetch: 0.1, stale: 0.0, every: 0.0 }]),
    ] {
        let loaded = loaded(&format!("ttl: {ttl}s"));
        let outcome = played(&loaded, 600, population(&layers), DRAIN);
        let moved = outcome.moved.first().unwrap();
        assert_eq!((moved.region.as_str(), outcome.moved.len()), ("eu", 1));
        assert!((moved.had - 0.4).abs() < 0.02, "{layers:?}: {}", moved.had);
        for (second, expected) in moved.curve.iter().enumerate() {
            // The first whole second after it has left all answers.
            let share = outcome.shares[201 + second][1] / moved.had;
            let away = (share - expected).abs();
            assert!(away < 0.03, "{layers:?} after {second} s: {share}, expected {expected}");
        }
        assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
    }
}

#[test]
fn who_is_told_when_they_ask_goes_somewhere() {
    let loaded = loaded("ttl: 5s");
    let more = "resolvers: 5000\nwrites: { rate: 200, delay: 0s, keys: 1000, exponent: 0 }
events: [{ at: 120s, drain: eu }]";
    let [often, rarely] =
        [0.0, 20.0].map(|every| played(&loaded, 240, population(&[cache(every)]), more));
    for outcome in [&often, &rarely] {
        let of = outcome.conflicts.unwrap();
        assert_eq!((of.failed, of.writes > 40_000), (0, true));
        assert!(outcome.shares.iter().all(|all| (all.iter().sum::<f64>() - 1.0).abs() < 1e-9));
        assert!((outcome.moved[0].had - 0.4).abs() < 0.02, "{}", outcome.moved[0].had);
    }
    for second in [0, 100, 200] {
        let away = often.kilometres[second] / rarely.kilometres[second] - 1.0;
        assert!(away.abs() < 0.05, "{away} at {second} s");
    }
}

#[test]
fn two_regions_are_written_to_from_the_first_word_to_the_last_client() {
    let loaded = loaded("ttl: 30s");
    let play = |events: &str, layers: &[Layer]| {
        let more = format!("resolvers: 4000\nevents: [{events}]");
        played(&loaded, 500, population(layers), &more)
    };
    let outcome = play("{ at: 60s, drain: eu, ramp: 10%/30s }", &[cache(0.0)]);
    let moved = &outcome.moved[0];
    assert!((moved.from, moved.at.round()) == (60.0, 330.0), "{moved:?}");
    assert!((moved.had - 0.4).abs() < 0.02 && moved.distance < 0.05, "{moved:?}");
    assert!((298.0..303.0).contains(&moved.two_writers.unwrap()), "{:?}", moved.two_writers);
    assert!(outcome.text().contains("eu left the answers from 60.0 to 330.0 s, with 4"));
    // Nobody knows how long it would have taken where it came back, or the scenario ends.
    let pinned = [cache(0.0), Layer::Pinned];
    for (events, layers, told) in [
        (
            "{ at: 60s, drain: eu }, { at: 70s, clear: eu }",
            &pinned[..1],
            ["> 10 s", "30 s", "10 s"],
        ),
        ("{ at: 60s, drain: eu }", &pinned, ["> 440 s", "never", "440 s"]),
    ] {
        let text = play(events, layers).text();
        let [moved, model, writers] = told;
        let writers = format!("  writers   two regions for at least {writers}");
        assert!(text.contains(&format!("99.9 %: {moved}\n  model ")), "{text}");
        assert!(text.contains(&format!("99.9 %: {model}\n  stale ")), "{text}");
        assert!(text.contains(&writers), "{text}");
    }
}

#[test]
fn nodes_that_do_not_agree_are_what_the_closed_form_says() {
    // As short as it is on a node that is cut off.
    let loaded = loaded("ttl: 5s");
    // Asia's node does not hear of the drain for a minute; lookups go to any node.
    let more = "nearest: 0%\nevents: [{ at: 199s, part: [[asia], [us, eu]] },
      { at: 200s, drain: eu }, { at: 260s, heal: true }]";
    let outcome = played(&loaded, 300, population(&[cache(0.0)]), more);
    let parting = Parting { share: 1.0 / 3.0, seconds: 60.0 };
    let lag = cache(0.0).lag(5.0);
    let had = outcome.shares[199][1];
    for at in [1, 2, 3, 4, 5, 10, 30, 59, 62, 64, 70] {
        let (share, expected) = (outcome.shares[200 + at][1] / had, parting.after(&lag, at as f64));
        assert!((share - expected).abs() < 0.04, "after {at} s: {share}, expected {expected}");
    }
}

#[test]
fn the_same_seed_gives_the_same_outcome() {
    let loaded = loaded("ttl: 30s");
    let more = "loss: 2%\nresolvers: 2000\nwrites: { rate: 50, exponent: 0.9, keys: 1000 }
events: [{ at: 30s, crash: eu }, { at: 60s, revive: eu }]";
    let twice = [(); 2].map(|()| {
        let outcome = played(&loaded, 120, population(&[cache(0.0)]), more);
        serde_json::to_string(&outcome).unwrap()
    });
    assert_eq!(twice[0], twice[1]);
    assert!(
        page(&played(&loaded, 2, population(&[cache(0.0)]), "")).unwrap().contains("\"seed\":7")
    );
}

#[test]
fn a_minority_that_decides_is_found_out() {
    let lossy = "nearest: 0%\nevents: [{ at: 30s, cut: [[asia], [eu]] }]";
    let honest = population(&[cache(0.0)]);
    let good = played(&loaded("ttl: 5s"), 60, honest.clone(), lossy);
    assert!(good.violations.is_empty(), "{:?}", good.violations);
    // With a quorum of one, one node that sees badly moves its clients.
    let mut any = loaded("ttl: 5s");
    any.config.cluster = Some(any_node_decides());
    let bad = played(&any, 60, honest, lossy);
    let found = bad.violations.first().map(|(_, what)| what.as_str());
    assert_eq!(found, Some("clients of region eu are moved, which is well"));
}

fn any_node_decides() -> crate::config::Cluster {
    use crate::health::{Electorate, Rule, WhenIsolated};
    let when_isolated = WhenIsolated::Freeze;
    crate::config::Cluster {
        key: "key".into(),
        listen: "127.0.0.1:1".parse().unwrap(),
        nodes: Vec::new(),
        own: NodeId::from_index(0).unwrap(),
        electorate: Electorate { nodes: 3, rule: Rule::Any, when_isolated },
        vantages: 5,
    }
}

#[test]
fn a_dead_region_that_goes_on_being_named_is_found_out() {
    // Nobody probes: no node can know.
    let text = HEAD.replace("    check: web\n", "") + "    ttl: 5s\n";
    let blind = Loader::new(Source::Text("test".to_owned(), text)).load().unwrap();
    let crash = "events: [{ at: 10s, crash: eu }]";
    let outcome = played(&blind, 30, population(&[cache(0.0)]), crash);
    let found = outcome.violations.first().map(|(_, what)| what.as_str());
    assert_eq!(found, Some("region eu is named more than 1.0 s after it died"));
}

#[test]
fn a_dead_region_is_named_for_as_long_as_its_probes_take_and_where_there_is_no_other() {
    let stall = "events: [{ at: 10s, stall: eu }]";
    for (from, to) in [
        ("port: 80", "port: 80, interval: 30s"),
        ("port: 80", "port: 80, timeout: 3s"),
        ("us: 192.0.2.1, eu: 192.0.2.2, asia: 192.0.2.3", "eu: 192.0.2.2"),
    ] {
        let text = HEAD.replace(from, to) + "    ttl: 5s\n";
        let fine = Loader::new(Source::Text("test".to_owned(), text)).load().unwrap();
        let outcome = played(&fine, 90, population(&[cache(0.0)]), stall);
        assert_eq!(outcome.violations, [], "{to}");
    }
}

pub(super) fn two_regions() -> Vec<(String, Option<checks::Pace>)> {
    ["eu", "us"].map(|name| (name.to_owned(), None)).into()
}

#[test]
fn two_writers_that_are_remembered_at_once_are_found_out() {
    use super::checks::Checks;
    use crate::ids::RegionId;
    use crate::time::Instant;
    use std::time::Duration;
    let [first, second] = [0, 1].map(|row| RegionId::from_index(row).unwrap());
    let now = Instant::default();
    let (ttl, whole) = (Duration::from_secs(10), Duration::from_secs(11));
    let mut checks = Checks::new(two_regions(), now, Some((ttl, "")));
    checks.answered(now + Duration::from_millis(1), 0, Some((first, ttl)), None);
    // That nobody writes for a while is no fault.
    checks.answered(now + ttl / 2, 0, None, None);
    // Caches count in whole seconds.
    checks.answered(now + whole, 1, Some((second, ttl)), None);
    assert!(checks.violations.is_empty());
    checks.answered(now + whole * 2 - Duration::from_millis(1), 0, Some((first, ttl)), None);
    let found: Vec<&str> = checks.violations.iter().map(|(_, what)| what.as_str()).collect();
    assert_eq!(found, ["regions us and eu write at once"]);
}

#[test]
fn caches_that_may_give_what_is_old_when_nobody_answers_do() {
    let loaded = loaded("ttl: 10s");
    let die = "events: [{ at: 60s, kill: ns1 }, { at: 60s, kill: ns2 }, { at: 60s, kill: ns3 }]";
    let worst = |stale: f64| {
        let cache = Layer::Cache { min: 0.0, max: f64::INFINITY, prefetch: 0.0, stale, every: 0.0 };
        let outcome = played(&loaded, 120, population(&[cache]), die);
        outcome.errors.last().copied().unwrap()
    };
    assert_eq!((worst(0.0), worst(30.0), worst(3600.0)), (1.0, 1.0, 0.0));
}

/// Every node dies at 200 s, and starts again half a minute later.
const RESTART: &str = "{ at: 200s, kill: ns1 }, { at: 200s, kill: ns2 }, { at: 200s, kill: ns3 }, \
    { at: 230s, start: ns1 }, { at: 230s, start: ns2 }, { at: 230s, start: ns3 }";

/// Which regions left the answers, and when each was back.
fn moved(outcome: &Outcome) -> Vec<(&str, Option<f64>)> {
    outcome.moved.iter().map(|of| (of.region.as_str(), of.back)).collect()
}

#[test]
fn what_an_operator_said_outlives_the_nodes() {
    let loaded = loaded("ttl: 10s");
    let play = |more: &str| played(&loaded, 400, population(&[cache(0.0)]), more);
    let drained = play(&format!("resolvers: 1000\nevents: [{{ at: 60s, drain: eu }}, {RESTART}]"));
    assert_eq!(moved(&drained), [("eu", None)]);
    // A node that was away when it was taken back does not bring it up again.
    let cleared = play(
        "resolvers: 1000
events: [{ at: 60s, drain: eu }, { at: 100s, kill: ns2 }, { at: 150s, clear: eu },
  { at: 200s, start: ns2 }]",
    );
    let back = cleared.moved.first().and_then(|of| of.back).unwrap();
    assert!((150.0..160.0).contains(&back), "{back}");
    assert_eq!(moved(&cleared), [("eu", Some(back))]);
}

#[test]
fn a_region_that_an_operator_lets_back_stays_out_over_a_start() {
    let loaded = loaded("ttl: 10s\n    failback: manual");
    let fail = "{ at: 60s, crash: eu }, { at: 120s, revive: eu }";
    let more = format!("resolvers: 1000\nevents: [{fail}, {RESTART}]");
    let outcome = played(&loaded, 400, population(&[cache(0.0)]), &more);
    assert_eq!(moved(&outcome), [("eu", None)]);
}

#[test]
fn no_more_of_the_traffic_leaves_than_may() {
    for (share, left) in [("20%", vec![("eu", None)]), ("100%", vec![("eu", None), ("asia", None)])]
    {
        let loaded = loaded(&format!("ttl: 10s\nmax_moves: {{ share: {share}, within: 10m }}"));
        let more = "resolvers: 1000\nevents: [{ at: 60s, crash: eu }, { at: 120s, crash: asia }]";
        let outcome = played(&loaded, 200, population(&[cache(0.0)]), more);
        // One may always leave.
        assert_eq!(moved(&outcome), left, "{share}");
        // What has left counts, also for those who start then.
        let more = format!("{}, {RESTART}]", more.trim_end_matches(']'));
        let outcome = played(&loaded, 400, population(&[cache(0.0)]), &more);
        assert_eq!(moved(&outcome), left, "{share}, over a start");
    }
}

#[test]
fn who_holds_nothing_or_for_ever_does_not_stop_time() {
    let loaded = loaded("ttl: 10s");
    let connection = |every| Layer::Connection { every, idle: 60.0 };
    let hold = Layer::Hold { seconds: 0.0, every: 0.0 };
    let more = "resolvers: 50\nevents: [{ at: 10s, drain: eu }]";
    for (layer, stays) in [(connection(0.0), true), (connection(0.001), true), (hold, false)] {
        let outcome = played(&loaded, 60, population(&[cache(0.0), layer]), more);
        let left = outcome.shares[59][1] / outcome.moved[0].had;
        assert_eq!(left > 0.5, stays, "{layer:?}: {left}");
    }
}

#[test]
fn conflicting_writes_are_about_what_the_arithmetic_says() {
    let loaded = loaded("ttl: 30s");
    let more = "resolvers: 5000
writes: { rate: 200, delay: 800ms, keys: 10000, exponent: 0.8 }
events: [{ at: 60s, drain: eu }]";
    let outcome = played(&loaded, 300, population(&[cache(0.0)]), more);
    let of = outcome.costs.first().unwrap();
    let [met, lost, _] = of.simulated.unwrap();
    let [model_met, model_lost, _] = of.model;
    assert!((met / model_met - 1.0).abs() < 0.1, "{met} in conflict, expected {model_met}");
    assert!((lost / model_lost - 1.0).abs() < 0.1, "{lost} lost, expected {model_lost}");
}

#[test]
fn a_scenario_that_is_wrong_is_told_so() {
    let loaded = loaded("ttl: 30s");
    let text = "config: here
nodes: { ns1: mars }
for: 10m
events:
  - { at: 1m, crash: europe }
  - { at: 1m, part: [[us]] }
  - { at: 1m }
";
    let told: Vec<String> = Draft::parse("test", text)
        .unwrap()
        .scenario(&loaded.config)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    let expected = [
        "test:2:15: error: nodes.ns1: no region `mars`; expected one of: us, eu, asia",
        "test:5:22: error: events.crash: no region `europe`; expected one of: us, eu, asia",
        "test:6:21: error: events.part: expected two groups of regions or more",
        "test:7:5: error: events: nothing happens; expected such as `crash: REGION`",
    ];
    for line in expected {
        assert!(told.contains(&line.to_owned()), "{line} is not in {told:#?}");
    }
}

#[test]
fn more_nodes_than_decide_together_are_refused() {
    let loaded = loaded("ttl: 30s");
    let nodes: Vec<String> = (0..256).map(|row| format!("ns{row}: us")).collect();
    let text = format!("config: here\nfor: 10m\nnodes: {{ {} }}\n", nodes.join(", "));
    let told = Draft::parse("test", &text).unwrap().scenario(&loaded.config).unwrap_err();
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["test:3:8: error: nodes: 256 nodes; expected at most 32"]);
}

#[test]
fn what_a_node_said_before_it_began_anew_counts_no_more() {
    let loaded = loaded("ttl: 30s");
    let [first, second] = [0, 1].map(|row| NodeId::from_index(row).unwrap());
    let target = loaded.config.targets[0].id;
    let stage = Stage { config: &loaded.config, plan: &loaded.plan };
    let (us, mut now) = (RegionId::from_index(0).unwrap(), Instant::default());
    let mut node = with_input(7, &loaded, &scenario(&loaded, 60, ""), |input| {
        let known = (Seed::new(1), Kept::default());
        Node::start(&input, stage, (first, us), (now, 1), &[target], known)
    });
    let mut down_after = |opinion: Option<&str>, incarnation| {
        let mut other = Gossip::new(incarnation, [first]);
        other.set(format!("o/{}", target.index()), opinion.map(str::to_owned));
        for _ in 0..5 {
            now = now + Duration::from_millis(100);
            while let Some((_, messages)) = other.poll_transmit(now) {
                messages.into_iter().for_each(|of| node.hear(now, second, incarnation, of));
            }
            let told = node.turn(now, &[]).messages.into_iter();
            for (_, message) in told.filter(|(to, _)| *to == second) {
                other.handle(now, first, 1, message);
            }
        }
        node.monitor.table().get(target).votes.down
    };
    assert_eq!(down_after(Some("down"), 1), 1);
    assert_eq!(down_after(None, 2), 0);
}
