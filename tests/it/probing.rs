//! Probe targets that misbehave: each is found out, with its reason, and harms nobody else.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedKey, KeyPair, date_time_ymd, generate_simple_self_signed};

use crate::harness::{Meridian, Nginx, free_port, own_address, wait_for, wait_until};

/// A server that does to each connection what `act` says, on an address of its own.
fn misbehaving(port: u16, act: fn(TcpStream)) -> IpAddr {
    let address = own_address();
    let listener = TcpListener::bind(SocketAddr::new(address, port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || act(stream));
        }
    });
    address
}

/// Writes until the other side has had enough; reads nothing more than a request.
fn say(mut stream: TcpStream, head: &[u8], pause: Duration, mut more: impl FnMut() -> Vec<u8>) {
    let _request = stream.read(&mut [0; 2048]);
    let mut next = head.to_vec();
    while stream.write_all(&next).is_ok() {
        thread::park_timeout(pause);
        next = more();
        if next.is_empty() {
            return;
        }
    }
}

const SOON: Duration = Duration::from_millis(20);

fn silent(mut stream: TcpStream) {
    // Until the prober hangs up.
    while stream.read(&mut [0; 2048]).is_ok_and(|count| count > 0) {}
}

fn octet_by_octet(stream: TcpStream) {
    let mut rest = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".iter();
    say(stream, b"", SOON * 5, || rest.next().map(|octet| vec![*octet]).unwrap_or_default());
}

fn closes(stream: TcpStream) {
    drop(stream);
}

fn redirects_in_a_circle(stream: TcpStream) {
    say(
        stream,
        b"HTTP/1.1 302 Found\r\nLocation: /healthz\r\nContent-Length: 0\r\n\r\n",
        SOON,
        Vec::new,
    );
}

fn endless_body(stream: TcpStream) {
    say(stream, b"HTTP/1.1 200 OK\r\n\r\n", Duration::ZERO, || vec![b'x'; 4096]);
}

fn endless_head(stream: TcpStream) {
    say(stream, b"HTTP/1.1 200 OK\r\n", Duration::ZERO, || b"X-More: and more\r\n".repeat(64));
}

