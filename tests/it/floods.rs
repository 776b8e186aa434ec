//! Questions with forged addresses: cookies tell who is who, and nobody else gets too much.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use tempfile::TempDir;

use crate::harness::{
    Meridian, PATIENCE, Process, data, free_port, question, wait_for, wait_until,
};

pub(crate) const SECRET: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";

const NEWER: &str = "445536bcd2513298075a5d379663c962";

pub(crate) const CLIENT: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 8];

/// So many names of which each is asked for once at most.
const ENDS: u16 = 256;

fn serve(more: &str) -> Meridian {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cookies"), format!("{SECRET}\n")).unwrap();
    Meridian::serve_in(folder, &config(more))
}

fn config(more: &str) -> String {
    let ends = (0..ENDS).map(|row| format!("e{row}: {{ A: 192.0.2.2 }}"));
    let ends = ends.collect::<Vec<_>>().join(", ");
    format!(
        "regions: {{ here: {{}} }}
zones:
  example.com:
    ns: [ns1.example.net, ns2.example.net]
    records: {{ sub: {{ NS: ns.sub.example.com }}, alias: {{ CNAME: www.example.net }}, {ends} }}
services:
  web: {{ names: [www.example.com, \"*.wild.example.com\"], steer: failover, order: [here], \
         regions: {{ here: [192.0.2.1] }} }}
{more}"
    )
}

/// A question with this cookie; none if it is empty.
pub(crate) fn asking(name: &str, cookie: &[u8]) -> Message {
    let mut message = question(name, RecordType::A, Some("0.0.0.0/0"));
    let edns = message.edns.as_mut().unwrap();
    edns.options_mut().remove(EdnsCode::Subnet);
    if !cookie.is_empty() {
        edns.options_mut().insert(EdnsOption::Unknown(10, cookie.to_vec()));
    }
    message
}

/// The cookie in an answer.
pub(crate) fn cookie(answer: &Message) -> Vec<u8> {
    match answer.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Cookie)) {
        Some(EdnsOption::Unknown(_, octets)) => octets.clone(),
        _ => Vec::new(),
    }
}

/// A client at this address, which speaks with one server.
pub(crate) struct Client(UdpSocket);

impl Client {
    pub(crate) fn at(address: &str, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(server).unwrap();
        Self(socket)
    }

    fn receive(&self) -> Message {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    pub(crate) fn ask(&self, message: &Message) -> Message {
        self.0.send(&message.to_vec().unwrap()).unwrap();
        self.receive()
    }

    /// What comes back to all of these, sent at once, but for silence.
    fn ask_all(&self, messages: impl Iterator<Item = Message>) -> Vec<Message> {
        for message in messages {
            self.0.send(&message.to_vec().unwrap()).unwrap();
        }
        // A socket's packets come to one worker in their order. The last is for a name that nobody
        // has asked for, so that no limit is reached.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let unasked = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(unasked < ENDS);
        let last = question(&format!("e{unasked}.example.com"), RecordType::A, None);
        self.0.send(&last.to_vec().unwrap()).unwrap();
        let others = std::iter::from_fn(|| {
            let answer = self.receive();
            (answer.metadata.id != last.metadata.id).then_some(answer)
        });
        others.collect()
    }
}

#[test]
fn a_cookie_is_good_at_every_server_with_the_secret_until_it_is_rolled_over() {
    let server = serve("cookies: { secrets: cookies }\n");
    let client = Client::at("127.0.0.1", server.dns);
    assert_eq!(cookie(&client.ask(&asking("www.example.com", b""))), b"");
    let baked = cookie(&client.ask(&asking("www.example.com", CLIENT)));
    assert_eq!((baked.len(), &baked[..8]), (24, CLIENT));
    assert_eq!(cookie(&client.ask(&asking("nope.example.com", &baked))), baked, "it is ours");
    let malformed = client.ask(&asking("www.example.com", &baked[..9]));
    assert_eq!(malformed.metadata.response_code, ResponseCode::FormErr);

    // Another server that knows the secret, and answers nobody who has no cookie.
    let (bind, _process, _folder) = bind();
    let other = Client::at("127.0.0.1", bind);
    let bare = wait_for("BIND", || {
        let answer = other.ask(&asking("example.com", CLIENT));
        (answer.metadata.response_code != ResponseCode::ServFail).then_some(answer)
    });
    assert_eq!(bare.metadata.response_code, ResponseCode::BADCOOKIE);
    let known = other.ask(&asking("example.com", &baked));
    assert_eq!(known.metadata.response_code, ResponseCode::NoError, "baked here");
    let theirs = cookie(&bare);
    assert_eq!(cookie(&client.ask(&asking("www.example.com", &theirs))), theirs, "baked there");

    // A newer secret bakes, the older one still proves.
    server.write("cookies", format!("{NEWER}\n{SECRET}\n").as_bytes());
    let rebaked = || cookie(&client.ask(&asking("www.example.com", &baked)));
    wait_until(&true, || rebaked() != baked);
    let newer = rebaked();
    assert_eq!(cookie(&client.ask(&asking("www.example.com", &newer))), newer);
    server.write("cookies", b"no secret\n");
    wait_until(&1.0, || server.metric("meridian_reload_refused{what=\"configuration\"}"));
    assert_eq!(cookie(&client.ask(&asking("www.example.com", &newer))), newer, "the last good one");
}

/// BIND with the secret.
fn bind() -> (SocketAddr, Process, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (port, path) = (free_port(), folder.path().display());
    let zone =
        "$TTL 60\n@ SOA ns1 hostmaster 1 1 1 1 1\n@ NS ns1\nns1 A 192.0.2.53\n@ A 192.0.2.9\n";
    std::fs::write(folder.path().join("zone"), zone).unwrap();
    let config = format!(
        "options {{ directory \"{path}\"; listen-on port {port} {{ 127.0.0.1; }};
  listen-on-v6 {{ none; }}; recursion no; dnssec-validation no; pid-file none; session-keyfile none;
  cookie-algorithm siphash24; cookie-secret \"{SECRET}\"; require-server-cookie yes; }};
controls {{ }};
zone \"example.com\" {{ type primary; file \"zone\"; }};\n"
    );
    let file = folder.path().join("named.conf");
    std::fs::write(&file, config).unwrap();
    let process = Process::start(Command::new("named").arg("-g").arg("-c").arg(file));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
    let query = question("example.com", RecordType::A, None).to_vec().unwrap();
    wait_for("BIND", || {
        socket.send_to(&query, address).ok()?;
        socket.recv(&mut [0; 512]).ok()
    });
    (address, process, folder)
}

#[test]
fn who_asks_too_much_gets_less_unless_its_address_is_its_own() {
    let server = serve("rate_limit: { same: 5, exempt: [127.3.0.0/16] }\n");
    let client = Client::at("127.1.1.1", server.dns);
    let many = |client: &Client, name: &dyn Fn(usize) -> String, cookie: &[u8]| {
        let answers = client.ask_all((0..100).map(|row| asking(&name(row), cookie)));
        let whole = answers.iter().filter(|answer| {
            !answer.metadata.truncation
                && matches!(
                    answer.metadata.response_code,
                    ResponseCode::NoError | ResponseCode::NXDomain
                )
        });
        let cut = answers.iter().filter(|answer| answer.metadata.truncation);
        assert!(cut.clone().all(|answer| data(answer).is_empty()));
        let told = answers.iter().filter(|a| a.metadata.response_code == ResponseCode::BADCOOKIE);
        [whole.count(), cut.count(), told.count()]
    };
    let www = |_| "www.example.com".to_owned();
    // Some more than five, if the hundred took longer than a fifth of a second.
    let [whole, cut, told] = many(&client, &www, b"");
    assert!((5..50).contains(&whole) && (25..=48).contains(&cut) && told == 0, "{whole} {cut}");
    // What does not exist counts as one, and so does what a wildcard stands for.
    let [whole, cut, _] = many(&client, &|row| format!("x{row}.example.com"), b"");
    assert!((5..50).contains(&whole) && cut > 0, "{whole} {cut}");
    let [whole, cut, _] = many(&client, &|row| format!("x{row}.wild.example.com"), b"");
    assert!((5..50).contains(&whole) && cut > 0, "{whole} {cut}");
    // Nor does it help to ask for something else at a name each time.
    let of_types = |name: &str| {
        let types = (0..100).map(|row| RecordType::Unknown(65_280 + row));
        let answers = client.ask_all(types.map(|rtype| {
            let mut message = asking(name, b"");
            message.queries[0].set_query_type(rtype);
            message
        }));
        answers.iter().filter(|answer| !answer.metadata.truncation).count()
    };
    for name in ["y.example.com", "e255.example.com", "sub.example.com", "alias.example.com"] {
        let whole = of_types(name);
        assert!(whole < 50, "{name}: {whole}");
    }
    // Others are not held liable.
    assert_eq!(many(&Client::at("127.3.1.1", server.dns), &www, b""), [100, 0, 0], "exempt");
    let [whole, ..] = many(&Client::at("127.2.1.1", server.dns), &www, b"");
    assert!(whole >= 5, "{whole}");

    // With a cookie of its own it is told to use ours, and then there is no limit.
    let baked = wait_for("a cookie", || {
        let answers = client.ask_all((0..4).map(|row| asking(&www(row), CLIENT)));
        answers.iter().map(cookie).find(|cookie| !cookie.is_empty())
    });
    let [_, cut, told] = many(&client, &www, CLIENT);
    assert!(cut == 0 && told > 0, "{cut} {told}");
    assert_eq!(many(&client, &www, &baked), [100, 0, 0]);
    let stolen = many(&Client::at("127.1.1.2", server.dns), &www, &baked);
    assert!(stolen[0] < 50, "a cookie is good at its own address: {stolen:?}");
    for how in ["dropped", "ask_again"] {
        let name = format!("meridian_limited_total{{how=\"{how}\"}}");
        wait_until(&true, || server.metric(&name) > 20.0);
    }
}
