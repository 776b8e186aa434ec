//! Who is still sent where: what the ledger and the model say, beside real resolvers.

use std::process::Output;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;
use meridian::convergence::{Class, Layer};

use crate::cluster::World;
use crate::harness::{Meridian, Nginx, ask, data, free_port, meridian, wait_for, wait_until};
use crate::resolvers::{Resolver, dnsmasq, forwarding_bind, knot_resolver, recursor, unbound};

/// A service with these regions, whose answers live for so many seconds.
fn config(port: u16, regions: &str, ttl: u64, more: &str) -> String {
    format!(
        "regions: {{ us: {{ at: [39, -77] }}, eu: {{ at: [53, -6] }}, asia: {{ at: [1, 104] }} }}
checks: {{ web: {{ http: /healthz, port: {port}, rise: 2 }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web:
    {{ names: [www.example.com], steer: failover, check: web, ttl: {ttl}s,
      regions: {{ {regions} }} }}
{more}"
    )
}

/// Two regions, of which everybody is sent to `eu`.
fn world(ttl: u64, more: &str) -> (Meridian, [Nginx; 2]) {
    let port = free_port();
    let servers = [Nginx::start(port), Nginx::start(port)];
    let [us, eu] = servers.each_ref().map(|region| region.address);
    let regions = format!("eu: {eu}, us: {us}");
    (Meridian::serve(&config(port, &regions, ttl, more)), servers)
}

fn drain<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["drain", "eu", "--reason", "power", "--owner", "alice"], more].concat()
}

/// What `ctl` prints, and its exit code.
fn ctl(server: &Meridian, arguments: &[&str]) -> (Option<i32>, String) {
    let socket = server.path("ctl.sock");
    let all = [&["ctl", "--socket", socket.to_str().unwrap()], arguments].concat();
    let Output { status, stdout, stderr } = meridian(&all);
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

/// What `ctl` prints for programs, and its exit code.
fn json(server: &Meridian, arguments: &[&str]) -> (Option<i32>, Vec<serde_json::Value>) {
    let socket = server.path("ctl.sock");
    let all = [&["ctl", "--json", "--socket", socket.to_str().unwrap()], arguments].concat();
    let Output { status, stdout, .. } = meridian(&all);
    let read = serde_json::Deserializer::from_slice(&stdout).into_iter();
    (status.code(), read.collect::<Result<_, _>>().unwrap())
}

#[test]
fn a_drain_is_waited_for_until_no_resolver_remembers() {
    let (server, [us, eu]) = world(3, "convergence: { population: honest }");
    let resolvers = [unbound(&server, ""), knot_resolver(&server), dnsmasq(&server, "")];
    let asked =
        |resolver: &Resolver| data(&ask(resolver.at, "www.example.com", RecordType::A, None));
    let (us, eu) = (vec![us.address.to_string()], vec![eu.address.to_string()]);
    for resolver in &resolvers {
        assert_eq!(asked(resolver), eu);
    }
    let (code, told) = ctl(&server, &drain(&["--wait"]));
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("web/eu: answers that name it are remembered, until"), "{told}");
    assert!(told.contains("\neu: may be switched off\n"), "{told}");
    // Not too early.
    for resolver in &resolvers {
        assert_eq!(asked(resolver), us);
    }
    let (_, told) = ctl(&server, &["convergence"]);
    assert!(told.contains("web/eu: may be switched off\n"), "{told}");
    assert!(told.contains("it had 100.0 % of the clients"), "{told}");
}

#[test]
fn a_wait_ends_when_time_runs_out_and_when_the_drain_is_undone() {
    let pinned = "convergence:
  population: { most: { share: 98%, hold: 1s }, pools: { share: 2%, pinned: true } }
";
    // What is planned is no drain yet.
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let planned = format!("maintenance: {{ kernel: {{ of: eu, at: \"{later}\", for: 2h }} }}");
    let (server, _regions) = world(1, &format!("{pinned}{planned}"));
    assert_eq!(
        ctl(&server, &["convergence", "eu"]).1,
        "web/eu: in the answers\n  answers   0 that name it may be remembered, 0.0 % of the \
         service's\n"
    );
    let (code, told) = ctl(&server, &drain(&["--wait", "--timeout", "5s"]));
    assert_eq!(code, Some(3), "{told}");
    assert!(told.contains("eu: not to be switched off yet\nweb/eu: NOT TO BE SWITCHED OFF\n"));
    let why = "WAIT      2.0 % of its clients are expected to go there still; 1 % may";
    assert!(told.contains(why), "{told}");
    // Programs read JSON to the end, whichever that is. As much may be left.
    for (more, code, is_safe) in [(["--timeout", "0s"], 3, false), (["--residual", "2%"], 0, true)]
    {
        let (ended, told) = json(&server, &drain(&[&["--wait"], &more[..]].concat()));
        assert_eq!(ended, Some(code), "{told:?}");
        assert_eq!((&told[0]["done"], &told[1][0]["safe"]), (&true.into(), &is_safe.into()));
    }
    let (_, told) = json(&server, &["clear", "eu", "--owner", "bob"]);
    assert_eq!(told, [serde_json::json!({ "done": true, "told": "eu: cleared" })]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ctl(&server, &drain(&["--wait", "--timeout", "1m"])));
        let is_drained = || server.ctl(&["overrides"]).1.contains("eu: drain since");
        wait_for("the drain", || is_drained().then_some(()));
        assert!(server.ctl(&["clear", "eu", "--owner", "bob"]).0);
        let (code, told) = waiting.join().unwrap();
        assert_eq!(code, Some(4), "{told}");
        assert!(told.contains("eu: is drained no longer; do not switch it off"), "{told}");
    });
}

