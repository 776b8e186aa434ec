//! DNS over TLS, HTTPS and QUIC, asked by kdig and curl; certificates that change; clients that ask
//! too much, or only half.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use hickory_proto::rr::RecordType;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use rcgen::{CertificateParams, CertifiedKey, KeyPair, date_time_ymd, generate_simple_self_signed};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::{TempDir, tempdir};

use crate::harness::{Meridian, NODE, PATIENCE, free_port, meridian, question, wait_for};
use crate::passed::passing;

/// Writes a new certificate for ns1.example.com and loopback.
fn certify(folder: &Path) {
    let names = ["ns1.example.com", "127.0.0.1"].map(str::to_owned);
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    std::fs::write(folder.join("key.pem"), signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
}

fn serve() -> Meridian {
    serve_with("doq: \"127.0.0.1:0\"", "")
}

fn serve_with(doq: &str, more: &str) -> Meridian {
    let folder: TempDir = tempdir().unwrap();
    certify(folder.path());
    Meridian::serve_in(folder, &config(doq, more))
}

fn config(doq: &str, more: &str) -> String {
    let texts: Vec<String> = (0..6).map(|row| format!("'\"{row}{}\"'", "x".repeat(250))).collect();
    let (texts, any) = (texts.join(", "), "\"127.0.0.1:0\"");
    format!(
        "tls:
  {{ certificate: cert.pem, key: key.pem, dot: {any}, doh: {any}, {doq} }}
{more}
regions: {{ us: {{ at: [39, -77] }}, eu: {{ at: [53, -6] }} }}
zones:
  example.com:
    ns: [ns1.example.net, ns2.example.net]
    records:
      big: {{ TXT: [{texts}] }}
services:
  web: {{ names: [www.example.com], regions: {{ us: 192.0.2.10, eu: 192.0.2.20 }} }}
"
    )
}

/// What kdig prints, and whether it was content.
fn kdig(at: SocketAddr, how: &str, ca: &Path, more: &[&str]) -> (bool, String) {
    let output = Command::new("kdig")
        .arg(format!("@{}", at.ip()))
        .args(["-p", &at.port().to_string(), "+tls-hostname=ns1.example.com", "+retry=0"])
        .arg(format!("+tls-ca={}", ca.display()))
        // Behind the others: they set the transport too.
        .arg(how)
        .args(more)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("kdig {how}: {errors}");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn kdig_is_answered_over_tls_https_and_quic() {
    let server = serve();
    let ca = server.path("cert.pem");
    let listeners = [
        (server.dot, "+tls", "tls"),
        (server.doh, "+https", "https"),
        (server.doh, "+https-get", "https"),
        (server.doq, "+quic", "quic"),
    ];
    for (at, how, label) in listeners {
        let at = at.unwrap();
        // Located by its subnet, like over any other transport.
        let (good, told) = kdig(at, how, &ca, &["+subnet=134.226.1.0/24", "www.example.com", "A"]);
        assert!(good && told.contains("192.0.2.20"), "{how}: {told}");
        assert!(told.contains("Flags: qr aa rd"), "{how}: {told}");
        assert!(told.contains("134.226.1.0/24"), "{how}: {told}");
        let (good, told) = kdig(at, how, &ca, &["big.example.com", "TXT", "+short"]);
        assert!(good && told.lines().count() == 6, "{how}: {told}");
        let (good, told) = kdig(at, how, &ca, &["nope.example.com", "A"]);
        assert!(good && told.contains("NXDOMAIN"), "{how}: {told}");
        let metric = format!(
            "meridian_queries_total{{transport=\"{label}\",rcode=\"NXDOMAIN\",\
             service=\"\",region=\"\"}}"
        );
        let count = if how == "+https-get" { 2.0 } else { 1.0 };
        wait_for(&metric, || (server.metric(&metric) == count).then_some(()));
    }
}

#[test]
fn that_its_own_certificate_has_ended_is_told() {
    let folder: TempDir = tempdir().unwrap();
    let mut params = CertificateParams::new(vec!["ns1.example.com".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2020, 2, 1);
    let key = KeyPair::generate().unwrap();
    std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(folder.path().join("cert.pem"), params.self_signed(&key).unwrap().pem())
        .unwrap();
    let server = Meridian::serve_in(folder, &config("doq: \"127.0.0.1:0\"", ""));
    let ended = "this node's own certificate ended at 2020-02-01";
    assert_eq!(server.logged(ended), 1);
    let status = server.ctl(&["status"]).1;
    assert!(status.contains(&format!("ALARM     {ended}")), "{status}");
    let metric = "meridian_own_certificate_end_timestamp_seconds";
    assert_eq!(server.metric(metric), 1_580_515_200.0);
    let checked = meridian(&["check", server.path("meridian.yaml").to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&checked.stderr).contains(ended), "{checked:?}");
    // With a new one, all of it is over.
    certify(server.folder.path());
    wait_for("the new one", || (!server.ctl(&["status"]).1.contains(ended)).then_some(()));
}

#[test]
fn a_changed_certificate_is_given_to_the_next_connection() {
    let server = serve();
    let old = server.path("old.pem");
    std::fs::copy(server.path("cert.pem"), &old).unwrap();
    let ask = |at: Option<SocketAddr>, how, ca: &Path| {
        kdig(at.unwrap(), how, ca, &["www.example.com", "A", "+short"]).0
    };
    let listeners = [(server.dot, "+tls"), (server.doh, "+https"), (server.doq, "+quic")];
    for (at, how) in listeners {
        assert!(ask(at, how, &old), "{how}");
    }
    certify(server.folder.path());
    let new = server.path("cert.pem");
    for (at, how) in listeners {
        wait_for(how, || ask(at, how, &new).then_some(()));
        assert!(!ask(at, how, &old), "{how} still gives the old one");
    }
}

#[test]
fn a_certificate_without_its_key_is_refused_and_the_last_one_serves() {
    let server = serve();
    let ca = server.path("ca.pem");
    std::fs::copy(server.path("cert.pem"), &ca).unwrap();
    server.write("key.pem", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let metric = "meridian_reload_refused{what=\"certificate\"}";
    wait_for("a refusal", || (server.metric(metric) == 1.0).then_some(()));
    assert!(kdig(server.dot.unwrap(), "+tls", &ca, &["www.example.com", "A", "+short"]).0);
}

/// What curl is told: the status, and the head.
fn curl(server: &Meridian, path: &str, more: &[&str]) -> (String, String) {
    let output = Command::new("curl")
        .args(["-sS", "-D", "-", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
        .arg(server.path("cert.pem"))
        .arg("--resolve")
        .arg(format!("ns1.example.com:{}:127.0.0.1", server.doh.unwrap().port()))
        .args(more)
        .arg(format!("https://ns1.example.com:{}{path}", server.doh.unwrap().port()))
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    println!("{told}{}", String::from_utf8_lossy(&output.stderr));
    let (head, status) = told.rsplit_once("\r\n").unwrap();
    (status.to_owned(), head.to_lowercase())
}

#[test]
fn https_is_spoken_as_rfc_8484_has_it() {
    let server = serve();
    let wire = question("www.example.com", RecordType::A, None).to_vec().unwrap();
    server.write("query", &wire);
    // Of zeros: read, and answered, though not with what was asked for.
    server.write("most", &[0; 4096]);
    server.write("long", &[0; 4097]);
    let files = ["query", "most", "long"];
    let [query, most, long] = files.map(|file| format!("@{}", server.path(file).display()));
    let posted = ["--data-binary", &query, "-H", "content-type: application/dns-message"];
    for version in ["--http2", "--http1.1"] {
        let (status, head) = curl(&server, "/dns-query", &[&posted[..], &[version]].concat());
        assert_eq!(status, "200", "{version}");
        assert!(head.contains("content-type: application/dns-message"), "{head}");
        assert!(head.contains("cache-control: private, max-age=30\r\n"), "{head}");
    }
    let asked = |octets: usize| format!("/dns-query?dns={}", "A".repeat(octets.div_ceil(3) * 4));
    let (most_asked, long_asked) = (asked(4095), asked(4098));
    let typed = posted[3];
    let heads = |version| ["--head", version, "-w", "%{exitcode} %{http_code}"];
    let (old_head, new_head) = (heads("--http1.1"), heads("--http2"));
    let told: [(&str, &str, &[&str]); 13] = [
        ("404", "/", &posted),
        ("415", "/dns-query", &["--data-binary", &query]),
        ("405", "/dns-query", &["-X", "PUT"]),
        ("0 405", "/dns-query", &old_head),
        ("0 405", "/dns-query", &new_head),
        ("400", "/dns-query", &[]),
        ("400", "/dns-query?dns=AAAA", &[]),
        ("200", "/dns-query", &["--http2", "--data-binary", &most, "-H", typed]),
        ("413", "/dns-query", &["--http2", "--data-binary", &long, "-H", typed]),
        ("413", "/dns-query", &["--http1.1", "--data-binary", &long, "-H", typed]),
        ("413", "/dns-query", &["-X", "GET", "--data-binary", &long]),
        ("200", &most_asked, &[]),
        ("414", &long_asked, &[]),
    ];
    for (expected, path, how) in told {
        assert_eq!(curl(&server, path, how).0, expected, "{path} {how:?}");
    }
}

#[test]
fn connections_over_https_have_the_limits_of_tcp() {
    let server = serve_with("doq: \"127.0.0.1:0\"", "tcp: { per_client: 3 }");
    let connect = || {
        let stream = TcpStream::connect(server.doh.unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let held = [(); 3].map(|()| connect());
    wait_for("three", || (server.metric("meridian_tcp_connections") == 3.0).then_some(()));
    assert_eq!(connect().read(&mut [0]).unwrap(), 0, "it is closed at once");
    drop(held);
    wait_for("none", || (server.metric("meridian_tcp_connections") == 0.0).then_some(()));
    // The frame of settings that a connection begins with says how many streams it may have
    // (RFC 9113 §6.5).
    let mut config = client(&server);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = "ns1.example.com".try_into().unwrap();
    let tls = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(tls, connect());
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    stream.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat()).unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).unwrap();
    let mut body = vec![0; usize::from(head[2])];
    stream.read_exact(&mut body).unwrap();
    let streams = body.chunks(6).find(|setting| setting[..2] == [0, 3]).map(|of| of[2..].to_vec());
    assert_eq!((head[3], streams), (4, Some(vec![0, 0, 0, 100])));
}

/// TLS that trusts the server's certificate.
fn client(server: &Meridian) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.path("cert.pem")).unwrap()).unwrap();
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// RFC 8446 §6.1: whoever ends a connection says so.
#[test]
fn a_connection_over_tls_that_ends_is_told_to() {
    let server = serve_with("doq: \"127.0.0.1:0\"", "tcp: { idle: 500ms }");
    let tls = Arc::new(client(&server));
    let name = "ns1.example.com".try_into().unwrap();
    let connection = rustls::ClientConnection::new(tls, name).unwrap();
    let socket = TcpStream::connect(server.dot.unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, socket);
    stream.write_all(&streamed(1)).unwrap();
    let mut answer = Vec::new();
    // Without a word at the end this is an error (`UnexpectedEof`).
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.len() > 40, "{}", answer.len());
}

#[test]
fn what_is_no_query_keeps_no_connection() {
    let server = serve_with("doq: \"127.0.0.1:0\"", "tcp: { idle: 500ms }");
    let name = "ns1.example.com".try_into().unwrap();
    let tls = rustls::ClientConnection::new(Arc::new(client(&server)), name).unwrap();
    let socket = TcpStream::connect(server.doh.unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = rustls::StreamOwned::new(tls, socket);
    wait_for("the end of a connection over HTTPS", || {
        let sent = stream.write_all(b"GET /other HTTP/1.1\r\nhost: ns1.example.com\r\n\r\n");
        let read = sent.and_then(|()| stream.read(&mut [0; 1024]));
        read.map_or(true, |count| count == 0).then_some(())
    });
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let endpoint = quic(&server);
        let connect = endpoint.connect(server.doq.unwrap(), "ns1.example.com").unwrap();
        let connection = connect.await.unwrap();
        let ends = async {
            while let Ok((mut send, mut receive)) = connection.open_bi().await {
                let _refused = send.write_all(&[0xff; 5000]).await;
                let _refused = receive.read_to_end(1 << 16).await;
            }
        };
        tokio::time::timeout(PATIENCE, ends).await.expect("the end of a connection over QUIC");
    });
}

/// A place to connect from by QUIC, within a runtime.
fn quic(server: &Meridian) -> Endpoint {
    let mut tls = client(server);
    tls.alpn_protocols = vec![b"doq".to_vec()];
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(crypto)));
    endpoint
}

