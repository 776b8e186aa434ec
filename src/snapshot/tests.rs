//! Deciding on change gives what deciding on query would have given.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{Config, Targets};
use crate::geo::{Atlas, Geofeed, Sources};
use crate::health::{HealthTable, State};
use crate::steer::{
    Facts, Holds, Moves, OnAllDown, Override, Overrides, Ramp, Scope, TtlReason, Word,
};
use crate::time::Instant;

/// Four regions of which three have two endpoints, and a service for each policy.
const CONFIG: &str = r#"
regions: { us: { at: [39, -77] }, eu: { at: [53, -6] }, ap: { at: [1, 104] }, sa: {} }
steering: { countries: { US: [us], IE: [eu, us], SG: [ap] }, default: [sa, eu] }
checks: { web: { http: / } }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services:
  nearest: { names: [a.example.com], check: web, REGIONS }
  three: { names: [b.example.com], check: web, answers: 3, on_all_down: last_good, REGIONS }
  failover: { names: [c.example.com], check: web, steer: failover, order: [ap, us, sa, eu],
    on_all_down: nodata, REGIONS }
  weighted: { names: [d.example.com], check: web, steer: weighted, on_all_down: servfail, REGIONS }
  geo: { names: [e.example.com], check: web, steer: geo,
    map: { countries: { DE: [eu, sa] }, default: [ap] }, on_all_down: { fixed: 192.0.2.99 },
    REGIONS }
"#;
const REGIONS: &str = r#"regions: {
    us: [192.0.2.10, 192.0.2.11, "2001:db8::10"], eu: [192.0.2.20, "2001:db8::20"],
    ap: [192.0.2.30, 192.0.2.31], sa: 192.0.2.40 }"#;
const FEED: &str =
    "8.8.0.0/25,US,,,\n8.8.0.128/25,IE,,,\n8.8.1.0/24,SG,,,\n8.8.2.0/23,DE,,,\n2a00::/16,IE,,,\n";

struct World {
    plan: Arc<Plan>,
    atlas: Atlas,
    targets: Vec<TargetId>,
}

fn world() -> World {
    world_of(&CONFIG.replace("REGIONS", REGIONS), &mut Targets::default())
}

fn world_of(text: &str, targets: &mut Targets) -> World {
    let mut no_files = |_: &std::path::Path| Err("no files here".to_owned());
    let config = Config::load("test", text, targets, &mut no_files).unwrap();
    let feed = Geofeed::parse(FEED).unwrap();
    let atlas = Atlas::build(Sources { geofeed: Some(&feed), ..Sources::default() });
    let catchments = Catchment::build_all(&atlas, &config.catchments);
    let Config { zones, services, regions, identity, .. } = config;
    let plan = Plan::new(zones, services, regions, catchments, identity).into();
    World { plan, atlas, targets: config.targets.iter().map(|target| target.id).collect() }
}

/// The order of one client, found for this client alone.
fn order_of(world: &World, service: &Service, client: IpAddr) -> Vec<RegionId> {
    match &service.policy {
        Policy::Failover(order) | Policy::SingleWriter(order, _) => order.clone(),
        Policy::Weighted => {
            crate::steer::weighted::order_of(client, &world.plan.contenders(service))
        }
        Policy::Nearest | Policy::Geo => {
            let ranking =
                world.plan.catchments[service.catchment].rank(&world.atlas.locate(client), client);
            ranking.regions.iter().map(|ranked| ranked.region).collect()
        }
    }
}

fn any_state() -> impl Strategy<Value = State> {
    prop_oneof![Just(State::Up), Just(State::Down), Just(State::Down), Just(State::Unknown)]
}

fn any_client() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u32..1024).prop_map(|low| Ipv4Addr::from(0x0808_0000 + low).into()),
        any::<u32>().prop_map(|ip| Ipv4Addr::from(ip).into()),
        any::<u128>().prop_map(|ip| std::net::Ipv6Addr::from(ip).into()),
        (any::<u128>()).prop_map(|ip| std::net::Ipv6Addr::from(0x2a00 << 112 | ip >> 16).into()),
    ]
}

