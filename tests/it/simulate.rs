//! `meridian simulate`: the scenarios that are shipped, and what is told of them.

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
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = files.map(|name| name.into_string().unwrap()).collect();
    let names: Vec<String> = names.into_iter().filter(|name| name != "world.yaml").collect();
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
fn a_swarm_of_seeds_survives_chaos() {
    let chaos = scenario("chaos.yaml");
    let (fine, told) = simulate(&[&chaos, "--seeds", "10", "--resolvers", "200"]);
    assert!(fine && told.contains("checks: none was broken"), "{told}");
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
}
