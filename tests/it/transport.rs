//! UDP and TCP (RFC 1035 §4.2, RFC 7766): whole answers, from the right address, within limits.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tempfile::tempdir;

use crate::harness::{Meridian, PATIENCE, ask, data, question, wait_for};
use crate::host::{Host, ip};

/// A zone with something small, something that fits in no UDP answer, and as much as can be.
fn config() -> String {
    let texts = |count: usize| {
        let texts = (0..count).map(|row| format!("'\"{row}{}\"'", "x".repeat(250)));
        texts.collect::<Vec<_>>().join(", ")
    };
    let (texts, most) = (texts(6), texts(230));
    format!(
        "regions: {{ here: {{ at: [0, 0] }} }}
zones:
  example.com:
    ns: [ns1.example.net, ns2.example.net]
    records:
      small: {{ A: 192.0.2.1 }}
      big: {{ TXT: [{texts}] }}
      most: {{ TXT: [{most}] }}
services:
  web: {{ names: [www.example.com], regions: {{ here: 192.0.2.10 }} }}
"
    )
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A message behind its length (RFC 1035 §4.2.2).
fn framed(message: &Message) -> Vec<u8> {
    let wire = message.to_vec().unwrap();
    [&u16::try_from(wire.len()).unwrap().to_be_bytes()[..], &wire].concat()
}

fn receive(stream: &mut TcpStream) -> std::io::Result<Message> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut wire = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut wire)?;
    Ok(Message::from_vec(&wire).unwrap())
}

#[test]
fn both_families_and_every_address_of_a_wildcard_answer_from_where_they_were_asked() {
    let config = format!(
        "node: {{ listen: [\"0.0.0.0:0\", \"[::]:0\"] }}\nhttp: {{ listen: \"127.0.0.1:0\" }}\n{}",
        config()
    );
    let server = Meridian::start(tempdir().unwrap(), &config);
    // The first address of each listener is the one that `ready` tells.
    for address in ["127.0.0.1", "127.0.0.5", "127.200.0.9"] {
        // A connected socket takes answers from nobody else.
        let there = SocketAddr::new(address.parse::<IpAddr>().unwrap(), server.dns.port());
        let answer = ask(there, "www.example.com", RecordType::A, None);
        assert_eq!(data(&answer), ["192.0.2.10"], "{address}");
        let mut stream = connect(there);
        stream.write_all(&framed(&question("small.example.com", RecordType::A, None))).unwrap();
        assert_eq!(data(&receive(&mut stream).unwrap()), ["192.0.2.1"], "{address}");
    }
}

#[test]
fn port_0_is_one_that_both_transports_have_free() {
    let host = Host::new(211);
    let range = "echo '45000 45007' > /proc/sys/net/ipv4/ip_local_port_range";
    assert!(host.inside("sh").args(["-c", range]).status().unwrap().success());
    // As the questions of others do, all but one of those that TCP may be given.
    let held = host.within(|| {
        (45000..45007)
            .map(|port| UdpSocket::bind(("10.211.0.1", port)).unwrap())
            .collect::<Vec<_>>()
    });
    let config = format!(
        "node: {{ listen: \"0.0.0.0:0\" }}\nhttp: {{ listen: \"{}:8053\" }}\n{}",
        host.v4(),
        config()
    );
    let program = host.inside(env!("CARGO_BIN_EXE_meridian"));
    let server = Meridian::start_with(program, tempdir().unwrap(), &config);
    assert_eq!(server.dns.port(), 45007);
    assert_eq!(held.len(), 7);
}

#[test]
fn ipv6_is_served_alike() {
    let config = format!(
        "node: {{ listen: [\"[::1]:0\"] }}\nhttp: {{ listen: \"127.0.0.1:0\" }}\n{}",
        config()
    );
    let server = Meridian::start(tempdir().unwrap(), &config);
    assert!(server.dns.is_ipv6());
    assert_eq!(data(&ask(server.dns, "www.example.com", RecordType::A, None)), ["192.0.2.10"]);
}

