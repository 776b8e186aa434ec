//! `meridian ctl` and `meridian explain`: whom they ask, and what they say when that goes wrong.

use std::process::Command;

use crate::harness::{Meridian, free_port};

const WORLD: &str = "regions: { us: { at: [39, -77] }, eu: { at: [53, -6] } }
zones: { example.com: { ns: [ns1.example.com, ns2.example.com] } }
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
