//! One region at a time writes: by operators' word, or by a lease in a real etcd.

#![expect(clippy::disallowed_methods, reason = "how far apart two answers are is what is tested")]

use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{World, let_pass};
use crate::harness::{
    Asking, Meridian, Nginx, PATIENCE, Process, ask, data, free_port, own_address, question,
    wait_for, wait_until,
};

const NAME: &str = "www.example.com";

/// What the name that tells the epoch says.
pub(crate) fn epoch(server: &Meridian) -> String {
    let answer = ask(server.dns, "_epoch.www.example.com", RecordType::TXT, None);
    let texts = answer.answers.iter().filter_map(|record| match &record.data {
        RData::TXT(text) => Some(text.txt_data.iter()),
        _ => None,
    });
    let texts = texts.flatten().map(|text| String::from_utf8_lossy(text).into_owned());
    texts.collect::<Vec<_>>().join(" ")
}

#[test]
fn by_operators_word_one_region_writes_and_the_next_only_when_the_old_answers_are_forgotten() {
    let port = free_port();
    let regions = [Nginx::start(port), Nginx::start(port)];
    let [us, eu] = regions.each_ref().map(|region| vec![region.address.to_string()]);
    let server = Meridian::serve(&format!(
        "regions: {{ us: {{ at: [39, -77] }}, eu: {{ at: [53, -6] }} }}
checks: {{ web: {{ http: /healthz, port: {port}, rise: 1 }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web:
    names: [www.example.com]
    check: web
    ttl: 2s
    steer: single-writer
    lease: manual
    regions: {{ us: {}, eu: {} }}
",
        us[0], eu[0]
    ));
    let answer = |server: &Meridian| server.addresses(NAME);
    let write = |server: &Meridian, region: &str, more: &[&str]| {
        let word = ["writer", "web", region, "--reason", "test", "--owner", "alice"];
        server.ctl(&[&word[..], more].concat())
    };
    // Nobody was named: no region may write, and that is told.
    assert_eq!((answer(&server).len(), epoch(&server)), (0, String::new()));
    let (_, told) = server.ctl(&["status"]);
    assert!(told.contains("web: no region writes"), "{told}");
    assert_eq!(server.metric("meridian_writer_epoch{service=\"web\"}"), 0.0);
    let (fine, told) = write(&server, "nowhere", &[]);
    assert!(!fine && told.contains("no endpoint in nowhere"), "{told}");

    assert!(write(&server, "us", &["--fenced"]).0);
    assert_eq!((answer(&server), epoch(&server)), (us.clone(), "epoch=1 region=us".to_owned()));
    let (_, told) = server.get("/api/v1/explain?name=_epoch.www.example.com&from=192.0.2.1");
    assert!(told.contains("\"outcome\":\"zone\"") && told.contains("[\"TXT\"]"), "{told}");

    // It dies: it is answered all the same, as nobody else may write.
    let [mut us_region, _eu] = regions;
    us_region.process.kill();
    server.wait_for_endpoint(us_region.address, "down", "connection refused");
    assert_eq!(answer(&server), us);
    let (_, told) = server.ctl(&["status"]);
    assert!(told.contains("web: its writer us is down; `ctl writer` names another"), "{told}");
    let (_, told) = server.get("/api/v1/status");
    assert!(told.contains("\"basis\":\"the writer, epoch 1 (down)\""), "{told}");
    let down = "meridian_writer_down{service=\"web\",lease=\"manual\"}";
    assert_eq!(server.metric(down), 1.0);
    let (_, told) = server.get(&format!("/api/v1/explain?name={NAME}&from=192.0.2.1"));
    assert!(told.contains("\"basis\":\"the writer, epoch 1 (down)\""), "{told}");
    assert!(told.contains("up; not the writer"), "{told}");
    let (fine, told) = write(&server, "us", &[]);
    assert!(!fine && told.contains("us is not well; with `--fenced`"), "{told}");
    // What an operator took out an operator lets in again.
    let drain = ["drain", "eu", "--reason", "power work", "--owner", "bob"];
    let (fine, told) = server.ctl(&drain);
    assert!(fine, "{told}");
    let (fine, told) = write(&server, "eu", &[]);
    let out = "eu is drained (power work, by bob): `ctl clear eu` first";
    assert!(!fine && told.contains(out) && !told.contains("fenced"), "{told}");
    assert!(server.ctl(&["clear", "eu"]).0);

    let said = Instant::now();
    assert!(write(&server, "eu", &[]).0);
    assert_eq!(answer(&server).len(), 0, "the old one is answered no more");
    let (_, told) = server.ctl(&["writers"]);
    assert!(told.contains("NO REGION WRITES, eu is wanted, the next one from"), "{told}");
    wait_until(&eu, || answer(&server));
    assert!(said.elapsed() > Duration::from_secs(2), "{:?}", said.elapsed());
    assert_eq!(epoch(&server), "epoch=2 region=eu");
    assert_eq!(server.ctl(&["writers"]).1, "web (lease: manual): eu writes, epoch 2");
    assert_eq!(server.metric(down), 0.0);

    // It outlives a restart.
    let server = server.restart();
    wait_until(&eu, || answer(&server));
    assert_eq!(epoch(&server), "epoch=2 region=eu");
    let (_, told) = server.ctl(&["history"]);
    assert!(told.contains("eu is to write, epoch 2") && told.contains("alice"), "{told}");
}

#[test]
fn a_reload_never_answers_another_writer_whatever_stands_before_it() {
    let config = |region: &str, service: &str| {
        format!(
            "regions: {{ {region}us: {{ at: [39, -77] }}, eu: {{ at: [53, -6] }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
{service}  web:
    names: [www.example.com]
    steer: single-writer
    lease: manual
    regions: {{ us: 192.0.2.1, eu: 192.0.2.2 }}
retired: [api.example.com]
"
        )
    };
    let server = Meridian::serve(&config("", ""));
    let word = ["writer", "web", "us", "--reason", "test", "--owner", "alice", "--fenced"];
    assert!(server.ctl(&word).0);
    let asking = Asking::over_udp(server.dns, NAME);
    for round in 1..=20 {
        let before = match round % 2 {
            1 => ("ap: {}, ", "  api: { names: [api.example.com], regions: { eu: 192.0.2.3 } }\n"),
            _ => ("", ""),
        };
        server.write_config(&config(before.0, before.1));
        server.process.signal("HUP");
        wait_for("a reload", || (server.logged("reloaded") >= round).then_some(()));
    }
    let (_, seen) = asking.answers();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["192.0.2.1"]);
    let (_, told) = server.ctl(&["history"]);
    assert!(!told.contains("no region writes"), "{told}");
}

#[test]
fn who_is_cut_off_answers_no_writer_and_two_words_at_once_are_none() {
    let world = World::with(3, "", "steer: single-writer, lease: manual, ttl: 2s, ", "");
    let write = |node: usize, region: &str| {
        let word = ["writer", "web", region, "--reason", "test", "--owner", "bob", "--fenced"];
        let (fine, told) = world.node(node).ctl(&word);
        assert!(fine, "{told}");
    };
    let answers_of = |rows: &[usize]| {
        rows.iter().map(|row| world.node(*row).addresses(NAME)).collect::<Vec<_>>()
    };
    let answers = || answers_of(&[0, 1, 2]);
    let [us, eu] = [&world.us, &world.eu].map(|of| vec![of.address.to_string()]);
    write(0, "us");
    wait_until(&vec![us.clone(); 3], answers);
    world.part(&[2], true);
    wait_until(&vec![us.clone(), us.clone(), vec![]], answers);
    assert_eq!(world.node(2).addresses("api.example.com").len(), 1, "all else goes on");
    let soft = ["writer", "web", "eu", "--reason", "test", "--owner", "carol"];
    let (fine, told) = world.node(2).ctl(&soft);
    assert!(!fine && told.contains("hears too few others"), "{told}");
    // Two who know nothing of each other are sure that nobody else writes.
    write(0, "us");
    write(2, "eu");
    world.part(&[2], false);
    wait_until(&vec![vec![]; 3], answers);
    write(1, "eu");
    wait_until(&vec![eu; 3], answers);
    wait_until(&"epoch=4 region=eu".to_owned(), || epoch(world.node(0)));

    // One that stood still while another writer was named does not answer the old one.
    world.node(0).process.signal("STOP");
    wait_until(&1.0, || world.node(1).metric("meridian_nodes_heard"));
    write(1, "us");
    wait_until(&vec![us.clone(); 2], || answers_of(&[1, 2]));
    let woken = wake(world.node(0), 20);
    assert!(woken.iter().all(|answer| answer.is_empty() || *answer == us), "{woken:?}");
    wait_until(&vec![us; 3], answers);
}

#[test]
fn who_is_not_heard_answers_no_writer_and_names_one_only_when_it_is() {
    let world = World::with(3, "", "steer: single-writer, lease: manual, ttl: 2s, ", "");
    let say = |node: usize, region: &str, more: &[&str]| {
        let word = ["writer", "web", region, "--reason", "test", "--owner", "bob"];
        world.node(node).ctl(&[&word[..], more].concat())
    };
    let answers = || [0, 1, 2].map(|row| world.node(row).addresses(NAME));
    let [us, eu] = [&world.us, &world.eu].map(|of| vec![of.address.to_string()]);
    assert!(say(0, "us", &["--fenced"]).0);
    wait_until(&[us.clone(), us.clone(), us.clone()], answers);
    // Nobody hears ns3; it hears everybody.
    world.cut(&[(2, 0), (2, 1)], true);
    wait_until(&[us.clone(), us.clone(), vec![]], answers);
    assert_eq!(world.node(2).metric("meridian_nodes_heard"), 2.0);
    let (fine, told) = say(2, "eu", &[]);
    assert!(!fine && told.contains("or they do not hear it"), "{told}");
    // Its word counts nowhere, and there neither.
    assert!(say(2, "eu", &["--fenced"]).0);
    let (_, told) = world.node(2).ctl(&["writers"]);
    assert!(told.contains("NO REGION WRITES, eu is wanted: too few nodes are known"), "{told}");
    let_pass(Duration::from_secs(3));
    assert_eq!(answers(), [us.clone(), us, vec![]]);
    world.cut(&[(2, 0), (2, 1)], false);
    wait_until(&[eu.clone(), eu.clone(), eu], answers);
    wait_until(&"epoch=2 region=eu".to_owned(), || epoch(world.node(0)));
}

/// A real etcd of one member.
pub(crate) struct Etcd {
    pub(crate) process: Process,
    pub(crate) url: String,
    #[expect(dead_code, reason = "held")]
    folder: TempDir,
}

impl Etcd {
    pub(crate) fn start() -> Self {
        let (address, [client, peer]) = (own_address(), [free_port(), free_port()]);
        let [url, peer] = [client, peer].map(|port| format!("http://{address}:{port}"));
        // It waits for its disk with each word, and its clients do not wait long.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(folder.path());
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.arg(format!("--initial-cluster=default={peer}"));
        Self { process: Process::start(&mut command), url, folder }
    }

    fn world(&self) -> World {
        let service = "steer: single-writer, order: [us, eu], lease: 3s, ttl: 2s, ";
        World::with(3, "", service, &format!("etcd: {{ endpoints: [\"{}\"] }}\n", self.url))
    }
}

#[test]
fn a_silent_member_of_etcd_ends_no_lease() {
    let etcd = Etcd::start();
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = |name: &str| {
        format!(
            "  {name}: {{ names: [{name}.example.com], steer: single-writer, order: [us, eu], \
             lease: 6s, ttl: 2s, regions: {{ us: 192.0.2.1, eu: 192.0.2.2 }} }}\n"
        )
    };
    let server = Meridian::serve(&format!(
        "regions: {{ us: {{}}, eu: {{}} }}
etcd: {{ endpoints: [\"http://{}\", \"{}\"] }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
{}",
        silent.local_addr().unwrap(),
        etcd.url,
        ["a", "b", "c", "d", "e", "f"].map(service).concat()
    ));
    let names = [
        "a.example.com",
        "b.example.com",
        "c.example.com",
        "d.example.com",
        "e.example.com",
        "f.example.com",
    ];
    wait_until(&vec![1; 6], || {
        names.iter().map(|name| server.addresses(name).len()).collect::<Vec<_>>()
    });
    let asking = names.map(|name| Asking::over_udp(server.dns, name));
    let_pass(Duration::from_secs(12));
    for of in asking {
        assert_eq!(of.answers().1.into_iter().collect::<Vec<_>>(), ["192.0.2.1"]);
    }
}

/// What a node that is stopped answers when it goes on to queries that have waited for that.
fn wake(node: &Meridian, count: usize) -> Vec<Vec<String>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let query = question(NAME, RecordType::A, None).to_vec().unwrap();
    for _ in 0..count {
        socket.send_to(&query, node.dns).unwrap();
    }
    node.process.signal("CONT");
    let answer = |_| {
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).unwrap();
        data(&Message::from_vec(&answer[..length]).unwrap())
    };
    (0..count).map(answer).collect()
}

/// What every node answers, over and over, until `condition`; the last moment at which any named
/// the first address, and the first at which any named the second.
fn watch(world: &World, [old, new]: [&str; 2], condition: impl Fn() -> bool) -> [Instant; 2] {
    let (mut last, mut first) = (Instant::now(), None);
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain");
        for node in world.nodes.iter().flatten() {
            let before = Instant::now();
            let answer = node.addresses(NAME);
            assert!(answer.len() <= 1, "{answer:?}");
            if answer.iter().any(|of| of == old) {
                assert!(first.is_none(), "the old one after the new one");
                last = before;
            }
            if answer.iter().any(|of| of == new) {
                first.get_or_insert(before);
            }
        }
        let_pass(Duration::from_millis(20));
    }
    [last, first.expect("nobody ever named the new one")]
}

#[test]
fn by_a_lease_no_two_regions_write_within_the_time_of_an_answer() {
    let etcd = Etcd::start();
    let world = etcd.world();
    let answers = || (0..3).map(|row| world.node(row).addresses(NAME)).collect::<Vec<_>>();
    let [us, eu] = [&world.us, &world.eu].map(|of| of.address.to_string());
    wait_until(&vec![vec![us.clone()]; 3], answers);
    assert_eq!(epoch(world.node(1)), "epoch=1 region=us");
    let ttl = Duration::from_secs(2);

    world.us.is_sick_for(&["ns1", "ns2", "ns3"]);
    let all_say = |address: &String| answers() == vec![vec![address.clone()]; 3];
    let [last, first] = watch(&world, [&us, &eu], || all_say(&eu));
    assert!(first.duration_since(last) >= ttl, "{:?}", first.duration_since(last));
    assert_eq!(epoch(world.node(2)), "epoch=2 region=eu");

    // It does not come back by itself; an operator hands over.
    world.us.is_sick_for(&[]);
    let back = || world.node(0).endpoint(world.us.address).0;
    wait_until(&"up".to_owned(), back);
    let_pass(Duration::from_secs(1));
    assert!(all_say(&eu));
    let word = ["writer", "web", "us", "--reason", "test", "--owner", "bob"];
    assert!(world.node(1).ctl(&word).0);
    let [last, first] = watch(&world, [&eu, &us], || all_say(&us));
    assert!(first.duration_since(last) >= ttl, "{:?}", first.duration_since(last));
    assert_eq!(epoch(world.node(2)), "epoch=3 region=us");

    // Who knows that the old one is fenced does not wait.
    let word = ["writer", "web", "eu", "--reason", "test", "--owner", "bob", "--fenced"];
    assert!(world.node(1).ctl(&word).0);
    wait_until(&vec![vec![eu]; 3], answers);
    assert_eq!(epoch(world.node(0)), "epoch=4 region=eu");
    let (_, history) = world.node(1).ctl(&["history", "--kind", "override"]);
    for told in
        ["web: us is to write (test, by bob", "web: eu is to write, the old one being fenced"]
    {
        assert!(history.contains(told), "{history}");
    }

    // Before etcd was told anything.
    etcd.process.signal("STOP");
    let word = ["writer", "web", "us", "--reason", "test", "--owner", "bob"];
    let (is_done, told) = world.node(1).ctl(&word);
    assert!(!is_done && told.contains("so it is not followed: etcd does not answer"), "{told}");
    etcd.process.signal("CONT");
}

#[test]
fn without_etcd_a_writer_stands_until_its_lease_ends_and_all_else_goes_on() {
    let etcd = Etcd::start();
    let world = etcd.world();
    let answers = || (0..3).map(|row| world.node(row).addresses(NAME)).collect::<Vec<_>>();
    let us = vec![world.us.address.to_string()];
    wait_until(&vec![us.clone(); 3], answers);

    // A node that is stopped in the middle of it: what it finds when it wakes up is over.
    world.node(0).process.signal("STOP");
    etcd.process.signal("STOP");
    let stopped = Instant::now();
    wait_until(&vec![vec![]; 2], || {
        (1..3).map(|row| world.node(row).addresses(NAME)).collect::<Vec<_>>()
    });
    assert!(stopped.elapsed() > Duration::from_secs(1), "{:?}", stopped.elapsed());
    let (_, status) = world.node(1).ctl(&["status"]);
    let told = format!("etcd does not answer: {}: ", etcd.url);
    assert!(status.contains(&told), "{status}");
    assert_eq!(world.node(1).addresses("api.example.com").len(), 1);
    // The answer ends by itself, and then it is told.
    wait_until(&Value::from("no region writes"), || {
        let (_, history) = world.node(1).get("/api/v1/history?kind=state");
        serde_json::from_str::<Value>(&history).unwrap()[0]["what"].clone()
    });

    // By then the lease is over on its clock too, which may have been renewed a little later.
    wait_until(&true, || stopped.elapsed() > Duration::from_secs(3));
    let woken = wake(world.node(0), 20);
    assert_eq!(woken, vec![Vec::<String>::new(); 20], "a writer whose lease is over");
    etcd.process.signal("CONT");
    wait_until(&vec![us; 3], answers);
}

#[test]
fn a_writer_stays_though_the_only_node_in_its_region_is_gone() {
    let etcd = Etcd::start();
    let mut world = etcd.world();
    let us = vec![world.us.address.to_string()];
    wait_until(&vec![us.clone(); 3], || {
        (0..3).map(|row| world.node(row).addresses(NAME)).collect::<Vec<_>>()
    });
    drop(world.nodes[0].take());
    let asking = [1, 2].map(|row| Asking::over_udp(world.node(row).dns, NAME));
    // A lease lasts for three of them, and the answers for two.
    let_pass(Duration::from_secs(9));
    for of in asking {
        assert_eq!(of.answers().1.into_iter().collect::<Vec<_>>(), us);
    }
    assert_eq!(epoch(world.node(1)), "epoch=1 region=us");
}

#[test]
fn a_node_that_is_replaced_goes_on_naming_the_writer() {
    let mut world = World::with(3, "", "steer: single-writer, lease: manual, ttl: 2s, ", "");
    let word = ["writer", "web", "us", "--reason", "test", "--owner", "bob", "--fenced"];
    assert!(world.node(0).ctl(&word).0);
    let us = vec![world.us.address.to_string()];
    wait_until(&vec![us.clone(); 3], || {
        (0..3).map(|row| world.node(row).addresses(NAME)).collect::<Vec<_>>()
    });
    // The next one waits for a first verdict that nobody gives.
    let node = world.nodes[0].take().unwrap();
    let config = std::fs::read_to_string(node.path("meridian.yaml")).unwrap();
    let config = config.replace("checks: {", "checks: { told: { pushed: true },");
    // The same socket.
    let config = config.replacen("127.0.0.1:0", &node.dns.to_string(), 1);
    let hook = "  hook: { names: [hook.example.com], check: told, regions: { us: 192.0.2.7 } }\n";
    node.write("meridian.yaml", format!("{config}{hook}").as_bytes());
    let asking = Asking::over_udp(node.dns, NAME);
    world.nodes[0] = Some(node.replaced());
    let (_, seen) = asking.answers();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), us);
}
