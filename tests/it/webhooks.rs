//! Who is told by a webhook: of all that happens, in order, also over a restart.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use crate::harness::{Meridian, Nginx, free_port, wait_until};
use crate::operators::{DUBLIN, because, config};

/// Events, each with the head of its request.
type Taken = Arc<Mutex<Vec<(String, Value)>>>;

/// Takes events, after it has refused to some times: its URL, and what it took.
fn receiver(refusals: usize) -> (String, Taken) {
    receiver_at(TcpListener::bind("127.0.0.1:0").unwrap(), refusals)
}

fn receiver_at(listener: TcpListener, mut refusals: usize) -> (String, Taken) {
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let taken: Taken = Arc::default();
    let takes = taken.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap() > 0 {}
            let head = head.to_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|of| of.lines().next());
            let mut body = vec![0; length.unwrap().parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            let status = if refusals > 0 { "503 Not Now" } else { "204 Thanks" };
            if refusals == 0 {
                takes.lock().unwrap().push((head, serde_json::from_slice(&body).unwrap()));
            }
            refusals = refusals.saturating_sub(1);
            let _gone = write!(stream.get_mut(), "HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
        }
    });
    (url, taken)
}

#[test]
fn webhooks_are_told_in_order_again_and_again_and_delay_nothing() {
    let port = free_port();
    let regions = [Nginx::start(port), Nginx::start(port)];
    let [us, eu] = regions.each_ref().map(|region| region.address.to_string());
    let ((reluctant, taken), (overrides, words)) = (receiver(2), receiver(0));
    // Nobody ever answers here.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "a-secret\n").unwrap();
    let server = Meridian::serve_in(
        folder,
        &format!(
            "{}webhooks:
  reluctant: {{ url: \"{reluctant}\", token: token }}
  words: {{ url: \"{overrides}\", kinds: [override] }}
  silent: {{ url: \"http://{silent}/\" }}
",
            config(port, [&us, &eu])
        ),
    );
    let [_us, mut eu_region] = regions;
    eu_region.process.kill();
    wait_until(&vec![us], || server.addresses_for("www.example.com", DUBLIN));
    assert!(server.ctl(&because(&["drain", "web/eu"])).0);
    let told = |of: &Taken| {
        let events = of.lock().unwrap();
        let shown = |(_, event): &(String, Value)| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&event["type"]), text(&event["data"]["what"]))
        };
        events.iter().map(shown).collect::<Vec<_>>()
    };
    let expected = |all: &[(&str, &str)]| {
        let owned = all.iter().map(|(of, what)| ((*of).to_owned(), (*what).to_owned()));
        owned.collect::<Vec<_>>()
    };
    wait_until(&expected(&[("meridian.state", "down"), ("meridian.override", "drain")]), || {
        told(&taken)
    });
    wait_until(&expected(&[("meridian.override", "drain")]), || told(&words));
    let (head, event) = taken.lock().unwrap().first().cloned().unwrap();
    assert!(head.contains("content-type: application/cloudevents+json"), "{head}");
    assert!(head.contains("authorization: bearer a-secret"), "{head}");
    assert_eq!(event["specversion"], "1.0");
    assert!(event["source"].as_str().unwrap().starts_with("/meridian/"), "{event}");
    assert!(event["subject"].as_str().unwrap().contains(&eu), "{event}");
    let failed = "meridian_webhook_events_total{webhook=\"reluctant\",outcome=\"failed\"}";
    assert_eq!(server.metric(failed), 2.0);
}

#[test]
fn what_a_webhook_has_not_taken_before_a_restart_it_is_told_after_it() {
    let port = free_port();
    let regions = [Nginx::start(port), Nginx::start(port)];
    let [us, eu] = regions.each_ref().map(|region| region.address.to_string());
    // Nobody listens there yet.
    let at = ("127.0.0.1", free_port());
    let server = Meridian::serve(&format!(
        "{}webhooks: {{ pager: {{ url: \"http://{}:{}/hook?key=s3cret\", kinds: [override] }} }}\n",
        config(port, [&us, &eu]),
        at.0,
        at.1
    ));
    let say = |server: &Meridian, word: [&'static str; 2]| {
        assert!(server.ctl(&because(&word)).0);
    };
    say(&server, ["drain", "web/eu"]);
    wait_until(&true, || server.logged("an event is sent again later") > 0);
    assert_eq!(server.logged("s3cret"), 0, "a URL may be a secret");
    // What came before this is on disk when it is answered.
    assert_eq!(server.get("/api/v1/history").0, 200);
    let server = server.restart();
    say(&server, ["drain", "api/eu"]);
    let (_, taken) = receiver_at(TcpListener::bind(at).unwrap(), 0);
    let told = || {
        let events = taken.lock().unwrap();
        events.iter().map(|(_, event)| event["subject"].clone()).collect::<Vec<_>>()
    };
    wait_until(&["web/eu", "api/eu"].map(Value::from).to_vec(), told);
    let delivered = "meridian_webhook_events_total{webhook=\"pager\",outcome=\"delivered\"}";
    wait_until(&2.0, || server.metric(delivered));
    assert_eq!(server.get("/api/v1/history").0, 200);
    // What was taken is not told again.
    let server = server.restart();
    say(&server, ["up", "web/us"]);
    wait_until(&["web/eu", "api/eu", "web/us"].map(Value::from).to_vec(), told);
}
