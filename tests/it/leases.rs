//! Leases of writers in a real etcd: far away, asked about much, and while operators want much.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::cluster::let_pass;
use crate::harness::{Asking, Meridian, free_port, wait_for, wait_until};
use crate::writers::Etcd;

/// A way to etcd: `first` is done with each piece of a request before that is passed on.
fn way(etcd: &Etcd, first: impl Fn(&[u8]) + Send + Sync + 'static) -> SocketAddr {
    way_and_back(etcd, first, |_| ())
}

/// The same; and `back` is done with each piece of an answer before that is.
fn way_and_back(
    etcd: &Etcd,
    first: impl Fn(&[u8]) + Send + Sync + 'static,
    back: impl Fn(&[u8]) + Send + Sync + 'static,
) -> SocketAddr {
    let to: SocketAddr = etcd.url.trim_start_matches("http://").parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let (first, back) = (Arc::new(first), Arc::new(back));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (first, back, asks) = (first.clone(), back.clone(), stream.unwrap());
            let etcd = TcpStream::connect(to).unwrap();
            let (answers, asked) = (etcd.try_clone().unwrap(), asks.try_clone().unwrap());
            thread::spawn(move || pass(answers, asked, &*back));
            thread::spawn(move || pass(asks, etcd, &*first));
        }
    });
    at
}