/// A query as a stream has it.
fn streamed(id: u16) -> Vec<u8> {
    let mut query = question("www.example.com", RecordType::A, None);
    query.metadata.id = id;
    let wire = query.to_vec().unwrap();
    [&u16::try_from(wire.len()).unwrap().to_be_bytes(), &*wire].concat()
}

/// How many octets the answer has to what is sent on a stream of its own.
async fn ask_quic(connection: Connection, octets: Vec<u8>) -> Result<usize, ConnectionError> {
    let (mut send, mut receive) = connection.open_bi().await?;
    let _fails_if_closed = send.write_all(&octets).await;
    let _finished = send.finish();
    match tokio::time::timeout(PATIENCE, receive.read_to_end(1 << 16)).await.unwrap() {
        Ok(answer) => Ok(answer.len()),
        Err(_) => Err(connection.closed().await),
    }
}

#[test]
fn each_stream_is_answered_by_itself_over_quic() {
    let server = serve();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let endpoint = quic(&server);
        let connect = || endpoint.connect(server.doq.unwrap(), "ns1.example.com").unwrap();
        let connection = connect().await.unwrap();
        // One that sends half a query, and waits.
        let (mut half, _answer) = connection.open_bi().await.unwrap();
        half.write_all(&streamed(0)[..5]).await.unwrap();
        let asked = (0..150).map(|_| tokio::spawn(ask_quic(connection.clone(), streamed(0))));
        for asked in asked.collect::<Vec<_>>() {
            assert!(asked.await.unwrap().unwrap() > 40);
        }
        // RFC 9250 §4.2.1, §5.5.2, §4.2.
        let mut keepalive = question("www.example.com", RecordType::A, None);
        keepalive.metadata.id = 0;
        let mut wire = keepalive.to_vec().unwrap();
        wire[11] = 1;
        wire.extend(b"\0\0\x29\x04\xd0\0\0\0\0\0\x04\0\x0b\0\0");
        let keepalive = [&u16::try_from(wire.len()).unwrap().to_be_bytes(), &*wire].concat();
        // What gets no answer: a response, and what is no message.
        let mut response = streamed(0);
        response[4] |= 0x80;
        let parts = [b"\0\x10too short".to_vec(), b"\0\x03\0\0\0".to_vec()];
        for wrong in [streamed(4711), keepalive, response].into_iter().chain(parts) {
            let connection = connect().await.unwrap();
            match ask_quic(connection, wrong.clone()).await.unwrap_err() {
                ConnectionError::ApplicationClosed(closed) => {
                    assert_eq!(closed.error_code.into_inner(), 2, "DOQ_PROTOCOL_ERROR");
                }
                other => panic!("{wrong:?}: {other}"),
            }
        }
    });
}

