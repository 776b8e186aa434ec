//! Queries that go past the kernel's stack, over a pair of virtual interfaces between two hosts of
//! the test's own. It needs to be root, as everything does that makes hosts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use hickory_proto::rr::RecordType;
use socket2::{Domain, Protocol, Socket, Type};

use crate::harness::{
    Asking, Meridian, PATIENCE, ask, data, meridian, question, wait_for, wait_until,
};
use crate::host::{Host, ip, there};

const CONFIG: &str =
    "node: { listen: [\"0.0.0.0:53\", \"[::]:53\", \"xdp:INTERFACE\"], state: state }
http: { listen: \"V4:8053\" }
regions: { us: { at: [39, -77] }, eu: { at: [53, -6] } }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
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
    host.ip(&format!("addr add 10.{}.0.9/24 dev here", host.network));
    let later = SocketAddr::from((Ipv4Addr::new(10, host.network, 0, 9), 53));
    assert_eq!(asked(later, RecordType::A, Some(DUBLIN)), ["192.0.2.20"]);
    assert!(TcpStream::connect(v4).is_ok());
    let elsewhere = UdpSocket::bind("0.0.0.0:0").unwrap();
    elsewhere.set_read_timeout(Some(PATIENCE)).unwrap();
    elsewhere.connect((host.v4(), 54)).unwrap();
    elsewhere.send(&[0; 40]).unwrap();
    assert!(elsewhere.recv(&mut [0; 1]).is_err(), "the host says that nobody is there");
    assert_eq!(past(&server), 3.0);
    // Rubbish of every length comes through, and nothing comes of it.
    let rubbish = UdpSocket::bind("0.0.0.0:0").unwrap();
    for hundred in 0..6 {
        // A pair of virtual interfaces has room for 256 at a time.
        (0..100).for_each(|row| drop(rubbish.send_to(&vec![0xff; hundred * 100 + row], v4)));
        wait_until(&(103.0 + 100.0 * hundred as f64), || past(&server));
    }
    assert_eq!(asked(v4, RecordType::A, Some(DUBLIN)), ["192.0.2.20"]);
}

/// Has what this host sends to that one go to this MAC address.
fn send_to_mac(host: &Host, mac: &str) {
    let there = there(host.network);
    ip(&format!("neigh replace {} lladdr {mac} dev {there} nud permanent", host.v4()));
}

#[test]
fn frames_for_others_are_left_to_the_kernel() {
    let host = Host::new(205);
    let server = serve(&host, "here");
    wait_for("the program", || (server.logged("AF_XDP") > 0).then_some(()));
    let own = host.inside("cat").arg("/sys/class/net/here/address").output().unwrap();
    let own = String::from_utf8(own.stdout).unwrap();
    let v4 = SocketAddr::from((host.v4(), 53));
    // One that is for all goes on to the kernel, which lets the sockets have it.
    send_to_mac(&host, "ff:ff:ff:ff:ff:ff");
    let answer = ask(v4, "www.example.com", RecordType::A, Some(DUBLIN));
    assert_eq!(data(&answer), ["192.0.2.20"]);
    send_to_mac(&host, own.trim());
    assert_eq!(past(&server), 0.0);
    // One for another host is answered by nobody: what comes is for the query behind it.
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    client.connect(v4).unwrap();
    // Each octet counts.
    let others = (0..6).map(|at| {
        let mut other: Vec<&str> = own.trim().split(':').collect();
        other[at] = if other[at] == "42" { "46" } else { "42" };
        other.join(":")
    });
    let queries = [(); 7].map(|()| question("www.example.com", RecordType::A, None));
    for (mac, query) in others.chain([own.trim().to_owned()]).zip(&queries) {
        send_to_mac(&host, &mac);
        client.send(&query.to_vec().unwrap()).unwrap();
    }
    let mut answer = [0; 512];
    client.recv(&mut answer).unwrap();
    assert_eq!(answer[..2], queries[6].metadata.id.to_be_bytes());
    wait_until(&1.0, || past(&server));
}

/// Sends a query to `to`, as if from `from`.
fn send_as(from: &str, to: SocketAddr) {
    let query = question("www.example.com", RecordType::A, None).to_vec().unwrap();
    let length = u16::try_from(query.len() + 8).unwrap().to_be_bytes();
    let udp = [&[0xff, 0xff, 0, 53], &length[..], &[0, 0], &query].concat();
    let (domain, packet) = match (from.parse().unwrap(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(udp.len() + 20).unwrap().to_be_bytes();
            let fixed = [0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, 17, 0, 0];
            (Domain::IPV4, [&fixed, &from.octets()[..], &to.octets(), &udp].concat())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let fixed = [0x60, 0, 0, 0, length[0], length[1], 17, 64];
            (Domain::IPV6, [&fixed, &from.octets()[..], &to.octets(), &udp].concat())
        }
        _ => panic!("{from} and {to} are not of one family"),
    };
    // The protocol whose packets bring their own header.
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(255))).unwrap();
    socket.send_to(&packet, &SocketAddr::new(to.ip(), 0).into()).unwrap();
}

