//! Several nodes, each a process, on loopback: what one sees alone moves nothing.
//!
//! What stands between two nodes is a relay of the test's own, which can be cut, in one direction
//! too. What answers the probes tells by their User-Agent which node asks, so that a region can be
//! sick for some nodes only.

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Meridian, free_port, own_address, wait_for, wait_until};

const DUBLIN: &str = "134.226.1.0/24";
pub(crate) const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n";

/// A web server that is well, or is not, for whom it is asked by.
pub(crate) struct Backend {
    pub(crate) address: IpAddr,
    sick_for: Arc<Mutex<Vec<String>>>,
    /// The nodes that have asked.
    asked: Arc<Mutex<BTreeSet<String>>>,
}

impl Backend {
    fn start(port: u16) -> Self {
        let address = own_address();
        let listener = TcpListener::bind((address, port)).unwrap();
        let sick_for: Arc<Mutex<Vec<String>>> = Arc::default();
        let asked: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let (sick, asks) = (sick_for.clone(), asked.clone());
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (sick, asks) = (sick.clone(), asks.clone());
                // A node that stands still in the middle of it holds up no other.
                thread::spawn(move || {
                    let mut request = [0; 2048];
                    let Ok(length) = stream.read(&mut request) else { return };
                    let text = String::from_utf8_lossy(&request[..length]).into_owned();
                    let node = text.split(['(', ')']).nth(1).unwrap_or_default();
                    asks.lock().unwrap().insert(node.to_owned());
                    let is_sick = sick.lock().unwrap().iter().any(|of| of == node);
                    let status = if is_sick { "500 Sick" } else { "200 OK" };
                    let _gone = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                });
            }
        });
        Self { address, sick_for, asked }
    }

    pub(crate) fn is_sick_for(&self, nodes: &[&str]) {
        *self.sick_for.lock().unwrap() = nodes.iter().map(|&node| node.to_owned()).collect();
    }
}

/// The network between nodes: for each ordered pair an address that passes packets on.
struct Network {
    cuts: HashMap<(usize, usize), Arc<AtomicBool>>,
}

/// Some nodes, two regions, and what is between them.
pub(crate) struct World {
    pub(crate) nodes: Vec<Option<Meridian>>,
    network: Network,
    pub(crate) us: Backend,
    pub(crate) eu: Backend,
}

/// Passes on what arrives, unless it is cut.
fn relay(socket: UdpSocket, to: SocketAddr, is_cut: Arc<AtomicBool>) {
    thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            if !is_cut.load(Ordering::Relaxed) {
                let _gone = socket.send_to(&buffer[..length], to);
            }
        }
    });
}

pub(crate) fn udp_port(address: IpAddr) -> SocketAddr {
    UdpSocket::bind((address, 0)).unwrap().local_addr().unwrap()
}

impl World {
    fn start(extra: &str) -> Self {
        Self::of(3, extra)
    }

    fn of(count: usize, extra: &str) -> Self {
        Self::with(count, extra, "", "")
    }

    /// Three nodes, whose clocks are wrong by as much.
    fn skewed(skews: &[&str]) -> Self {
        Self::start_all(3, "", ("", ""), skews)
    }

    /// The same; `service` is more of the service, and `more` of the whole.
    pub(crate) fn with(count: usize, extra: &str, service: &str, more: &str) -> Self {
        Self::start_all(count, extra, (service, more), &[])
    }