#[test]
fn a_query_that_is_too_long_is_not_kept_over_quic() {
    let server = serve();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let endpoint = quic(&server);
        let connection = endpoint.connect(server.doq.unwrap(), "ns1.example.com").unwrap();
        let connection = connection.await.unwrap();
        let mut streams = Vec::new();
        for _ in 0..100 {
            let (mut send, receive) = connection.open_bi().await.unwrap();
            // More is to come.
            let _may_be_stopped =
                send.write_all(&[&[0xff, 0xff, 0, 0], &[0; 4095][..]].concat()).await;
            streams.push((send, receive));
        }
        let load = Some(quinn::VarInt::from_u32(4));
        for (send, mut receive) in streams {
            let stopped = tokio::time::timeout(PATIENCE, send.stopped()).await;
            assert_eq!(stopped.unwrap().unwrap(), load, "DOQ_EXCESSIVE_LOAD");
            let reset = receive.read_to_end(1 << 16).await.unwrap_err();
            assert!(format!("{reset:?}").contains("Reset(4)"), "{reset:?}");
        }
        assert!(ask_quic(connection, streamed(0)).await.unwrap() > 40);
    });
}

/// RFC 9250 §4.3.1: the end of a stream without an answer would be an error of the connection.
#[test]
fn a_query_that_does_not_end_has_its_stream_reset_over_quic() {
    let server = serve_with("doq: \"127.0.0.1:0\"", "tcp: { idle: 2s }");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let endpoint = quic(&server);
        let connection = endpoint.connect(server.doq.unwrap(), "ns1.example.com").unwrap();
        let connection = connection.await.unwrap();
        let (mut cut, mut cut_answer) = connection.open_bi().await.unwrap();
        cut.write_all(&streamed(0)[..5]).await.unwrap();
        cut.reset(quinn::VarInt::from_u32(3)).unwrap();
        let (mut half, mut half_answer) = connection.open_bi().await.unwrap();
        half.write_all(&streamed(0)[..5]).await.unwrap();
        let ends = tokio::spawn(async move {
            [cut_answer.read_to_end(1).await, half_answer.read_to_end(1).await]
        });
        // The connection itself is in use.
        while !ends.is_finished() {
            assert!(ask_quic(connection.clone(), streamed(0)).await.unwrap() > 40);
        }
        for end in ends.await.unwrap() {
            assert!(format!("{end:?}").contains("Reset(3)"), "DOQ_REQUEST_CANCELLED: {end:?}");
        }
    });
}