#[test]
fn senders_that_cannot_be_are_left_to_the_kernel() {
    let host = Host::new(206);
    let server = serve(&host, "here");
    wait_for("the program", || (server.logged("AF_XDP") > 0).then_some(()));
    let v4 = SocketAddr::from((host.v4(), 53));
    for from in ["0.0.0.1", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"] {
        send_as(from, v4);
    }
    for from in ["::", "::1", "::ffff:10.206.0.2", "ff02::1"] {
        send_as(from, host.v6());
    }
    let own = format!("fd{:02x}::2", host.network);
    [("10.206.0.2", v4), (&own, host.v6())].into_iter().for_each(|(from, to)| send_as(from, to));
    ask(v4, "www.example.com", RecordType::A, None);
    wait_until(&3.0, || past(&server));
}

#[test]
fn addresses_of_other_interfaces_are_left_to_the_kernel() {
    let host = Host::new(207);
    // A service's address, as anycast has it, and one that another interface has.
    host.ip("addr add 10.207.1.1/32 dev lo");
    host.ip("link add other type bridge");
    host.ip("addr add 10.207.2.1/32 dev other");
    host.ip("link set other up");
    [1, 2].iter().for_each(|net| ip(&format!("route add 10.207.{net}.1/32 via {}", host.v4())));
    let server = serve(&host, "here");
    wait_for("the program", || (server.logged("AF_XDP") > 0).then_some(()));
    let asked = |to| ask((to, 53).into(), "www.example.com", RecordType::A, Some(DUBLIN));
    for (net, count) in [(2, 0.0), (1, 1.0)] {
        assert_eq!(data(&asked(Ipv4Addr::new(10, 207, net, 1))), ["192.0.2.20"]);
        wait_until(&count, || past(&server));
    }
}

#[test]
fn the_loopback_can_be_asked_too() {
    let host = Host::new(209);
    let server = serve(&host, "lo");
    wait_for("the program", || (server.logged("AF_XDP") > 0).then_some(()));
    // What the kernel would drop the answers to comes by the sockets.
    let rows = ["127.0.0.1:53", "[::1]:53", "10.209.0.1:53", "[fdd1::1]:53"];
    for (to, count) in rows.into_iter().zip([0.0, 1.0, 1.0, 2.0]) {
        let to = to.parse().unwrap();
        let answer = host.within(|| ask(to, "www.example.com", RecordType::A, Some(DUBLIN)));
        assert_eq!(data(&answer), ["192.0.2.20"]);
        assert_eq!(server.metric("meridian_xdp_total{interface=\"lo\"}"), count, "{to}");
    }
}

#[test]
fn an_interface_with_others_above_it_is_left_to_the_kernel() {
    let host = Host::new(208);
    let asked = || ask((host.v4(), 53).into(), "www.example.com", RecordType::A, Some(DUBLIN));
    // As a VLAN would be, whose tag the NIC may have taken off.
    host.ip("link add vlan100 link here type macvlan");
    let server = serve(&host, "here");
    wait_for("a warning", || (server.logged("no AF_XDP") > 0).then_some(()));
    assert_eq!(server.logged("vlan100"), 1, "the log names it");
    assert_eq!(data(&asked()), ["192.0.2.20"]);
    assert_eq!(past(&server), 0.0);
    drop(server);
    host.ip("link del vlan100");
    let server = serve(&host, "here");
    wait_for("the program", || (server.logged("AF_XDP") > 0).then_some(()));
    asked();
    wait_until(&1.0, || past(&server));
    // It becomes part of a bridge, and that has its address.
    host.ip("link add bridge type bridge");
    host.ip("link set bridge up");
    host.ip("link set here master bridge");
    wait_for("a warning", || (server.logged("no AF_XDP") > 0).then_some(()));
    host.ip("addr del 10.208.0.1/24 dev here");
    host.ip("addr add 10.208.0.1/24 dev bridge");
    assert_eq!(data(&asked()), ["192.0.2.20"]);
    assert_eq!(past(&server), 1.0);
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
