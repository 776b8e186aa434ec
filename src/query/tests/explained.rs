//! What is explained of a name is what is answered.

use std::time::Duration;

use super::*;
use crate::ids::{RegionId, ServiceId, TargetId};
use crate::steer::{InForce, Override, Overrides, Scope, Word};
use crate::time::Instant;
use crate::zone::RecordType;

fn explained(snapshot: &Snapshot, name: &str, rtype: RecordType) -> Explained {
    let (atlas, health) = (Atlas::build(Sources::default()), HealthTable::default());
    let client = IpAddr::from([192, 0, 2, 1]);
    let question = Question { name: name.parse().unwrap(), rtype, client };
    explain(snapshot, &atlas, &Facts::of(&health), &question).outcome
}

fn of_zone(zone: &str, types: &[&str]) -> Explained {
    let types = types.iter().map(|&of| of.to_owned()).collect();
    Explained::Zone { zone: zone.to_owned(), types, alias: None }
}

/// RFC 4035 §3.1.4.1.
#[test]
fn the_ds_records_of_a_delegation_are_explained_as_its_parents() {
    let text = "regions: { us: {} }\nservices: {}\nzones:
  example.com: { ns: [ns.example.net], records: {
    signed: { NS: ns.example.net., DS: '1 8 9 00' }, plain: { NS: ns.example.net. },
    served: { NS: ns.example.net., DS: '1 8 9 00' }, bare: { NS: ns.example.net. } } }
  served.example.com: { ns: [ns.example.net] }
  bare.example.com: { ns: [ns.example.net] }
  hidden.example.com: { ns: [ns.example.net] }
";
    let snapshot = compiled(text, &[]);
    let (parent, none) = ("example.com.", &[][..]);
    for (name, expected) in [
        ("signed.example.com", of_zone(parent, &["DS"])),
        ("plain.example.com", of_zone(parent, none)),
        ("www.signed.example.com", Explained::Delegated { zone: parent.to_owned() }),
        // Zones that are served here beside their parent.
        ("served.example.com", of_zone(parent, &["DS"])),
        ("bare.example.com", of_zone(parent, none)),
        ("hidden.example.com", of_zone(parent, none)),
    ] {
        assert_eq!(explained(&snapshot, name, RecordType::DS), expected, "{name}");
    }
    let referral = Explained::Delegated { zone: parent.to_owned() };
    assert_eq!(explained(&snapshot, "signed.example.com", RecordType::NS), referral);
}

/// An operator's word is told as that, beside what the probes say.
#[test]
fn what_is_said_is_not_told_as_what_is_seen() {
    let text = "regions: { us: { at: [39, -77] }, eu: { at: [53, -6] } }
checks: { web: { http: / } }
zones: { example.com: { ns: [ns.example.net, ns2.example.net] } }
services:
  web: { names: [www.example.com], check: web,
         regions: { us: [192.0.2.10, 192.0.2.11], eu: 192.0.2.20 } }
";
    let snapshot = compiled(text, &[]);
    let (region, ip) = (|row| Scope::Region(RegionId::from_index(row).unwrap()), "192.0.2.11");
    let address = Scope::Address(ip.parse().unwrap());
    let said = |scope, word| Override {
        scope,
        word,
        since: Instant::default(),
        until: None,
        ramp: None,
        ahead: Duration::ZERO,
    };
    let in_force = |said: &[Override]| -> InForce {
        said.iter().copied().collect::<Overrides>().at(Instant::default())
    };
    let named = vec![(region(0), "maintenance kernel".to_owned())];
    let drained = in_force(&[said(region(0), Word::Drain)]);
    for (state, overrides, expected) in [
        (
            State::Down,
            in_force(&[said(region(0), Word::Up)]),
            "said to be up by an operator (probes: down)",
        ),
        (
            State::Up,
            in_force(&[said(region(0), Word::Down)]),
            "said to be down by an operator (probes: up)",
        ),
        (State::Up, drained.clone(), "drained by an operator (probes: up)"),
        (State::Up, drained.spoken_by(named), "drained by maintenance kernel (probes: up)"),
        (
            State::Up,
            in_force(&[said(address, Word::Down)]),
            "1 of 2 endpoints up; 1 said to be down by an operator (probes: up)",
        ),
        (State::Down, InForce::default(), "down"),
    ] {
        let targets = (0..3).map(|row| TargetId::from_index(row).unwrap());
        let health = targets.fold(HealthTable::default(), |table, of| table.assuming(of, state));
        let facts = Facts { overrides: &overrides, ..Facts::of(&health) };
        let (name, client) = ("www.example.com".parse().unwrap(), IpAddr::from([192, 0, 2, 1]));
        let question = Question { name, rtype: RecordType::A, client };
        let atlas = Atlas::build(Sources::default());
        let explained = explain(&snapshot, &atlas, &facts, &question).outcome;
        let Explained::Steered(steering) = explained else { panic!("{explained:?}") };
        let us = steering.regions.into_iter().find(|of| of.region == "us").unwrap();
        assert_eq!(us.why.trim_end_matches("; not needed"), expected);
    }
}

