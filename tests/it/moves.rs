//! What holds regions back or keeps them, over reloads, restarts and replacements.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::harness::{Meridian, Nginx, free_port, wait_for, wait_until};

const PRINCETON: &str = "128.112.128.0/24";
const DUBLIN: &str = "134.226.1.0/24";

/// Three regions, with a service in them for each of `names`, and what else is to be said of it.
fn config(port: u16, regions: &[Nginx; 3], more: &str, services: &[(&str, &str)]) -> String {
    let [us, eu, ap] = regions.each_ref().map(|region| region.address);
    let service = |(name, more): &(&str, &str)| {
        let regions = format!("{{ us: {us}, eu: {eu}, ap: {ap} }}");
        format!("  {name}: {{ names: [{name}.example.com], check: web, {more}regions: {regions} }}")
    };
    let services: Vec<String> = services.iter().map(service).collect();
    format!(
        "{more}
regions:
  us: {{ at: [39.04, -77.49] }}
  eu: {{ at: [53.35, -6.26] }}
  ap: {{ at: [1.35, 103.82] }}
checks: {{ web: {{ http: /healthz, port: {port}, rise: 2, hold_down: 0s }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
{}
",
        services.join("\n")
    )
}

fn world() -> (u16, [Nginx; 3]) {
    let port = free_port();
    (port, [0; 3].map(|_| Nginx::start(port)))
}

const KEPT: &str = "down; kept: `max_moves` regions have left";

fn shown(address: IpAddr) -> Vec<String> {
    vec![address.to_string()]
}

/// Ends it as a crash does, once all that has happened is written, and starts it anew.
fn restart(server: Meridian) -> Meridian {
    assert_eq!(server.get("/api/v1/history").0, 200);
    server.restart()
}

/// Has an unchanged configuration read again.
fn reload(server: &Meridian) {
    let applied = "meridian_reloads_total{what=\"configuration\",outcome=\"applied\"}";
    let before = server.metric(applied);
    server.process.signal("HUP");
    wait_for("a reload", || (server.metric(applied) > before).then_some(()));
}

#[test]
fn what_may_not_leave_is_kept_over_reloads_restarts_and_replacements() {
    for limit in ["share: 40%", "regions: 1"] {
        let (port, mut regions) = world();
        let limit = format!("max_moves: {{ {limit}, within: 1h }}");
        let server = Meridian::serve(&config(port, &regions, &limit, &[("www", "")]));
        let [us, eu] = [&regions[0], &regions[1]].map(|region| region.address);
        let www = |server: &Meridian, client| server.addresses_for("www.example.com", client);
        let alarm =
            |server: &Meridian| server.ctl(&["status"]).1.contains("www/us is down and kept");
        assert_eq!(www(&server, DUBLIN), shown(eu));
        regions[1].process.kill();
        wait_until(&shown(us), || www(&server, DUBLIN));
        regions[0].process.kill();
        server.wait_for_endpoint(us, "down", "connection refused");
        let is_kept = |server: &Meridian, when: &str| {
            wait_until(&"down".to_owned(), || server.endpoint(us).0);
            let answers = [PRINCETON, DUBLIN].map(|client| www(server, client));
            assert_eq!(answers, [shown(us), shown(us)], "{limit}: {when}");
            assert!(alarm(server), "{limit}: {when}: {}", server.ctl(&["status"]).1);
            let path = "/api/v1/explain?name=www.example.com&from=134.226.1.1";
            // Where everybody is may have to be read again.
            let told: Value = wait_for("a word", || serde_json::from_str(&server.get(path).1).ok());
            let why = told["regions"].as_array().unwrap().iter().find(|of| of["region"] == "us");
            assert_eq!((&told["basis"], &why.unwrap()["why"]), (&json!(KEPT), &json!(KEPT)));
            assert_eq!(told["ttl"], 5, "{limit}: {when}: it may change at any moment");
        };
        is_kept(&server, "before");
        reload(&server);
        is_kept(&server, "after a reload");
        let server = restart(server);
        is_kept(&server, "after a restart");
        let server = server.replaced();
        is_kept(&server, "after a replacement");
    }
}

#[test]
fn a_manual_failback_of_what_was_out_at_a_reload_or_a_start_is_waited_for() {
    let (port, mut regions) = world();
    let manual = "failback: manual, ";
    let [one, two, three] = ["one", "two", "three"].map(|name| (name, manual));
    let text = |services: &[_], regions: &_| config(port, regions, "", services);
    let server = Meridian::serve(&text(&[one], &regions));
    let [us, eu] = [&regions[0], &regions[1]].map(|region| region.address);
    let of = |server: &Meridian, name| server.addresses_for(&format!("{name}.example.com"), DUBLIN);
    regions[1].process.kill();
    wait_until(&shown(us), || of(&server, "one"));
    // Services of which the region is out from their first moment.
    server.write_config(&text(&[one, two], &regions));
    wait_until(&shown(us), || of(&server, "two"));
    let mut server = restart(server);
    server.process.kill();
    server.write_config(&text(&[one, two, three], &regions));
    let server = server.restart();
    wait_until(&shown(us), || of(&server, "three"));
    regions[1].restart();
    wait_until(&"up".to_owned(), || server.endpoint(eu).0);
    let server = restart(server);
    wait_until(&"up".to_owned(), || server.endpoint(eu).0);
    let waits = ["one", "two", "three"].map(|name| of(&server, name));
    assert_eq!(waits, [shown(us), shown(us), shown(us)]);
}