proptest! {
    /// Whatever happens to the targets one after the other: what is compiled from the changes
    /// alone is what is compiled anew, and each client gets what it would get by itself.
    #[test]
    fn a_snapshot_answers_like_a_decision_for_each_client(
        changes in prop::collection::vec((0usize..9, any_state()), 1..25),
        clients in prop::collection::vec(any_client(), 12),
    ) {
        let world = world();
        let mut health = HealthTable::default();
        let none = Facts::of(&health);
        let mut snapshot = Snapshot::compile(world.plan.clone(), &none, None, None, 1);
        let mut last_good: HashMap<(usize, Family), Usable> = HashMap::new();
        for (row, state) in changes {
            let target = world.targets[row % world.targets.len()];
            health = health.assuming(target, state);
            let generation = snapshot.generation() + 1;
            let facts = Facts::of(&health);
            let changed = world.plan.affected([target]);
            snapshot = Snapshot::compile(
                world.plan.clone(), &facts, Some(&snapshot), Some(&changed), generation,
            );
            for (row, service) in world.plan.services.iter().enumerate() {
                let compiled = snapshot.service(ServiceId::from_index(row).unwrap()).unwrap();
                for family in service.families() {
                    let before = last_good.get(&(row, family));
                    let id = ServiceId::from_index(row).unwrap();
                    let usable = usable((id, service), family, &facts, 0, before);
                    if usable.basis == Basis::Up {
                        last_good.insert((row, family), usable.clone());
                    }
                    for client in &clients {
                        let order = order_of(&world, service, *client);
                        let alone = choose((id, service), family, &usable, &order, &facts);
                        let selector = compiled.selector(family).unwrap();
                        let (ready, scope) = selector.select(*client).unwrap();
                        let who = (&service.name, family, client);
                        prop_assert_eq!(&ready.choice, &alone, "{:?}", who);
                        let longest = if client.is_ipv4() { 32 } else { 128 };
                        prop_assert!(scope <= longest);
                        // A name never loses its last record but by its own policy.
                        let must_answer =
                            matches!(service.on_all_down, OnAllDown::AsIfUp | OnAllDown::LastGood);
                        prop_assert!(!must_answer || !alone.addresses.is_empty());
                    }
                }
            }
        }
        let selected = |of: &Snapshot| -> Vec<(Ready, u8)> {
            let services = world.plan.ids().filter_map(|id| of.service(id));
            let families = [Family::V4, Family::V6];
            let selectors = services.flat_map(|of| families.map(|family| of.selector(family)));
            let each = |of: &Selector, client: &IpAddr| {
                let (ready, scope) = of.select(*client).unwrap();
                (ready.clone(), scope)
            };
            selectors.flatten().flat_map(|of| clients.iter().map(|at| each(of, at))).collect()
        };
        let undrawn = selected(&snapshot);
        let anew = Snapshot::compile(
            world.plan.clone(), &Facts::of(&health), Some(&snapshot), None, 1,
        );
        let anew = anew.drawn();
        prop_assert!(anew.undrawn().is_empty());
        for ((before, narrower), (after, scope)) in undrawn.iter().zip(selected(&anew)) {
            prop_assert_eq!(before, &after);
            prop_assert!(scope <= *narrower, "{} after {}", scope, narrower);
        }
    }
}

