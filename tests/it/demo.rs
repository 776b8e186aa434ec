//! `meridian demo`, as its guide says to use it.

use std::process::Command;
use std::process::Stdio;

use crate::harness::{Process, free_port, meridian, wait_for, wait_until};

#[test]
fn a_region_is_killed_and_revived_from_the_command_line() {
    let ports = [free_port(), free_port(), free_port()].map(|port| port.to_string());
    let [dns, http, backend] = ports.each_ref().map(String::as_str);
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.args(["demo", "--dns-port", dns, "--http-port", http, "--backend-port", backend]);
    let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let dublin = || {
        let output = Command::new("dig")
            .args(["@127.0.0.1", "-p", dns, "www.example.com", "+short", "+subnet=134.226.1.0/24"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    wait_for("the demo", || {
        assert!(process.ended().is_none());
        let url = format!("http://127.0.0.1:{http}/readyz");
        let curl = Command::new("curl").args(["-s", &url]).output().unwrap();
        (curl.stdout == b"ready\n").then_some(())
    });
    assert_eq!(dublin(), "127.0.0.13\n");
    let url = format!("http://127.0.0.13:{backend}/");
    let curl = Command::new("curl").args(["-s", &url]).output().unwrap();
    assert_eq!(curl.stdout, b"eu-west\n");
    for action in ["kill", "stall", "fail"] {
        let done = meridian(&["demo", "--http-port", http, action, "eu-west"]);
        assert!(done.status.success(), "{action}");
        wait_until(&"127.0.0.11\n".to_owned(), dublin);
        assert!(meridian(&["demo", "--http-port", http, "revive", "eu-west"]).status.success());
        wait_until(&"127.0.0.13\n".to_owned(), dublin);
    }
    let wrong = meridian(&["demo", "--http-port", http, "kill", "atlantis"]);
    let told = String::from_utf8(wrong.stderr).unwrap();
    assert!(!wrong.status.success() && told.contains("no region `atlantis`"), "{told}");
    // It leaves nothing behind.
    let socket = std::env::temp_dir().join(format!("meridian-demo-{http}.sock"));
    assert!(socket.exists());
    process.signal("INT");
    let ended = wait_for("its end", || process.ended());
    assert!(ended.success() && !socket.exists());
}

#[test]
fn its_configuration_can_be_had_and_is_good() {
    let printed = meridian(&["demo", "--print-config"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("demo.yaml");
    std::fs::write(&file, printed.stdout).unwrap();
    let checked = meridian(&["check", file.to_str().unwrap()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