#[test]
fn what_is_cut_over_udp_is_whole_over_tcp_as_dig_does_it() {
    let server = Meridian::serve(&config());
    let cut = ask(server.dns, "big.example.com", RecordType::TXT, None);
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let port = server.dns.port().to_string();
    let dig = Command::new("dig")
        .args(["@127.0.0.1", "-p", &port, "big.example.com", "TXT", "+short"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(dig.stdout).unwrap().lines().count(), 6);
    wait_for("a counter", || {
        (server.metric("meridian_truncated_total{transport=\"udp\"}") >= 1.0).then_some(())
    });
}

#[test]
fn tcp_takes_many_messages_at_once_and_any_part_of_one() {
    let server = Meridian::serve(&config());
    let mut stream = connect(server.dns);
    let questions: Vec<Message> = (0..50)
        .map(|row| if row % 2 == 0 { "small.example.com" } else { "www.example.com" })
        .map(|name| question(name, RecordType::A, None))
        .collect();
    let all: Vec<u8> = questions.iter().flat_map(framed).collect();
    stream.write_all(&all).unwrap();
    for question in &questions {
        let answer = receive(&mut stream).unwrap();
        assert_eq!((answer.metadata.id, answer.answers.len()), (question.metadata.id, 1));
    }
    // Octet by octet, each in a segment of its own.
    stream.set_nodelay(true).unwrap();
    for octet in framed(&questions[0]) {
        stream.write_all(&[octet]).unwrap();
    }
    assert_eq!(receive(&mut stream).unwrap().metadata.id, questions[0].metadata.id);
    // What is no query is not answered, and what follows it is (RFC 7766 §6.2.4 does not end the
    // connection for it).
    let mut response = questions[1].to_vec().unwrap();
    response[2] |= 0x80;
    let length = u16::try_from(response.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &response, &framed(&questions[2])].concat()).unwrap();
    assert_eq!(receive(&mut stream).unwrap().metadata.id, questions[2].metadata.id);
}

#[test]
fn a_message_that_is_too_long_is_passed_over() {
    let server = Meridian::serve(&config());
    let asked = question("small.example.com", RecordType::A, None);
    for length in [4097_u16, 60_000] {
        let mut stream = connect(server.dns);
        // So much of it says that it is malformed.
        let mut long = asked.to_vec().unwrap();
        long.resize(4096, 0);
        stream.write_all(&[&length.to_be_bytes()[..], &long].concat()).unwrap();
        let answer = receive(&mut stream).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr, "{length}");
        assert_eq!(answer.metadata.id, asked.metadata.id);
        // The rest is no message, whatever it looks like, and what follows it is one.
        let other = framed(&question("most.example.com", RecordType::TXT, None));
        let rest = other.iter().cycle().take(usize::from(length) - 4096).copied();
        stream.write_all(&rest.chain(framed(&asked)).collect::<Vec<u8>>()).unwrap();
        assert_eq!(data(&receive(&mut stream).unwrap()), ["192.0.2.1"], "{length}");
    }
}