#[test]
fn a_wait_goes_on_while_the_server_is_started_anew() {
    let (server, [_us, eu]) = world(3, "convergence: { population: honest }");
    assert_eq!(server.addresses("www.example.com"), [eu.address.to_string()]);
    let socket = server.path("ctl.sock");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let there = ["ctl", "--socket", socket.to_str().unwrap()];
            meridian(&[&there[..], &drain(&["--wait"])].concat())
        });
        wait_for("the drain", || server.ctl(&["overrides"]).1.contains("eu: drain").then_some(()));
        let server = server.restart();
        let (_, told) = ctl(&server, &["convergence"]);
        assert!(told.starts_with("web/eu: NOT TO BE SWITCHED OFF\n  left      before "), "{told}");
        let Output { status, stdout, stderr } = waiting.join().unwrap();
        let told = String::from_utf8([stderr, stdout].concat()).unwrap();
        assert_eq!(status.code(), Some(0), "{told}");
        assert_eq!(told.matches("cannot reach").count(), 1, "{told}");
        assert!(told.ends_with("\neu: may be switched off\n"), "{told}");
    });
}

#[test]
fn answers_that_named_a_region_are_known_when_it_is_no_longer_configured() {
    let port = free_port();
    let [us, eu] = [Nginx::start(port), Nginx::start(port)];
    let regions = format!("eu: {}, us: {}", eu.address, us.address);
    let server = Meridian::serve(&config(port, &regions, 30, ""));
    assert_eq!(server.addresses("www.example.com"), [eu.address.to_string()]);
    let rows = || {
        let (_, text) = server.get("/api/v1/convergence");
        serde_json::from_str::<serde_json::Value>(&text).unwrap().as_array().unwrap().clone()
    };
    assert!(rows().is_empty());
    server.write_config(&config(port, &format!("us: {}", us.address), 30, ""));
    wait_until(&vec![us.address.to_string()], || server.addresses("www.example.com"));
    let rows = rows();
    let row = rows.first().unwrap();
    assert_eq!((&row["service"], &row["region"]), (&"web".into(), &"eu".into()));
    assert!(row["answers"].as_u64() > Some(0) && row["safe"] == false, "{row}");
    assert!(row["had"].as_f64() > Some(0.99), "{row}");
    // Whoever asks for the region is told the same.
    for subject in ["eu", "web/eu"] {
        let (_, text) = server.get(&format!("/api/v1/convergence?subject={subject}"));
        let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&rows[0]["region"], &rows[0]["safe"]), (&"eu".into(), &false.into()), "{text}");
    }
    let (code, told) = ctl(&server, &drain(&["--wait", "--timeout", "1s"]));
    assert_eq!(code, Some(3), "{told}");
    assert!(told.contains("\nweb/eu: NOT TO BE SWITCHED OFF\n"), "{told}");
    // A region of which nothing is known is not taken for safe.
    let word = ["drain", "asia", "--reason", "power", "--owner", "alice", "--wait"];
    let (code, told) = ctl(&server, &word);
    assert_eq!(code, Some(4), "{told}");
    assert!(told.contains("asia: no service has it"), "{told}");
}