#[test]
fn what_is_assumed_to_be_down_is_answered_as_what_is_down() {
    let text = "regions: { us: { at: [39, -77] }, eu: { at: [53, -6] } }
checks: { web: { http: / } }
zones: { example.com: { ns: [ns.example.net, ns2.example.net] } }
services:
  web: { names: [www.example.com], check: web, steer: failover,
         regions: { us: [192.0.2.10, 192.0.2.11], eu: 192.0.2.20 } }
";
    let plan = compiled(text, &[]).plan().clone();
    let atlas = Atlas::build(Sources::default());
    let table = |states: &[State]| {
        let targets = (0..).map_while(TargetId::from_index).zip(states);
        targets.fold(HealthTable::default(), |table, (of, state)| table.assuming(of, *state))
    };
    let (us, eu) = (RegionId::from_index(0).unwrap(), RegionId::from_index(1).unwrap());
    let explained = |facts: &Facts<'_>| {
        let snapshot = Snapshot::compile(plan.clone(), facts, None, None, 1);
        let (name, client) = ("www.example.com".parse().unwrap(), IpAddr::from([192, 0, 2, 1]));
        let question = Question { name, rtype: RecordType::A, client };
        match explain(&snapshot, &atlas, facts, &question).outcome {
            Explained::Steered(steering) => steering,
            other => panic!("{other:?}"),
        }
    };
    let pool = Scope::Pool(ServiceId::from_index(0).unwrap(), us);
    let address = Scope::Address("192.0.2.11".parse().unwrap());
    let (up, down) = (State::Up, State::Down);
    for (said, assumed, answer, why) in [
        (None, vec![us], vec!["192.0.2.20"], "down"),
        (
            Some((pool, Word::Up)),
            vec![us],
            vec!["192.0.2.10", "192.0.2.11"],
            "said to be up by an operator (probes: down)",
        ),
        (
            Some((address, Word::Up)),
            vec![us],
            vec!["192.0.2.11"],
            "1 of 2 endpoints up; 1 said to be up by an operator (probes: down)",
        ),
        (
            Some((Scope::Region(us), Word::Drain)),
            vec![us],
            vec!["192.0.2.20"],
            "drained by an operator (probes: down)",
        ),
        (
            Some((address, Word::Down)),
            vec![us, eu],
            vec!["192.0.2.10"],
            "down; 1 said to be down by an operator (probes: down)",
        ),
    ] {
        let (since, until, ramp) = (Instant::default(), None, None);
        let word =
            |(scope, word)| Override { scope, word, since, until, ramp, ahead: Duration::ZERO };
        let overrides = said.map(word).into_iter().collect::<Overrides>().at(since);
        let all_up = table(&[up; 3]);
        let is_down = table(&[down, down, if assumed.len() == 2 { down } else { up }]);
        let told =
            explained(&Facts { overrides: &overrides, down: &assumed, ..Facts::of(&all_up) });
        let happens = explained(&Facts { overrides: &overrides, ..Facts::of(&is_down) });
        assert_eq!(told, happens);
        assert_eq!(
            (told.answer, &*told.regions[0].why),
            (answer.into_iter().map(String::from).collect(), why)
        );
    }
}

/// RFC 8482 §4.2.
#[test]
fn all_types_at_once_are_explained_as_they_are_answered() {
    let text = "regions: { us: {} }
zones: { example.com: { ns: [ns.example.net], records: {
  fixed: { TXT: '\"a\"' }, alias: { CNAME: fixed }, a.b: { TXT: '\"a\"' } } } }
services: { web: { names: [www.example.com], regions: { us: 192.0.2.10 } } }
";
    let snapshot = compiled(text, &[]);
    let atlas = Atlas::build(Sources::default());
    let (health, rtype) = (HealthTable::default(), RecordType::ANY);
    for (name, expected) in [
        ("fixed", "HINFO \"RFC8482\", not all that is there in example.com.: TXT"),
        ("www", "HINFO \"RFC8482\", not all that is there in example.com.: A"),
        ("alias", "from the zone example.com., for everybody alike; it has CNAME"),
        ("b", "NODATA: the name exists in example.com. without ANY records"),
    ] {
        let (name, client) = (format!("{name}.example.com").parse(), IpAddr::from([192, 0, 2, 1]));
        let question = Question { name: name.unwrap(), rtype, client };
        let told = explain(&snapshot, &atlas, &Facts::of(&health), &question).to_string();
        assert!(told.contains(expected), "{expected}: {told}");
    }
}