fn pass(mut from: TcpStream, mut to: TcpStream, first: &dyn Fn(&[u8])) {
    let mut buffer = [0; 65536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        first(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
    let _gone = to.shutdown(std::net::Shutdown::Write);
}

/// etcd is so far away.
const FAR: Duration = Duration::from_millis(80);

fn far(etcd: &Etcd) -> SocketAddr {
    way(etcd, |_| let_pass(FAR))
}

/// A server of services that are called so, whose leases last so many seconds.
fn serve(etcd: SocketAddr, names: &[String], lease: u64) -> Meridian {
    serve_by(&[etcd], names, lease)
}

/// The same by several members of etcd.
fn serve_by(members: &[SocketAddr], names: &[String], lease: u64) -> Meridian {
    let members = members.iter().map(|member| format!("\"http://{member}\"")).collect::<Vec<_>>();
    let service = |name: &String| {
        format!(
            "  {name}: {{ names: [{name}.example.com], steer: single-writer, order: [us, eu], \
             lease: {lease}s, ttl: 2s, regions: {{ us: 192.0.2.1, eu: 192.0.2.2 }} }}\n"
        )
    };
    let config = format!(
        "node: {{ name: test, listen: \"127.0.0.1:{}\", state: state, ready_within: 20s }}
http: {{ listen: \"127.0.0.1:0\", socket: ctl.sock }}
regions: {{ us: {{}}, eu: {{}} }}
etcd: {{ endpoints: [{}] }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  plain: {{ names: [plain.example.com], regions: {{ us: 192.0.2.3, eu: 192.0.2.4 }} }}
{}",
        free_port(),
        members.join(", "),
        names.iter().map(service).collect::<String>()
    );
    Meridian::start(tempfile::tempdir().unwrap(), &config)
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("w{number}")).collect()
}

const US: &str = "192.0.2.1";

#[test]
fn many_leases_are_kept_though_etcd_is_far_away() {
    let etcd = Etcd::start();
    let names = numbered(60);
    // One service after the other, they would all have run out before the last is named.
    let server = serve(far(&etcd), &names, 6);
    let names: Vec<String> = names.iter().map(|name| format!("{name}.example.com")).collect();
    let written = || names.iter().filter(|name| server.addresses(name.as_str()) == [US]).count();
    wait_until(&names.len(), written);
    let_pass(Duration::from_secs(8));
    assert_eq!(written(), names.len());
    assert_eq!(server.logged("no region writes"), 0);
    assert_eq!(server.metric("meridian_leases_late"), 0.0);
}

#[test]
fn leases_that_are_looked_at_too_late_are_told_of() {
    let etcd = Etcd::start();
    let server = serve(way(&etcd, |_| let_pass(Duration::from_millis(600))), &numbered(1), 3);
    wait_until(&1.0, || server.metric("meridian_leases_late"));
    wait_for("the log", || {
        (server.logged("longer than a third of the shortest") > 0).then_some(())
    });
}

#[test]
fn the_first_answer_of_a_server_knows_who_writes() {
    let etcd = Etcd::start();
    let server = serve(far(&etcd), &numbered(1), 15);
    assert_eq!(server.addresses("w0.example.com"), [US]);
}

#[test]
fn a_server_that_takes_a_place_knows_who_writes() {
    let etcd = Etcd::start();
    let server = serve(far(&etcd), &numbered(1), 15);
    wait_until(&vec![US.to_owned()], || server.addresses("w0.example.com"));
    let asking = Asking::over_udp(server.dns, "w0.example.com");
    let server = server.replaced();
    wait_until(&vec![US.to_owned()], || server.addresses("w0.example.com"));
    asking.none_lost();
}

/// Somebody who wants `w0` to be written in `eu`, at once, and waits for that.
fn wishing(server: &Meridian) -> UnixStream {
    let body = "{\"service\": \"w0\", \"region\": \"eu\", \"fenced\": true, \"reason\": \"test\", \
                \"owner\": \"alice\"}";
    let mut stream = UnixStream::connect(server.path("ctl.sock")).unwrap();
    let head = "PUT /api/v1/writers HTTP/1.1\r\nhost: meridian\r\ncontent-type: application/json";
    write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    stream
}

#[test]
fn a_wish_holds_up_no_other_word() {
    let etcd = Etcd::start();
    let address = etcd.url.trim_start_matches("http://").parse().unwrap();
    let server = serve(address, &numbered(6), 60);
    wait_until(&vec![US.to_owned()], || server.addresses("w0.example.com"));
    etcd.process.signal("STOP");
    let _wishing = wishing(&server);
    let (fine, told) = server.ctl(&["drain", "plain/eu", "--reason", "test"]);
    assert!(fine, "{told}");
}

#[test]
fn a_wish_that_was_given_up_is_not_granted() {
    let etcd = Etcd::start();
    let address = etcd.url.trim_start_matches("http://").parse().unwrap();
    let server = serve(address, &numbered(6), 60);
    wait_until(&vec![US.to_owned(); 2], || {
        ["w0.example.com", "w1.example.com"].map(|name| server.addresses(name)).concat()
    });
    etcd.process.signal("STOP");
    let wishing = wishing(&server);
    // It is heard by then.
    assert!(server.ctl(&["overrides"]).0);
    drop(wishing);
    assert!(server.ctl(&["overrides"]).0);
    etcd.process.signal("CONT");
    // What was wanted before would be done by then.
    let word = ["writer", "w1", "eu", "--reason", "test", "--owner", "bob", "--fenced"];
    wait_for("another wish", || server.ctl(&word).0.then_some(()));
    wait_until(&vec!["192.0.2.2".to_owned()], || server.addresses("w1.example.com"));
    assert_eq!(server.addresses("w0.example.com"), [US]);
    let (_, told) = server.ctl(&["writers"]);
    assert!(told.contains("w0 (lease: etcd): us writes, epoch 1"), "{told}");
}

#[test]
fn a_writer_whom_a_member_wrote_and_told_too_late_keeps_its_lease() {
    let etcd = Etcd::start();
    let revoked = Arc::new(AtomicBool::new(false));
    let tells = |piece: &[u8], of: &str| String::from_utf8_lossy(piece).contains(of);
    let late = move |piece: &[u8]| {
        if tells(piece, "\"succeeded\":true") {
            let_pass(Duration::from_secs(1));
        }
    };
    let member = || {
        let revoked = revoked.clone();
        let watched = move |piece: &[u8]| {
            revoked.fetch_or(tells(piece, "/v3/lease/revoke"), Ordering::Relaxed);
        };
        way_and_back(&etcd, watched, late)
    };
    let members = [member(), member()];
    let server = serve_by(&members, &numbered(1), 60);
    wait_until(&vec![US.to_owned()], || server.addresses("w0.example.com"));
    // An operator's word is told as done, too.
    let word = ["writer", "w0", "eu", "--reason", "test", "--owner", "alice", "--fenced"];
    let (fine, told) = server.ctl(&word);
    assert!(fine, "{told}");
    wait_until(&vec!["192.0.2.2".to_owned()], || server.addresses("w0.example.com"));
    let (_, told) = server.ctl(&["writers"]);
    assert!(told.contains("eu writes, epoch 2"), "{told}");
    assert_eq!(server.logged("no region writes"), 0);
    assert!(!revoked.load(Ordering::Relaxed));
}

#[test]
fn what_an_operator_wants_while_a_writer_is_named_is_not_lost() {
    let etcd = Etcd::start();
    let (is_first, url) = (AtomicBool::new(true), etcd.url.clone());
    let want = move |piece: &[u8]| {
        let is_naming = String::from_utf8_lossy(piece).contains("/v3/kv/txn");
        if is_naming && is_first.swap(false, Ordering::Relaxed) {
            // `/meridian/w0/wanted` and `eu`, as another node writes them.
            let put = "{\"key\": \"L21lcmlkaWFuL3cwL3dhbnRlZA==\", \"value\": \"ZXU=\"}";
            let mut curl = Command::new("curl");
            curl.args(["-s", "-d", put, &format!("{url}/v3/kv/put")]);
            assert!(curl.stdout(Stdio::null()).status().unwrap().success());
        }
    };
    let server = serve(way(&etcd, want), &numbered(1), 15);
    wait_until(&vec!["192.0.2.2".to_owned()], || server.addresses("w0.example.com"));
    let (_, told) = server.ctl(&["writers"]);
    assert!(told.contains("eu writes, epoch 1"), "{told}");
}

/// `/meridian/w0/wanted`, as etcd is told of it.
const WANTED: &str = "L21lcmlkaWFuL3cwL3dhbnRlZA==";

#[test]
fn a_word_that_is_not_answered_is_not_said_to_be_undone() {
    let etcd = Etcd::start();
    let is_lost = Arc::new(AtomicBool::new(false));
    let lost = is_lost.clone();
    let member = way(&etcd, move |piece| {
        while lost.load(Ordering::Relaxed) && String::from_utf8_lossy(piece).contains(WANTED) {
            thread::park();
        }
    });
    let server = serve_by(&[member], &numbered(1), 60);
    wait_until(&vec![US.to_owned()], || server.addresses("w0.example.com"));
    is_lost.store(true, Ordering::Relaxed);
    let word = ["writer", "w0", "eu", "--reason", "test", "--owner", "alice"];
    let (is_done, told) = server.ctl(&word);
    assert!(!is_done && told.contains("it is not known whether it was done"), "{told}");
}

#[test]
fn a_word_that_a_member_passes_on_too_late_replaces_none_that_was_said_since() {
    let etcd = Etcd::start();
    let is_next = Arc::new(AtomicBool::new(false));
    let (frozen, passed) = mpsc::channel();
    let member = || {
        let (is_next, frozen) = (is_next.clone(), frozen.clone());
        way(&etcd, move |piece| {
            // What the first word is told by goes no further.
            let is_word = String::from_utf8_lossy(piece).contains(WANTED);
            if is_word && is_next.swap(false, Ordering::Relaxed) {
                frozen.send(piece.to_vec()).unwrap();
                loop {
                    thread::park();
                }
            }
        })
    };
    let members = [member(), member()];
    let server = serve_by(&members, &numbered(1), 60);
    wait_until(&vec![US.to_owned()], || server.addresses("w0.example.com"));
    is_next.store(true, Ordering::Relaxed);
    let say = |region: &str| {
        let word = ["writer", "w0", region, "--reason", "test", "--owner", "alice"];
        let (fine, told) = server.ctl(&word);
        assert!(fine, "{told}");
    };
    // Another member is asked, and does it.
    say("eu");
    say("us");
    let word = passed.recv_timeout(Duration::from_secs(10)).unwrap();
    let mut stream = TcpStream::connect(etcd.url.trim_start_matches("http://")).unwrap();
    stream.write_all(&word).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let key = format!("{{\"key\": \"{WANTED}\"}}");
    let mut curl = Command::new("curl");
    curl.args(["-s", "-d", &key, &format!("{}/v3/kv/range", etcd.url)]);
    let wanted = String::from_utf8(curl.output().unwrap().stdout).unwrap();
    assert!(wanted.contains("\"value\":\"dXM=\""), "`us` was said last: {wanted}");
}

#[test]
fn an_epoch_that_is_older_than_a_known_one_is_not_followed() {
    let etcd = Etcd::start();
    let address = etcd.url.trim_start_matches("http://").parse().unwrap();
    let knows = serve(address, &numbered(1), 3);
    wait_until(&vec![US.to_owned()], || knows.addresses("w0.example.com"));
    let word = ["writer", "w0", "eu", "--reason", "test", "--owner", "alice", "--fenced"];
    assert!(knows.ctl(&word).0);
    wait_until(&vec!["192.0.2.2".to_owned()], || knows.addresses("w0.example.com"));
    // All that begins with `/meridian/` is lost, as with an older backup; and one that knows
    // nothing names the first again.
    knows.process.signal("STOP");
    let all = "{\"key\": \"L21lcmlkaWFuLw==\", \"range_end\": \"L21lcmlkaWFuMA==\"}";
    let mut curl = Command::new("curl");
    curl.args(["-s", "-d", all, &format!("{}/v3/kv/deleterange", etcd.url)]);
    assert!(curl.stdout(Stdio::null()).status().unwrap().success());
    let forgot = serve(address, &numbered(1), 3);
    wait_until(&vec![US.to_owned()], || forgot.addresses("w0.example.com"));
    knows.process.signal("CONT");
    let why = "etcd tells epoch 1, of us, and this node knows of epoch 2";
    wait_for(why, || knows.ctl(&["status"]).1.contains(why).then_some(()));
    // What it knew stands until its lease ends.
    wait_until(&Vec::<String>::new(), || knows.addresses("w0.example.com"));
    let_pass(Duration::from_secs(1));
    assert_eq!(knows.addresses("w0.example.com"), [""; 0]);
}