/// What the server tells of `eu`, of this service.
fn row(server: &Meridian, service: &str) -> Option<serde_json::Value> {
    let (_, text) = server.get("/api/v1/convergence?subject=eu");
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    rows.as_array()?.iter().find(|row| row["service"] == service).cloned()
}

#[test]
fn a_region_whose_address_is_answered_when_all_is_down_is_in_the_answers() {
    let port = free_port();
    let [us, eu] = [Nginx::start(port), Nginx::start(port)];
    let regions =
        format!("eu: {0}, us: {1} }}, on_all_down: {{ fixed: {0}", eu.address, us.address);
    let server = Meridian::serve(&config(port, &regions, 30, ""));
    assert!(server.ctl(&drain(&[])).0);
    wait_until(&vec![us.address.to_string()], || server.addresses("www.example.com"));
    eu.set_failing(true);
    wait_until(&"down".to_owned(), || server.endpoint(eu.address).0);
    us.set_failing(true);
    wait_until(&vec![eu.address.to_string()], || server.addresses("www.example.com"));
    let row = row(&server, "web").unwrap();
    assert_eq!((&row["in_answers"], &row["safe"]), (&true.into(), &false.into()), "{row}");
    assert!(row["answers"].as_u64() > Some(0), "{row}");
}

#[test]
fn a_service_that_only_another_node_has_is_waited_for() {
    let world = World::with(2, "", "", "");
    let why = || row(world.node(0), "new")?["waits"][0]["why"].as_str().map(ToOwned::to_owned);
    assert_eq!(why(), None);
    // It is rolled out, to the other node first.
    let text = std::fs::read_to_string(world.node(1).path("meridian.yaml")).unwrap();
    let new = format!(
        "services:
  new: {{ names: [new.example.com], ttl: 1h, regions: {{ us: {}, eu: {} }} }}
",
        world.us.address, world.eu.address
    );
    world.node(1).write("meridian.yaml", text.replace("services:\n", &new).as_bytes());
    wait_until(&Some("ns2 still answers new".to_owned()), why);
    assert!(world.node(0).ctl(&drain(&[])).0);
    wait_until(&Some("answers that name it are remembered".to_owned()), why);
    let row = row(world.node(0), "new").unwrap();
    assert_eq!((&row["ttl"], &row["safe"]), (&3600.into(), &false.into()), "{row}");
}

#[test]
fn a_node_that_is_not_known_before_a_restart_is_waited_for() {
    let world = World::with(2, "", "ttl: 1s, ", "convergence: { population: honest }");
    let node = world.node(0);
    let text = std::fs::read_to_string(node.path("meridian.yaml")).unwrap();
    let more = text.replace("nodes: { ", "nodes: { ns3: \"127.0.0.3:9\", ");
    node.write("meridian.yaml", more.as_bytes());
    wait_until(&1, || node.logged("changed, which counts from the next start on"));
    let word = ["drain", "web/eu", "--reason", "power", "--owner", "alice", "--wait"];
    let (code, told) = ctl(node, &[&word[..], &["--timeout", "1s"]].concat());
    assert_eq!(code, Some(3), "{told}");
    let why = "ns3 is in `cluster.nodes`, and this node does not know it before a restart";
    assert!(told.contains(&format!("web/eu: {why}\n")), "{told}");
    // It may have answered for as long as that was so.
    node.write("meridian.yaml", text.as_bytes());
    wait_until(&false, || ctl(node, &["convergence"]).1.contains(why));
    let (code, told) = ctl(node, &word);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("web/eu: answers that name it are remembered, until"), "{told}");
}