#[test]
fn what_is_kept_is_told_so_to_those_whom_a_ramp_has_not_reached() {
    let world = world();
    let id = world.plan.service_named("failover").unwrap();
    let pool = &world.plan.services[id.index()].pools[2];
    let up = |all: HealthTable, of: &TargetId| all.assuming(*of, State::Up);
    let all = world.targets.iter().fold(HealthTable::default(), up);
    let probed = pool.endpoints.iter().flat_map(|of| of.probed.iter().flat_map(|of| &of.targets));
    let health = probed.fold(all, |all, of| all.assuming(*of, State::Down));
    let mut holds = Holds::default();
    let kept = [(id, pool.region, Family::V4)].into();
    holds.recall(Instant::default(), Moves { kept, ..Moves::default() });
    let drain = Override {
        scope: Scope::Region(pool.region),
        word: Word::Drain,
        since: Instant::default(),
        until: None,
        ramp: Some(Ramp { percent: 10, every: Duration::from_secs(30) }),
        ahead: Duration::ZERO,
    };
    let overrides = [drain].into_iter().collect::<Overrides>().at(Instant::default());
    let facts = Facts { holds: &holds, overrides: &overrides, ..Facts::of(&health) };
    let snapshot = Snapshot::compile(world.plan.clone(), &facts, None, None, 1);
    let answers = snapshot.service(id).unwrap().selector(Family::V4).unwrap().answers();
    let told = answers.map(|(ready, _)| (ready.first, ready.choice.basis, ready.choice.ttl_reason));
    let us = world.plan.services[id.index()].pools[0].region;
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            (Some(us), Basis::Up, TtlReason::Configured),
            (Some(pool.region), Basis::Kept, TtlReason::Makeshift),
        ]
    );
}

#[test]
fn what_does_not_depend_on_a_change_is_not_compiled_again() {
    let world = world();
    let health = HealthTable::default();
    let facts = Facts::of(&health);
    let first = Snapshot::compile(world.plan.clone(), &facts, None, None, 1);
    let second = Snapshot::compile(world.plan.clone(), &facts, Some(&first), Some(&[]), 2);
    for (before, after) in first.services.iter().zip(&second.services) {
        assert!(Arc::ptr_eq(before, after));
    }
    // Services with the same order and the same usable regions share what divides their clients.
    assert!(first.divisions.len() < world.plan.services.len() * 2);
}

#[test]
fn what_was_last_good_is_known_in_a_newer_plan() {
    let (text, mut targets) = (CONFIG.replace("REGIONS", REGIONS), Targets::default());
    let old = world_of(&text, &mut targets);
    let all =
        old.targets.iter().fold(HealthTable::default(), |all, of| all.assuming(*of, State::Down));
    // All that is up is `eu`, and then nothing.
    let eu = old.plan.services[1].pools.iter().find(|pool| pool.region.index() == 1).unwrap();
    let probed = eu.endpoints.iter().flat_map(|of| of.probed.iter().flat_map(|of| &of.targets));
    let up = probed.fold(all.clone(), |all, of| all.assuming(*of, State::Up));
    let compile = |plan: &Arc<Plan>, health: &HealthTable, before: Option<&Snapshot>| {
        Snapshot::compile(plan.clone(), &Facts::of(health), before, None, 1)
    };
    let good = compile(&old.plan, &up, None);
    let bad = compile(&old.plan, &all, Some(&good));
    let answer = |of: &Snapshot| {
        let id = of.plan().service_named("three").unwrap();
        let (ready, _) =
            of.service(id).unwrap().selector(Family::V4).unwrap().answers().next().unwrap();
        (ready.choice.basis, ready.choice.addresses.clone())
    };
    let eu = vec![Address::Ip("192.0.2.20".parse().unwrap())];
    assert_eq!(answer(&bad), (Basis::LastGood, eu.clone()));
    for (old, new) in [
        ("regions: { us: { at", "regions: { nz: {}, us: { at"),
        ("eu: [192.0.2.20, ", "eu: [192.0.2.21, 192.0.2.20, "),
        ("ap: [192.0.2.30, 192.0.2.31]", "ap: 192.0.2.31"),
    ] {
        let newer = text.replace(old, new);
        assert_ne!(newer, text);
        let newer = world_of(&newer, &mut targets);
        let down = |all: HealthTable, of: &TargetId| all.assuming(*of, State::Down);
        let all = newer.targets.iter().fold(HealthTable::default(), down);
        assert_eq!(answer(&compile(&newer.plan, &all, Some(&bad))), (Basis::LastGood, eu.clone()));
    }
    // What was last good is there no more: it is as if there had been nothing.
    let newer = world_of(&text.replace("192.0.2.20", "192.0.2.21"), &mut targets);
    let down = |all: HealthTable, of: &TargetId| all.assuming(*of, State::Down);
    let all = newer.targets.iter().fold(HealthTable::default(), down);
    assert_eq!(answer(&compile(&newer.plan, &all, Some(&bad))).1.len(), 3);
}

