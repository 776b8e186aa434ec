//! What nodes keep where operators name writers: their list, words, waits, however clocks and lists
//! change.

use std::net::SocketAddr;

use rusqlite::Connection;

use crate::cluster::{KEY, udp_port};
use crate::harness::{Meridian, own_address, wait_for, wait_until};
use crate::writers::{Etcd, epoch};

const NAME: &str = "www.example.com";

/// Nodes that name their writer by word, each with the list that it goes by.
struct Nodes(Vec<(&'static str, SocketAddr)>);

impl Nodes {
    fn config(&self, name: &str, listed: &[&str]) -> String {
        let all = self.0.iter().filter(|(name, _)| listed.contains(name));
        let all: Vec<String> = all.map(|(name, at)| format!("{name}: \"{at}\"")).collect();
        format!(
            "node: {{ name: {name}, listen: \"127.0.0.1:0\", state: state }}
http: {{ listen: \"127.0.0.1:0\", socket: ctl.sock }}
cluster: {{ key: cluster.key, nodes: {{ {} }} }}
regions: {{ us: {{ at: [39, -77] }}, eu: {{ at: [53, -6] }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web:
    names: [{NAME}]
    steer: single-writer
    lease: manual
    ttl: 2s
    regions: {{ us: 192.0.2.1, eu: 192.0.2.2 }}
",
            all.join(", ")
        )
    }

    fn start(&self, name: &str, listed: &[&str]) -> Meridian {
        self.start_with(KEY, name, listed)
    }

    fn start_with(&self, key: &str, name: &str, listed: &[&str]) -> Meridian {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cluster.key"), key).unwrap();
        Meridian::start(folder, &self.config(name, listed))
    }
}

fn write(node: &Meridian, region: &str, more: &[&str]) -> (bool, String) {
    let word = ["writer", "web", region, "--reason", "test", "--owner", "alice"];
    node.ctl(&[&word[..], more].concat())
}

#[test]
fn a_cluster_that_grows_by_two_nodes_at_once_has_one_writer() {
    const OLD: [&str; 3] = ["ns1", "ns2", "ns3"];
    const NEW: [&str; 5] = ["ns1", "ns2", "ns3", "ns10", "ns11"];
    let nodes = Nodes(NEW.map(|name| (name, udp_port(own_address()))).to_vec());
    let [ns1, ns2, ns3] = OLD.map(|name| nodes.start(name, &OLD));
    let answers =
        |of: &[&Meridian]| of.iter().map(|node| node.addresses(NAME).join(" ")).collect::<Vec<_>>();
    wait_for("a word", || write(&ns1, "us", &["--fenced"]).0.then_some(()));
    wait_until(&vec!["192.0.2.1".to_owned(); 3], || answers(&[&ns1, &ns2, &ns3]));

    // Three of five have the new list, and two of three the old one.
    let ns3 = ns3.restart_with(&nodes.config("ns3", &NEW));
    let [ns10, ns11] = ["ns10", "ns11"].map(|name| nodes.start(name, &NEW));
    wait_until(&2.0, || ns10.metric("meridian_nodes_heard"));
    let (fine, told) = write(&ns10, "eu", &[]);
    assert!(!fine && told.contains("the list of nodes (`cluster.nodes`) is not agreed"), "{told}");
    wait_until(&1.0, || ns1.metric("meridian_node_list_differs{node=\"ns3\"}"));
    let is_told = |node: &Meridian, of: &str, what: &str| {
        let (_, told) = node.ctl(&["nodes"]);
        assert!(told.lines().any(|line| line.starts_with(of) && line.contains(what)), "{told}");
    };
    is_told(&ns1, "ns3: heard", "ANOTHER LIST OF NODES");
    is_told(&ns10, "ns10: this node", "ITS LIST OF NODES IS NOT AGREED");
    assert_eq!(answers(&[&ns3, &ns10, &ns11]), ["", "", ""]);
    wait_until(&vec!["192.0.2.1".to_owned(); 2], || answers(&[&ns1, &ns2]));

    // Most of the old ones have left their list.
    let ns2 = ns2.restart_with(&nodes.config("ns2", &NEW));
    wait_until(&vec!["192.0.2.1".to_owned(); 4], || answers(&[&ns2, &ns3, &ns10, &ns11]));
    wait_until(&vec![String::new()], || answers(&[&ns1]));
    let ns1 = ns1.restart_with(&nodes.config("ns1", &NEW));
    let all = [&ns1, &ns2, &ns3, &ns10, &ns11];
    wait_until(&vec!["192.0.2.1".to_owned(); 5], || answers(&all));
    let (fine, told) = write(&ns10, "eu", &[]);
    assert!(fine, "{told}");
    wait_until(&vec!["192.0.2.2".to_owned(); 5], || answers(&all));
}

#[test]
fn a_node_with_another_key_is_no_dead_one() {
    const BOTH: [&str; 2] = ["ns1", "ns2"];
    let nodes = Nodes(BOTH.map(|name| (name, udp_port(own_address()))).to_vec());
    let ns1 = nodes.start("ns1", &BOTH);
    assert_eq!(ns1.metric("meridian_cluster_refused_total"), 0.0);
    let nobody = ns1.ctl(&["nodes"]).1;
    assert!(nobody.contains("ns2: NOT HEARD") && !nobody.contains("KEY"), "{nobody}");
    let other = KEY.replace('0', "1");
    let ns2 = nodes.start_with(&other, "ns2", &BOTH);
    for (here, there) in [(&ns1, "ns2"), (&ns2, "ns1")] {
        let expected = format!("{there}: NOT HEARD, ITS PACKETS OUR KEY DOES NOT OPEN");
        wait_for(&expected, || here.ctl(&["nodes"]).1.contains(&expected).then_some(()));
        let status = here.ctl(&["status"]).1;
        let expected = format!("{there} is not heard: packets come from there that `cluster.key`");
        assert!(status.contains(&expected), "{status}");
        let logged = here.logged("a packet came that `cluster.key` does not open");
        let refused = here.metric("meridian_cluster_refused_total");
        assert!(logged > 0 && refused > f64::from(u32::try_from(logged).unwrap()), "{refused}");
    }
    // Nor is it unsaid what nobody was named for.
    let writers = ns1.ctl(&["writers"]).1;
    assert!(writers.contains("NO REGION WRITES: the list of nodes"), "{writers}");
    let status = ns1.ctl(&["status"]).1;
    assert!(status.contains("writer    web: no region writes"), "{status}");
}

#[test]
fn that_a_writer_may_be_answered_for_longer_is_no_change() {
    const ALL: [&str; 3] = ["ns1", "ns2", "ns3"];
    let nodes = Nodes(ALL.map(|name| (name, udp_port(own_address()))).to_vec());
    let [ns1, _ns2, _ns3] = ALL.map(|name| nodes.start(name, &ALL));
    wait_until(&2.0, || ns1.metric("meridian_nodes_heard"));
    let unnamed = || ns1.ctl(&["writers"]).1.contains("NO REGION WRITES: no region was named yet");
    wait_until(&true, unnamed);
    wait_for("a word", || write(&ns1, "us", &["--fenced"]).0.then_some(()));
    wait_until(&vec!["192.0.2.1".to_owned()], || ns1.addresses(NAME));
    let until = || {
        let writers: serde_json::Value =
            serde_json::from_str(&ns1.ctl(&["writers", "--json"]).1).unwrap();
        writers[0]["until"].as_str().unwrap().to_owned()
    };
    let generation = || ns1.metric("meridian_generation");
    // A machine that is held up may lose its writer for a moment, which is one.
    wait_for("other ends, and no change", || {
        let before = generation();
        let mut seen = until();
        for _ in 0..4 {
            wait_for("another end", || (until() != seen).then_some(()));
            seen = until();
        }
        (generation() == before).then_some(())
    });
}

/// A node alone, with this service.
fn alone(service: &str, more: &str) -> String {
    format!(
        "node: {{ name: test, listen: \"127.0.0.1:0\", state: state }}
http: {{ listen: \"127.0.0.1:0\", socket: ctl.sock }}
regions: {{ us: {{ at: [39, -77] }}, eu: {{ at: [53, -6] }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  api: {{ names: [api.example.com], regions: {{ us: 192.0.2.3 }} }}
{service}{more}"
    )
}

fn web(lease: &str, ttl: &str) -> String {
    format!(
        "  web: {{ names: [{NAME}], steer: single-writer, order: [eu, us], lease: {lease}, \
         ttl: {ttl}, regions: {{ us: 192.0.2.1, eu: 192.0.2.2 }} }}\n"
    )
}

#[test]
fn a_wait_that_was_not_over_begins_anew_whatever_the_clock_said() {
    let config = alone(&web("manual", "60s"), "");
    for skew in ["-1h", "+1d"] {
        let server = Meridian::start_at(skew, tempfile::tempdir().unwrap(), &config);
        assert!(write(&server, "us", &["--fenced"]).0);
        assert_eq!(server.addresses(NAME), ["192.0.2.1"]);
        assert!(write(&server, "eu", &[]).0);
        assert_eq!(server.addresses(NAME).len(), 0);
        // The clock is put right.
        let server = server.restart();
        let told = server.status()["writers"][0].clone();
        assert_eq!((server.addresses(NAME).len(), &told["wanted"]), (0, &"eu".into()), "{skew}");
        let next: jiff::Timestamp = told["next_from"].as_str().unwrap().parse().unwrap();
        let wait = next.duration_since(jiff::Timestamp::now()).as_secs();
        assert!((30..=65).contains(&wait), "{skew}: {wait} s");
        // What is over stays so.
        assert!(write(&server, "us", &["--fenced"]).0);
        wait_until(&"192.0.2.1".to_owned(), || server.addresses(NAME).join(" "));
        let server = server.restart();
        wait_until(&"192.0.2.1".to_owned(), || server.addresses(NAME).join(" "));
    }
}

#[test]
fn who_cannot_keep_a_word_follows_it_and_counts_for_none() {
    const LIST: [&str; 3] = ["ns1", "ns2", "ns3"];
    let nodes = Nodes(LIST.map(|name| (name, udp_port(own_address()))).to_vec());
    let [ns1, mut ns2, ns3] = LIST.map(|name| nodes.start(name, &LIST));
    wait_for("a word", || write(&ns1, "us", &["--fenced"]).0.then_some(()));
    for node in [&ns1, &ns2, &ns3] {
        wait_until(&"192.0.2.1".to_owned(), || node.addresses(NAME).join(" "));
    }
    ns2.process.kill();
    wait_until(&1.0, || ns1.metric("meridian_nodes_heard"));
    let database = Connection::open(ns3.path("state/meridian.db")).unwrap();
    wait_for("the database", || database.execute_batch("BEGIN IMMEDIATE").ok());
    let lost = ns3.metric("meridian_state_lost_total");
    assert!(write(&ns1, "eu", &[]).0);
    // The old one is answered no more at once.
    wait_until(&String::new(), || ns3.addresses(NAME).join(" "));
    wait_for("what is lost", || (ns3.metric("meridian_state_lost_total") > lost).then_some(()));
    let told = |node: &Meridian| node.ctl(&["writers"]).1;
    assert!(told(&ns1).contains("too few nodes are known to have heard"), "{}", told(&ns1));
    assert!(told(&ns3).contains("could not be written to `node.state` yet"), "{}", told(&ns3));
    drop(database);
    for node in [&ns1, &ns3] {
        wait_until(&"192.0.2.2".to_owned(), || node.addresses(NAME).join(" "));
    }
    // It is known after a start, also to who has nobody to ask.
    drop(ns1);
    let ns3 = ns3.restart();
    assert!(told(&ns3).contains("eu is wanted"), "{}", told(&ns3));
}

#[test]
fn who_decides_on_a_writer_changes_only_where_there_is_none() {
    let etcd = Etcd::start();
    let more = format!("etcd: {{ endpoints: [\"{}\"] }}\nretired: [{NAME}]\n", etcd.url);
    let config = |service: &str| alone(service, &more);
    let server = Meridian::start(tempfile::tempdir().unwrap(), &config(&web("manual", "2s")));
    assert!(write(&server, "us", &["--fenced"]).0);
    let answer = || server.addresses(NAME).join(" ");
    let refused = || server.metric("meridian_reload_refused{what=\"configuration\"}");
    let reload = |service: &str| {
        let before = server.logged("reloaded") + server.logged("reload refused");
        server.write("meridian.yaml", config(service).as_bytes());
        server.process.signal("HUP");
        wait_for("a reload", || {
            let now = server.logged("reloaded") + server.logged("reload refused");
            (now > before).then_some(())
        });
    };
    reload(&web("3s", "2s"));
    assert_eq!((refused(), answer()), (1.0, "192.0.2.1".to_owned()));
    let (_, told) = server.ctl(&["history", "--kind", "reload"]);
    assert!(told.contains("take web out on all nodes"), "{told}");

    reload("");
    assert_eq!((refused(), answer()), (0.0, String::new()));
    reload(&web("3s", "2s"));
    wait_until(&"192.0.2.2".to_owned(), answer);
    assert_eq!(epoch(&server), "epoch=2 region=eu");

    reload(&web("manual", "2s"));
    assert_eq!((refused(), answer()), (1.0, "192.0.2.2".to_owned()));
    reload("");
    reload(&web("manual", "2s"));
    assert_eq!((refused(), answer()), (0.0, String::new()));
    assert!(write(&server, "us", &[]).0);
    assert_eq!(answer(), "", "what the lease had answered may be remembered");
    wait_until(&"192.0.2.1".to_owned(), answer);
    assert_eq!(epoch(&server), "epoch=3 region=us");
}
