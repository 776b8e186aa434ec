//! What the API does not take: words that are too long, shares that are none, bodies that are no
//! requests, and clients that never read.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::harness::{Meridian, PUSHED, wait_for, wait_until, wait_within};

/// As many services, of two regions that are always up.
fn world(services: usize) -> Meridian {
    let mut text = "regions: { us: { at: [39, -77] }, eu: { at: [53, -6] } }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services:
"
    .to_owned();
    for number in 0..services {
        let regions = "{ us: 192.0.2.1, eu: 192.0.2.2 }";
        text += &format!("  s{number}: {{ names: [s{number}.example.com], regions: {regions} }}\n");
    }
    Meridian::serve(&text)
}

/// What the server says over the Unix socket: its status, the type of its body, and that.
fn send(server: &Meridian, method: &str, path: &str, more: &[&str]) -> (u16, String, Value) {
    let output = Command::new("curl")
        .args(["-s", "-m", "10", "-X", method, "-w", "\n%{http_code} %{content_type}"])
        .arg("--unix-socket")
        .arg(server.path("ctl.sock"))
        .args(more)
        .arg(format!("http://localhost{path}"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, told) = text.rsplit_once('\n').unwrap();
    let (status, format) = told.split_once(' ').unwrap();
    (status.parse().unwrap(), format.to_owned(), serde_json::from_str(body).unwrap_or_default())
}

const JSON: &str = "Content-Type: application/json";

fn say(server: &Meridian, method: &str, path: &str, body: &Value) -> (u16, String) {
    let (status, _, told) = send(server, method, path, &["-H", JSON, "-d", &body.to_string()]);
    (status, told["error"].as_str().unwrap_or_default().to_owned())
}

/// Nodes tell each other what operators say: what one could not tell, the others would never know.
#[test]
fn no_word_is_longer_than_nodes_can_tell_each_other() {
    let server = world(1);
    let overrides = "/api/v1/overrides";
    let clear =
        |reason: &str, owner: &str| json!({ "subject": "eu", "reason": reason, "owner": owner });
    let drain = |reason: &str, owner: &str| {
        let mut said = clear(reason, owner);
        said["word"] = json!("drain");
        said
    };
    let (long, longest) = ("x".repeat(501), "x".repeat(500));
    assert_eq!(say(&server, "PUT", overrides, &drain(&longest, &longest)).0, 200);
    let writer = json!({
        "service": "s0", "region": "eu", "reason": &long, "owner": "alice",
    });
    for (method, path, body) in [
        ("PUT", overrides, drain(&long, "alice")),
        ("DELETE", overrides, clear(&long, "alice")),
        ("DELETE", overrides, clear("test", &long)),
        ("POST", "/api/v1/failback", clear(&long, "alice")),
        ("PUT", "/api/v1/writers", writer),
    ] {
        let (status, told) = say(&server, method, path, &body);
        assert!(status == 400 && told.contains("500 octets"), "{method} {path}: {status} {told}");
    }
    let said = send(&server, "GET", overrides, &[]).2;
    assert_eq!((said.as_array().unwrap().len(), &said[0]["reason"]), (1, &json!(longest)));
    assert_eq!(say(&server, "DELETE", overrides, &clear(&longest, &longest)).0, 204);
}

/// What an operator says is shown in one line, and by terminals.
#[test]
fn no_reason_writes_lines_of_the_history_or_speaks_to_terminals() {
    let server = world(1);
    let (overrides, forged) = ("/api/v1/overrides", "test\n2030-01-01T00:00:00Z  node  ns1: fine");
    for (reason, owner) in
        [(forged, "alice"), ("test", "\u{1b}[31malice"), ("\u{9b}2J", "alice"), ("\t", "alice")]
    {
        let body = json!({ "subject": "eu", "reason": reason, "owner": owner });
        let mut drain = body.clone();
        drain["word"] = json!("drain");
        let writer = json!({ "service": "s0", "region": "eu", "reason": reason, "owner": owner });
        for (method, path, body) in [
            ("PUT", overrides, &drain),
            ("DELETE", overrides, &body),
            ("POST", "/api/v1/failback", &body),
            ("PUT", "/api/v1/writers", &writer),
        ] {
            let (status, told) = say(&server, method, path, body);
            let is_told = told.contains("a control character") || told.contains("no `reason`");
            assert!(status == 400 && is_told, "{method} {path}: {status} {told}");
        }
    }
    assert_eq!(send(&server, "GET", "/api/v1/history?kind=override", &[]).2, json!([]));
}

#[test]
fn what_may_be_left_of_a_region_is_a_share_or_nothing() {
    let server = world(1);
    let asked = |residual: &str| {
        let path = format!("/api/v1/convergence?subject=eu&residual={residual}");
        send(&server, "GET", &path, &[])
    };
    for wrong in ["NaN", "inf", "-inf", "-1", "5", "1.01", "-0.01"] {
        let (status, _, told) = asked(wrong);
        let told = told["error"].as_str().unwrap_or_default();
        assert!(status == 400 && told.contains("from 0 to 1"), "{wrong}: {status} {told}");
    }
    for fine in ["0", "0.01", "1"] {
        assert_eq!(asked(fine).0, 200, "{fine}");
    }
}

#[test]
fn no_word_is_for_no_time_and_a_part_of_a_second_is_a_whole_one() {
    let server = Meridian::serve(PUSHED);
    let pushed = json!({ "check": "told", "address": "192.0.2.1", "up": true });
    let drained = json!({ "subject": "eu", "word": "drain", "reason": "test", "owner": "alice" });
    for (path, mut body) in [("/api/v1/pushed", pushed), ("/api/v1/overrides", drained)] {
        for (seconds, expected) in [(0, "at least 1"), (315_360_001, "at most 315360000")] {
            body["for_seconds"] = seconds.into();
            let (status, told) = say(&server, "PUT", path, &body);
            let is_told = told.contains(&format!("`for_seconds: {seconds}`"));
            assert!(status == 400 && is_told && told.contains(expected), "{path}: {told}");
        }
    }
    for wrong in ["3651d", "99999999d", "99999999999999999d"] {
        let word = ["drain", "eu", "--reason", "test", "--dry-run", "--for", wrong];
        let (fine, told) = server.ctl(&word);
        assert!(!fine && told.contains("--for") && told.contains("of 3650d at most"), "{told}");
    }
    let (fine, told) = server.ctl(&["push", "told", "192.0.2.1", "up", "--for", "500ms"]);
    assert!(fine, "{told}");
    wait_until(&"up".to_owned(), || server.endpoint("192.0.2.1".parse().unwrap()).0);
    let ramp = ["drain", "eu", "--reason", "test", "--ramp", "10%/1500ms", "--dry-run"];
    let (fine, told) = server.ctl(&ramp);
    assert!(!fine && told.contains("a time of whole seconds, such as 10%/30s"), "{told}");
}

#[test]
fn what_is_no_request_is_told_so_in_json_as_it_is_described() {
    let server = world(1);
    let api = send(&server, "GET", "/api/v1/openapi.json", &[]).2;
    let whole = json!({ "subject": "eu", "word": "drain", "reason": "test", "owner": "alice" });
    let large = format!("@{}", server.path("large").display());
    server.write("large", format!("\"{}\"", "x".repeat(70_000)).as_bytes());
    let text = "Content-Type: text/plain";
    let whole = whole.to_string();
    let wrong: [(u16, &[&str]); 5] = [
        (400, &["-H", JSON, "-d", "no json"]),
        (422, &["-H", JSON, "-d", "{}"]),
        (415, &["-H", text, "-d", &whole]),
        (413, &["-H", JSON, "--data-binary", &large]),
        (422, &["-H", JSON, "-d", r#"{"subject": 1}"#]),
    ];
    let (overrides, pushed, writers) = ("/api/v1/overrides", "/api/v1/pushed", "/api/v1/writers");
    for (method, path) in [
        ("PUT", overrides),
        ("DELETE", overrides),
        ("POST", "/api/v1/failback"),
        ("PUT", pushed),
        ("PUT", writers),
    ] {
        for (expected, body) in &wrong {
            let (status, format, told) = send(&server, method, path, body);
            let is_told = told["error"].as_str().is_some_and(|told| !told.is_empty());
            assert!(
                status == *expected && format == "application/json" && is_told,
                "{method} {path} {body:?}: {status} {format} {told}"
            );
            let responses = &api["paths"][path][method.to_lowercase()]["responses"];
            assert!(responses[status.to_string()].is_object(), "{method} {path} {status}");
        }
    }
    for path in ["/api/v1/explain", "/api/v1/history?limit=x", "/api/v1/convergence?residual=x"] {
        let (status, format, told) = send(&server, "GET", path, &[]);
        assert!(
            status == 400 && format == "application/json" && told["error"].is_string(),
            "{path}: {status} {format} {told}"
        );
    }
    // What a path does not take behind it is no wish that was followed.
    for (path, methods) in api["paths"].as_object().unwrap() {
        for (method, of) in methods.as_object().unwrap() {
            let (status, _, told) =
                send(&server, &method.to_uppercase(), &format!("{path}?dry_rnu=1"), &[]);
            let error = told["error"].as_str().unwrap();
            assert!(status == 400 && error.contains("`dry_rnu`"), "{method} {path}: {told}");
            for known in of["parameters"].as_array().into_iter().flatten() {
                let known = known["name"].as_str().unwrap();
                assert!(error.contains(&format!("`{known}`")), "{method} {path}: {told}");
            }
        }
    }
    // Reading needs a token too, where it is not open.
    for (path, methods) in api["paths"].as_object().unwrap() {
        for (method, of) in methods.as_object().unwrap() {
            assert!(of["responses"]["401"].is_object(), "{method} {path}");
        }
    }
}

/// Connections that ask for much and never read: nobody else is kept out by them, and what is made
/// for them is not kept in memory as often as there are of them.
#[test]
fn clients_that_never_read_keep_nobody_out_and_cost_little() {
    let server = world(1500);
    let size = server.get("/api/v1/status").1.len();
    let before = server.own_memory();
    let at: SocketAddr = server.url("").trim_start_matches("http://").parse().unwrap();
    let greedy: Vec<Socket> = (0..256)
        .map(|_| {
            let mut socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            // The kernel takes little of an answer for who does not read.
            socket.set_recv_buffer_size(4096).unwrap();
            socket.connect(&at.into()).unwrap();
            // Several, as even so it takes more than one.
            let request = b"GET /api/v1/status HTTP/1.1\r\nHost: test\r\n\r\n";
            socket.write_all(&request.repeat(5)).unwrap();
            socket
        })
        .collect();
    let most = std::cell::Cell::new(0);
    wait_within(Duration::from_secs(60), "an answer for somebody else", || {
        most.set(most.get().max(server.own_memory().saturating_sub(before)));
        (server.get("/healthz").0 == 200).then_some(())
    });
    wait_for("the status for somebody else", || {
        most.set(most.get().max(server.own_memory().saturating_sub(before)));
        (server.get("/api/v1/status").0 == 200).then_some(())
    });
    // A quarter of what all of them asked for.
    let all = u64::try_from(greedy.len() * size / 1024).unwrap();
    assert!(most.get() < all / 4, "{} KiB of {all} KiB", most.get());
}
