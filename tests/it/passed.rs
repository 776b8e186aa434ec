//! Sockets that the service manager opened: all of them are read, and one for both families knows
//! its clients as two would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use hickory_proto::rr::RecordType;
use socket2::{Domain, Socket, Type};
use tempfile::tempdir;

use crate::floods::{CLIENT, Client, SECRET, asking};
use crate::harness::{Meridian, NODE, PATIENCE, Process, free_port, question, wait_for};

/// What starts Meridian with sockets, such as `tcp@[::]:53 udp@127.0.0.1:53`, as systemd does
/// (`sd_listen_fds(3)`): several may have one address, and those of IPv6 are for both families.
pub(crate) fn passing(sockets: &str) -> Command {
    const PASS: &str = "
import fcntl, os, socket, sys
opened = []
for text in sys.argv[1].split():
    kind, address = text.split('@')
    host, port = address.rsplit(':', 1)
    family = socket.AF_INET6 if '[' in host else socket.AF_INET
    kind = socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM
    one = socket.socket(family, kind)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    one.bind((host.strip('[]'), int(port)))
    if kind == socket.SOCK_STREAM:
        one.listen(100)
    opened.append(fcntl.fcntl(one, fcntl.F_DUPFD, 100))
for row, one in enumerate(opened):
    os.dup2(one, 3 + row)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(opened)))
os.execv(sys.argv[2], sys.argv[2:])
";
    let mut command = Command::new("python3");
    command.args(["-c", PASS, sockets, env!("CARGO_BIN_EXE_meridian")]);
    command
}

const REST: &str = "regions: { here: {} }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services: { web: { names: [www.example.com], regions: { here: 192.0.2.1 } } }
";

/// A connection from `client`, or its end.
struct Connection(TcpStream);

impl Connection {
    fn from(client: &str, server: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).unwrap();
        let client: SocketAddr = format!("{client}:0").parse().unwrap();
        socket.bind(&client.into()).unwrap();
        socket.connect(&server.into()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket.into())
    }

    /// Is a question answered, and the connection not ended?
    fn is_served(&mut self) -> bool {
        let wire = question("www.example.com", RecordType::A, None).to_vec().unwrap();
        let framed = [&u16::try_from(wire.len()).unwrap().to_be_bytes(), &*wire].concat();
        let asked = self.0.write_all(&framed);
        let mut length = [0; 2];
        match asked.and_then(|()| self.0.read_exact(&mut length)) {
            Ok(()) => {
                let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
                self.0.read_exact(&mut answer).unwrap();
                answer.len() > wire.len()
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("nobody accepts it: {error}")
            }
            Err(_) => false,
        }
    }
}

#[test]
fn all_listeners_that_are_passed_are_accepted_from() {
    let at = format!("127.0.0.1:{}", free_port());
    let node = NODE.replacen("127.0.0.1:0", &at, 1);
    let start = passing(&format!("tcp@{at} tcp@{at} udp@{at} udp@{at}"));
    let server = Meridian::start_with(start, tempdir().unwrap(), &format!("{node}{REST}"));
    assert_eq!(server.dns.to_string(), at);
    let is_served = || Connection::from("127.0.0.1", server.dns).is_served();
    // Each from a port of its own: the kernel spreads them among both.
    assert!((0..20).all(|_| is_served()));
    assert_eq!(server.addresses("www.example.com"), ["192.0.2.1"]);
    // So does the server that takes its place.
    let server = server.replaced();
    assert!((0..20).all(|_| Connection::from("127.0.0.1", server.dns).is_served()));
}

#[test]
fn a_second_socket_for_the_pages_is_refused() {
    let folder = tempdir().unwrap();
    let (file, log) = (folder.path().join("meridian.yaml"), folder.path().join("log"));
    let at = format!("127.0.0.1:{}", free_port());
    let http = format!("http: {{ listen: \"{at}\" }}");
    std::fs::write(&file, format!("node: {{ listen: \"127.0.0.1:0\" }}\n{http}\n{REST}")).unwrap();
    let mut command = passing(&format!("tcp@{at} tcp@{at}"));
    command.arg("serve").arg("--config").arg(&file);
    let mut process = Process::start(command.stderr(std::fs::File::create(&log).unwrap()));
    let status = wait_for("its end", || process.ended());
    let told = std::fs::read_to_string(&log).unwrap();
    assert_eq!(status.code(), Some(1), "{told}");
    let expected = format!("cannot listen on {at} (HTTP): 2 sockets of this address were passed");
    assert!(told.contains(&expected), "{told}");
}

/// One that listens by sockets for both families, and where to ask it.
fn serve_both() -> (Meridian, SocketAddr) {
    let port = free_port();
    let node = NODE.replacen("127.0.0.1:0", &format!("[::]:{port}"), 1);
    let start = passing(&format!("tcp@[::]:{port} udp@[::]:{port}"));
    let folder = tempdir().unwrap();
    std::fs::write(folder.path().join("cookies"), SECRET).unwrap();
    let limits = "tcp: { per_client: 2 }\nrate_limit: { same: 1, exempt: [127.3.0.0/16] }\n";
    let server = Meridian::start_with(start, folder, &format!("{node}{REST}{COOKIES}{limits}"));
    (server, ([127, 0, 0, 1], port).into())
}

const COOKIES: &str = "cookies: { secrets: cookies }\n";

#[test]
fn each_ipv4_address_is_one_client_by_a_listener_of_both_families() {
    let (_server, there) = serve_both();
    let mut held = [(); 2].map(|()| Connection::from("127.0.0.1", there));
    assert!(held.iter_mut().all(Connection::is_served));
    assert!(!Connection::from("127.0.0.1", there).is_served(), "a third of one client");
    assert!(Connection::from("127.0.0.2", there).is_served(), "another client");
}

#[test]
fn networks_of_ipv4_are_exempt_by_a_socket_of_both_families() {
    let (_server, there) = serve_both();
    let exempt = Client::at("127.3.0.1", there);
    let asked = asking("www.example.com", b"");
    assert!((0..50).all(|_| !exempt.ask(&asked).answers.is_empty()));
}

/// RFC 9018 §4.4: a cookie is made of the four octets of an IPv4 address, at whatever server.
#[test]
fn cookies_of_ipv4_are_good_by_a_socket_of_both_families() {
    let (_server, there) = serve_both();
    let folder = tempdir().unwrap();
    std::fs::write(folder.path().join("cookies"), SECRET).unwrap();
    let other = Meridian::serve_in(folder, &format!("{REST}{COOKIES}"));
    let ask = |server, cookie: &[u8]| {
        let asked = asking("www.example.com", cookie);
        crate::floods::cookie(&Client::at("127.3.0.1", server).ask(&asked))
    };
    let baked = ask(other.dns, CLIENT);
    assert_eq!(baked.len(), 24);
    assert_eq!(ask(there, &baked), baked);
}