#[test]
fn a_ttl_that_was_lowered_counts_until_its_answers_are_forgotten() {
    let port = free_port();
    let [us, eu] = [Nginx::start(port), Nginx::start(port)];
    let with = |ttl| {
        let regions = format!("eu: {}, us: {}", eu.address, us.address);
        config(port, &regions, ttl, "convergence: { population: honest }")
    };
    let server = Meridian::serve(&with(3600));
    assert_eq!(server.addresses("www.example.com"), [eu.address.to_string()]);
    server.write_config(&with(5));
    wait_until(&Some(5), || {
        let answer = ask(server.dns, "www.example.com", RecordType::A, None);
        answer.answers.first().map(|record| record.ttl)
    });
    let drained = |server: &Meridian| {
        assert_eq!(ctl(server, &drain(&[])).0, Some(0));
        let (_, text) = server.get("/api/v1/convergence?subject=eu");
        let row = serde_json::from_str::<serde_json::Value>(&text).unwrap()[0].take();
        assert_eq!((&row["ttl"], &row["safe"]), (&3600.into(), &false.into()), "{row}");
        assert_eq!(row["waits"][0]["why"], "answers that name it are remembered", "{row}");
        assert!(server.ctl(&["clear", "eu", "--owner", "bob"]).0);
        wait_until(&vec![eu.address.to_string()], || server.addresses("www.example.com"));
    };
    drained(&server);
    // What the one before has given, the next one does not count, and waits for all the same.
    let server = server.replaced();
    drained(&server);
    drained(&server.restart());
}

#[test]
fn what_resolvers_do_is_fitted_from_when_they_come_back() {
    let (server, _regions) = world(2, "convergence: { population: flavel2014 }");
    let (_, told) = ctl(&server, &["convergence", "fit"]);
    assert!(told.starts_with("no resolver has asked again"), "{told}");
    // Each with an address of its own, as resolvers have.
    let from = |address: u8, more: &str| {
        unbound(&server, &format!(" outgoing-interface: 127.0.0.{address}\n{more}"))
    };
    let resolvers = [from(11, ""), from(12, ""), from(13, " cache-min-ttl: 10")];
    let fitted = wait_for("all to come back", || {
        for resolver in &resolvers {
            ask(resolver.at, "www.example.com", RecordType::A, None);
        }
        let (_, text) = server.get("/api/v1/convergence/fit");
        let fitting: serde_json::Value = serde_json::from_str(&text).unwrap();
        (fitting["fit"]["resolvers"] == 3).then(|| fitting["fit"]["kinds"].clone())
    });
    let share = |min: f64| {
        let kinds = fitted.as_array().unwrap().iter().filter(|kind| kind["min_ttl"] == min);
        kinds.filter_map(|kind| kind["share"].as_f64()).sum::<f64>()
    };
    assert!((0.5..0.8).contains(&share(0.0)), "{fitted}");
    assert!((0.2..0.5).contains(&share(10.0)), "{fitted}");
    // What is printed is a configuration.
    let (code, told) = ctl(&server, &["convergence", "fit"]);
    assert_eq!(code, Some(0));
    assert!(
        told.contains("\n    follows the TTL, then holds on for a minute: { share: "),
        "{told}"
    );
    server.write_config(&config(free_port(), "eu: 127.0.0.1", 2, &told));
    wait_until(&"configured".into(), || {
        let (_, text) = server.get("/api/v1/convergence?subject=web/eu");
        serde_json::from_str::<serde_json::Value>(&text).unwrap()[0]["population"].clone()
    });
}

const CASES: usize = 10;

/// A resolver, how it is set, and what the model takes it for.
struct Case {
    name: &'static str,
    resolver: Resolver,
    layer: Layer,
}

