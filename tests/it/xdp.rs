//! Queries that go past the kernel's stack, over a pair of virtual interfaces between two hosts of
//! the test's own. It needs to be root, as everything does that makes hosts.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use hickory_proto::rr::RecordType;

use crate::harness::{Asking, Meridian, ask, data, meridian, wait_for, wait_until};
use crate::host::{Host, ip};

const CONFIG: &str =
    "node: { listen: [\"0.0.0.0:53\", \"[::]:53\", \"xdp:INTERFACE\"], state: state }
http: { listen: \"V4:8053\" }
regions: { us: { at: [39, -77] }, eu: { at: [53, -6] } }
zones: { example.com: { ns: [ns1.example.com, ns2.example.com] } }
services:
  web:
    names: [www.example.com]
    regions: { us: [192.0.2.10, \"2001:db8::10\"], eu: [192.0.2.20, \"2001:db8::20\"] }
";

const DUBLIN: &str = "134.226.1.0/24";

fn serve(host: &Host, interface: &str) -> Meridian {
    let config = CONFIG.replace("INTERFACE", interface).replace("V4", &host.v4().to_string());
    let command = host.inside(env!("CARGO_BIN_EXE_meridian"));
    Meridian::start_with(command, tempfile::tempdir().unwrap(), &config)
}

/// How many packets went past the stack.
fn past(server: &Meridian) -> f64 {
    server.metric("meridian_xdp_total{interface=\"here\"}")
}

#[test]
fn queries_go_past_the_stack_and_all_else_does_not() {
    let host = Host::new(201);
    let server = serve(&host, "here");
    wait_for("the program", || (server.logged("AF_XDP") > 0).then_some(()));
    let v4 = SocketAddr::from((host.v4(), 53));
    let asked = |to, rtype, client| data(&ask(to, "www.example.com", rtype, client));
    assert_eq!(asked(v4, RecordType::A, Some(DUBLIN)), ["192.0.2.20"]);
    assert_eq!(asked(v4, RecordType::AAAA, None), ["2001:db8::10"]);
    assert_eq!(asked(host.v6(), RecordType::A, Some(DUBLIN)), ["192.0.2.20"]);
    wait_until(&3.0, || past(&server));
    // Another address that is served, another port, TCP, and what is no query at all.
    ip(&format!("-n {} addr add 10.{}.0.9/24 dev here", host.name, host.network));
    let later = SocketAddr::from((Ipv4Addr::new(10, host.network, 0, 9), 53));
    assert_eq!(asked(later, RecordType::A, Some(DUBLIN)), ["192.0.2.20"]);
    assert!(TcpStream::connect(v4).is_ok());
    let elsewhere = UdpSocket::bind("0.0.0.0:0").unwrap();
    elsewhere.connect((host.v4(), 54)).unwrap();
    elsewhere.send(&[0; 40]).unwrap();
    assert!(elsewhere.recv(&mut [0; 1]).is_err(), "the host says that nobody is there");
    assert_eq!(past(&server), 3.0);
    // Rubbish of every length comes through, and nothing comes of it.
    let rubbish = UdpSocket::bind("0.0.0.0:0").unwrap();
    (0..600).for_each(|length| drop(rubbish.send_to(&vec![0xff; length], v4)));
    wait_until(&603.0, || past(&server));
    assert_eq!(asked(v4, RecordType::A, Some(DUBLIN)), ["192.0.2.20"]);
}

#[test]
fn no_query_is_lost_when_it_is_taken_over() {
    let host = Host::new(202);
    let mut server = serve(&host, "here");
    // A driver may lose a packet when its first program comes.
    wait_for("the program", || (server.logged("AF_XDP") > 0).then_some(()));
    let v4 = SocketAddr::from((host.v4(), 53));
    let asking: Vec<Asking> = (0..3).map(|_| Asking::over_udp(v4, "www.example.com")).collect();
    for _ in 0..2 {
        wait_for("queries", || (past(&server) > 1000.0).then_some(()));
        let next = host.inside(env!("CARGO_BIN_EXE_meridian"));
        server = server.replaced_by(next);
    }
    wait_for("queries", || (past(&server) > 1000.0).then_some(()));
    asking.into_iter().for_each(|asking| assert!(asking.none_lost() > 0));
}

#[test]
fn where_it_cannot_be_had_the_sockets_answer() {
    let host = Host::new(203);
    let server = serve(&host, "nowhere");
    wait_for("a warning", || (server.logged("no AF_XDP") > 0).then_some(()));
    let v4 = SocketAddr::from((host.v4(), 53));
    let answer = ask(v4, "www.example.com", RecordType::A, Some(DUBLIN));
    assert_eq!(data(&answer), ["192.0.2.20"]);
    assert_eq!(past(&server), 0.0);
    let wrong = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(wrong.path(), CONFIG.replace("INTERFACE", "../eth0")).unwrap();
    let output = meridian(&["check", wrong.path().to_str().unwrap()]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("such as xdp:eth0"), "{told}");
}