    fn start_all(count: usize, extra: &str, (service, more): (&str, &str), skews: &[&str]) -> Self {
        let port = free_port();
        let (us, eu) = (Backend::start(port), Backend::start(port));
        let names: Vec<String> = (1..=count).map(|number| format!("ns{number}")).collect();
        let real: Vec<SocketAddr> = names.iter().map(|_| udp_port(own_address())).collect();
        let mut cuts = HashMap::new();
        let mut nodes = Vec::new();
        for (row, name) in names.iter().enumerate() {
            // What this node takes for the others' addresses are relays.
            let listed = (0..count).map(|other| {
                let address = if other == row {
                    real[row]
                } else {
                    let socket = UdpSocket::bind((own_address(), 0)).unwrap();
                    let at = socket.local_addr().unwrap();
                    let is_cut: Arc<AtomicBool> = Arc::default();
                    cuts.insert((row, other), is_cut.clone());
                    relay(socket, real[other], is_cut);
                    at
                };
                let region = if other == 0 { "us" } else { "eu" };
                format!("{}: {{ address: \"{address}\", region: {region} }}", names[other])
            });
            let listed = listed.collect::<Vec<_>>().join(", ");
            let config = format!(
                "node: {{ name: {name}, listen: \"127.0.0.1:0\", state: state }}
http: {{ listen: \"127.0.0.1:0\", socket: ctl.sock }}
cluster: {{ key: cluster.key, nodes: {{ {listed} }}{extra} }}
regions: {{ us: {{ at: [39, -77] }}, eu: {{ at: [53, -6] }} }}
checks: {{ web: {{ http: /, port: {port}, rise: 2, hold_down: 0s }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web: {{ names: [www.example.com], check: web, {service}regions: {{ us: {0}, eu: {1} }} }}
  api: {{ names: [api.example.com], check: web, regions: {{ us: {0}, eu: {1} }} }}
{more}",
                us.address, eu.address
            );
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("cluster.key"), KEY).unwrap();
            nodes.push(Some(match skews.get(row) {
                Some(skew) => Meridian::start_at(skew, folder, &config),
                None => Meridian::start(folder, &config),
            }));
        }
        let world = Self { nodes, network: Network { cuts }, us, eu };
        let others = (1..count).len() as f64;
        for row in 0..count {
            wait_until(&others, || world.node(row).metric("meridian_nodes_heard"));
        }
        world
    }

    pub(crate) fn node(&self, row: usize) -> &Meridian {
        self.nodes[row].as_ref().unwrap()
    }

    /// What each node answers for Dublin.
    fn answers(&self) -> Vec<Vec<String>> {
        let nodes = self.nodes.iter().flatten();
        nodes.map(|node| node.addresses_for("www.example.com", DUBLIN)).collect()
    }

    fn all(&self, backend: &Backend) -> Vec<Vec<String>> {
        vec![vec![backend.address.to_string()]; self.nodes.iter().flatten().count()]
    }

    /// Cuts every way between these nodes and the others, or mends it.
    pub(crate) fn part(&self, side: &[usize], is_cut: bool) {
        for ((from, to), cut) in &self.network.cuts {
            if side.contains(from) != side.contains(to) {
                cut.store(is_cut, Ordering::Relaxed);
            }
        }
    }

    /// Cuts these ways, each from the first to the second, or mends them.
    pub(crate) fn cut(&self, pairs: &[(usize, usize)], is_cut: bool) {
        for pair in pairs {
            self.network.cuts[pair].store(is_cut, Ordering::Relaxed);
        }
    }

    /// How often a region came or went on any node.
    fn moves(&self) -> usize {
        self.nodes.iter().flatten().map(|node| node.logged("\"kind\":\"state\"")).sum()
    }
}

/// Longer than detection, gossip and rise take together.
const LONG: Duration = Duration::from_secs(4);

pub(crate) fn let_pass(span: Duration) {
    thread::park_timeout(span);
}

#[test]
fn what_one_node_sees_moves_nothing_and_what_two_see_moves_all() {
    let world = World::start("");
    assert_eq!(world.answers(), world.all(&world.eu));
    world.eu.is_sick_for(&["ns3"]);
    // All are told that somebody sees it otherwise, and all stay.
    wait_for("the dispute", || {
        let status = world.node(0).status();
        let seen = status["services"][0]["endpoints"][1]["seen"].to_string();
        seen.contains("ns3: down").then_some(())
    });
    let_pass(LONG);
    assert_eq!(world.answers(), world.all(&world.eu));
    assert_eq!(world.moves(), 0);
    world.eu.is_sick_for(&["ns3", "ns1"]);
    wait_until(&world.all(&world.us), || world.answers());
    // And back again, as soon as two see it well.
    world.eu.is_sick_for(&["ns2"]);
    wait_until(&world.all(&world.eu), || world.answers());
}

#[test]
fn a_check_that_one_node_has_first_is_followed_by_that_node() {
    let world = World::start("");
    world.eu.is_sick_for(&["ns1", "ns2", "ns3"]);
    wait_until(&world.all(&world.us), || world.answers());
    let first = world.node(0);
    let config = std::fs::read_to_string(first.path("meridian.yaml")).unwrap();
    first.write("meridian.yaml", config.replace("http: /,", "http: /ready,").as_bytes());
    first.process.signal("HUP");
    wait_for("a reload", || (first.logged("reloaded") > 0).then_some(()));
    // What it has seen so far it has seen alone, and goes by it.
    let down = ("down".to_owned(), "unexpected status 500".to_owned());
    wait_until(&down, || first.endpoint(world.eu.address));
    assert_eq!(world.answers(), world.all(&world.us));
    world.eu.is_sick_for(&[]);
    wait_until(&world.all(&world.eu), || world.answers());
    world.eu.is_sick_for(&["ns1", "ns2", "ns3"]);
    wait_until(&world.all(&world.us), || world.answers());
}

#[test]
fn a_node_that_is_cut_off_freezes_and_healing_moves_nobody() {
    let world = World::start("");
    world.part(&[2], true);
    wait_until(&1.0, || world.node(2).metric("meridian_isolated"));
    let (code, told) = world.node(2).get("/readyz");
    assert_eq!((code, told.contains("isolated")), (200, true), "{told}");
    let answer = crate::harness::ask(
        world.node(2).dns,
        "www.example.com",
        hickory_proto::rr::RecordType::A,
        Some(DUBLIN),
    );
    assert_eq!(answer.answers[0].ttl, 5, "it may be wrong at any moment");
    // It alone sees the region die; the others go on to decide without it.
    world.eu.is_sick_for(&["ns3"]);
    let_pass(LONG);
    assert_eq!(world.answers(), world.all(&world.eu));
    assert_eq!(world.moves(), 0);
    world.eu.is_sick_for(&[]);
    let_pass(LONG);
    world.part(&[2], false);
    wait_until(&0.0, || world.node(2).metric("meridian_isolated"));
    let_pass(LONG);
    assert_eq!(world.moves(), 0, "healing moved something");

    // While it is cut off, a region dies indeed: two move, it stands; healed, it follows.
    world.part(&[2], true);
    wait_until(&1.0, || world.node(2).metric("meridian_isolated"));
    world.eu.is_sick_for(&["ns1", "ns2", "ns3"]);
    let (us, eu) = (world.all(&world.us).remove(0), world.all(&world.eu).remove(0));
    wait_until(&vec![us.clone(), us, eu], || world.answers());
    world.part(&[2], false);
    wait_until(&world.all(&world.us), || world.answers());
}

#[test]
fn a_node_that_is_heard_in_one_direction_only_does_no_harm() {
    let world = World::start("");
    // Nobody hears ns3; it hears everybody.
    world.cut(&[(2, 0), (2, 1)], true);
    wait_until(&1.0, || world.node(0).metric("meridian_nodes_heard"));
    world.eu.is_sick_for(&["ns1", "ns2"]);
    wait_until(&world.all(&world.us), || world.answers());
    world.eu.is_sick_for(&[]);
    wait_until(&world.all(&world.eu), || world.answers());
}

#[test]
fn a_killed_node_is_missed_and_a_paused_one_comes_back_without_a_move() {
    let mut world = World::start("");
    world.node(1).process.signal("STOP");
    wait_until(&1.0, || world.node(0).metric("meridian_nodes_heard"));
    let_pass(LONG);
    world.node(1).process.signal("CONT");
    wait_until(&2.0, || world.node(0).metric("meridian_nodes_heard"));
    let_pass(LONG);
    assert_eq!(world.moves(), 0);
    // Two are left, and are enough.
    let mut killed = world.nodes[2].take().unwrap();
    killed.process.kill();
    wait_until(&1.0, || world.node(0).metric("meridian_nodes_heard"));
    let (_, told) = world.node(0).ctl(&["nodes"]);
    assert!(told.contains("ns3: NOT HEARD") && told.contains("ns1: this node"), "{told}");
    world.eu.is_sick_for(&["ns1", "ns2", "ns3"]);
    wait_until(&world.all(&world.us), || world.answers());
    world.nodes[2] = Some(killed.restart());
    wait_until(&world.all(&world.us), || world.answers());
}

#[test]
fn who_is_alone_decides_alone_if_that_is_what_it_was_told() {
    let world = World::start(", when_isolated: alone");
    world.part(&[2], true);
    wait_until(&1.0, || world.node(2).metric("meridian_isolated"));
    world.eu.is_sick_for(&["ns3"]);
    let expected = vec![
        vec![world.eu.address.to_string()],
        vec![world.eu.address.to_string()],
        vec![world.us.address.to_string()],
    ];
    wait_until(&expected, || world.answers());
}

#[test]
fn of_five_nodes_the_three_that_hear_each_other_decide() {
    let world = World::of(5, "");
    world.part(&[3, 4], true);
    for (row, isolated) in [(0, 0.0), (1, 0.0), (2, 0.0), (3, 1.0), (4, 1.0)] {
        wait_until(&isolated, || world.node(row).metric("meridian_isolated"));
    }
    // What the two see moves nobody; what the three see moves them, and the two stand.
    world.eu.is_sick_for(&["ns4", "ns5"]);
    let_pass(LONG);
    assert_eq!((world.answers(), world.moves()), (world.all(&world.eu), 0));
    world.eu.is_sick_for(&["ns1", "ns2", "ns3", "ns4", "ns5"]);
    let (us, eu) = (world.all(&world.us).remove(0), world.all(&world.eu).remove(0));
    let parted = vec![us.clone(), us.clone(), us, eu.clone(), eu];
    wait_until(&parted, || world.answers());
    // Healed, they are of one mind: each has moved once, and nobody twice.
    world.part(&[3, 4], false);
    wait_until(&world.all(&world.us), || world.answers());
    let_pass(LONG);
    assert_eq!((world.answers(), world.moves()), (world.all(&world.us), 5));
    // A region that two of five cannot reach is well, and is shown as disputed.
    world.eu.is_sick_for(&["ns1", "ns5"]);
    wait_until(&world.all(&world.eu), || world.answers());
    let seen = world.node(2).status()["services"][0]["endpoints"][1]["seen"].to_string();
    assert!(seen.contains("ns1: down") && seen.contains("ns3: up"), "{seen}");
}

#[test]
fn of_six_nodes_three_watch_a_region_and_all_follow_them() {
    let world = World::of(6, ", vantages: 3");
    assert_eq!(world.answers(), world.all(&world.eu));
    let_pass(LONG);
    let watching = world.eu.asked.lock().unwrap().clone();
    assert_eq!(watching.len(), 3, "{watching:?}");
    let two: Vec<&str> = watching.iter().take(2).map(String::as_str).collect();
    world.eu.is_sick_for(&two[..1]);
    let_pass(LONG);
    assert_eq!((world.answers(), world.moves()), (world.all(&world.eu), 0));
    world.eu.is_sick_for(&two);
    wait_until(&world.all(&world.us), || world.answers());
    world.eu.is_sick_for(&[]);
    wait_until(&world.all(&world.eu), || world.answers());
}

#[test]
fn an_operators_word_reaches_every_node_and_of_two_at_once_the_safer_counts() {
    let world = World::start("");
    let drain = ["drain", "eu", "--reason", "test", "--owner", "alice"];
    assert!(world.node(0).ctl(&drain).0);
    wait_until(&world.all(&world.us), || world.answers());
    let (fine, told) = world.node(1).ctl(&["clear", "eu", "--owner", "bob"]);
    assert!(fine, "{told}");
    wait_until(&world.all(&world.eu), || world.answers());

    // Cut off from each other, two operators say two things.
    world.part(&[2], true);
    wait_until(&1.0, || world.node(2).metric("meridian_isolated"));
    assert!(world.node(0).ctl(&drain).0);
    // However often: none of it knew of the drain.
    for word in ["up", "drain", "up"] {
        let said = [word, "eu", "--reason", "it is well", "--owner", "carol"];
        assert!(world.node(2).ctl(&said).0);
    }
    world.part(&[2], false);
    wait_until(&world.all(&world.us), || world.answers());
    // Where the word was said that counts no more, at the least, both are in the history.
    wait_for("the conflict in the history", || {
        let (_, told) = world.node(2).ctl(&["history", "--kind", "override"]);
        told.contains("eu: conflict").then_some(())
    });
    for row in [0, 2] {
        let said: Value =
            serde_json::from_str(&world.node(row).get("/api/v1/overrides").1).unwrap();
        assert_eq!((&said[0]["word"], &said[0]["owner"]), (&"drain".into(), &"alice".into()));
    }
    // Who says something now knows of both.
    assert!(world.node(1).ctl(&["clear", "eu", "--owner", "bob"]).0);
    wait_until(&world.all(&world.eu), || world.answers());
}

#[test]
fn a_word_that_was_replaced_does_not_come_back_when_what_replaced_it_has_ended() {
    let world = World::start("");
    let word = |node: usize, word: &[&str]| {
        let more = ["eu", "--reason", "test", "--owner", "alice"];
        let (fine, told) = world.node(node).ctl(&[&word[..1], &more, &word[1..]].concat());
        assert!(fine, "{told}");
    };
    word(0, &["drain"]);
    wait_until(&world.all(&world.us), || world.answers());
    world.part(&[2], true);
    wait_until(&1.0, || world.node(2).metric("meridian_isolated"));
    word(0, &["drain", "--for", "2s"]);
    let of = |rows: &[usize]| {
        let answer = |row: &usize| world.node(*row).addresses_for("www.example.com", DUBLIN);
        rows.iter().map(answer).collect::<Vec<_>>()
    };
    let eu = vec![world.eu.address.to_string()];
    wait_until(&vec![eu.clone(); 2], || of(&[0, 1]));
    // The one that was away has the first word only, which had no end.
    assert_eq!(of(&[2]), [[world.us.address.to_string()]]);
    world.part(&[2], false);
    wait_until(&world.all(&world.eu), || world.answers());
    for row in 0..3 {
        let (_, told) = world.node(row).ctl(&["history", "--kind", "override"]);
        assert!(!told.contains("conflict"), "{told}");
        assert_eq!(told.matches("eu: drain").count(), if row == 2 { 1 } else { 2 }, "{told}");
    }
}

#[test]
fn who_answers_differently_is_told() {
    let world = World::start("");
    let agrees = || world.node(0).metric("meridian_node_differs{node=\"ns3\"}");
    wait_until(&0.0, agrees);
    // Another configuration on one of them, as in the middle of a roll-out.
    let file = world.node(2).path("meridian.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let other = text.replace("web: { names", "web: { steer: failover, names");
    let rate = "web: { writes: { rate: 1000, keys: 100 }, names";
    world.node(0).write("meridian.yaml", text.replace("web: { names", rate).as_bytes());
    assert_ne!(text, other);
    world.node(2).write("meridian.yaml", other.as_bytes());
    wait_until(&1.0, agrees);
    let nodes = || world.node(0).ctl(&["nodes"]).1;
    let told = wait_for("the writes", || {
        Some(nodes()).filter(|told| told.contains("at its declared writes"))
    });
    assert!(told.contains("ns3: heard") && told.contains("ANOTHER CONFIGURATION"), "{told}");
    assert!(told.contains("answers web (www.example.com.) differently since"), "{told}");
    assert!(told.contains("two regions can be written to for 1"), "{told}");
    assert!(told.contains("if it ends now: until all but 1 % have moved"), "{told}");
    let_pass(LONG);
    world.node(2).write("meridian.yaml", text.as_bytes());
    wait_until(&0.0, agrees);
    // It is told afterwards, with its length.
    let told = || world.node(0).ctl(&["history", "--kind", "node"]).1;
    let report = "ns3: agrees again (it answered web differently for";
    wait_for("the report", || told().contains(report).then_some(()));
    assert!(told().contains("two regions could be written to for"), "{}", told());
    assert!(told().contains("met another, and"), "{}", told());
}

#[test]
fn a_drained_region_is_not_safe_while_a_node_is_not_heard() {
    let mut world = World::start("");
    world.nodes[2] = None;
    wait_until(&1.0, || world.node(0).metric("meridian_nodes_heard"));
    let drain = ["drain", "eu", "--reason", "test", "--owner", "alice"];
    assert!(world.node(0).ctl(&drain).0);
    let told = || world.node(0).ctl(&["convergence"]).1;
    wait_for("the wait", || told().contains("WAIT      ns3 is not heard").then_some(()));
    assert!(told().contains("web/eu: NOT TO BE SWITCHED OFF"), "{}", told());
}

#[test]
fn a_drained_region_is_waited_for_as_long_as_any_node_has_had_it_remembered() {
    let world = World::with(2, "", "ttl: 5s, ", "");
    // The other node has another TTL: a reload was refused on one of the two.
    let text = std::fs::read_to_string(world.node(1).path("meridian.yaml")).unwrap();
    world.node(1).write("meridian.yaml", text.replace("ttl: 5s", "ttl: 1h").as_bytes());
    let asked = |row: usize| {
        let (name, rtype) = ("www.example.com", hickory_proto::rr::RecordType::A);
        let answer = crate::harness::ask(world.node(row).dns, name, rtype, Some(DUBLIN));
        answer.answers.first().map(|record| record.ttl)
    };
    wait_until(&Some(3600), || asked(1));
    assert_eq!(asked(0), Some(5));
    assert!(world.node(0).ctl(&["drain", "eu", "--reason", "test", "--owner", "alice"]).0);
    wait_until(&world.all(&world.us), || world.answers());
    wait_until(&(3600.into(), false.into()), || {
        let (_, text) = world.node(0).get("/api/v1/convergence?subject=web/eu");
        let row = serde_json::from_str::<Value>(&text).unwrap()[0].take();
        (row["ttl"].clone(), row["safe"].clone())
    });
}

#[test]
fn what_a_node_saw_of_a_target_that_it_has_no_more_counts_no_more() {
    let world = World::start(", quorum: any");
    world.eu.is_sick_for(&["ns1"]);
    wait_until(&world.all(&world.us), || world.answers());
    let file = world.node(0).path("meridian.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let without = text.replace(&format!(", eu: {} ", world.eu.address), " ");
    assert_ne!(text, without);
    world.node(0).write("meridian.yaml", without.as_bytes());
    let (us, eu) = (world.all(&world.us).remove(0), world.all(&world.eu).remove(0));
    wait_until(&vec![us, eu.clone(), eu], || world.answers());
}

#[test]
fn clocks_that_are_wrong_change_nothing() {
    let world = World::skewed(&["-30m", "+0s", "+1h"]);
    assert_eq!(world.answers(), world.all(&world.eu));
    // The word of the one that is ahead counts, and then that of the one that is behind.
    assert!(world.node(2).ctl(&["drain", "eu", "--reason", "test", "--owner", "alice"]).0);
    wait_until(&world.all(&world.us), || world.answers());
    assert!(world.node(0).ctl(&["clear", "eu", "--owner", "bob"]).0);
    wait_until(&world.all(&world.eu), || world.answers());
    assert!(world.node(1).ctl(&["drain", "eu", "--reason", "test", "--owner", "carol"]).0);
    wait_until(&world.all(&world.us), || world.answers());
    assert!(world.node(1).ctl(&["clear", "eu", "--owner", "carol"]).0);
    wait_until(&world.all(&world.eu), || world.answers());
    // Nor do they disturb the quorum.
    world.eu.is_sick_for(&["ns1"]);
    let_pass(LONG);
    assert_eq!((world.answers(), world.moves()), (world.all(&world.eu), 0));
    world.eu.is_sick_for(&["ns1", "ns3"]);
    wait_until(&world.all(&world.us), || world.answers());
}

#[test]
fn strangers_change_nothing() {
    let world = World::start("");
    let text = std::fs::read_to_string(world.node(0).path("meridian.yaml")).unwrap();
    let nodes = text.lines().find(|line| line.starts_with("cluster")).unwrap();
    let own = nodes.split("ns1: { address: \"").nth(1).unwrap().split('"').next().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for packet in
        [&b""[..], b"MER1", &[0xff; 1400], &[0; 21], b"MER1\x01aaaaaaaabbbbbbbbcccccccccccccccc"]
    {
        socket.send_to(packet, own).unwrap();
    }
    wait_until(&5.0, || world.node(0).metric("meridian_cluster_refused_total"));
    assert_eq!(world.answers(), world.all(&world.eu));
    assert_eq!(world.node(0).metric("meridian_nodes_heard"), 2.0);
}

#[test]
fn a_region_is_let_back_by_each_node_that_is_told() {
    let world = World::with(3, "", "failback: manual, ", "");
    wait_until(&world.all(&world.eu), || world.answers());
    let all = ["ns1", "ns2", "ns3"];
    world.eu.is_sick_for(&all);
    wait_until(&world.all(&world.us), || world.answers());
    world.eu.is_sick_for(&[]);
    let back = |row: usize| {
        let (fine, told) = world.node(row).ctl(&["failback", "web/eu", "--reason", "caught up"]);
        fine.then_some(told)
    };
    let told = wait_for("a region that waits", || back(0));
    assert_eq!(told, "web/eu: let back at this node only; say it to ns2, ns3 too");
    let (us, eu) = (world.all(&world.us).remove(0), world.all(&world.eu).remove(0));
    wait_until(&vec![eu, us.clone(), us], || world.answers());
    wait_for("the second", || back(1));
    wait_for("the third", || back(2));
    wait_until(&world.all(&world.eu), || world.answers());
}
