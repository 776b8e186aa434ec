//! What operators deploy: checked by the tools that will read it.

use std::path::Path;
use std::process::Command;

fn checked_by(program: &str, arguments: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {told}");
    told
}

#[test]
fn prometheus_takes_the_alerts_and_they_fire_when_they_should() {
    checked_by("promtool", &["check", "rules", "prometheus/alerts.yml"]);
    checked_by("promtool", &["test", "rules", "prometheus/alerts.test.yml"]);
}

#[test]
fn every_query_of_the_dashboard_is_one_that_prometheus_understands() {
    let text = include_str!("../../deploy/grafana/meridian.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (row, query) in queries.enumerate() {
        // What Grafana fills in.
        let query = query["expr"].as_str().unwrap().replace("$__range", "1h");
        rules.push_str(&format!("  - {{ record: \"panel:{row}\", expr: '{query}' }}\n"));
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rules).unwrap();
    checked_by("promtool", &["check", "rules", file.path().to_str().unwrap()]);
}

#[test]
fn systemd_takes_the_unit_and_finds_it_well_shut_in() {
    let unit = include_str!("../../deploy/systemd/meridian.service");
    // As on a host where it is installed: the program is where the unit says.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meridian.service");
    let program = env!("CARGO_BIN_EXE_meridian");
    std::fs::write(&file, unit.replace("/usr/local/bin/meridian", program)).unwrap();
    let file = file.to_str().unwrap();
    let socket = folder.path().join("meridian.socket");
    std::fs::write(&socket, include_str!("../../deploy/systemd/meridian.socket")).unwrap();
    let socket = socket.to_str().unwrap();
    let told = checked_by("systemd-analyze", &["verify", "--man=no", file, socket]);
    assert!(!told.contains("meridian."), "{told}");
    // 10 is a service that may do anything; systemd calls up to 3 "OK".
    checked_by("systemd-analyze", &["security", "--offline=true", "--threshold=20", file]);
}

#[test]
fn the_configuration_in_the_manifest_is_good() {
    let text = include_str!("../../deploy/kubernetes/meridian.yaml");
    let (_, rest) = text.split_once("meridian.yaml: |\n").unwrap();
    let block: Vec<&str> =
        rest.lines().take_while(|line| line.starts_with("    ")).map(|line| &line[4..]).collect();
    assert!(block.len() > 10);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meridian.yaml");
    std::fs::write(&file, block.join("\n")).unwrap();
    let output = crate::harness::meridian(&["check", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
