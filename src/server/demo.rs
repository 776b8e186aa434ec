//! The demo's regions: real HTTP servers on loopback, to kill and to revive.
//!
//! Each region has an address of its own in 127.0.0.0/8, as each has one on the Internet, and the
//! probes, the answers and the clients use it as they would there.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::{get, post};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::http::Refusal;
use super::inherited::Inherited;
use super::{StartError, socket};

/// The ports of a demo.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// DNS.
    pub dns: u16,
    /// The dashboard.
    pub http: u16,
    /// The regions' servers.
    pub backend: u16,
}

/// Names, places and addresses of the regions: where large clouds have theirs.
const REGIONS: [(&str, (f64, f64), Ipv4Addr); 4] = [
    ("us-east", (39.04, -77.49), Ipv4Addr::new(127, 0, 0, 11)),
    ("us-west", (45.84, -119.70), Ipv4Addr::new(127, 0, 0, 12)),
    ("eu-west", (53.35, -6.26), Ipv4Addr::new(127, 0, 0, 13)),
    ("ap-southeast", (1.35, 103.82), Ipv4Addr::new(127, 0, 0, 14)),
];

/// Clients on three continents: networks of universities, which stay where they are.
const CLIENTS: [(&str, &str); 3] = [
    ("Princeton, North America", "128.112.128.0/24"),
    ("Dublin, Europe", "134.226.1.0/24"),
    ("Singapore, Asia", "137.132.1.0/24"),
];

/// The configuration of a demo.
pub fn configuration(ports: Ports) -> String {
    let Ports { dns, http, backend } = ports;
    let mut text = format!(
        "node:    {{ name: demo, listen: \"127.0.0.1:{dns}\" }}\n\
         http:    {{ listen: \"127.0.0.1:{http}\", socket: {} }}\n\nregions:\n",
        socket(ports).display()
    );
    // Writing to a string does not fail.
    for (name, (latitude, longitude), _) in REGIONS {
        let _fine = writeln!(text, "  {name}: {{ at: [{latitude}, {longitude}] }}");
    }
    let _fine = write!(
        text,
        "\nchecks:\n  web: {{ http: /healthz, port: {backend}, expect: 200, hold_down: 0s }}\n\n\
         zones:\n  example.com:\n    ns: [ns1.example.com, ns2.example.com]\n    records:\n      \
         ns1: {{ A: 127.0.0.1 }}\n      ns2: {{ A: 127.0.0.1 }}\n\n\
         services:\n  web:\n    names: [www.example.com]\n    steer: nearest\n    check: web\n    \
         ttl: 30s\n    regions:\n"
    );
    for (name, _, address) in REGIONS {
        let _fine = writeln!(text, "      {name}: {address}");
    }
    text
}

/// The demo's Unix socket: for whoever started it.
pub fn socket(ports: Ports) -> PathBuf {
    std::env::temp_dir().join(format!("meridian-demo-{}.sock", ports.http))
}

/// What to type next, where `program` is what was typed to start it.
pub fn guide(ports: Ports, program: &str) -> String {
    let Ports { dns, http, backend } = ports;
    let dig = format!("dig @127.0.0.1 -p {dns} www.example.com +short +subnet=");
    let mut text = format!(
        "Meridian runs, with four regions inside it. Dashboard: http://127.0.0.1:{http}/\n\n\
         Each client gets the nearest region. From another terminal:\n"
    );
    for (place, network) in CLIENTS {
        let _fine = writeln!(text, "  {dig}{network:<18} # {place}");
    }
    text.push_str("\nThe answers are these regions, and each says its name:\n");
    for (name, _, address) in REGIONS {
        let _fine = writeln!(text, "  curl http://{address}:{backend}/   # {name}");
    }
    let [_, (place, network), _] = CLIENTS;
    let client = network.trim_end_matches("/24");
    let port = if http == 8053 { String::new() } else { format!(" --http-port {http}") };
    let server =
        if http == 8053 { String::new() } else { format!(" --server http://127.0.0.1:{http}") };
    let socket = socket(ports);
    let socket = socket.display();
    let _fine = write!(
        text,
        "\nKill the one in Europe, and ask again for {place}: within a second the answer is the \
         next nearest,\nwith a TTL of 30 s. Revive it: after ten good probes, five seconds, it is \
         back.\n  \
         {program} demo{port} kill eu-west      # or `stall`, `fail`; or the buttons of the \
         dashboard\n  \
         {program} demo{port} revive eu-west\n\n\
         Drain it: no new clients, nothing is cut. First ask who would move.\n  \
         {program} ctl drain eu-west --reason trying --dry-run --socket {socket}\n  \
         {program} ctl drain eu-west --reason trying --for 1m --socket {socket}\n\n\
         Why does a client get what it gets?\n  \
         {program} explain www.example.com --from {client}{server}\n  \
         {program} explain www.example.com --from {client} --down eu-west{server}\n\n\
         Ctrl-C ends it."
    );
    text
}

