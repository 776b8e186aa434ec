//! `meridian ctl` and `meridian explain`: whom they ask, and what they say when that goes wrong.

use std::process::Command;

use serde_json::Value;

use crate::harness::{Meridian, free_port};

const WORLD: &str = "regions: { us: { at: [39, -77] }, eu: { at: [53, -6] } }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services:
  web: { names: [www.example.com], regions: { us: 192.0.2.1, eu: 192.0.2.2 } }
";

/// Whether it went well, and what was printed.
fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.args(arguments);
    command
}

const EXPLAIN: [&str; 4] = ["explain", "www.example.com", "--from", "134.226.1.7"];

/// A token is for the server, and for nobody on the way.
#[test]
fn no_proxy_of_the_environment_is_asked() {
    let server = Meridian::serve(WORLD);
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let url = server.url("");
    for arguments in [&["ctl", "status"][..], &EXPLAIN] {
        let mut command = program(arguments);
        command.args(["--server", &url]);
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"] {
            command.env(name, &nobody);
        }
        let (fine, told) = run(command.env_remove("NO_PROXY").env_remove("no_proxy"));
        assert!(fine, "{arguments:?}: {told}");
    }
}

#[test]
fn explain_asks_as_ctl_does() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokens"), "carol s3cret\n").unwrap();
    let head = "node: { listen: \"127.0.0.1:0\" }\n\
                http: { listen: \"127.0.0.1:0\", socket: ctl.sock, tokens: tokens, read: token }\n";
    let server = Meridian::start(folder, &format!("{head}{WORLD}"));
    let (tokens, socket) = (server.path("tokens"), server.path("ctl.sock"));
    let (tokens, socket) = (tokens.to_str().unwrap(), socket.to_str().unwrap());
    let url = server.url("");
    let (fine, told) = run(program(&EXPLAIN).args(["--server", &url]));
    let expected = "needs a token: `--token-file` or MERIDIAN_TOKEN_FILE names a file with one";
    assert!(!fine && told.contains(expected), "{told}");
    let (fine, told) = run(program(&EXPLAIN).args(["--server", &url, "--token-file", tokens]));
    assert!(fine, "{told}");
    let mut command = program(&EXPLAIN);
    let (fine, told) = run(command.args(["--server", &url]).env("MERIDIAN_TOKEN_FILE", tokens));
    assert!(fine, "{told}");
    let (fine, told) = run(program(&EXPLAIN).args(["--socket", socket]));
    assert!(fine, "{told}");
}

#[test]
fn why_a_server_cannot_be_reached_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("nowhere.sock");
    let missing = missing.to_str().unwrap();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for command in [&["ctl", "status"][..], &EXPLAIN] {
        let (fine, told) = run(program(command).args(["--socket", missing]));
        let is_told = told.contains(missing) && told.contains("No such file");
        assert!(!fine && is_told && !told.contains("http://meridian"), "{told}");
        let (fine, told) = run(program(command).args(["--server", &nobody]));
        let is_told = told.contains(&nobody) && told.contains("Connection refused");
        assert!(!fine && is_told && told.contains("`--server` names another"), "{told}");
    }
}

/// What cannot be waited for is not drained first.
#[test]
fn a_drain_that_cannot_be_waited_for_is_not_said() {
    let server = Meridian::serve(WORLD);
    let drain = ["drain", "192.0.2.2", "--wait", "--reason", "test", "--owner", "alice"];
    let (fine, told) = server.ctl(&drain);
    assert!(!fine && told.contains("expected REGION or SERVICE/REGION"), "{told}");
    assert_eq!(server.ctl(&["overrides"]).1, "nothing is overridden");
}

#[test]
fn what_is_drained_can_be_seen_in_the_metrics_from_its_beginning_on() {
    let at = |seconds| jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    let server = Meridian::serve(&format!(
        "{WORLD}maintenance:
  now: {{ of: 192.0.2.1, at: \"{}\", for: 2h }}
  later: {{ of: us, at: \"{}\", for: 2h }}\n",
        at(-60),
        at(3600)
    ));
    let (fine, told) =
        server.ctl(&["drain", "web/eu", "--force", "--reason", "test", "--owner", "alice"]);
    assert!(fine, "{told}");
    let metrics = server.get("/metrics").1;
    let words: Vec<&str> =
        metrics.lines().filter(|of| of.starts_with("meridian_override{")).collect();
    assert_eq!(
        words,
        [
            "meridian_override{subject=\"192.0.2.1\",word=\"drain\"} 1",
            "meridian_override{subject=\"web/eu\",word=\"drain\"} 1",
        ]
    );
    assert_eq!(server.metric("meridian_overrides"), 2.0);
}

#[test]
fn maintenance_cannot_be_cleared_and_says_how_it_ends() {
    let began = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(60);
    let window = format!("{{ of: eu, at: \"{began}\", for: 2h }}");
    let server = Meridian::serve(&format!("{WORLD}maintenance: {{ kernel: {window} }}\n"));
    let said: Value = serde_json::from_str(&server.get("/api/v1/overrides").1).unwrap();
    assert_eq!(said[0]["subject"], "eu");
    let (fine, told) = server.ctl(&["clear", "eu", "--owner", "alice"]);
    assert!(!fine && told.contains("maintenance kernel") && told.contains("ctl up eu"), "{told}");
    let (fine, told) = server.ctl(&["clear", "us", "--owner", "alice"]);
    assert!(!fine && told.contains("nothing is said of us"), "{told}");
}