#[test]
fn handshakes_that_are_only_begun_delay_nobody_over_quic() {
    let server = serve();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let endpoint = quic(&server);
        let connect = |to| endpoint.connect(to, "ns1.example.com").unwrap();
        // First packets of connections that never go on: caught, and sent by somebody else.
        let catcher = UdpSocket::bind("127.0.0.1:0").unwrap();
        catcher.set_read_timeout(Some(PATIENCE)).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut begun = Vec::new();
        for _ in 0..100 {
            begun.push(connect(catcher.local_addr().unwrap()));
            let mut packet = [0; 2048];
            let length = catcher.recv(&mut packet).unwrap();
            sender.send_to(&packet[..length], server.doq.unwrap()).unwrap();
        }
        let connection = connect(server.doq.unwrap()).await.unwrap();
        assert!(ask_quic(connection.clone(), streamed(0)).await.unwrap() > 40);
        assert_eq!(server.metric("meridian_tcp_connections"), 1.0, "the others have no place");
    });
}

#[test]
fn handshakes_that_are_done_keep_no_place_of_those_that_are_begun() {
    let server = serve();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        // As many as may be unproven, each by a client that was told nothing before.
        let mut held = Vec::new();
        for _ in 0..32 {
            let endpoint = quic(&server);
            let connection = endpoint.connect(server.doq.unwrap(), "ns1.example.com").unwrap();
            held.push((connection.await.unwrap(), endpoint));
        }
        wait_for("all", || (server.metric("meridian_tcp_connections") == 32.0).then_some(()));
        // The first packet of another connection, and what it is answered with (RFC 9000 §17.2):
        // the handshake, and no Retry.
        let catcher = UdpSocket::bind("127.0.0.1:0").unwrap();
        catcher.set_read_timeout(Some(PATIENCE)).unwrap();
        let endpoint = quic(&server);
        let _begun = endpoint.connect(catcher.local_addr().unwrap(), "ns1.example.com").unwrap();
        let mut packet = [0; 2048];
        let length = catcher.recv(&mut packet).unwrap();
        catcher.send_to(&packet[..length], server.doq.unwrap()).unwrap();
        let server = server.doq.unwrap();
        let answer = wait_for("an answer", || {
            let (_, from) = catcher.recv_from(&mut packet).unwrap();
            (from == server).then_some(packet[0])
        });
        assert_eq!(answer & 0x30, 0, "an Initial packet");
    });
}

