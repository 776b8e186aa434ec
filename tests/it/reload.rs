//! Changed files: served when they are good, refused when they are not, and no query lost.

use meridian_geoip_make::{Value, Writer};
use tempfile::tempdir;

use crate::harness::{Asking, Meridian, NODE, wait_for, wait_until};

fn config(www: &str, more: &str) -> String {
    format!(
        "regions: {{ us: {{ at: [39, -77] }}, eu: {{ at: [53, -6] }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
{more}
services:
  {www}
  mail: {{ names: [mail.example.com], regions: {{ us: 192.0.2.25 }} }}
"
    )
}

const WWW: &str = "web: { names: [www.example.com], regions: { us: 192.0.2.10, eu: 192.0.2.20 } }";

const WWW_IN_US: &str = "web: { names: [www.example.com], regions: { us: 192.0.2.10 } }";

fn refused(server: &Meridian) -> Vec<String> {
    let list = server.status()["config"]["refused"].clone();
    list.as_array().unwrap().iter().map(|of| of.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_changed_file_is_served_and_a_wrong_one_is_refused_logged_counted_and_shown() {
    let server = Meridian::serve(&config(WWW, ""));
    let www = || server.addresses("www.example.com");
    assert_eq!(www(), ["192.0.2.10"]);

    server.write_config(&config(&WWW.replace("192.0.2.10", "192.0.2.11"), ""));
    wait_until(&vec!["192.0.2.11".to_owned()], www);

    server.write_config(&config(&WWW.replace("regions", "regoins"), ""));
    wait_for("a refusal", || (!refused(&server).is_empty()).then_some(()));
    let told = refused(&server).join("\n");
    assert!(
        told.contains("no key `regoins`") && told.contains("did you mean `regions`?"),
        "{told}"
    );
    assert_eq!(www(), ["192.0.2.11"], "what was good serves on");
    assert_eq!(server.metric("meridian_reload_refused{what=\"configuration\"}"), 1.0);
    assert!(server.logged("regoins") > 0);

    server.write_config(&config(&WWW.replace("192.0.2.10", "192.0.2.12"), ""));
    wait_until(&vec!["192.0.2.12".to_owned()], www);
    assert_eq!(refused(&server), Vec::<String>::new());
    let counted = |outcome| {
        server.metric(&format!(
            "meridian_reloads_total{{what=\"configuration\",outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!((counted("applied"), counted("refused")), (2.0, 1.0));
}

#[test]
fn a_live_name_keeps_a_record_unless_it_is_retired() {
    let server = Meridian::serve(&config(WWW, ""));
    server.write_config(&config("", ""));
    wait_for("a refusal", || refused(&server).iter().find(|of| of.contains("`retired`")).cloned());
    assert_eq!(server.addresses("www.example.com"), ["192.0.2.10"]);
    server.write_config(&config("", "retired: [www.example.com]"));
    wait_until(&Vec::<String>::new(), || server.addresses("www.example.com"));
    assert_eq!(server.addresses("mail.example.com"), ["192.0.2.25"]);
}

#[test]
fn a_live_alias_keeps_leading_to_an_address() {
    let zones = |pops: &str| {
        format!(
            "regions: {{ us: {{}}, eu: {{}} }}
zones: {{ example.com: {{ ns: [ns1.example.net], records: {{ {pops} }} }} }}
services: {{ web: {{ names: [www.example.com], regions: {{ us: {{ cname: a.example.com }} }} }} }}
"
        )
    };
    let server = Meridian::serve(&zones("pop: { A: 192.0.2.1 }, a: { CNAME: pop }"));
    let last = || server.addresses("www.example.com").pop();
    let address = Some("192.0.2.1".to_owned());
    assert_eq!(last(), address);
    for less in ["a: { CNAME: pop }", "pop: { TXT: x }, a: { CNAME: pop }", "a: { CNAME: www }"] {
        server.write_config(&zones(less));
        let told = wait_for("a refusal", || refused(&server).first().cloned());
        assert!(told.contains("www.example.com. is answered now"), "{told}");
        assert_eq!(last(), address);
        server.write_config(&zones("a: { A: 192.0.2.1 }"));
        wait_until(&Vec::<String>::new(), || refused(&server));
    }
    server.write_config(&zones("a: { CNAME: pop.example.org. }"));
    wait_until(&Some("pop.example.org.".to_owned()), last);
}

#[test]
fn a_zone_stays_unless_it_is_retired() {
    let zones = "zones: { example.com: { ns: [ns1.example.net] }, \
                 example.org: { ns: [ns1.example.net], records: { a: { A: 192.0.2.1 } } } }";
    let rest = format!("regions: {{ us: {{}}, eu: {{}} }}\nservices: {{ {WWW} }}\n");
    let server = Meridian::serve(&format!("{zones}\n{rest}"));
    let less = format!("zones: {{ example.com: {{ ns: [ns1.example.net] }} }}\n{rest}");
    server.write_config(&less);
    let told = wait_for("a refusal", || refused(&server).first().cloned());
    assert!(told.contains("example.org. is served now") && told.contains("`retired`"), "{told}");
    assert_eq!(server.addresses("a.example.org"), ["192.0.2.1"]);
    server.write_config(&format!("{less}retired: [example.org]\n"));
    wait_until(&Vec::<String>::new(), || server.addresses("a.example.org"));
}

#[test]
fn a_zone_below_another_stays_too() {
    let below = "dev.example.com: { ns: [ns1.example.net], records: { app: { A: 192.0.2.1 } } }";
    let zones = |more: &str| {
        format!(
            "zones: {{ example.com: {{ ns: [ns1.example.net] }}{more} }}
regions: {{ us: {{}}, eu: {{}} }}\nservices: {{ {WWW} }}\n"
        )
    };
    let server = Meridian::serve(&zones(&format!(", {below}")));
    let app = || server.addresses("app.dev.example.com");
    assert_eq!(app(), ["192.0.2.1"]);
    server.write_config(&zones(""));
    let told = wait_for("a word", || {
        assert_eq!(app(), ["192.0.2.1"], "nobody said that it may go");
        refused(&server).first().cloned()
    });
    assert!(told.contains("dev.example.com. is served now"), "{told}");
    server.write_config(&format!("{}retired: [Dev.example.com]\n", zones("")));
    wait_until(&Vec::<String>::new(), app);
}

#[test]
fn what_counts_from_the_next_start_on_is_told_until_then() {
    let server = Meridian::serve(&config(WWW, ""));
    let warnings = || {
        let listed = server.status()["config"]["warnings"].clone();
        let listed = listed.as_array().unwrap().iter().map(|of| of.as_str().unwrap().to_owned());
        listed.filter(|of| of.contains("restart the node")).collect::<Vec<_>>()
    };
    assert_eq!(warnings(), Vec::<String>::new());
    let told = || {
        let told = warnings();
        told.iter().map(|of| of.split('`').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let served = || server.addresses("www.example.com");
    let buffered = NODE.replace("state: state", "state: state, buffer: 65536");
    let write = |node: &str, address: &str| {
        let text = config(&WWW.replace("192.0.2.10", address), "");
        server.write("meridian.yaml", format!("{node}{text}").as_bytes());
        wait_until(&vec![address.to_owned()], served);
    };
    write(&buffered, "192.0.2.11");
    assert_eq!(told(), ["node.buffer"]);
    assert!(server.ctl(&["status"]).1.contains("WARNING   `node.buffer` has changed"));
    assert!(server.logged("restart the node for it") > 0);
    // Another change later, it still is not what the node was started with.
    write(&buffered, "192.0.2.12");
    assert_eq!(told(), ["node.buffer"]);
    write(NODE, "192.0.2.13");
    assert_eq!(told(), Vec::<String>::new());
}

#[test]
fn what_is_not_served_any_more_is_let_go_of() {
    let head = "$TTL 60\n@ SOA ns1 hostmaster 1 2 3 4 5\n@ NS ns1\nns1 A 192.0.2.53\n";
    let names = (0..40_000).map(|row| format!("h{row} TXT \"{}\"\n", "x".repeat(250)));
    let zone = names.fold(head.to_owned(), |zone, line| zone + &line);
    let serve = || {
        let folder = tempdir().unwrap();
        std::fs::write(folder.path().join("zone"), &zone).unwrap();
        let regions = "regions: { us: {} }\nzones: { example.com: { file: zone } }";
        Meridian::serve_in(folder, &format!("{regions}\nservices: {{ {WWW_IN_US} }}\n"))
    };
    let (fresh, server) = (serve(), serve());
    for round in 1..=3 {
        server.process.signal("HUP");
        wait_for("a reload", || (server.logged("reloaded") == round).then_some(()));
    }
    // Each of those zones has 11 MiB.
    wait_for("memory", || (server.memory() < fresh.memory() + 4 * 1024).then_some(()));
}

#[test]
fn a_signal_reloads_at_once() {
    let server = Meridian::serve(&config(WWW, ""));
    let before = server.status()["config"]["since"].clone();
    server.process.signal("HUP");
    wait_for("a reload", || (server.status()["config"]["since"] != before).then_some(()));
}

#[test]
fn a_signal_that_comes_while_it_starts_is_heard_once_it_serves() {
    let folder = tempdir().unwrap();
    let mut command = std::process::Command::new("strace");
    // The tracer stands aside, and sends the signal as the first socket is bound.
    command.args(["-D", "-f", "-q", "-o", "trace", "-e", "inject=bind:signal=HUP:when=1"]);
    command.current_dir(&folder).arg(env!("CARGO_BIN_EXE_meridian"));
    let config = format!("{NODE}{}", config(WWW, ""));
    let server = Meridian::start_with(command, folder, &config);
    wait_for("a reload", || (server.logged("reloaded") > 0).then_some(()));
}

#[test]
fn zone_files_are_watched_with_what_they_include() {
    let folder = tempdir().unwrap();
    let zone =
        "@ 60 IN SOA ns1 root 1 2 3 4 5\n@ 60 IN NS ns1\nns1 60 A 192.0.2.53\n$INCLUDE more.zone\n";
    std::fs::write(folder.path().join("example.com.zone"), zone).unwrap();
    std::fs::write(folder.path().join("more.zone"), "a 60 A 192.0.2.1\n").unwrap();
    let text = config(WWW, "")
        .replace("{ ns: [ns1.example.net, ns2.example.net] }", "{ file: example.com.zone }");
    let server = Meridian::serve_in(folder, &text);
    assert_eq!(server.addresses("a.example.com"), ["192.0.2.1"]);
    server.write("more.zone", b"a 60 A 192.0.2.2\n");
    wait_until(&vec!["192.0.2.2".to_owned()], || server.addresses("a.example.com"));
    server.write("more.zone", b"a 60 A 192.0.2.300\n");
    wait_for("a refusal", || {
        refused(&server).iter().find(|of| of.contains("more.zone:1")).cloned()
    });
    assert_eq!(server.addresses("a.example.com"), ["192.0.2.2"]);
}

/// A database that says where one network is.
pub(crate) fn database(network: &str, country: &str, at: (f64, f64)) -> Vec<u8> {
    let [latitude, longitude] = [at.0, at.1].map(Value::Double);
    let place = Value::map([
        ("country", Value::map([("iso_code", Value::text(country))])),
        ("location", Value::map([("latitude", latitude), ("longitude", longitude)])),
    ]);
    let mut writer = Writer::new("GeoLite2-City", "test", 1_700_000_000);
    writer.insert(network.parse().unwrap(), &place);
    writer.finish()
}

#[test]
fn a_new_database_is_swapped_in_and_a_broken_one_is_refused() {
    let folder = tempdir().unwrap();
    let america = database("8.8.8.0/24", "US", (40.0, -75.0));
    let europe = database("8.8.8.0/24", "IE", (53.0, -6.0));
    std::fs::write(folder.path().join("city.mmdb"), &america).unwrap();
    // A file for each family, as some vendors have it.
    let other = database("2a00::/12", "IE", (53.0, -6.0));
    std::fs::write(folder.path().join("city-v6.mmdb"), &other).unwrap();
    let geoip = "geoip: { database: [city.mmdb, city-v6.mmdb] }";
    let server = Meridian::serve_in(folder, &config(WWW, geoip));
    assert_eq!(server.addresses_for("www.example.com", "2a00::/48"), ["192.0.2.20"]);
    let client = || server.addresses_for("www.example.com", "8.8.8.0/24");
    assert_eq!(client(), ["192.0.2.10"]);
    server.write("city.mmdb", &europe);
    wait_until(&vec!["192.0.2.20".to_owned()], client);

    let mut flipped = europe.clone();
    // Within the search tree: pointers that lead nowhere.
    flipped.iter_mut().take(64).for_each(|octet| *octet ^= 0xff);
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("truncated", europe[..europe.len() / 2].to_vec()),
        ("bit-flipped", flipped),
        ("no database", b"<html>404 Not Found</html>".repeat(100)),
    ] {
        server.write("city.mmdb", &bytes);
        wait_for(what, || refused(&server).iter().find(|of| of.contains("city.mmdb")).cloned());
        assert_eq!(client(), ["192.0.2.20"], "{what}");
        assert_eq!(server.metric("meridian_reload_refused{what=\"geoip\"}"), 1.0, "{what}");
        server.write("city.mmdb", &europe);
        wait_until(&Vec::<String>::new(), || refused(&server));
    }
    std::fs::remove_file(server.path("city.mmdb")).unwrap();
    std::fs::create_dir(server.path("city.mmdb")).unwrap();
    wait_for("a refusal", || refused(&server).iter().find(|of| of.contains("directory")).cloned());
    assert_eq!(client(), ["192.0.2.20"]);
    std::fs::remove_dir(server.path("city.mmdb")).unwrap();
    server.write("city.mmdb", &america);
    wait_until(&vec!["192.0.2.10".to_owned()], client);
}

#[test]
fn no_query_is_lost_while_everything_is_reloaded() {
    let server = Meridian::serve(&config(WWW, ""));
    let asking = Asking::over_udp(server.dns, "www.example.com");
    for round in 0..10 {
        let address = format!("192.0.2.{}", 100 + round);
        server.write_config(&config(&WWW.replace("192.0.2.10", &address), ""));
        server.process.signal("HUP");
        wait_until(&vec![address], || server.addresses("www.example.com"));
    }
    let asked = asking.none_lost();
    assert!(asked > 100, "{asked}");
}

#[test]
fn what_is_known_of_a_target_outlives_a_reload() {
    let port = crate::harness::free_port();
    let nginx = crate::harness::Nginx::start(port);
    let probed = |ttl: &str| {
        let web = format!(
            "web: {{ names: [www.example.com], check: web, ttl: {ttl}, regions: {{ us: {} }} }}",
            nginx.address
        );
        config(&web, &format!("checks: {{ web: {{ http: /healthz, port: {port} }} }}"))
    };
    let server = Meridian::serve(&probed("30s"));
    let since = || server.status()["services"][0]["endpoints"][0]["since"].clone();
    let generation = || server.status()["config"]["hash"].clone();
    let (before, then) = (since(), generation());
    server.write_config(&probed("31s"));
    wait_for("a reload", || (generation() != then).then_some(()));
    assert_eq!(since(), before);
}
