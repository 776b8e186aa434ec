//! What operators deploy: checked by the tools that will read it.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::harness::{Asking, Meridian, meridian, wait_for};

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
fn prometheus_takes_the_configuration_in_the_runbooks() {
    let text = include_str!("../../docs/OPERATING.md");
    let mut blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let block = blocks.find(|block| block.contains("job_name: meridian")).unwrap();
    // With all that may be needed. Pages come by how often rules are looked at, not by scrapes.
    let block = block.replace("\n    # ", "\n    ");
    assert!(block.contains("evaluation_interval: 10s"));
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in [
        ("prometheus.yml", &*block),
        ("token", "s3cret"),
        ("alerts.yml", include_str!("../../deploy/prometheus/alerts.yml")),
    ] {
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    checked_by(
        "promtool",
        &["check", "config", folder.path().join("prometheus.yml").to_str().unwrap()],
    );
}

/// What is built is what is started.
#[test]
fn the_container_is_called_alike_where_it_is_built_and_where_it_is_run() {
    let image = concat!("meridian:", env!("CARGO_PKG_VERSION"));
    let dockerfile = include_str!("../../deploy/docker/Dockerfile");
    assert!(dockerfile.contains(&format!(" -t {image} .\n")), "{dockerfile}");
    assert!(dockerfile.contains(&format!(":ro {image}\n")), "{dockerfile}");
    let manifest = include_str!("../../deploy/kubernetes/meridian.yaml");
    assert!(manifest.contains(&format!("image: {image}\n")), "{image}");
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
    // With its ways to secrets.
    let unit = unit.replace("\n#LoadCredential=", "\nLoadCredential=");
    let unit = unit.replace("\n#SupplementaryGroups=", "\nSupplementaryGroups=");
    assert_eq!(unit.matches("\nLoadCredential=").count(), 2);
    std::fs::write(&file, unit.replace("/usr/local/bin/meridian", program)).unwrap();
    let file = file.to_str().unwrap();
    let socket = folder.path().join("meridian.socket");
    std::fs::write(&socket, include_str!("../../deploy/systemd/meridian.socket")).unwrap();
    let socket = socket.to_str().unwrap();
    let told = checked_by("systemd-analyze", &["verify", "--man=no", file, socket]);
    assert!(!told.contains("meridian."), "{told}");
    // With a limit it would stay dead after five bad starts, also when its file is good again.
    let (head, _) = unit.split_once("[Service]").unwrap();
    assert!(head.contains("\nStartLimitIntervalSec=0\n") && unit.contains("\nRestart=always\n"));
    // 10 is a service that may do anything; systemd calls up to 3 "OK".
    checked_by("systemd-analyze", &["security", "--offline=true", "--threshold=20", file]);
}

/// The system calls that a unit lets its service make: later lines go before earlier ones.
fn permitted(unit: &str) -> BTreeSet<String> {
    let mut permitted = BTreeSet::new();
    for filter in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let named = filter.trim_start_matches('~').split(' ').flat_map(calls);
        if filter.starts_with('~') {
            named.for_each(|call| {
                permitted.remove(&call);
            });
        } else {
            permitted.extend(named);
        }
    }
    permitted
}

/// A system call, or those of a group, as systemd knows it.
fn calls(name: &str) -> Vec<String> {
    if !name.starts_with('@') {
        return vec![name.to_owned()];
    }
    let told = checked_by("systemd-analyze", &["syscall-filter", name]);
    let lines = told.lines().skip(1).map(str::trim).filter(|line| !line.starts_with('#'));
    lines.filter(|line| !line.is_empty()).flat_map(calls).collect()
}

#[test]
fn the_unit_permits_every_system_call_that_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut command = Command::new("strace");
    // The tracer stands aside, so that the process that is started is the server.
    command.args(["-D", "-f", "-q", "-o"]).arg(&trace).arg(env!("CARGO_BIN_EXE_meridian"));
    let config = "node: { listen: \"127.0.0.1:0\", pin: true, state: state }
http: { listen: \"127.0.0.1:0\", socket: ctl.sock }
checks: { web: { tcp: 9 } }
regions: { here: {}, there: {} }
zones: { example.com: { ns: [ns.example.net] } }
services:
  web: { names: [www.example.com], check: web, regions: { here: 127.0.0.1, there: 127.0.0.2 } }
";
    let mut server = Meridian::start_with(command, folder, config);
    let asking = [Asking::over_udp, Asking::over_tcp];
    let asking = asking.map(|over| over(server.dns, "www.example.com"));
    let (fine, told) = server.ctl(&["drain", "here", "--reason", "a test"]);
    assert!(fine, "{told}");
    server.process.signal("HUP");
    wait_for("a reload", || (server.logged("reloaded") > 0).then_some(()));
    assert!(asking.map(Asking::none_lost).iter().all(|asked| *asked > 0));
    server.process.signal("TERM");
    let id = server.process.id().to_string();
    let is_last = |line: &str| line.starts_with(&*id) && line.ends_with("+++ exited with 0 +++");
    wait_for("its end", || server.process.ended());
    let text = wait_for("the end of the trace", || {
        std::fs::read_to_string(&trace).ok().filter(|text| text.lines().any(is_last))
    });
    let made = text.lines().filter_map(|line| {
        let (call, _) = line.split_whitespace().nth(1)?.split_once('(')?;
        call.starts_with(|first: char| first.is_ascii_lowercase()).then(|| call.to_owned())
    });
    let permitted = permitted(include_str!("../../deploy/systemd/meridian.service"));
    // SQLite keeps files of root's root's (`robustFchown`); the unit's user is another one.
    let made = made.filter(|call| call != "fchown");
    let forbidden: BTreeSet<String> = made.filter(|call| !permitted.contains(call)).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
}

