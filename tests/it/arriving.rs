//! A region that has left the answers and still gets requests, as its endpoints tell.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use crate::harness::{Meridian, Nginx, free_port, meridian, own_address, wait_for, wait_until};

/// A web server that reports its load in the header of each answer.
struct Backend {
    address: IpAddr,
    report: Arc<Mutex<String>>,
}

impl Backend {
    fn start(port: u16, report: &str) -> Self {
        let address = own_address();
        let listener = TcpListener::bind((address, port)).unwrap();
        let report = Arc::new(Mutex::new(report.to_owned()));
        let reported = report.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let Ok(1..) = stream.read(&mut [0; 2048]) else { continue };
                let report = reported.lock().unwrap().clone();
                let head = format!("Content-Length: 0\r\nEndpoint-Load-Metrics: {report}");
                let _gone = write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\n\r\n");
            }
        });
        Self { address, report }
    }

    fn reports(&self, report: &str) {
        report.clone_into(&mut self.report.lock().unwrap());
    }
}

/// What `ctl` prints, and its exit code.
fn ctl(server: &Meridian, arguments: &[&str]) -> (Option<i32>, String) {
    let socket = server.path("ctl.sock");
    let all = [&["ctl", "--socket", socket.to_str().unwrap()], arguments].concat();
    let Output { status, stdout, stderr } = meridian(&all);
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

fn drain<'a>(subject: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["drain", subject, "--reason", "power", "--owner", "alice"], more].concat()
}

/// Two regions, whose clients' caches follow the TTL.
fn config(checks: &str, services: &str) -> String {
    format!(
        "regions: {{ us: {{ at: [39, -77] }}, eu: {{ at: [53, -6] }} }}
checks: {{ {checks} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
convergence: {{ population: honest }}
services:
{services}"
    )
}

/// What is told of a service's region that has left the answers.
fn row(server: &Meridian, subject: &str) -> Value {
    let (_, text) = server.get(&format!("/api/v1/convergence?subject={subject}"));
    serde_json::from_str::<Value>(&text).unwrap()[0].take()
}

/// The reasons not to switch it off.
fn reasons(server: &Meridian, subject: &str) -> Vec<String> {
    let row = row(server, subject);
    let waits = row["waits"].as_array().unwrap().iter();
    waits.map(|wait| wait["why"].as_str().unwrap().to_owned()).collect()
}

const MANY: &str = "eu still receives 42 requests/s of 1,200 before (3.5 %); target 1 %; more than \
                    three times what caches explain: something pins connections";

#[test]
fn requests_that_still_arrive_are_waited_for_by_what_the_header_reports() {
    let port = free_port();
    let eu = Backend::start(port, "TEXT cpu_utilization=0.3, rps_fractional=1200");
    let (us, silent) = (Backend::start(port, "TEXT rps_fractional=many"), Nginx::start(port));
    let server = Meridian::serve(&config(
        &format!("web: {{ http: /healthz, port: {port}, rise: 1 }}"),
        &format!(
            "  web: {{ names: [www.example.com], steer: failover, check: web, ttl: 1s, \
             regions: {{ eu: [{}, {}], us: {} }} }}\n",
            eu.address, silent.address, us.address
        ),
    ));
    let gauge = "meridian_arriving_requests{service=\"web\",region=\"eu\"}";
    wait_until(&1200.0, || server.metric(gauge));
    // A report that makes no sense is counted, and its probe is as good as any.
    assert!(server.metric("meridian_load_reports_total{outcome=\"malformed\"}") >= 1.0);
    server.wait_for_endpoint(us.address, "up", "ok");

    // What was before is what arrived when the ramp began.
    assert_eq!(ctl(&server, &drain("eu", &["--ramp", "50%/2s"])).0, Some(0));
    eu.reports(r#"JSON {"rps_fractional": 42}"#);
    wait_until(&vec![MANY.to_owned()], || reasons(&server, "web/eu"));
    let (_, told) = ctl(&server, &["convergence", "eu"]);
    assert!(told.contains("web/eu: NOT TO BE SWITCHED OFF\n"), "{told}");
    let untold = format!("\n            {} does not tell what arrives there\n", silent.address);
    let line = format!("  arriving  42 requests/s of 1,200 before (3.5 %){untold}");
    assert!(told.contains(&line), "{told}");
    let (_, status) = server.ctl(&["status"]);
    assert!(status.contains("ALARM     web/eu left the answers and receives 42"), "{status}");

    let (code, told) = ctl(&server, &drain("eu", &["--wait", "--timeout", "1s"]));
    assert_eq!(code, Some(3), "{told}");
    assert!(told.contains(&format!("\nweb/eu: {MANY}\n")), "{told}");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| ctl(&server, &drain("eu", &["--wait"])));
        eu.reports("TEXT rps_fractional=12");
        let (code, told) = waiting.join().unwrap();
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains("\neu: may be switched off\n"), "{told}");
    });
    let row = row(&server, "eu");
    assert_eq!((&row["arriving"]["share"], &row["safe"]), (&0.01.into(), &true.into()), "{row}");
}