fn body_that_stops(stream: TcpStream) {
    say(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome", SOON, Vec::new);
}

fn no_http(stream: TcpStream) {
    say(stream, b"SSH-2.0-OpenSSH_9.2\r\n", SOON, Vec::new);
}

#[test]
fn each_misbehaviour_is_told_apart_and_the_well_stay_up() {
    let port = free_port();
    let nobody = own_address();
    let well = Nginx::start(port);
    let targets = [
        (well.address, "up", "ok"),
        (nobody, "down", "connection refused"),
        (misbehaving(port, silent), "down", "no answer in time, before the response"),
        (misbehaving(port, octet_by_octet), "down", "no answer in time, before the response"),
        (misbehaving(port, closes), "down", "connection closed, before the response"),
        (misbehaving(port, redirects_in_a_circle), "down", "unexpected status 302"),
        (misbehaving(port, endless_body), "down", "what is expected is not in the answer"),
        (misbehaving(port, endless_head), "down", "malformed answer"),
        (misbehaving(port, body_that_stops), "down", "connection closed, within the body"),
        (misbehaving(port, no_http), "down", "malformed answer"),
    ];
    let endpoints: Vec<String> = targets.iter().map(|(at, ..)| at.to_string()).collect();
    let server = Meridian::serve(&format!(
        "regions: {{ here: {{ at: [0, 0] }} }}
checks: {{ web: {{ http: /healthz, port: {port}, contains: ok }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web: {{ names: [www.example.com], check: web, regions: {{ here: [{}] }} }}
",
        endpoints.join(", ")
    ));
    // The first answer names the one that is well, and no other.
    assert_eq!(server.addresses("www.example.com"), [well.address.to_string()]);
    for (address, state, last) in targets {
        wait_until(&(state.to_owned(), last.to_owned()), || server.endpoint(address));
    }
    for outcome in
        ["success", "refused", "timeout", "closed", "status", "text_missing", "malformed"]
    {
        let counted = server.metric(&format!("meridian_probes_total{{outcome=\"{outcome}\"}}"));
        assert!(counted >= 1.0, "{outcome}");
    }
}

fn late(stream: TcpStream) {
    let mut answer = Some(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec());
    say(stream, b"", SOON * 20, || answer.take().unwrap_or_default());
}

#[test]
fn an_answer_that_is_right_and_late_is_told_apart() {
    let port = free_port();
    let (quick, slow) = (Nginx::start(port), misbehaving(port, late));
    let server = Meridian::serve(&format!(
        "regions: {{ here: {{ at: [0, 0] }} }}
checks: {{ web: {{ http: /healthz, port: {port}, slow_after: 300ms }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web: {{ names: [www.example.com], check: web, regions: {{ here: [{slow}, {}] }} }}
",
        quick.address
    ));
    assert_eq!(server.addresses("www.example.com"), [quick.address.to_string()]);
    server.wait_for_endpoint(slow, "down", "right, but too slow");
}

/// A certificate that is valid for ten days more, and its key.
fn ending_soon() -> (String, String) {
    let ends = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(240);
    let ends = ends.to_zoned(jiff::tz::TimeZone::UTC);
    let mut params = CertificateParams::new(["www.example.com".to_owned()]).unwrap();
    params.not_after = date_time_ymd(ends.year().into(), ends.month() as u8, ends.day() as u8);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn certificates_are_verified_unless_told_otherwise() {
    let port = free_port();
    let make = |name: &str| {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([name.to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    };
    let ((ours, our_key), (theirs, their_key)) = (make("www.example.com"), make("other.example"));
    let right = Nginx::start_tls(port, &ours, &our_key);
    let wrong = Nginx::start_tls(port, &theirs, &their_key);
    let plain = Nginx::start(port);
    let (short, short_key) = ending_soon();
    let ending = Nginx::start_tls(port, &short, &short_key);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), ours.clone() + &short).unwrap();
    std::fs::write(folder.path().join("theirs.pem"), theirs).unwrap();
    let service = |name: &str, check: &str, nginx: &Nginx| {
        format!(
            "  {name}: {{ names: [{name}.example.com], check: {check}, \
             regions: {{ here: {} }} }}\n",
            nginx.address
        )
    };
    let services = [
        service("right", "strict", &right),
        service("wrong", "strict", &wrong),
        service("other", "other", &wrong),
        service("plain", "strict", &plain),
        service("lax", "lax", &wrong),
        service("soon", "soon", &ending),
        service("late", "late", &ending),
    ];
    let server = Meridian::serve_in(
        folder,
        &format!(
            "regions: {{ here: {{ at: [0, 0] }} }}
checks:
  strict: {{ https: /healthz, port: {port}, host: www.example.com, ca: ca.pem }}
  other: {{ https: /healthz, port: {port}, host: www.example.com, ca: theirs.pem }}
  lax: {{ https: /healthz, port: {port}, host: www.example.com, verify: false }}
  soon: {{ https: /healthz, port: {port}, host: www.example.com, ca: ca.pem, warns_within: 30d }}
  late: {{ https: /healthz, port: {port}, host: www.example.com, ca: ca.pem, expires_within: 30d }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
{}",
            services.concat()
        ),
    );
    let expected = [
        ("up", "ok"),
        ("down", "certificate of no trusted CA"),
        ("down", "certificate for another name"),
        ("down", "TLS handshake failed"),
        ("up", "ok"),
        ("up", "ok; the certificate ends soon"),
        ("down", "certificate expired, or about to"),
    ];
    let expected = expected.map(|(state, last)| (state.to_owned(), last.to_owned()));
    wait_until(&expected, || {
        let status = server.status();
        std::array::from_fn(|row| {
            let endpoint = &status["services"][row]["endpoints"][0];
            let of = |key: &str| endpoint[key].as_str().unwrap().to_owned();
            (of("state"), of("last"))
        })
    });
    assert_eq!(server.metric("meridian_certificates_ending"), 1.0);
}

#[test]
fn a_certificate_is_for_the_address_that_is_the_host() {
    let port = free_port();
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["2001:db8::1".to_owned()]).unwrap();
    let nginx = Nginx::start_tls(port, &cert.pem(), &signing_key.serialize_pem());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), cert.pem()).unwrap();
    let check = format!("https: /healthz, port: {port}, ca: ca.pem");
    let service = |name: &str| {
        let regions = format!("regions: {{ here: {} }}", nginx.address);
        format!("  {name}: {{ names: [{name}.example.com], check: {name}, {regions} }}\n")
    };
    let server = Meridian::serve_in(
        folder,
        &format!(
            "regions: {{ here: {{ at: [0, 0] }} }}
checks:
  bare: {{ {check}, host: \"[2001:db8::1]\" }}
  port: {{ {check}, host: \"[2001:db8::1]:8443\" }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:\n{}{}",
            service("bare"),
            service("port"),
        ),
    );
    wait_until(&["ok"; 2].map(str::to_owned), || {
        let status = server.status();
        let last = |row: usize| status["services"][row]["endpoints"][0]["last"].clone();
        [last(0), last(1)].map(|last| last.as_str().unwrap_or_default().to_owned())
    });
}

#[test]
fn a_certificate_is_seen_to_expire_although_the_server_would_go_on_with_a_session() {
    let port = free_port();
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let today = date_time_ymd(now.year().into(), now.month() as u8, now.day() as u8);
    let midnight = now.start_of_day().unwrap();
    let since_midnight = Duration::try_from(now.duration_since(&midnight)).unwrap();
    let mut params = CertificateParams::new(["www.example.com".to_owned()]).unwrap();
    params.not_after = today + since_midnight + Duration::from_secs(10);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let nginx = Nginx::start_tls(port, &certificate, &key.serialize_pem());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), certificate).unwrap();
    let server = Meridian::serve_in(
        folder,
        &format!(
            "regions: {{ here: {{ at: [0, 0] }} }}
checks: {{ web: {{ https: /healthz, port: {port}, host: www.example.com, ca: ca.pem }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web: {{ names: [www.example.com], check: web, regions: {{ here: {} }} }}
",
            nginx.address
        ),
    );
    assert_eq!(server.endpoint(nginx.address), ("up".into(), "ok".into()));
    server.wait_for_endpoint(nginx.address, "down", "certificate expired, or about to");
}

#[test]
fn endpoints_share_the_probes_of_one_target() {
    let port = free_port();
    let nginx = Nginx::everywhere(port);
    let services: String = (0..50)
        .map(|row| {
            let at = nginx.address;
            let regions = format!("regions: {{ here: {at} }}");
            format!("  s{row}: {{ names: [s{row}.example.com], check: web, {regions} }}\n")
        })
        .collect();
    let server = Meridian::serve(&format!(
        "regions: {{ here: {{ at: [0, 0] }} }}
checks: {{ web: {{ http: /healthz, port: {port}, interval: 60s }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:\n{services}"
    ));
    assert_eq!(server.addresses("s49.example.com"), [nginx.address.to_string()]);
    assert_eq!(server.metric("meridian_probes_total{outcome=\"success\"}"), 1.0);
}

#[test]
fn each_service_goes_by_its_own_check_of_an_address_that_they_share() {
    let port = free_port();
    let slow = misbehaving(port, late);
    let service = |name: &str| {
        let regions = format!("regions: {{ here: {slow} }}");
        format!("  {name}: {{ names: [{name}.example.com], check: {name}, {regions} }}\n")
    };
    let server = Meridian::serve(&format!(
        "regions: {{ here: {{ at: [0, 0] }} }}
checks:
  patient: {{ http: /healthz, port: {port}, timeout: 5s }}
  hasty: {{ http: /healthz, port: {port}, timeout: 5s, slow_after: 300ms }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:\n{}{}",
        service("patient"),
        service("hasty"),
    ));
    let expected = [["up", "ok"], ["down", "right, but too slow"]];
    wait_until(&expected.map(|row| row.map(str::to_owned)), || {
        let status = server.status();
        let of = |row: usize| {
            let endpoint = &status["services"][row]["endpoints"][0];
            ["state", "last"].map(|key| endpoint[key].as_str().unwrap_or_default().to_owned())
        };
        [of(0), of(1)]
    });
}

/// Answers requests, and closes connections on which none comes.
fn impatient(mut stream: TcpStream) {
    stream.set_read_timeout(Some(SOON * 5)).unwrap();
    if stream.read(&mut [0; 2048]).is_ok_and(|read| read > 0) {
        let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    }
}

#[test]
fn a_held_connection_that_ends_brings_the_next_probe_and_no_verdict() {
    let port = free_port();
    let (mut nginx, closer) = (Nginx::start(port), misbehaving(port, impatient));
    let server = Meridian::serve(&format!(
        "regions: {{ here: {{ at: [0, 0] }} }}
checks: {{ web: {{ http: /healthz, port: {port}, hold: true, interval: 10m, timeout: 5s }} }}
zones: {{ example.com: {{ ns: [ns1.example.net, ns2.example.net] }} }}
services:
  web: {{ names: [www.example.com], check: web, regions: {{ here: [{}, {closer}] }} }}
",
        nginx.address
    ));
    server.wait_for_endpoint(nginx.address, "up", "ok");
    server.wait_for_endpoint(closer, "up", "ok");
    // The next regular probe would come in ten minutes.
    wait_for("the probes for what was closed", || {
        let probes = server.metric("meridian_probes_total{outcome=\"success\"}");
        (probes >= 4.0).then_some(())
    });
    nginx.process.kill();
    server.wait_for_endpoint(nginx.address, "down", "connection refused");
    server.wait_for_endpoint(closer, "up", "ok");
    let failures = server.metric("meridian_probes_total{outcome=\"timeout\"}");
    assert_eq!(failures, 0.0);
}