fn case(row: usize, server: &Meridian, ttl: f64) -> Case {
    let cache = |min, max, prefetch| Layer::Cache { min, max, prefetch, stale: 0.0, every: 0.0 };
    let honest = cache(0.0, f64::INFINITY, 0.0);
    let stale = Layer::StaleFirst { every: 0.05, limit: 86_400.0 };
    // BIND asks again within the last two seconds of what lives for nine or more.
    let bind = cache(0.0, f64::INFINITY, if ttl >= 9.0 { 2.0 / ttl } else { 0.0 });
    let case = |name, resolver, layer| Case { name, resolver, layer };
    let tenth = cache(0.0, f64::INFINITY, 0.1);
    let (at_least, at_most) = (cache(8.0, f64::INFINITY, 0.0), cache(0.0, 3.0, 0.0));
    let five = cache(5.0, f64::INFINITY, 0.0);
    let expired = " serve-expired: yes\n serve-expired-client-timeout: 0";
    match row {
        0 => case("unbound", unbound(server, ""), honest),
        1 => case("unbound, prefetch", unbound(server, " prefetch: yes"), tenth),
        2 => case("unbound, cache-min-ttl 8", unbound(server, " cache-min-ttl: 8"), at_least),
        3 => case("unbound, cache-max-ttl 3", unbound(server, " cache-max-ttl: 3"), at_most),
        4 => case("unbound, serve-expired", unbound(server, expired), stale),
        5 => case("knot-resolver", knot_resolver(server), five),
        6 => case("dnsmasq", dnsmasq(server, ""), honest),
        7 => case("dnsmasq, use-stale-cache", dnsmasq(server, "use-stale-cache\n"), stale),
        8 => case("BIND", forwarding_bind(server), bind),
        _ => case("PowerDNS Recursor", recursor(server), honest),
    }
}

/// For how long a resolver gives the old answer, if the answer changes just after it asked: at
/// least, and at most, as nobody sees it all the time.
#[expect(clippy::disallowed_methods, reason = "what is measured")]
fn measured(server: &Meridian, case: &Case, (old, ttl): (&str, u32)) -> [Duration; 2] {
    let asked = || ask(case.resolver.at, "www.example.com", RecordType::A, None);
    let [filling, filled] = wait_for("a new answer", || {
        let before = Instant::now();
        let answer = asked();
        let left = answer.answers.first()?.ttl;
        let full = match case.layer {
            Layer::Cache { min, max, .. } => f64::from(ttl).max(min).min(max),
            _ => f64::from(ttl),
        };
        let is_new = data(&answer) == [old] && f64::from(left) >= full;
        is_new.then(|| [before, Instant::now()])
    });
    assert!(server.ctl(&drain(&[])).0);
    let mut last = filled;
    let first = wait_for("the new answer", || {
        let before = Instant::now();
        if data(&asked()) == [old] {
            last = before;
            return None;
        }
        Some(Instant::now())
    });
    [last - filled, first - filling]
}

/// `MERIDIAN_TTL=10 cargo test --test it resolvers_hold -- --nocapture` prints the table for
/// another TTL than five seconds.
#[test]
fn resolvers_hold_on_for_as_long_as_the_model_says() {
    let ttl: u32 = std::env::var("MERIDIAN_TTL").map_or(5, |ttl| ttl.parse().unwrap());
    println!("| resolver | model, s | measured at a TTL of {ttl} s |\n|---|---|---|");
    let rows = std::thread::scope(|scope| {
        let running: Vec<_> = (0..CASES)
            .map(|row| {
                scope.spawn(move || {
                    let (server, [_us, eu]) = world(u64::from(ttl), "");
                    let case = case(row, &server, f64::from(ttl));
                    let measured = measured(&server, &case, (&eu.address.to_string(), ttl));
                    let chain = Class { name: String::new(), share: 1.0, layers: vec![case.layer] };
                    let model = chain.lag(f64::from(ttl)).until(0.001).unwrap();
                    (case.name, model, measured.map(|of| of.as_secs_f64()))
                })
            })
            .collect();
        running.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
    });
    for (name, model, [least, most]) in &rows {
        println!("| {name} | {model:.1} | {least:.1} to {most:.1} |");
    }
    for (name, model, [least, most]) in rows {
        // Caches count in whole seconds, and are asked every hundredth of one.
        let is_so = least <= model + 1.1 && most >= model - 1.1;
        assert!(is_so, "{name}: {model} s, and was {least} to {most} s");
    }
}
