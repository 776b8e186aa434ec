//! Sockets that the service manager opened: all of them are read.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use hickory_proto::rr::RecordType;
use socket2::{Domain, Socket, Type};
use tempfile::tempdir;

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
zones: { example.com: { ns: [ns1.example.com, ns2.example.com] } }
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
