//! What operators say: over the API and by `ctl`, kept over restarts, refused where it would hurt.

use std::process::Command;
use std::thread;

use hickory_proto::rr::RecordType;
use serde_json::Value;

use crate::harness::{
    Meridian, NODE, Nginx, ask, data, free_port, meridian, scope, wait_for, wait_until,
};

pub(crate) const DUBLIN: &str = "134.226.1.0/24";

pub(crate) fn config(port: u16, [us, eu]: [&str; 2]) -> String {
    format!(
        "regions:
  us: {{ at: [39, -77], capacity: 100 }}
  eu: {{ at: [53, -6], capacity: 300 }}
checks: {{ web: {{ http: /healthz, port: {port}, rise: 2, hold_down: 0s }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web: {{ names: [www.example.com], check: web, regions: {{ us: {us}, eu: {eu} }} }}
  api: {{ names: [api.example.com], check: web, regions: {{ us: {us}, eu: {eu} }} }}
"
    )
}

fn world() -> (Meridian, [Nginx; 2]) {
    let port = free_port();
    let regions = [Nginx::start(port), Nginx::start(port)];
    let [us, eu] = regions.each_ref().map(|region| region.address.to_string());
    (Meridian::serve(&config(port, [&us, &eu])), regions)
}

pub(crate) fn because(word: &[&'static str]) -> Vec<&'static str> {
    [word, &["--reason", "maintenance", "--owner", "alice"]].concat()
}

#[test]
fn a_drained_region_loses_its_clients_and_gets_them_back_when_that_is_cleared() {
    let (server, [us, eu]) = world();
    let (us, eu) = (vec![us.address.to_string()], vec![eu.address.to_string()]);
    let web = || server.addresses_for("www.example.com", DUBLIN);
    let api = || server.addresses_for("api.example.com", DUBLIN);
    assert_eq!(web(), eu);

    let (fine, told) = server.ctl(&because(&["drain", "web/eu"]));
    assert!(fine && told.starts_with("web/eu: drain\n"), "{told}");
    wait_until(&us, web);
    assert_eq!(api(), eu, "the other service goes on");
    let (_, explained) = server.get("/api/v1/explain?name=www.example.com&from=134.226.1.1");
    assert!(explained.contains("drained by an operator (probes: up)"), "{explained}");
    let (_, status) = server.ctl(&["status"]);
    assert!(status.contains("override  web/eu: drain since "), "{status}");
    assert!(status.contains(" until cleared, by alice: maintenance"), "{status}");

    // The narrower word counts.
    assert!(server.ctl(&because(&["drain", "eu"])).0);
    wait_until(&us, api);
    assert!(server.ctl(&because(&["up", "api/eu"])).0);
    wait_until(&eu, api);
    let (_, explained) = server.get("/api/v1/explain?name=api.example.com&from=134.226.1.1");
    assert!(explained.contains("said to be up by an operator (probes: up)"), "{explained}");
    for subject in ["eu", "web/eu", "api/eu"] {
        assert_eq!(server.ctl(&["clear", subject]), (true, format!("{subject}: cleared")));
    }
    wait_until(&eu, web);
    assert_eq!(server.ctl(&["overrides"]), (true, "nothing is overridden".to_owned()));
    let (fine, told) = server.ctl(&["clear", "eu"]);
    assert!(!fine && told.contains("nothing is said of eu"), "{told}");
}

#[test]
fn the_word_of_an_operator_goes_over_the_probes() {
    let (server, [us, mut eu]) = world();
    let dublin = || server.addresses_for("www.example.com", DUBLIN);
    let address = eu.address.to_string();
    let say = |word: &str, subject: &str| {
        let (fine, told) = server.ctl(&[word, subject, "--reason", "test", "--owner", "bob"]);
        assert!(fine, "{told}");
    };
    say("down", &address);
    wait_until(&vec![us.address.to_string()], dublin);
    say("up", &address);
    wait_until(&vec![address.clone()], dublin);
    eu.process.kill();
    wait_until(&"down".to_owned(), || server.endpoint(eu.address).0);
    assert_eq!(dublin(), std::slice::from_ref(&address));
    assert!(server.ctl(&["clear", &address]).0);
    wait_until(&vec![us.address.to_string()], dublin);
}

#[test]
fn what_would_leave_a_name_with_nothing_is_refused_unless_forced() {
    let (server, [us, eu]) = world();
    let dublin = || server.addresses_for("www.example.com", DUBLIN);
    assert!(server.ctl(&because(&["drain", "us"])).0);
    for word in ["drain", "down"] {
        let (fine, told) = server.ctl(&because(&[word, "eu"]));
        assert!(!fine && told.contains("web, api") && told.contains("`--force`"), "{told}");
    }
    assert_eq!(dublin(), [eu.address.to_string()], "nothing has changed");
    let (fine, told) = server.ctl(&because(&["drain", "eu", "--force"]));
    assert!(fine && told.contains("DANGER    web is left with nothing"), "{told}");
    // Drained is not gone: a name keeps its record.
    assert_eq!(dublin(), [eu.address.to_string()]);
    // Of two that are drained, the one that is down is no choice.
    drop(eu);
    wait_until(&vec![us.address.to_string()], dublin);
}

#[test]
fn senseless_words_are_refused_with_what_there_is() {
    let (server, _regions) = world();
    for (word, expected) in [
        (&["drain", "asia"][..], "no region `asia`; there are: us, eu"),
        (&["drain", "shop/eu"], "no service `shop`; there are: web, api"),
        (&["drain", "192.0.2.1"], "no endpoint has 192.0.2.1"),
        (&["drain", "/eu"], "expected REGION, SERVICE/REGION or an address"),
        (&["drain", "eu", "--until", "2001-01-01T00:00:00Z"], "it would be over already"),
        (&["drain", "eu", "--until", "tomorrow"], "expected a time such as 2030-01-31T12:00:00Z"),
        (&["drain", "eu", "--ramp", "fast"], "expected a share of the clients and a time"),
        (&["drain", "eu", "--ramp", "0%/30s"], "expected a share of the clients and a time"),
        (&["drain", "eu", "--for", "long"], "expected a time such as 90s, 30m or 2h"),
    ] {
        let (fine, told) = server.ctl(&because(word));
        assert!(!fine && told.contains(expected), "{word:?}: {told}");
    }
    let (fine, told) = server.ctl(&["drain", "eu"]);
    assert!(!fine && told.contains("--reason"), "{told}");
    assert_eq!(server.status()["overrides"], Value::Array(Vec::new()));
    assert!(server.ctl(&because(&["drain", "eu"])).0);
    // Clients would be sent back to what is drained, whatever is said of it.
    for word in ["up", "drain", "down"] {
        let (fine, told) = server.ctl(&because(&[word, "eu", "--ramp", "10%/30s"]));
        assert!(!fine && told.contains("would be back at once"), "{told}");
    }
}

#[test]
fn a_dry_run_tells_who_would_move_and_moves_nobody() {
    let (server, [_us, eu]) = world();
    let (fine, told) = server.ctl(&because(&["drain", "web/eu", "--dry-run", "--json"]));
    let effect: Value = serde_json::from_str(&told).unwrap();
    assert!(fine && effect["done"] == false, "{told}");
    let moved = |service: &str, region: &str| -> (f64, f64) {
        let shares = effect["shares"].as_array().unwrap().iter();
        let found = shares.clone().find(|of| of["service"] == service && of["region"] == region);
        let found = found.unwrap();
        (found["before"].as_f64().unwrap(), found["after"].as_f64().unwrap())
    };
    let (us, eu_share) = (moved("web", "us"), moved("web", "eu"));
    assert!(eu_share.0 > 0.2 && eu_share.1 == 0.0, "{told}");
    assert!((us.1 - 1.0).abs() < 1e-9 && (us.0 + eu_share.0 - 1.0).abs() < 1e-9, "{told}");
    assert_eq!(moved("api", "eu").0, moved("api", "eu").1);
    let eu_load = &effect["regions"][1];
    assert_eq!((&eu_load["region"], &eu_load["capacity"]), (&"eu".into(), &0.75.into()));
    assert_eq!(server.addresses_for("www.example.com", DUBLIN), [eu.address.to_string()]);
    assert_eq!(server.ctl(&["overrides"]).1, "nothing is overridden");
}

#[test]
fn a_ramp_moves_the_same_share_of_clients_on_every_node() {
    let (server, [us, eu]) = world();
    let other =
        Meridian::serve(&config(us.port, [&us.address.to_string(), &eu.address.to_string()]));
    let moved = |server: &Meridian| -> Vec<u8> {
        let is_moved = |third: &u8| {
            let client = format!("134.226.{third}.0/24");
            let answer = ask(server.dns, "www.example.com", RecordType::A, Some(&client));
            // A neighbour may be on the other side of the ramp.
            assert_eq!(scope(&answer), 24);
            data(&answer) == [us.address.to_string()]
        };
        (0..=255).filter(is_moved).collect()
    };
    for server in [&server, &other] {
        assert!(server.ctl(&because(&["drain", "eu", "--ramp", "30%/1h"])).0);
    }
    let (here, there) = (moved(&server), moved(&other));
    assert_eq!(here, there);
    // 30 % of 256 is 77; five standard deviations are 37.
    assert!((40..=114).contains(&here.len()), "{}", here.len());
    // Another ramp takes no fewer.
    for word in ["drain", "down"] {
        let (fine, told) = server.ctl(&because(&[word, "eu", "--ramp", "10%/30s"]));
        assert!(!fine && told.contains("would be back at once"), "{told}");
        assert_eq!(moved(&server), here);
    }
    assert!(server.ctl(&because(&["down", "eu", "--ramp", "60%/1h"])).0);
    let more = moved(&server);
    assert!(more.len() > here.len() && here.iter().all(|third| more.contains(third)));
}

#[test]
fn words_and_history_outlive_the_process_and_a_word_ends_in_time() {
    let (server, [us, eu]) = world();
    assert!(server.ctl(&because(&["drain", "web/eu"])).0);
    assert!(server.ctl(&because(&["drain", "api/eu", "--for", "2s"])).0);
    let history = |server: &Meridian| server.ctl(&["history", "--kind", "override"]).1;
    // A word is kept before it is in force, what is told of it soon after.
    wait_until(&2, || history(&server).lines().count());
    let server = server.restart();
    let us = vec![us.address.to_string()];
    assert_eq!(server.addresses_for("www.example.com", DUBLIN), us, "from the first answer on");
    let api = || server.addresses_for("api.example.com", DUBLIN);
    wait_until(&vec![eu.address.to_string()], api);
    assert_eq!(server.addresses_for("www.example.com", DUBLIN), us);
    wait_until(&3, || history(&server).lines().count());
    let told = history(&server);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 3, "{told}");
    assert!(lines[0].contains("web/eu: drain (maintenance, by alice (uid "), "{told}");
    assert!(lines[2].contains("api/eu: cleared (drain until now: maintenance"), "{told}");
    assert!(server.logged("\"kind\":\"override\"") > 0);
}

#[test]
fn a_restart_in_an_outage_never_answers_with_the_dead_region() {
    let port = free_port();
    let [us, mut eu] = [Nginx::start(port), Nginx::start(port)];
    let text = config(port, [&us.address.to_string(), &eu.address.to_string()]);
    // It answers before any probe has ended: only what was kept can be known.
    let head = "node: { listen: \"127.0.0.1:0\", state: state, ready_within: 0s }\n\
                http: { listen: \"127.0.0.1:0\" }\n";
    let server = Meridian::start(tempfile::tempdir().unwrap(), &format!("{head}{text}"));
    eu.process.kill();
    let us = vec![us.address.to_string()];
    // Without a verdict it is passed over too, once the other has one: nothing is kept of that.
    wait_until(&"down".to_owned(), || server.endpoint(eu.address).0);
    wait_until(&us, || server.addresses_for("www.example.com", DUBLIN));
    // Stopped, it takes connections and says nothing: the first verdict takes its time.
    eu.restart();
    eu.process.signal("STOP");
    // What came before this is on disk when it is answered: one thread keeps and reads.
    assert_eq!(server.get("/api/v1/history").0, 200);
    let server = server.restart();
    assert_eq!(server.addresses_for("www.example.com", DUBLIN), us);
    eu.process.signal("CONT");
    let own = vec![eu.address.to_string()];
    wait_until(&own, || server.addresses_for("www.example.com", DUBLIN));
}

#[test]
fn a_broken_state_file_costs_what_was_in_it_and_nothing_else() {
    let (server, [_us, eu]) = world();
    assert!(server.ctl(&because(&["drain", "eu"])).0);
    let file = server.path("state/meridian.db");
    std::fs::remove_file(server.path("state/meridian.db-wal")).ok();
    std::fs::write(
        &file,
        "this is no database, and long enough to be looked at as one. ".repeat(99),
    )
    .unwrap();
    let server = server.restart();
    assert_eq!(server.addresses_for("www.example.com", DUBLIN), [eu.address.to_string()]);
    assert!(server.path("state/meridian.db.broken").exists());
    assert_eq!(server.logged("state at fault"), 1);
    let (_, told) = server.ctl(&["history", "--kind", "node"]);
    assert!(told.contains("state at fault") && told.contains("meridian.db.broken"), "{told}");
    let (_, told) = server.ctl(&["status"]);
    assert!(told.contains("ALARM     what operators said before the start is lost"), "{told}");
    assert!(server.ctl(&because(&["drain", "eu"])).0, "and a new one is kept");
}

#[test]
fn a_full_disk_stops_no_start() {
    let (mut server, [us, _eu]) = world();
    assert!(server.ctl(&because(&["drain", "eu"])).0);
    // Ended in peace it leaves the file alone, and nothing that is open beside it.
    server.process.signal("TERM");
    wait_for("its end", || server.process.ended());
    let Meridian { folder, .. } = server;
    let config = std::fs::read_to_string(folder.path().join("meridian.yaml")).unwrap();
    let script = "cp state/meridian.db . && mount -t tmpfs -o size=1m none state || exit 1
        cp meridian.db state; cat /dev/zero > state/full; exec \"$0\" \"$@\"";
    // Where nobody else sees what is mounted; only root may.
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_meridian")]);
    command.current_dir(folder.path());
    let server = Meridian::start_with(command, folder, &config);
    let own = vec![us.address.to_string()];
    wait_until(&own, || server.addresses_for("www.example.com", DUBLIN));
    let (_, told) = server.ctl(&["status"]);
    assert!(told.contains("ALARM     nothing is kept on disk until the next start"), "{told}");
    assert!(told.contains("override  eu: drain"), "what was said before is known: {told}");
    assert!(server.metric("meridian_state_lost_total") > 0.0);
    let (fine, told) = server.ctl(&because(&["drain", "us"]));
    assert!(!fine, "it would be on no disk: {told}");
}

#[test]
fn a_disk_that_fills_is_an_alarm_with_its_place_until_there_is_room() {
    let [us, eu] = ["127.0.0.2", "127.0.0.3"];
    let config = format!("{NODE}{}", config(free_port(), [us, eu]));
    let folder = tempfile::tempdir().unwrap();
    let script = "mkdir state && mount -t tmpfs -o size=2m none state || exit 1
        exec \"$0\" \"$@\"";
    // Where nobody else sees what is mounted; only root may.
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_meridian")]);
    command.current_dir(folder.path());
    let server = Meridian::start_with(command, folder, &config);
    let state = server.path("state").display().to_string();
    let within = format!("/proc/{}/root{state}/full", server.process.id());
    let status = || server.ctl(&["status"]).1;
    let alarm = format!("ALARM     what happened last is not kept: {state}: database");
    assert!(!status().contains("is not kept"));
    let zeros = std::fs::File::open("/dev/zero").unwrap();
    let full = std::io::copy(&mut &zeros, &mut std::fs::File::create(&within).unwrap());
    assert!(full.is_err());
    let say = || server.ctl(&because(&["drain", "eu", "--force"]));
    let refused = wait_for("a refusal", || Some(say()).filter(|(fine, _)| !fine)).1;
    assert!(refused.contains(&format!("{state}: database or disk is full")), "{refused}");
    assert!(server.metric("meridian_state_lost_total") > 0.0);
    wait_for("an alarm", || status().contains(&alarm).then_some(()));
    // Nothing is to be done but to make room.
    std::fs::remove_file(&within).unwrap();
    wait_for("its end", || (!status().contains("is not kept")).then_some(()));
    assert!(say().0);
}

/// What curl prints for a change over the network.
fn change(server: &Meridian, token: Option<&str>, body: &str) -> (String, String) {
    let header = format!("Authorization: Bearer {}", token.unwrap_or_default());
    let mut curl = Command::new("curl");
    curl.args(["-s", "-m", "10", "-w", "\n%{http_code}", "-X", "PUT", "-d", body])
        .args(["-H", "Content-Type: application/json"]);
    if token.is_some() {
        curl.args(["-H", &header]);
    }
    let output = curl.arg(server.url("/api/v1/overrides")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, code) = text.rsplit_once('\n').unwrap();
    (code.to_owned(), body.to_owned())
}

#[test]
fn over_the_network_a_change_needs_a_token_and_is_its_owner_s() {
    let port = free_port();
    let regions = [Nginx::start(port), Nginx::start(port)];
    let [us, eu] = regions.each_ref().map(|region| region.address.to_string());
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, "carol s3cret\n").unwrap();
    let head = "node: { listen: \"127.0.0.1:0\" }\n\
                http: { listen: \"127.0.0.1:0\", tokens: tokens, read: token }\n";
    let server = Meridian::start(folder, &format!("{head}{}", config(port, [&us, &eu])));
    let body = r#"{"subject": "eu", "word": "drain", "reason": "test", "owner": "carol"}"#;
    for (token, expected) in [(None, "needs a token"), (Some("guess"), "unknown token")] {
        let (code, told) = change(&server, token, body);
        assert!(code == "401" && told.contains(expected), "{code} {told}");
    }
    assert_eq!(server.get("/api/v1/status").0, 401);
    assert_eq!(server.get("/metrics").0, 401);
    let (code, page) = server.get("/");
    assert!(code == 200 && page.contains("Reading needs a token"), "{page}");
    assert_eq!(server.get("/readyz").0, 200, "supervisors carry no token");

    let (code, told) = change(&server, Some("s3cret"), body);
    assert_eq!(code, "200", "{told}");
    let file = tokens.to_str().unwrap();
    let ctl = ["ctl", "--server", &server.url(""), "--token-file", file, "history"];
    let wait = || {
        let told = String::from_utf8(meridian(&ctl).stdout).unwrap();
        told.contains("eu: drain (test, by carol (carol))").then_some(())
    };
    wait_for("the history", wait);
    for wrong in ["", "{}", r#"{"subject": "eu"}"#, "no json", &body.replace("drain", "explode")] {
        let (code, _) = change(&server, Some("s3cret"), wrong);
        assert!(code.starts_with('4'), "{code}: {wrong}");
    }
    // A token that is taken out of the file counts no more.
    std::fs::write(&tokens, "carol other\n").unwrap();
    assert_eq!(change(&server, Some("s3cret"), body).0, "401");
    assert_eq!(change(&server, Some("other"), body).0, "200");
}

#[test]
fn a_manual_failback_waits_for_the_operator_also_over_a_restart() {
    let port = free_port();
    let [us, mut eu] = [Nginx::start(port), Nginx::start(port)];
    let [us, eu_address] = [&us, &eu].map(|region| vec![region.address.to_string()]);
    let text = config(port, [&us[0], &eu_address[0]]);
    let text = text.replace("www.example.com], check", "www.example.com], failback: manual, check");
    let server = Meridian::serve(&text);
    let web = |server: &Meridian| server.addresses_for("www.example.com", DUBLIN);
    let api = |server: &Meridian| server.addresses_for("api.example.com", DUBLIN);
    eu.process.kill();
    wait_until(&us, || web(&server));
    eu.restart();
    wait_until(&eu_address, || api(&server));
    assert_eq!(web(&server), us);
    let server = server.restart();
    wait_until(&eu_address, || api(&server));
    assert_eq!(web(&server), us);
    let (_, status) = server.ctl(&["status"]);
    assert!(status.contains("ALARM     web/eu is well and waits: ctl failback"), "{status}");
    let (fine, told) = server.ctl(&["failback", "api/eu", "--owner", "alice"]);
    assert!(!fine && told.contains("does not wait"), "{told}");
    // Or it comes back by a share of the clients at a time.
    let is_back = |third: &u8| {
        let client = format!("134.226.{third}.0/24");
        server.addresses_for("www.example.com", &client) == eu_address
    };
    assert!(server.ctl(&because(&["up", "web/eu", "--ramp", "30%/1h"])).0);
    let back = (0..=255).filter(is_back).count();
    assert!((40..=114).contains(&back), "{back}");
    assert!(server.ctl(&["clear", "web/eu", "--owner", "alice"]).0);
    assert_eq!(web(&server), us);
    let (fine, told) = server.ctl(&["failback", "web/eu", "--owner", "alice"]);
    assert!(fine && told == "web/eu: let back", "{told}");
    assert_eq!(web(&server), eu_address);
}

#[test]
fn maintenance_comes_and_goes_by_the_clock() {
    let port = free_port();
    let regions = [Nginx::start(port), Nginx::start(port)];
    let [us, eu] = regions.each_ref().map(|region| region.address.to_string());
    let begins = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(20);
    let text = config(port, [&us, &eu]).replace("check: web,", "check: web, ttl: 8s,");
    let window = format!("of: web/eu, at: \"{begins}\", for: 5s");
    // In three days: it is not to be on now.
    let today = begins.to_zoned(jiff::tz::TimeZone::UTC).weekday().to_sunday_zero_offset();
    let day = (today + 3) % 7;
    let weekly = format!("of: us, at: \"30 1 * * {day} Europe/Dublin\", for: 2h, ramp: 10%/30s");
    let server = Meridian::serve(&format!(
        "{text}maintenance:\n  kernel: {{ {window} }}\n  weekly: {{ {weekly} }}\n"
    ));
    let answer = |name: &str| {
        let answer = ask(server.dns, name, RecordType::A, Some(DUBLIN));
        (data(&answer), answer.answers[0].ttl)
    };
    let of = |address: &String, ttl| (vec![address.clone()], ttl);
    assert_eq!(answer("www.example.com"), of(&eu, 8));
    let (_, told) = server.ctl(&["overrides"]);
    let planned =
        told.contains("web/eu: drain from ") && told.contains("us: drain, 10 %/30 s from");
    assert!(planned && told.contains("by the configuration: maintenance kernel"), "{told}");
    // As long before it begins as the last answer may be remembered, the answers are short-lived.
    wait_until(&of(&eu, 5), || answer("www.example.com"));
    assert!(jiff::Timestamp::now() < begins);
    let explain = || server.get("/api/v1/explain?name=www.example.com&from=134.226.1.1").1;
    assert!(explain().contains("a drain of it begins soon"), "{}", explain());
    wait_until(&of(&us, 8), || answer("www.example.com"));
    let (explain, (_, status)) = (explain(), server.ctl(&["status"]));
    assert!(explain.contains("drained by maintenance kernel (probes: up)"), "{explain}");
    assert!(status.contains("[drain by maintenance kernel]"), "{status}");
    assert!(jiff::Timestamp::now() >= begins);
    assert_eq!(answer("api.example.com"), of(&eu, 8), "the other service goes on");
    wait_until(&of(&eu, 8), || answer("www.example.com"));
    let (_, told) = server.ctl(&["history", "--kind", "override"]);
    let both = ["web/eu: drain", "web/eu: cleared"].map(|what| told.contains(what));
    assert_eq!(both, [true; 2], "{told}");
}

#[test]
fn a_dry_run_counts_by_those_who_ask() {
    let (server, _regions) = world();
    // One in eight who ask for one name is in Minnesota, without any order, and the others are in
    // Dublin; for the other name nobody asks.
    let mut asked: u32 = 0;
    let shares = || -> Value {
        let (fine, told) = server.ctl(&because(&["drain", "eu", "--dry-run", "--json"]));
        assert!(fine, "{told}");
        serde_json::from_str(&told).unwrap()
    };
    wait_for("enough that asked", || {
        for _ in 0..100 {
            let is_far = asked.wrapping_mul(2_654_435_761) >> 29 == 0;
            let from = if is_far { "128.101.101.0/24" } else { DUBLIN };
            server.addresses_for("www.example.com", from);
            asked += 1;
        }
        let told = shares();
        (told["shares"][0]["observed"].as_u64() >= Some(100)).then_some(())
    });
    let told = shares();
    let of = |service: &str, region: &str| {
        let mut all = told["shares"].as_array().unwrap().iter();
        let found = all.find(|of| of["service"] == service && of["region"] == region).unwrap();
        (found["before"].as_f64().unwrap(), found["after"].as_f64().unwrap(), &found["observed"])
    };
    let (before, after, _) = of("web", "eu");
    assert!((0.7..1.0).contains(&before) && after == 0.0, "{told}");
    let (before, after, _) = of("web", "us");
    assert!((0.01..0.3).contains(&before) && (after - 1.0).abs() < 1e-9, "{told}");
    assert_eq!(*of("api", "us").2, 0, "by addresses");
    // The load is that of the service that is asked for.
    let eu = told["regions"].as_array().unwrap().iter().find(|of| of["region"] == "eu").unwrap();
    assert!(eu["before"].as_f64() > Some(0.7) && eu["after"] == 0.0, "{told}");
}

/// `MERIDIAN_KILLS=200 tests/run --test it killed` does it so often.
#[test]
fn killed_at_any_moment_it_keeps_what_it_has_said_it_keeps() {
    let kills = std::env::var("MERIDIAN_KILLS").ok().and_then(|text| text.parse().ok());
    let (mut server, _regions) = world();
    let mut was = false;
    for round in 0..kills.unwrap_or(8) {
        let is_drain = round % 2 == 0;
        let mut ctl = Command::new(env!("CARGO_BIN_EXE_meridian"));
        ctl.arg("ctl").arg("--socket").arg(server.path("ctl.sock"));
        match is_drain {
            true => ctl.args(["drain", "eu", "--reason", "test", "--owner", "alice"]),
            false => ctl.args(["clear", "eu", "--owner", "alice"]),
        };
        let mut ctl = ctl.stdout(std::process::Stdio::null()).spawn().unwrap();
        // From before it is asked until after it has answered.
        thread::park_timeout(std::time::Duration::from_millis(3 * (round * 7 % 23)));
        server.process.kill();
        let is_done = ctl.wait().unwrap().success();
        server = server.restart();
        let (_, told) = server.ctl(&["overrides"]);
        let is = told.contains("eu: drain");
        assert!(is == is_drain || (!is_done && is == was), "round {round}: {told}");
        was = is;
        assert!(!server.path("state/meridian.db.broken").exists());
    }
}