#[test]
fn each_reason_is_told_first_those_that_no_time_ends() {
    let port = free_port();
    let (us, eu) = (Nginx::start(port), Backend::start(port, "TEXT rps_fractional=1200"));
    let server = Meridian::serve(&config(
        &format!("web: {{ http: /healthz, port: {port}, rise: 1 }}"),
        &format!(
            "  web: {{ names: [www.example.com], steer: failover, check: web, ttl: 1h, \
             regions: {{ eu: {}, us: {} }} }}\n",
            eu.address, us.address
        ),
    ));
    wait_until(&1200.0, || {
        server.metric("meridian_arriving_requests{service=\"web\",region=\"eu\"}")
    });
    assert_eq!(server.addresses("www.example.com"), [eu.address.to_string()]);
    assert_eq!(ctl(&server, &drain("eu", &[])).0, Some(0));
    eu.reports("TEXT rps_fractional=42");
    let many = "eu still receives 42 requests/s of 1,200 before (3.5 %); target 1 %";
    wait_for(many, || reasons(&server, "eu").contains(&many.to_owned()).then_some(()));
    let (code, told) = ctl(&server, &drain("eu", &["--wait", "--timeout", "1s"]));
    assert_eq!(code, Some(3), "{told}");
    let lines = [
        many,
        "answers that name it are remembered, until",
        "100.0 % of its clients are expected to go there still; 1 % may, until",
    ];
    let places = lines.map(|line| told.find(&format!("web/eu: {line}")));
    assert!(places.iter().all(|place| *place >= places[0] && place.is_some()), "{told}");
}

#[test]
fn what_is_pushed_of_requests_and_fences_is_waited_for() {
    let port = free_port();
    let [us, eu] = [Nginx::start(port), Nginx::start(port)];
    // Before anybody pushes, a file tells: else the first verdict would be waited for.
    let folder = tempfile::tempdir().unwrap();
    let states = format!("{} up\n{} up\n", us.address, eu.address);
    std::fs::write(folder.path().join("states.txt"), states).unwrap();
    let web = format!("web: {{ http: /healthz, port: {port}, rise: 1 }}");
    let service = format!(
        "  web: {{ names: [www.example.com], steer: single-writer, lease: manual, ttl: 1s, \
         check: {{ all: [web, load] }}, regions: {{ us: {}, eu: {} }} }}\n",
        us.address, eu.address
    );
    let checks = format!("{web}, load: {{ pushed: states.txt }}");
    let server = Meridian::serve_in(folder, &config(&checks, &service));
    let ip = us.address.to_string();
    let push = |more: &[&str]| {
        let (fine, told) = server.ctl(&[&["push", "load", &ip, "up"], more].concat());
        assert!(fine, "{told}");
    };
    let write = |region: &str| {
        let word = ["writer", "web", region, "--reason", "test", "--owner", "bob", "--fenced"];
        assert!(server.ctl(&word).0);
    };
    write("us");
    push(&["--for", "1h", "--requests", "300.5", "--epoch", "1"]);
    write("eu");
    wait_until(&vec![eu.address.to_string()], || server.addresses("www.example.com"));
    let fence = format!("{ip} has acknowledged epoch 1, and 2 is the writer's: it is not fenced");
    let told = |rate: &str| {
        format!(
            "us still receives {rate} requests/s of 300 before (10 %); target 1 %; more than \
             three times what caches explain: something pins connections"
        )
    };
    push(&["--for", "1h", "--requests", "30.05", "--epoch", "1"]);
    wait_until(&vec![told("30.1"), fence.clone()], || reasons(&server, "web/us"));
    push(&["--for", "1h", "--requests", "3", "--epoch", "1"]);
    assert_eq!(reasons(&server, "web/us"), [fence]);
    assert_eq!(row(&server, "web/us")["safe"], false);
    push(&["--for", "1h", "--requests", "3", "--epoch", "2"]);
    assert_eq!(reasons(&server, "web/us"), Vec::<String>::new());
    assert_eq!(row(&server, "web/us")["safe"], true);

    // Who had requests and falls silent is not believed to have none at once.
    push(&["--for", "1s", "--requests", "9"]);
    let lost = format!("{ip} told of 9 requests/s, and tells nothing now");
    wait_until(&vec![lost], || reasons(&server, "web/us"));
    let (fine, told) = server.ctl(&["push", "load", &ip, "up", "--for", "1s", "--requests=-1"]);
    assert!(!fine && told.contains("`requests: -1` is no rate"), "{told}");
}

#[test]
fn an_endpoint_that_another_service_is_answered_with_does_not_tell() {
    let port = free_port();
    let (us, eu) = (Nginx::start(port), Backend::start(port, "TEXT rps_fractional=1200"));
    let regions = format!("regions: {{ eu: {}, us: {} }}", eu.address, us.address);
    let service = |name: &str| {
        format!(
            "  {name}: {{ names: [{name}.example.com], steer: failover, check: web, ttl: 1s, \
             {regions} }}\n"
        )
    };
    let check = format!("web: {{ http: /healthz, port: {port}, rise: 1 }}");
    let services = [service("web"), service("api")].concat();
    let server = Meridian::serve(&config(&check, &services));
    wait_until(&1200.0, || {
        server.metric("meridian_arriving_requests{service=\"web\",region=\"eu\"}")
    });
    assert_eq!(ctl(&server, &drain("web/eu", &[])).0, Some(0));
    let arriving = |subject: &str| row(&server, subject)["arriving"].clone();
    wait_until(&Value::from("api"), || arriving("web/eu")["endpoints"][0]["shared_with"].clone());
    assert_eq!(arriving("web/eu")["requests"], Value::Null);
    assert!(!reasons(&server, "web/eu").iter().any(|why| why.contains("still receives")));
    // Once neither is answered with it, it tells of both.
    assert_eq!(ctl(&server, &drain("eu", &[])).0, Some(0));
    let many = "eu still receives 1,200 requests/s of 1,200 before (100 %); target 1 %";
    for subject in ["web/eu", "api/eu"] {
        wait_for(many, || {
            reasons(&server, subject).iter().any(|why| why.starts_with(many)).then_some(())
        });
    }
}
