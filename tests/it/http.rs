//! The HTTP address: what the dashboard, Prometheus and orchestrators read.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Meridian, Nginx, free_port, meridian, wait_for, wait_until};

fn world() -> (Meridian, [Nginx; 2]) {
    let port = free_port();
    let regions = [Nginx::start(port), Nginx::start(port)];
    let [us, eu] = regions.each_ref().map(|region| region.address);
    let server = Meridian::serve(&format!(
        "regions: {{ us: {{ at: [39, -77] }}, eu: {{ at: [53, -6] }}, cdn: {{ at: [53, -6] }} }}
checks: {{ web: {{ http: /healthz, port: {port} }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web: {{ names: [www.example.com], check: web, regions: {{ us: {us}, eu: {eu} }} }}
  blog: {{ names: [blog.example.com], regions: {{ cdn: 192.0.2.7 }} }}
"
    ));
    (server, regions)
}

#[test]
fn the_status_tells_regions_endpoints_shares_and_events() {
    let (server, [_us, mut eu]) = world();
    let status = server.status();
    assert_eq!(status["ready"], true);
    assert_eq!(status["node"], "test");
    let region = |status: &Value, row: usize| {
        let region = &status["regions"][row];
        (region["up"].as_u64().unwrap(), region["down"].as_u64().unwrap())
    };
    assert_eq!((region(&status, 0), region(&status, 1)), ((1, 0), (1, 0)));
    let shares = |status: &Value| -> Vec<f64> {
        let served = status["services"][0]["served"].as_array().unwrap();
        served.iter().map(|of| of["share"].as_f64().unwrap()).collect()
    };
    let both = shares(&status);
    assert!(both.len() == 2 && (both.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{both:?}");
    eu.process.kill();
    wait_until(&((1, 0), (0, 1)), || {
        let status = server.status();
        (region(&status, 0), region(&status, 1))
    });
    let status = server.status();
    assert_eq!(shares(&status), [1.0]);
    let event = &status["events"][0];
    assert_eq!(
        (event["what"].as_str(), event["why"].as_str()),
        (Some("down"), Some("connection refused"))
    );
    assert!(event["took_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_page_and_the_words_for_orchestrators_are_there() {
    let (server, _regions) = world();
    let (code, page) = server.get("/");
    assert!(code == 200 && page.contains("<!doctype html>"), "{page}");
    // It is whole: nothing is loaded from anywhere else.
    assert!(!page.contains("src=") && !page.contains("@import"), "{page}");
    assert_eq!(server.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(server.get("/readyz"), (200, "ready\n".to_owned()));
    let (status, told) = server.get("/nope");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(status, 404);
    assert!(told["error"].as_str().unwrap().contains("no such path"), "{told}");
    let posted = ["-s", "-i", "-m", "10", "-X", "POST", &server.url("/api/v1/status")];
    let told = Command::new("curl").args(posted).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.starts_with("HTTP/1.1 405 "), "{told}");
    assert!(told.contains("allow: GET,HEAD\r\n") && told.contains("another method"), "{told}");
}

#[test]
fn prometheus_reads_the_metrics() {
    let (server, [us, _eu]) = world();
    let answered =
        "meridian_queries_total{transport=\"udp\",rcode=\"NOERROR\",service=\"web\",region=\"us\"}";
    assert_eq!(server.addresses("www.example.com"), [us.address.to_string()]);
    wait_for(answered, || (server.metric(answered) == 1.0).then_some(()));
    let state = format!(
        "meridian_endpoint_state{{service=\"web\",region=\"us\",endpoint=\"{}\"}}",
        us.address
    );
    assert_eq!(server.metric(&state), 1.0);
    let unchecked = "meridian_endpoint_state{service=\"blog\",region=\"cdn\",\
                     endpoint=\"192.0.2.7\",unchecked=\"yes\"}";
    assert_eq!(server.metric(unchecked), 1.0);
    assert!(
        server.metric("meridian_geoip_build_timestamp_seconds{database=\"in_the_box\"}") > 1.7e9
    );
    let (_, text) = server.get("/metrics");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{text}");
}

/// What an alert looks at must be there before the first event: to Prometheus, a counter that
/// appears as 1 has not grown.
#[test]
fn what_alerts_count_is_zero_at_the_first_scrape() {
    let server = Meridian::serve(
        "regions: { us: { at: [39, -77] } }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services: { web: { names: [www.example.com], regions: { us: 192.0.2.1 } } }
webhooks: { chat: { url: \"http://127.0.0.1:9/\" } }
",
    );
    let (_, first) = server.get("/metrics");
    for line in [
        "meridian_panics_total 0",
        "meridian_state_lost_total 0",
        "meridian_unsent_total 0",
        "meridian_tcp_refused_total{reason=\"connections\"} 0",
        "meridian_tcp_connections 0",
        "meridian_truncated_total{transport=\"udp\"} 0",
        "meridian_silent_total{reason=\"too_short\"} 0",
        "meridian_limited_total{how=\"dropped\"} 0",
        "meridian_reloads_total{what=\"configuration\",outcome=\"refused\"} 0",
        "meridian_reload_refused{what=\"geoip\"} 0",
        "meridian_probes_total{outcome=\"local\"} 0",
        "meridian_webhook_events_total{webhook=\"chat\",outcome=\"lost\"} 0",
        "meridian_probe_lag_seconds_bucket{le=\"+Inf\"} 0",
        "meridian_failover_seconds_bucket{le=\"2\"} 0",
        "meridian_failover_seconds_bucket{le=\"+Inf\"} 0",
    ] {
        assert!(first.lines().any(|told| told == line), "{line}: {first}");
    }
    let memory = server.metric("process_resident_memory_bytes");
    assert!(memory > 5e6, "{memory}: {first}");
    assert!(server.metric("process_open_fds") > 5.0, "{first}");
    let alerts = include_str!("../../deploy/prometheus/alerts.yml");
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = alerts.split(|c| !is_part(c)).filter(|word| word.starts_with("meridian_"));
    for counted in words.filter(|word| word.ends_with("_total") || word.ends_with("_bucket")) {
        // A share of what is asked needs no beginning: it lasts.
        let is_there = first.lines().any(|told| told.starts_with(counted));
        assert!(is_there || counted == "meridian_queries_total", "{counted}: {first}");
    }
}

#[test]
fn explain_tells_the_whole_decision() {
    let (server, [us, eu]) = world();
    let url = server.url("");
    let explain = |more: &[&str]| {
        let arguments = ["explain", "www.example.com", "--from", "134.226.1.7", "--server", &url];
        let output = meridian(&[&arguments[..], more].concat());
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (good, told) = explain(&[]);
    assert!(good);
    for part in ["IE", "database", "nearest by great-circle distance", " km", "30 s, as configured"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(told.contains(&format!("answer     {}", eu.address)), "{told}");
    let (_, told) = explain(&["--down", "eu"]);
    assert!(told.contains(&format!("answer     {}", us.address)), "{told}");
    assert!(told.contains("eu") && told.contains("down"), "{told}");
    // What is said of it stands when it goes down.
    assert!(server.ctl(&["up", "web/eu", "--reason", "test"]).0);
    let (_, told) = explain(&["--down", "eu"]);
    assert!(told.contains(&format!("answer     {}", eu.address)), "{told}");
    assert!(told.contains("said to be up by an operator (probes: down)"), "{told}");
    assert!(server.ctl(&["clear", "web/eu"]).0);
    let (_, told) = explain(&["--json"]);
    assert!(serde_json::from_str::<Value>(&told).is_ok(), "{told}");
    let (good, _) = explain(&["--down", "nowhere"]);
    assert!(!good);
    let (code, body) = server.get("/api/v1/explain?name=www.example.com&from=nobody");
    assert!(code == 400 && body.contains("nobody"), "{body}");
}

#[test]
fn explain_follows_aliases_as_answers_do() {
    let server = Meridian::serve(
        "regions: { us: { at: [39, -77] }, eu: { at: [53, -6] } }
zones:
  example.com:
    ns: [ns1.example.net]
    records:
      www: { CNAME: front }
      out: { CNAME: www.example.net. }
      gone: { CNAME: nowhere }
      a: { CNAME: b }
      b: { CNAME: a }
services:
  front:
    names: [front.example.com]
    regions: { us: { cname: web.example.com }, eu: { cname: web.example.com } }
  web: { names: [web.example.com], regions: { us: 192.0.2.1, eu: 192.0.2.2 } }
",
    );
    let read = |question: &str| -> Value {
        let path = format!("/api/v1/explain?from=134.226.1.7&name={question}");
        serde_json::from_str(&server.get(&path).1).unwrap()
    };
    let steps = |question: &str| {
        let told = read(question);
        let then = told["then"].as_array().unwrap().clone();
        let steps = std::iter::once(&told).chain(&then).map(|step| {
            let text = |key: &str| step[key].as_str().unwrap_or("-").to_owned();
            let answer = step["answer"][0].as_str().unwrap_or("-");
            format!("{} {} {} {answer}", text("name"), text("outcome"), text("alias"))
        });
        steps.collect::<Vec<_>>()
    };
    let followed = [
        "www.example.com. zone front.example.com. -",
        "front.example.com. steered - web.example.com.",
        "web.example.com. steered - 192.0.2.2",
    ];
    assert_eq!(steps("www.example.com"), followed);
    assert_eq!(steps("front.example.com"), followed[1..]);
    assert_eq!(steps("web.example.com"), followed[2..]);
    assert_eq!(steps("www.example.com&type=CNAME"), ["www.example.com. zone - -"]);
    assert_eq!(steps("front.example.com&type=CNAME"), followed[1..2]);
    let out = ["out.example.com. zone www.example.net. -", "www.example.net. not_ours - -"];
    assert_eq!(steps("out.example.com"), out);
    let gone = steps("gone.example.com");
    assert_eq!(gone[1..], ["nowhere.example.com. no_such_name - -"]);
    let circle = ["a.example.com. zone b.example.com. -", "b.example.com. zone a.example.com. -"];
    assert_eq!(steps("a.example.com"), circle);

    let told = |name: &str| {
        let url = server.url("");
        let output = meridian(&["explain", name, "--from", "134.226.1.7", "--server", &url]);
        String::from_utf8(output.stdout).unwrap()
    };
    let www = told("www.example.com");
    let parts = ["alias of front.example.com.", "front (nearest)", "web (nearest)", "192.0.2.2"];
    for part in parts {
        assert!(www.contains(part), "{part}: {www}");
    }
    let out = told("out.example.com");
    assert!(out.contains("no zone that is served here") && !out.contains("REFUSED"), "{out}");
}

#[test]
fn that_nothing_is_up_for_some_clients_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("states.txt"), "192.0.2.1 up\n2001:db8::1 down\n").unwrap();
    let server = Meridian::serve_in(
        folder,
        "regions: { us: {} }
checks: { own: { pushed: states.txt } }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services:
  web: { names: [www.example.com], check: own, regions: { us: [192.0.2.1, \"2001:db8::1\"] } }
",
    );
    let share = |rtype| {
        server.metric(&format!("meridian_nothing_up_share{{service=\"web\",type=\"{rtype}\"}}"))
    };
    wait_until(&[0.0, 1.0], || ["A", "AAAA"].map(share));
    let (_, told) = server.ctl(&["status"]);
    let alarm = "ALARM     web: nothing is up for 100 % of its AAAA clients (all down: answered as";
    assert!(told.contains(alarm), "{told}");
    assert!(!told.contains("the region us is down"), "{told}");
}