/// What a region's server does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// It answers.
    Well,
    /// It is dead: connections are refused.
    Killed,
    /// It takes requests and never answers.
    Stalled,
    /// It answers 500.
    Failing,
}

/// The regions' servers.
#[derive(Clone)]
pub struct Backends {
    running: Arc<Mutex<HashMap<&'static str, Backend>>>,
}

struct Backend {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Accepts connections, unless it was killed.
    server: Option<JoinHandle<()>>,
}

impl Backends {
    /// Starts a server for each region.
    ///
    /// # Errors
    /// An address cannot be had.
    pub async fn start(ports: Ports) -> Result<Self, StartError> {
        let mut running = HashMap::new();
        for (name, _, ip) in REGIONS {
            let address = SocketAddr::from((ip, ports.backend));
            let mode = watch::Sender::new(Mode::Well);
            let server = Some(serve(name, address, &mode)?);
            running.insert(name, Backend { address, mode, server });
        }
        Ok(Self { running: Arc::new(Mutex::new(running)) })
    }

    /// `/api/v1/demo`: how the regions are, and what to do to them.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/api/v1/demo", get(modes))
            .route("/api/v1/demo/{region}/{action}", post(change))
            .with_state(self.clone())
    }

    fn change(&self, region: &str, mode: Mode) -> Result<(), Refusal> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((name, backend)) = running.iter_mut().find(|(name, _)| **name == region) else {
            let known = REGIONS.map(|(name, ..)| name).join(", ");
            return Err(Refusal::bad(format!("no region `{region}`; there are: {known}")));
        };
        // Before the new mode is set, which the connections that are open hear of.
        if mode == Mode::Killed {
            if let Some(server) = backend.server.take() {
                server.abort();
            }
        } else if backend.server.is_none() {
            let server = serve(name, backend.address, &backend.mode);
            backend.server = Some(server.map_err(|error| Refusal::bad(error.to_string()))?);
        }
        backend.mode.send_replace(mode);
        Ok(())
    }
}

/// Serves one region until it is aborted. Its connections end when it is killed.
fn serve(
    name: &'static str,
    address: SocketAddr,
    mode: &watch::Sender<Mode>,
) -> Result<JoinHandle<()>, StartError> {
    let listeners = socket::tcp(address, &mut Inherited::default());
    let only = listeners.and_then(|all| socket::only(address, "TCP", all));
    let only = only.map_err(|error| StartError::Bind("--backend-port", error))?;
    let listener = TcpListener::from_std(only)?;
    let answer = move |State(mode): State<watch::Receiver<Mode>>| async move {
        let mode = *mode.borrow();
        match mode {
            Mode::Well => (StatusCode::OK, format!("{name}\n")),
            Mode::Failing => (StatusCode::INTERNAL_SERVER_ERROR, format!("{name} fails\n")),
            Mode::Stalled | Mode::Killed => pending().await,
        }
    };
    let router = Router::new().fallback(get(answer)).with_state(mode.subscribe());
    Ok(tokio::spawn(async move {
        // It ends by being aborted.
        let _ended = axum::serve(listener, router).await;
    }))
}

async fn modes(State(backends): State<Backends>) -> Json<Vec<(&'static str, Mode)>> {
    let running = backends.running.lock().unwrap_or_else(PoisonError::into_inner);
    let modes = REGIONS.iter().filter_map(|(name, ..)| {
        let backend = running.get(name)?;
        Some((*name, *backend.mode.borrow()))
    });
    Json(modes.collect())
}

async fn change(
    State(backends): State<Backends>,
    Path((region, action)): Path<(String, String)>,
) -> Result<Json<Mode>, Refusal> {
    let mode = match action.as_str() {
        "kill" => Mode::Killed,
        "stall" => Mode::Stalled,
        "fail" => Mode::Failing,
        "revive" => Mode::Well,
        _ => {
            let known = "kill, stall, fail, revive";
            return Err(Refusal::bad(format!("no action `{action}`; there are: {known}")));
        }
    };
    backends.change(&region, mode)?;
    Ok(Json(mode))
}