#[test]
fn a_client_that_takes_no_answers_stops_only_itself() {
    let server = Meridian::serve(&format!("tcp: {{ idle: 1s }}\n{}", config()));
    let mut greedy = connect(server.dns);
    greedy.set_nonblocking(true).unwrap();
    let many: Vec<u8> = (0..100)
        .flat_map(|_| framed(&question("most.example.com", RecordType::TXT, None)))
        .collect();
    // What only the start needed is given back first.
    wait_for("a start's memory", || (server.memory() < 24 * 1024).then_some(()));
    let before = server.own_memory();
    // Far more answers than the kernel's buffers hold: the server stops reading, then hangs up.
    let (mut sent, mut most) = (0, before);
    wait_for("the end of a greedy connection", || {
        most = most.max(server.own_memory());
        match greedy.write(&many) {
            Ok(count) => {
                sent += count;
                assert!(sent < 256 << 20, "{sent} octets were taken");
                None
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(()),
        }
    });
    let grown = most - before;
    assert!(grown < 2 * 1024, "{grown} KiB for one client");
    let mut other = connect(server.dns);
    other.write_all(&framed(&question("small.example.com", RecordType::A, None))).unwrap();
    assert_eq!(data(&receive(&mut other).unwrap()), ["192.0.2.1"]);
}

#[test]
fn idle_and_half_questions_end_and_room_is_limited() {
    let limits = "tcp: { idle: 500ms, per_client: 3, connections: 5 }\n";
    let server = Meridian::serve(&format!("{limits}{}", config()));
    // Half a question, then nothing.
    let mut half = connect(server.dns);
    half.write_all(&[0, 40, 1, 2, 3]).unwrap();
    assert_eq!(half.read(&mut [0; 16]).unwrap_or(0), 0);
    let mut silent = connect(server.dns);
    assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0);
    wait_for("no connections", || (server.metric("meridian_tcp_connections") == 0.0).then_some(()));

    let asked = framed(&question("small.example.com", RecordType::A, None));
    let is_served =
        |stream: &mut TcpStream| stream.write_all(&asked).is_ok() && receive(stream).is_ok();
    let mut held: Vec<TcpStream> = (0..3).map(|_| connect(server.dns)).collect();
    assert!(held.iter_mut().all(is_served));
    assert!(!is_served(&mut connect(server.dns)), "a fourth of one client");
    assert!(server.metric("meridian_tcp_refused_total{reason=\"per_client\"}") >= 1.0);
    // Once they are idle there is room again.
    wait_for("room", || is_served(&mut connect(server.dns)).then_some(()));
}

#[test]
fn hostile_datagrams_are_counted_and_harm_nobody() {
    let server = Meridian::serve(&config());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server.dns).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut reply = [0; 2048];
    socket.send(b"short").unwrap();
    let mut response = question("www.example.com", RecordType::A, None).to_vec().unwrap();
    response[2] |= 0x80;
    socket.send(&response).unwrap();
    socket.send(&[7; 65_000]).unwrap();
    // Behind a header of sevens (opcode 0, a query; questions: 1799) comes FORMERR.
    let length = socket.recv(&mut reply).unwrap();
    assert_eq!((reply[0], reply[3] & 0x0f, length), (7, 1, 12));
    assert_eq!(server.addresses("www.example.com"), ["192.0.2.10"]);
    wait_for("counters", || {
        let silent =
            |reason| server.metric(&format!("meridian_silent_total{{reason=\"{reason}\"}}"));
        (silent("too_short") == 1.0 && silent("response") == 1.0).then_some(())
    });
}

#[test]
fn an_answer_comes_in_one_piece_whatever_is_said_of_the_way() {
    let host = Host::new(204);
    let text = "x".repeat(250);
    let config = format!(
        "node: {{ listen: \"0.0.0.0:53\", state: state }}
http: {{ listen: \"{}:8053\" }}
{}",
        host.v4(),
        config().replace(
            "small:",
            &format!("long: {{ TXT: \"{text} {text} {text} {text}\" }}\n      small:")
        )
    );
    let program = host.inside(env!("CARGO_BIN_EXE_meridian"));
    let _server = Meridian::start_with(program, tempdir().unwrap(), &config);
    // As if a router had said that no more than 600 octets go to this host at once.
    ip(&format!("-n {} route add 10.204.0.2/32 dev here mtu 600", host.name));
    let with_edns = Some("192.0.2.0/24");
    let answer = ask((host.v4(), 53).into(), "long.example.com", RecordType::TXT, with_edns);
    assert_eq!(data(&answer).len(), 1);
    let counts = host.inside("cat").arg("/proc/net/snmp").output().unwrap();
    let counts = String::from_utf8(counts.stdout).unwrap();
    let [names, values] = [0, 1].map(|row| {
        let line = counts.lines().filter(|line| line.starts_with("Ip:")).nth(row).unwrap();
        line.split(' ').collect::<Vec<_>>()
    });
    let pieces = names.iter().position(|name| *name == "FragCreates").unwrap();
    assert_eq!(values[pieces], "0", "pieces were sent");
}
