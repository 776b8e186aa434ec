//! `node`, `tcp`, `tls` and `http`: this node, and where it listens.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::LONGEST;
use super::defaults;
use super::places::Regions;
use super::read::{At, Problems, addresses};
use crate::ids::RegionId;
use crate::snapshot::Identity;

/// This node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// What operators call it.
    pub name: String,
    /// The region that it stands in.
    pub region: Option<RegionId>,
    /// Where it answers over UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Interfaces by which queries for these addresses come past the kernel's stack (AF_XDP).
    pub xdp: Vec<String>,
    /// Threads that answer over UDP on each address; `None`: one a core.
    pub workers: Option<usize>,
    /// Whether each of them stays on a core of its own.
    pub pin: bool,
    /// Whether they read and write by `io_uring`, where the kernel has it.
    pub io_uring: bool,
    /// Octets that the kernel is asked to keep for each of their sockets, each way.
    pub buffer: usize,
    /// How long the first verdicts are waited for.
    pub ready_within: Duration,
    /// The folder for what outlives the process; `None`: nothing does.
    pub state: Option<PathBuf>,
    /// How old the last state may be, at a start, to be believed until the probes say otherwise.
    pub believe_state_for: Duration,
    /// What TCP clients may take.
    pub tcp: TcpLimits,
    /// Where it answers encrypted, if it does.
    pub encrypted: Option<Encrypted>,
}

/// What TCP clients may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpLimits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one client: an IPv4 address, or an IPv6 /56.
    pub per_client: usize,
    /// How long one may be idle.
    pub idle: Duration,
}

/// Where the node answers encrypted, and as whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encrypted {
    /// A PEM file with the certificate and those above it.
    pub certificate: PathBuf,
    /// A PEM file with its private key.
    pub key: PathBuf,
    /// Addresses for DNS over TLS (RFC 7858).
    pub dot: Vec<SocketAddr>,
    /// Addresses for DNS over HTTPS (RFC 8484).
    pub doh: Vec<SocketAddr>,
    /// Addresses for DNS over QUIC (RFC 9250).
    pub doq: Vec<SocketAddr>,
}

/// What comes before an interface among the addresses.
const XDP: &str = "xdp:";

/// An interface, behind [`XDP`]: its name has at most 15 octets (`IFNAMSIZ`), and is a file's.
fn interface(at: &At<'_>, problems: &mut Problems) -> Option<String> {
    let expected = "xdp: and the name of an interface, such as xdp:eth0";
    let name = at.text(expected, problems)?.strip_prefix(XDP)?;
    let is_name = (1..=15).contains(&name.len()) && !name.contains(['/', ' ', '\0']);
    if !is_name || name.starts_with('.') {
        at.wrong(expected, problems);
        return None;
    }
    Some(name.to_owned())
}

/// `node`: who this is, and what it says of itself.
pub(super) fn read(
    at: Option<At<'_>>,
    name: &str,
    regions: &Regions,
    problems: &mut Problems,
) -> Option<(Node, Identity)> {
    let mut node = Node {
        name: name.to_owned(),
        region: None,
        listen: defaults::LISTEN.iter().filter_map(|address| address.parse().ok()).collect(),
        xdp: Vec::new(),
        workers: None,
        pin: false,
        io_uring: false,
        buffer: defaults::BUFFER,
        ready_within: defaults::READY_WITHIN,
        state: None,
        believe_state_for: defaults::BELIEVE_STATE_FOR,
        tcp: tcp(None, problems),
        encrypted: None,
    };
    let mut identity = Identity::default();
    let Some(at) = at else { return Some((node, identity)) };
    let mut fields = at.fields(problems)?;
    if let Some(name) = fields.get("name").and_then(|at| at.text("a name", problems)) {
        name.clone_into(&mut node.name);
    }
    node.region = fields.get("region").and_then(|at| regions.find(&at, problems));
    if let Some(at) = fields.get("listen") {
        let (interfaces, others): (Vec<_>, Vec<_>) =
            at.list().into_iter().partition(|item| item.is_text_with(XDP));
        node.xdp = interfaces.iter().filter_map(|item| interface(item, problems)).collect();
        node.listen = addresses(&others, problems);
        if node.listen.is_empty() {
            problems.error(at.place(), &at.key, "no address; expected at least one to answer on");
        }
    }
    let workers = fields.get("workers").and_then(|at| at.number(1, 1024, problems));
    node.workers = workers.and_then(|workers| usize::try_from(workers).ok());
    node.pin = fields.get("pin").and_then(|at| at.boolean(problems)).unwrap_or(node.pin);
    let io_uring = fields.get("io_uring").and_then(|at| at.boolean(problems));
    node.io_uring = io_uring.unwrap_or(node.io_uring);
    let buffer = fields.get("buffer").and_then(|at| at.number(4096, 1 << 30, problems));
    node.buffer = buffer.and_then(|octets| usize::try_from(octets).ok()).unwrap_or(node.buffer);
    if let Some(at) = fields.get("ready_within") {
        node.ready_within =
            at.duration(Duration::ZERO, LONGEST, problems).unwrap_or(node.ready_within);
    }
    let state = fields.get("state").and_then(|at| at.text("the path of a folder", problems));
    node.state = state.map(PathBuf::from);
    if let Some(at) = fields.get("believe_state_for") {
        let age = at.duration(Duration::ZERO, LONGEST, problems);
        node.believe_state_for = age.unwrap_or(node.believe_state_for);
    }
    let mut own_text = |key| {
        let at = fields.get(key)?;
        let text = at.text("a text", problems)?;
        // A character string has at most 255 octets (RFC 1035 §3.3).
        if text.len() > 255 {
            problems.error(at.place(), &at.key, "longer than 255 octets");
        }
        Some(text.to_owned())
    };
    identity.nsid = own_text("nsid").map(String::into_bytes);
    identity.version = own_text("version");
    identity.id_server = own_text("id_server");
    fields.done(problems);
    Some((node, identity))
}

