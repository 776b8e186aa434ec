//! `meridian simulate`: the scenarios that are shipped, and what is told of them.

use std::fs::DirEntry;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::harness::meridian;

/// What it prints, and whether it went well.
fn simulate(arguments: &[&str]) -> (bool, String) {
    let Output { status, stdout, stderr } = meridian(&[&["simulate"], arguments].concat());
    (status.success(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

fn scenario(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/scenarios");
    folder.join(name).display().to_string()
}

#[test]
fn every_scenario_can_be_played_and_breaks_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/scenarios");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    // The others are configurations that they run.
    let is_scenario = |file: &DirEntry| {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        text.starts_with("about:")
    };
    let files = files.filter(is_scenario);
    let names: Vec<String> = files.map(|file| file.file_name().into_string().unwrap()).collect();
    assert!(names.len() > 10, "{names:?}");
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(move || {
                let (fine, told) = simulate(&[&scenario(name), "--resolvers", "500"]);
                assert!(fine && told.contains("none was broken"), "{name}: {told}");
            });
        }
    });
}

#[test]
fn the_outcome_is_told_as_json_and_as_a_page_that_needs_no_network() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let drain = scenario("drain.yaml");
    let few = ["--resolvers", "2000", "--json", "--page", page.to_str().unwrap()];
    let (fine, told) = simulate(&[&[drain.as_str()], &few[..]].concat());
    let outcome: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    assert!(fine && outcome["moved"][0]["region"] == "eu-west", "{}", outcome["moved"]);
    assert_eq!(outcome["shares"].as_array().unwrap().len(), 1801);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("An operator drains a region"));
    for foreign in ["http://", "https://", "src=", "@import"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[test]
fn the_writer_that_is_cut_off_is_followed_by_another_one_when_it_is_forgotten() {
    let one = scenario("one-writer.yaml");
    let (fine, told) = simulate(&[&one, "--resolvers", "500", "--json"]);
    let outcome: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    let writers = outcome["told"].as_array().unwrap().iter().filter(|of| of["who"] == "the lease");
    let writers: Vec<(f64, &str)> =
        writers.map(|of| (of["at"].as_f64().unwrap(), of["what"].as_str().unwrap())).collect();
    let [_, (second, then), (_, last)] = writers[..] else { panic!("{writers:?}") };
    assert!(fine && then == "eu-west writes, epoch 2" && last == "us-east writes, epoch 3");
    // The cut is at 60 s, and etcd's leader is on its side: another one is elected after 1 to 2 s,
    // if votes are not split, and gives the lease 11 s. Its last answers are remembered for 12 s.
    assert!((84.0..90.0).contains(&second), "{second}");
    let lease = outcome["costs"].as_array().unwrap();
    let lease = lease.iter().find(|of| of["policy"] == "one writer, by lease").unwrap();
    assert!(lease["simulated"][0] == 0.0 && lease["simulated"][1].as_f64().unwrap() > 0.0);
}

#[test]
fn a_region_that_comes_back_cold_falls_again_unless_its_clients_come_slowly() {
    let times = |name: &str| {
        let (_, told) = simulate(&[&scenario(name), "--resolvers", "2000", "--json"]);
        let outcome: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
        outcome["moved"].as_array().unwrap().len()
    };
    assert!(times("thundering-failback.yaml") > 1);
    assert_eq!(times("slow-failback.yaml"), 1);
}

#[test]
fn a_swarm_of_seeds_survives_chaos() {
    let chaos = scenario("chaos.yaml");
    for name in ["chaos.yaml", "one-writer-chaos.yaml", "named-writer-chaos.yaml"] {
        let (fine, told) = simulate(&[&scenario(name), "--seeds", "10", "--resolvers", "200"]);
        assert!(fine && told.contains("checks: none was broken"), "{name}: {told}");
    }
    // One seed of it can be had again.
    let one = simulate(&[&chaos, "--seed", "7", "--resolvers", "300", "--json"]);
    assert_eq!(one, simulate(&[&chaos, "--seed", "7", "--resolvers", "300", "--json"]));
}

#[test]
fn what_is_wrong_with_a_scenario_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let write = |text: &str| {
        let file = folder.path().join("scenario.yaml");
        std::fs::write(&file, text).unwrap();
        let (fine, told) = simulate(&[file.to_str().unwrap()]);
        assert!(!fine);
        told
    };
    assert!(write("for: 10m").contains("expected `config`, the configuration that is simulated"));
    assert!(write("config: nowhere.yaml").contains("nowhere.yaml"));
    assert!(write("config: [").contains("not YAML"));
    let world = scenario("world.yaml");
    let told = write(&format!("config: {world}\nfor: 10m\nevents: [{{ at: 1m, crahs: eu-west }}]"));
    assert!(told.contains("no key `crahs`") && told.contains("did you mean `crash`?"), "{told}");
    // All that is wrong, in the order of lines.
    let told = write(&format!(
        "config: {world}\nfor: 5m\nevents:
  - {{ at: 5m, crash: eu-west }}
  - {{ at: 9m, crash: eu-west }}
  - {{ at: 1m, every: 1m, times: 6, revive: eu-west }}\nloud: 1\n"
    ));
    let expected = [
        (5, "at 540 s, after the end: `for` is 300 s"),
        (6, "at 360 s, after the end: `for` is 300 s"),
        (7, "no key `loud`"),
    ];
    assert_eq!(told.lines().count(), expected.len(), "{told}");
    for (line, (number, what)) in told.lines().zip(expected) {
        assert!(line.contains(&format!(".yaml:{number}:")) && line.contains(what), "{line}");
    }
}
