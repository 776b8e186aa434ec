//! What those are told who go a wrong way: which key, which option, and what to do instead.

use std::net::UdpSocket;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tempfile::tempdir;

use crate::harness::{Meridian, NODE, free_port, meridian, wait_for};

const WORLD: &str = "regions: { here: {} }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services: { web: { names: [www.example.com], regions: { here: 192.0.2.1 } } }
";

/// What a second server prints, beside this one, and how it ends.
fn second(server: &Meridian, node: &str) -> (Option<i32>, String) {
    let file = server.path("second.yaml");
    std::fs::write(&file, node.to_owned() + WORLD).unwrap();
    run(&[], &["serve", "--config", file.to_str().unwrap()])
}

/// What the program prints, with these set in its environment, and how it ends.
fn run(set: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.env_remove("SSL_CERT_FILE").envs(set.iter().copied());
    let output = command.args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_server_that_is_named_goes_over_the_socket_of_the_environment() {
    let server = Meridian::serve(WORLD);
    let set = [("MERIDIAN_SOCKET", "/nobody/here.sock")];
    let url = server.url("");
    let (code, told) = run(&set, &["ctl", "overrides"]);
    assert!(code == Some(1) && told.contains("/nobody/here.sock"), "{told}");
    let (code, told) = run(&set, &["ctl", "--server", &url, "overrides"]);
    assert_eq!((code, told.as_str()), (Some(0), "nothing is overridden\n"));
    let both = ["ctl", "--server", &url, "--socket", "/nobody/here.sock", "overrides"];
    let (code, told) = run(&[], &both);
    assert!(code == Some(2) && told.contains("--socket"), "{told}");
}

#[test]
fn a_server_that_is_no_url_is_told_so() {
    for wrong in ["127.0.0.1:8053", "ns1", "ftp://ns1"] {
        let (code, told) = run(&[], &["ctl", "--server", wrong, "status"]);
        let expected = format!("`--server {wrong}` is no URL; expected one such as http://");
        assert!(code == Some(2) && told.contains(&expected), "{told}");
    }
}

#[test]
fn arguments_without_sense_are_refused_before_anybody_is_asked() {
    let word = ["ctl", "drain", "eu", "--owner", "alice"];
    let why = ["--reason", "power"];
    let explain = ["explain", "--from", "192.0.2.1"];
    for (command, more, expected) in [
        (&word[..], &["--reason", " "][..], "a text that says something"),
        (&word, &[&why[..], &["--until", "tomorrow"]].concat(), "such as 2030-01-31T12:00:00Z"),
        (&word, &[&why[..], &["--until", "2020-01-01T00:00:00Z"]].concat(), "be over already"),
        (&["ctl", "push", "load", "127.0.1.1", "--for", "9s"], &["yes"], "values: up, down"),
        (&explain, &["--type", "FOO", "www.example.com"], "a record type such as A"),
        (&explain, &["www..example.com"], "www..example.com"),
    ] {
        let (code, told) = run(&[], &[command, more].concat());
        assert!(code == Some(2) && told.contains(expected), "{more:?}: {told}");
    }
}

#[test]
fn a_unix_socket_that_another_server_has_is_told_with_what_to_do() {
    let server = Meridian::serve(WORLD);
    let (code, told) = second(&server, &NODE.replace("state: state", "state: second"));
    assert!(code == Some(1) && told.contains("http.socket: "), "{told}");
    assert!(told.contains("another server has it: stop that one"), "{told}");
}

#[test]
fn a_short_token_is_told_with_its_line() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("meridian.yaml");
    std::fs::write(folder.path().join("tokens"), "# name token\nalice s3cret\n").unwrap();
    std::fs::write(&file, "http: { tokens: tokens }\n".to_owned() + WORLD).unwrap();
    let (code, told) = run(&[], &["check", file.to_str().unwrap()]);
    let expected = "tokens:2:1: warning: the token of alice is shorter than 16 characters";
    assert!(code == Some(0) && told.contains(expected), "{told}");
}