#[test]
fn an_answer_names_all_regions_that_have_its_addresses() {
    // `ap` has an address of its own and that of `us`.
    let with = |fixed: &str| {
        let fixed = CONFIG.replace("fixed: 192.0.2.99", &format!("fixed: {fixed}"));
        fixed.replace("REGIONS", &REGIONS.replace("192.0.2.31", "192.0.2.10"))
    };
    let named = |fixed: &str, service: &str, state: State| -> Vec<Vec<String>> {
        let World { plan, targets, .. } = world_of(&with(fixed), &mut Targets::default());
        let all = targets.iter().fold(HealthTable::default(), |all, of| all.assuming(*of, state));
        let snapshot = Snapshot::compile(plan.clone(), &Facts::of(&all), None, None, 1);
        let service = snapshot.service(plan.service_named(service).unwrap()).unwrap();
        let answers = service.selector(Family::V4).unwrap().answers();
        let names = |regions: RegionSet| {
            regions.iter().map(|of| plan.region_name(of).to_owned()).collect::<Vec<_>>()
        };
        answers
            .map(|(ready, _)| {
                assert_eq!(ready.first, ready.choice.regions.first().copied());
                names(ready.regions)
            })
            .collect()
    };
    assert_eq!(named("192.0.2.99", "geo", State::Down), [Vec::<String>::new()]);
    assert_eq!(named("[192.0.2.99, 192.0.2.20]", "geo", State::Down), [["eu"]]);
    assert_eq!(named("192.0.2.10", "geo", State::Down), [["us", "ap"]]);
    assert_eq!(named("192.0.2.99", "failover", State::Up), [["us", "ap"]]);
}

#[test]
fn names_that_a_newer_plan_would_lose_are_told() {
    let (old, text) = (world().plan, CONFIG.replace("REGIONS", REGIONS));
    let load = |text: &str| {
        let mut no_files = |_: &std::path::Path| Err("no files here".to_owned());
        let config = Config::load("test", text, &mut Targets::default(), &mut no_files).unwrap();
        let Config { zones, services, regions, identity, .. } = config;
        Plan::new(zones, services, regions, Vec::new(), identity)
    };
    let lost = |text: &str| -> Vec<String> {
        old.names_lost_in(&load(text)).iter().map(ToString::to_string).collect()
    };
    assert_eq!(lost(&text), Vec::<String>::new());
    assert_eq!(lost(&text.replace("a.example.com", "z.example.com")), ["a.example.com."]);
    // A record of the zone, a wildcard or a delegation is a record.
    for records in ["a: { A: 192.0.2.1 }", "\"*\": { A: 192.0.2.1 }", "a: { NS: ns.example.net. }"]
    {
        let zone = format!("ns2.example.net], records: {{ {records} }} }}");
        let moved =
            text.replace("a.example.com", "z.example.com").replace("ns2.example.net] }", &zone);
        assert_eq!(lost(&moved), Vec::<String>::new(), "{records}");
    }
    // One without an address is none.
    let zone = "ns2.example.net], records: { a: { TXT: none } } }";
    let moved = text.replace("a.example.com", "z.example.com").replace("ns2.example.net] }", zone);
    assert_eq!(lost(&moved), ["a.example.com."]);
}