/// `tcp`: what clients may take.
pub(super) fn tcp(at: Option<At<'_>>, problems: &mut Problems) -> TcpLimits {
    let mut limits = TcpLimits {
        connections: defaults::TCP_CONNECTIONS,
        per_client: defaults::TCP_PER_CLIENT,
        idle: defaults::TCP_IDLE,
    };
    let Some(mut fields) = at.and_then(|at| at.fields(problems)) else { return limits };
    let mut count = |key, limit: &mut usize| {
        let number = fields.get(key).and_then(|at| at.number(1, 1_000_000, problems));
        *limit = number.and_then(|number| usize::try_from(number).ok()).unwrap_or(*limit);
    };
    count("connections", &mut limits.connections);
    count("per_client", &mut limits.per_client);
    if let Some(at) = fields.get("idle") {
        limits.idle =
            at.duration(Duration::from_millis(100), LONGEST, problems).unwrap_or(limits.idle);
    }
    fields.done(problems);
    limits
}

/// `tls`: where the node answers encrypted.
pub(super) fn encrypted(
    at: Option<At<'_>>,
    http: &Http,
    problems: &mut Problems,
) -> Option<Encrypted> {
    if at.is_none() && http.tls {
        let at = super::problem::Place { line: 1, column: 1 };
        let what = "HTTP is to speak TLS, and there is no certificate; expected `tls` with one";
        problems.error(at, "http.tls", what);
    }
    let at = at?;
    let mut fields = at.fields(problems)?;
    let certificate = fields.need("certificate", problems);
    let key = fields.need("key", problems);
    let mut listen = |key| fields.get(key).map(|at| at.listen(problems)).unwrap_or_default();
    let (dot, doh, doq) = (listen("dot"), listen("doh"), listen("doq"));
    fields.done(problems);
    if dot.is_empty() && doh.is_empty() && doq.is_empty() && !http.tls {
        let what = "no address to answer on; expected one under `dot`, `doh` or `doq`";
        problems.error(at.place(), &at.key, what);
    }
    let mut path = |at: Option<At<'_>>| at?.path("the path of a PEM file", problems);
    Some(Encrypted { certificate: path(certificate)?, key: path(key)?, dot, doh, doq })
}

/// Where the dashboard, the API and the metrics are, and who may use them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Http {
    /// The address; `None`: not over the network.
    pub listen: Option<SocketAddr>,
    /// Whether that address speaks TLS, with the certificate of `tls`.
    pub tls: bool,
    /// A Unix socket; who may open it may do everything.
    pub socket: Option<PathBuf>,
    /// The file of tokens, by which changes are made over the network.
    pub tokens: Option<PathBuf>,
    /// Whether reading needs no token.
    pub open: bool,
}

/// `http`: where the dashboard, the API and the metrics are.
pub(super) fn http(at: Option<At<'_>>, problems: &mut Problems) -> Http {
    let listen = defaults::HTTP_LISTEN.parse().ok();
    let mut http = Http { listen, open: true, ..Http::default() };
    let Some(at) = at else { return http };
    if matches!(&at.node.value, super::yaml::Value::Text(text) if text == "off") {
        return Http::default();
    }
    let Some(mut fields) = at.fields(problems) else { return http };
    if let Some(at) = fields.get("listen") {
        let is_off = matches!(&at.node.value, super::yaml::Value::Text(text) if text == "off");
        let expected = "an address and a port, such as 127.0.0.1:8053, or off";
        http.listen = if is_off { None } else { at.parsed(expected, problems) };
    }
    http.tls = fields.get("tls").and_then(|at| at.boolean(problems)).unwrap_or(false);
    let socket = fields.get("socket").and_then(|at| at.text("the path of a socket", problems));
    http.socket = socket.map(PathBuf::from);
    http.tokens = fields.get("tokens").and_then(|at| at.path("the path of a file", problems));
    if let Some(at) = fields.get("read") {
        match at.text("open or token", problems) {
            Some("open") | None => {}
            Some("token") => http.open = false,
            Some(given) => {
                problems.unknown((at.place(), &at.key), ("way to read", given), ["open", "token"]);
            }
        }
        if !http.open && http.tokens.is_none() {
            let what = "reading needs a token, and there is no file of them; expected `tokens`";
            problems.error(at.place(), &at.key, what);
        }
    }
    fields.done(problems);
    http
}