#[test]
fn an_address_that_is_named_twice_is_told_by_its_key() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("meridian.yaml");
    let at = format!("127.0.0.1:{}", free_port());
    let head = format!("node: {{ listen: \"{at}\" }}\nhttp: {{ listen: \"{at}\" }}\n");
    std::fs::write(&file, head + WORLD).unwrap();
    let (code, told) = run(&[], &["serve", "--config", file.to_str().unwrap()]);
    let expected = format!("http.listen: {at} is the address of `node.listen` too");
    assert!(code == Some(1) && told.contains(&expected), "{told}");
}

#[test]
fn what_is_wrong_at_the_start_is_told_once() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("meridian.yaml");
    std::fs::write(&file, "nonsense: 1\nzone: {}\n".to_owned() + WORLD).unwrap();
    let (code, told) = run(&[], &["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{told}");
    for key in ["nonsense", "zone"] {
        let told = told.lines().filter(|line| line.contains(&format!("no key `{key}`")));
        assert_eq!(told.count(), 1, "{key}");
    }
}

#[test]
fn a_second_server_with_the_same_state_does_not_start() {
    let server = Meridian::serve(WORLD);
    let (code, told) = second(&server, &NODE.replace("ctl.sock", "second.sock"));
    assert!(code == Some(1) && told.contains("node.state: "), "{told}");
    assert!(told.contains("another server uses it"), "{told}");
    // The first one's place is still there to be taken.
    let _next = server.replaced();
}

#[test]
fn what_is_wrong_with_tls_is_told_with_what_to_do() {
    let folder = tempdir().unwrap();
    let (cert, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(&cert, params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let head = NODE.replace("socket: ctl.sock", "tls: true, socket: ctl.sock");
    let tls = "tls: { certificate: cert.pem, key: key.pem }\n";
    let server = Meridian::start(folder, &format!("{head}{tls}{WORLD}"));
    let (cert, nobody) = (server.path("cert.pem"), server.path("nope.pem"));
    let ask = |scheme: &str, trusted: &str| {
        let url = format!("{scheme}://{}", server.http);
        let set = [("SSL_CERT_FILE", trusted)];
        let (code, told) = run(&set, &["ctl", "--server", &url, "overrides"]);
        assert_eq!(code, Some(1), "{told}");
        told
    };
    let cert = cert.to_str().unwrap();
    assert!(ask("http", cert).contains("use `https://`"), "{}", ask("http", cert));
    assert!(ask("https", cert).contains("certificate is a CA's"), "{}", ask("https", cert));
    params.is_ca = IsCa::NoCa;
    server.write("cert.pem", params.self_signed(&key).unwrap().pem().as_bytes());
    let nobody = nobody.to_str().unwrap();
    wait_for("the file", || ask("https", nobody).contains("nope.pem: No such file").then_some(()));
}

#[test]
fn nobody_is_sent_to_an_option_that_a_command_does_not_have() {
    // Nobody speaks HTTP there.
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let (code, told) = run(&[], &["demo", "kill", "eu-west", "--http-port", &port]);
    assert!(code == Some(1) && told.contains("`--http-port` names another"), "{told}");
    let server = Meridian::serve(WORLD);
    let word = ["drain", "here", "--reason", "test", "--owner", "alice"];
    let (fine, told) = server.ctl(&word);
    assert!(!fine && told.contains("`--force` does it all the same"), "{told}");
}

#[test]
fn a_name_without_records_of_the_type_is_explained_so() {
    let server = Meridian::serve(WORLD);
    for name in ["www.example.com", "example.com"] {
        let url = server.url("");
        let asked = ["explain", name, "--from", "192.0.2.9", "--type", "AAAA", "--server", &url];
        let told = String::from_utf8(meridian(&asked).stdout).unwrap();
        assert!(told.contains("NODATA: ") && told.contains(" AAAA records"), "{told}");
    }
}