#[test]
fn all_sockets_that_are_passed_are_read_over_quic() {
    let port = free_port();
    let folder = tempdir().unwrap();
    certify(folder.path());
    let at = format!("127.0.0.1:{port}");
    let config = format!("{NODE}{}", config(&format!("doq: \"{at}\""), ""));
    let server = Meridian::start_with(passing(&format!("udp@{at} udp@{at}")), folder, &config);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        // Each from a port of its own: the kernel spreads them among both.
        for _ in 0..20 {
            let endpoint = quic(&server);
            let connection = endpoint.connect(server.doq.unwrap(), "ns1.example.com").unwrap();
            assert!(ask_quic(connection.await.unwrap(), streamed(0)).await.unwrap() > 40);
        }
    });
}

#[test]
fn both_families_are_listened_on_at_one_port() {
    let port = free_port();
    let server = serve_with(&format!("doq: [\"0.0.0.0:{port}\", \"[::]:{port}\"]"), "");
    let ca = server.path("cert.pem");
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let at = address.parse().unwrap();
        assert!(kdig(at, "+quic", &ca, &["www.example.com", "A", "+short"]).0, "{address}");
    }
}

#[test]
fn curl_and_ctl_reach_the_http_address_in_tls() {
    let folder = tempdir().unwrap();
    certify(folder.path());
    let config = "node: { listen: \"127.0.0.1:0\" }
http: { listen: \"127.0.0.1:0\", tls: true }
tls: { certificate: cert.pem, key: key.pem }
regions: { here: {} }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services: { web: { names: [www.example.com], regions: { here: 192.0.2.1 } } }
";
    let server = Meridian::start(folder, config);
    let (ca, url) = (server.path("cert.pem"), server.url("").replace("http:", "https:"));
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-m", "10", "--cacert"]).arg(&ca).arg(format!("{url}/readyz"));
    let mut ctl = Command::new(env!("CARGO_BIN_EXE_meridian"));
    ctl.env("SSL_CERT_FILE", &ca).args(["ctl", "--server", &url, "status"]);
    for (mut command, expected) in [(curl, "ready"), (ctl, "192.0.2.1")] {
        let output = command.output().unwrap();
        let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success() && told.contains(expected), "{command:?}: {told}");
    }
}