/// A file of the manifest's ConfigMap.
fn manifest() -> (&'static str, String) {
    let text = include_str!("../../deploy/kubernetes/meridian.yaml");
    let (_, rest) = text.split_once("meridian.yaml: |\n").unwrap();
    let block: Vec<&str> =
        rest.lines().take_while(|line| line.starts_with("    ")).map(|line| &line[4..]).collect();
    assert!(block.len() > 10);
    (text, block.join("\n"))
}

#[test]
fn the_configuration_in_the_manifest_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meridian.yaml");
    std::fs::write(&file, manifest().1).unwrap();
    let output = meridian(&["check", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// All nodes have one file: each is told its name by what starts it.
#[test]
fn the_nodes_of_the_manifest_can_form_a_cluster() {
    let (text, config) = manifest();
    let folder = tempfile::tempdir().unwrap();
    let (file, key) = (folder.path().join("meridian.yaml"), folder.path().join("cluster.key"));
    std::fs::write(key, "0123456789abcdef0123456789abcdef").unwrap();
    let of_cluster =
        config.lines().filter(|line| line.starts_with("# cluster:") || line.starts_with("#   "));
    let of_cluster: Vec<&str> = of_cluster.map(|line| &line[2..]).collect();
    let config = format!("{config}\n{}\n", of_cluster.join("\n"));
    let mounted = config.replace("/etc/meridian-tokens", folder.path().to_str().unwrap());
    std::fs::write(&file, mounted).unwrap();
    for (name, good) in [("node-b", true), ("node-d", false)] {
        assert!(text.contains("- name: MERIDIAN_NODE_NAME\n"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        command.arg("check").arg(&file).env("MERIDIAN_NODE_NAME", name);
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), good, "{told}");
    }
}

/// A server as the manifest starts it.
fn started() -> Meridian {
    let (text, config) = manifest();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokens"), "alice s3cret\n").unwrap();
    // What is mounted is a folder of this machine here, and everybody is on loopback.
    let mut config = config.replace("192.0.2.10", "127.0.0.1").replace("203.0.113.10", "127.0.0.2");
    for listened in ["0.0.0.0:5353", "0.0.0.0:8053"] {
        config = config.replace(listened, "127.0.0.1:0");
    }
    for mounted in ["/etc/meridian-tokens", "/var/lib/meridian", "/run/meridian"] {
        assert!(text.contains(&format!("mountPath: {mounted}")), "{mounted}");
        assert!(config.contains(mounted), "{mounted}");
        config = config.replace(mounted, folder.path().to_str().unwrap());
    }
    Meridian::start(folder, &config)
}

#[test]
fn operators_are_heard_by_what_the_manifest_starts() {
    let server = started();
    let (fine, told) = server.ctl(&["drain", "eu-west", "--force", "--reason", "a test"]);
    assert!(fine, "{told}");
    let (token, url) = (server.path("tokens"), server.url(""));
    let ctl =
        ["ctl", "--server", &url, "--token-file", token.to_str().unwrap(), "clear", "eu-west"];
    let output = meridian(&ctl);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What a probe of the manifest runs.
fn run_by<'a>(probe: &str, text: &'a str) -> Vec<&'a str> {
    let (_, probe) = text.split_once(&format!(" {probe}:\n")).unwrap();
    let (_, command) = probe.lines().next().unwrap().split_once("exec: { command: [").unwrap();
    command.trim_end_matches("] }").split(", ").collect()
}

#[test]
fn nobody_who_takes_the_api_has_the_kubelet_end_it() {
    let (text, _) = manifest();
    let server = started();
    let connect = || TcpStream::connect(server.http);
    let _all = [(); 300].map(|()| wait_for("a connection", || connect().ok()));
    for probe in ["startupProbe", "livenessProbe"] {
        let words = run_by(probe, text);
        assert_eq!(words[0], "meridian", "as the image has it");
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        command.args(&words[1..]).env("MERIDIAN_SOCKET", server.path("ctl.sock"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_container_sees_a_file_that_is_put_in_the_place_of_another() {
    let text = include_str!("../../deploy/docker/Dockerfile");
    let mounts = text.split_whitespace().filter(|word| word.contains(":/etc/meridian"));
    let mounts: Vec<&str> = mounts.collect();
    assert_eq!(mounts, ["./meridian:/etc/meridian:ro"], "the folder, not the file");
}
