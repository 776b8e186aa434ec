//! The product's sentence: the nearest healthy region, and the next one when it dies.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use hickory_proto::rr::RecordType;

use crate::harness::{Meridian, Nginx, ask, free_port, own_address, scope, wait_for, wait_until};
use crate::host::{Host, ip, there};

/// Three regions and who is nearest to them, by the database in the box.
const REGIONS: &str = "
regions:
  us-east: { at: [39.04, -77.49] }
  eu-west: { at: [53.35, -6.26] }
  ap-southeast: { at: [1.35, 103.82] }
";
const PRINCETON: &str = "128.112.128.0/24";
const DUBLIN: &str = "134.226.1.0/24";
const SINGAPORE: &str = "137.132.1.0/24";

fn config(port: u16, check: &str, [us, eu, ap]: [IpAddr; 3]) -> String {
    format!(
        "{REGIONS}
checks: {{ web: {{ {check}, port: {port}, rise: 2, hold_down: 0s }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web:
    names: [www.example.com]
    check: web
    ttl: 30s
    regions: {{ us-east: {us}, eu-west: {eu}, ap-southeast: {ap} }}
"
    )
}

fn world(check: &str) -> (Meridian, [Nginx; 3]) {
    let port = free_port();
    let regions = [Nginx::start(port), Nginx::start(port), Nginx::start(port)];
    let server =
        Meridian::serve(&config(port, check, [0, 1, 2].map(|row: usize| regions[row].address)));
    (server, regions)
}

#[test]
fn each_client_gets_the_nearest_region_and_its_scope() {
    let (server, [us, eu, ap]) = world("http: /healthz");
    for (client, region) in [(PRINCETON, &us), (DUBLIN, &eu), (SINGAPORE, &ap)] {
        let answer = ask(server.dns, "www.example.com", RecordType::A, Some(client));
        assert_eq!(crate::harness::data(&answer), [region.address.to_string()], "{client}");
        assert_eq!(answer.answers[0].ttl, 30);
        assert!((1..=24).contains(&scope(&answer)), "scope {}", scope(&answer));
    }
}

/// When a region has gone, answers are true at once, and soon for as many clients as they would be
/// had it never been there.
#[test]
fn scopes_are_as_wide_again_soon_after_a_change() {
    let (server, [us, eu, mut ap]) = world("http: /healthz");
    let without = config(80, "http: /", [us.address, eu.address, ap.address]);
    let without = without.replace(&format!(", ap-southeast: {}", ap.address), "");
    let without = Meridian::serve(&without.replace("    check: web\n", ""));
    let scopes = |of: &Meridian| -> Vec<u8> {
        let clients = (1..=223).map(|high| format!("{high}.1.1.0/24"));
        let ask = |client: String| ask(of.dns, "www.example.com", RecordType::A, Some(&client));
        clients.map(|client| scope(&ask(client))).collect()
    };
    ap.process.kill();
    wait_until(&scopes(&without), || scopes(&server));
}

#[test]
fn a_killed_a_stopped_and_a_failing_region_lose_their_clients_and_get_them_back() {
    let (server, [us, mut eu, _ap]) = world("http: /healthz");
    let dublin = || server.addresses_for("www.example.com", DUBLIN);
    let (next, own) = (vec![us.address.to_string()], vec![eu.address.to_string()]);
    assert_eq!(dublin(), own);

    eu.process.kill();
    wait_until(&next, dublin);
    assert_eq!(server.endpoint(eu.address), ("down".into(), "connection refused".into()));
    eu.restart();
    wait_until(&own, dublin);

    eu.process.signal("STOP");
    wait_until(&next, dublin);
    assert_eq!(server.endpoint(eu.address).1, "no answer in time, before the response");
    eu.process.signal("CONT");
    wait_until(&own, dublin);

    eu.set_failing(true);
    wait_until(&next, dublin);
    assert_eq!(server.endpoint(eu.address).1, "unexpected status 500");
    eu.set_failing(false);
    wait_until(&own, dublin);

    let status = server.status();
    let events = status["events"].as_array().unwrap();
    let downs: Vec<_> = events.iter().filter(|event| event["what"] == "down").collect();
    assert_eq!(downs.len(), 3, "{events:?}");
    assert!(downs.iter().all(|event| event["took_ms"].as_f64().unwrap() < 2000.0), "{downs:?}");
    assert_eq!(server.metric("meridian_failover_seconds_count"), 3.0);
}

#[test]
fn a_region_that_comes_and_goes_is_held_down() {
    let port = free_port();
    let mut regions = [Nginx::start(port), Nginx::start(port), Nginx::start(port)];
    let addresses = regions.each_ref().map(|region| region.address);
    let text = config(port, "http: /healthz", addresses).replace("hold_down: 0s", "hold_down: 5m");
    let server = Meridian::serve(&text);
    let eu = &mut regions[1];
    let state = |address| server.endpoint(address).0;
    let held = || server.status()["services"][0]["endpoints"][1]["held_until"].clone();
    eu.process.kill();
    wait_until(&"down".to_owned(), || state(addresses[1]));
    assert!(held().is_null(), "a first fault holds nobody");
    eu.restart();
    wait_until(&"up".to_owned(), || state(addresses[1]));
    eu.process.kill();
    wait_until(&"down".to_owned(), || state(addresses[1]));
    assert!(held().is_string());
    eu.restart();
    // It answers well, and stays away.
    wait_until(&("down".to_owned(), "ok".to_owned()), || server.endpoint(addresses[1]));
    let (_, status) = server.ctl(&["status"]);
    let (_, explained) = server.get("/api/v1/explain?name=www.example.com&from=134.226.1.1");
    for told in [status, explained] {
        assert!(told.contains("held down until 20"), "{told}");
        assert!(told.contains(", as it failed again soon"), "{told}");
    }
    let dublin = server.addresses_for("www.example.com", DUBLIN);
    assert_eq!(dublin, [addresses[0].to_string()]);
}

/// A listener whose queue is full: packets to it are dropped, as in a black hole.
struct BlackHole(
    IpAddr,
    #[expect(dead_code, reason = "held")] Vec<std::net::TcpStream>,
    TcpListener,
);

impl BlackHole {
    fn at(port: u16) -> Self {
        let address = own_address();
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let at = SocketAddr::new(address, port);
        socket.bind(&at.into()).unwrap();
        socket.listen(0).unwrap();
        let listener: TcpListener = socket.into();
        let timeout = std::time::Duration::from_millis(200);
        let mut held = Vec::new();
        wait_for("a full queue", || match std::net::TcpStream::connect_timeout(&at, timeout) {
            Ok(stream) => {
                held.push(stream);
                None
            }
            Err(_) => Some(()),
        });
        Self(address, held, listener)
    }
}

#[test]
fn a_region_that_no_packet_reaches_is_never_answered() {
    let port = free_port();
    let (us, ap) = (Nginx::start(port), Nginx::start(port));
    let hole = BlackHole::at(port);
    let server = Meridian::serve(&config(port, "http: /healthz", [us.address, hole.0, ap.address]));
    // From the first answer on: the first verdicts come before it.
    assert_eq!(server.addresses_for("www.example.com", DUBLIN), [us.address.to_string()]);
    server.wait_for_endpoint(hole.0, "down", "no answer in time, connecting");
    drop(hole.2);
}

#[test]
fn when_all_are_down_the_answer_is_as_if_all_were_up() {
    let (server, mut regions) = world("http: /healthz");
    for region in &mut regions {
        region.process.kill();
    }
    let states = || regions.each_ref().map(|region| server.endpoint(region.address).0);
    wait_until(&["down", "down", "down"].map(str::to_owned), states);
    let answer = ask(server.dns, "www.example.com", RecordType::A, Some(DUBLIN));
    assert_eq!(crate::harness::data(&answer), [regions[1].address.to_string()]);
    assert_eq!(answer.answers[0].ttl, 5, "better may come at any moment");
}

#[test]
fn tcp_checks_see_a_dead_process() {
    let port = free_port();
    let mut regions = [Nginx::start(port), Nginx::start(port), Nginx::start(port)];
    let [us, eu, ap] = regions.each_ref().map(|region| region.address);
    let text = config(port, "web", [us, eu, ap]);
    let text = text.replace(
        &format!("{{ web, port: {port}, rise: 2, hold_down: 0s }}"),
        &format!("{{ tcp: {port} }}"),
    );
    let server = Meridian::serve(&text);
    assert_eq!(server.addresses_for("www.example.com", DUBLIN), [eu.to_string()]);
    regions[1].process.kill();
    wait_until(&vec![us.to_string()], || server.addresses_for("www.example.com", DUBLIN));
}

/// A node in a host of its own, whose way to the regions can be cut while it is asked itself.
struct Apart {
    host: Host,
    regions: [Nginx; 4],
    port: u16,
}

impl Apart {
    fn new() -> Self {
        let (host, port) = (Host::new(210), free_port());
        let regions = [1, 2, 3, 4].map(|row| {
            let address = Ipv4Addr::new(10, host.network, 1, row);
            ip(&format!("addr add {address}/32 dev {}", there(host.network)));
            Nginx::at(address.into(), port)
        });
        host.ip(&format!("route add 10.{0}.1.0/24 via 10.{0}.0.2", host.network));
        Self { host, regions, port }
    }

    /// What is for `to` goes no way from now on, and this is what the system says of it.
    fn cut(&self, how: &str, to: &str) {
        self.host.ip(&format!("route replace {how} 10.{}.{to}", self.host.network));
    }

    /// There is a way again.
    fn mend(&self, to: &str) {
        self.host.ip(&format!("route del 10.{}.{to}", self.host.network));
    }

    fn serve(&self, port: u16, more: &str) -> Meridian {
        let [us, eu, ap, _] = self.regions.each_ref().map(|region| region.address);
        let v4 = self.host.v4();
        let config = format!(
            "node: {{ listen: \"{v4}:{port}\" }}\nhttp: {{ listen: \"{v4}:{}\" }}{}{more}",
            port + 1000,
            config(self.port, "http: /healthz", [us, eu, ap])
        );
        let command = self.host.inside(env!("CARGO_BIN_EXE_meridian"));
        Meridian::start_with(command, tempfile::tempdir().unwrap(), &config)
    }
}

#[test]
fn a_node_whose_network_is_at_fault_moves_nobody_and_canaries_tell_when_it_is_not() {
    let apart = Apart::new();
    let canary = apart.regions[3].address;
    let canaries = format!("canaries: {{ uplink: {{ address: {canary}, check: web }} }}\n");
    let (alone, told) = (apart.serve(5301, ""), apart.serve(5302, &canaries));
    let [us, eu, _, _] = apart.regions.each_ref().map(|region| vec![region.address.to_string()]);
    let addresses = |of: &Meridian| of.addresses_for("www.example.com", DUBLIN);
    // No way to two of three any more, both at once.
    apart.cut("blackhole", "1.2/31");
    let moves = |of: &Meridian| of.logged("\"kind\":\"state\"");
    wait_until(&2, || moves(&told));
    assert_eq!(addresses(&told), us);
    wait_until(&1.0, || alone.metric("meridian_abstains"));
    assert_eq!(addresses(&alone), eu);
    let alarms = alone.status()["alarms"].to_string();
    assert!(alarms.contains("this node abstains"), "{alarms}");
    apart.mend("1.2/31");
    wait_until(&0.0, || alone.metric("meridian_abstains"));
    wait_until(&eu, || addresses(&told));
    wait_until(&4, || moves(&told));
    // None to any: whoever is asked first learns that in no time, and is not taken for dead.
    for how in ["blackhole", "unreachable", "prohibit"] {
        apart.cut(how, "1.0/25");
        for server in [&alone, &told] {
            wait_until(&1.0, || server.metric("meridian_abstains"));
            assert_eq!(addresses(server), eu);
        }
        apart.mend("1.0/25");
        for server in [&alone, &told] {
            wait_until(&0.0, || server.metric("meridian_abstains"));
        }
    }
    // It comes and goes: what gets lost says so, and nobody is taken for dead.
    let mut is_gone = false;
    wait_until(&[1.0; 2], || {
        is_gone = !is_gone;
        if is_gone {
            apart.cut("blackhole", "1.0/25")
        } else {
            apart.mend("1.0/25")
        }
        [&alone, &told].map(|server| server.metric("meridian_probes_lossy"))
    });
    let alarms = alone.status()["alarms"].to_string();
    assert!(alarms.contains("probes of this node get lost"), "{alarms}");
    assert_eq!((moves(&alone), moves(&told)), (0, 4), "nothing moved");
}

#[test]
fn most_regions_that_hang_at_once_are_dead_indeed() {
    let (server, regions) = world("http: /healthz");
    regions[1].process.signal("STOP");
    regions[2].process.signal("STOP");
    wait_until(&vec![regions[0].address.to_string()], || {
        server.addresses_for("www.example.com", DUBLIN)
    });
    assert_eq!(server.metric("meridian_abstains"), 0.0, "their systems take connections");
}
